"""Maps that other tools made, with entries that they wrote, shown typed by the command."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.pins.bpffs import BPFFS
from bpfpin.syscall.cpu import possible_cpus
from support import isolation
from support.here import bpftool, run_here
from support.lab import TestLab
from support.objects import compiled
from support.tools import need
from support.wait import wait_until

CPUS = possible_cpus()
GLOBALS = BPFFS / "tc/globals"
FILTER = BPFFS / "xdp-filter"
SENT = 5
BANNED = 9999  # the port that a lab floods
BANNED_KEY = int.from_bytes(BANNED.to_bytes(2, "big"), "little")


@pytest.fixture(autouse=True)
def bpffs_of_the_tools() -> Iterator[None]:
    """A fresh bpffs at the one place where the tools of others look."""
    isolation.mount("bpf", BPFFS)
    try:
        yield
    finally:
        isolation.umount(BPFFS)


def run(*words: object) -> None:
    """Run a tool that must succeed."""
    completed = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr


def shown(*words: object) -> Any:
    """Return the document of a line of `bpfpin map` that must succeed."""
    result = run_here("map", *words, "-o", "json")
    assert result.exit_code == 0, result.stderr
    return result.json


def entries(path: Path) -> list[Any]:
    """Return the entries of `bpfpin map dump`."""
    found: list[Any] = shown("dump", path)["entries"]
    return found


def test_a_map_of_bpftool_has_bytes_that_numbers_stand_for() -> None:
    """They have no types: bpftool gives none."""
    need("bpftool")
    path = BPFFS / "plain"
    sizes = ["key", 4, "value", 8, "entries", 4]
    run("bpftool", "map", "create", path, "type", "hash", *sizes, "name", "plain")
    entry = ["key", *(7, 0, 0, 0), "value", *(1, 2, 0, 0, 0, 0, 0, 0)]
    run("bpftool", "map", "update", "pinned", path, *entry)
    details = shown("show", path)
    ours = shown("set", path, 8, 0x0304)
    (theirs,) = [one for one in bpftool("map", "dump", "pinned", path) if one["key"][0] == "0x08"]

    assert (details["type"], details["key_type"], details["value_type"]) == ("hash", None, None)
    assert {"key": "hex:07000000", "value": "hex:0102000000000000"} in entries(path)
    assert shown("get", path, 7)["value"] == "hex:0102000000000000"
    assert ours["value"] == "hex:0403000000000000"
    assert theirs["value"][:2] == ["0x04", "0x03"]


def test_a_queue_of_bpftool_gives_us_what_it_pushed() -> None:
    need("bpftool")
    path = BPFFS / "jobs"
    create = ["bpftool", "map", "create", path, "type", "queue", "value", 4, "entries", 4]
    run(*create, "name", "jobs")
    run("bpftool", "map", "push", "pinned", path, "value", *(7, 0, 0, 0))
    popped = shown("pop", path)
    shown("push", path, 8)

    assert popped["value"] == "hex:07000000"
    assert bpftool("map", "pop", "pinned", path)["value"] == ["0x08", "0x00", "0x00", "0x00"]


def test_a_map_of_tc_is_typed_by_its_object(lab: TestLab) -> None:
    """The loader of tc pins it; its filter counts packets into it."""
    need("tc", "clang")
    path = GLOBALS / "packets"
    run("tc", "qdisc", "replace", "dev", lab.device, "clsact")
    source = ["obj", compiled("shared_with_cgroup", "clang"), "sec", "tc"]
    run("tc", "filter", "add", "dev", lab.device, "ingress", "bpf", "direct-action", *source)
    lab.flood(SENT)
    wait_until(lambda: shown("get", path, 0)["value"] >= SENT)
    details = shown("show", path)
    (entry,) = entries(path)

    assert (details["key_type"], details["value_type"]) == ("u32", "u64")
    assert entry["key"] == 0
    assert entry["value"] >= SENT
    assert details["pins"] == [str(path)]


@pytest.fixture
def filtered(lab: TestLab) -> TestLab:
    """A device with the filter of xdp-tools, which was told whom to keep out."""
    need("xdp-filter", "bpftool")
    run("xdp-filter", "load", "--mode", "skb", "--policy", "allow", lab.device)
    run("xdp-filter", "ip", "--mode", "src", "192.0.2.1")
    run("xdp-filter", "ip", "--mode", "dst", "2001:db8::1")
    run("xdp-filter", "ether", "--mode", "src", "02:00:00:00:00:01")
    run("xdp-filter", "port", "--mode", "dst", "--proto", "udp", BANNED)
    return lab


def test_the_lists_of_xdp_filter_read_as_addresses(filtered: TestLab) -> None:
    """As far as their types say so: an IPv4 address is a plain number to its map."""
    ipv6_type = shown("show", FILTER / "filter_ipv6")["key_type"]
    (ipv4,) = entries(FILTER / "filter_ipv4")
    (ipv6,) = entries(FILTER / "filter_ipv6")
    (ether,) = entries(FILTER / "filter_ethernet")

    assert ipv6_type.startswith("struct in6_addr")
    assert ipv6["key"] == "2001:db8::1"
    assert ether["key"] == "02:00:00:00:00:01"
    assert ipv4["key"] == int.from_bytes(bytes([192, 0, 2, 1]), "little")
    assert shown("get", FILTER / "filter_ipv4", "192.0.2.1") == {"schema": 1, **ipv4}
    assert len(ipv4["values"]) == CPUS


def test_we_count_what_xdp_filter_drops_and_lift_its_ban(filtered: TestLab) -> None:
    """Its counters have two names for each member, in unions without a name."""
    counters = FILTER / "xdp_stats_map"
    filtered.flood(SENT)
    wait_until(lambda: counted(counters, "XDP_DROP") >= SENT)
    ours = shown("get", counters, "XDP_DROP")["values"]
    theirs = bpftool("map", "dump", "pinned", counters)[1]["formatted"]["values"]
    run_here("map", "set", FILTER / "filter_ports", BANNED_KEY, 0)
    passed = counted(counters, "XDP_PASS")
    filtered.flood(SENT)
    wait_until(lambda: counted(counters, "XDP_PASS") >= passed + SENT)

    assert set(ours[0]) == {"packets", "rx_packets", "bytes", "rx_bytes"}
    assert [one["rx_bytes"] for one in ours] == [one["value"][""]["rx_bytes"] for one in theirs]
    assert counted(counters, "XDP_DROP") == SENT


def counted(counters: Path, action: str) -> int:
    """Return how many packets the filter of xdp-tools has counted for an action."""
    return sum(one["packets"] for one in shown("get", counters, action)["values"])
