"""Values of C types to Python values and back."""

from __future__ import annotations

import ctypes
from typing import Annotated, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import (
    Array,
    BtfType,
    Enum,
    Enumerator,
    Float,
    Int,
    IntEncoding,
    Member,
    Pointer,
    Struct,
    Union,
)
from bpfpin.btf.write import BtfBuilder
from bpfpin.codecs.codec import Codec
from bpfpin.codecs.of_btf import codec
from bpfpin.codecs.of_format import format_codec
from bpfpin.errors import ObjectFileError

U8 = Int("unsigned char", 1, 8)
U16 = Int("unsigned short", 2, 16)
U32 = Int("unsigned int", 4, 32)
U64 = Int("unsigned long long", 8, 64)
U128 = Int("unsigned __int128", 16, 128)
S8 = Int("signed char", 1, 8, IntEncoding.SIGNED)
S64 = Int("long long", 8, 64, IntEncoding.SIGNED)
CHAR = Int("char", 1, 8, IntEncoding.SIGNED)
BOOL = Int("_Bool", 1, 8, IntEncoding.BOOL)


def refs(*types: BtfType) -> list[TypeRef]:
    """Return *types* in one table, in which the first has id 1."""
    builder = BtfBuilder()
    ids = [builder.add(kind) for kind in types]
    assert ids == list(range(1, len(types) + 1))
    btf = Btf.parse(builder.build())
    return [btf.ref(type_id) for type_id in ids]


def codec_of(*types: BtfType, is_key: bool = False) -> Codec:
    """Return the codec of the last of *types*; they name each other by id, from 1 on."""
    ref = refs(*types)[-1]
    return codec(ref, ref.size, is_key=is_key)


def datarec() -> Codec:
    """Return the codec of `struct datarec { u64 rx_packets; u64 rx_bytes; }`."""
    members = (Member("rx_packets", 1, 0), Member("rx_bytes", 1, 64))
    return codec_of(U64, Struct("datarec", 16, members))


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        (U8, "ff", 255),
        (S8, "ff", -1),
        (U32, "01020304", 0x04030201),
        (S64, "feffffffffffffff", -2),
        (U128, "01" + "00" * 14 + "80", (1 << 127) + 1),
        (BOOL, "01", True),
        (Float("float", 4), "0000c03f", 1.5),
        (Float("double", 8), "000000000000f83f", 1.5),
        (Pointer(0), "0010000000000000", 0x1000),
        (Enum("e", 4, True, (Enumerator("LOW", -1),)), "feffffff", -2),
        (Enum("e", 4, False, (Enumerator("HIGH", 1),)), "ffffffff", 0xFFFFFFFF),
    ],
)
def test_a_number_reads_little_endian_and_with_its_sign(
    kind: BtfType, data: str, value: object
) -> None:
    made = codec_of(kind)

    assert made.decode(bytes.fromhex(data)) == value
    assert made.encode(value).hex() == data


def test_a_struct_is_a_dict() -> None:
    data = (7).to_bytes(8, "little") + (700).to_bytes(8, "little")

    assert datarec().decode(data) == {"rx_packets": 7, "rx_bytes": 700}


def test_many_structs_are_read_over_their_padding() -> None:
    members = (Member("a", 1, 0), Member("b", 2, 32))
    made = codec_of(U8, U32, Struct("s", 8, members))
    data = b"".join(made.encode({"a": i, "b": 2 * i}) + bytes(8) for i in range(3))

    assert made.decode_many(data, 16) == [{"a": i, "b": 2 * i} for i in range(3)]


def test_padding_is_written_as_zeros() -> None:
    members = (Member("a", 1, 0), Member("b", 2, 32))
    made = codec_of(U8, U32, Struct("s", 8, members))

    assert made.encode({"a": 0xFF, "b": 1}).hex() == "ff00000001000000"


def test_an_array_is_a_list_and_chars_are_text() -> None:
    members = (Member("mac", 3, 0), Member("name", 4, 48))
    types = (U8, CHAR, Array(1, 1, 6), Array(2, 1, 10))
    made = codec_of(*types, Struct("host", 16, members))
    value = {"mac": [2, 0, 0, 0, 0, 1], "name": "veth0"}

    assert made.encode(value) == bytes([2, 0, 0, 0, 0, 1]) + b"veth0".ljust(10, b"\0")
    assert made.decode(made.encode(value)) == value


def test_text_that_is_no_utf8_survives() -> None:
    made = codec_of(CHAR, Array(1, 1, 4))
    text = made.decode(b"a\xff\x00b")

    assert text == "a\udcff\x00b"
    assert made.encode(text) == b"a\xff\x00b"


