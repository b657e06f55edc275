"""Function infos, line infos and relocations of section .BTF.ext."""

from __future__ import annotations

import struct

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.ext import BtfExt, parse_ext
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import ObjectFileError

STRINGS = b"\0xdp\0tc\0main.c\0return 2;\0000:1\0"  # at 1, 5, 8, 15, 25
BTF = Btf.parse(BtfBuilder(strings=STRINGS).build())


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def ext(functions: bytes, lines: bytes = b"", relocations: bytes | None = None) -> bytes:
    """Return the section of these parts; without *relocations* the header is that of old files."""
    parts = [functions, lines] + ([relocations] if relocations is not None else [])
    places, at = b"", 0
    for part in parts:
        places += words(at, len(part))
        at += len(part)
    return struct.pack("<HBBI", 0xEB9F, 1, 0, 8 + len(places)) + places + b"".join(parts)


def is_read(data: bytes) -> bool:
    try:
        parse_ext(data, BTF)
    except ObjectFileError:
        return False
    return True


FUNCTIONS = words(8, 1, 2, 0, 7, 64, 9, 5, 1, 0, 11)
LINES = words(16, 1, 1, 8, 8, 15, 3 << 10 | 4)
RELOCATIONS = words(16, 5, 2, 16, 4, 25, 2, 24, 4, 25, 99)


def test_records_are_listed_by_section() -> None:
    assert parse_ext(ext(FUNCTIONS, LINES, RELOCATIONS), BTF) == BtfExt(
        functions={"xdp": [(0, 7), (64, 9)], "tc": [(0, 11)]},
        lines={"xdp": [(8, 8, 15, 3 << 10 | 4)]},
        relocations={"tc": [(16, 4, "0:1", 2), (24, 4, "0:1", 99)]},
    )


def test_an_old_header_has_no_relocations() -> None:
    assert parse_ext(ext(FUNCTIONS), BTF).relocations == {}


def test_longer_records_are_read_as_far_as_they_are_known() -> None:
    assert parse_ext(ext(words(12, 1, 1, 0, 7, 0xDEAD)), BTF).functions == {"xdp": [(0, 7)]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "too few"),
        (b"\x9f\xeb\x02\x00" + bytes(20), "version 2"),
        (ext(words(4, 1, 1, 0)), "records of 4 bytes"),
        (ext(words(9, 1, 1, 0)), "records of 9 bytes"),
        (ext(words(8, 1)), "truncated"),
        (ext(words(8, 1, 0xFFFFFFFF, 0, 7)), "exceed their part"),
        (ext(words(8, 0x1000, 1, 0, 7)), "no string at 0x1000"),
    ],
)
def test_malformed_sections_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ObjectFileError, match=message):
        parse_ext(data, BTF)


def test_a_section_cut_anywhere_is_refused_or_read() -> None:
    whole = ext(FUNCTIONS, LINES, RELOCATIONS)
    for end in range(len(whole)):
        with pytest.raises(ObjectFileError):
            parse_ext(whole[:end], BTF)


@pytest.mark.parametrize("value", [0, 1, 7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_extreme_numbers_are_refused_or_read(value: int) -> None:
    whole = ext(FUNCTIONS, LINES, RELOCATIONS)
    results = {
        is_read(whole[:at] + words(value) + whole[at + 4 :]) for at in range(0, len(whole), 4)
    }

    assert results == {True, False}
