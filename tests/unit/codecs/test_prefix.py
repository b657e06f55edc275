"""Keys of LPM tries as prefixes."""

from __future__ import annotations

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Array, Int, Member, Modifier, ModifierKind, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.codecs.codec import BytesCodec, Codec
from bpfpin.codecs.formats import AUTO
from bpfpin.codecs.of_btf import codec
from bpfpin.codecs.prefix import is_prefix, prefix_key, prefix_text


def key_codec(*, length_name: str = "prefixlen", has_header: bool = False, size: int = 4) -> Codec:
    """Return the codec of `struct { u32 prefixlen; u8 data[size]; }`, with AUTO's formats."""
    builder = BtfBuilder()
    u8 = builder.add(Int("unsigned char", 1, 8))
    u32 = builder.add(Int("unsigned int", 4, 32))
    data = builder.add(Array(u8, u32, size))
    first = Member(length_name, u32, 0)
    if has_header:
        first = Member("hdr", builder.add(Struct("bpf_lpm_trie_key_hdr", 4, (first,))), 0)
    key = builder.add(Struct("key", 4 + size, (first, Member("data", data, 32))))
    return codec(Btf.parse(builder.build()).ref(key), 4 + size, is_key=True, formats=AUTO)


@pytest.mark.parametrize(
    "made",
    [key_codec(), key_codec(has_header=True), BytesCodec(8)],
    ids=["flat", "header", "bytes"],
)
def test_a_prefix_is_a_key_and_back(made: Codec) -> None:
    key = prefix_key("10.0.0.0/24", made)

    assert is_prefix(made)
    assert made.encode(key).hex() == "180000000a000000"
    assert prefix_text(key, made) == "10.0.0.0/24"


def test_sixteen_bytes_are_ipv6_and_no_length_means_all_bits() -> None:
    made = key_codec(size=16)

    assert prefix_text(prefix_key("2001:db8::1", made), made) == "2001:db8::1/128"


def test_addresses_in_network_order_are_formatted_alone_as_well() -> None:
    builder = BtfBuilder()
    u32 = builder.add(Int("unsigned int", 4, 32))
    be32 = builder.add(Modifier(ModifierKind.TYPEDEF, "__be32", u32))
    members = (Member("prefixlen", u32, 0), Member("addr", be32, 32))
    key = builder.add(Struct("key", 8, members))
    made = codec(Btf.parse(builder.build()).ref(key), 8, is_key=True, formats=AUTO)

    assert prefix_key("10.0.0.1/32", made) == {"prefixlen": 32, "addr": "10.0.0.1"}


@pytest.mark.parametrize(
    "made", [key_codec(length_name="length"), key_codec(size=6), BytesCodec(12)]
)
def test_other_keys_are_no_prefixes(made: Codec) -> None:
    assert not is_prefix(made)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.1/33", "a number from 0 to 32"),
        ("10.0.0.1/", "a number from 0 to 32"),
        ("10.0.0.1/-1", "a number from 0 to 32"),
        ("10.0.0/24", "'10.0.0' is not an IPv4 address"),
        ("::1/24", "'::1' is not an IPv4 address"),
    ],
)
def test_what_is_no_prefix_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prefix_key(text, BytesCodec(8))
