"""Conditions and fields as they are typed."""

from __future__ import annotations

from typing import Any

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Array, Enum, Enumerator, Int, Member, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.codecs.codec import BytesCodec
from bpfpin.codecs.of_btf import codec
from bpfpin.errors import UsageError
from bpfpin.map import query
from bpfpin.map.form import InputForm
from bpfpin.map.query import Columns


def forms() -> tuple[InputForm, InputForm]:
    """Return those of `struct flow { __be32 src; u16 ports[2]; }` and of a value with a state."""
    types = BtfBuilder()
    u16 = types.add(Int("unsigned short", 2, 16))
    u32 = types.add(Int("unsigned int", 4, 32))
    u64 = types.add(Int("unsigned long long", 8, 64))
    ports = types.add(Array(u16, u32, 2))
    state = types.add(Enum("state", 4, False, (Enumerator("CLOSED", 0), Enumerator("OPEN", 7))))
    flow = types.add(Struct("flow", 8, (Member("src", u32, 0), Member("ports", ports, 32))))
    inner = types.add(Struct("inner", 8, (Member("a", u32, 0), Member("key", u32, 32))))
    members = (Member("packets", u64, 0), Member("in", inner, 64), Member("state", state, 128))
    value = types.add(Struct("value", 24, (*members, Member("cpu", u32, 160))))
    btf = Btf.parse(types.build())
    key = codec(btf.ref(flow), 8, is_key=True, formats={"src": "ipv4"})
    return InputForm(key, btf.ref(flow), "key"), InputForm(
        codec(btf.ref(value), 24), btf.ref(value)
    )


KEY, VALUE = forms()
COLUMNS = Columns("flows", KEY, VALUE)
ROW = (
    {"src": "10.0.0.9", "ports": (80, 443)},
    {"packets": 1000, "in": {"a": 1, "key": 2}, "state": "OPEN", "cpu": 3},
)


def holds(text: str, row: tuple[Any, ...] = ROW, *, columns: Columns = COLUMNS) -> bool:
    return query.parse_condition(text, columns).holds(row)


def test_members_have_their_names_and_those_of_the_key_stand_behind_key() -> None:
    assert COLUMNS.names == [
        "key.src",
        "key.ports",
        "packets",
        "in.a",
        "in.key",
        "state",
        "value.cpu",
    ]
    assert [column.of(ROW) for column in COLUMNS.all()] == [
        "10.0.0.9",
        (80, 443),
        1000,
        1,
        2,
        "OPEN",
        3,
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("packets>999", True),
        ("packets>1000", False),
        ("packets >= 0x3e8", True),
        ("packets<=1000", True),
        ("packets<1000", False),
        ("packets=1000", True),
        ("value.packets==1000", True),
        ("packets!=1000", False),
        ("packets~1*", True),
        ("in.a=1", True),
        ("key.src=10.0.0.9", True),
        ("key.src<10.0.0.10", True),
        ("key.src~10.0.*", True),
        ("key.src~10.1.*", False),
        ("key.ports[1]=443", True),
        ("state=OPEN", True),
        ("state=7", True),
        ("state!=CLOSED", True),
        ("state~*PE*", True),
        ("value.cpu=3", True),
        ("packets<99999999999999999999999", True),
        ("packets>-1", True),
    ],
)
def test_a_condition_compares_as_its_type_reads(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("packet>1", "no field 'packet'; the fields are: key.src, key.ports, packets, in.a"),
        ("key.dst=1", "no field 'key.dst'"),
        ("key.ports[2]=1", "no field 'key.ports[2]'"),
        ("packets[0]=1", "no field 'packets[0]'"),
        ("packets", "is not a condition"),
        (">5", "is not a condition"),
        ("packets>many", "'many'"),
        ("state=SHUT", "'SHUT'"),
        ("value>5", "several parts"),
        ("key.ports>5", "several parts"),
    ],
)
def test_what_is_wrong_with_a_condition_is_told(text: str, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        query.parse_condition(text, COLUMNS)

    assert told in str(refused.value)


def test_rows_of_one_cpu_can_be_chosen_by_it() -> None:
    columns = Columns("counters", VALUE, VALUE, has_cpu=True)

    assert holds("cpu>=1", ({}, 1, ROW[1]), columns=columns)
    assert not holds("cpu=0", ({}, 1, ROW[1]), columns=columns)
    assert "cpu" in columns.names


def test_values_without_a_type_are_compared_as_bytes() -> None:
    columns = Columns("plain", InputForm(BytesCodec(2), None, "key"), InputForm(BytesCodec(4)))
    row = (b"\x01\x00", b"\x0a\x00\x00\x01")

    assert holds("value=hex:0a000001", row, columns=columns)
    assert holds("value~hex:0a*", row, columns=columns)
    assert holds("key=1", row, columns=columns)
    assert columns.names == ["key", "value"]


def test_text_is_ordered_as_people_count() -> None:
    names = ["eth10", "eth2", "10.0.0.10", "10.0.0.9", 7, 70]

    assert sorted(names, key=query.order) == [7, 70, "10.0.0.9", "10.0.0.10", "eth2", "eth10"]
