"""Maps read as the caller asks: names or numbers, formats, types of the caller's own."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from bpfpin import AUTO, Format, Map, MapSpec, MapType
from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Array, Enum, Enumerator, Int, Member, Modifier, ModifierKind, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.sets.action_map import Subject
from bpfpin.syscall.cpu import possible_cpus

VERDICT_NAMES = (Enumerator("ABORTED", 0), Enumerator("DROP", 1), Enumerator("PASS", 2))


def types() -> tuple[TypeRef, TypeRef]:
    """Return an enumeration, and `struct seen { __be32 saddr; u32 verdict; u64 last_ns; }`."""
    builder = BtfBuilder()
    verdict = builder.add(Enum("verdict", 4, False, VERDICT_NAMES))
    u32 = builder.add(Int("unsigned int", 4, 32))
    u64 = builder.add(Int("unsigned long long", 8, 64))
    be32 = builder.add(Modifier(ModifierKind.TYPEDEF, "__be32", u32))
    time = builder.add(Modifier(ModifierKind.TYPEDEF, "__u64", u64))
    char = builder.add(Int("char", 1, 8))
    name = builder.add(Array(char, u32, 4))
    members = (
        Member("saddr", be32, 0),
        Member("verdict", verdict, 32),
        Member("last_ns", time, 64),
        Member("name", name, 128),
    )
    seen = builder.add(Struct("seen", 24, members))
    btf = Btf.parse(builder.build())
    return btf.ref(verdict), btf.ref(seen)


VERDICT, SEEN = types()
SPEC = MapSpec("seen", MapType.HASH, 4, 24, 8, key=VERDICT, value=SEEN)
ROW = {"saddr": 0x0100000A, "verdict": "PASS", "last_ns": 5, "name": "lab0"}
PLAIN = MapSpec("plain", MapType.HASH, 8, 4, 4)


def pinned(spec: MapSpec, path: Path) -> Path:
    """Make the map and leave it at *path*."""
    with Map.create(spec) as made:
        made.pin(path)
    return path


def test_keys_and_members_are_names_of_their_enumerations(bpffs: Path) -> None:
    with Map.from_pin(pinned(SPEC, bpffs / "seen")) as held:
        held["DROP"] = ROW
        held[7] = ROW | {"verdict": 9}

        assert held[1] == ROW
        assert held.to_dict() == {"DROP": ROW, 7: ROW | {"verdict": 9}}
        with pytest.raises(
            ValueError, match="'DORP' is not a name of enum verdict; the names are ABORT"
        ):
            held["DORP"] = ROW
        with pytest.raises(ValueError, match="verdict: 'DORP' is not a name of enum verdict"):
            held["DROP"] = ROW | {"verdict": "DORP"}


def test_a_handle_reads_as_it_was_asked_to(bpffs: Path) -> None:
    path = pinned(SPEC, bpffs / "seen")
    with Map.from_pin(path) as held:
        held["DROP"] = ROW

    with Map.from_pin(path, raw=True) as held, Map.of(held) as again:
        assert again.to_dict() == {1: ROW | {"verdict": 2, "name": b"lab0"}}

    with Map.from_pin(path, formats=AUTO) as held, Map.of(held) as again:
        assert again["DROP"]["saddr"] == "10.0.0.1"
        assert str(again["DROP"]["last_ns"]) == "0.000000005 s"
        again["DROP"] = again["DROP"] | {"last_ns": "1 ms"}
        assert held["DROP"]["last_ns"] == 1_000_000

    with Map.from_pin(path, formats={"key": "hex", "value.saddr": Format.IPV4}) as held:
        assert held["0x1"]["saddr"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ({"sadr": "ipv4"}, "no member or type 'sadr'"),
        ({"saddr": "mac"}, "value.saddr has 4 bytes|saddr has 4 bytes"),
        ({"value": "ip"}, "value has 24 bytes .seen.; format 'ip' does not fit"),
    ],
)
def test_formats_that_do_not_fit_open_nothing(
    bpffs: Path, formats: dict[str, str], message: str
) -> None:
    path = pinned(SPEC, bpffs / "seen")

    with pytest.raises(ValueError, match=message):
        Map.from_pin(path, formats=formats)


def test_times_of_all_cpus_are_added_and_compared() -> None:
    spec = SPEC.with_changes(type=MapType.PERCPU_HASH)
    with Map.create(spec) as made:
        made["DROP"] = [ROW | {"last_ns": 10 + cpu} for cpu in range(possible_cpus())]

        with Map.from_id(made.id, formats=AUTO) as held:
            total = held.total("DROP")
            assert total["last_ns"] == sum(10 + cpu for cpu in range(possible_cpus()))
            assert str(total["last_ns"]).startswith("0.0000000")


def test_a_value_that_is_an_enumeration_can_hold_the_verdict_of_a_program(bpffs: Path) -> None:
    spec = MapSpec("action", MapType.HASH, 4, 4, 1, key=VERDICT, value=VERDICT)
    subject = Subject(None, path=pinned(spec, bpffs / "action"))

    with subject.open(read_only=False) as held:
        held[0] = "DROP"

        assert held[0] == "DROP"


class Pair(ctypes.Structure):
    """A key as a caller may describe it."""

    _fields_ = [("source", ctypes.c_uint32), ("dest", ctypes.c_uint32)]


@pytest.mark.parametrize(
    ("form", "key"),
    [("II", (1, 2)), ("8s", b"\1\0\0\0\2\0\0\0"), ("Q", 1 | 2 << 32), (Pair, Pair(1, 2))],
)
def test_keys_in_formats_of_the_caller_can_be_looked_up_in_dicts(form: object, key: object) -> None:
    with (
        Map.create(PLAIN) as made,
        Map.from_id(made.id, key_format=form, value_format="I") as held,
    ):
        held[key] = 5

        assert held.to_dict()[next(iter(held))] == held[key] == 5


def test_bytes_without_a_type_have_formats_as_a_whole() -> None:
    with Map.create(PLAIN) as made, Map.from_id(made.id, formats={"value": "ipv4"}) as held:
        held[bytes(8)] = "10.0.0.1"

        assert made[bytes(8)] == b"\x0a\0\0\1"
