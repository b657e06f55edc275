"""All maps of an object, whatever the dialect, in libbpf's order."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bpfpin.btf.btf import Btf
from bpfpin.objfile.dialects import is_old, read_old_maps, reader_for
from bpfpin.objfile.dialects.data import with_arena_variables
from bpfpin.objfile.elf import Elf
from bpfpin.spec import Dialect, MapSpec

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def read_maps(elf: Elf, btf: Btf | None) -> list[MapSpec]:
    """Return the maps by place in the file, data maps last; names are unique and usable."""
    found: dict[str, MapSpec] = {}
    for spec in _maps(elf, btf):
        if spec.name in found:
            raise elf.error("a second map of that name", section=spec.section, symbol=spec.name)
        if spec.dialect != Dialect.DATA and not _IDENTIFIER.fullmatch(spec.name):
            raise elf.error(
                f"the map's name {spec.name!r} is no C identifier",
                section=spec.section,
                symbol=spec.name,
                hint="a map is pinned under its name; rename it in the source",
            )
        found[spec.name] = spec
    return sorted(with_arena_variables(elf, list(found.values())), key=_order)


def _maps(elf: Elf, btf: Btf | None) -> Iterator[MapSpec]:
    yield from read_old_maps(elf, [each for each in elf.sections if is_old(each)], btf)
    for section in elf.sections:
        reader = reader_for(section)
        yield from reader(elf, section, btf) if reader else ()


def _order(spec: MapSpec) -> tuple[bool, int, int]:
    return spec.dialect == Dialect.DATA, spec.section_index, spec.offset
