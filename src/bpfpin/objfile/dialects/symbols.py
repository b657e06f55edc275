"""Functions shared by the dialects: symbols of maps, map types, checks of initial entries."""

from __future__ import annotations

from bpfpin.errors import ObjectFileError
from bpfpin.map_traits import traits_of
from bpfpin.objfile.elf.file import Elf, Section, SectionType, Symbol, SymbolType
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType


def map_symbols(elf: Elf, section: Section) -> list[Symbol]:
    """Return the symbols of maps in *section* by offset; `ObjectFileError` for a static one."""
    # Every other symbol defines a map. BTF has the same names, but an object may have no BTF.
    symbols = [symbol for symbol in elf.symbols_in(section) if not _is_label(symbol)]
    if not symbols and section.size:
        raise elf.error(
            f"{section.size} bytes of maps without symbols: the file was stripped",
            section=section,
            hint="keep the symbols: strip -g (llvm-strip -g) removes the debug information only",
        )
    for symbol in symbols:
        # References to a static map have the section symbol only, and the linker may drop its name.
        if symbol.is_local:
            hint = f"remove `static` from the definition of {symbol.name}"
            raise elf.error("the map is static", section=section, symbol=symbol, hint=hint)
    return symbols


def section_bytes(elf: Elf, section: Section) -> bytes:
    """Return the bytes of *section*; zeros for `.bss`, which has no bytes in the file."""
    if section.type == SectionType.NOBITS:
        return bytes(section.size)
    if section.type != SectionType.PROGBITS:
        raise elf.error(f"a section of type {int(section.type)} has no data", section=section)
    return section.data


def map_type(elf: Elf, section: Section, symbol: Symbol, *, number: int) -> MapType:
    """Return the map type with that number; `ObjectFileError` if there is none, or for 0."""
    try:
        # A type of a newer kernel is refused: nothing is known about the rules of its definition.
        kind = MapType(number)
    except ValueError:
        raise elf.error(f"map type {number} is unknown", section=section, symbol=symbol) from None
    if not kind:
        raise elf.error("the map has no type", section=section, symbol=symbol)
    return kind


def slot_fault(elf: Elf, spec: MapSpec, index: int) -> ObjectFileError | None:
    """Return an error if *spec* is an array without entry *index*; None if it can be filled."""
    if not traits_of(spec.type).has_index_key or index < spec.max_entries:
        return None
    return elf.error(
        f"entry {index} is initialised, but max_entries is {spec.max_entries}",
        section=spec.section,
        symbol=spec.name,
    )


def _is_label(symbol: Symbol) -> bool:
    """Whether the symbol is an assembler's label, such as the target of a jump."""
    return symbol.is_local and symbol.type == SymbolType.NOTYPE and not symbol.size
