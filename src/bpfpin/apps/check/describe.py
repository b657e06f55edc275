"""An object's description in the words of a report; of the kernel only its types are asked."""

from __future__ import annotations

import contextlib
from typing import Any

from bpfpin.apps.check.report import (
    CheckedExtern,
    CheckedMap,
    CheckedRelocation,
    CheckedVariable,
)
from bpfpin.btf.c_source import c_type
from bpfpin.codecs.variable import VariableSpec
from bpfpin.errors import BpfError
from bpfpin.objects import core, externs
from bpfpin.spec import MapSpec, ObjectSpec, Pinning
from bpfpin.uapi import MapFlag

MAX_VALUE_BYTES = 4096  # of one variable; longer ones are shown without


def dialects(spec: ObjectSpec) -> tuple[str, ...]:
    """Return how its maps are defined, each way once."""
    return tuple(dict.fromkeys(each.dialect.value for each in spec.maps.values()))


def checked_map(spec: MapSpec) -> CheckedMap:
    """Describe a map, and those it holds."""
    key, value = (c_type(ref) if ref else "" for ref in (spec.key, spec.value))
    return CheckedMap(
        name=spec.name,
        type=spec.type.name.lower(),
        dialect=spec.dialect.value,
        key_size=spec.key_size,
        value_size=spec.value_size,
        max_entries=spec.max_entries,
        key_type=key,
        value_type=value,
        pinning=_pinning(spec),
        flags=_flags(spec.map_flags),
        inner=checked_map(spec.inner) if spec.inner else None,
    )


def _pinning(spec: MapSpec) -> str:
    word = spec.pinning.name.lower()
    return f"{word} {spec.pinning_id}" if spec.pinning is Pinning.UNKNOWN else word


def asked_at_load(spec: ObjectSpec) -> tuple[str, ...]:
    """Return a word on each map whose pinning `load` asks about."""
    return tuple(
        f"map {name}: pinning {each.pinning_id} has no meaning here; load asks for --pinning"
        f" {name}=none or --pinning {name}=by-name"
        for name, each in spec.maps.items()
        if each.pinning is Pinning.UNKNOWN
    )


def _flags(flags: int) -> tuple[str, ...]:
    known = [each for each in MapFlag if flags & each]
    left = flags & ~sum(known)
    return (*(each.name.lower() for each in known if each.name), *([hex(left)] if left else []))


def checked_variables(spec: ObjectSpec) -> tuple[CheckedVariable, ...]:
    """Describe the global variables, static ones too."""
    return tuple(
        CheckedVariable(name, each.section, each.type_name, each.size, _value(each))
        for name, each in spec.variables.items()
    )


def _value(variable: VariableSpec) -> Any:
    if variable.size > MAX_VALUE_BYTES:
        return None
    with contextlib.suppress(BpfError, ValueError):  # types that no value can be read by
        return variable.value
    return None


def checked_relocations(spec: ObjectSpec) -> tuple[CheckedRelocation, ...]:
    """Describe what CO-RE asks for; nothing where that is what every program is refused for."""
    try:
        _, found = core.fitted(spec)
    except BpfError:
        return ()
    return tuple(
        CheckedRelocation(each.place, each.question, each.value, each.is_poisoned) for each in found
    )


def checked_externs(spec: ObjectSpec) -> tuple[CheckedExtern, ...]:
    """Describe what the object takes from the running kernel by name."""
    return tuple(
        CheckedExtern(
            name=each.extern.name,
            kind=each.extern.kind.value,
            declaration=each.extern.c_source,
            weak=each.extern.is_weak,
            value=each.text,
            error=each.error,
        )
        for each in externs.resolve(spec)
    )
