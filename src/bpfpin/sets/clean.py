"""Remove unused leftovers of this user: what `bpfpin clean` does."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from bpfpin.errors import AttachError, BusyError, PinError, PinNotFoundError
from bpfpin.pins import bpffs, names
from bpfpin.pins.bpffs import BPFFS, RootState
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import locked
from bpfpin.pins.pinset import LoadedSet, PinSet, SetState
from bpfpin.pins.recover import Recovery
from bpfpin.pins.targets import remove_stale_records, sets_with
from bpfpin.sets import leftover
from bpfpin.sets.confirm import clear
from bpfpin.sets.find import require_attach
from bpfpin.sets.leftover import LeftStage, left_stages
from bpfpin.sets.live import recovered, reopen
from bpfpin.sets.reports import CleanReport, Left, LeftoverKind, Removed
from bpfpin.sets.shared import used_maps
from bpfpin.sets.trial import describe_orphan, orphans
from bpfpin.syscall.fs import is_stale_probe

_BY_RECOVERY = {
    Recovery.UNDONE: "a dead process had begun it: undone",
    Recovery.REMOVED: "a dead process had not removed all of it: removed",
    Recovery.FINISHED: "a dead process had committed it: finished",
    Recovery.TURNED_BACK: "a dead process could not switch to it: the previous programs run again",
}


def clean(
    *, pin_root: Path = BPFFS, lock_timeout_s: float = 10.0, dry_run: bool = False
) -> CleanReport:
    """Recover interrupted changes below *pin_root*, and remove sets whose device is gone.

    A set is removed if its device is gone and nothing uses it; maps that a program, a pin or a
    process of others still uses stay. Maps that were kept for the next load stay, and so does
    everything of other users. *dry_run* only reports the steps. Raises `NotBpffsError`,
    `PermissionDeniedError`, `UnsafePathError` (the pin root itself) and `LockTimeoutError`.
    """
    # Without a bpffs there are no pins; `clean` must not mount one.
    if bpffs.inspect(pin_root) is RootState.ABSENT:
        return CleanReport(dry_run)
    bpffs.require(pin_root)
    require_attach(f"cleaning {pin_root}")
    with bpffs.open_to_change(pin_root) as root, _lock(root, lock_timeout_s, is_dry_run=dry_run):
        return _Cleaning(root, is_dry_run=dry_run).report()


def _lock(root: Directory, timeout_s: float, *, is_dry_run: bool) -> AbstractContextManager[None]:
    """Take the lock; a dry run does not make the lock's directory."""
    # Without the directory no command holds the lock.
    if is_dry_run and not root.has(names.LOCK_DIRECTORY):
        return nullcontext()
    return locked(root, timeout_s=timeout_s)


