"""What is loaded, what is attached where, and what is wrong with it; changes nothing."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from bpfpin.apps.sets.others import OtherProgram, other_programs
from bpfpin.apps.sets.place import at_root, namespace_of
from bpfpin.apps.sets.reports import Problem, ProblemKind, StatusReport
from bpfpin.apps.sets.split_brain import Finding
from bpfpin.apps.sets.splits import splits
from bpfpin.apps.sets.stages import LeftStage, left_stages, staged_programs
from bpfpin.apps.sets.users import program_ids
from bpfpin.apps.sets.view import SetView
from bpfpin.apps.target import all_sets, find_set
from bpfpin.apps.trial.trials import describe_orphan, orphans
from bpfpin.attach import interface
from bpfpin.errors import (
    BpfError,
    InterfaceNotFoundError,
    PermissionDeniedError,
    PinNotFoundError,
)
from bpfpin.pins import bpffs, lock
from bpfpin.pins.bpffs import BPFFS, RootState
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import Place
from bpfpin.pins.pinset import PinSet
from bpfpin.syscall import netns as namespaces


def status(
    target: str | None = None,
    *,
    pin_root: Path = BPFFS,
    netns: str | None = None,
    as_root: str = "run it as root",
) -> StatusReport:
    """Return all sets below *pin_root*, or the one of *target*, and what is wrong with them.

    Without a *target* that includes programs and readers of others which should share a map.
    Whoever else is attached is told as well: to any device of this namespace, or to that of the
    *target*, where nothing of ours need be loaded then.

    What may not be read (an ordinary user, a set of root's) is said to be so and left out;
    *as_root* is what to do about it. Raises what `find_set` does.
    """
    if target is None:
        found = all_sets(pin_root)
    else:
        try:
            found = [find_set(target, pin_root=pin_root, netns=netns)]
        except PinNotFoundError:
            others = _others_on(target, pin_root=pin_root, netns=netns)
            if not others:
                raise
            return StatusReport(others=others)
    stages = _stages(pin_root)
    views = [SetView(one, as_root=as_root, stage=stages.get(one.name)) for one in found]
    split = _splits(pin_root, None if target is None else {view.shown for view in views})
    reports = tuple(view.report([one for one in split if view.shown in one.sets]) for view in views)
    problems = [problem for view in views for problem in view.problems]
    problems += _lock_directory(pin_root)
    problems += _orphans(pin_root, None if target is None else {one.name for one in found})
    problems += [Problem(ProblemKind(one.kind.value), one.text, one.fix) for one in split]
    own = {program.id for one in reports for program in one.programs if program.id}
    own.update(*map(staged_programs, stages.values()))
    others = other_programs(own) if target is None else _others_beside(found[0], pin_root=pin_root)
    return StatusReport(reports, tuple(problems), others)


def _others_on(device: str, *, pin_root: Path, netns: str | None) -> tuple[OtherProgram, ...]:
    """Return the programs of others on a device; none if it is no device."""
    own = _own_programs(pin_root)
    with suppress(InterfaceNotFoundError), namespaces.enter(netns):
        return other_programs(own, ifindex=interface.ifindex(device))
    return ()


def _others_beside(found: PinSet, *, pin_root: Path) -> tuple[OtherProgram, ...]:
    """Return the programs of others on the device of a set, in its namespace."""
    place = found.manifest.place if found.manifest else Place()
    if not place.ifindex:
        return ()
    own = _own_programs(pin_root)
    with suppress(BpfError), namespaces.enter(namespace_of(place)):
        return other_programs(own, ifindex=place.ifindex)
    return ()


def _own_programs(pin_root: Path) -> set[int]:
    with suppress(PermissionDeniedError):
        own = {id_ for found in all_sets(pin_root) for id_ in program_ids(found)}
        return own.union(*map(staged_programs, _stages(pin_root).values()))
    return set()


def _orphans(pin_root: Path, sets: set[str] | None) -> list[Problem]:
    """Return the processes that wait beside trials that are over, of *sets* or of all."""
    if bpffs.inspect(pin_root) is not RootState.MOUNTED:
        return []
    with Directory.open(pin_root) as root:
        if lock.holder(root) is not None:  # it may be about to end them, or to begin their trial
            return []
        return [
            Problem(ProblemKind.ORPHAN, describe_orphan(process), at_root("bpfpin clean", pin_root))
            for process in orphans(root)
            if sets is None or process.parent in sets
        ]


def _splits(pin_root: Path, sets: set[str] | None) -> list[Finding]:
    """Return who should share a map and does not, on the whole host or in these *sets*."""
    return [one for one in splits(pin_root=pin_root) if sets is None or sets & set(one.sets)]


def _lock_directory(pin_root: Path) -> list[Problem]:
    """Return what keeps every command from changing anything below *pin_root*."""
    if bpffs.inspect(pin_root) is not RootState.MOUNTED:
        return []
    with Directory.open(pin_root) as root:
        foreign = lock.foreign_lock_directory(root)
    return [Problem(ProblemKind.FOREIGN, foreign.message, foreign.hint)] if foreign else []


def _stages(pin_root: Path) -> dict[str, LeftStage]:
    """Return the stages that nobody is at, by the name of their set."""
    if bpffs.inspect(pin_root) is not RootState.MOUNTED:
        return {}
    with Directory.open(pin_root) as root:
        is_busy = lock.holder(root) is not None
        return {} if is_busy else {stage.name: stage for stage in left_stages(root)}