def test_members_of_unnamed_members_stand_beside_the_others() -> None:
    inner = Union("", 4, (Member("v4", 2, 0), Member("parts", 3, 0)))
    outer = Struct("addr", 8, (Member("family", 2, 0), Member("", 4, 32)))
    made = codec_of(U8, U32, Array(1, 1, 4), inner, outer)
    value = {"family": 2, "v4": 0x0100007F, "parts": [127, 0, 0, 1]}

    assert made.decode(bytes.fromhex("020000007f000001")) == value
    assert made.encode({"family": 2, "v4": 0x0100007F}).hex() == "020000007f000001"
    assert made.encode(value).hex() == "020000007f000001"


def test_members_of_a_union_must_not_contradict_each_other() -> None:
    made = codec_of(U32, U8, Union("u", 4, (Member("word", 1, 0), Member("byte", 2, 0))))

    assert made.encode({"byte": 1}).hex() == "01000000"
    with pytest.raises(ValueError, match="word: contradicts another member"):
        made.encode({"word": 2, "byte": 1})
    with pytest.raises(ValueError, match="one of word, byte must be given"):
        made.encode({})


def test_what_a_union_reads_can_be_written_again() -> None:
    pair = Struct("pair", 8, (Member("low", 2, 0), Member("high", 1, 32)))
    members = (Member("is_set", 3, 0), Member("byte", 2, 0), Member("pair", 4, 0))
    made = codec_of(U32, U8, BOOL, pair, Union("u", 8, members))
    data = bytes([2, 9, 9, 9, 1, 0, 0, 0])  # neither true nor false, and padding that is not zero

    assert made.decode(data)["is_set"] is True
    assert made.encode(made.decode(data)) == bytes([2, 0, 0, 0, 1, 0, 0, 0])


def test_members_that_take_no_room_need_not_be_given() -> None:
    types = (U32, CHAR, Array(1, 1, 0), Array(2, 1, 0), Struct("none", 0, ()))
    members = (
        Member("count", 1, 0),
        Member("none", 5, 32),
        Member("tail", 3, 32),
        Member("t", 4, 32),
    )
    made = codec_of(*types, Struct("s", 4, members))
    read = made.decode(b"\1\0\0\0")

    assert read == {"count": 1, "none": {}, "tail": [], "t": ""}
    assert made.encode(read) == made.encode({"count": 1}) == b"\1\0\0\0"


def test_raw_reads_all_bytes_of_a_char_array() -> None:
    ref = refs(CHAR, Array(1, 1, 4))[-1]
    made = codec(ref, 4, raw=True)

    assert made.decode(b"ab\0\0") == b"ab\0\0"
    assert made.encode(b"ab") == made.encode("ab") == b"ab\0\0"


