"""Global variables that a load gives their first values: `--set NAME=VALUE`."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bpfpin.codecs.variable import VariableSpec, key_of
from bpfpin.errors import BpfError, UsageError
from bpfpin.pins.plan import Decision, MapPlan
from bpfpin.spec import ObjectSpec

_HASH_DIGITS = 16  # the manifest has little room; nobody gains by two settings of one hash

_CONSTANTS = ":constants"  # among sections: no map is called so


@dataclass(frozen=True)
class Settings:
    """Variables that were set, each with its first value; *hashes* tell them by section."""

    variables: tuple[VariableSpec, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)

    def in_section(self, section: str) -> list[VariableSpec]:
        """Return those of one section."""
        return [each for each in self.variables if each.section == section]


def parse_set_words(words: Sequence[str]) -> dict[str, str]:
    """Return the values of `NAME=VALUE` by name; `UsageError` for other words."""
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise UsageError(f"--set {word}: not understood", hint="--set NAME=VALUE")
        if name in given:
            raise UsageError(f"--set names {name!r} twice: {given[name]} and {value}")
        given[name] = value
    return given


def with_variables(spec: ObjectSpec, given: Mapping[str, Any]) -> tuple[ObjectSpec, Settings]:
    """Return *spec* with the variables and constants in *given* set, and what was set.

    A text is read as it is typed on the command line. `UsageError` for a variable that the object
    lacks, and for a value that does not fit.
    """
    names = []
    constants = {}
    for name, value in given.items():
        if name in spec.constants and name not in spec.variables:
            constants[name] = number = _number(name, value)
            spec = spec.with_constant(name, number)
            continue
        key = _key(spec, name)
        if key in names:
            raise UsageError(f"variable {key} is set twice: {name}={value}")
        names.append(key)
        spec = _with_variable(spec, key, value)
    variables = tuple(spec.variables[key] for key in names)
    return spec, Settings(variables, {**_hashes(variables), **_hash_of(constants)})


def check_kept(settings: Settings, maps: Iterable[MapPlan], before: Mapping[str, str]) -> None:
    """Raise `UsageError` if a map keeps its values and variables of it are to start otherwise.

    *before* are the hashes of the load that made the map: what was set then may be said again.
    """
    for plan in maps:
        wanted = settings.hashes.get(plan.name)
        if wanted is None or plan.decision not in (Decision.KEPT, Decision.SHARED):
            continue
        if plan.decision is Decision.SHARED or before.get(plan.name) != wanted:
            raise _kept(plan, settings.in_section(plan.name))


def _number(name: str, value: Any) -> int:
    """Return the number that constant *name* is to be; `UsageError` if it is none of 64 bits."""
    try:
        number = int(value, 0) if isinstance(value, str) else operator.index(value)
    except (ValueError, TypeError):
        number = None
    if number is None or not -(1 << 63) <= number < 1 << 64:
        raise UsageError(f"--set {name}: {value!r} is no integer of 64 bits", hint=f"{name}=NUMBER")
    return number


def _hash_of(constants: Mapping[str, int]) -> dict[str, str]:
    if not constants:
        return {}
    text = " ".join(f"{name}={number}" for name, number in sorted(constants.items()))
    return {_CONSTANTS: hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]}


def _key(spec: ObjectSpec, name: str) -> str:
    try:
        return key_of(spec.variables, name)
    except LookupError as error:
        constants = f"; constants: {', '.join(spec.constants)}" if spec.constants else ""
        raise UsageError(f"--set {name}: the object has {error.args[0]}{constants}") from None


def _with_variable(spec: ObjectSpec, key: str, value: Any) -> ObjectSpec:
    variable = spec.variables[key]
    try:
        if isinstance(value, str):
            value = _parsed(value, variable, key)
        return spec.with_variable(key, value)
    except BpfError:
        raise
    except (ValueError, TypeError) as error:
        hint = f"it is {variable.type_name or f'{variable.size} bytes'} in {variable.section}"
        raise UsageError(f"--set {error}", hint=hint) from None


def _parsed(text: str, variable: VariableSpec, key: str) -> Any:
    from bpfpin.map.form import InputForm  # noqa: PLC0415 - few loads set a variable
    from bpfpin.map.parse import parse_value  # noqa: PLC0415

    return parse_value(text, InputForm(variable.codec, variable.type, f"variable {key}:"))


def _hashes(variables: Iterable[VariableSpec]) -> dict[str, str]:
    """Return a hash of what was set in each section: where, and to which bytes."""
    found: dict[str, Any] = {}
    for each in sorted(variables, key=lambda one: one.offset):
        digest = found.setdefault(each.section, hashlib.sha256())
        digest.update(f"{each.offset}+{each.size}:".encode() + each.contents)
    return {section: digest.hexdigest()[:_HASH_DIGITS] for section, digest in found.items()}


def _kept(plan: MapPlan, variables: Sequence[VariableSpec]) -> UsageError:
    names = ", ".join(each.name for each in variables)
    return UsageError(
        f"--set {names}: map {plan.name} (id {plan.map_id}) is there and goes on with its values;"
        " --set says what new maps start with",
        hint=f"to change the running one: bpfpin map set id:{plan.map_id} 0"
        f" {variables[0].name}=VALUE"
        + (
            ""
            if plan.decision is Decision.SHARED
            else f"\n      to start anew: --fresh {plan.name}"
        ),
    )
