"""Global variables: a data section is a map of one entry, whose value is the section's bytes.

As libbpf has it: all can be mapped into memory; read-only sections are read-only for programs, and
frozen. Where there is BTF the value's type is the section itself, and the key has none.

Addresses (`const char *name = "x"`) mean nothing in a map: they are 0, as libbpf leaves them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import DataSection, Var
from bpfpin.codecs.variable import VariableSpec
from bpfpin.map_traits import traits_of
from bpfpin.objfile.dialects.symbols import section_bytes
from bpfpin.objfile.elf.file import Elf, Section, SymbolType
from bpfpin.spec import Dialect, MapSpec
from bpfpin.uapi import MapFlag, MapType

_R_BPF_64_ABS32 = 3
_LARGEST = 8
_SHOWN_NAMES = 3
ARENA_SECTION = ".addr_space.1"  # clang's name of address space 1
_LEAST_PAGE = 4096
_OVERLAPS = 4  # aliases lie over one another; each variable has a copy of its bytes


def read_maps(elf: Elf, section: Section, btf: Btf | None) -> list[MapSpec]:
    """Return the one map that holds *section*; none for an empty one."""
    contents = section_bytes(elf, section)
    if not contents:
        return []
    is_read_only = section.name == ".rodata" or section.name.startswith(".rodata.")
    value = _value(section, btf)
    flags = MapFlag.MMAPABLE | (MapFlag.RDONLY_PROG if is_read_only else 0)
    variables = tuple(_variables(elf, section, value))
    addresses = DataAddresses(elf, section, variables)
    contents = _without(contents, addresses.places)
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
            variables=variables,
            dialect=Dialect.DATA,
            section=section.name,
            section_index=section.index,
            note=_note([*addresses.holders]) if addresses.places else "",
        )
    ]


class DataAddresses:
    """What in a data section is the address of something, and which variables have such.

    *places* are offsets and sizes in ascending order.
    """

    def __init__(self, elf: Elf, section: Section, variables: Iterable[VariableSpec]) -> None:
        self.places = [
            (each.offset, 4 if each.type == _R_BPF_64_ABS32 else 8)
            for each in elf.relocations(section)
        ]
        self._variables = sorted(variables, key=lambda each: each.offset) if self.places else []
        self._starts = [each.offset for each in self._variables]
        names = (self.holder_of(offset) for offset, _ in self.places)
        self.holders = dict.fromkeys(name for name in names if name)

    def holder_of(self, offset: int) -> str:
        """Return the name of the variable that has byte *offset*, empty for none."""
        index = bisect_right(self._starts, offset) - 1
        if index < 0 or offset >= self._variables[index].end:
            return ""
        return self._variables[index].name

    def are_at(self, offset: int) -> bool:
        """Whether byte *offset* is of an address, or of a variable that has one."""
        if not self.places:
            return False
        if self.holder_of(offset) in self.holders:
            return True
        index = bisect_right(self.places, (offset, _LARGEST)) - 1
        return index >= 0 and offset < sum(self.places[index])


def _without(contents: bytes, addresses: Sequence[tuple[int, int]]) -> bytes:
    """Return *contents* with 0 for the addresses: what a compiler leaves there is an addend."""
    if not addresses:
        return contents
    changed = bytearray(contents)
    for offset, size in addresses:
        end = min(offset + size, len(changed))
        changed[offset:end] = bytes(end - offset)
    return bytes(changed)


def _note(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES])
    others = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    what = f"{shown}{others}: addresses" if names else "addresses"
    return f"{what} are 0 in the map, as nothing in the kernel is there"


def with_arena_variables(elf: Elf, maps: list[MapSpec]) -> list[MapSpec]:
    """Return *maps* with the variables of the arena as its first contents.

    `__arena` variables stand in a section of their own and are put at the start of the object's
    only arena, as libbpf does.
    """
    section = elf.section(ARENA_SECTION)
    if section is None or not section.size:
        return maps
    arenas = [spec for spec in maps if traits_of(spec.type).is_arena]
    if len(arenas) != 1:
        raise elf.error(
            f"variables of an arena, and {len(arenas)} arenas; there must be one", section=section
        )
    if section.size > arenas[0].max_entries * _LEAST_PAGE:
        raise elf.error(
            f"{section.size} bytes of variables do not fit the {arenas[0].max_entries} pages of"
            f" arena {arenas[0].name}",
            section=section,
        )
    contents = section_bytes(elf, section)
    filled = arenas[0].with_changes(contents=contents, data_section=section.index)
    return [filled if spec is arenas[0] else spec for spec in maps]


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
        type_id = variable.type_id if isinstance(variable, Var) else place.type_id
        yield VariableSpec(variable.name, section.name, place.offset, place.size, btf.ref(type_id))


def _by_symbol(elf: Elf, section: Section) -> Iterator[VariableSpec]:
    """Yield what the symbols tell: no types, and no names for strings without a variable."""
    for symbol in elf.symbols_in(section):
        if symbol.type == SymbolType.OBJECT and symbol.size:
            yield VariableSpec(symbol.name, section.name, symbol.value, symbol.size)
