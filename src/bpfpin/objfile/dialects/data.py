"""Global variables: a data section is a map of one entry, whose value is the section's bytes.

As libbpf has it: all can be mapped into memory; read-only sections are read-only for programs, and
frozen. Where there is BTF the value's type is the section itself, and the key has none.
"""

from __future__ import annotations

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import DataSection
from bpfpin.objfile.dialects.symbols import section_bytes
from bpfpin.objfile.elf import Elf, Section
from bpfpin.spec import Dialect, MapSpec
from bpfpin.uapi import MapFlag, MapType


def read_maps(elf: Elf, section: Section, btf: Btf | None) -> list[MapSpec]:
    """Return the one map that holds *section*; none for an empty one."""
    contents = section_bytes(elf, section)
    if not contents:
        return []
    is_read_only = section.name == ".rodata" or section.name.startswith(".rodata.")
    flags = MapFlag.MMAPABLE | (MapFlag.RDONLY_PROG if is_read_only else 0)
    return [
        MapSpec(
            section.name,
            MapType.ARRAY,
            key_size=4,
            value_size=len(contents),
            max_entries=1,
            map_flags=int(flags),
            value=_value(section, btf),
            contents=contents,
            is_frozen=is_read_only,
            dialect=Dialect.DATA,
            section=section.name,
            section_index=section.index,
        )
    ]


def _value(section: Section, btf: Btf | None) -> TypeRef | None:
    type_id = btf.find(section.name, DataSection) if btf else None
    return btf.ref(type_id) if btf and type_id is not None else None
