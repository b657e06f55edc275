"""The records of an ELF file (elf(5)): sections, symbols, relocations, and the checked headers.

The records of big-endian files are swapped to little-endian before they are read.

The limits keep the description of any file below one second and 256 MiB. Each is many times what
the largest objects in use have. `ObjectLimitError` says which limit was exceeded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

from bpfpin.errors import ObjectFileError, ObjectLimitError

SHF_ALLOC = 0x2
SHF_EXECINSTR = 0x4
SHF_COMPRESSED = 0x800
SHN_UNDEF = 0
SHN_LORESERVE = 0xFF00  # larger section indices have special meanings
SHN_ABS = 0xFFF1
SHN_COMMON = 0xFFF2
SHN_XINDEX = 0xFFFF
MAX_FILE_BYTES = 32 << 20
MAX_MEMORY_BYTES = 64 << 20  # sum of all sections that have no bytes in the file, such as .bss
MAX_SYMBOLS = 100_000
MAX_NAME_BYTES = 1023
MAX_NAMES_BYTES = 8 << 20  # decoded from one string table; names may share tails of a long string
MAX_RELOCATIONS = 1 << 18
MAX_FUNCTIONS = 1 << 14
MAX_INSTRUCTIONS = 1 << 19  # sum of all functions that are read
MAX_LINKED_INSTRUCTIONS = 1 << 22  # sum of all programs, with a copy of every function they call
MAX_BTF_BYTES = 4 << 20
_IDENT = b"\x7fELF"
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_ET_REL = 1
_EM_BPF = 247
_EM_NONE = 0  # written by clang before 4.0, and by assemblers without a number for BPF
_MACHINES = {3: "x86", 8: "MIPS", 21: "PowerPC", 22: "s390", 40: "ARM", 62: "x86-64"} | {
    183: "arm64",
    243: "RISC-V",
    258: "LoongArch",
}
SectionHeader = tuple[int, ...]  # name, type, flags, address, offset, size, link, info, …
_SwappedFields = tuple[tuple[int, int], ...]  # offset and size
# Members of the ELF header after e_ident, whose bytes have no order, then of a section header, a
# symbol (without its single bytes), relocations, an instruction and a word of BTF.
_HEADER_FIELDS: _SwappedFields = (
    *((16, 2), (18, 2), (20, 4), (24, 8), (32, 8), (40, 8), (48, 4)),
    *((at, 2) for at in range(52, 64, 2)),
)
_SECTION_FIELDS: _SwappedFields = (
    *((0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8)),
)
_SYMBOL_FIELDS: _SwappedFields = ((0, 4), (6, 2), (8, 8), (16, 8))
_RELOCATION_FIELDS: _SwappedFields = ((0, 8), (8, 8))
_WITH_ADDEND_FIELDS: _SwappedFields = ((0, 8), (8, 8), (16, 8))
_INSTRUCTION_FIELDS: _SwappedFields = ((2, 2), (4, 4))
_WORD_FIELDS: _SwappedFields = ((0, 4),)
_HEADER_SIZE = 64
_BIG, _LITTLE = 2, 1  # ELFDATA2MSB, ELFDATA2LSB
_ORDER = 5  # EI_DATA, the byte of the ELF header with the byte order
# Source and destination register are bit-fields of one byte: their order depends on the machine.
_TURNED_NIBBLES = bytes((byte & 0xF) << 4 | byte >> 4 for byte in range(256))
_BTF_HEADER = struct.Struct("<4I")  # type_off, type_len, str_off, str_len, from byte 8 on


class SectionType(IntEnum):
    """The type of a section (SHT_*); others occur as plain numbers."""

    NULL = 0
    PROGBITS = 1
    SYMTAB = 2
    STRTAB = 3
    RELA = 4
    NOBITS = 8
    REL = 9


class SymbolType(IntEnum):
    """The type of a symbol (STT_*); others occur as plain numbers."""

    NOTYPE = 0
    OBJECT = 1
    FUNCTION = 2
    SECTION = 3
    FILE = 4


class SymbolBinding(IntEnum):
    """The binding of a symbol (STB_*); others occur as plain numbers."""

    LOCAL = 0
    GLOBAL = 1
    WEAK = 2


class Section(NamedTuple):
    """One section; *data* is empty for `NOBITS`, regardless of *size*."""

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
    """One symbol; *section_index* is 0 if undefined, and special from `SHN_LORESERVE` on."""

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
        """Whether it is static in the source."""
        return self.binding == SymbolBinding.LOCAL


class Relocation(NamedTuple):
    """A reference to *symbol* at *offset* of a section.

    *addend* is None if the bytes at *offset* contain it (SHT_REL).
    """

    offset: int
    type: int
    symbol: Symbol
    addend: int | None


def check_limit(asked: int, limit: int, what: str, *, section: str = "", symbol: str = "") -> None:
    """Raise `ObjectLimitError` if there are more than *limit* of *what*."""
    if asked > limit:
        message = f"{asked} {what}; at most {limit} are read"
        error = ObjectLimitError(message, limit=limit, asked=asked)
        error.section, error.symbol = section, symbol
        raise error


_WITHOUT_BYTES = frozenset({SectionType.NOBITS, SectionType.NULL})


def section_headers(data: bytes) -> tuple[list[SectionHeader], int]:
    """Return the section headers and the index of the section with their names.

    The sections lie within *data* and do not overlap.

    Raises:
        ObjectFileError: The file is not a BPF object.
    """
    table_offset, count, names_index = _read_header(data)
    end = table_offset + count * _SECTION.size
    if table_offset < _HEADER.size or end > len(data):
        raise ObjectFileError(
            f"truncated: the section headers end at byte {end}, the file at {len(data)}",
            offset=table_offset,
        )
    headers = list(_SECTION.iter_unpack(data[table_offset:end]))
    _check_extents(headers, len(data))
    _check_overlaps(headers, table_offset)
    return headers, names_index


def extent(data: bytes, header: SectionHeader) -> bytes:
    """Return the bytes of one section."""
    if header[1] in _WITHOUT_BYTES:
        return b""
    return data[header[4] : header[4] + header[5]]


def _read_header(data: bytes) -> tuple[int, int, int]:
    """Return offset and number of the section headers, and the index of their names' section."""
    check_limit(len(data), MAX_FILE_BYTES, "bytes")
    if not data.startswith(_IDENT):
        raise ObjectFileError(
            "not an ELF file", offset=0, hint="compile the source: bpfpin compile FILE.bpf.c"
        )
    if len(data) < _HEADER.size:
        raise ObjectFileError(f"truncated: {len(data)} bytes are less than an ELF header")
    ident, *fields = _HEADER.unpack_from(data)
    _check_kind(ident, fields[0], fields[1])
    table_offset, entry_size, count, names_index = fields[5], *fields[10:]
    if entry_size != _SECTION.size:
        raise ObjectFileError(f"section headers of {entry_size} bytes, not 64", offset=58)
    # A larger number would be in section 0 (e_shnum 0); no BPF object needs that.
    if not 0 < count < SHN_LORESERVE:
        raise ObjectFileError(f"{count} sections; a BPF object has 1 to 65,279", offset=60)
    if names_index >= count:
        raise ObjectFileError(f"section names in section {names_index} of {count}", offset=62)
    return table_offset, count, names_index


