"""What the dialects share: which symbols are maps, and what a map's type and slots may be."""

from __future__ import annotations

from bpfpin.errors import ObjectFileError
from bpfpin.map_traits import traits_of
from bpfpin.objfile.elf.file import Elf, Section, SectionType, Symbol, SymbolType
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType


def map_symbols(elf: Elf, section: Section) -> list[Symbol]:
    """Return the symbols of *section* by offset, each a map; `ObjectFileError` for a static one."""
    symbols = [symbol for symbol in elf.symbols_in(section) if not _is_label(symbol)]
    if not symbols and section.size:
        raise elf.error(
            f"{section.size} bytes of maps, and no symbol says what they are: it was stripped",
            section=section,
            hint="keep the symbols: strip -g (llvm-strip -g) takes the debug information alone",
        )
    for symbol in symbols:
        if symbol.is_local:
            hint = f"remove `static` from the definition of {symbol.name}"
            raise elf.error("the map is static", section=section, symbol=symbol, hint=hint)
    return symbols


def section_bytes(elf: Elf, section: Section) -> bytes:
    """Return the bytes of *section*; for one that takes no bytes of the file, zeros."""
    if section.type == SectionType.NOBITS:
        return bytes(section.size)
    if section.type != SectionType.PROGBITS:
        raise elf.error(f"a section of type {int(section.type)} holds no data", section=section)
    return section.data


def map_type(elf: Elf, section: Section, symbol: Symbol, *, number: int) -> MapType:
    """Return the type of that number; `ObjectFileError` if it is none, as 0 is."""
    try:
        kind = MapType(number)
    except ValueError:
        raise elf.error(f"map type {number} is unknown", section=section, symbol=symbol) from None
    if not kind:
        raise elf.error("the map has no type", section=section, symbol=symbol)
    return kind


def slot_fault(elf: Elf, spec: MapSpec, index: int) -> ObjectFileError | None:
    """Return the error of filling entry *index* if an array *spec* has no such entry."""
    if not traits_of(spec.type).has_index_key or index < spec.max_entries:
        return None
    return elf.error(
        f"entry {index} is initialised, but max_entries is {spec.max_entries}",
        section=spec.section,
        symbol=spec.name,
    )


def _is_label(symbol: Symbol) -> bool:
    """Whether an assembler left it, as a place to jump to or to measure from."""
    return symbol.is_local and symbol.type == SymbolType.NOTYPE and not symbol.size