class _Cleaning:
    """One walk over a pin root, whose lock must be held."""

    def __init__(self, root: Directory, *, is_dry_run: bool) -> None:
        self._root = root
        self._is_dry_run = is_dry_run
        self._removed: list[Removed] = []
        self._left: list[Left] = []
        self._settled: dict[str, Recovery] = {}

    def report(self) -> CleanReport:
        """Clean, and return the report."""
        # Stages come first: recovery completes or undoes the change, and the sets below are then
        # judged as it leaves them.
        for stage in left_stages(self._root):
            with self._or_left(stage.path):
                self._clean_stage(stage)
        # After the stages: only the record of a change whose sets are all finished is stale.
        self._clean_records()
        self._clean_probes()
        for note in self._clear():
            self._removed.append(Removed(LeftoverKind.TRIAL, self._root.path, note))
        for name in self._directories():
            with self._or_left(self._root.path / name):
                self._clean_set(name)
        return CleanReport(self._is_dry_run, tuple(self._removed), tuple(self._left))

    def _clear(self) -> tuple[str, ...]:
        """Do what `clear` does; a dry run only describes the processes that would be ended."""
        if self._is_dry_run:
            return tuple(map(describe_orphan, orphans(self._root)))
        return clear(self._root)

    @contextmanager
    def _or_left(self, path: Path) -> Iterator[None]:
        """Report an entry that cannot be cleaned as left, and go on with the next."""
        try:
            yield
        except (PinError, BusyError, AttachError) as error:
            self._left.append(Left(path, error.message))

    def _directories(self) -> list[str]:
        return [
            entry
            for entry in self._root.names()
            if entry != names.LOCK_DIRECTORY
            and not entry.endswith(names.STAGE_SUFFIX)
            and not is_stale_probe(entry)
            and stat.S_ISDIR(self._root.stat(entry).st_mode)
        ]

    def _clean_stage(self, stage: LeftStage) -> None:
        if stage.foreign:
            advice = f"; {stage.advice}" if stage.advice else ""
            self._left.append(Left(stage.path, stage.foreign + advice))
        else:
            planned = Recovery.REMOVED if stage.is_left_over else Recovery.UNDONE
            planned = Recovery.FINISHED if stage.is_committed else planned
            self._recover(stage.name, stage.path, planned)
            with suppress(PinNotFoundError):
                pin_set = PinSet.read(self._root.path, stage.name)
                reason = "bpfpin did not pin it"
                self._left += [Left(pin_set.path / entry, reason) for entry in pin_set.foreign]

    def _clean_records(self) -> None:
        """Remove the records of commands on several sets that ended before the first stage."""
        for name in [] if self._is_dry_run else remove_stale_records(self._root, reopen):
            path = self._root.path / names.LOCK_DIRECTORY / name
            self._removed.append(Removed(LeftoverKind.STAGE, path, _BY_RECOVERY[Recovery.UNDONE]))

    def _clean_probes(self) -> None:
        """Remove the directories with which a killed process tried an exchange of names."""
        for name in filter(is_stale_probe, self._root.names()):
            with self._or_left(self._root.path / name):
                if not self._is_dry_run:
                    self._root.rmdir(name)
                reason = "a dead process had tried with it if names can be exchanged"
                path = self._root.path / name
                self._removed.append(Removed(LeftoverKind.DIRECTORY, path, reason))

    def _recover(self, name: str, path: Path, planned: Recovery) -> None:
        if name in self._settled:  # with another set that changed in the same command
            recovery = self._settled[name]
        else:
            # Asked before the recovery, which removes the record that names them.
            together = sets_with(self._root, name)
            recovery = planned if self._is_dry_run else recovered(self._root, name)
            self._settled |= dict.fromkeys(together, recovery)
        if recovery is not Recovery.NOTHING:
            self._removed.append(Removed(LeftoverKind.STAGE, path, _BY_RECOVERY[recovery]))

    def _clean_set(self, name: str) -> None:
        # The names were exchanged and only cleaning is left: the next command on the set would do
        # the same.
        if self._is_marked(name):
            self._recover(name, self._root.path / name / names.COMMIT, Recovery.FINISHED)
        pin_set = PinSet.read(self._root.path, name)
        if pin_set.state is SetState.UNLOADED:
            self._clean_unloaded(pin_set)
        elif pin_set.state is SetState.FOREIGN or not pin_set.is_own:
            reason = pin_set.reason or "another user loaded it"
            self._left.append(Left(pin_set.path, reason))
        elif isinstance(pin_set, LoadedSet) and not self._has_stage(name):
            self._clean_own(pin_set)

    def _clean_unloaded(self, pin_set: PinSet) -> None:
        """Remove the directory that an unload left for pins of others, once these are gone."""
        if pin_set.foreign:
            self._left.append(Left(pin_set.path, pin_set.reason))
            return
        if not self._is_dry_run:
            self._root.rmdir(pin_set.name)
        reason = "it was unloaded, and the pins of others in it are gone"
        self._removed.append(Removed(LeftoverKind.DIRECTORY, pin_set.path, reason))

    def _is_marked(self, name: str) -> bool:
        """Whether a set still has the mark of its transaction."""
        if not isinstance(PinSet.read(self._root.path, name), LoadedSet):
            return False
        with self._root.child(name) as directory:
            return directory.has(names.COMMIT)

    def _has_stage(self, name: str) -> bool:
        """Whether the set has a stage: in a dry run, or because the stage is foreign."""
        return self._root.has(names.stage_name(name))

    def _clean_own(self, pin_set: LoadedSet) -> None:
        verdict = leftover.judge(self._root, pin_set)
        if not verdict.is_leftover:
            if verdict.reason:
                self._left.append(Left(pin_set.path, verdict.reason))
            return
        # Looked up now and not in `judge`: this walks over all programs, pins and processes of the
        # host, and few sets get here.
        used = used_maps(pin_set)
        for name, others in used.items():
            reason = f"{verdict.reason}, but it is used by {', '.join(map(str, others))}"
            self._left.append(Left(pin_set.maps[name], reason))
        going = leftover.parts(pin_set, used)
        if going and not self._is_dry_run:
            leftover.remove_unused(self._root, pin_set, used)
        reason = f"{verdict.reason}, and nothing uses it"
        self._removed += [Removed(kind, path, reason) for kind, path in going]
