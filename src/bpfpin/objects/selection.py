"""Which part of an object is loaded: what is named, or all that its sections do not make optional.

A `?` before a section's name makes its programs, or its tables of struct_ops, optional (libbpf).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from bpfpin.spec import ObjectSpec


def selected(
    spec: ObjectSpec,
    programs: Sequence[str] | None,
    attach_to: Mapping[str, str] | None = None,
) -> ObjectSpec:
    """Return *spec* with just *programs*, or those that load by default, and their targets.

    Of the maps only optional tables leave, those of which no program is loaded. *attach_to* says
    where programs attach instead of what their sections say. `UsageError` if a name is unknown.
    """
    for name, place in (attach_to or {}).items():
        spec = spec.with_program(name, attach_to=place)
    names = _by_default(spec) if programs is None else programs
    chosen = spec.only_programs(*names)
    kept = {
        name: each
        for name, each in spec.maps.items()
        if not each.is_optional or any(program in chosen.programs for _, program in each.initial)
    }
    return dataclasses.replace(chosen, maps=kept) if len(kept) < len(spec.maps) else chosen


def _by_default(spec: ObjectSpec) -> list[str]:
    tables = [each for each in spec.maps.values() if each.is_optional]
    optional = {program for table in tables for _, program in table.initial}
    return [
        name
        for name, each in spec.programs.items()
        if not each.is_optional and name not in optional
    ]
