"""A reader of programs and shared libraries: where their functions, segments and notes are.

The format is that of elf(5), 32 and 64 bits, in the byte order of the machine. Files may be those
of any user, so every offset and size is checked. They are read and not mapped: a mapped file
that is truncated ends its reader by SIGBUS.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple, Self

from bpfpin.errors import ObjectFileError
from bpfpin.objfile.elf.records import (
    SHN_UNDEF,
    SHN_XINDEX,
    SectionType,
    SymbolBinding,
    check_limit,
)
from bpfpin.records import dataclass

MAX_TABLE_BYTES: Final = 1 << 30  # of one symbol table or string table
MAX_SECTIONS: Final = 1 << 20
_SEARCHES: Final = 4  # of the bytes of a table, before reading all of its entries is faster
_LITTLE: Final = 1  # ELFDATA2LSB
PT_LOAD: Final = 1
_EXECUTABLE: Final = 1  # PF_X
_FUNCTION, _INDIRECT = 2, 10  # STT_FUNC, STT_GNU_IFUNC
_FUNCTIONS: Final = frozenset({_FUNCTION, _INDIRECT})
_VARIABLES: Final = frozenset({0, 1})  # STT_NOTYPE (of assembly), STT_OBJECT
_SYMBOLS, _DYNAMIC_SYMBOLS = 2, 11  # SHT_SYMTAB, SHT_DYNSYM
_VERSIONS, _VERSION_DEFINITIONS = 0x6FFFFFFF, 0x6FFFFFFD  # SHT_GNU_versym, SHT_GNU_verdef
_HIDDEN: Final = 0x8000  # of an entry of .gnu.version: not the default version
_DEFINITION = struct.Struct("<HHHHIII")  # Elf64_Verdef, and the first word of its Elf64_Verdaux
_WORD = struct.Struct("<I")
_ABOUT: Final = 2  # letters by which a misspelled name is too long or too short
_NOTE = struct.Struct("<III")
_BASE_VERSION: Final = 1  # VER_NDX_GLOBAL: the file itself, no version


class _ClassLayouts(NamedTuple):
    """The layouts of one class of files: e_entry and on, program header, section header, symbol."""

    header: struct.Struct
    segment: struct.Struct
    section: struct.Struct
    symbol: struct.Struct


def _form(header: str, segment: str, section: str, symbol: str) -> _ClassLayouts:
    return _ClassLayouts(
        *(struct.Struct(f"<{form}") for form in (header, segment, section, symbol))
    )


_NARROW: Final = _form("IIIIHHHHHH", "8I", "10I", "IIIBBH")
_WIDE: Final = _form("QQQIHHHHHH", "IIQQQQQQ", "IIQQQQIIQQ", "IBBHQQ")
_FORMS: Final = {1: _NARROW, 2: _WIDE}  # by EI_CLASS


class LoadSegment(NamedTuple):
    """A part of the file that is loaded (PT_LOAD): *size* bytes at *offset*, to *address*."""

    offset: int
    address: int
    size: int
    is_executable: bool


@dataclass(frozen=True, slots=True)
class FunctionSymbol:
    """A function of the file.

    *version* is that of a symbol with one. *is_default*: it is meant where no version is named.
    Of an *is_indirect* function (IFUNC) the code at *address* chooses the function at run time.
    """

    name: str
    address: int
    size: int
    binding: int
    version: str = ""
    is_default: bool = True
    is_indirect: bool = False

    @property
    def rank(self) -> int:
        """The preference among symbols of one name: 0 is first."""
        order = (SymbolBinding.GLOBAL, SymbolBinding.WEAK, SymbolBinding.LOCAL)
        return order.index(SymbolBinding(self.binding)) if self.binding in order else len(order)


class _SectionHeader(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class _SymbolTable(NamedTuple):
    entries: bytes
    strings: bytes
    is_dynamic: bool

    def number(self, form: _ClassLayouts) -> int:
        """Return how many symbols it has."""
        return len(self.entries) // form.symbol.size


class Executable:
    """A program or shared library, open until `close`.

    Attributes:
        path: The path, for messages.
        machine: The number of its machine (EM_*).
        segments: The parts that are loaded.
        file_id: Device and inode.
    """

    def __init__(self, path: Path) -> None:
        """Open the file at *path* and read its headers; `ObjectFileError` if it has none."""
        self.path = str(path)
        with ExitStack() as undo:
            self._file = undo.enter_context(path.open("rb"))
            status = os.fstat(self._file.fileno())
            self.file_id = (status.st_dev, status.st_ino)
            self._size = status.st_size
            ident = self._read(0, 24, "header")
            if ident[:4] != b"\x7fELF":
                raise self.error("not an ELF file", hint="a script has no functions to probe")
            if ident[5] != _LITTLE or ident[4] not in _FORMS:
                raise self.error("not a file for this machine, by its class or byte order")
            self._form = _FORMS[ident[4]]
            self.machine = int.from_bytes(ident[18:20], "little")
            header = self._form.header.unpack(self._read(24, self._form.header.size, "header"))
            _, segments_at, sections_at, _, _, segment_size, segments, _, sections, names = header
            self.segments = tuple(self._read_segments(segments_at, segments, segment_size))
            self._sections = self._read_sections(sections_at, sections, names)
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def is_wide(self) -> bool:
        """Whether addresses have 64 bits."""
        return self._form is _WIDE

    def error(self, message: str, *, section: str = "", hint: str = "") -> ObjectFileError:
        """Return an error that names this file, for the caller to raise."""
        return ObjectFileError(message, path=self.path, section=section, hint=hint)

    def file_offset(self, address: int, *, is_code: bool = True) -> int | None:
        """Return where the byte that is loaded to *address* is in the file; None for nowhere.

        Of segments with code alone, unless *is_code* is false.
        """
        for segment in self.segments:
            distance = address - segment.address
            if 0 <= distance < segment.size and (segment.is_executable or not is_code):
                return segment.offset + distance
        return None

    def has_code_at(self, offset: int) -> bool:
        """Whether the byte at *offset* of the file is loaded as code."""
        return any(
            segment.is_executable and 0 <= offset - segment.offset < segment.size
            for segment in self.segments
        )

    def symbols(self, name: str) -> list[FunctionSymbol]:
        """Return the functions called *name*, of all versions, those of .symtab first."""
        symbols: list[FunctionSymbol] = []
        for table in self._symbol_tables:
            symbols += self._functions_at(table, self._indices(table, name))
        return symbols

    def variable_address(self, name: str) -> int | None:
        """Return the address of the variable called *name*, None if it is not known which."""
        addresses = {
            symbol.address
            for table in self._symbol_tables
            for symbol in self._symbols_at(table, self._indices(table, name), _VARIABLES)
        }
        return addresses.pop() if len(addresses) == 1 else None

    def _indices(self, table: _SymbolTable, name: str) -> list[int]:
        """Return the numbers of the symbols called *name*, of all types."""
        offsets = _offsets_of(table.strings, name.encode())
        size = self._form.symbol.size
        # No object is made for a symbol with another name: a large program has some 100,000. Each
        # begins with the offset of its name (st_name), which is searched as bytes.
        if len(offsets) <= _SEARCHES:
            places = [at for it in offsets for at in _places(table.entries, _WORD.pack(it))]
            return sorted(at // size for at in places if at % size == 0)
        # The name is the end of many others.
        words = size // _WORD.size
        first_words = memoryview(table.entries).cast("I")[::words].tolist()
        wanted = offsets.__contains__
        return [index for index, word in enumerate(first_words) if wanted(word)]

    def functions(self, pattern: re.Pattern[str]) -> list[FunctionSymbol]:
        """Return the functions whose whole name *pattern* matches, each address once."""
        by_address: dict[int, FunctionSymbol] = {}
        for table in self._symbol_tables:
            for symbol in self._functions_at(table, range(table.number(self._form))):
                if symbol.address not in by_address and pattern.fullmatch(symbol.name):
                    by_address[symbol.address] = symbol
        return list(by_address.values())

    def has_symbols(self) -> bool:
        """Whether it has a symbol table, of any kind."""
        return any(table.entries for table in self._symbol_tables)

    def names_like(self, name: str, *, count: int) -> list[str]:
        """Return up to *count* names of functions that contain *name* or begin alike."""
        core = re.escape(name.strip("_") or name)
        head = re.escape(name[: max(4, len(name) // 2)])
        like = re.compile(f"(?i).*{core}.*|{head}.*", re.DOTALL)
        return sorted({symbol.name for symbol in self.functions(like)})[:count]

    def names_near(self, name: str) -> list[str]:
        """Return the names of functions that *name* may be a misspelling of.

        They contain it, begin alike, or have its first two letters and about its length.
        """
        core, two = re.escape(name.strip("_") or name), re.escape(name[:2])
        head = re.escape(name[: max(4, len(name) // 2)])
        rest = len(name[2:])
        length = f"{max(0, rest - _ABOUT)},{rest + _ABOUT}"
        like = re.compile(f"(?i).*{core}.*|{head}.*|{two}.{{{length}}}", re.DOTALL)
        return sorted({symbol.name for symbol in self.functions(like)})

    def section_address(self, name: str) -> int | None:
        """Return the address of the section called *name*, None if there is no such section."""
        section = self._sections.get(name)
        return None if section is None else section.address

    def notes(self, section: str, owner: bytes, kind: int) -> Iterator[bytes]:
        """Yield the contents of the notes of *owner* and *kind* in the section called *section*."""
        header = self._sections.get(section)
        data = b"" if header is None else self._contents(header, section)
        position = 0
        while position + _NOTE.size <= len(data):
            owner_size, size, note_kind = _NOTE.unpack_from(data, position)
            owner_at = position + _NOTE.size
            at = owner_at + _aligned(owner_size)
            if at + size > len(data):
                raise self.error("a note beyond the end", section=section)
            if note_kind == kind and data[owner_at : owner_at + owner_size].rstrip(b"\0") == owner:
                yield data[at : at + size]
            position = at + _aligned(size)

    def _read(self, offset: int, size: int, what: str) -> bytes:
        check_limit(size, MAX_TABLE_BYTES, f"bytes of {what} in {self.path}")
        data = b""
        # The length is compared, too: the file may have become shorter since.
        if offset + size <= self._size:
            data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise self.error(f"the {what} is beyond the end of the file")
        return data

    def _read_segments(self, at: int, count: int, size: int) -> Iterator[LoadSegment]:
        form = self._form.segment
        if count and size != form.size:
            raise self.error(f"program headers of {size} bytes")
        for entry in form.iter_unpack(self._read(at, count * form.size, "program headers")):
            if self.is_wide:
                kind, flags, offset, address, _, file_size, *_ = entry
            else:
                kind, offset, address, _, file_size, _, flags, _ = entry
            if kind == PT_LOAD:
                yield LoadSegment(offset, address, file_size, bool(flags & _EXECUTABLE))

    def _read_sections(self, at: int, count: int, names: int) -> dict[str, _SectionHeader]:
        """Return the sections by name, the first of each name."""
        form = self._form.section
        self._headers: list[_SectionHeader] = []
        if not at:
            return {}
        first = _SectionHeader(*form.unpack(self._read(at, form.size, "section headers")))
        # More than SHN_LORESERVE sections: the numbers are in the first header (elf(5)).
        count = count or first.size
        names = first.link if names == SHN_XINDEX else names
        check_limit(count, MAX_SECTIONS, f"sections of {self.path}")
        data = self._read(at, count * form.size, "section headers")
        self._headers = [_SectionHeader(*entry) for entry in form.iter_unpack(data)]
        if names >= len(self._headers):
            return {}
        strings = self._contents(self._headers[names], "section names")
        sections: dict[str, _SectionHeader] = {}
        for header in self._headers:
            sections.setdefault(_text(strings, header.name), header)
        return sections

    def _contents(self, header: _SectionHeader, what: str) -> bytes:
        if header.type == SectionType.NOBITS:
            return b""
        return self._read(header.offset, header.size, what)

    @cached_property
    def _symbol_tables(self) -> tuple[_SymbolTable, ...]:
        return tuple(self._read_tables())

    def _read_tables(self) -> Iterator[_SymbolTable]:
        for header in sorted(self._headers, key=lambda header: header.type):
            if header.type not in (_SYMBOLS, _DYNAMIC_SYMBOLS) or not header.size:
                continue
            if header.link >= len(self._headers):
                raise self.error(f"symbol names in section {header.link}, which does not exist")
            entries = self._contents(header, "symbol table")
            strings = self._contents(self._headers[header.link], "symbol names")
            # Of files for debugging alone the sections have no bytes (objcopy --only-keep-debug).
            whole = len(entries) - len(entries) % self._form.symbol.size
            is_dynamic = header.type == _DYNAMIC_SYMBOLS
            yield _SymbolTable(entries[:whole], strings, is_dynamic)

    def _functions_at(
        self, table: _SymbolTable, indices: Iterable[int]
    ) -> Iterator[FunctionSymbol]:
        """Yield the functions that are defined among the symbols *indices* of a table."""
        return self._symbols_at(table, indices, _FUNCTIONS)

    def _symbols_at(
        self, table: _SymbolTable, indices: Iterable[int], kinds: Collection[int]
    ) -> Iterator[FunctionSymbol]:
        form, entries = self._form.symbol, table.entries
        versions, definitions = self._versions if table.is_dynamic else (b"", {})
        for index in indices:
            entry = form.unpack_from(entries, index * form.size)
            if self.is_wide:
                name, info, _, section, address, size = entry
            else:
                name, address, size, info, _, section = entry
            kind = info & 0xF
            if section == SHN_UNDEF or kind not in kinds:
                continue
            number = 0
            if 2 * index + 2 <= len(versions):
                number = int.from_bytes(versions[2 * index : 2 * index + 2], "little")
            yield FunctionSymbol(
                _text(table.strings, name),
                address,
                size,
                info >> 4,
                definitions.get(number & ~_HIDDEN, ""),
                not number & _HIDDEN,
                kind == _INDIRECT,
            )

    @cached_property
    def _versions(self) -> tuple[bytes, dict[int, str]]:
        """Return .gnu.version, the number of each dynamic symbol's version, and their names."""
        numbers, names = b"", dict[int, str]()
        for header in self._headers:
            if header.type == _VERSIONS:
                numbers = self._contents(header, ".gnu.version")
            elif header.type == _VERSION_DEFINITIONS and header.link < len(self._headers):
                data = self._contents(header, ".gnu.version_d")
                strings = self._contents(self._headers[header.link], "version names")
                names = dict(_version_names(data, strings))
        return numbers, names


def _version_names(data: bytes, strings: bytes) -> Iterator[tuple[int, str]]:
    """Yield number and name of each version in .gnu.version_d (Elf64_Verdef, Elf64_Verdaux)."""
    position = 0
    # An entry that leads back is not followed: each step goes forward.
    while position + _DEFINITION.size <= len(data):
        _, _, number, _, _, names_at, following = _DEFINITION.unpack_from(data, position)
        name_at = position + names_at
        if number != _BASE_VERSION and name_at + _WORD.size <= len(data):
            yield number, _text(strings, _WORD.unpack_from(data, name_at)[0])
        if not following:
            return
        position += following


def _offsets_of(strings: bytes, name: bytes) -> frozenset[int]:
    """Return the offsets at which a string table has *name*, also as the end of another name."""
    return frozenset(_places(strings, name + b"\0"))


def _places(data: bytes, part: bytes) -> Iterator[int]:
    position = -1
    while (position := data.find(part, position + 1)) >= 0:
        yield position


def _text(strings: bytes, offset: int) -> str:
    end = strings.find(b"\0", offset)
    return strings[offset:end].decode(errors="replace") if end >= 0 else ""


def _aligned(size: int) -> int:
    return -(-size // 4) * 4
