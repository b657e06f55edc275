"""netkit: programs at both ends of a pair, by the library and by the command."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach.netkit import attach_netkit
from bpfpin.attach.order import Order
from bpfpin.attach.query import tcx_programs
from bpfpin.errors import AttachError, HookBusyError
from bpfpin.objects.maps.map import Map
from bpfpin.spec import Hook
from bpfpin.syscall import netns
from support.crash import calls_of_a_process
from support.here import Here
from support.hooks import counting, idle
from support.lab import TestLab
from support.links import NetkitPair, netkit
from support.moments import interrupted
from support.objects import compiled
from support.tools import need

pytestmark = pytest.mark.lab

HOOKS = [Hook.NETKIT_PRIMARY, Hook.NETKIT_PEER]
SENT = 5
STEP = 1000  # by which the next version counts, which tells who counted a packet


def version(step: int = 1) -> Path:
    """Return the object whose programs count by that step."""
    return compiled("netkit", defines=(f"STEP={step}",))


@pytest.fixture
def pair(lab: TestLab) -> Iterator[NetkitPair]:
    """A pair of netkit devices; skipped where the kernel has none."""
    need("ip")
    with netkit(lab) as made:
        yield made


@pytest.fixture
def here(pair: NetkitPair, bpffs: Path) -> Here:
    """The primary device, and a pin root of its own."""
    return Here(bpffs, pair.primary)


def counts(here: Here) -> list[int]:
    """Return what was counted at the primary device and at its peer."""
    with Map.from_pin(here.set / "counts", read_only=True) as counters:
        return [int(value) for value in counters.values()]


def running(pair: NetkitPair) -> list[list[int]]:
    """Return the programs of both hooks, in order."""
    index = socket.if_nametoindex(pair.primary)
    return [[entry.program_id for entry in tcx_programs(index, hook)] for hook in HOOKS]


def test_links_of_the_library_count_each_end_in_order_and_update_in_place(
    pair: NetkitPair,
) -> None:
    primary, peer = HOOKS
    with (
        counting() as programs,
        idle() as other,
        attach_netkit(programs.tc, pair.primary, primary) as link,
        attach_netkit(other, pair.primary, peer),
    ):
        with attach_netkit(other, pair.primary, primary, order=Order.before(programs.tc)):
            assert running(pair) == [[other.id, programs.tc.id], [other.id]]
        with pytest.raises(HookBusyError, match=f"runs this program already.*link id {link.id}"):
            attach_netkit(programs.tc, pair.primary, primary)
        pair.send(SENT)
        link.update(programs.tc_new, expected_old=programs.tc)
        pair.send(SENT)
        pair.send_from_peer(SENT)

        assert programs.counted(programs.tc) >= SENT
        assert programs.counted(programs.tc_new) >= SENT
        assert running(pair) == [[programs.tc_new.id], [other.id]]
        assert link.info.attach_type is primary.attach_type
        assert link.info.ifindex == socket.if_nametoindex(pair.primary)
    assert running(pair) == [[], []]


def test_the_peer_sends_to_the_primary_device_for_programs(pair: NetkitPair) -> None:
    with (
        idle() as program,
        netns.enter(pair.lab.lab.netns),
        pytest.raises(AttachError, match=f"{pair.peer} is the peer of a netkit pair") as error,
    ):
        attach_netkit(program, pair.peer, Hook.NETKIT_PEER)

    assert "primary device" in error.value.hint


def test_the_command_loads_reloads_shows_and_unloads(pair: NetkitPair, here: Here) -> None:
    loaded = here.load(version())
    pair.send(SENT)
    pair.send_from_peer(2 * SENT)
    first = counts(here)
    reloaded = here.load(version(STEP))
    pair.send(SENT)
    pair.send_from_peer(2 * SENT)
    graph = here.ok("graph")
    (shown,) = here.ok("status", here.device)["sets"]
    ids = {program["hook"]: program["id"] for program in reloaded["programs"]}
    attached = {
        (edge["hook"], edge["to"]): edge["link"]
        for edge in graph["edges"]
        if edge["kind"] == "attached" and edge["hook"].startswith("netkit")
    }

    assert first == [SENT, 2 * SENT]
    assert counts(here) == [(1 + STEP) * SENT, (1 + STEP) * 2 * SENT]
    assert [program["link"] for program in reloaded["programs"]] == [
        program["link"] for program in loaded["programs"]
    ]
    assert running(pair) == [[ids["netkit-primary"]], [ids["netkit-peer"]]]
    assert shown["state"] == "ok"
    assert {program["hook"]: program["id"] for program in shown["programs"]} == ids
    assert attached == {
        (program["hook"], f"program:{program['id']}"): program["link"]
        for program in reloaded["programs"]
    }
    assert [node["type"] for node in graph["nodes"] if node["name"] == here.device] == ["netkit"]

    here.ok("unload", here.device)
    assert running(pair) == [[], []]
    assert here.ok("status")["sets"] == []


def test_the_next_command_ends_a_reload_that_was_killed_between_both_ends(
    pair: NetkitPair, here: Here, tmp_path: Path
) -> None:
    here.load(version())
    words = ["load", version(STEP), "--dev", here.device, "--pin-root", here.root]
    command = [sys.executable, "-m", "bpfpin", *map(str, words)]
    updates = [
        f"{call.call}:{call.number}"
        for call in calls_of_a_process(command, folder=tmp_path)
        if "BPF_LINK_UPDATE" in call.arguments
    ]
    here.load(version())
    killed = interrupted(command, signal.SIGKILL, updates[1])
    before = here.ok("status")["sets"][0]["state"]
    halves = running(pair)
    here.ok("clean")
    (shown,) = here.ok("status")["sets"]
    ids = {program["hook"]: program["id"] for program in shown["programs"]}
    pair.send(SENT)
    pair.send_from_peer(SENT)

    assert killed.exit_code == -signal.SIGKILL
    assert (len(updates), before) == (2, "half-built")
    assert (shown["state"], shown["generation"]) == ("ok", 4)
    assert running(pair) == [[ids[hook.value]] for hook in HOOKS]
    assert sum(old == new for old, new in zip(halves, running(pair), strict=True)) == 1
    assert counts(here) == [STEP * SENT, STEP * SENT]
