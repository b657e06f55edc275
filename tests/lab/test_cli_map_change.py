"""`bpfpin map set` and `delete`: typed words, flags, conditions, single CPUs, what is refused."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Int, Member, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapType
from support import isolation
from support.map_command import ROUTES, SESSIONS, ok, refused, run, said
from support.maps import COUNTERS, FLOWS
from support.tools import need

KEY = '{"saddr": "10.0.0.1", "dport": 80, "protocol": "TCP"}'
FIELDS = "saddr=10.0.0.1,dport=80,protocol=TCP"
STATE = "verdict=PASS", "ifindex=lo", "hits=[1, 2]", "tag=first", "word=0x01020304"


@pytest.fixture
def pinned(bpffs: Path) -> Iterator[Path]:
    """A bpffs with one map of each kind that is written here, pinned under its name."""
    specs = [
        SESSIONS,
        ROUTES,
        FLOWS,
        COUNTERS.with_changes(name="counters", type=MapType.PERCPU_HASH),
        COUNTERS.with_changes(name="indexed"),
        MapSpec("devices", MapType.DEVMAP_HASH, 4, 4, 4),
        ROUTES.with_changes(name="hops", value_size=16, value=COUNTERS.value),
    ]
    with ExitStack() as opened:
        for spec in specs:
            opened.enter_context(Map.create(spec)).pin(bpffs / spec.name)
        yield bpffs


def entries(path: Path) -> Any:
    with Map.from_pin(path, read_only=True) as held:
        return dict(held.items_bytes())


def test_a_structure_is_typed_by_json_or_by_fields(pinned: Path) -> None:
    sessions = pinned / "sessions"
    done = ok("set", sessions, KEY, *STATE)

    assert done["key"] == {"saddr": "10.0.0.1", "dport": 80, "protocol": "TCP"}
    assert done["value"] == {
        "verdict": "PASS",
        "ifindex": socket.if_nametoindex("lo"),
        "hits": [1, 2],
        "tag": "first",
        "word": 0x01020304,
        "byte": 4,
    }
    assert ok("get", sessions, FIELDS) == done
    assert list(entries(sessions)) == [b"\x0a\0\0\x01\0\x50\6\0"]


def test_fields_change_alone_and_bytes_between_stay(pinned: Path) -> None:
    sessions = pinned / "sessions"
    ok("set", sessions, FIELDS, *STATE)

    value = ok("set", sessions, FIELDS, "byte=0xff", "hits[1]=9")["value"]

    assert (value["word"], value["byte"], value["hits"]) == (0x010203FF, 255, [1, 9])
    assert (value["verdict"], value["tag"]) == ("PASS", "first")


def test_raw_shows_numbers_and_bytes(pinned: Path) -> None:
    ok("set", pinned / "sessions", FIELDS, *STATE)

    shown = ok("get", pinned / "sessions", FIELDS, "--raw")

    assert shown["key"] == {"saddr": 0x0100000A, "dport": 0x5000, "protocol": 6}
    assert shown["value"]["verdict"] == 2
    assert shown["value"]["tag"] == "hex:" + b"first".hex() + "000000"


def test_a_trie_takes_prefixes_and_finds_addresses(pinned: Path) -> None:
    routes = pinned / "routes"
    ok("set", routes, "10.0.0.0/8", "8")
    ok("set", routes, "10.1.0.0/16", "16")

    assert [ok("get", routes, one)["value"] for one in ("10.1.2.3", "10.2.0.0/16")] == [16, 8]
    assert said("get", routes, "10.9.9.9").stdout == "8\n"
    assert ok("delete", routes, "10.1.0.0/16") == {"schema": 1, "deleted": 1}
    assert refused(4, "delete", routes, "11.0.0.0/8")["type"] == "KeyNotFoundError"


def test_only_the_exact_prefix_of_a_trie_is_deleted_or_compared(pinned: Path) -> None:
    routes = pinned / "routes"
    for prefix, value in (("10.0.0.0/8", "8"), ("192.168.0.0/16", "16")):
        ok("set", routes, prefix, value)
    before = entries(routes)

    missing = refused(4, "delete", routes, "192.168.0.0/16", "10.1.0.0/16")
    assert "10.1.0.0/16" in missing["message"]
    assert refused(4, "set", routes, "10.1.0.0/16", "1", "--if", "8")["type"] == "KeyNotFoundError"
    assert entries(routes) == before
    # Two spellings of one prefix are one entry.
    twice = ok("delete", routes, "192.168.0.0/16", "192.168.7.7/16", "10.0.0.0/8")
    assert twice["deleted"] == 2
    assert entries(routes) == {}


def test_a_new_prefix_of_a_trie_starts_without_the_fields_of_the_covering_one(
    pinned: Path,
) -> None:
    hops = pinned / "hops"
    ok("set", hops, "10.0.0.0/8", "rx_packets=1", "rx_bytes=2")

    assert ok("set", hops, "10.1.0.0/16", "rx_bytes=3")["value"] == {
        "rx_packets": 0,
        "rx_bytes": 3,
    }
    ok("set", hops, "10.0.0.0/8", "rx_bytes=4", "--if", "rx_packets=1")
    assert ok("get", hops, "10.0.0.0/8")["value"] == {"rx_packets": 1, "rx_bytes": 4}


def test_devices_go_by_name(pinned: Path) -> None:
    index = socket.if_nametoindex("lo")
    done = ok("set", pinned / "devices", "lo", "lo")

    assert entries(pinned / "devices") == {index.to_bytes(4, "little"): index.to_bytes(4, "little")}
    assert done["value"] == index


def test_verdicts_go_by_name_where_a_key_is_a_number(pinned: Path) -> None:
    ok("set", pinned / "indexed", "XDP_PASS", "rx_packets=7")

    assert ok("get", pinned / "indexed", "2")["values"][0]["rx_packets"] == 7


def test_flags_ask_for_new_and_for_old_keys(pinned: Path) -> None:
    flows = pinned / "flows"

    assert refused(4, "set", flows, "1", "5", "--flag", "exist")["type"] == "KeyNotFoundError"
    assert entries(flows) == {}
    assert ok("set", flows, "1", "5", "--flag", "noexist")["value"] == 5
    assert refused(7, "set", flows, "1", "6", "--flag", "noexist")["type"] == "KeyExistsError"
    assert ok("set", flows, "1", "6", "--flag", "exist")["value"] == 6
    assert run("set", flows, "1", "7", "--flag", "maybe").exit_code == 2
    assert ok("get", flows, "1")["value"] == 6


def test_a_condition_must_hold(pinned: Path) -> None:
    sessions, flows = pinned / "sessions", pinned / "flows"
    ok("set", sessions, FIELDS, *STATE)
    ok("set", flows, "1", "5")
    before = entries(sessions)

    error = refused(7, "set", sessions, FIELDS, "verdict=DROP", "--if", "verdict=DROP")

    assert error["type"] == "ValueDiffersError"
    assert error["message"] == "verdict is 'PASS', not 'DROP': nothing was written"
    assert refused(7, "set", flows, "1", "6", "--if", "4")["exit"] == 7
    held = ("--if", "verdict=2", "--if", "hits[0]=1", "--if", "tag=first")
    assert refused(7, "set", sessions, FIELDS, "verdict=1", *held, "--if", "word=0")["exit"] == 7
    assert entries(sessions) == before
    assert ok("set", sessions, FIELDS, "verdict=DROP", *held)["value"]["verdict"] == "DROP"
    assert ok("set", flows, "1", "6", "--if", "5")["value"] == 6


def test_a_condition_needs_an_entry(pinned: Path) -> None:
    assert refused(4, "set", pinned / "flows", "1", "6", "--if", "0")["type"] == "KeyNotFoundError"
    assert entries(pinned / "flows") == {}


def test_one_cpu_is_written_alone(pinned: Path) -> None:
    counters = pinned / "counters"
    first = ok("set", counters, "1", "rx_packets=7", "--cpu", "1")["values"]
    second = ok("set", counters, "1", '{"rx_packets": 1, "rx_bytes": 2}', "--cpu", "0")["values"]
    zero = {"rx_packets": 0, "rx_bytes": 0}

    assert first[:2] == [zero, {"rx_packets": 7, "rx_bytes": 0}]
    assert second == [{"rx_packets": 1, "rx_bytes": 2}, *first[1:]]
    assert refused(7, "set", counters, "1", "rx_packets=9", "--if", "rx_packets=1")["message"] == (
        "rx_packets of CPU 1 is 7, not 1: nothing was written"
    )
    condition = ("--cpu", "0", "--if", "rx_packets=1")
    assert ok("set", counters, "1", "rx_packets=9", *condition)["values"][:2] == [
        {"rx_packets": 9, "rx_bytes": 2},
        first[1],
    ]


def test_padding_keeps_its_bytes_when_a_field_is_set(bpffs: Path) -> None:
    """Of one CPU as well as of all: `struct { u8 state; u32 count; }` with three bytes between."""
    builder = BtfBuilder()
    u8, u32 = (builder.add(Int(f"u{8 * size}", size, 8 * size)) for size in (1, 4))
    members = Member("state", u8, 0), Member("count", u32, 32)
    padded = builder.add(Struct("padded", 8, members))
    btf = Btf.parse(builder.build())
    spec = MapSpec("padded", MapType.PERCPU_HASH, 4, 8, 4, key=btf.ref(u32), value=btf.ref(padded))
    key, old = bytes(4), bytes([1, 0xAA, 0xBB, 0xCC, 2, 0, 0, 0])
    new, one = old[:4] + bytes([9, 0, 0, 0]), old[:4] + bytes([7, 0, 0, 0])
    with Map.create(spec) as counters:
        counters.pin(bpffs / "padded")
        counters.update_bytes(key, old * possible_cpus())
        ok("set", bpffs / "padded", "0", "count=9")
        whole = counters.lookup_bytes(key)
        ok("set", bpffs / "padded", "0", "count=7", "--cpu", "1")

        assert whole == new * possible_cpus()
        assert counters.lookup_bytes(key) == new + one + new * (possible_cpus() - 2)
    assert refused(7, "set", bpffs / "padded", "0", "count=1", "--cpu", "1", "--flag", "noexist")


def test_a_cpu_must_be_possible_and_the_map_of_many(pinned: Path) -> None:
    cpus = len(ok("get", pinned / "indexed", "0")["values"])

    assert (
        "there is no CPU"
        in refused(2, "set", pinned / "indexed", "0", "0", "--cpu", cpus)["message"]
    )
    assert (
        "no values of single CPUs"
        in refused(2, "set", pinned / "flows", "1", "1", "--cpu", "0")["message"]
    )


def test_maps_and_programs_are_named_as_values(bpffs: Path) -> None:
    inner = MapSpec("inner", MapType.ARRAY, 4, 4, 1)
    outer = MapSpec("outer", MapType.ARRAY_OF_MAPS, 4, 4, 2, inner=inner)
    with Map.create(outer) as outside, Map.create(inner) as inside:
        outside.pin(bpffs / "outer")

        assert ok("set", bpffs / "outer", "0", f"id:{inside.id}")["value"] == inside.id
        assert outside[0] == inside.id
        assert ok("show", bpffs / "outer")["inner"]["name"] == "inner"
        assert f"map {outside.id}, which holds it" in said("show", f"id:{inside.id}").stdout
        assert refused(2, "set", bpffs / "outer", "1", "7")["type"] == "UsageError"
        assert refused(4, "set", bpffs / "outer", "1", bpffs / "none")["exit"] == 4


def test_keys_are_deleted_all_or_none(pinned: Path) -> None:
    flows = pinned / "flows"
    for key in ("1", "2", "3"):
        ok("set", flows, key, "0")

    assert refused(4, "delete", flows, "1", "9")["type"] == "KeyNotFoundError"
    assert len(entries(flows)) == 3
    assert said("delete", flows, "1", "0x2", "2").stderr == f"deleted 2 entries of {flows}\n"
    assert ok("delete", flows, "--all")["deleted"] == 1
    assert entries(flows) == {}
    assert ok("delete", flows, "--all")["deleted"] == 0


def test_deleting_needs_keys_or_all(pinned: Path) -> None:
    assert refused(2, "delete", pinned / "flows")["type"] == "UsageError"
    assert refused(2, "delete", pinned / "flows", "1", "--all")["type"] == "UsageError"


@pytest.mark.parametrize("words", [("0",), ("--all",)])
def test_nothing_of_an_array_is_deleted(pinned: Path, words: tuple[str, ...]) -> None:
    error = refused(2, "delete", pinned / "indexed", *words)

    assert "is an array: its keys cannot be deleted" in error["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sessions", "1", "verdict=PASS"), "key '1' is not of type struct session"),
        (("sessions", '{"saddr": 1}', "verdict=PASS"), "dport: the member is missing"),
        (
            ("sessions", FIELDS, "verdict=MAYBE"),
            "'MAYBE' is not a name of enum verdict; the names are DROP, PASS",
        ),
        (("sessions", FIELDS, "hits[2]=1"), "there is no element [2]"),
        (("sessions", FIELDS, "hits=[1]"), "1 elements, not 2"),
        (("sessions", FIELDS, "tag=much too long"), "13 bytes of text, 8 at most"),
        (("sessions", FIELDS, "ifindex=nosuch0"), "value.ifindex 'nosuch0' does not fit"),
        (("sessions", FIELDS, "word=4294967296"), "does not fit into 32 bits"),
        (("sessions", FIELDS, "hex:00"), "has 1 bytes; the map's takes 28"),
        (("routes", "10.0.0.0/33", "1"), "key '10.0.0.0/33' is not of type struct prefix"),
        (("flows", "XDP_MAYBE", "1"), "key 'XDP_MAYBE' is not of type u32"),
        (("flows", "1", "verdict=1"), "value 'verdict=1' is not of type u32"),
        (("flows", "1", "1", "2"), "'1 2' is more than one value"),
        (("counters", "1", "[1]"), "value '1' is not of type struct datarec"),
        (("counters", "1", "[]"), "0 values, but"),
    ],
)
def test_what_does_not_fit_changes_nothing(
    pinned: Path, words: tuple[str, ...], message: str
) -> None:
    name, *rest = words
    before = entries(pinned / name)
    error = refused(2, "set", pinned / name, *rest)

    assert (error["type"], message in error["message"]) == ("UsageError", True), error
    assert entries(pinned / name) == before


def test_an_array_says_which_keys_it_has(pinned: Path) -> None:
    error = refused(4, "set", pinned / "indexed", "5", "rx_packets=1")

    assert "index 5 is past the end: max_entries is 5" in error["message"]


def test_a_full_map_a_frozen_one_and_a_wrong_index(pinned: Path) -> None:
    for key in range(FLOWS.max_entries):
        ok("set", pinned / "flows", key, "0")
    with Map.from_pin(pinned / "indexed") as held:
        held.freeze()

    full = refused(7, "set", pinned / "flows", "99", "0")
    assert full["type"] == "MapFullError"
    assert "has no room for key 99: it is full (BPF_MAP_UPDATE_ELEM: E2BIG" in full["message"]
    assert refused(3, "set", pinned / "indexed", "0", "rx_bytes=1")["type"] == "ReadOnlyMapError"
    assert refused(4, "get", pinned / "indexed", "5")["type"] == "KeyNotFoundError"


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        (MapSpec("ring", MapType.RINGBUF, 0, 0, 4096), "map events"),
        (MapSpec("line", MapType.QUEUE, 0, 4, 4), "map pop"),
        (MapSpec("pile", MapType.STACK, 0, 4, 4), "map pop"),
    ],
    ids=lambda one: one.name if isinstance(one, MapSpec) else "",
)
def test_a_map_without_keys_says_what_to_use(spec: MapSpec, hint: str) -> None:
    with Map.create(spec) as held:
        name = f"id:{held.id}"
        errors = [
            refused(2, "get", name, "0"),
            refused(2, "set", name, "0", "1"),
            refused(2, "delete", name, "--all"),
        ]

    assert all(hint in error["hint"] for error in errors), errors
    assert all("no entries to look up" in error["message"] for error in errors)


def test_sockets_cannot_be_named() -> None:
    with Map.create(MapSpec("xsks", MapType.XSKMAP, 4, 4, 4)) as held:
        error = refused(2, "set", f"id:{held.id}", "0", "1")

    assert "a command line cannot name" in error["message"]


def test_a_cgroup_is_named_by_its_path(tmp_path: Path) -> None:
    isolation.mount("cgroup2", tmp_path)
    with Map.create(MapSpec("cgroups", MapType.CGROUP_ARRAY, 4, 4, 4)) as held:
        done = ok("set", f"id:{held.id}", "1", tmp_path)

        assert done["value"] == str(tmp_path)
        assert ok("delete", f"id:{held.id}", "1")["deleted"] == 1
        assert "user space cannot read" in refused(2, "get", f"id:{held.id}", "1")["message"]
    isolation.umount(tmp_path)


def test_a_bloom_filter_is_asked_for_a_value() -> None:
    with Map.create(MapSpec("seen", MapType.BLOOM_FILTER, 0, 4, 4)) as held:
        ok("push", f"id:{held.id}", "10.0.0.1")

        assert ok("get", f"id:{held.id}", "10.0.0.1")["value"] is True
        assert refused(4, "get", f"id:{held.id}", "10.0.0.2")["type"] == "KeyNotFoundError"
        assert refused(2, "set", f"id:{held.id}", "1", "1")["type"] == "UsageError"


def test_bpftool_reads_what_was_written_and_we_what_it_wrote(pinned: Path) -> None:
    need("bpftool")
    flows = pinned / "flows"
    ok("set", flows, "258", "10.0.0.1")
    wrote = "bpftool map update pinned PATH key 3 0 0 0 value 4 0 0 0".replace("PATH", str(flows))
    subprocess.run(wrote.split(), check=True)

    shown = subprocess.run(
        ["bpftool", "-j", "map", "dump", "pinned", flows],
        capture_output=True,
        check=True,
    ).stdout
    by_key = {tuple(one["key"]): one["value"] for one in json.loads(shown)}
    assert by_key["0x02", "0x01", "0x00", "0x00"] == ["0x0a", "0x00", "0x00", "0x01"]
    assert ok("get", flows, "3")["value"] == 4
