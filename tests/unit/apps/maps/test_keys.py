"""What people type for keys and values."""

from __future__ import annotations

from typing import Any

import pytest

from bpfpin.apps.maps.keys import is_fields, parse, parse_list, with_fields
from bpfpin.btf.btf import TypeRef
from bpfpin.btf.types import Array, Enum, Enumerator, Int, Member, Struct
from bpfpin.errors import UsageError
from support.btf_tables import U8, U32, U64, table

TYPES = table(
    U32,
    U64,
    Struct("datarec", 16, (Member("rx_packets", 2, 0), Member("rx_bytes", 2, 64))),
    Enum("verdict", 4, False, (Enumerator("DROP", 1), Enumerator("PASS", 2))),
    Array(1, 1, 2),
    U8,
    Array(6, 1, 6),
    Int("char", 1, 8),
    Array(8, 1, 8),
)
INTEGER, RECORD, VERDICT, PAIR, ADDRESS, TEXT = (TYPES.ref(id_) for id_ in (1, 3, 4, 5, 7, 9))


@pytest.mark.parametrize(
    ("text", "ref", "size", "value"),
    [
        ("7", INTEGER, 4, 7),
        ("0xff", INTEGER, 4, 255),
        ("-1", INTEGER, 4, -1),
        ("true", INTEGER, 4, 1),
        ("hex:0a000000", INTEGER, 4, 10),
        ("hex:0a 00 00 00", INTEGER, 4, 10),
        ("PASS", VERDICT, 4, 2),
        ("2", VERDICT, 4, 2),
        ('{"rx_packets": 1, "rx_bytes": 2}', RECORD, 16, {"rx_packets": 1, "rx_bytes": 2}),
        ("hex:" + "01" + "00" * 15, RECORD, 16, {"rx_packets": 1, "rx_bytes": 0}),
        ("[1, 2]", PAIR, 8, [1, 2]),
        ("hex:020000000001", ADDRESS, 6, [2, 0, 0, 0, 0, 1]),
        ("lab0", TEXT, 8, "lab0"),
        ('"12"', TEXT, 8, "12"),
        ("7", None, 4, b"\x07\0\0\0"),
        ("-2", None, 2, b"\xfe\xff"),
        ("hex:0102", None, 2, b"\x01\x02"),
    ],
)
def test_what_is_typed_is_read_by_the_type(
    text: str, ref: TypeRef | None, size: int, value: Any
) -> None:
    assert parse(text, ref, size) == value


@pytest.mark.parametrize(
    ("text", "ref", "size", "message"),
    [
        ("xyz", INTEGER, 4, "key 'xyz' is no u32"),
        ("1.5", INTEGER, 4, "key '1.5' is no u32"),
        ("MAYBE", VERDICT, 4, "'MAYBE' is no enum"),
        ("{", RECORD, 16, "is no struct datarec"),
        ("hex:0g", INTEGER, 4, "not hexadecimal"),
        ("hex:0a", INTEGER, 4, "has 1 bytes; the map's takes 4"),
        ("hex:0a", None, 4, "has 1 bytes; the map's takes 4"),
        ("256", None, 1, "does not fit 1 bytes"),
        ("1", None, 16, "does not fit 16 bytes without a type"),
        ("abc", None, 4, "without a type"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    text: str, ref: TypeRef | None, size: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text, ref, size, what="key")


def test_the_hint_shows_the_forms_that_fit() -> None:
    with pytest.raises(UsageError) as caught:
        parse("5", RECORD, 16)
    with pytest.raises(UsageError) as of_names:
        parse("MAYBE", VERDICT, 4)

    assert caught.value.hint == 'give JSON like {"rx_packets": 1}, or hex:00000000… (16 bytes)'
    assert of_names.value.hint == "give one of DROP, PASS, or an integer"


def test_fields_change_and_the_others_stay() -> None:
    current = {"rx_packets": 5, "rx_bytes": 6, "inner": {"a": 1, "b": 2}}

    changed = with_fields(current, ["rx_bytes=0x10", "inner.b=9"])

    assert changed == {"rx_packets": 5, "rx_bytes": 16, "inner": {"a": 1, "b": 9}}
    assert current["inner"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("current", "word", "value"),
    [
        ({"f": "old"}, "f=12", "12"),
        ({"f": [0, 0]}, "f=[1, 2]", [1, 2]),
        ({"f": b"\0\0"}, "f=hex:0102", b"\x01\x02"),
        ({"f": 0}, "f=-3", -3),
    ],
)
def test_a_field_is_read_as_what_it_holds(
    current: dict[str, Any], word: str, value: object
) -> None:
    assert with_fields(current, [word]) == {"f": value}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nope=1", "no field 'nope'; the fields are: rx_packets"),
        ("rx_packets.x=1", "no field 'rx_packets.x'; the fields are: none"),
        ("rx_packets=abc", "'rx_packets=abc' is no field and value"),
    ],
)
def test_a_field_that_is_not_there_is_a_usage_error(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_fields({"rx_packets": 1}, [word])


@pytest.mark.parametrize(
    ("words", "are_fields"),
    [
        (["a=1"], True),
        (["a=1", "b.c=2"], True),
        (["1"], False),
        (['{"a=": 1}'], False),
        ([], False),
    ],
)
def test_fields_are_told_from_values(words: list[str], are_fields: bool) -> None:
    assert is_fields(words) is are_fields


def test_a_list_has_a_value_for_each_cpu() -> None:
    assert parse_list('[1, "0x10"]', INTEGER, 4) == [1, 16]
    assert parse_list('["hex:0100"]', None, 2) == [b"\x01\0"]
    with pytest.raises(UsageError, match="is no JSON"):
        parse_list("[1", INTEGER, 4)
