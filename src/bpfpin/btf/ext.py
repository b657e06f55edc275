"""Section `.BTF.ext`: function infos, line infos and CO-RE relocations of the instructions.

All three parts have one format: the size of a record, then for each section its name, the number of
records and the records (Documentation/bpf/btf.rst, ".BTF.ext section").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import field
from typing import Any

from bpfpin.btf.btf import Btf
from bpfpin.errors import ObjectFileError, ObjectLimitError
from bpfpin.records import dataclass
from bpfpin.uapi import BTF_MAGIC, BTF_VERSION

# Limits for untrusted files, many times the numbers of the largest objects in use.
MAX_RECORDS = 1 << 18  # in one part
MAX_RELOCATIONS = 1 << 15  # lower, because the path of each is followed in two type tables

_HEADER = struct.Struct("<HBBI")
_PART = struct.Struct("<II")  # offset and size of one part
_BLOCK = struct.Struct("<II")
_FUNCTION = struct.Struct("<II")
_FOUR_WORDS = struct.Struct("<IIII")
_RELOCATION_PART = 2


@dataclass(frozen=True)
class BtfExt:
    """The records by section name; each starts with the instruction's byte offset in the section.

    Attributes:
        functions: Offset, type id of the function.
        lines: Offset, string offset of the file name, string offset of the source line,
            line number << 10 | column.
        relocations: CO-RE relocations: offset, type id, path into the type (`0:1:2`), kind
            (enum bpf_core_relo_kind).
    """

    functions: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    lines: dict[str, list[tuple[int, int, int, int]]] = field(default_factory=dict)
    relocations: dict[str, list[tuple[int, int, str, int]]] = field(default_factory=dict)


def parse_ext(data: bytes, btf: Btf) -> BtfExt:
    """Return the records of the section *data*; their names are strings of *btf*.

    Raises:
        ObjectFileError: The section is malformed.
    """
    header_size = _header_size(data)
    ext = BtfExt()
    for section, records in _records(data, 0, _FUNCTION, btf):
        ext.functions.setdefault(section, []).extend(records)
    for section, records in _records(data, 1, _FOUR_WORDS, btf):
        ext.lines.setdefault(section, []).extend(records)
    # Headers written before CO-RE have two parts.
    if header_size < _HEADER.size + 3 * _PART.size:
        return ext
    for section, records in _records(data, _RELOCATION_PART, _FOUR_WORDS, btf):
        ext.relocations.setdefault(section, []).extend(
            [
                (offset, type_id, btf.string(access), kind)
                for offset, type_id, access, kind in records
            ]
        )
    return ext


def _header_size(data: bytes) -> int:
    least = _HEADER.size + 2 * _PART.size
    if len(data) < least:
        raise _malformed(f"{len(data)} bytes are too few, the header takes {least}")
    magic, version, flags, size = _HEADER.unpack_from(data)
    if magic != BTF_MAGIC or version != BTF_VERSION or flags:
        raise _malformed(f"magic {magic:#06x}, version {version}, flags {flags:#x} are unknown", 0)
    if not least <= size <= len(data):
        raise _malformed(f"the header claims {size} of {len(data)} bytes", 4)
    return int(size)


def _records(
    data: bytes, part: int, record: struct.Struct, btf: Btf
) -> Iterator[tuple[str, Iterator[Any]]]:
    """Yield name and records of each section; unknown words at the end of a record are skipped."""
    start, size = _PART.unpack_from(data, _HEADER.size + part * _PART.size)
    if size == 0:
        return
    at = start + _header_size(data)
    end = at + size
    if end > len(data) or size < 4:
        raise _malformed(f"a part of {size} bytes ends at {end:#x} of {len(data):#x}", at)
    step = int.from_bytes(data[at : at + 4], "little")
    if step < record.size or step % 4:
        raise _malformed(f"records of {step} bytes; expected {record.size}", at)
    at += 4
    # Newer compilers may write longer records; the file says their size, so the rest is skipped.
    whole = struct.Struct(f"{record.format}{step - record.size}x")
    _check_count(size // step, MAX_RELOCATIONS if part == _RELOCATION_PART else MAX_RECORDS)
    while at < end:
        count = _block_count(data, at, end, step)
        section = btf.string(_BLOCK.unpack_from(data, at)[0])
        at += _BLOCK.size
        yield section, whole.iter_unpack(data[at : at + count * step])
        at += count * step


def _check_count(count: int, limit: int) -> None:
    if count > limit:
        message = f"room for {count} records; at most {limit} are read"
        error = ObjectLimitError(message, limit=limit, asked=count)
        error.section = ".BTF.ext"
        raise error


def _block_count(data: bytes, at: int, end: int, step: int) -> int:
    if at + _BLOCK.size > end:
        raise _malformed("the list of a section is truncated", at)
    count = int(_BLOCK.unpack_from(data, at)[1])
    if at + _BLOCK.size + count * step > end:
        raise _malformed(f"{count} records of {step} bytes exceed their part", at)
    return count


def _malformed(message: str, offset: int | None = None) -> ObjectFileError:
    return ObjectFileError(message, section=".BTF.ext", offset=offset)
