"""What `unload` means by a name, and what it leaves; read-only and exhausted hosts."""

from __future__ import annotations

import functools
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bpfpin.attach.xdp import attach_xdp
from support.here import Here, veth
from support.sets import xdp_program


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    with veth() as device:
        yield Here(bpffs, device)


def left(here: Here) -> list[str]:
    """Return the names in the pin root but the kernel's own, the only ones with a dot."""
    return sorted(path.name for path in here.root.iterdir() if "." not in path.name)


def test_a_set_called_like_its_device_is_meant_where_the_device_has_two(here: Here) -> None:
    here.load("builtin:xdp_stats")
    here.load("builtin:tc_stats", "--name", "other", "--hook", "tcx-ingress")
    shown = here.ok("status", here.device)
    here.ok("unload", here.device)
    there = left(here)
    here.ok("unload", here.device)

    assert [one["set"] for one in shown["sets"]] == [here.device]
    assert "other" in there
    assert here.device not in there
    assert left(here) == []


def test_all_sets_are_unloaded_and_nothing_is_left(here: Here) -> None:
    here.load("builtin:xdp_stats")
    here.load("builtin:tc_stats", "--name", "other", "--hook", "tcx-ingress")
    both = here.run("unload", here.device, "--all")
    done = here.ok("unload", "--all")
    again = here.ok("unload", "--all")

    assert both.exit_code == 2
    assert {one["set"] for one in done["sets"]} == {here.device, "other"}
    assert again["sets"] == []
    assert left(here) == []
    assert here.holder() is None


@contextmanager
def busy_network() -> Iterator[None]:
    """Keep the kernel's lock of network devices (RTNL) busy in another namespace."""
    script = "while :; do ip link add a type veth peer name b; ip link del a; done"
    with subprocess.Popen(["unshare", "-n", "sh", "-c", script]) as process:
        try:
            yield
        finally:
            process.kill()


def test_a_device_is_free_when_unload_returns(here: Here) -> None:
    """The kernel frees a link under a lock, after it gave up the id of the link."""
    holders = []
    with busy_network(), busy_network():
        for _ in range(15):
            here.load("builtin:xdp_stats")
            here.ok("unload", here.device)
            holders.append(here.holder())

    assert holders == [None] * 15


def test_a_holder_of_a_device_is_told_by_its_name(here: Here) -> None:
    nothing = here.refused(4, "status", here.device)
    with xdp_program("theirs") as theirs, attach_xdp(theirs, here.device):
        told = here.ok("status", here.device)
        id_ = theirs.id
    here.load("builtin:xdp_stats")
    own = here.ok("status", here.device)

    assert "nothing is loaded" in nothing.stderr
    assert told["sets"] == []
    assert [(one["device"], one["hook"], one["id"]) for one in told["others"]] == [
        (here.device, "xdp", id_)
    ]
    assert own["others"] == []


def test_a_read_only_bpffs_can_be_read_and_says_what_to_do(here: Here) -> None:
    here.load("builtin:xdp_stats")
    subprocess.run(["mount", "-o", "remount,ro", str(here.root)], check=True)
    try:
        shown, verdict = here.ok("status", here.device), here.run("action", here.device)
        listed = here.run("map", "dump", here.set / "action")
        refused = here.refused(7, "unload", here.device)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(here.root)], check=True)

    assert (shown["sets"][0]["state"], shown["problems"]) == ("ok", [])
    assert shown["sets"][0]["programs"][0]["id"] > 0
    assert (verdict.exit_code, listed.exit_code) == (0, 0)
    assert f"mount -o remount,rw {here.root}" in refused.json["error"]["hint"]


def test_a_load_that_runs_out_of_descriptors_leaves_no_stage(here: Here) -> None:
    words = ["load", "--dev", here.device, "--pin-root", str(here.root), "-q"]
    endings = set()
    for limit in range(12, 44, 4):
        done = subprocess.run(
            [sys.executable, "-m", "bpfpin", *words],
            preexec_fn=functools.partial(
                resource.setrlimit, resource.RLIMIT_NOFILE, (limit, limit)
            ),
            check=False,
            capture_output=True,
            text=True,
        )
        endings.add(done.returncode)

        assert done.returncode == 0 or "Too many open files" in done.stderr
        assert [name for name in left(here) if name.endswith("~stage")] == []
        assert (here.holder() is None) == (done.returncode != 0)
        if done.returncode == 0:
            break

    assert len(endings) == 2