def _check_kind(ident: bytes, kind: int, machine: int) -> None:
    hint = "compile it with: clang -O2 -g -target bpfel -c"
    if ident[4] != 2:
        raise ObjectFileError("not a 64-bit ELF file", offset=4, hint=hint)
    if ident[5] != 1:
        raise ObjectFileError(f"unknown byte order {ident[5]}", offset=5, hint=hint)
    if ident[6] != 1:
        raise ObjectFileError(f"ELF version {ident[6]}, not 1", offset=6)
    if machine not in (_EM_BPF, _EM_NONE):
        name = _MACHINES.get(machine, f"machine {machine}")
        raise ObjectFileError(f"made for {name}, not for BPF", offset=18, hint=hint)
    if kind != _ET_REL:
        raise ObjectFileError(f"ELF type {kind}, not a relocatable object", offset=16, hint=hint)


def _check_extents(headers: Sequence[SectionHeader], file_size: int) -> None:
    """Check that sections lie in the file, and that those without bytes are not too large."""
    in_memory = 0
    for index, header in enumerate(headers):
        kind, offset, size = header[1], header[4], header[5]
        if kind in _WITHOUT_BYTES:
            in_memory += size
        # Python's integers do not overflow, so the sum of two u64 needs no further check.
        elif offset + size > file_size:
            raise ObjectFileError(
                f"truncated: section {index} ends at byte {offset + size}, the file at {file_size}",
                offset=offset,
            )
    check_limit(in_memory, MAX_MEMORY_BYTES, "bytes of memory for sections without bytes")


