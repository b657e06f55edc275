"""Loads on trial, on sets made by hand: a first load, a reload, and what becomes of them."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bpfpin.attach.xdp import attach_xdp
from bpfpin.errors import BpfError, BusyError, ProgramChangedError
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import bpffs as pin_roots
from bpfpin.pins import names
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import locked
from bpfpin.pins.manifest import AttachPoint, HookRecord, Manifest
from bpfpin.pins.pinset import PinSet
from bpfpin.pins.transaction import Stage, next_generation
from bpfpin.pins.trial import CONFIRM, TrialPlace
from bpfpin.sets.confirm import clear, confirm
from bpfpin.sets.live import read_live, reopen
from bpfpin.sets.load.trial import LoadTrial
from bpfpin.sets.trial import describe_trial, settle, trial_of
from bpfpin.sets.undeploy import undeploy
from bpfpin.spec import MapSpec, XdpMode
from bpfpin.syscall import netns
from bpfpin.uapi import MapType
from support.here import holder_of, id_at, veth
from support.sets import xdp_program
from support.trials import kill, on_trial, wait_for_the_deadline, waiting
from support.wait import wait_until

COUNTERS = MapSpec("counters", MapType.ARRAY, 4, 8, 1)
LONG = 600  # seconds in which no test ends by itself


class Loads:
    """A set on a device, loaded and reloaded by hand."""

    def __init__(self, root: Directory, device: str) -> None:
        self.root = root
        self.device = device
        self.path = root.path / device

    @property
    def running(self) -> int:
        """The id of the program that runs on the device, 0 for none."""
        holder = holder_of(self.device)
        return 0 if holder is None else holder.program_id

    @property
    def is_on_trial(self) -> bool:
        """Whether the set holds anything of a trial."""
        return (self.path / CONFIRM).exists()

    @property
    def live(self) -> PinSet:
        """The set as it is found now."""
        return PinSet.read(self.root.path, self.device)

    def load(self, name: str, *, seconds: int | None = None, fails: bool = False) -> int:
        """Load a program as the next generation, on trial for *seconds*; return its id."""
        index = socket.if_nametoindex(self.device)
        place = AttachPoint(netns_inode=netns.inode(), ifindex=index, device=self.device)
        with xdp_program(name) as program, ExitStack() as around:
            trial = None
            if seconds is not None:
                trial = around.enter_context(LoadTrial(seconds, self.root, self.device, place))
            around.enter_context(locked(self.root, timeout_s=5))
            with next_generation(self.root, self.device, reopen) as stage:
                self._build(stage, program, place, trial)
                if fails:
                    raise RuntimeError("on purpose")
            return program.id

    def _build(
        self, stage: Stage, program: Program, place: AttachPoint, trial: LoadTrial | None
    ) -> None:
        live = read_live(self.root.path, self.device).loaded
        with ExitStack() as opened:
            before = opened.enter_context(self.root.child(self.device)) if live else None
            stage.pin_program("count", program)
            if before is None:
                stage.pin_map("counters", opened.enter_context(Map.create(COUNTERS)))
            else:
                stage.keep_map("counters", before)
            if live is not None and before is not None and live.links:
                stage.keep_link("xdp", before)
                stage.pin_previous(
                    "xdp", opened.enter_context(Program.from_pin(live.programs["count"]))
                )
            else:
                link = opened.enter_context(attach_xdp(program, self.device))
                stage.pin_link("xdp", link) if trial is None else trial.hold("xdp", link)
            if trial is not None:
                trial.begin(before)
            generation = live.manifest.generation + 1 if live else 1
            hook = HookRecord("xdp", "count", "xdp", mode=XdpMode.NATIVE.value)
            stage.write_manifest(Manifest("0.1.0", "x.o", "00" * 32, generation, 0, place, (hook,)))

    def confirm(self) -> None:
        """Type `bpfpin confirm DEV`."""
        confirm(self.device, pin_root=self.root.path)

    def settle(self) -> tuple[str, ...]:
        """Do what every command does that is about to change the set."""
        with locked(self.root, timeout_s=5):
            return settle(self.root, TrialPlace(self.root.path, self.device))


@pytest.fixture
def loads(bpffs: Path) -> Iterator[Loads]:
    """A device, and nothing loaded on it; no process waits at the end."""
    with veth() as device, pin_roots.open_to_change(bpffs) as root:
        yield Loads(root, device)
        left = waiting(bpffs)
        for pid in left:
            subprocess.run(["kill", "-9", str(pid)], check=True)
        for name in (device, names.stage_name(device)):
            subprocess.run(["rm", "-rf", str(bpffs / name)], check=True)

    assert left == []


def nobody_waits(loads: Loads) -> bool:
    return waiting(loads.root.path) == []


def test_a_first_load_that_nobody_confirms_leaves_nothing(loads: Loads) -> None:
    program = loads.load("first", seconds=1)
    during = loads.running, list((loads.path / "links~").iterdir()), loads.is_on_trial
    wait_until(lambda: nobody_waits(loads))
    wait_until(lambda: loads.running == 0)

    assert during == (program, [], True)
    assert not any(name.startswith(loads.device) for name in loads.root.names())


def test_a_first_load_that_is_confirmed_stays_by_the_same_link(loads: Loads) -> None:
    program = loads.load("first", seconds=1)
    trial = on_trial(loads.root.path)
    loads.confirm()
    wait_for_the_deadline(trial)
    with Link.from_pin(loads.live.links["xdp"]) as link:
        link_id = link.id

    assert (loads.running, link_id) == (program, trial.links["xdp"])
    assert (loads.is_on_trial, nobody_waits(loads)) == (False, True)


def test_killing_the_process_of_a_first_load_detaches_at_once(loads: Loads) -> None:
    loads.load("first", seconds=LONG)
    kill(on_trial(loads.root.path))
    wait_until(lambda: loads.running == 0)
    told = loads.settle()

    assert told == ("a load was not confirmed in time: what was before is back",)
    assert not loads.path.exists()


def test_what_ended_with_its_process_cannot_be_confirmed(loads: Loads) -> None:
    loads.load("first", seconds=LONG)
    kill(on_trial(loads.root.path))
    with pytest.raises(BusyError, match="not confirmed in time"):
        loads.confirm()

    assert not loads.path.exists()


def test_a_reload_that_nobody_confirms_goes_back_to_the_generation_before(loads: Loads) -> None:
    old = loads.load("old")
    counters = id_at(loads.path / "counters")
    new = loads.load("new", seconds=1)
    during = loads.running
    wait_until(lambda: nobody_waits(loads))
    live = loads.live
    with Program.from_pin(live.programs["count"]) as program:
        pinned = program.id

    assert during == new
    assert (loads.running, pinned, id_at(loads.path / "counters")) == (old, old, counters)
    assert live.manifest is not None
    assert (live.manifest.generation, live.state.value) == (3, "ok")
    assert not loads.is_on_trial


def test_a_reload_that_is_confirmed_stays(loads: Loads) -> None:
    loads.load("old")
    new = loads.load("new", seconds=1)
    trial = on_trial(loads.root.path)
    loads.confirm()
    wait_for_the_deadline(trial)

    assert (loads.running, loads.is_on_trial, nobody_waits(loads)) == (new, False, True)
    assert loads.settle() == ()


def test_a_reload_whose_process_was_killed_goes_back_by_the_next_command(loads: Loads) -> None:
    old = loads.load("old")
    new = loads.load("new", seconds=1)
    trial = on_trial(loads.root.path)
    kill(trial)
    wait_for_the_deadline(trial)
    left = loads.running
    told = loads.settle()

    assert (left, loads.running) == (new, old)
    assert told == ("a reload was not confirmed in time: what was before is back",)
    assert (loads.is_on_trial, loads.settle()) == (False, ())


def test_a_load_over_kept_maps_goes_back_to_the_maps(loads: Loads) -> None:
    loads.load("old")
    counters = id_at(loads.path / "counters")
    undeploy(loads.device, pin_root=loads.root.path, keep_maps=True)
    wait_until(lambda: loads.running == 0)
    loads.load("new", seconds=1)
    wait_until(lambda: nobody_waits(loads))
    wait_until(lambda: loads.running == 0)

    assert id_at(loads.path / "counters") == counters
    assert (dict(loads.live.programs), dict(loads.live.links)) == ({}, {})


@pytest.mark.parametrize("is_reload", [False, True], ids=["first", "reload"])
def test_another_change_is_refused_as_long_as_it_is_on_trial(loads: Loads, is_reload: bool) -> None:
    if is_reload:
        loads.load("old")
    loads.load("new", seconds=LONG)
    with pytest.raises(BusyError, match=f"{loads.device} is on trial: a (re)?load goes back in"):
        loads.settle()
    loads.confirm()

    assert loads.settle() == ()


@pytest.mark.parametrize("is_reload", [False, True], ids=["first", "reload"])
def test_a_load_that_fails_leaves_neither_trial_nor_process(loads: Loads, is_reload: bool) -> None:
    old = loads.load("old") if is_reload else 0
    with pytest.raises(RuntimeError):
        loads.load("new", seconds=LONG, fails=True)
    wait_until(lambda: loads.running == old)

    assert nobody_waits(loads)
    assert not loads.is_on_trial
    assert loads.path.exists() == is_reload


def test_a_program_that_somebody_put_there_meanwhile_stays_and_the_trial_ends(
    loads: Loads,
) -> None:
    loads.load("old")
    loads.load("new", seconds=1)
    with xdp_program("theirs") as theirs:
        with Link.from_pin(loads.live.links["xdp"]) as link:
            link.update(theirs)
        wait_until(lambda: nobody_waits(loads))

        assert loads.running == theirs.id
    assert not loads.is_on_trial


def test_a_link_with_somebody_elses_program_is_not_confirmed(loads: Loads) -> None:
    loads.load("first", seconds=LONG)
    trial = on_trial(loads.root.path)
    with xdp_program("theirs") as theirs, Link.from_id(trial.links["xdp"]) as link:
        link.update(theirs)
        with pytest.raises(ProgramChangedError, match="is not the set's count"):
            loads.confirm()
    still = loads.is_on_trial
    kill(trial)
    loads.settle()

    assert still


def test_a_set_that_is_gone_at_the_deadline_is_no_reason_to_wait(loads: Loads) -> None:
    loads.load("first", seconds=1)
    subprocess.run(["rm", "-rf", str(loads.path)], check=True)
    wait_until(lambda: nobody_waits(loads))

    assert not loads.path.exists()


def test_a_process_that_cannot_start_fails_the_load(
    loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(BpfError, match="could not be started"):
        loads.load("first", seconds=LONG)
    wait_until(lambda: loads.running == 0)

    assert not loads.path.exists()


def test_clearing_puts_back_what_is_overdue_and_leaves_what_is_on_trial(loads: Loads) -> None:
    loads.load("old")
    new = loads.load("new", seconds=LONG)
    with locked(loads.root, timeout_s=5):
        nothing = clear(loads.root)
    still = loads.running
    loads.confirm()
    loads.load("first", seconds=1)
    late = trial_of(loads.live)
    assert late is not None
    kill(late)
    wait_for_the_deadline(late)
    with locked(loads.root, timeout_s=5):
        told = clear(loads.root)

    assert (nothing, still) == ((), new)
    assert told == ("a reload was not confirmed in time: what was before is back",)
    assert (loads.running, loads.is_on_trial) == (new, False)


def test_clearing_removes_what_a_killed_confirm_left(loads: Loads) -> None:
    """A trial without its record is over, and what was kept for it holds maps and programs."""
    loads.load("old")
    loads.load("new", seconds=LONG)
    trial = on_trial(loads.root.path)
    (loads.path / CONFIRM / "record").unlink()
    kill(trial)
    with locked(loads.root, timeout_s=5):
        told = clear(loads.root)

    assert (told, loads.is_on_trial) == ((), False)


def test_a_trial_is_told_with_what_keeps_it(loads: Loads) -> None:
    loads.load("first", seconds=LONG)
    trial = on_trial(loads.root.path)
    told = describe_trial(trial, loads.device)
    kill(trial)
    after = describe_trial(trial, loads.device)
    loads.settle()

    assert told.startswith("a load is on trial, and goes back in ")
    assert told.endswith(f"to keep it: bpfpin confirm {loads.device}")
    assert after.startswith("a load was not confirmed in time: the next command")
