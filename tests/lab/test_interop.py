"""Beside the tools of others: each side uses what the other one made."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import bpfpin
from bpfpin.apps.lab import traffic
from bpfpin.objects.maps.map import Map
from bpfpin.pins.bpffs import BPFFS
from bpfpin.uapi import XdpAction
from support import isolation
from support.here import Here, bpftool, id_at, packets, run_here
from support.hooks import new_cgroup
from support.lab import TestLab, new_lab
from support.objects import compiled
from support.tools import need, need_libbpf
from support.wait import wait_until

FLOOD = 6
PINGS = 4
COUNTERS = "xdp_stats_map"
GLOBALS = BPFFS / "tc/globals"
SHIPPED = Path(bpfpin.__file__).parent / "builtin"
READER = Path(__file__).parents[1] / "support/counters_reader.c"


@dataclass(frozen=True)
class Host(Here):
    """A lab's device, and a fresh bpffs at the one place where the tools of others look."""

    lab: TestLab

    @property
    def counters(self) -> Path:
        """The map that the shipped programs count into."""
        return self.set / COUNTERS


@pytest.fixture
def host() -> Iterator[Host]:
    isolation.mount("bpf", BPFFS)
    try:
        with new_lab() as lab:
            yield Host(BPFFS, lab.device, lab)
    finally:
        isolation.umount(BPFFS)


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Path]:
    with new_cgroup(tmp_path / "cgroup") as made:
        yield made


def run(*words: object) -> str:
    """Run a tool that must succeed, and return what it wrote."""
    completed = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def add_filter(host: Host, direction: str, *words: object) -> None:
    """Let tc attach a program, which its own loader loads if it is an object."""
    run("tc", "qdisc", "replace", "dev", host.device, "clsact")
    run("tc", "filter", "add", "dev", host.device, direction, "bpf", "direct-action", *words)


def ping_from(cgroup: Path, host: Host) -> None:
    """Send PINGS echo requests from a process in the cgroup; each is answered."""
    line = f"echo $$ > {cgroup}/cgroup.procs && exec ping -q -c {PINGS} -i 0.05 {{}}"
    run("bash", "-c", line.format(host.lab.peer_address))


def shown(host: Host) -> dict[str, Any]:
    """Return the graph around the device as `bpfpin graph -o json` shows it."""
    document: dict[str, Any] = run_here("graph", host.device, "-o", "json").json
    return document


def names(document: dict[str, Any], kind: str) -> list[str]:
    """Return the names of the nodes of a kind."""
    return [node["name"] for node in document["nodes"] if node["kind"] == kind]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        pytest.param("shared_with_cgroup", ["--map", f"packets={GLOBALS}/packets"], id="by-map"),
        pytest.param("shared_with_cgroup", ["--pin-root", GLOBALS], id="by-pinning"),
        pytest.param("elf_map_cgroup", [], id="by-pinning-of-iproute2"),
    ],
)
def test_the_map_that_tc_made_is_the_one_of_our_cgroup(
    host: Host, cgroup: Path, source: str, words: list[object]
) -> None:
    """Requests are counted where they leave the cgroup, answers where tc sees them arrive."""
    need("tc", "clang", "ping")
    add_filter(host, "ingress", "obj", compiled("shared_with_cgroup", "clang"), "sec", "tc")
    made = id_at(GLOBALS / "packets")
    loading = ["load", compiled(source), "--cgroup", cgroup, "--prog", "count_out"]
    loaded = run_here(*loading, "-o", "json", *words).json
    ping_from(cgroup, host)
    with Map.from_pin(GLOBALS / "packets", read_only=True) as both:
        counted = both[0]
    of_tc, of_cgroup = programs_using(made)

    assert [(one["decision"], one["id"]) for one in loaded["maps"]] == [("shared", made)]
    assert (of_tc["name"], of_cgroup["name"]) == ("count_in", "count_out")
    assert counted == 2 * PINGS


