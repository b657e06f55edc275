"""All maps of an object, whatever the dialect, in libbpf's order."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

from bpfpin.btf.btf import Btf
from bpfpin.objfile.dialects import reader_for
from bpfpin.objfile.elf import Elf
from bpfpin.objfile.section import ProgramKind
from bpfpin.spec import Dialect, MapSpec, ProgramSpec

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def read_maps(elf: Elf, btf: Btf | None) -> list[MapSpec]:
    """Return the maps by place in the file, data maps last; names are unique and usable."""
    found: dict[str, MapSpec] = {}
    for section in elf.sections:
        reader = reader_for(elf, section, btf)
        for spec in reader(elf, section, btf) if reader else ():
            if spec.name in found:
                raise elf.error("a second map of that name", section=section, symbol=spec.name)
            if spec.dialect != Dialect.DATA and not _IDENTIFIER.fullmatch(spec.name):
                raise elf.error(
                    f"the map's name {spec.name!r} is no C identifier",
                    section=section,
                    symbol=spec.name,
                    hint="a map is pinned under its name; rename it in the source",
                )
            found[spec.name] = spec
    return sorted(found.values(), key=_order)


def with_tail_calls(
    elf: Elf, maps: Sequence[MapSpec], programs: Iterable[tuple[ProgramSpec, ProgramKind]]
) -> list[MapSpec]:
    """Add to program arrays what iproute2's section names `ID/KEY` put there."""
    changed = {spec.name: spec for spec in maps}
    for program, kind in programs:
        if kind.tail_call is None:
            continue
        array_id, index = kind.tail_call
        array = next((each for each in changed.values() if each.id == array_id), None)
        if array is None:
            raise elf.error(
                f"{program.name} belongs into the map with id {array_id}, which no map has",
                section=program.section,
                symbol=program.name,
            )
        initial = (*array.initial, (index, program.name))
        changed[array.name] = dataclasses.replace(array, initial=initial)
    return list(changed.values())


def _order(spec: MapSpec) -> tuple[bool, int, int]:
    return spec.dialect == Dialect.DATA, spec.section_index, spec.offset
