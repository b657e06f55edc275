"""A reader of ELF relocatable objects for BPF, made for untrusted files.

It reads what BPF objects have: 64-bit, ET_REL, EM_BPF; the format is that of elf(5). Big-endian
files are converted first (`to_little_endian`). Every offset and size is checked before use and
nothing is decompressed, so that any bytes give an `Elf` or an `ObjectFileError`, in time and memory
proportional to the size of the file.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from typing import Self

from bpfpin.errors import ObjectFileError
from bpfpin.objfile.elf.records import (
    MAX_NAME_BYTES,
    MAX_NAMES_BYTES,
    MAX_RELOCATIONS,
    MAX_SYMBOLS,
    SHF_ALLOC,
    SHF_COMPRESSED,
    SHF_EXECINSTR,
    SHN_ABS,
    SHN_COMMON,
    SHN_LORESERVE,
    SHN_UNDEF,
    SHN_XINDEX,
    Relocation,
    Section,
    SectionHeader,
    SectionType,
    Symbol,
    SymbolBinding,
    SymbolType,
    check_limit,
    extent,
    is_big_endian,
    section_headers,
    to_little_endian,
)

__all__ = [
    "SHF_ALLOC",
    "SHF_COMPRESSED",
    "SHF_EXECINSTR",
    "SHN_ABS",
    "SHN_COMMON",
    "SHN_LORESERVE",
    "SHN_UNDEF",
    "SHN_XINDEX",
    "Elf",
    "Relocation",
    "Section",
    "SectionType",
    "Symbol",
    "SymbolBinding",
    "SymbolType",
]

_SYMBOL = struct.Struct("<IBBHQQ")
# r_info as two words: the lower one is the type, the upper one the symbol (ELF64_R_INFO).
_REL = struct.Struct("<QII")
_RELA = struct.Struct("<QIIq")
_RELOCATIONS = frozenset({SectionType.REL, SectionType.RELA})
_UNNAMED = frozenset({SymbolType.SECTION, SymbolType.FILE})
# A lookup in a dict is faster than `SymbolType(number)`.
_KINDS = {int(kind): kind for kind in SymbolType}
_BINDINGS = {int(binding): binding for binding in SymbolBinding}


class Elf:
    """The sections and symbols of one file; *path* is used in messages only.

    If *is_big_endian*, the bytes of data sections are still in that order, all others converted.
    """

    def __init__(self, data: bytes, path: str) -> None:
        self.path = path
        self.sections: tuple[Section, ...] = ()
        self.symbols: tuple[Symbol, ...] = ()
        self._symbol_table = 0
        self._relocation_tables: dict[int, list[Section]] = defaultdict(list)
        self._relocations: dict[int, list[Relocation]] = {}
        self._relocations_read = 0
        self._defined: dict[int, list[Symbol]] = defaultdict(list)
        self.is_big_endian = is_big_endian(data)
        self._read_sections(data)
        self._read_symbols()

    @classmethod
    def parse(cls, data: bytes, *, path: str = "") -> Self:
        """Return the file *data*; `ObjectFileError` if it is not a well-formed BPF object."""
        return cls(data, path)

    def section(self, name: str) -> Section | None:
        """Return the first section of that name."""
        return next((section for section in self.sections if section.name == name), None)

    def symbols_in(self, section: Section) -> list[Symbol]:
        """Return the symbols defined in *section*, by address, without section and file symbols."""
        symbols = self._defined.get(section.index, ())
        return sorted(symbols, key=lambda symbol: symbol.value)

    def relocations(self, section: Section) -> list[Relocation]:
        """Return the relocations that apply to *section*, by offset; the result is cached."""
        if section.index not in self._relocations:
            relocations: list[Relocation] = []
            # ELF allows several tables for one section, and readers need one order.
            for table in self._relocation_tables.get(section.index, ()):
                relocations.extend(self._read_relocations(table, section))
            relocations.sort(key=lambda relocation: relocation.offset)
            self._relocations[section.index] = relocations
        return self._relocations[section.index]

    def error(
        self,
        message: str,
        *,
        section: Section | str = "",
        symbol: Symbol | str = "",
        offset: int | None = None,
        hint: str = "",
    ) -> ObjectFileError:
        """Return an error that names this file, for the caller to raise."""
        return ObjectFileError(
            message,
            path=self.path,
            section=section.name if isinstance(section, Section) else section,
            symbol=symbol.name if isinstance(symbol, Symbol) else symbol,
            offset=offset,
            hint=hint,
        )

    def _read_sections(self, data: bytes) -> None:
        try:
            if self.is_big_endian:
                data = to_little_endian(data)
            headers, names_index = section_headers(data)
        except ObjectFileError as error:
            error.path = self.path
            raise
        names = _Strings(self, extent(data, headers[names_index]), "section names")
        self.sections = tuple(
            _section(index, names[header[0]], header, extent(data, header))
            for index, header in enumerate(headers)
        )
        for section in self.sections:
            self._check_section(section)

    def _check_section(self, section: Section) -> None:
        # Decompression could need any amount of memory. Debug sections are not read.
        if section.flags & SHF_COMPRESSED and not section.name.startswith(".debug"):
            raise self.error("the section is compressed", section=section)
        if section.type == SectionType.SYMTAB:
            if self._symbol_table:
                raise self.error("a second symbol table", section=section)
            self._symbol_table = section.index
        elif section.type in _RELOCATIONS:
            self._relocation_tables[section.info].append(section)

    def _read_symbols(self) -> None:
        if not self._symbol_table:
            return
        table = self.sections[self._symbol_table]
        self._check_entries(table, _SYMBOL.size)
        check_limit(table.size // _SYMBOL.size, MAX_SYMBOLS, "symbols", section=table.name)
        if table.link >= len(self.sections):
            raise self.error(f"symbol names in section {table.link}", section=table)
        names = _Strings(self, self.sections[table.link].data, "symbol names")
        self.symbols = tuple(self._symbols(table, names))
        for symbol in self.symbols:
            if symbol.type not in _UNNAMED:
                self._defined[symbol.section_index].append(symbol)

    def _symbols(self, table: Section, names: _Strings) -> Iterator[Symbol]:
        entries = _SYMBOL.iter_unpack(table.data)
        for index, (name, info, other, section_index, value, size) in enumerate(entries):
            kind, binding = info & 0xF, info >> 4
            symbol = Symbol(
                index,
                names[name],
                value,
                size,
                _KINDS.get(kind, kind),
                _BINDINGS.get(binding, binding),
                # STV_*, the visibility, has two bits.
                other & 3,
                section_index,
            )
            self._check_position(symbol)
            yield symbol

    def _check_position(self, symbol: Symbol) -> None:
        index = symbol.section_index
        # Indices from SHN_LORESERVE on are special (SHN_ABS, SHN_COMMON). SHN_XINDEX, for files
        # with more than 65,279 sections, falls through to the error: such files are refused.
        if index == SHN_UNDEF or (index >= SHN_LORESERVE and index != SHN_XINDEX):
            return
        if index >= len(self.sections):
            raise self.error(f"a symbol in section {index}, which does not exist", symbol=symbol)
        # In a relocatable file st_value counts from the start of the section (elf(5)).
        section = self.sections[index]
        if symbol.value + symbol.size > section.size:
            raise self.error(
                f"the symbol ends at byte {symbol.value + symbol.size}, its section at "
                f"{section.size}",
                section=section,
                symbol=symbol,
            )

    def _read_relocations(self, table: Section, target: Section) -> Iterator[Relocation]:
        # sh_link is the symbol table of the relocations, sh_info the section that they apply to.
        if table.link != self._symbol_table:
            raise self.error("relocations without a symbol table", section=table)
        form = _REL if table.type == SectionType.REL else _RELA
        self._check_entries(table, form.size)
        # Counted over the whole file: many sections may share one symbol table.
        self._relocations_read += table.size // form.size
        check_limit(self._relocations_read, MAX_RELOCATIONS, "relocations", section=table.name)
        # Local names: this loop runs for each relocation of the file.
        symbols, size = self.symbols, target.size
        for entry in form.iter_unpack(table.data):
            offset, kind, symbol_index = entry[:3]
            if symbol_index >= len(symbols):
                raise self.error(f"a relocation to symbol {symbol_index}", section=table)
            if offset >= size:
                raise self.error("a relocation beyond the end", section=target, offset=offset)
            addend = entry[3] if form is _RELA else None
            yield Relocation(offset, kind, symbols[symbol_index], addend)

    def _check_entries(self, table: Section, entry_size: int) -> None:
        if table.entry_size != entry_size or table.size % entry_size:
            raise self.error(
                f"{table.size} bytes in entries of {table.entry_size}, not of {entry_size}",
                section=table,
            )


def _section(index: int, name: str, header: SectionHeader, data: bytes) -> Section:
    _, kind, flags, _, _, size, link, info, alignment, entry_size = header
    return Section(index, name, kind, flags, size, link, info, entry_size, alignment, data)


class _Strings(dict[int, str]):
    """A string table: the names by offset, each decoded on first use."""

    def __init__(self, elf: Elf, data: bytes, what: str) -> None:
        super().__init__({0: ""})
        self._elf = elf
        self._data = data
        self._what = what
        self._bytes_read = 0

    def __missing__(self, offset: int) -> str:
        # find() with an end, so that a table without zero bytes is not searched to its end each
        # time.
        end = self._data.find(b"\0", offset, offset + MAX_NAME_BYTES + 1)
        if end < 0:
            raise self._elf.error(f"no name ends within the {self._what}", offset=offset)
        self._bytes_read += end - offset
        check_limit(self._bytes_read, MAX_NAMES_BYTES, f"bytes of {self._what}")
        try:
            name = self[offset] = self._data[offset:end].decode()
        except UnicodeDecodeError:
            raise self._elf.error(f"invalid UTF-8 in the {self._what}", offset=offset) from None
        return name