def _check_overlaps(headers: Sequence[SectionHeader], table_offset: int) -> None:
    """Check that no byte belongs to two sections, or to a section and the headers."""
    # Otherwise many sections could share the same bytes, and the work would exceed the file's size.
    spans = [(0, _HEADER.size, "the ELF header")]
    spans.append((table_offset, len(headers) * _SECTION.size, "the section headers"))
    spans += [
        (header[4], header[5], f"section {index}")
        for index, header in enumerate(headers)
        if header[1] not in _WITHOUT_BYTES and header[5]
    ]
    spans.sort()
    for (start, size, title), (following, _, other) in pairwise(spans):
        if start + size > following:
            raise ObjectFileError(f"{title} and {other} overlap", offset=following)


# How many bytes the records of a table have, and the numbers in them.
_TABLES_TO_SWAP = {
    SectionType.SYMTAB: (24, _SYMBOL_FIELDS),
    SectionType.REL: (16, _RELOCATION_FIELDS),
    SectionType.RELA: (24, _WITH_ADDEND_FIELDS),
}


def is_big_endian(data: bytes) -> bool:
    """Whether *data* starts with the header of a big-endian ELF file."""
    return len(data) >= _HEADER_SIZE and data[:4] == b"\x7fELF" and data[_ORDER] == _BIG


def to_little_endian(data: bytes) -> bytes:
    """Return the big-endian ELF file *data* (`clang -target bpfeb`) as a little-endian one.

    Such an object can be described, but not loaded. The bytes of headers, symbols, relocations,
    code, BTF and old map definitions are swapped. Global data is not, because only the types of
    the variables say which bytes belong together.

    Malformed sections are copied as they are; their reader refuses them.

    Raises:
        ObjectFileError: The file is not a BPF object.
    """
    turned = bytearray(data)
    _swap(turned, 0, _HEADER_SIZE, _HEADER_SIZE, _HEADER_FIELDS)
    turned[_ORDER] = _LITTLE
    # e_shoff and e_shnum, already swapped.
    (table,) = struct.unpack_from("<Q", turned, 40)
    (count,) = struct.unpack_from("<H", turned, 60)
    if _HEADER_SIZE <= table <= len(turned) - 64 * count:
        _swap(turned, table, 64 * count, 64, _SECTION_FIELDS)
    whole = bytes(turned)
    headers, names_index = section_headers(whole)  # checks for overlaps: no byte is swapped twice
    names = extent(whole, headers[names_index])
    for header in headers:
        _swap_section(turned, header, _name_at(names, header[0]))
    return bytes(turned)


def _name_at(names: bytes, offset: int) -> bytes:
    return names[offset : offset + 16].partition(b"\0")[0]


def _swap_section(data: bytearray, header: SectionHeader, name: bytes) -> None:
    kind, flags, offset, size = header[1], header[2], header[4], header[5]
    if kind in _TABLES_TO_SWAP:
        stride, fields = _TABLES_TO_SWAP[SectionType(kind)]
        _swap(data, offset, size, stride, fields)
    if kind != SectionType.PROGBITS:
        return
    if flags & SHF_EXECINSTR:
        _swap(data, offset, size, 8, _INSTRUCTION_FIELDS)
        end = offset + size
        data[offset + 1 : end : 8] = data[offset + 1 : end : 8].translate(_TURNED_NIBBLES)
    elif name == b".BTF":
        _swap_btf(data, offset, size)
    elif name == b".BTF.ext":
        # magic is a u16; version and flags are bytes, and all the rest are words.
        _swap(data, offset, min(size, 2), 2, ((0, 2),))
        _swap(data, offset + 4, max(0, size - 4), 4, _WORD_FIELDS)
    elif name in (b"maps", b"version") or name.startswith(b"maps/"):
        _swap(data, offset, size, 4, _WORD_FIELDS)


def _swap_btf(data: bytearray, offset: int, size: int) -> None:
    """Swap the header and the types, which consist of 32-bit words; strings stay."""
    if size < 24:
        return
    _swap(data, offset, 2, 2, ((0, 2),))
    _swap(data, offset + 4, 20, 4, _WORD_FIELDS)
    (header_size,) = struct.unpack_from("<I", data, offset + 4)
    types, length, _, _ = _BTF_HEADER.unpack_from(data, offset + 8)
    start = offset + header_size + types
    if start + length <= offset + size and header_size >= 24:
        _swap(data, start, length, 4, _WORD_FIELDS)


def _swap(  # noqa: PLR0917  (where, how much, and what)
    data: bytearray, start: int, size: int, stride: int, fields: Iterable[tuple[int, int]]
) -> None:
    """Swap the bytes of *fields* in each record of *stride* bytes; an incomplete record stays."""
    end = start + size // stride * stride
    record = bytes(data[start:end])
    for at, width in fields:
        for byte in range(width):
            data[start + at + byte : end : stride] = record[at + width - 1 - byte :: stride]
