"""What the types beside a pin look like, whole and damaged."""

from __future__ import annotations

import base64

import pytest

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.btf.types import Array, DataSection, Linkage, SectionVariable, Var
from bpfpin.errors import ObjectFileError
from bpfpin.objects.maps.layouts import decode, decode_texts, encode, parts
from support.btf_tables import U32, blob
from support.maps import DATAREC, KEY

ONE = SectionVariable(2, 0, 4)


def told(types: tuple[TypeRef | None, TypeRef | None]) -> list[str | None]:
    return [c_type(ref) if ref else None for ref in types]


def test_two_types_read_back_without_the_rest_of_their_table() -> None:
    assert told(decode(encode(KEY, DATAREC))) == [
        "struct key { u8 ip[4]; }",
        "struct datarec { u64 rx_packets; u64 rx_bytes; }",
    ]
    assert told(decode(encode(None, DATAREC)))[0] is None
    assert encode(None, None) == b""
    assert decode(b"") == (None, None)


def test_the_variables_of_a_section_read_back() -> None:
    """A section is no type that a member of C could have."""
    section = blob(U32, Var("count", 1, Linkage.GLOBAL), DataSection(".data", 4, (ONE,)))
    value = Btf.parse(section).ref(3)
    _, read = decode(encode(None, value))

    assert read is not None
    assert (read.name, read.size) == (".data", 4)


def test_every_cut_of_a_blob_is_refused() -> None:
    whole = encode(KEY, DATAREC)
    refused = 0
    for size in range(1, len(whole)):
        try:
            decode(whole[:size])
        except ObjectFileError:
            refused += 1

    assert refused == len(whole) - 1


def test_every_changed_byte_of_a_blob_is_refused_or_reads_as_types() -> None:
    """No other exception, and no type that cannot be laid out."""
    whole = encode(KEY, DATAREC)
    for index in range(len(whole)):
        for flipped in (0x01, 0x80, 0xFF):
            changed = bytearray(whole)
            changed[index] ^= flipped
            text = base64.b64encode(changed).decode()
            for ref in decode_texts([text]):
                assert ref is None or ref.size >= 0


def test_a_blob_without_key_and_value_has_neither() -> None:
    assert decode(blob(U32, Array(1, 1, 4))) == (None, None)


@pytest.mark.parametrize("texts", [["not base64!"], ["AAA"], ["\udcff"], ["n+sBAA=="], []])
def test_damaged_texts_hold_no_types(texts: list[str]) -> None:
    assert decode_texts(texts) == (None, None)


def test_the_parts_of_a_map_end() -> None:
    names = list(parts("flows"))

    assert names[:3] == ["flows", "flows~1", "flows~2"]
    assert len(names) == 257