def programs_using(map_id: int) -> list[Any]:
    """Return the programs that use a map, as bpftool sees it, in the order they were loaded."""
    need("bpftool")
    return [one for one in bpftool("prog", "show") if map_id in one.get("map_ids", [])]


def test_a_program_that_bpftool_loads_uses_the_map_that_we_made(host: Host) -> None:
    need("bpftool", "tc")
    ours = host.load("builtin:xdp_stats")
    theirs = BPFFS / "theirs"
    words = ["map", "name", COUNTERS, "pinned", host.counters]
    run("bpftool", "prog", "load", SHIPPED / "tc_stats.bpf.o", theirs, *words)
    add_filter(host, "ingress", "object-pinned", theirs)
    host.lab.flood(FLOOD)
    wait_until(lambda: packets(host.counters, XdpAction.XDP_PASS) >= 2 * FLOOD)
    users = programs_using(id_at(host.counters))
    graph = shown(host)
    (shared,) = [node for node in graph["nodes"] if node.get("shared")]

    assert [one["name"] for one in users] == ["xdp_stats", "tc_stats"]
    assert users[0]["id"] == ours["programs"][0]["id"]
    assert packets(host.counters, XdpAction.XDP_PASS) == 2 * FLOOD
    assert (shared["name"], shared["number"]) == (COUNTERS, id_at(host.counters))


def test_what_bpftool_writes_we_read_and_the_other_way_round(host: Host) -> None:
    need("bpftool")
    host.load("builtin:xdp_stats")
    action = host.set / "action"
    words = ["key", *"0000", "value", XdpAction.XDP_DROP.value, *"000"]
    run("bpftool", "map", "update", "pinned", action, *words)
    we_read = host.ok("map", "get", action, "0")["value"]
    host.ok("map", "set", action, "0", XdpAction.XDP_TX.value)
    (they_read,) = bpftool("map", "dump", "pinned", action)

    assert we_read == XdpAction.XDP_DROP
    assert they_read["formatted"] == {"key": 0, "value": XdpAction.XDP_TX}


def test_bpftool_dumps_the_counters_that_we_dump(host: Host) -> None:
    need("bpftool")
    host.load("builtin:xdp_stats")
    host.lab.flood(FLOOD)
    wait_until(lambda: packets(host.counters, XdpAction.XDP_PASS) >= FLOOD)
    ours = host.ok("map", "dump", host.counters)["entries"]
    theirs = [one["formatted"] for one in bpftool("map", "dump", "pinned", host.counters)]

    assert [
        {"key": one["key"], "values": [cpu["value"] for cpu in one["values"]]} for one in theirs
    ] == ours


def test_a_program_in_c_reads_the_five_records_of_our_pin(host: Host, tmp_path: Path) -> None:
    need_libbpf()
    program = tmp_path / "counters_reader"
    run("gcc", "-O2", "-Wall", "-Werror", "-o", program, READER, "-lbpf")
    host.load("builtin:xdp_stats")
    host.lab.flood(FLOOD, size_bytes=58)
    wait_until(lambda: packets(host.counters, XdpAction.XDP_PASS) >= FLOOD)
    host.ok("map", "set", host.set / "action", "0", XdpAction.XDP_DROP.value)
    host.lab.flood(1, size_bytes=58)
    wait_until(lambda: packets(host.counters, XdpAction.XDP_DROP) >= 1)
    rows = [tuple(map(int, line.split())) for line in run(program, host.device).splitlines()]

    assert rows == [(0, 0, 0), (1, 1, 100), (2, FLOOD, FLOOD * 100), (3, 0, 0), (4, 0, 0)]


