"""What is on trial goes back when nobody confirmed it in time: who looks, and how it goes back."""

from __future__ import annotations

import dataclasses
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from bpfpin.apps.load.shared_names import map_ids, unshared
from bpfpin.apps.recovery import recovered, reopen
from bpfpin.apps.sets.live import read_own
from bpfpin.apps.trial.start import (
    Waiting,
    end_process,
    end_waiting,
    is_waiting,
    waiting_processes,
)
from bpfpin.errors import (
    AttachError,
    BpfError,
    BusyError,
    KeyNotFoundError,
    NotBpffsError,
    PinNotFoundError,
    ProgramChangedError,
    UnsafePathError,
)
from bpfpin.objects.map import Map
from bpfpin.pins import bpffs, names
from bpfpin.pins.directory import Directory, unsafe_reason
from bpfpin.pins.lock import locked
from bpfpin.pins.manifest import Manifest, read_manifest
from bpfpin.pins.pinset import PinSet
from bpfpin.pins.transaction import Stage, next_generation, remove, signals_deferred
from bpfpin.pins.trial import (
    BEFORE,
    CONFIRM,
    MAP,
    EntryChange,
    Trial,
    TrialPlace,
    copy_generation,
    end_trial,
    read_trial,
)

_LOCK_TIMEOUT_S: Final = 60.0


def trial_at(place: TrialPlace) -> Trial | None:
    """Return what is on trial there, None if nothing is; takes no lock."""
    with (
        suppress(PinNotFoundError, UnsafePathError),
        Directory.open(place.root) as root,
        root.child(place.parent) as parent,
    ):
        # Anybody may make a directory of that name in a bpffs of mode 1777, and trials in it.
        return None if unsafe_reason(parent.status) else read_trial(parent, place.entry)
    return None


def trial_of(found: PinSet) -> Trial | None:
    """Return what of a set is on trial, None if nothing is."""
    return trial_at(TrialPlace(found.path.parent, found.path.name)) if found.is_readable else None


def describe_trial(trial: Trial, shown: str) -> str:
    """Return what is to be told of a trial; *shown* is the set or device as it is typed."""
    if is_overdue(trial):
        return (
            f"{trial.what} {_why_over(trial)}: the next command that changes {shown}"
            " puts back what was before"
        )
    return (
        f"{trial.what} is on trial, and goes back in {trial.left_s:.0f} seconds;"
        f" to keep it: bpfpin confirm {shown}"
    )


def is_overdue(trial: Trial) -> bool:
    """Whether it cannot be confirmed any more.

    The deadline passed, links ended with their process, or it never began: the lock must be held to
    know that the command is not still at it.
    """
    is_ended = bool(trial.links) and not is_waiting(trial)
    return not trial.is_begun or trial.is_late or is_ended


def _why_over(trial: Trial) -> str:
    if not trial.is_begun:
        return "was not completed by the command that put it on trial"
    return "was not confirmed in time"


def settle(root: Directory, place: TrialPlace) -> tuple[str, ...]:
    """Put back what is overdue, and return what is to be told of it; the lock must be held.

    Processes that wait beside nothing are ended, and what is left of trials that are over goes.
    `BusyError` if something is on trial that can still be confirmed. For every command that is
    about to change what is there, after `recovered`.
    """
    told = end_orphans(root)
    with suppress(PinNotFoundError), root.child(place.parent) as parent:
        trial = read_trial(parent, place.entry)
        if trial is not None:
            told += _settle(root, place, trial)
        else:
            _forget(parent, place)
    return told


def settle_set(root: Directory, name: str) -> tuple[str, ...]:
    """Do what `settle` does for the set in the directory *name*."""
    return settle(root, TrialPlace(root.path, name))


def _forget(parent: Directory, place: TrialPlace) -> None:
    """Remove what is left of a trial that is over; what is not ours stays."""
    with suppress(UnsafePathError):
        if place.set:
            read_manifest(parent)
        end_trial(parent, place.entry)


def orphans(root: Directory) -> tuple[Waiting, ...]:
    """Return the processes that wait beside a trial that is not there any more.

    Only while the lock is held it is sure that no command is about to write the record.
    """
    return tuple(process for process in waiting_processes(root) if not _has_trial(root, process))


def end_orphans(root: Directory) -> tuple[str, ...]:
    """End the `orphans`, and return what is to be told of them; the lock must be held."""
    told = []
    for process in orphans(root):
        end_process(process)
        if process.holds_link:
            told.append(f"{describe_orphan(process)}: it was ended")
    return tuple(told)


def end_orphans_below(pin_root: Path, *, lock_timeout_s: float) -> None:
    """Do what `end_orphans` does where no set was found; what cannot be changed is left."""
    with (
        suppress(BpfError),
        bpffs.open_to_change(pin_root) as root,
        locked(root, timeout_s=lock_timeout_s),
    ):
        end_orphans(root)


def describe_orphan(process: Waiting) -> str:
    """Return what is to be told of a process that waits beside a trial that is over."""
    holds = "still holds the link of" if process.holds_link else "still waits beside"
    return f"process {process.pid} {holds} a trial that is over"


