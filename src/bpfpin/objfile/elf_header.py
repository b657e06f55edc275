"""The headers of an ELF file, checked before anything is cut out of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

from bpfpin.errors import ObjectFileError
from bpfpin.objfile.elf_records import SHN_LORESERVE, SectionType
from bpfpin.objfile.limits import MAX_FILE_BYTES, MAX_MEMORY_BYTES, check_limit

_IDENT = b"\x7fELF"
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_WITHOUT_BYTES = frozenset({SectionType.NOBITS, SectionType.NULL})
_ET_REL = 1
_EM_BPF = 247
_EM_NONE = 0  # of clang before 4.0, and of assemblers that have no number for BPF
_MACHINES = {3: "x86", 8: "MIPS", 21: "PowerPC", 22: "s390", 40: "ARM", 62: "x86-64"} | {
    183: "arm64",
    243: "RISC-V",
    258: "LoongArch",
}

SectionHeader = tuple[int, ...]  # name, type, flags, address, offset, size, link, info, …


def section_headers(data: bytes) -> tuple[list[SectionHeader], int]:
    """Return the section headers, and which section has their names.

    Whatever they say lies within *data*. `ObjectFileError` for what is no BPF object.
    """
    table_offset, count, names_index = _read_header(data)
    end = table_offset + count * _SECTION.size
    if table_offset < _HEADER.size or end > len(data):
        raise ObjectFileError(
            f"cut short: the section headers end at byte {end}, the file at {len(data)}",
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
    """Return where the section headers are, how many, and which section has their names."""
    check_limit(len(data), MAX_FILE_BYTES, "bytes")
    if not data.startswith(_IDENT):
        raise ObjectFileError(
            "not an ELF file", offset=0, hint="compile the source: bpfpin compile FILE.bpf.c"
        )
    if len(data) < _HEADER.size:
        raise ObjectFileError(f"cut short: {len(data)} bytes are less than an ELF header")
    ident, *fields = _HEADER.unpack_from(data)
    _check_kind(ident, fields[0], fields[1])
    table_offset, entry_size, count, names_index = fields[5], *fields[10:]
    if entry_size != _SECTION.size:
        raise ObjectFileError(f"section headers of {entry_size} bytes, not 64", offset=58)
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
        raise ObjectFileError(f"byte order {ident[5]} is none", offset=5, hint=hint)
    if ident[6] != 1:
        raise ObjectFileError(f"ELF version {ident[6]}, not 1", offset=6)
    if machine not in (_EM_BPF, _EM_NONE):
        name = _MACHINES.get(machine, f"machine {machine}")
        raise ObjectFileError(f"made for {name}, not for BPF", offset=18, hint=hint)
    if kind != _ET_REL:
        raise ObjectFileError(f"ELF type {kind}, not a relocatable object", offset=16, hint=hint)


def _check_extents(headers: Sequence[SectionHeader], file_size: int) -> None:
    """Check that sections lie in the file, and that the others are not too large."""
    in_memory = 0
    for index, header in enumerate(headers):
        kind, offset, size = header[1], header[4], header[5]
        if kind in _WITHOUT_BYTES:
            in_memory += size
        elif offset + size > file_size:
            raise ObjectFileError(
                f"cut short: section {index} ends at byte {offset + size}, the file at {file_size}",
                offset=offset,
            )
    check_limit(in_memory, MAX_MEMORY_BYTES, "bytes of memory for sections without bytes")


def _check_overlaps(headers: Sequence[SectionHeader], table_offset: int) -> None:
    """Check that no byte belongs to two sections, or to a section and the headers."""
    places = [(0, _HEADER.size, "the ELF header")]
    places.append((table_offset, len(headers) * _SECTION.size, "the section headers"))
    places += [
        (header[4], header[5], f"section {index}")
        for index, header in enumerate(headers)
        if header[1] not in _WITHOUT_BYTES and header[5]
    ]
    places.sort()
    for (start, size, one), (following, _, other) in pairwise(places):
        if start + size > following:
            raise ObjectFileError(f"{one} and {other} overlap", offset=following)
