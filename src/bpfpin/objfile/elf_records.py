"""What an ELF file consists of, as elf(5) has it: sections, symbols, relocations."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

SHF_ALLOC = 0x2
SHF_EXECINSTR = 0x4
SHF_COMPRESSED = 0x800
SHN_UNDEF = 0
SHN_LORESERVE = 0xFF00  # from here on a section index is none
SHN_ABS = 0xFFF1
SHN_COMMON = 0xFFF2
SHN_XINDEX = 0xFFFF


class SectionType(IntEnum):
    """What a section holds; other numbers occur."""

    NULL = 0
    PROGBITS = 1
    SYMTAB = 2
    STRTAB = 3
    RELA = 4
    NOBITS = 8
    REL = 9


class SymbolType(IntEnum):
    """What a symbol stands for; other numbers occur."""

    NOTYPE = 0
    OBJECT = 1
    FUNCTION = 2
    SECTION = 3
    FILE = 4


class SymbolBinding(IntEnum):
    """Who sees a symbol; other numbers occur."""

    LOCAL = 0
    GLOBAL = 1
    WEAK = 2


class Section(NamedTuple):
    """One section; *data* is empty for `NOBITS`, whatever *size* says."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    name: str
    type: int
    flags: int
    size: int
    link: int
    info: int
    entry_size: int
    alignment: int
    data: bytes

    def __repr__(self) -> str:
        return f"<Section {self.index} {self.name!r} type={self.type} size={self.size}>"

    @property
    def is_code(self) -> bool:
        """Whether it holds instructions."""
        return self.type == SectionType.PROGBITS and bool(self.flags & SHF_EXECINSTR)


class Symbol(NamedTuple):
    """One symbol; *section_index* 0 is undefined, from `SHN_LORESERVE` on it is no section."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    name: str
    value: int
    size: int
    type: int
    binding: int
    visibility: int
    section_index: int

    @property
    def is_local(self) -> bool:
        """Whether it is static in its source."""
        return self.binding == SymbolBinding.LOCAL


class Relocation(NamedTuple):
    """The bytes at *offset* of a section refer to *symbol*; *addend* is None where they hold it."""

    offset: int
    type: int
    symbol: Symbol
    addend: int | None
