"""Sets that are held by netlink, since they were taken over from a program without a link."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach.netlink import Netlink
from bpfpin.hooks import HeldBy
from bpfpin.spec import XdpMode
from bpfpin.syscall import netns as namespaces
from support.here import Here, decisions, holder_of, map_ids, packets, veth
from support.holders import held, running, their_program
from support.lab import TestLab
from support.objects import compiled
from support.sets import xdp_program

OLD = "reload_old"
NEW = "reload_new"
COUNTERS = "xdp_stats_map"


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


@pytest.fixture
def taken(here: Here) -> Here:
    """A device with a set that is held by netlink."""
    with their_program(here):
        here.load(compiled(OLD), "--take-over")
    return here


def test_a_program_held_by_netlink_is_replaced_and_the_set_says_so(here: Here) -> None:
    with their_program(here) as theirs:
        before = theirs.id
        taken = here.load(compiled(OLD), "--take-over")
    (program,) = taken["programs"]

    assert running(here) == program["id"] != before
    assert (program["link"], held(here)) == (None, [HeldBy.NETLINK])
    assert list((here.set / "links~").iterdir()) == []
    (note,) = [note for note in taken["notes"] if "netlink" in note]
    assert f"taken over from program id {before}" in note
    assert f"{here.typed} unload --keep-maps {here.device}, then load" in note


def test_a_dry_run_over_netlink_changes_nothing_and_tells_it(here: Here) -> None:
    with their_program(here):
        before = here.everything()
        plan = here.load(compiled(OLD), "--take-over", "--dry-run")
        after = here.everything()

    assert after == before
    assert [note for note in plan["notes"] if "held by netlink" in note]


def test_a_set_held_by_netlink_counts_through_a_reload(bpffs: Path, lab: TestLab) -> None:
    here = Here(bpffs, lab.device)
    with their_program(here):
        first = here.load(compiled(OLD), "--take-over")
    lab.flood(10)
    second = here.load(compiled(NEW))
    lab.flood(10)
    counted = packets(here.set / COUNTERS)
    here.ok("unload", here.device)

    assert (second["result"], counted) == ("reloaded", 20)
    assert map_ids(second)[COUNTERS] == map_ids(first)[COUNTERS]
    assert here.holder() is None


def test_a_set_held_by_netlink_is_unchanged_when_loaded_again(taken: Here) -> None:
    before = taken.everything()

    assert taken.load(compiled(OLD))["result"] == "unchanged"
    assert taken.everything() == before


def test_a_set_held_by_netlink_is_loaded_on_a_namesake_of_its_device(taken: Here) -> None:
    subprocess.run(["ip", "link", "del", taken.device], check=True)
    with veth(taken.device):
        loaded = taken.load(compiled(OLD))

        assert running(taken) == loaded["programs"][0]["id"]


def test_a_set_held_by_netlink_is_unloaded_after_its_device_is_gone(taken: Here) -> None:
    subprocess.run(["ip", "link", "del", taken.device], check=True)
    taken.ok("unload", taken.device)

    assert not taken.set.exists()


def test_a_set_held_by_netlink_in_a_namespace_is_changed_from_outside(
    bpffs: Path, lab: TestLab
) -> None:
    peer, netns = lab.lab.peer, lab.lab.netns
    with namespaces.enter(netns), xdp_program("theirs") as theirs, Netlink() as netlink:
        netlink.attach_xdp(theirs.fd, socket.if_nametoindex(peer), XdpMode.NATIVE)
    here = Here(bpffs, lab.device)
    first = here.ok("load", compiled(OLD), "--dev", peer, "-n", netns, "--take-over")
    second = here.ok("load", compiled(NEW), "--dev", peer, "-n", netns)
    here.ok("unload", f"{netns}@{peer}")
    with namespaces.enter(netns):
        left = holder_of(peer)

    assert (first["programs"][0]["link"], second["result"]) == (None, "reloaded")
    assert left is None


def test_unloading_a_set_held_by_netlink_detaches_its_program(taken: Here) -> None:
    taken.ok("unload", taken.device)

    assert running(taken) == 0
    assert not taken.set.exists()


def test_unloading_leaves_what_somebody_attached_by_netlink_after_us(taken: Here) -> None:
    index = socket.if_nametoindex(taken.device)
    with Netlink() as netlink, xdp_program("theirs") as theirs:
        netlink.detach_xdp(index, XdpMode.NATIVE)
        netlink.attach_xdp(theirs.fd, index, XdpMode.NATIVE)
        taken.run("unload", taken.device)
        left, theirs_id = running(taken), theirs.id

    assert left == theirs_id


def test_unload_does_not_say_that_it_detached_what_it_left(taken: Here) -> None:
    index = socket.if_nametoindex(taken.device)
    with Netlink() as netlink, xdp_program("theirs") as theirs:
        netlink.detach_xdp(index, XdpMode.NATIVE)
        netlink.attach_xdp(theirs.fd, index, XdpMode.NATIVE)
        result = taken.run("unload", taken.device)

    assert f"detached from {taken.device}" not in result.stderr


def test_somebody_after_us_at_netlink_is_told_and_replaced_only_on_purpose(taken: Here) -> None:
    index = socket.if_nametoindex(taken.device)
    with Netlink() as netlink, xdp_program("theirs") as theirs:
        netlink.detach_xdp(index, XdpMode.NATIVE)
        netlink.attach_xdp(theirs.fd, index, XdpMode.NATIVE)
        refused = taken.load_refused(7, compiled(NEW))
        same = taken.load_refused(7, compiled(OLD))
        said = f"program id {theirs.id}"
    healed = taken.load(compiled(NEW), "--take-over")

    assert said in refused.stderr
    assert said in same.stderr
    assert "--take-over" in refused.stderr
    assert running(taken) == healed["programs"][0]["id"]


def test_the_way_to_a_link_keeps_the_counters(taken: Here) -> None:
    first = taken.ok("status", taken.device)["sets"][0]
    taken.ok("unload", "--keep-maps", taken.device)
    second = taken.load(compiled(OLD))

    assert held(taken) == [HeldBy.LINK]
    assert set(decisions(second).values()) == {"kept"}
    assert map_ids(second) == map_ids(first)
