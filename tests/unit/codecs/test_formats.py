"""Members that read as addresses, ports, times and hexadecimal."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Array, BtfType, Int, Member, Modifier, ModifierKind, Struct, Union
from bpfpin.btf.write import BtfBuilder
from bpfpin.codecs.codec import Codec
from bpfpin.codecs.formats import AUTO, Format, Nanoseconds, parse_ns
from bpfpin.codecs.of_btf import codec
from bpfpin.objects.maps.numpy_arrays import dtype_of


class Types:
    """Types that get their ids as they are added."""

    def __init__(self) -> None:
        self.builder = BtfBuilder()
        self.u8 = self.add(Int("unsigned char", 1, 8))
        self.u16 = self.add(Int("unsigned short", 2, 16))
        self.u32 = self.add(Int("unsigned int", 4, 32))
        self.u64 = self.add(Int("unsigned long long", 8, 64))
        self.be16 = self.typedef("__be16", self.u16)
        self.be32 = self.typedef("__be32", self.typedef("__u32", self.u32))

    def add(self, kind: BtfType) -> int:
        """Add a type and return its id."""
        return self.builder.add(kind)

    def typedef(self, name: str, type_id: int) -> int:
        """Add a typedef."""
        return self.add(Modifier(ModifierKind.TYPEDEF, name, type_id))

    def array(self, type_id: int, length: int) -> int:
        """Add an array."""
        return self.add(Array(type_id, self.u32, length))

    def struct(self, name: str, size: int, **members: tuple[int, int]) -> int:
        """Add a structure; members are type and byte."""
        placed = tuple(Member(each, id_, 8 * at) for each, (id_, at) in members.items())
        return self.add(Struct(name, size, placed))

    def ref(self, type_id: int) -> TypeRef:
        """Return a type of the table as it is now."""
        return Btf.parse(self.builder.build()).ref(type_id)


def flow() -> TypeRef:
    """Return `struct flow`, with most of what networking code has in its keys."""
    types = Types()
    v6 = types.struct("in6_addr", 16, bytes=(types.array(types.u8, 16), 0))
    members = {
        "saddr": (types.be32, 0),
        "ifindex": (types.u32, 4),
        "dport": (types.be16, 8),
        "h_dest": (types.array(types.u8, 6), 10),
        "seen_ns": (types.typedef("__u64", types.u64), 16),
        "next_hop": (v6, 24),
    }
    return types.ref(types.struct("flow", 40, **members))


RAW = (
    bytes([10, 0, 0, 1, 7, 0, 0, 0, 1, 187, 2, 0, 0, 0, 0, 1])
    + (1_000_000_002).to_bytes(8, "little")
    + bytes.fromhex("20010db8" + "00" * 11 + "01")
)
SHOWN = {
    "saddr": "10.0.0.1",
    "ifindex": 7,
    "dport": 443,
    "h_dest": "02:00:00:00:00:01",
    "seen_ns": 1_000_000_002,
    "next_hop": "2001:db8::1",
}


def one(kind: str, how: Format, size: int = 4) -> Codec:
    """Return the codec of a single value: `u32`, `u8[6]`, or bytes for ``."""
    types = Types()
    base, _, length = kind.partition("[")
    if not base:
        return codec(None, size, formats={"value": how})
    type_id = getattr(types, base)
    if length:
        type_id = types.array(type_id, int(length.rstrip("]")))
    ref = types.ref(type_id)
    return codec(ref, ref.size, formats={"value": how})


def test_the_table_reads_what_types_and_names_tell() -> None:
    made = codec(flow(), 40, formats=AUTO)
    shown = made.decode(RAW)

    assert shown == SHOWN
    assert str(shown["seen_ns"]) == "1.000000002 s"
    assert made.encode(shown) == RAW
    assert made.decode_many(RAW * 2, 40) == [SHOWN, SHOWN]


@pytest.mark.parametrize(
    ("element", "length", "name", "shown"),
    [
        ("u8", 6, "src_mac", "01:01:01:01:01:01"),
        ("u8", 6, "addr", "01:01:01:01:01:01"),
        ("u8", 4, "saddr", "1.1.1.1"),
        ("u8", 16, "ip6_src", "101:101:101:101:101:101:101:101"),
        ("be32", 4, "daddr", "101:101:101:101:101:101:101:101"),
        ("be32", 2, "ips", ["1.1.1.1", "1.1.1.1"]),
        ("be16", 1, "ports", [257]),
        ("u64", 1, "rtt_ns", [72340172838076673]),
        # Nothing of this is sure enough.
        ("u8", 3, "mac", [1, 1, 1]),
        ("u8", 6, "method", [1] * 6),
        ("u32", 1, "addr", [0x01010101]),
        ("u16", 1, "port", [0x0101]),
    ],
)
def test_the_table_does_not_guess_without_telling_names_and_types(
    element: str, length: int, name: str, shown: object
) -> None:
    types = Types()
    array = types.array(getattr(types, element), length)
    ref = types.ref(array)
    whole = types.ref(types.struct("s", ref.size, **{name: (array, 0)}))

    assert codec(whole, ref.size, formats=AUTO).decode(b"\1" * ref.size) == {name: shown}


def test_without_formats_numbers_and_bytes_stay_what_they_are() -> None:
    assert codec(flow(), 40).decode(RAW)["saddr"] == 0x0100000A


def test_a_key_in_formats_can_be_hashed() -> None:
    made = codec(flow(), 40, is_key=True, formats=AUTO)

    assert {made.decode(RAW): 1}[made.decode_many(RAW, 40)[0]] == 1


@pytest.mark.parametrize(
    "formats",
    [
        {"ifindex": Format.HEX},
        {"value.ifindex": "hex"},
        {"unsigned int": "hex"},
        {**AUTO, "ifindex": "hex"},
        {"* ifind*": "hex"},
        {"ifind*": "hex"},
    ],
)
def test_a_member_is_named_by_name_path_type_or_rule(formats: Mapping[str, Format | str]) -> None:
    assert codec(flow(), 40, formats=formats).decode(RAW)["ifindex"] == "0x7"


def test_a_path_wins_over_a_name_and_that_over_a_type() -> None:
    types = Types()
    inner = types.struct("end", 4, ip=(types.be32, 0))
    ref = types.ref(types.struct("pair", 8, src=(inner, 0), dst=(inner, 4)))
    made = codec(ref, 8, formats={"__be32": "hex", "ip": "ipv4", "value.src.ip": "hex"})

    assert made.decode(bytes([10, 0, 0, 1] * 2)) == {
        "src": {"ip": "0x100000a"},
        "dst": {"ip": "10.0.0.1"},
    }


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ({"sadr": "ipv4"}, "no member or type 'sadr'; the members are .*saddr, ifindex"),
        ({"saddr": "mac"}, "saddr has 4 bytes .__be32.; format 'mac' does not fit"),
        ({"value.dport": "ip"}, "value.dport has 2 bytes .__be16.; format 'ip' does not fit"),
        ({"saddr": "ipv5"}, "unknown format 'ipv5'; the formats are ipv4, ipv6, ip, mac"),
        ({"next_hop": "ns"}, "format 'ns' does not fit"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(formats: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec(flow(), 40, formats=formats)


@pytest.mark.parametrize(
    ("kind", "how", "value", "data"),
    [
        ("u32", Format.IPV4, "10.0.0.1", "0a000001"),
        ("u8[4]", Format.IP, "10.0.0.1", "0a000001"),
        ("u32", Format.IPV4, ipaddress.ip_address("10.0.0.1"), "0a000001"),
        ("u32", Format.IPV4, 0x0A000001, "0a000001"),
        ("u32", Format.IPV4, b"\x0a\0\0\1", "0a000001"),
        ("u32[4]", Format.IP, "::1", "00" * 15 + "01"),
        ("u32[2]", Format.IP, ["10.0.0.1", "10.0.0.2"], "0a0000010a000002"),
        ("u8[6]", Format.MAC, "2:0:0:0:0:FF", "0200000000ff"),
        ("u16", Format.PORT, 443, "01bb"),
        ("u16[2]", Format.PORT, [80, 443], "005001bb"),
        ("u64", Format.NS, "1.5 ms", "60e3160000000000"),
        ("u64", Format.NS, 7, "0700000000000000"),
        ("u32", Format.HEX, "0xff", "ff000000"),
        ("u8[3]", Format.HEX, "0a00ff", "0a00ff"),
        ("u16[2]", Format.HEX, ["0x1", "0x2"], "01000200"),
        ("u8[4]", Format.TEXT, "veth", "76657468"),
        ("", Format.HEX, "0a000001", "0a000001"),
        ("", Format.IPV4, "10.0.0.1", "0a000001"),
    ],
)
def test_formats_take_what_they_give_and_what_means_the_same(
    kind: str, how: Format, value: object, data: str
) -> None:
    made = one(kind, how)
    raw = bytes.fromhex(data)

    assert made.encode(value) == raw
    assert made.encode(made.decode(raw)) == raw


@pytest.mark.parametrize(
    ("kind", "how", "value", "message"),
    [
        ("u32", Format.IPV4, "10.0.0.256", "'10.0.0.256' is not an IPv4 address"),
        ("u32", Format.IPV4, 1 << 32, "does not fit"),
        ("u8[6]", Format.MAC, "02:00", "is not a MAC address like"),
        ("u16", Format.PORT, 65536, r"65536 is not a port \(0 to 65535\)"),
        ("u64", Format.NS, "5 h", "is not a time such as '5 ms'; the units are ns, us, ms, s"),
        ("u64", Format.NS, "0.5 ns", "not a whole number of nanoseconds"),
        ("u32", Format.HEX, "0xfg", "is not a hexadecimal number"),
        ("u32", Format.HEX, "0x1ffffffff", "does not fit into 32 bits"),
        ("u8[3]", Format.HEX, "0a", "1 bytes, not 3"),
        ("u32", Format.IPV4, b"\1", "1 bytes, not 4"),
    ],
)
def test_what_is_no_such_value_is_refused(
    kind: str, how: Format, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        one(kind, how).encode(value)


def test_numpy_sees_the_numbers() -> None:
    fields = dtype_of(codec(flow(), 40, formats=AUTO))

    assert (fields["saddr"].str, fields["dport"].str) == ("<u4", "<u2")


def test_a_union_of_addresses_takes_either() -> None:
    types = Types()
    members = (Member("ip4", types.be32, 0), Member("ip6", types.array(types.be32, 4), 0))
    ref = types.ref(types.add(Union("addr", 16, members)))
    made = codec(ref, 16, formats=AUTO)

    assert made.decode(made.encode({"ip6": "2001:db8::1"}))["ip6"] == "2001:db8::1"
    assert made.encode({"ip4": "1.2.3.4"}) == bytes([1, 2, 3, 4]) + bytes(12)


@given(st.integers(0, 2**64 - 1))
def test_times_are_printed_without_loss(number: int) -> None:
    assert parse_ns(str(Nanoseconds(number))) == number
