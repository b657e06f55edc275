"""What is loaded, what is attached where, and what is wrong with it; changes nothing."""

from __future__ import annotations

from pathlib import Path

from bpfpin.apps.sets.others import other_programs
from bpfpin.apps.sets.place import at_root
from bpfpin.apps.sets.reports import Problem, ProblemKind, StatusReport
from bpfpin.apps.sets.split_brain import Finding
from bpfpin.apps.sets.splits import splits
from bpfpin.apps.sets.stages import LeftStage, left_stages, staged_programs
from bpfpin.apps.sets.view import SetView
from bpfpin.apps.target import all_sets, find_set
from bpfpin.apps.trial.trials import describe_orphan, orphans
from bpfpin.pins import bpffs, lock
from bpfpin.pins.bpffs import BPFFS, RootState
from bpfpin.pins.directory import Directory


def status(
    target: str | None = None,
    *,
    pin_root: Path = BPFFS,
    netns: str | None = None,
    as_root: str = "run it as root",
) -> StatusReport:
    """Return all sets below *pin_root*, or the one of *target*, and what is wrong with them.

    Without a *target* that includes programs and readers of others which should share a map, and
    whoever else is attached to a device of this namespace.

    What may not be read (an ordinary user, a set of root's) is said to be so and left out;
    *as_root* is what to do about it. Raises what `find_set` does.
    """
    if target is None:
        found = all_sets(pin_root)
    else:
        found = [find_set(target, pin_root=pin_root, netns=netns)]
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
    others = other_programs(own) if target is None else ()
    return StatusReport(reports, tuple(problems), others)


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
