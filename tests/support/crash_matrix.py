"""Scenarios, and one trial of each: a fault, a look, the next command, and what must hold then."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from bpfpin.errors import BpfError
from support.crash import Ending, Fault, Injection, Point, faulted, points, run_here
from support.crash_lab import CrashLab, ForeignLab, Generation, NetlinkLab
from support.crash_migrating import ByNameLab, Iproute2Lab, LeavingLab, MigratingLab
from support.crash_others import GivenMapLab, MovingLab, TakenOverLab
from support.crash_several import SeveralLab
from support.crash_stubs import GatesLab, StubsLab
from support.crash_trials import TrialLab, VerdictLab
from support.crash_two import TwoDevicesLab

BUSY = 7  # a set that is on trial
NOT_FOUND = 4  # `unload` where nothing is loaded
LONG = 3600  # seconds for a trial, in which no test ends by itself
ATTEMPTS = 6  # to meet a call whose number depends on what else runs on the host


class NotMadeError(Exception):
    """The command ended before the call: it looked at fewer things of others than before."""


class Healer(Enum):
    """The next command that is typed."""

    LOAD = "load"
    UNLOAD = "unload"
    CLEAN = "clean"


@dataclass(frozen=True)
class Scenario:
    """A command between two states; *retried* is what its user would have loaded in the end."""

    name: str
    old: Generation
    new: Generation
    retried: Generation
    words: Callable[[CrashLab], list[str]]
    first_kill: str = ""  # what a command before this one died at: it is left half-built
    refused: str = ""  # a call that the kernel refuses, so that the command has to go back
    refused_number: int = 0  # which of the calls of that kind, counted from 0
    lab: type[CrashLab] = CrashLab
    first: Callable[[CrashLab], list[str]] | None = None  # the command before
    first_dies: bool = False  # right before its trial begins, and who waits beside it, too
    goes_back: bool = False  # whether nothing of it stays if it is killed

    @property
    def begins_broken(self) -> bool:
        """Whether a dead command has left something."""
        return bool(self.first_kill) or self.first_dies

    @property
    def healers(self) -> tuple[Healer, ...]:
        """The next commands that make all of it whole; `unload` is for one set of ours."""
        # A link that somebody else holds as well runs on after an unload.
        if self.lab in (TwoDevicesLab, TakenOverLab):
            return (Healer.LOAD, Healer.CLEAN)
        return tuple(Healer)

    @property
    def keeps_running(self) -> bool:
        """Whether a program must be attached at every moment."""
        return Generation.NOTHING not in (self.old, self.new) and self.new is not Generation.MAPS


def _on_trial(generation: Generation) -> Callable[[CrashLab], list[str]]:
    return lambda lab: [*lab.load(generation), "--confirm", str(LONG)]


def _load(generation: Generation) -> Callable[[CrashLab], list[str]]:
    return lambda lab: lab.load(generation)


def _confirm(lab: CrashLab) -> list[str]:
    return lab.confirm()


NOTHING, MAPS, OLD, NEW = Generation.NOTHING, Generation.MAPS, Generation.OLD, Generation.NEW
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("load", NOTHING, NEW, NEW, _load(NEW)),
        Scenario("reload", OLD, NEW, NEW, _load(NEW)),
        Scenario("reload, refused", OLD, NEW, NEW, _load(NEW), refused="BPF_LINK_UPDATE"),
        Scenario("reload, netlink", OLD, NEW, NEW, _load(NEW), lab=NetlinkLab),
        Scenario("reload, migrating", OLD, NEW, NEW, _load(NEW), lab=MigratingLab),
        Scenario("reload, migrating by name", OLD, NEW, NEW, _load(NEW), lab=ByNameLab),
        Scenario("reload, leaving a name", OLD, NEW, NEW, _load(NEW), lab=LeavingLab),
        Scenario("reload, migrating, iproute2", OLD, NEW, NEW, _load(NEW), lab=Iproute2Lab),
        Scenario("unload, by name", OLD, NOTHING, OLD, lambda lab: lab.unload(), lab=ByNameLab),
        Scenario("unload", OLD, NOTHING, OLD, lambda lab: lab.unload()),
        Scenario("reload, pins of others", OLD, NEW, NEW, _load(NEW), lab=ForeignLab),
        Scenario(
            "unload, pins of others", OLD, NOTHING, OLD, lambda lab: lab.unload(), lab=ForeignLab
        ),
        Scenario("load, several hooks", NOTHING, NEW, NEW, _load(NEW), lab=SeveralLab),
        Scenario("reload, several hooks", OLD, NEW, NEW, _load(NEW), lab=SeveralLab),
        Scenario(
            "unload, several hooks", OLD, NOTHING, OLD, lambda lab: lab.unload(), lab=SeveralLab
        ),
        Scenario("load, given map", NOTHING, NEW, NEW, _load(NEW), lab=GivenMapLab),
        Scenario("reload, given map", OLD, NEW, NEW, _load(NEW), lab=GivenMapLab),
        Scenario("load, taking over", NOTHING, NEW, NEW, _load(NEW), lab=TakenOverLab),
        Scenario("reload, moving", OLD, NEW, NEW, _load(NEW), lab=MovingLab),
        Scenario("load, two devices", NOTHING, NEW, NEW, _load(NEW), lab=TwoDevicesLab),
        Scenario("reload, two devices", OLD, NEW, NEW, _load(NEW), lab=TwoDevicesLab),
        Scenario(
            "reload, two devices, second refused",
            *(OLD, NEW, NEW, _load(NEW)),
            refused="BPF_LINK_UPDATE",
            refused_number=1,
            lab=TwoDevicesLab,
        ),
        Scenario("unload --keep-maps", OLD, MAPS, OLD, lambda lab: lab.unload("--keep-maps")),
        Scenario("clean", OLD, NEW, NEW, lambda lab: lab.clean(), first_kill="commit~"),
        Scenario(
            "clean, committed", OLD, NEW, NEW, lambda lab: lab.clean(), first_kill="BPF_LINK_UPDATE"
        ),
        Scenario("load --confirm", NOTHING, NEW, NEW, _on_trial(NEW), lab=TrialLab, goes_back=True),
        Scenario("reload --confirm", OLD, NEW, NEW, _on_trial(NEW), lab=TrialLab, goes_back=True),
        Scenario(
            "action --confirm",
            OLD,
            NEW,
            OLD,
            lambda lab: [*lab.action("drop"), "--confirm", str(LONG)],
            lab=VerdictLab,
            goes_back=True,
        ),
        Scenario("confirm, load", NOTHING, NEW, NEW, _confirm, lab=TrialLab, first=_on_trial(NEW)),
        Scenario("confirm, reload", OLD, NEW, NEW, _confirm, lab=TrialLab, first=_on_trial(NEW)),
        Scenario(
            "clean, load --confirm",
            NOTHING,
            NOTHING,
            NEW,
            lambda lab: lab.clean(),
            first=_on_trial(NEW),
            first_dies=True,
            lab=TrialLab,
        ),
        Scenario(
            "clean, reload --confirm",
            OLD,
            OLD,
            NEW,
            lambda lab: lab.clean(),
            first=_on_trial(NEW),
            first_dies=True,
            lab=TrialLab,
        ),
        Scenario("load, stubs", NOTHING, NEW, NEW, _load(NEW), lab=StubsLab),
        Scenario("reload, stubs", OLD, NEW, NEW, _load(NEW), lab=StubsLab),
        Scenario("unload, stubs", OLD, NOTHING, OLD, lambda lab: lab.unload(), lab=StubsLab),
        Scenario("load, gates", NOTHING, NEW, NEW, _load(NEW), lab=GatesLab),
        Scenario("reload, gates", OLD, NEW, NEW, _load(NEW), lab=GatesLab),
    )
}


@dataclass
class Row:
    """What the trials of one scenario and fault came to."""

    trials: int = 0
    half_built: int = 0  # found by the next command
    old: int = 0
    new: int = 0
    unloaded: int = 0  # on purpose, by the next command
    missed: int = 0  # trials that were not made, for the command did not make the call
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Row) -> None:
        """Take in another row's numbers."""
        self.trials += other.trials
        self.half_built += other.half_built
        self.old += other.old
        self.new += other.new
        self.unloaded += other.unloaded
        self.missed += other.missed
        self.wrong += other.wrong


