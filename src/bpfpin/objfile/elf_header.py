"""The headers of an ELF file, checked before anything is cut out of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from bpfpin.errors import ObjectFileError
from bpfpin.objfile.elf_records import SHN_LORESERVE, SectionType

MAX_SIZE_BYTES = 64 << 20  # of the file, and of all sections without bytes together

_IDENT = b"\x7fELF"
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_WITHOUT_BYTES = frozenset({SectionType.NOBITS, SectionType.NULL})
_ET_REL = 1
_EM_BPF = 247
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
    return headers, names_index


def extent(data: bytes, header: SectionHeader) -> bytes:
    """Return the bytes of one section."""
    if header[1] in _WITHOUT_BYTES:
        return b""
    return data[header[4] : header[4] + header[5]]


def _read_header(data: bytes) -> tuple[int, int, int]:
    """Return where the section headers are, how many, and which section has their names."""
    if len(data) > MAX_SIZE_BYTES:
        raise ObjectFileError(f"{len(data)} bytes; at most {MAX_SIZE_BYTES} are read")
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
        raise ObjectFileError("big-endian; only little-endian is read", offset=5, hint=hint)
    if ident[6] != 1:
        raise ObjectFileError(f"ELF version {ident[6]}, not 1", offset=6)
    if machine != _EM_BPF:
        name = _MACHINES.get(machine, f"machine {machine}")
        raise ObjectFileError(f"made for {name}, not for BPF", offset=18, hint=hint)
    if kind != _ET_REL:
        raise ObjectFileError(f"ELF type {kind}, not a relocatable object", offset=16, hint=hint)


def _check_extents(headers: Sequence[SectionHeader], file_size: int) -> None:
    """Check that sections lie in the file, and that together they are no larger than it."""
    total = {True: 0, False: 0}
    for index, header in enumerate(headers):
        kind, offset, size = header[1], header[4], header[5]
        has_bytes = kind not in _WITHOUT_BYTES
        if has_bytes and offset + size > file_size:
            raise ObjectFileError(
                f"cut short: section {index} ends at byte {offset + size}, the file at {file_size}",
                offset=offset,
            )
        total[has_bytes] += size
    if total[True] > file_size:
        raise ObjectFileError("sections overlap: together they are larger than the file")
    if total[False] > MAX_SIZE_BYTES:
        raise ObjectFileError(f"sections without bytes take {total[False]} bytes of memory")
