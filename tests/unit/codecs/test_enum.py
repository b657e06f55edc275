"""Enumerations and truth values: names out, names and numbers in."""

from __future__ import annotations

import pytest

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Array, BtfType, Enum, Enumerator, Int, IntEncoding, Member, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.codecs.of_btf import codec
from bpfpin.objects.maps.numpy_arrays import dtype_of
from bpfpin.uapi import XdpAction

VERDICT = Enum("verdict", 4, False, (Enumerator("DROP", 1), Enumerator("PASS", 2)))
U32 = Int("unsigned int", 4, 32)


def last(*types: BtfType) -> TypeRef:
    """Return the last of *types*, which name each other by id, from 1 on."""
    builder = BtfBuilder()
    ids = [builder.add(kind) for kind in types]
    return Btf.parse(builder.build()).ref(ids[-1])


def test_an_enumeration_reads_as_its_name_and_what_has_none_as_a_number() -> None:
    made = codec(last(VERDICT), 4)

    assert made.decode(b"\1\0\0\0") == "DROP"
    assert made.decode(b"\7\0\0\0") == 7
    assert made.decode_many(b"\2\0\0\0" * 2, 4) == ["PASS", "PASS"]


@pytest.mark.parametrize("value", ["PASS", 2, XdpAction.XDP_PASS])
def test_names_and_numbers_are_written(value: object) -> None:
    assert codec(last(VERDICT), 4).encode(value) == b"\2\0\0\0"


def test_raw_reads_numbers_and_takes_no_names() -> None:
    made = codec(last(VERDICT), 4, raw=True)

    assert made.decode(b"\1\0\0\0") == 1
    with pytest.raises(TypeError, match="an integer was expected, not 'DROP'"):
        made.encode("DROP")


def test_a_wrong_name_is_refused_with_its_path_and_the_names_there_are() -> None:
    types = (U32, VERDICT, Array(2, 1, 2), Struct("rule", 8, (Member("verdicts", 3, 0),)))
    made = codec(last(*types), 8)
    message = r"^verdicts\[1\]: 'TX' is not a name of enum verdict; the names are DROP, PASS$"

    with pytest.raises(ValueError, match=message):
        made.encode({"verdicts": ["DROP", "TX"]})
    with pytest.raises(TypeError, match="a name of enum verdict or an integer was expected, not"):
        made.encode({"verdicts": ["DROP", 1.5]})


def test_a_flat_structure_reads_names_of_many_values_at_once() -> None:
    members = (Member("packets", 1, 0), Member("verdict", 2, 32))
    made = codec(last(U32, VERDICT, Struct("row", 8, members)), 8)
    data = b"\5\0\0\0\1\0\0\0" + b"\6\0\0\0\x09\0\0\0"
    rows = [{"packets": 5, "verdict": "DROP"}, {"packets": 6, "verdict": 9}]

    assert made.decode_many(data, 8) == rows
    assert made.encode_many(rows) == data
    assert made.decode(data, 8) == rows[1]
    assert dtype_of(made)["verdict"].str == "<u4"


def test_a_structure_that_is_a_key_has_names_too() -> None:
    made = codec(last(U32, VERDICT, Struct("k", 4, (Member("verdict", 2, 0),))), 4, is_key=True)
    key = made.decode(b"\1\0\0\0")

    assert {key: "found"}[made.decode_many(b"\1\0\0\0", 4)[0]] == "found"
    assert key == {"verdict": "DROP"}


def test_bit_fields_have_names_and_truth_values() -> None:
    boolean = Int("_Bool", 1, 8, IntEncoding.BOOL)
    members = (Member("verdict", 1, 0, 3), Member("is_new", 2, 3, 1))
    made = codec(last(VERDICT, boolean, Struct("flags", 1, members)), 1)

    assert made.decode(b"\x09") == {"verdict": "DROP", "is_new": True}
    assert made.encode({"verdict": "PASS", "is_new": True}) == b"\x0a"
    with pytest.raises(ValueError, match="verdict: 8 does not fit into 3 bits"):
        made.encode({"verdict": 8, "is_new": False})


@pytest.mark.parametrize(
    ("kind", "data", "name"),
    [
        (Enum("wide", 8, False, (Enumerator("ALL", 2**64 - 1),), is_wide=True), "ff" * 8, "ALL"),
        (
            Enum("far", 8, True, (Enumerator("LOW", -(2**40)),), is_wide=True),
            "0000000000ffffff",
            "LOW",
        ),
        (Enum("signed", 4, True, (Enumerator("DOWN", -1),)), "ffffffff", "DOWN"),
        # As compilers wrote them before enumerations had a sign.
        (Enum("small", 1, False, (Enumerator("DOWN", 0xFFFFFFFF),)), "ff", "DOWN"),
    ],
)
def test_enumerations_of_all_sizes_and_signs_have_names(kind: Enum, data: str, name: str) -> None:
    made = codec(last(kind), kind.size)

    assert made.decode(bytes.fromhex(data)) == name
    assert made.encode(name).hex() == data


def test_of_two_names_for_a_number_the_first_is_read_and_both_are_taken() -> None:
    kind = Enum("e", 4, False, (Enumerator("LAST", 3), Enumerator("MAX", 3)))
    made = codec(last(kind), 4)

    assert made.decode(made.encode("MAX")) == "LAST"


@pytest.mark.parametrize("size", [1, 4])
def test_truth_values_take_nothing_but_true_and_false(size: int) -> None:
    made = codec(last(Int("bool", size, 8 * size, IntEncoding.BOOL)), size)

    assert made.decode(made.encode(True)) is True
    assert made.encode(0) == bytes(size)
    with pytest.raises(ValueError, match="2 is neither true nor false"):
        made.encode(2)
    with pytest.raises(TypeError, match="true or false was expected, not 'no'"):
        made.encode("no")
