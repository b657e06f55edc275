"""Dialects of map definitions, one module each, and the choice of a reader for a section."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bpfpin.btf.btf import Btf
from bpfpin.objfile.dialects import btf_defined
from bpfpin.objfile.elf.file import Elf, Section, SectionType
from bpfpin.spec import Dialect, MapSpec

MapReader = Callable[[Elf, Section, Btf | None], list[MapSpec]]

_TABLES = (".struct_ops", ".struct_ops.link")
_DATA = (".rodata", ".data", ".bss")
# Data sections of their own (`SEC(".data.hot")`); compilers write `.rodata.str1.1` and others.
_DATA_PREFIXES = (".rodata.", ".data.", ".bss.")
_WITH_DATA = (SectionType.PROGBITS, SectionType.NOBITS)


def reader_for(section: Section) -> MapReader | None:
    """Return the reader for the maps of *section*; None if it has none, or an old dialect.

    Only the dialects of an object are imported.
    """
    name = section.name
    if name.removeprefix("?") in _TABLES:
        from bpfpin.objfile.dialects import struct_ops  # noqa: PLC0415 - see above

        return struct_ops.read_maps
    if section.type not in _WITH_DATA or section.is_code:
        return None
    if name in _DATA or name.startswith(_DATA_PREFIXES):
        from bpfpin.objfile.dialects import data  # noqa: PLC0415 - see above

        return data.read_maps
    return btf_defined.read_maps if name == ".maps" else None


def is_old(section: Section) -> bool:
    """Whether *section* defines maps by C structures: `maps`, or `maps/NAME` for each map."""
    # `maps/NAME` is gobpf's form.
    is_named = section.name == "maps" or section.name.startswith("maps/")
    return is_named and section.type in _WITH_DATA and not section.is_code


def read_old_maps(elf: Elf, sections: Sequence[Section], btf: Btf | None) -> list[MapSpec]:
    """Return the maps of all old *sections*, which may refer to each other by index or id."""
    from bpfpin.objfile.dialects import iproute2, struct_form  # noqa: PLC0415 - see `reader_for`

    definitions = struct_form.read(elf, sections, btf)
    is_iproute2 = bool(definitions) and definitions[0].dialect is Dialect.BPF_ELF_MAP
    reader = iproute2.maps_of if is_iproute2 else struct_form.maps_of
    return reader(elf, definitions, btf)