def _made(trial: Callable[[], Row]) -> Row:
    for _ in range(ATTEMPTS):
        with contextlib.suppress(NotMadeError):
            return trial()
    return Row(missed=1)


class Trials:
    """All trials of one scenario in one lab."""

    def __init__(self, lab: CrashLab, scenario: Scenario) -> None:
        self._lab = lab
        self._scenario = scenario
        self._talk = ""  # of the last command that was hurt
        self._first_kill = self._call_of_a_reload(scenario.first_kill)
        refused = self._call_of_a_reload(scenario.refused, scenario.refused_number)
        self._refused = [Injection(refused, Fault.EPERM)] if refused else []

    def points(self) -> list[Point]:
        """Return the calls that the command makes, those at which it can be hurt."""
        self._prepare()
        words = self._scenario.words(self._lab)
        found = self._points(words, *self._refused)
        taken = {injection.point.call for injection in self._refused}
        return [point for point in found if point.call not in taken]

    def _points(self, words: Sequence[str], *injections: Injection) -> list[Point]:
        return points(words, *injections, folder=self._lab.folder, follow=self._lab.follow)

    def killed(self, point: Point, healer: Healer, *, then: Point | None = None) -> Row:
        """Kill the command at *point*, and the next one at *then*; look, heal, look."""
        return _made(lambda: self._killed(point, healer, then))

    def _killed(self, point: Point, healer: Healer, then: Point | None) -> Row:
        with self._told(f"killed at {point}, {then or ''}, healed by {healer.value}") as row:
            self._prepare()
            kept = self._identity()
            # What it started dies with it, meets the next command, or goes back by itself.
            is_killed_too = then is not None or healer is Healer.LOAD
            with self._lab.freezing(is_killed_too or healer is Healer.UNLOAD):
                self._fault(self._scenario.words(self._lab), point, Fault.KILL, *self._refused)
            self._lab.after_kill(is_killed_too=is_killed_too)
            self._check_at_once(runs=self._scenario.keeps_running)
            if then is not None:
                self._fault(self.words(healer), then, Fault.KILL)
                runs = self._scenario.keeps_running and healer is not Healer.UNLOAD
                self._check_at_once(runs=runs)
            row.half_built += self._lab.has_leftovers()
            # A kill right at the end, while the command says what it did, leaves its trial to run.
            has_ended = not self._scenario.goes_back or self._lab.is_on_trial()
            self._heal(healer)
            self._check_healed(row, healer, kept, has_ended=has_ended)
        return row

    def failed(self, point: Point, fault: Fault) -> Row:
        """Make one call of the command fail: itself must leave the old state or the new."""
        return _made(lambda: self._failed(point, fault))

    def _failed(self, point: Point, fault: Fault) -> Row:
        with self._told(f"{fault.name} at {point}") as row:
            self._prepare()
            kept = self._identity()
            ending = self._fault(self._scenario.words(self._lab), point, fault)
            if self._lab.is_on_trial():
                ending = self._confirmed(ending)
            if self._scenario.begins_broken and self._lab.has_leftovers():
                assert ending.exit != 0, "exit 0, but it is still half-built"
                self._heal(Healer.CLEAN)  # it was so before, and the command said that it failed
                ending = Ending(0, "", "")
            row.half_built += self._lab.has_leftovers()
            self._check_exit(ending, self._lab.generation())
            self._check_healed(row, Healer.CLEAN, kept, has_ended=True)
        return row

    def _confirmed(self, ending: Ending) -> Ending:
        """Confirm what the command has put on trial, or could not confirm itself."""
        if self._scenario.first is None:
            assert ending.exit == 0, f"on trial, but exit {ending.exit}: {ending.talk}"
        else:
            assert ending.exit != 0, "exit 0, but it is still on trial"
        return self._lab.run(self._lab.confirm())

    def leaves_something(self, point: Point) -> bool:
        """Whether a kill at *point* leaves something half-built; a trial that runs is whole."""
        self._prepare()
        with contextlib.suppress(NotMadeError), self._lab.freezing(True):
            self._fault(self._scenario.words(self._lab), point, Fault.KILL, *self._refused)
        self._lab.after_kill(is_killed_too=True)
        return self._lab.has_leftovers() and not self._lab.is_on_trial()

    def points_of_healing(self, point: Point, healer: Healer) -> list[Point]:
        """Return the calls of the next command after a kill at *point*."""
        # The call of that number is another one when something else runs on the host.
        assert any(self.leaves_something(point) for _ in range(ATTEMPTS))
        return self._points(self.words(healer))

    def words(self, healer: Healer) -> list[str]:
        """Return the next command."""
        return {
            Healer.LOAD: self._lab.load(self._scenario.retried),
            Healer.UNLOAD: self._lab.unload(),
            Healer.CLEAN: self._lab.clean(),
        }[healer]

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[Row]:
        """Note what went wrong, and go on from a clean table."""
        row = Row(trials=1)
        try:
            yield row
        except (AssertionError, BpfError) as error:
            row.wrong.append(f"{self._scenario.name}: {what}: {error}; it said: {self._talk}")
            self._lab.clear()

    def _prepare(self) -> None:
        self._lab.become(self._scenario.old)
        if self._first_kill:
            self._fault(self._lab.load(NEW), self._first_kill, Fault.KILL)
        elif self._scenario.first_dies and self._scenario.first is not None:
            self._lab.die_before_the_trial_begins(self._scenario.first(self._lab))
        elif self._scenario.first is not None:
            self._lab.run(self._scenario.first(self._lab))

    def _call_of_a_reload(self, arguments: str, number: int = 0) -> Point | None:
        """Return the call of an undisturbed reload that has *arguments*, one after *number*."""
        if not arguments:
            return None
        self._lab.become(OLD)
        made = self._points(self._lab.load(NEW))
        self._lab.clear()
        return [point for point in made if arguments in point.arguments][number]

    def _fault(
        self, words: Sequence[str], point: Point, fault: Fault, *others: Injection
    ) -> Ending:
        injections = (*others, Injection(point, fault))
        ending = faulted(words, *injections, folder=self._lab.folder, follow=self._lab.follow)
        self._talk = ending.talk.strip()
        if ending.exit == 0 and not ending.was_hit:
            raise NotMadeError
        assert ending.was_hit, f"exit {ending.exit} before {point}: {ending.talk}"
        if fault is Fault.KILL:
            assert ending.exit == -signal.SIGKILL, f"exit {ending.exit}"
        return ending

    def _identity(self) -> dict[str, int]:
        """Return the ids that a change of the set keeps."""
        return {} if self._scenario.old is NOTHING else self._lab.identity()

    def _check_at_once(self, *, runs: bool) -> None:
        """Check what holds right after a kill, before any other command."""
        told = self._lab.status().get("state", "ok")
        assert (told == "half-built") == self._lab.is_half_built(), f"status says {told}"
        if runs:
            assert self._lab.attached() is not None, "no program is attached"
            self._lab.count()

    def _heal(self, healer: Healer) -> None:
        if self._lab.is_on_trial():
            self._heal_a_trial(healer)
        ending = run_here(self.words(healer))
        accepted = {0, NOT_FOUND} if healer is Healer.UNLOAD else {0}
        assert ending.exit in accepted, f"{healer.value} exited {ending.exit}: {ending.talk}"

    def _heal_a_trial(self, healer: Healer) -> None:
        """Confirm what is still on trial: until then no other command changes the set."""
        if healer is not Healer.CLEAN:
            ending = run_here(self.words(healer))
            assert ending.exit == BUSY, f"{healer.value} exited {ending.exit}: {ending.talk}"
            assert " confirm " in ending.talk, ending.talk
        self._lab.run(self._lab.confirm())

    def _check_exit(self, ending: Ending, found: Generation) -> None:
        told = f"exit {ending.exit} and {found.value} is there: {ending.talk}"
        if ending.exit == 0 or self._scenario.begins_broken or self._scenario.first:
            assert found in (self._scenario.old, self._scenario.new), told
        else:
            assert found is self._scenario.old, told
        if ending.exit == 0 and not self._scenario.begins_broken:
            assert found is self._scenario.new, told

    def _check_healed(
        self, row: Row, healer: Healer, kept: dict[str, int], *, has_ended: bool
    ) -> None:
        """Check that it is old or new, with the same maps, link and counts.

        It is old if the command must go back and has not *ended* its work.
        """
        self._lab.require_nobody_waiting()
        found = self._lab.generation()
        allowed = {
            Healer.LOAD: {self._scenario.retried},
            Healer.UNLOAD: {NOTHING},
            Healer.CLEAN: {self._scenario.old, self._scenario.new},
        }[healer]
        if healer is Healer.CLEAN and not has_ended:
            allowed = {self._scenario.old}
        assert found in allowed, f"{found.value} is there"
        row.old += found is self._scenario.old
        new = {self._scenario.new, self._scenario.retried} - {self._scenario.old}
        row.new += found in new
        row.unloaded += found not in new and found is not self._scenario.old
        if self._scenario.keeps_running and found is not NOTHING:
            now = self._identity()
            assert now == kept, f"ids {kept} became {now}"
        self._lab.count()
