"""Global variables: a data section is a map of one entry, whose value is the section's bytes.

As libbpf has it: all can be mapped into memory; read-only sections are read-only for programs, and
frozen. Where there is BTF the value's type is the section itself, and the key has none.
"""

from __future__ import annotations

from collections.abc import Iterator

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import DataSection, Variable
from bpfpin.codecs.variable import VariableSpec
from bpfpin.objfile.dialects.symbols import section_bytes
from bpfpin.objfile.elf import Elf, Section, SymbolType
from bpfpin.spec import Dialect, MapSpec
from bpfpin.uapi import MapFlag, MapType

_OVERLAPS = 4  # aliases lie over one another; each variable has a copy of its bytes


def read_maps(elf: Elf, section: Section, btf: Btf | None) -> list[MapSpec]:
    """Return the one map that holds *section*; none for an empty one."""
    contents = section_bytes(elf, section)
    if not contents:
        return []
    is_read_only = section.name == ".rodata" or section.name.startswith(".rodata.")
    value = _value(section, btf)
    flags = MapFlag.MMAPABLE | (MapFlag.RDONLY_PROG if is_read_only else 0)
    return [
        MapSpec(
            section.name,
            MapType.ARRAY,
            key_size=4,
            value_size=len(contents),
            max_entries=1,
            map_flags=int(flags),
            value=value,
            contents=contents,
            is_frozen=is_read_only,
            variables=tuple(_variables(elf, section, value)),
            dialect=Dialect.DATA,
            section=section.name,
            section_index=section.index,
        )
    ]


def _value(section: Section, btf: Btf | None) -> TypeRef | None:
    type_id = btf.find(section.name, DataSection) if btf else None
    return btf.ref(type_id) if btf and type_id is not None else None


def _variables(elf: Elf, section: Section, value: TypeRef | None) -> Iterator[VariableSpec]:
    found = _by_type(section, value) if value else _by_symbol(elf, section)
    room = _OVERLAPS * section.size
    for variable in found:
        room -= variable.size
        if room < 0:
            raise elf.error("the variables overlap too much", section=section, symbol=variable.name)
        if variable.end > section.size:
            raise elf.error(
                f"the variable ends at byte {variable.end}, its section at {section.size}",
                section=section,
                symbol=variable.name,
            )
        yield variable


def _by_type(section: Section, value: TypeRef) -> Iterator[VariableSpec]:
    kind, btf = value.type, value.btf
    for place in kind.variables if isinstance(kind, DataSection) else ():
        variable = btf[place.type_id]
        type_id = variable.type_id if isinstance(variable, Variable) else place.type_id
        yield VariableSpec(variable.name, section.name, place.offset, place.size, btf.ref(type_id))


def _by_symbol(elf: Elf, section: Section) -> Iterator[VariableSpec]:
    """Yield what the symbols tell: no types, and no names for strings without a variable."""
    for symbol in elf.symbols_in(section):
        if symbol.type == SymbolType.OBJECT and symbol.size:
            yield VariableSpec(symbol.name, section.name, symbol.value, symbol.size)
