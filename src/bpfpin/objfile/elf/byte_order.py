"""Conversion of big-endian objects (`clang -target bpfeb`) to little-endian.

Such an object can be described, but not loaded. The bytes of headers, symbols, relocations, code,
BTF and old map definitions are swapped. Global data is not, because only the types of the variables
say which bytes belong together.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from bpfpin.objfile.elf.records import (
    SHF_EXECINSTR,
    SectionHeader,
    SectionType,
    extent,
    section_headers,
)

_Fields = tuple[tuple[int, int], ...]  # offset and size

# Members of the ELF header after e_ident, whose bytes have no order, then of a section header, a
# symbol (without its single bytes), relocations, an instruction and a word of BTF.
_HEADER: _Fields = (
    *((16, 2), (18, 2), (20, 4), (24, 8), (32, 8), (40, 8), (48, 4)),
    *((at, 2) for at in range(52, 64, 2)),
)
_SECTION: _Fields = (
    *((0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8)),
)
_SYMBOL: _Fields = ((0, 4), (6, 2), (8, 8), (16, 8))
_RELOCATION: _Fields = ((0, 8), (8, 8))
_WITH_ADDEND: _Fields = ((0, 8), (8, 8), (16, 8))
_INSTRUCTION: _Fields = ((2, 2), (4, 4))
_WORD: _Fields = ((0, 4),)
_TABLES = {
    SectionType.SYMTAB: (24, _SYMBOL),
    SectionType.REL: (16, _RELOCATION),
    SectionType.RELA: (24, _WITH_ADDEND),
}
_HEADER_SIZE = 64
_BIG, _LITTLE = 2, 1  # ELFDATA2MSB, ELFDATA2LSB
_ORDER = 5  # EI_DATA, the byte of the ELF header with the byte order
# Source and destination register are bit-fields of one byte: their order depends on the machine.
_TURNED_NIBBLES = bytes((byte & 0xF) << 4 | byte >> 4 for byte in range(256))
_BTF_HEADER = struct.Struct("<4I")  # type_off, type_len, str_off, str_len, from byte 8 on


def is_big_endian(data: bytes) -> bool:
    """Whether *data* starts with the header of a big-endian ELF file."""
    return len(data) >= _HEADER_SIZE and data[:4] == b"\x7fELF" and data[_ORDER] == _BIG


def to_little_endian(data: bytes) -> bytes:
    """Return the big-endian ELF file *data* as a little-endian one.

    Malformed sections are copied as they are; their reader refuses them.

    Raises:
        ObjectFileError: The file is not a BPF object.
    """
    turned = bytearray(data)
    _turn(turned, 0, _HEADER_SIZE, _HEADER_SIZE, _HEADER)
    turned[_ORDER] = _LITTLE
    # e_shoff and e_shnum, already swapped.
    (table,) = struct.unpack_from("<Q", turned, 40)
    (count,) = struct.unpack_from("<H", turned, 60)
    if _HEADER_SIZE <= table <= len(turned) - 64 * count:
        _turn(turned, table, 64 * count, 64, _SECTION)
    whole = bytes(turned)
    headers, names_index = section_headers(whole)  # checks for overlaps: no byte is swapped twice
    names = extent(whole, headers[names_index])
    for header in headers:
        _turn_section(turned, header, _name(names, header[0]))
    return bytes(turned)


def _name(names: bytes, offset: int) -> bytes:
    return names[offset : offset + 16].partition(b"\0")[0]


def _turn_section(data: bytearray, header: SectionHeader, name: bytes) -> None:
    kind, flags, offset, size = header[1], header[2], header[4], header[5]
    if kind in _TABLES:
        stride, fields = _TABLES[SectionType(kind)]
        _turn(data, offset, size, stride, fields)
    if kind != SectionType.PROGBITS:
        return
    if flags & SHF_EXECINSTR:
        _turn(data, offset, size, 8, _INSTRUCTION)
        end = offset + size
        data[offset + 1 : end : 8] = data[offset + 1 : end : 8].translate(_TURNED_NIBBLES)
    elif name == b".BTF":
        _turn_btf(data, offset, size)
    elif name == b".BTF.ext":
        # magic is a u16; version and flags are bytes, and all the rest are words.
        _turn(data, offset, min(size, 2), 2, ((0, 2),))
        _turn(data, offset + 4, max(0, size - 4), 4, _WORD)
    elif name in (b"maps", b"version") or name.startswith(b"maps/"):
        _turn(data, offset, size, 4, _WORD)


def _turn_btf(data: bytearray, offset: int, size: int) -> None:
    """Swap the header and the types, which consist of 32-bit words; strings stay."""
    if size < 24:
        return
    _turn(data, offset, 2, 2, ((0, 2),))
    _turn(data, offset + 4, 20, 4, _WORD)
    (header_size,) = struct.unpack_from("<I", data, offset + 4)
    types, length, _, _ = _BTF_HEADER.unpack_from(data, offset + 8)
    start = offset + header_size + types
    if start + length <= offset + size and header_size >= 24:
        _turn(data, start, length, 4, _WORD)


def _turn(  # noqa: PLR0917  (where, how much, and what)
    data: bytearray, start: int, size: int, stride: int, fields: Iterable[tuple[int, int]]
) -> None:
    """Swap the bytes of *fields* in each record of *stride* bytes; an incomplete record stays."""
    end = start + size // stride * stride
    record = bytes(data[start:end])
    for at, width in fields:
        for byte in range(width):
            data[start + at + byte : end : stride] = record[at + width - 1 - byte :: stride]
