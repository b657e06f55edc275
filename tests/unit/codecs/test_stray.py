"""Keys keep the bytes that their members do not show: padding, unused bits, odd floats."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import (
    Array,
    BtfType,
    Enum,
    Enumerator,
    Float,
    Int,
    IntEncoding,
    Member,
    Struct,
    Union,
)
from bpfpin.btf.write import BtfBuilder
from bpfpin.codecs.codec import Codec
from bpfpin.codecs.of_btf import codec
from bpfpin.codecs.of_format import format_codec
from bpfpin.codecs.record import KeyRecord
from bpfpin.codecs.stray import (
    KeyCodec,
    keeping_bytes,
    key_bytes_of,
    reads_alike,
    without_bytes,
)

U8 = Int("unsigned char", 1, 8)
U16 = Int("unsigned short", 2, 16)
U32 = Int("unsigned int", 4, 32)
U64 = Int("unsigned long long", 8, 64)
BOOL = Int("_Bool", 1, 8, IntEncoding.BOOL)
WIDE_BOOL = Int("_Bool", 4, 32, IntEncoding.BOOL)
FLOAT, DOUBLE = Float("float", 4), Float("double", 8)
SEVEN_BITS = Int("odd", 2, 7, bit_offset=3)
VERDICT = Enum("verdict", 4, False, (Enumerator("DROP", 1), Enumerator("SAME", 1)))

FLOW = Struct("flow", 12, (Member("proto", 1, 0), Member("ip", 2, 32), Member("port", 3, 64)))
BITS = Struct("bits", 4, (Member("low", 1, 0, 3), Member("on", 2, 9, 1)))
SHORT_ARMS = Union("short", 8, (Member("v4", 1, 0), Member("tail", 2, 0)))


def key_codec(*types: BtfType) -> Codec:
    """Return the codec of keys of the last of *types*; they name each other by id, from 1 on."""
    builder = BtfBuilder()
    for kind in types:
        builder.add(kind)
    ref = Btf.parse(builder.build()).ref(len(types))
    return keeping_bytes(codec(ref, ref.size, is_key=True))


class Pair(NamedTuple):
    """Two members with a gap between."""

    left: Annotated[int, "B"]
    right: Annotated[int, "I"]


CODECS: dict[str, Callable[[], Codec]] = {
    "holes": lambda: key_codec(U8, U32, U16, FLOW),
    "bits": lambda: key_codec(U32, WIDE_BOOL, BITS),
    "odd integer": lambda: key_codec(SEVEN_BITS),
    "bool": lambda: key_codec(BOOL),
    "wide bool": lambda: key_codec(WIDE_BOOL),
    "bools": lambda: key_codec(BOOL, U32, Array(1, 2, 3)),
    "bool member": lambda: key_codec(BOOL, Struct("s", 1, (Member("on", 1, 0),))),
    "short arms": lambda: key_codec(U32, U16, SHORT_ARMS),
    "array of structures": lambda: key_codec(U8, U32, U16, FLOW, Array(4, 2, 2)),
    "float": lambda: key_codec(FLOAT),
    "double": lambda: key_codec(DOUBLE),
    "float member": lambda: key_codec(FLOAT, Struct("s", 4, (Member("load", 1, 0),))),
    "arms of floats": lambda: key_codec(
        FLOAT, U32, Union("u", 4, (Member("f", 1, 0), Member("u", 2, 0)))
    ),
    "enumeration": lambda: key_codec(VERDICT),
    "two members of one name": lambda: key_codec(
        U8, Struct("damaged", 2, (Member("x", 1, 0), Member("x", 1, 8)))
    ),
    "a format with padding": lambda: keeping_bytes(format_codec("BI", None, is_key=True)),
    "a format of truths": lambda: keeping_bytes(format_codec("?", None, is_key=True)),
    "a format of floats": lambda: keeping_bytes(format_codec("<fe", None, is_key=True)),
    "a pascal string": lambda: keeping_bytes(format_codec("5p", None, is_key=True)),
    "a named tuple": lambda: keeping_bytes(format_codec(Pair, None, is_key=True)),
}


@pytest.mark.parametrize("name", CODECS)
@settings(deadline=None)
@given(data=st.data())
def test_every_key_is_written_as_it_was_read_and_no_two_are_one(
    name: str, data: st.DataObject
) -> None:
    kind = CODECS[name]()
    raw_keys = st.binary(min_size=kind.size, max_size=kind.size)
    raws = data.draw(
        st.lists(st.one_of(raw_keys, st.just(bytes(kind.size))), unique=True, min_size=1)
    )

    keys = kind.decode_many(b"".join(raws), kind.size)

    assert len(dict.fromkeys(keys)) == len(raws)
    assert kind.encode_many(keys) == b"".join(raws)
    assert [kind.encode(key) for key in keys] == raws
    again = [kind.decode(raw) for raw in raws]
    assert again == list(keys)
    assert list(map(hash, again)) == list(map(hash, keys))


def test_holes_do_not_change_how_a_key_reads() -> None:
    kind = CODECS["holes"]()
    plain = {"proto": 6, "ip": 1, "port": 80}
    clean = kind.encode(plain)
    dirty = bytearray(clean)
    dirty[1:4] = b"\xaa\xbb\xcc"

    key = kind.decode(dirty)

    assert key == plain
    assert plain == key
    assert repr(key) == repr(plain)
    assert key["port"] == 80
    assert isinstance(key, KeyRecord)
    assert key != kind.decode(clean)
    assert (key_bytes_of(key), key_bytes_of(kind.decode(clean))) == (bytes(dirty), None)
    assert without_bytes(key) == kind.decode(clean)
    assert reads_alike(kind.plain_codec, clean)(bytes(dirty))  # type: ignore[attr-defined]
    assert kind.encode(plain) == clean
    with pytest.raises(TypeError, match="a key cannot be changed"):
        key["port"] = 1


def test_a_truth_of_two_is_the_key_two() -> None:
    kind = CODECS["bool"]()

    assert [kind.decode(bytes((byte,))) for byte in (0, 1, 2, 255)] == [False, True, 2, 255]
    assert kind.decode(b"\1") is True
    assert kind.encode(2) == b"\2"
    with pytest.raises(TypeError):
        kind.encode("yes")


def test_a_key_of_another_structure_is_written_by_its_members() -> None:
    own, other = CODECS["holes"](), key_codec(
        U8, U32, U16,
        Struct("turned", 12, (Member("port", 3, 0), Member("ip", 2, 32), Member("proto", 1, 64))),
    )  # fmt: skip
    key = own.decode(b"\6\xff\xff\xff\1\0\0\0\x50\0\xff\xff")

    assert other.encode(key).hex() == "500000000100000006000000"
    assert other.encode_many([key, key]) == other.encode(key) * 2


def test_keys_can_be_copied_and_pickled() -> None:
    kind = CODECS["holes"]()
    for raw in (bytes(12), b"\1" * 12):
        key = kind.decode(raw)

        copies = copy.copy(key), copy.deepcopy(key), pickle.loads(pickle.dumps(key))
        assert [kind.encode(copied) for copied in copies] == [raw] * 3
        assert all(copied == key for copied in copies)


@pytest.mark.parametrize(
    "kind",
    [
        lambda: key_codec(U32),
        lambda: key_codec(U64, VERDICT),
        lambda: key_codec(U32, Struct("s", 8, (Member("a", 1, 0), Member("b", 1, 32)))),
        lambda: keeping_bytes(format_codec("<QI", None, is_key=True)),
    ],
)
def test_keys_without_padding_cost_nothing(kind: Callable[[], Any]) -> None:
    assert not isinstance(kind(), KeyCodec)