def test_bit_fields_share_their_bytes() -> None:
    members = (Member("low", 1, 0, 4), Member("high", 1, 4, 10), Member("sign", 2, 14, 2))
    made = codec_of(U16, S8, Struct("bits", 2, members))
    value = {"low": 0xF, "high": 0x155, "sign": -2}

    assert made.decode(made.encode(value)) == value
    assert made.encode(value) == (0xF | 0x155 << 4 | 0b10 << 14).to_bytes(2, "little")


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ({"rx_packets": 1}, ValueError, "rx_bytes: the member is missing"),
        (
            {"rx_packets": 1, "rx_bytes": 2, "x": 3},
            ValueError,
            "no member x; the members are rx_packets",
        ),
        ({"rx_packets": -1, "rx_bytes": 0}, ValueError, "rx_packets: -1 does not fit into 64 bits"),
        ({"rx_packets": "a", "rx_bytes": 0}, TypeError, "rx_packets: an integer was expected"),
        ({"rx_packets": 1.5, "rx_bytes": 0}, TypeError, "rx_packets: an integer was expected"),
        (7, TypeError, "a dict of rx_packets, rx_bytes was expected, not 7"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_members_name(
    value: object, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        datarec().encode(value)


def test_a_nested_member_is_named_by_its_path() -> None:
    types = (U8, Array(1, 1, 2), Struct("in", 2, (Member("pair", 2, 0),)))
    made = codec_of(*types, Struct("out", 2, (Member("in", 3, 0),)))

    with pytest.raises(ValueError, match=r"^in\.pair\[1\]: 256 does not fit into 8 bits"):
        made.encode({"in": {"pair": [0, 256]}})


def test_a_structure_that_is_a_key_can_be_hashed() -> None:
    types = (U8, Array(1, 1, 4))
    made = codec_of(*types, Struct("key", 4, (Member("ip", 2, 0),)), is_key=True)
    key = made.decode(b"\x7f\x00\x00\x01")

    assert key == {"ip": (127, 0, 0, 1)}
    assert {key: "found"}[made.decode(made.encode(key))] == "found"
    with pytest.raises(TypeError, match="cannot be changed"):
        key["ip"] = ()


def test_without_a_type_bytes_stay_bytes() -> None:
    made = codec(None, 4)

    assert made.decode(b"abcd") == b"abcd"
    assert made.encode(b"abcd") == b"abcd"
    with pytest.raises(ValueError, match="3 bytes, not 4"):
        made.encode(b"abc")
    with pytest.raises(TypeError, match="give bytes, not int"):
        made.encode(1)


def test_a_type_of_another_size_than_the_maps_is_refused() -> None:
    with pytest.raises(ObjectFileError, match="takes 4 bytes, the map's 8"):
        codec(refs(U32)[0], 8)


def test_struct_formats_give_numbers_and_tuples() -> None:
    assert format_codec("I", 4).decode(b"\1\0\0\0") == 1
    assert format_codec("QQ", 16).decode(bytes(16)) == (0, 0)
    assert format_codec("QQ", 16).encode((1, 2)) == format_codec("16s", 16).encode(
        (1).to_bytes(8, "little") + (2).to_bytes(8, "little")
    )
    with pytest.raises(ValueError, match="takes 12 bytes, the map's 16"):
        format_codec("QI", 16)
    with pytest.raises(ValueError, match="does not fit 'QQ'"):
        format_codec("QQ", 16).encode(5)


class Counters(NamedTuple):
    """A value as a caller may describe it."""

    packets: Annotated[int, "Q"]
    bytes: Annotated[int, "Q"]


class Pair(ctypes.Structure):
    """The same by ctypes."""

    _fields_ = [("packets", ctypes.c_uint64), ("bytes", ctypes.c_uint64)]


def test_types_of_the_caller_are_made_and_taken() -> None:
    data = (1).to_bytes(8, "little") + (60).to_bytes(8, "little")

    assert format_codec(Counters, 16).decode(data) == Counters(packets=1, bytes=60)
    assert format_codec(Counters, 16).encode(Counters(1, 60)) == data
    assert format_codec(Pair, 16).decode(data).bytes == 60
    assert format_codec(Pair, 16).encode(Pair(1, 60)) == data


def test_structures_of_ctypes_can_be_keys() -> None:
    made = format_codec(Pair, 16, is_key=True)
    key = made.decode(made.encode(Pair(1, 60)))

    assert {key: "found"}[made.decode_many(made.encode(key), 16)[0]] == "found"
    assert key == Pair(1, 60)
    assert key != Pair(2, 60)


SCALARS: list[tuple[BtfType, st.SearchStrategy[object]]] = [
    (U8, st.integers(0, 255)),
    (U16, st.integers(0, 65535)),
    (U64, st.integers(0, 2**64 - 1)),
    (S8, st.integers(-128, 127)),
    (S64, st.integers(-(2**63), 2**63 - 1)),
    (U128, st.integers(0, 2**128 - 1)),
    (BOOL, st.booleans()),
    (Float("double", 8), st.floats(allow_nan=False)),
]


@st.composite
def structures(draw: st.DrawFn) -> tuple[Codec, dict[str, object]]:
    """Draw a structure of numbers, arrays, text and bit-fields, and a value of it."""
    types: list[BtfType] = [CHAR, U32]
    members, value, offset = [], {}, 0
    for index in range(draw(st.integers(1, 6))):
        name, length = f"m{index}", draw(st.integers(0, 3))
        kind, values = draw(st.sampled_from(SCALARS))
        types += [kind, Array(len(types) + 1, 2, length)]
        is_array = draw(st.booleans())
        members.append(Member(name, len(types) - (not is_array), offset))
        value[name] = draw(
            st.lists(values, min_size=length, max_size=length) if is_array else values
        )
        size = kind.size if isinstance(kind, Int | Float) else 0
        offset += 8 * (size * (length if is_array else 1) + draw(st.integers(0, 3)))
    width = draw(st.integers(1, 31))
    members.append(Member("bits", 2, offset + 1, width))
    value["bits"] = draw(st.integers(0, (1 << width) - 1))
    structure = Struct("any", offset // 8 + 4, tuple(members))
    return codec_of(*types, structure), value


@given(structures())
def test_every_value_reads_back_as_it_was_written(drawn: tuple[Codec, dict[str, object]]) -> None:
    made, value = drawn

    assert made.decode(made.encode(value)) == value
    assert made.decode_many(made.encode_many([value, value]), made.size) == [value, value]


@given(structures(), st.data())
def test_every_byte_string_is_a_value(
    drawn: tuple[Codec, dict[str, object]], data: st.DataObject
) -> None:
    made, _ = drawn
    raw = data.draw(st.binary(min_size=made.size, max_size=made.size))
    once = made.encode(made.decode(raw))

    assert repr(made.decode(once)) == repr(made.decode(raw))  # as text: not-a-number equals nothing
