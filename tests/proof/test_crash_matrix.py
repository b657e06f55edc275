"""A command killed or failed at any of its steps leaves what the next command makes whole."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support import isolation
from support.crash import (
    ERRORS,
    NEVER_FAILS,
    Fault,
    Point,
    calls_of_a_process,
    distinct,
    points,
)
from support.crash_lab import CrashLab, ForeignLab
from support.crash_matrix import NEW, SCENARIOS, Row, Trials
from support.crash_several import SeveralLab
from support.crash_stubs import StubsLab
from support.crash_trials import TrialLab
from support.lab import new_lab

if TYPE_CHECKING:
    from proof.conftest import Table

pytestmark = pytest.mark.lab

# A first load killed at each of its calls, measured on one machine: calls, half states left.
PEERS = (
    ("bpftool", 29, "8"),
    ("xdp-loader", 79, "11, and no later call succeeds"),
    ("ip, tc", 33, "10 to 12"),
    ("cilium/ebpf", 34, "16"),
    ("libbpf", 32, "15"),
)
SHORT = 6  # calls of a command in the short form
QUESTIONS = 12  # of an unload, right before it removes the first name
FIRST_KILLS = 4  # of each command that is killed twice, in the full form
# Each call with each of the next commands, and with each error: by turns without it.
HAS_ALL = os.environ.get("BPFPIN_ALL_PAIRS") == "1"


Labs = Callable[[type[CrashLab]], CrashLab]


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labs]:
    """A device, a pin root and two objects, made when a kind of lab is first asked for."""
    made: dict[type[CrashLab], CrashLab] = {}
    with contextlib.ExitStack() as undo:

        def lab_of(kind: type[CrashLab]) -> CrashLab:
            for other in made.values():
                other.clear()  # of two shared names of one kind `status` tells a split brain
            if kind not in made:
                folder = tmp_path_factory.mktemp("crash")
                made[kind] = undo.enter_context(crash_lab(kind, folder))
            return made[kind]

        yield lab_of


@contextlib.contextmanager
def crash_lab(kind: type[CrashLab], folder: Path) -> Iterator[CrashLab]:
    """Make a lab and take it down again."""
    root = folder / "bpf"
    root.mkdir()
    isolation.mount("bpf", root)
    with new_lab() as lab, kind.made(lab, root, folder) as made:
        yield made
    isolation.umount(root)


def trials_of(labs: Labs, name: str) -> Trials:
    """Return the trials of a scenario, in a lab of its kind."""
    return Trials(labs(SCENARIOS[name].lab), SCENARIOS[name])


@pytest.fixture(scope="module")
def rows(table: Table) -> Table:
    """The table of all scenarios; the peers' figures stand first."""
    head = ("command", "fault", "trials", "found half-built", "old", "new", "unloaded", "wrong")
    table.begin("Killed or failed at each call, then the next command", head)
    for name, calls, half_states in PEERS:
        table.row((f"{name}: load", "killed", calls, "", "", "", "", half_states))
    return table


def sampled(found: Sequence[Point], name: str, *, count: int) -> list[Point]:
    """Return about *count* calls, evenly spread; another scenario begins at another one."""
    stride = max(1, len(found) // count)
    return list(found[list(SCENARIOS).index(name) % stride :: stride])


def short_of(name: str) -> int:
    """Return how many calls are tried in the short form: fewer where they take longer."""
    short = (SeveralLab, StubsLab, TrialLab, ForeignLab)
    return SHORT // 2 if issubclass(SCENARIOS[name].lab, short) else SHORT


def told(table: Table, name: str, fault: str, row: Row) -> None:
    """Write one row, and hold it to what must be."""
    outcome = (row.half_built, row.old, row.new, row.unloaded, len(row.wrong))
    table.row((name, fault, row.trials, *outcome))

    assert row.wrong == [], "\n".join(row.wrong)
    assert row.trials == row.old + row.new + row.unloaded > 0
    # How many calls a command makes depends on what else runs on the host.
    assert row.missed <= max(2, row.trials // 10)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_command_killed_at_any_call_is_healed_by_the_next(
    labs: Labs, rows: Table, name: str, *, is_full: bool
) -> None:
    trials = trials_of(labs, name)
    found = trials.points()
    row = Row()
    healers = itertools.cycle(SCENARIOS[name].healers)
    for point in distinct(found) if is_full else sampled(found, name, count=short_of(name)):
        for healer in SCENARIOS[name].healers if HAS_ALL else [next(healers)]:
            row.add(trials.killed(point, healer))

    told(rows, name, "killed", row)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if not SCENARIOS[name].refused])
def test_a_command_that_fails_at_any_call_leaves_the_old_state_or_the_new(
    labs: Labs, rows: Table, name: str, *, is_full: bool
) -> None:
    trials = trials_of(labs, name)
    found = [point for point in trials.points() if point.call not in NEVER_FAILS]
    row = Row()
    faults = itertools.cycle(ERRORS)
    for point in found if is_full else sampled(found, name, count=short_of(name)):
        for fault in ERRORS if HAS_ALL and not point.is_passing else [next(faults)]:
            row.add(trials.failed(point, fault))

    told(rows, name, "failed", row)


@pytest.mark.parametrize(
    "name",
    [
        *("load", "reload", "reload, refused", "reload, netlink", "reload, migrating"),
        *("unload", "reload, two devices", "load --confirm", "reload --confirm"),
    ],
)
def test_a_command_killed_while_it_heals_is_healed_by_the_next(
    labs: Labs, rows: Table, name: str, *, is_full: bool
) -> None:
    trials = trials_of(labs, name)
    row = Row()
    # CLEAN first: the short form has one kill.
    healers = itertools.cycle(sorted(SCENARIOS[name].healers, key=lambda healer: healer.value))
    for first in kills_that_leave_something(trials, count=FIRST_KILLS if is_full else 1):
        for healer in SCENARIOS[name].healers if HAS_ALL else [next(healers)]:
            found = trials.points_of_healing(first, healer)
            for second in distinct(found) if is_full else sampled(found, name, count=SHORT // 2):
                row.add(trials.killed(first, healer, then=second))

    told(rows, name, "killed twice", row)


@pytest.mark.parametrize("name", ["unload, by name"])
def test_what_a_shared_name_holds_is_known_before_anything_goes(labs: Labs, name: str) -> None:
    trials = trials_of(labs, name)
    found = trials.points()
    removal = [point.call for point in found].index("unlinkat")
    questions = [point for point in found[:removal] if point.call == "bpf"][-QUESTIONS:]
    row = Row()
    for point in questions:
        row.add(trials.failed(point, Fault.ENOMEM))

    assert row.wrong == [], "\n".join(row.wrong)
    assert row.trials + row.missed == QUESTIONS


def kills_that_leave_something(trials: Trials, *, count: int) -> list[Point]:
    """Return at most *count* calls, evenly spread, at which a kill leaves something half-built."""
    found = trials.points()
    spread = found[:: max(1, len(found) // (4 * count))]
    return [point for point in spread if trials.leaves_something(point)][-count:]


def test_the_calls_are_those_of_the_command_as_its_own_process(labs: Labs) -> None:
    lab = labs(CrashLab)
    lab.clear()
    words = lab.load(NEW)
    here = points(words, folder=lab.folder)
    lab.clear()
    argv = [sys.executable, "-B", "-m", "bpfpin", *words]
    there = calls_of_a_process(argv, folder=lab.folder)

    assert [(point.call, point.number) for point in here] == [
        (point.call, point.number) for point in there
    ]
