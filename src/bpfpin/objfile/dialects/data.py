"""Global variables: a data section becomes an array map of one entry, the section's bytes.

As in libbpf, these maps can be mapped into memory; read-only sections are read-only for programs
and frozen. If the object has BTF, the type of the value is the section itself; the key has no type.

Addresses (`const char *name = "x"`) have no meaning in a map. They are 0, as in libbpf.
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
_LARGEST = 8  # bytes of an address
_SHOWN_NAMES = 3
# Arenas count in pages of the kernel. Objects are read without one, so the smallest size is
# assumed.
_LEAST_PAGE = 4096
# Aliases may overlap, and each variable copies its bytes: the sum of their sizes, as a multiple of
# the section's size.
_OVERLAPS = 4


def read_maps(elf: Elf, section: Section, btf: Btf | None) -> list[MapSpec]:
    """Return the map of *section*; an empty list if the section is empty."""
    contents = section_bytes(elf, section)
    if not contents:
        return []
    # The verifier treats values of a frozen read-only map as constants and removes dead branches.
    is_read_only = section.name == ".rodata" or section.name.startswith(".rodata.")
    value = _value(section, btf)
    # BPF_F_MMAPABLE needs Linux 5.5; user space then reads and writes variables without system
    # calls.
    flags = MapFlag.MMAPABLE | (MapFlag.RDONLY_PROG if is_read_only else 0)
    variables = tuple(_variables(elf, section, value))
    addresses = DataAddresses(elf, section, variables)
    contents = _without(contents, addresses.spans)
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
            note=_note([*addresses.variables]) if addresses.spans else "",
        )
    ]


class DataAddresses:
    """The addresses in a data section, and the variables that contain them.

    *spans* are offsets and sizes of the addresses, ascending. *variables* are the names.
    """

    def __init__(self, elf: Elf, section: Section, variables: Iterable[VariableSpec]) -> None:
        self.spans = [
            (relocation.offset, 4 if relocation.type == _R_BPF_64_ABS32 else 8)
            for relocation in elf.relocations(section)
        ]
        self._variables = sorted(variables, key=lambda spec: spec.offset) if self.spans else []
        self._starts = [spec.offset for spec in self._variables]
        names = (self.variable_at(offset) for offset, _ in self.spans)
        self.variables = dict.fromkeys(name for name in names if name)

    def variable_at(self, offset: int) -> str:
        """Return the name of the variable that includes byte *offset*; empty if none does."""
        index = bisect_right(self._starts, offset) - 1
        if index < 0 or offset >= self._variables[index].end:
            return ""
        return self._variables[index].name

    def are_at(self, offset: int) -> bool:
        """Whether byte *offset* belongs to an address, or to a variable that contains one."""
        if not self.spans:
            return False
        if self.variable_at(offset) in self.variables:
            return True
        index = bisect_right(self.spans, (offset, _LARGEST)) - 1
        return index >= 0 and offset < sum(self.spans[index])


def _without(contents: bytes, addresses: Sequence[tuple[int, int]]) -> bytes:
    """Return *contents* with 0 for the addresses, where compilers write an addend."""
    if not addresses:
        return contents
    changed = bytearray(contents)
    for offset, size in addresses:
        # A relocation near the end of a damaged section may exceed it.
        end = min(offset + size, len(changed))
        changed[offset:end] = bytes(end - offset)
    return bytes(changed)


def _note(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES])
    others = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    what = f"{shown}{others}: addresses" if names else "addresses"
    return f"{what} are 0 in the map, because the object has no address in the kernel"


def with_arena_variables(elf: Elf, section: Section, maps: list[MapSpec]) -> list[MapSpec]:
    """Return *maps* with the `__arena` variables, in *section*, as initial contents of the arena.

    These variables have a section of their own, which libbpf copies to the start of the object's
    only arena.

    Raises:
        ObjectFileError: There is not exactly one arena, or it is too small.
    """
    arenas = [spec for spec in maps if traits_of(spec.type).is_arena]
    if len(arenas) != 1:
        raise elf.error(
            f"variables of an arena, but {len(arenas)} arenas; exactly one is needed",
            section=section,
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
    unchecked = _by_type(section, value) if value else _by_symbol(elf, section)
    room = _OVERLAPS * section.size
    for variable in unchecked:
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
    for entry in kind.variables if isinstance(kind, DataSection) else ():
        variable = btf[entry.type_id]
        type_id = variable.type_id if isinstance(variable, Var) else entry.type_id
        yield VariableSpec(variable.name, section.name, entry.offset, entry.size, btf.ref(type_id))


def _by_symbol(elf: Elf, section: Section) -> Iterator[VariableSpec]:
    """Yield the variables by their symbols, without types; string literals have no symbol."""
    for symbol in elf.symbols_in(section):
        if symbol.type == SymbolType.OBJECT and symbol.size:
            yield VariableSpec(symbol.name, section.name, symbol.value, symbol.size)