def _has_trial(root: Directory, process: Waiting) -> bool:
    with suppress(PinNotFoundError, UnsafePathError), root.child(process.parent) as parent:
        trial = read_trial(parent, process.entry)
        return trial is not None and trial.token == process.token
    return False


def _settle(root: Directory, place: TrialPlace, trial: Trial) -> tuple[str, ...]:
    if is_overdue(trial):
        return (put_back(root, place, trial),)
    shown = shown_name(place, trial)
    raise BusyError(
        f"{shown} is on trial: {trial.what} goes back in {trial.left_s:.0f} seconds",
        holder=f"pid {trial.pid}",
        hint=f"keep it: bpfpin confirm {shown}; or wait until it went back",
    )


def shown_name(place: TrialPlace, trial: Trial) -> str:
    """Return what the user calls what is on trial: its set, or its device."""
    return names.display_name(place.set) if place.set else trial.device


def expire(place: TrialPlace, token: str) -> None:
    """Put back what is on trial there under *token*, if it still is: nobody has confirmed it."""
    try:
        root = bpffs.open_to_change(place.root)
    except (PinNotFoundError, NotBpffsError):  # unmounted, and all that ran with it
        return
    with root, locked(root, timeout_s=_LOCK_TIMEOUT_S):
        if place.set:
            recovered(root, place.set)
        with suppress(PinNotFoundError), root.child(place.parent) as parent:
            trial = read_trial(parent, place.entry)
            if trial is None:  # there may be the room for one, of a command that was killed
                _forget(parent, place)
            elif trial.token == token:
                put_back(root, place, trial)


def put_back(root: Directory, place: TrialPlace, trial: Trial) -> str:
    """Take the change back and return what is to be told; the lock must be held.

    What somebody else changed meanwhile is left as it is: then only the trial ends.
    """
    with signals_deferred():
        try:
            if trial.change is not None:
                _put_entry_back(root, place, trial.change)
            else:
                _put_generation_back(root, place.set)
            told = f"{trial.what} {_why_over(trial)}: what was before is back"
        except (ProgramChangedError, AttachError) as error:
            told = f"{trial.what} was not confirmed, but cannot go back: {error.message}"
        with suppress(PinNotFoundError), root.child(place.parent) as parent:
            now = read_trial(parent, place.entry)
            if now is not None and now.token == trial.token:
                end_trial(parent, place.entry)
        end_waiting(trial)
    return told


def _put_entry_back(root: Directory, place: TrialPlace, change: EntryChange) -> None:
    with (
        root.child(place.parent) as parent,
        parent.child(place.entry) as room,
        Map.from_pin(room.path / MAP) as held,
        suppress(KeyNotFoundError),
    ):
        if held.lookup_bytes(change.key) != change.new:
            return  # somebody chose another one since
        if change.old is None:
            held.delete_bytes(change.key)
        else:
            held.update_bytes(change.key, change.old)


def _put_generation_back(root: Directory, name: str) -> None:
    live = read_own(root.path, name)
    if live is None or live.manifest is None:
        return
    before = _manifest_before(root, name)
    left = [pin for pin in live.manifest.outside if before is None or pin not in before.outside]
    unused, _ = unshared(root.path, [live], map_ids(live, left))
    if before is None:
        remove(root, name, reopen, unused)
        return
    with next_generation(root, name, reopen) as stage:
        _Return(root, live, before).build(stage)
        for pin, map_id in unused.items():
            stage.unshare(pin, map_id)


def _manifest_before(root: Directory, name: str) -> Manifest | None:
    """Return the manifest of the generation that a load replaced, None if there was none."""
    with root.child(name) as directory, directory.child(CONFIRM) as room:
        if not room.has(BEFORE):
            return None
        with room.child(BEFORE) as before:
            return read_manifest(before)


class _Return:
    """The generation before as the next one."""

    def __init__(self, root: Directory, live: PinSet, before: Manifest) -> None:
        self._root = root
        self._live = live
        self._before = before

    def build(self, stage: Stage) -> None:
        """Give *stage* what the set had, and say which programs leave which hooks."""
        name = self._live.name
        with ExitStack() as opened:
            directory = opened.enter_context(self._root.child(name))
            room = opened.enter_context(directory.child(CONFIRM))
            before = opened.enter_context(room.child(BEFORE))
            built = opened.enter_context(self._root.child(names.stage_name(name)))
            copy_generation(before, built)
            built.unlink(names.MANIFEST)
        for link, program in self._moved():
            if leaving := self._live.open_program(program):
                with leaving:
                    stage.pin_previous(link, leaving)
        assert self._live.manifest is not None
        generation = self._live.manifest.generation + 1
        stage.write_manifest(
            dataclasses.replace(self._before, generation=generation, time=int(time.time()))
        )

    def _moved(self) -> list[tuple[str, str]]:
        """Return the hooks that were there before, with the programs that they run now."""
        assert self._live.manifest is not None
        there = {record.link for record in self._before.hooks}
        return [
            (record.link, record.program)
            for record in self._live.manifest.hooks
            if record.link in there
        ]
