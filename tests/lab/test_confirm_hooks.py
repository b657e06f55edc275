"""What a load on trial does at each kind of hook: all of it goes back, and none of it is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bpfpin.attach.clsact import clsact_filters, qdiscs
from bpfpin.attach.query import cgroup_programs, tcx_programs
from bpfpin.pins import names, recover
from bpfpin.sets import trial as trials
from bpfpin.spec import Hook
from bpfpin.uapi import AttachType
from support.here import Here, holder_of, veth
from support.holders import running, their_link, their_program
from support.hooks import new_cgroup
from support.objects import compiled
from support.trials import kill, killed_at, on_trial, waiting
from support.wait import wait_until

OLD, NEW = "places_old", "places_new"
LONG = 600  # seconds in which no test ends by itself
# The program of places.h at each hook, and another one that may run there as well.
PROGRAMS = {
    "xdp": ("xdp_in", ""),
    "tcx-ingress": ("tcx_in", "tc_in"),
    "tc-egress": ("tc_in", "tcx_in"),
    "cgroup-inet-ingress": ("cgroup_in", ""),
}
DEVICE_HOOKS = ("xdp", "tcx-ingress", "tc-egress")
State = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class Places:
    """Two devices and a cgroup, and one set that is loaded at their hooks."""

    here: Here
    other: str
    cgroup: Path

    def load(self, source: str, *programs: str, words: Sequence[object] = (), dev: str = "") -> Any:
        """Load these programs (`NAME:HOOK`), which must succeed."""
        chosen = [word for program in programs for word in ("--prog", program)]
        place: list[object] = ["--dev", dev or self.here.device]
        if any("cgroup" in program for program in programs):
            place += ["--cgroup", self.cgroup]
        name = ("--name", self.here.device)
        return self.here.ok("load", compiled(source), *place, *name, *chosen, *words)

    def state(self) -> State:
        """Return what the hooks run, as the kernel tells, and the set as `status` shows it."""
        return (
            _running(self.here.device),
            _running(self.other),
            {"cgroup": _cgroup(self.cgroup), "set": self.hooks()},
        )

    def hooks(self) -> list[Any]:
        """Return the state of the set and its hooks."""
        sets = self.here.ok("status")["sets"]
        return [(one["state"], one["hooks"]) for one in sets]

    def settled(self, wanted: State) -> State:
        """Return the state, once it is *wanted* or does not become so any more."""
        # The kernel frees links that lost their last holder a moment later.
        deadline = time.monotonic() + 5
        while (state := self.state()) != wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        return state

    def running(self) -> list[int]:
        """Return all programs at the hooks."""
        here, other, rest = self.state()
        found = [here["xdp"], other["xdp"], *rest["cgroup"]]
        for device in (here, other):
            found += [*device["tcx-ingress"], *device["tcx-egress"]]
            found += [program for _, program in device["filters"]]
        return found

    def empty_qdiscs(self) -> list[str]:
        """Return the devices with a clsact qdisc and without a filter."""
        states = {device: _running(device) for device in (self.here.device, self.other)}
        return [dev for dev, state in states.items() if state["qdisc"] and not state["filters"]]

    def go_back(self) -> None:
        """Let the process that waits take the change back at once."""
        os.kill(on_trial(self.here.root).pid, signal.SIGTERM)
        wait_until(lambda: waiting(self.here.root) == [])

    def confirm(self) -> None:
        """Confirm the change."""
        self.here.ok("confirm", self.here.device)
        wait_until(lambda: waiting(self.here.root) == [])


def _running(device: str) -> dict[str, Any]:
    index = socket.if_nametoindex(device)
    holder = holder_of(device)
    found: dict[str, Any] = {"xdp": holder and holder.program_id}
    for hook in (Hook.TCX_INGRESS, Hook.TCX_EGRESS):
        found[hook.value] = [one.program_id for one in tcx_programs(index, hook)]
    found["filters"] = [(str(one.place), one.program_id) for one in clsact_filters(index)]
    found["qdisc"] = qdiscs().get(index)
    return found


def _cgroup(cgroup: Path) -> list[int]:
    return [one.program_id for one in cgroup_programs(cgroup, AttachType.CGROUP_INET_INGRESS)]


@pytest.fixture
def places(bpffs: Path, tmp_path: Path) -> Iterator[Places]:
    """Two devices and a cgroup; no process waits at the end."""
    with veth() as device, veth() as other, new_cgroup(tmp_path / "cgroup2") as cgroup:
        places = Places(Here(bpffs, device), other, cgroup)
        yield places
        left = waiting(bpffs)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for name in (device, names.stage_name(device)):
            subprocess.run(["rm", "-rf", str(bpffs / name)], check=True)
    assert left == []


def at(hook: str, number: int = 0) -> str:
    return f"{PROGRAMS[hook][number]}:{hook}"


def beside(hook: str) -> str:
    """Return a program at a hook of another kind, which is in the set before and after."""
    return "xdp_in:xdp" if hook != "xdp" else "tcx_in:tcx-egress"


@dataclass(frozen=True)
class Change:
    """A change of a set: its programs before and after, as functions of the hook."""

    name: str
    before: Callable[[str], list[str]]
    after: Callable[[str], list[str]]
    hooks: Sequence[str] = tuple(PROGRAMS)
    words: tuple[str, ...] = ()
    moves: bool = False


LINK_AND_FILTER = ("xdp", "tc-egress")
SEVERAL = ("tcx-ingress", "tc-egress")
CHANGES = (
    Change("stays", lambda hook: [at(hook)], lambda hook: [at(hook)], LINK_AND_FILTER),
    Change("leaves", lambda hook: [beside(hook), at(hook)], lambda hook: [beside(hook)]),
    Change("comes", lambda hook: [beside(hook)], lambda hook: [beside(hook), at(hook)], SEVERAL),
    Change(
        "another-hook",
        lambda hook: [at(hook)],
        lambda hook: [beside(hook)],
        LINK_AND_FILTER,
        words=("--replace",),
    ),
    Change(
        "device",
        lambda hook: [at(hook)],
        lambda hook: [at(hook)],
        DEVICE_HOOKS,
        words=("--replace",),
        moves=True,
    ),
    Change("program", lambda hook: [at(hook)], lambda hook: [at(hook, 1)], ("tc-egress",)),
    Change("one-more", lambda hook: [at(hook)], lambda hook: [at(hook), at(hook, 1)], SEVERAL),
    Change("one-less", lambda hook: [at(hook), at(hook, 1)], lambda hook: [at(hook)], SEVERAL),
)
TABLE = [(change, hook) for change in CHANGES for hook in change.hooks]
IDS = [f"{change.name}-{hook}" for change, hook in TABLE]


def change_on_trial(places: Places, change: Change, hook: str) -> None:
    dev = places.other if change.moves else ""
    words = [*change.words, "--confirm", LONG]
    places.load(NEW, *change.after(hook), words=words, dev=dev)


@pytest.mark.parametrize(("change", "hook"), TABLE, ids=IDS)
def test_a_load_on_trial_goes_back_or_stays_as_a_whole(
    places: Places, change: Change, hook: str
) -> None:
    """Without a confirmation all is as before; with one nothing of before runs any more."""
    first = places.load(OLD, *change.before(hook))
    before = places.state()
    change_on_trial(places, change, hook)
    during = places.state()
    places.go_back()
    went_back = places.settled(before)
    again = places.load(OLD, *change.before(hook))
    change_on_trial(places, change, hook)
    places.confirm()
    old_ids = {program["id"] for program in first["programs"]}
    wait_until(lambda: not old_ids & set(places.running()))
    ((state, hooks),) = places.hooks()

    assert during != before
    assert went_back == before
    assert again["result"] == "unchanged"
    assert (state, len(hooks)) == ("ok", len(change.after(hook)))
    assert places.empty_qdiscs() == []


def leave_a_filter(places: Places) -> State:
    """Load a filter beside XDP, then XDP alone on trial; return the state before."""
    places.load(OLD, "xdp_in:xdp", at("tc-egress"))
    before = places.state()
    places.load(NEW, "xdp_in:xdp", words=["--confirm", LONG])
    return before


def test_a_filter_that_leaves_runs_on_during_the_trial(places: Places) -> None:
    """As a link does: it never stops, so it needs no new place among the filters of others."""
    before = leave_a_filter(places)
    during = places.state()
    places.go_back()

    assert during[0]["filters"] == before[0]["filters"]
    assert places.settled(before) == before


@pytest.mark.parametrize("moment", ["detach_generation", "remove_trial"])
def test_a_confirm_that_is_killed_detaches_what_left_by_the_next_command(
    places: Places, moment: str
) -> None:
    leave_a_filter(places)
    trial = on_trial(places.here.root)
    words = ("confirm", places.here.device, "--pin-root", places.here.root)
    killed_at(trials, moment, words)
    kill(trial)
    places.here.ok("clean")

    assert _running(places.here.device)["filters"] == []
    assert [state for state, _ in places.hooks()] == ["ok"]
    assert places.empty_qdiscs() == []


def test_a_load_on_trial_that_is_killed_keeps_the_filter_that_would_leave(places: Places) -> None:
    """Published, but not yet reported as on trial: the next command goes back to the filter."""
    places.load(OLD, "xdp_in:xdp", at("tc-egress"))
    before = places.state()
    words = ["load", compiled(NEW), "--dev", places.here.device, "--prog", "xdp_in:xdp"]
    words += ["--confirm", LONG, "--pin-root", places.here.root]
    killed_at(recover, "remove_generation", words, waiting_below=places.here.root)
    places.here.ok("clean")

    assert places.settled(before) == before


def test_what_netlink_holds_leaves_and_comes_back(places: Places) -> None:
    with their_program(places.here):
        places.load(OLD, "xdp_in:xdp", "tcx_in:tcx-egress", words=["--take-over"])
        before = places.state()
        places.load(NEW, "tcx_in:tcx-egress", words=["--confirm", LONG])
        places.go_back()
        went_back = places.settled(before)
        places.load(NEW, "tcx_in:tcx-egress", words=["--confirm", LONG])
        places.confirm()

        assert went_back == before
        assert running(places.here) == 0


@pytest.mark.parametrize("holder", [their_link, their_program])
def test_a_hook_is_not_taken_over_on_trial(places: Places, holder: Any) -> None:
    """The program of somebody else is in no generation of the set, and could not come back."""
    with holder(places.here):
        theirs = running(places.here)
        words = ("--prog", "xdp_in:xdp", "--take-over", "--confirm", LONG)
        refused = places.here.load_refused(2, compiled(OLD), *words)
        planned = places.here.load_refused(2, compiled(OLD), *words, "--dry-run")

        assert running(places.here) == theirs
    assert f"xdp runs program id {theirs}, which is not the set's" in refused.stderr
    assert "take the hook over without --confirm" in refused.stderr
    assert planned.json["error"]["message"] == refused.json["error"]["message"]
