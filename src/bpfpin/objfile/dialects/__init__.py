"""How object files define maps: one file a dialect, and which section is in which."""

from __future__ import annotations

from collections.abc import Callable

from bpfpin.btf.btf import Btf
from bpfpin.objfile.dialects import btf_defined, data, iproute2, legacy, struct_form, struct_ops
from bpfpin.objfile.dialects.struct_form import Definition
from bpfpin.objfile.elf import Elf, Section, SectionType
from bpfpin.spec import Dialect, MapSpec

MapReader = Callable[[Elf, Section, Btf | None], list[MapSpec]]

READERS: dict[str, MapReader] = {
    ".maps": btf_defined.read_maps,
    ".rodata": data.read_maps,
    ".data": data.read_maps,
    ".bss": data.read_maps,
}
OLD_READERS: dict[Dialect, MapReader] = {  # of section `maps`
    Dialect.BPF_MAP_DEF: legacy.read_maps,
    Dialect.BPF_ELF_MAP: iproute2.read_maps,
}
_DATA_PREFIXES = (".rodata.", ".data.", ".bss.")
_HELD = (SectionType.PROGBITS, SectionType.NOBITS)


def reader_for(elf: Elf, section: Section, btf: Btf | None) -> MapReader | None:
    """Return what reads the maps of *section*, None if it defines no maps."""
    name = section.name
    if name.removeprefix("?") in struct_ops.SECTIONS:
        return struct_ops.read_maps
    reader = data.read_maps if name.startswith(_DATA_PREFIXES) else READERS.get(name)
    if (reader is None and name != "maps") or section.type not in _HELD or section.is_code:
        return None
    return reader or legacy_or_iproute2(elf, section, btf)


def legacy_or_iproute2(elf: Elf, section: Section, btf: Btf | None) -> MapReader:
    """Return the reader of the one dialect that the maps of section `maps` are written in."""
    found = {_dialect(it): it for it in struct_form.definitions(elf, section, btf)}
    if len(found) > 1:
        words = " and ".join(dialect.value for dialect in found)
        symbol = list(found.values())[-1].symbol
        raise elf.error(f"maps in two dialects, {words}", section=section, symbol=symbol)
    return next((OLD_READERS[dialect] for dialect in found), legacy.read_maps)


def _dialect(definition: Definition) -> Dialect:
    """Tell by the members' names where there is BTF, by the structure's size else."""
    names = {member.name for member in definition.type.members} if definition.type else set()
    if names >= set(iproute2.NAMES[: struct_form.REQUIRED]):
        return Dialect.BPF_ELF_MAP
    if names >= set(legacy.NAMES[: struct_form.REQUIRED]):
        return Dialect.BPF_MAP_DEF
    return Dialect.BPF_ELF_MAP if len(definition.data) == iproute2.SIZE else Dialect.BPF_MAP_DEF
