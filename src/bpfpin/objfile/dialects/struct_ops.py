"""struct_ops maps: tables of functions that the kernel calls.

They are the variables in `.struct_ops` and `.struct_ops.link`. Each is a map of one entry whose
value is the variable: its bytes contain the plain members, relocations give the functions. The
layout in the kernel is that of its own structure of the same name, known at load time. As in
libbpf, `?` before the section's name makes its tables optional.
"""

from __future__ import annotations

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import DataSection, Struct, Var
from bpfpin.errors import ObjectFileError
from bpfpin.objfile.dialects.symbols import map_symbols, section_bytes
from bpfpin.objfile.elf.file import Elf, Relocation, Section, Symbol, SymbolType
from bpfpin.spec import Dialect, MapSpec
from bpfpin.uapi import MapFlag, MapType

_KEY_SIZE = 4
_POINTER = 8


def read_maps(elf: Elf, section: Section, btf: Btf | None) -> list[MapSpec]:
    """Return the struct_ops maps of *section* by offset; `ObjectFileError` names the variable."""
    symbols = map_symbols(elf, section)
    if symbols and btf is None:
        raise elf.error("struct_ops need BTF", section=section, hint="compile with -g")
    relocations = elf.relocations(section)
    return [_map(elf, section, symbol, btf, relocations) for symbol in symbols if btf is not None]


def _map(  # noqa: PLR0917  (the sources of one variable)
    elf: Elf, section: Section, symbol: Symbol, btf: Btf, relocations: list[Relocation]
) -> MapSpec:
    value = _type(elf, section, symbol, btf)
    end = symbol.value + value.size
    if end > section.size:
        raise elf.error("the variable is longer than its section", section=section, symbol=symbol)
    is_link = section.name.endswith(".link")
    return MapSpec(
        symbol.name,
        MapType.STRUCT_OPS,
        # The only key is 0, with four bytes (bpf_struct_ops_map_alloc_check() of
        # kernel/bpf/bpf_struct_ops.c).
        key_size=_KEY_SIZE,
        value_size=value.size,
        max_entries=1,
        # With BPF_F_LINK (Linux 6.4) the table is registered by a link, without it by writing the
        # map.
        map_flags=int(MapFlag.LINK) if is_link else 0,
        value=value,
        initial=tuple(
            (relocation.offset - symbol.value, _function(elf, section, relocation))
            for relocation in relocations
            if symbol.value <= relocation.offset < end
        ),
        # Only plain members count: the loader writes the descriptors of programs over the rest.
        contents=section_bytes(elf, section)[symbol.value : end],
        dialect=Dialect.STRUCT_OPS,
        section=section.name,
        section_index=section.index,
        offset=symbol.value,
    )


def _type(elf: Elf, section: Section, symbol: Symbol, btf: Btf) -> TypeRef:
    section_id = btf.find(section.name, DataSection)
    kind = btf[section_id] if section_id is not None else None
    for entry in kind.variables if isinstance(kind, DataSection) else ():
        variable = btf[entry.type_id]
        if isinstance(variable, Var) and variable.name == symbol.name:
            value = btf.ref(btf.strip(variable.type_id))
            if isinstance(value.type, Struct):
                return value
    raise elf.error("its type in the BTF is not a structure", section=section, symbol=symbol)


def _function(elf: Elf, section: Section, relocation: Relocation) -> str:
    """Return the name of the function that initialises a member."""
    symbol = relocation.symbol
    if symbol.type == SymbolType.FUNCTION:
        return symbol.name
    if symbol.type == SymbolType.SECTION and symbol.section_index < len(elf.sections):
        # A static function has a section symbol: the addend, in bytes, says which function is
        # meant.
        address = _addend(section, relocation)
        for other in elf.symbols_in(elf.sections[symbol.section_index]):
            if other.type == SymbolType.FUNCTION and other.value == address:
                return other.name
    raise _error(elf, section, relocation)


def _addend(section: Section, relocation: Relocation) -> int:
    if relocation.addend is not None:
        return relocation.addend
    return int.from_bytes(section.data[relocation.offset :][:_POINTER], "little")


def _error(elf: Elf, section: Section, relocation: Relocation) -> ObjectFileError:
    return elf.error(
        "a member is initialised with an address that is not a program",
        section=section,
        symbol=relocation.symbol,
        offset=relocation.offset,
    )
