"""Make what is loaded what state files ask for: what `bpfpin apply` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bpfpin.errors import BpfError, UsageError
from bpfpin.pins.bpffs import BPFFS, require_lasting
from bpfpin.pins.lock import locked_root
from bpfpin.sets.apply.model import DesiredState, read_state
from bpfpin.sets.apply.plan import PlannedSet, Planner, fill_slots, located
from bpfpin.sets.apply.reports import ApplyReport, SetAction, SetOutcome
from bpfpin.sets.reports import LoadReport
from bpfpin.sets.undeploy import undeploy

_LOADS = (SetAction.LOAD, SetAction.RELOAD, SetAction.MOVE, SetAction.RECOVER)


def apply(
    files: str | Path | Iterable[str | Path],
    *,
    check: bool = False,
    prune: bool = False,
    wait_s: float = 0.0,
    pin_root: str | Path = BPFFS,
    private_mount: bool = False,
    lock_timeout_s: float = 10.0,
) -> ApplyReport:
    """Load, reload and fill pin sets so that they are what state files ask for.

    All files are read and all sets are planned before anything is changed. Each set is then
    changed by a transaction of its own, as `deploy` does it: a set that fails stays as it was, and
    the others are changed nevertheless. A second call changes nothing.

    Args:
        files: State files (TOML), and directories, of which the files `*.toml` are read.
        check: Only plan: verify the programs, find what differs, and change nothing.
        prune: Unload the sets that an earlier apply made and that no file asks for; not while a
            set of the files fails.
        wait_s: Seconds to wait for devices, cgroups and namespaces that are not there yet, and for
            the lock if that is longer than *lock_timeout_s*.
        pin_root: Directory of bpffs that holds the sets; `/sys/fs/bpf` by default.
        private_mount: Allow a bpffs that only this mount namespace sees and that ends with it.
        lock_timeout_s: Seconds to wait for the pin root's lock, for each set.

    Returns:
        What was done with each set; `failed` are those that are not as asked for.

    Raises:
        UsageError: A file is wrong, or the files contradict each other; nothing was changed.
        ObjectNotFoundError: A file does not exist, or a directory has no `*.toml`.
        PrivateMountError: The pins would end with this mount namespace.
        NotBpffsError: *pin_root* is not in a bpffs.

    Kernel: As `deploy`; BPF_MAP_UPDATE_ELEM for the slots of maps of maps.
    """
    paths = [files] if isinstance(files, str | Path) else list(files)
    return apply_state(
        read_state(paths),
        check=check,
        prune=prune,
        wait_s=wait_s,
        pin_root=pin_root,
        private_mount=private_mount,
        lock_timeout_s=lock_timeout_s,
    )


def apply_state(
    state: DesiredState,
    *,
    check: bool = False,
    prune: bool = False,
    wait_s: float = 0.0,
    pin_root: str | Path = BPFFS,
    private_mount: bool = False,
    lock_timeout_s: float = 10.0,
    on_plan: Callable[[ApplyReport], None] = lambda plan: None,
) -> ApplyReport:
    """Make what is loaded what *state* asks for, as `apply` does with the state of files.

    *on_plan* is called with the plan before anything is changed.
    """
    if not wait_s >= 0:  # NaN is not >= 0
        raise UsageError(f"wait_s is a number of seconds from 0, not {wait_s!r}")
    root = Path(pin_root).absolute()
    if not private_mount:
        require_lasting(root)
    timeout_s = max(lock_timeout_s, wait_s)
    planner = Planner(root, {"private_mount": private_mount, "lock_timeout_s": timeout_s})
    planned = planner.plan(state, wait_s=wait_s)
    surplus = planner.surplus(planned) if prune else []
    plan = _pruned([each.outcome for each in planned], [each.outcome for each in surplus])
    on_plan(plan)
    if check:
        return plan
    carrying_out = _CarryingOut(planner, timeout_s)
    outcomes = [carrying_out.done(each, planned) for each in planned]
    if any(outcome.action is SetAction.FAIL for outcome in outcomes):
        done = _pruned(outcomes, [each.outcome for each in surplus])
        return dataclasses.replace(done, is_planned=False)
    return ApplyReport((*outcomes, *map(carrying_out.unloaded, surplus)))


def _pruned(outcomes: Sequence[SetOutcome], surplus: Sequence[SetOutcome]) -> ApplyReport:
    """Return a plan with the sets that are to be unloaded, unless one of *outcomes* failed.

    The name of a set that failed may not be known, so that it could be one of the *surplus*.
    """
    if surplus and any(outcome.action is SetAction.FAIL for outcome in outcomes):
        listed = ", ".join(outcome.set for outcome in surplus)
        notes = (f"not unloaded while a set fails: {listed}",)
        return ApplyReport(tuple(outcomes), is_planned=True, notes=notes)
    return ApplyReport((*outcomes, *surplus), is_planned=True)


class _CarryingOut:
    """Carries a plan out, set by set; what fails is in the outcome of its set."""

    def __init__(self, planner: Planner, lock_timeout_s: float) -> None:
        self._planner = planner
        self._lock_timeout_s = lock_timeout_s

    def done(self, planned: PlannedSet, all_sets: Sequence[PlannedSet]) -> SetOutcome:
        """Load the set and fill its slots, as planned."""
        outcome, target, spec = planned.outcome, planned.target, planned.spec
        if outcome.action not in (*_LOADS, SetAction.FILL) or target is None or spec is None:
            return outcome
        known = [each.target.name for each in all_sets if each.target is not None]
        try:
            # Also where only slots change: a load that has nothing to do says so at once.
            if outcome.action in _LOADS:
                report = self._planner.load(target, spec, known, dry_run=False)
                outcome = _loaded(outcome, report)
            if planned.slots and outcome.path is not None:
                from bpfpin.sets.guard import MapGuard  # noqa: PLC0415 - few runs fill slots

                root = outcome.path.parent
                guard = MapGuard(root, bool(target.wanted.options.get("force", False)))
                with locked_root(root, timeout_s=self._lock_timeout_s):
                    fill_slots(outcome.path, planned.slots, guard)
                outcome = dataclasses.replace(outcome, notes=(*outcome.notes, *guard.notes))
        except BpfError as error:
            error = located(error, target.wanted.place, outcome.set)
            return dataclasses.replace(outcome, action=SetAction.FAIL, error=error)
        return outcome

    def unloaded(self, planned: PlannedSet) -> SetOutcome:
        """Unload a set that no file asks for."""
        outcome = planned.outcome
        try:
            report = undeploy(
                str(self._planner.pin_root / planned.directory),
                pin_root=self._planner.pin_root,
                lock_timeout_s=self._lock_timeout_s,
            )
        except BpfError as error:
            return dataclasses.replace(outcome, action=SetAction.FAIL, error=error)
        return dataclasses.replace(outcome, report=report, notes=report.notes)


def _loaded(outcome: SetOutcome, report: LoadReport) -> SetOutcome:
    return dataclasses.replace(outcome, set=report.set, report=report, notes=report.notes)
