"""Writes the bytes of BPF objects from Python values, so that a test shows its input."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from bpfpin.insn import Instruction, encode
from bpfpin.objfile.elf.file import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SectionType,
    SymbolBinding,
    SymbolType,
)

R_BPF_64_64 = 1
R_BPF_64_ABS64 = 2
R_BPF_64_ABS32 = 3
R_BPF_64_32 = 10

# Where the fields of the ELF header and of one section header lie: byte offset and struct format.
HEADER_FIELDS = {
    "class": (4, "B"),
    "data": (5, "B"),
    "ident_version": (6, "B"),
    "type": (16, "<H"),
    "machine": (18, "<H"),
    "version": (20, "<I"),
    "entry": (24, "<Q"),
    "program_headers": (32, "<Q"),
    "section_headers": (40, "<Q"),
    "flags": (48, "<I"),
    "header_size": (52, "<H"),
    "program_header_size": (54, "<H"),
    "program_header_count": (56, "<H"),
    "section_header_size": (58, "<H"),
    "section_count": (60, "<H"),
    "names_index": (62, "<H"),
}
SECTION_FIELDS = {
    "name": (0, "<I"),
    "type": (4, "<I"),
    "flags": (8, "<Q"),
    "address": (16, "<Q"),
    "offset": (24, "<Q"),
    "size": (32, "<Q"),
    "link": (40, "<I"),
    "info": (44, "<I"),
    "alignment": (48, "<Q"),
    "entry_size": (56, "<Q"),
}


@dataclass(eq=False)
class NewSection:
    """A section to be; *data* may still grow. *size* counts only for `NOBITS`."""

    name: str
    data: bytes = b""
    type: int = SectionType.PROGBITS
    flags: int = SHF_ALLOC
    size: int = 0
    link: int = 0
    info: int = 0
    entry_size: int = 0


@dataclass(eq=False)
class NewSymbol:
    """A symbol to be; no section: undefined."""

    name: str
    section: NewSection | None = None
    value: int = 0
    size: int = 0
    type: int = SymbolType.OBJECT
    binding: int = SymbolBinding.GLOBAL
    section_index: int | None = None  # instead of *section*: `SHN_ABS` and the like


class ElfWriter:
    """One object file in the making.

    ```python
    elf = ElfWriter()
    elf.license("GPL")
    maps = elf.section("maps", struct.pack("<5I", 1, 4, 8, 16, 0))
    counts = elf.symbol("counts", maps, size=20)
    program = elf.function("xdp", "count", [*load_imm64(1, 0), mov_imm(0, 2), exit_()])
    elf.relocation(program, counts, at=0)  # the first instruction loads the map
    spec = read_object(elf.build())
    ```

    `function` appends to the code section of that name and makes it at first use; a relocation's
    place is counted in instruction slots within the function (or in bytes within a section).
    `section_symbol` is what compilers refer to static things by. Sections come in the order in
    which they were made, then relocations, the symbol table and the names; local symbols first.
    """

    def __init__(self, *, machine: int = 247) -> None:
        self.machine = machine
        self.sections: list[NewSection] = []
        self.symbols: list[NewSymbol] = []
        self._relocations: dict[NewSection, list[tuple[int, int, NewSymbol, int | None]]] = {}

    def section(self, name: str, data: bytes = b"", *, type: int = 1, flags: int = 2) -> NewSection:  # noqa: A002  (ELF's word)
        """Add a section; two of one name are two."""
        section = NewSection(name, data, type, flags)
        self.sections.append(section)
        return section

    def bss(self, name: str, size: int) -> NewSection:
        """Add a section that takes memory but no bytes of the file."""
        section = NewSection(name, type=SectionType.NOBITS, flags=SHF_ALLOC | 1, size=size)
        self.sections.append(section)
        return section

    def license(self, text: str) -> NewSection:
        """Add the section that says under which license the programs are."""
        return self.section("license", text.encode() + b"\0")

    def symbol(
        self,
        name: str,
        section: NewSection | None = None,
        *,
        value: int = 0,
        size: int = 0,
        type: int = SymbolType.OBJECT,  # noqa: A002  (ELF's word)
        binding: int = SymbolBinding.GLOBAL,
    ) -> NewSymbol:
        """Add a symbol for *size* bytes at byte *value* of *section*; undefined without one."""
        symbol = NewSymbol(name, section, value, size, type, binding)
        self.symbols.append(symbol)
        return symbol

    def section_symbol(self, section: NewSection) -> NewSymbol:
        """Add the nameless symbol that stands for the whole section."""
        return self.symbol("", section, type=SymbolType.SECTION, binding=SymbolBinding.LOCAL)

    def function(
        self,
        section_name: str,
        name: str,
        instructions: Iterable[Instruction],
        *,
        binding: int = SymbolBinding.GLOBAL,
    ) -> NewSymbol:
        """Append a function to the code section of that name; the symbol is its place."""
        section = self._code(section_name)
        code = encode(instructions)
        symbol = self.symbol(
            name,
            section,
            value=len(section.data),
            size=len(code),
            type=SymbolType.FUNCTION,
            binding=binding,
        )
        section.data += code
        return symbol

    def relocation(
        self,
        place: NewSymbol | NewSection,
        symbol: NewSymbol,
        *,
        at: int = 0,
        type: int = R_BPF_64_64,  # noqa: A002  (ELF's word)
        addend: int | None = None,
    ) -> None:
        """Let slot *at* of a function (byte *at* of a section) refer to *symbol*.

        Without *addend* it goes to a SHT_REL section, as compilers do, else to SHT_RELA.
        """
        section = place if isinstance(place, NewSection) else place.section
        assert section is not None
        offset = at if isinstance(place, NewSection) else place.value + at * 8
        self._relocations.setdefault(section, []).append((offset, type, symbol, addend))

    def build(self) -> bytes:
        """Return the bytes of the file."""
        symbols = sorted(self.symbols, key=lambda symbol: symbol.binding != SymbolBinding.LOCAL)
        tables = self._relocation_sections(symbols)
        sections = [NewSection("", type=SectionType.NULL, flags=0), *self.sections, *tables]
        names = _Names()
        symbol_table = self._symbol_section(symbols, names)
        for table in tables:
            table.link = len(sections)
        symbol_table.link = len(sections) + 1
        sections += [symbol_table, NewSection(".strtab", type=SectionType.STRTAB, flags=0)]
        name_offsets = [names.offset(section.name) for section in sections]
        sections[-1].data = bytes(names.data)
        return self._file(sections, name_offsets)

    def _code(self, name: str) -> NewSection:
        for section in self.sections:
            if section.name == name and section.flags & SHF_EXECINSTR:
                return section
        return self.section(name, flags=SHF_ALLOC | SHF_EXECINSTR)

    def _index(self, section: NewSection | None) -> int:
        return self.sections.index(section) + 1 if section else 0

    def _relocation_sections(self, symbols: list[NewSymbol]) -> list[NewSection]:
        tables = []
        for section, entries in self._relocations.items():
            for with_addend in (False, True):
                chosen = [entry for entry in entries if (entry[3] is not None) == with_addend]
                if chosen:
                    tables.append(self._relocation_section(section, chosen, symbols))
        return tables

    def _relocation_section(
        self,
        section: NewSection,
        entries: list[tuple[int, int, NewSymbol, int | None]],
        symbols: list[NewSymbol],
    ) -> NewSection:
        has_addend = entries[0][3] is not None
        data = b""
        for offset, kind, symbol, addend in entries:
            data += struct.pack("<QII", offset, kind, symbols.index(symbol) + 1)
            data += struct.pack("<q", addend) if addend is not None else b""
        return NewSection(
            (".rela" if has_addend else ".rel") + section.name,
            data,
            type=SectionType.RELA if has_addend else SectionType.REL,
            flags=0,
            info=self._index(section),
            entry_size=24 if has_addend else 16,
        )

    def _symbol_section(self, symbols: list[NewSymbol], names: _Names) -> NewSection:
        data = bytes(24)
        for symbol in symbols:
            index = symbol.section_index
            data += struct.pack(
                "<IBBHQQ",
                names.offset(symbol.name),
                symbol.binding << 4 | symbol.type,
                0,
                self._index(symbol.section) if index is None else index,
                symbol.value,
                symbol.size,
            )
        local_count = sum(symbol.binding == SymbolBinding.LOCAL for symbol in symbols)
        return NewSection(
            ".symtab",
            data,
            type=SectionType.SYMTAB,
            flags=0,
            info=1 + local_count,
            entry_size=24,
        )

    def _file(self, sections: list[NewSection], name_offsets: list[int]) -> bytes:
        body = b""
        headers = b""
        for section, name_offset in zip(sections, name_offsets, strict=True):
            headers += struct.pack(
                "<IIQQQQIIQQ",
                name_offset,
                section.type,
                section.flags,
                0,
                64 + len(body),
                section.size or len(section.data),
                section.link,
                section.info,
                8,
                section.entry_size,
            )
            body += section.data + bytes(-len(section.data) % 8)
        ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        fields = (1, self.machine, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64)
        header = ident + struct.pack("<HHIQQQIHHHHHH", *fields, len(sections), len(sections) - 1)
        return header + body + headers


class _Names:
    """The string table, one entry a name."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self._offsets = {"": 0}

    def offset(self, name: str) -> int:
        if name not in self._offsets:
            self._offsets[name] = len(self.data)
            self.data += name.encode() + b"\0"
        return self._offsets[name]


def change_header(
    data: bytes | bytearray, field: tuple[int, str], value: int, *, section: int | None = None
) -> bytes:
    """Return *data* with one field of the ELF header, or of a section's header, set.

    *field* is from `HEADER_FIELDS` or `SECTION_FIELDS`; a bytearray is changed in place too.
    """
    changed = data if isinstance(data, bytearray) else bytearray(data)
    at, form = field
    if section is not None:
        (table,) = struct.unpack_from("<Q", changed, 40)
        at += table + 64 * section
    struct.pack_into(form, changed, at, value)
    return bytes(changed)
