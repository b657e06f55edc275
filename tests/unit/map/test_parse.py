"""What people type for keys and values."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.layout import size_of
from bpfpin.btf.types import Array, Enum, Enumerator, Float, Int, Member, Struct, Union
from bpfpin.codecs.codec import BytesCodec
from bpfpin.codecs.of_btf import codec
from bpfpin.errors import UsageError
from bpfpin.map import form as literals
from bpfpin.map import parse as fields
from bpfpin.map.form import InputForm
from bpfpin.map.parse import is_fields, parse_list, parse_value
from support.btf_tables import U8, U32, U64, table


def form_of(ref: TypeRef | None, size: int, *, what: str = "value") -> InputForm:
    """Return how a word for *size* bytes of type *ref* is read; bytes without a type for None."""
    return InputForm(codec(ref, size), ref, what)


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
    Float("double", 8),
    Struct(
        "flow",
        20,
        (
            Member("src", 1, 0),
            Member("mac", 7, 32),
            Member("ifindex", 1, 96),
            Member("verdict", 4, 128),
        ),
    ),
    Struct("lpm", 8, (Member("prefixlen", 1, 0), Member("addr", 1, 32))),
    Array(6, 1, 16),
    Union("either", 4, (Member("word", 1, 0), Member("byte", 6, 0))),
    Struct("nested", 12, (Member("pair", 5, 0), Member("either", 14, 64))),
)
INTEGER, RECORD, VERDICT, PAIR, ADDRESS, TEXT = (TYPES.ref(id_) for id_ in (1, 3, 4, 5, 7, 9))
DOUBLE, FLOW, LPM, IPV6, NESTED = (TYPES.ref(id_) for id_ in (10, 11, 12, 13, 15))
LOOPBACK = socket.if_nametoindex("lo")


@pytest.mark.parametrize(
    ("text", "ref", "size", "value"),
    [
        ("7", INTEGER, 4, 7),
        ("0xff", INTEGER, 4, 255),
        ("true", INTEGER, 4, 1),
        ("hex:0a000000", INTEGER, 4, 10),
        ("hex:0a 00 00 00", INTEGER, 4, 10),
        ("PASS", VERDICT, 4, "PASS"),
        ("2", VERDICT, 4, "PASS"),
        ("7", VERDICT, 4, 7),
        ('{"rx_packets": 1, "rx_bytes": 2}', RECORD, 16, {"rx_packets": 1, "rx_bytes": 2}),
        ("hex:" + "01" + "00" * 15, RECORD, 16, {"rx_packets": 1, "rx_bytes": 0}),
        ("[1, 2]", PAIR, 8, [1, 2]),
        ("hex:020000000001", ADDRESS, 6, [2, 0, 0, 0, 0, 1]),
        ("lab0", TEXT, 8, "lab0"),
        ('"12"', TEXT, 8, "12"),
        ("7", None, 4, b"\x07\0\0\0"),
        ("-2", None, 2, b"\xfe\xff"),
        ("hex:0102", None, 2, b"\x01\x02"),
        ("1.5", DOUBLE, 8, 1.5),
        ("10.0.0.1", None, 4, b"\x0a\0\0\x01"),
        ("10.0.0.1", INTEGER, 4, 0x0100000A),
        ("02:00:00:00:00:01", None, 6, b"\x02\0\0\0\0\x01"),
        ("02-00-00-00-00-01", ADDRESS, 6, [2, 0, 0, 0, 0, 1]),
        ("::1", IPV6, 16, [*[0] * 15, 1]),
        ("rx_packets=1,rx_bytes=0x10", RECORD, 16, {"rx_packets": 1, "rx_bytes": 16}),
        ('{"rx_packets": "0x10", "rx_bytes": 2}', RECORD, 16, {"rx_packets": 16, "rx_bytes": 2}),
        (
            "src=10.0.0.1,mac=02:00:00:00:00:01,ifindex=lo,verdict=DROP",
            FLOW,
            20,
            {"src": 0x0100000A, "mac": [2, 0, 0, 0, 0, 1], "ifindex": LOOPBACK, "verdict": "DROP"},
        ),
        (
            '{"src": "10.0.0.1", "mac": [2, 0, 0, 0, 0, 1], "ifindex": "lo", "verdict": 2}',
            FLOW,
            20,
            {"src": 0x0100000A, "mac": [2, 0, 0, 0, 0, 1], "ifindex": LOOPBACK, "verdict": "PASS"},
        ),
    ],
)
def test_what_is_typed_is_read_by_the_type(
    text: str, ref: TypeRef | None, size: int, value: Any
) -> None:
    assert parse_value(text, form_of(ref, size)) == value


@pytest.mark.parametrize(
    ("text", "ref", "size", "message"),
    [
        ("xyz", INTEGER, 4, "key 'xyz' is not of type u32"),
        ("1.5", INTEGER, 4, "key '1.5' is not of type u32"),
        ("MAYBE", VERDICT, 4, "'MAYBE' is not of type enum"),
        ("{", RECORD, 16, "is not of type struct datarec"),
        ("[" * 5000, RECORD, 16, "is not of type struct datarec"),
        ("-1", INTEGER, 4, r"key -1: -1 does not fit into 32 bits \(0 to 4294967295\)"),
        ("4294967296", INTEGER, 4, "does not fit into 32 bits"),
        ('{"rx_packets": 1}', RECORD, 16, "rx_bytes: the member is missing"),
        ("rx_packets=1", RECORD, 16, "rx_bytes: the member is missing"),
        (
            "rx_bits=1",
            RECORD,
            16,
            "there is no field 'rx_bits'; the fields are: rx_packets, rx_by",
        ),
        ('{"rx_packets": "x", "rx_bytes": 2}', RECORD, 16, "key.rx_packets 'x' does not fit"),
        ("[1, 2, 3]", PAIR, 8, "3 elements, not 2"),
        ("10.0.0.1", None, 8, "without a type"),
        ("10.0.0.256", INTEGER, 4, "is not of type u32"),
        ("::1", INTEGER, 4, "is not of type u32"),
        ("lo", INTEGER, 4, "is not of type u32"),
        ("much too long", TEXT, 8, "13 bytes of text, 8 at most"),
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
        parse_value(text, form_of(ref, size, what="key"))


def test_the_hint_shows_the_forms_that_fit() -> None:
    forms = [form_of(ref, size).forms() for ref, size in ((RECORD, 16), (VERDICT, 4))]

    assert forms == [
        'JSON like \'{"rx_packets": 0, "rx_bytes": 0}\', rx_packets=1,…,'
        " or hex:00000000… (16 bytes)",
        "one of DROP, PASS, an integer, or hex:00000000 (4 bytes)",
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("10.0.0.0/24", {"prefixlen": 24, "addr": 0x0000000A}),
        ("10.0.0.1", {"prefixlen": 32, "addr": 0x0100000A}),
        ("0.0.0.0/0", {"prefixlen": 0, "addr": 0}),
    ],
)
def test_a_prefix_is_the_key_of_a_trie(text: str, key: object) -> None:
    form = form_of(LPM, 8, what="key").with_first(literals.prefix)

    assert parse_value(text, form) == key


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/x", "::/0", "10.0.0/8"])
def test_what_is_no_prefix_names_the_form(text: str) -> None:
    form = InputForm(BytesCodec(8), what="key").with_first(literals.prefix)
    with pytest.raises(UsageError) as caught:
        parse_value(text, form)

    assert "10.0.0.1/24" in caught.value.hint


def test_a_prefix_of_ipv6_has_sixteen_bytes() -> None:
    assert literals.prefix("fe80::/10", 20) == b"\x0a\0\0\0\xfe\x80" + bytes(14)


def test_verdicts_and_devices_are_the_last_resort_of_a_plain_number() -> None:
    form = form_of(INTEGER, 4, what="key").with_last(literals.verdict, literals.device)

    assert [parse_value(text, form) for text in ("XDP_DROP", "lo", "3")] == [1, LOOPBACK, 3]
    with pytest.raises(UsageError, match="'XDP_MAYBE' is not of type u32"):
        parse_value("XDP_MAYBE", form)


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
    assert parse_list('[1, "0x10"]', form_of(INTEGER, 4)) == [1, 16]
    assert parse_list('["hex:0100"]', form_of(None, 2)) == [b"\x01\0"]
    with pytest.raises(UsageError, match="is not of type u32"):
        parse_list("[1", form_of(INTEGER, 4))


@pytest.mark.parametrize(
    ("ref", "word", "steps", "value"),
    [
        (RECORD, "rx_bytes=0x10", ("rx_bytes",), 16),
        (NESTED, "pair[1]=7", ("pair", 1), 7),
        (NESTED, "pair=[1, 2]", ("pair",), [1, 2]),
        (NESTED, "either.byte=7", ("either", "byte"), 7),
        (FLOW, "src=10.0.0.1", ("src",), 0x0100000A),
        (FLOW, "mac=hex:020000000001", ("mac",), [2, 0, 0, 0, 0, 1]),
        (FLOW, "verdict=1", ("verdict",), "DROP"),
    ],
)
def test_a_field_is_read_by_its_type(ref: TypeRef, word: str, steps: object, value: object) -> None:
    field = fields.parse_field(word, form_of(ref, size_of(ref.btf, ref.id)))

    assert (field.steps, field.value) == (steps, value)


@pytest.mark.parametrize(
    ("ref", "size", "word", "message"),
    [
        (RECORD, 16, "nope=1", "no field 'nope'; the fields are: rx_packets, rx_bytes"),
        (
            RECORD,
            16,
            "rx_packets.x=1",
            "value.rx_packets: there is no field 'x'; the fields are: none",
        ),
        (
            RECORD,
            16,
            "rx_packets=abc",
            "value.rx_packets 'abc' does not fit: an integer was expected",
        ),
        (RECORD, 16, "rx_packets[0]=1", r"there is no element \[0\]; it has 0"),
        (NESTED, 12, "pair[2]=1", r"value.pair: there is no element \[2\]; it has 2"),
        (NESTED, 12, "pair[=1", r"'pair\[' is not a field"),
    ],
)
def test_a_field_that_is_not_there_is_a_usage_error(
    ref: TypeRef, size: int, word: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fields.parse_field(word, form_of(ref, size))


def test_fields_alone_are_nested_and_their_lists_whole() -> None:
    form = form_of(NESTED, 12)
    current = {"pair": [1, 2], "either": {"word": 3, "byte": 3}}

    changes = [fields.parse_field(word, form) for word in ("pair[1]=7", "either.byte=9")]

    assert fields.nested(changes, current) == {"pair": [1, 7], "either": {"byte": 9}}
    assert current["pair"] == [1, 2]
