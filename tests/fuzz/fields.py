"""Where every field of an object is, so that each can be set to what it must not be."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bpfpin.objfile.elf.file import Elf, SectionType
from support.elf_writer import HEADER_FIELDS, SECTION_FIELDS

_SYMBOL = ((0, "<I"), (4, "B"), (5, "B"), (6, "<H"), (8, "<Q"), (16, "<Q"))
_RELOCATION = ((0, "<Q"), (8, "<I"), (12, "<I"))
_INSTRUCTION = ((0, "B"), (1, "B"), (2, "<H"), (4, "<I"))
_WORD = ((0, "<I"),)
_BTF_HEADER = ((0, "<H"), (2, "B"), (3, "B"), *((4 * at, "<I") for at in range(1, 8)))
_UNREAD = (".debug", ".rel.debug", ".rel.BTF", ".llvm", ".eh_frame", ".rel.eh_frame")


class Field(NamedTuple):
    """A number of the file: byte offset and struct format."""

    at: int
    form: str

    def put(self, data: bytearray, value: int) -> None:
        """Write the low bits of *value*; what was cut off before leaves the field out."""
        size = struct.calcsize(self.form)
        if self.at + size <= len(data):
            data[self.at : self.at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")

    def value(self, data: bytes | bytearray) -> int:
        """Return what is there."""
        return int.from_bytes(data[self.at : self.at + struct.calcsize(self.form)], "little")


class Extent(NamedTuple):
    """A section that is read: where its bytes are."""

    section_index: int
    name: str
    start: int
    size: int


def extents(data: bytes) -> list[Extent]:
    """Return the sections with bytes that a reader looks into."""
    (table,) = struct.unpack_from("<Q", data, 40)
    found = []
    for section in Elf.parse(data).sections:
        (start,) = struct.unpack_from("<Q", data, table + 64 * section.index + 24)
        if section.data and not section.name.startswith(_UNREAD):
            found.append(Extent(section.index, section.name, start, len(section.data)))
    return found


def fields(data: bytes) -> list[Field]:
    """Return the fields of the headers and of all that is read."""
    elf = Elf.parse(data)
    (table,) = struct.unpack_from("<Q", data, 40)
    headers = range(table, table + 64 * len(elf.sections), 64)
    found = [Field(at, form) for at, form in HEADER_FIELDS.values()]
    found += _records(SECTION_FIELDS.values(), headers)
    for extent in extents(data):
        section = elf.sections[extent.section_index]
        found += _fields_of(section.type, extent, is_code=section.is_code)
    return found


def _fields_of(kind: int, extent: Extent, *, is_code: bool) -> Iterator[Field]:
    start, end = extent.start, extent.start + extent.size
    if kind == SectionType.SYMTAB:
        return _records(_SYMBOL, range(start, end, 24))
    if kind == SectionType.REL:
        return _records(_RELOCATION, range(start, end, 16))
    if kind == SectionType.RELA:
        return _records((*_RELOCATION, (16, "<Q")), range(start, end, 24))
    if is_code:
        return _records(_INSTRUCTION, range(start, end, 8))
    if extent.name.startswith(".BTF"):
        words = _records(_WORD, range(start + 24, end, 4))
        return iter([*_records(_BTF_HEADER, [start]), *words])
    return _records(_WORD, range(start, end, 4))


def _records(form: Iterable[tuple[int, str]], starts: Iterable[int]) -> Iterator[Field]:
    listed = tuple(form)
    return (Field(start + at, letter) for start in starts for at, letter in listed)