@pytest.mark.parametrize("mode", ["xdpgeneric", "xdpdrv"])
def test_the_program_of_ip_link_is_told_and_taken_over_without_a_gap(host: Host, mode: str) -> None:
    """Their program counts into one map, ours into another; together that is all that was sent."""
    need("ip", "clang")
    theirs = compiled("shared_by_name", "clang")
    run("ip", "link", "set", "dev", host.device, mode, "obj", theirs, "sec", "xdp")
    before = program_of_ip_link(host)
    refused = host.load_refused(7, "builtin:xdp_stats")
    with traffic(host.lab.lab) as sent:
        wait_until(lambda: theirs_counted() > 0)
        taken = host.load("builtin:xdp_stats", "--take-over")
        wait_until(lambda: packets(host.counters, XdpAction.XDP_PASS) > 0)
    wait_until(lambda: theirs_counted() + packets(host.counters, XdpAction.XDP_PASS) >= sent.sent)
    running = program_of_ip_link(host)
    host.ok("unload", host.device)

    assert f"program id {before} (count_before)" in refused.stderr
    assert "--take-over" in refused.json["error"]["hint"]
    assert taken["hooks"][0]["before"] == before
    assert running == taken["programs"][0]["id"]
    assert program_of_ip_link(host) == 0


def theirs_counted() -> int:
    with Map.from_pin(GLOBALS / "packets", read_only=True) as held:
        return int(held[0])


def program_of_ip_link(host: Host) -> int:
    """Return the id of the device's XDP program as ip(8) sees it, 0 for none."""
    (link,) = json.loads(run("ip", "-json", "link", "show", "dev", host.device))
    return int(link.get("xdp", {}).get("prog", {}).get("id", 0))


def test_the_graph_shows_what_ip_and_tc_attached(host: Host) -> None:
    need("ip", "tc", "clang")
    both = compiled("shared_by_name", "clang")
    run("ip", "link", "set", "dev", host.device, "xdp", "obj", both, "sec", "xdp")
    add_filter(host, "egress", "obj", both, "sec", "tc")
    graph = shown(host)
    hooks = [edge["hook"] for edge in graph["edges"] if edge["kind"] == "attached"]
    (shared,) = [node for node in graph["nodes"] if node.get("shared")]

    assert names(graph, "program") == ["count_before", "count_after"]
    assert hooks == ["xdp", "tc-egress"]
    assert (shared["name"], shared["number"]) == ("packets", id_at(GLOBALS / "packets"))
    assert graph["problems"] == []


def test_what_we_attach_is_shown_by_the_tools_of_others(host: Host, cgroup: Path) -> None:
    need("ip", "tc", "bpftool")
    sharing = ["--map", f"{COUNTERS}={host.counters}"]
    of_xdp = host.load("builtin:xdp_stats")["programs"]
    of_tc = host.load(
        "builtin:tc_stats", "--hook", "tc-ingress", "--name", f"{host.device}-tc", *sharing
    )["programs"]
    of_cgroup = host.ok("load", "builtin:cgroup_stats", "--cgroup", cgroup, *sharing)["programs"]
    filters = json.loads(run("tc", "-json", "filter", "show", "dev", host.device, "ingress"))
    in_cgroup = bpftool("cgroup", "show", cgroup)
    users = programs_using(id_at(host.counters))

    assert program_of_ip_link(host) == of_xdp[0]["id"]
    assert [one["options"]["prog"]["id"] for one in filters if "options" in one] == [of_tc[0]["id"]]
    assert {one["id"] for one in in_cgroup} == {one["id"] for one in of_cgroup}
    assert {one["id"] for one in users} == {one["id"] for one in (*of_xdp, *of_tc, *of_cgroup)}


def test_the_program_of_xdp_loader_is_shown_and_told(host: Host) -> None:
    """Alone or behind the dispatcher of libxdp, whichever this kernel lets it have."""
    need("xdp-loader")
    run("xdp-loader", "load", host.device, SHIPPED / "xdp_stats.bpf.o")
    graph = shown(host)
    refused = host.load_refused(7, "builtin:xdp_stats")
    run("xdp-loader", "unload", host.device, "--all")

    assert "xdp_stats" in names(graph, "program")
    assert names(graph, "map") == [COUNTERS, "action"]
    assert "runs another XDP program already" in refused.stderr
