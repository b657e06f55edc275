"""Dialects of map definitions, one module each, and the choice of a reader for a section."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bpfpin.btf.btf import Btf
from bpfpin.objfile.dialects import btf_defined, data, iproute2, struct_form, struct_ops
from bpfpin.objfile.dialects import struct_form as legacy
from bpfpin.objfile.elf.file import Elf, Section, SectionType
from bpfpin.spec import Dialect, MapSpec

MapReader = Callable[[Elf, Section, Btf | None], list[MapSpec]]

READERS: dict[str, MapReader] = {
    ".maps": btf_defined.read_maps,
    ".rodata": data.read_maps,
    ".data": data.read_maps,
    ".bss": data.read_maps,
}
OLD_READERS = {
    Dialect.BPF_MAP_DEF: legacy.maps_of,
    Dialect.BPF_ELF_MAP: iproute2.maps_of,
}
# Data sections of their own (`SEC(".data.hot")`); compilers write `.rodata.str1.1` and others.
_DATA_PREFIXES = (".rodata.", ".data.", ".bss.")
_WITH_DATA = (SectionType.PROGBITS, SectionType.NOBITS)


def reader_for(section: Section) -> MapReader | None:
    """Return the reader for the maps of *section*; None if it has none, or an old dialect."""
    name = section.name
    if name.removeprefix("?") in struct_ops.SECTIONS:
        return struct_ops.read_maps
    reader = data.read_maps if name.startswith(_DATA_PREFIXES) else READERS.get(name)
    if reader is None or section.type not in _WITH_DATA or section.is_code:
        return None
    return reader


def is_old(section: Section) -> bool:
    """Whether *section* defines maps by C structures: `maps`, or `maps/NAME` for each map."""
    # `maps/NAME` is gobpf's form.
    is_named = section.name == "maps" or section.name.startswith("maps/")
    return is_named and section.type in _WITH_DATA and not section.is_code


def read_old_maps(elf: Elf, sections: Sequence[Section], btf: Btf | None) -> list[MapSpec]:
    """Return the maps of all old *sections*, which may refer to each other by index or id."""
    definitions = struct_form.read(elf, sections, btf)
    reader = OLD_READERS[definitions[0].dialect] if definitions else legacy.maps_of
    return reader(elf, definitions, btf)
