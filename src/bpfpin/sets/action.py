"""The verdict of a running XDP program, shown and switched: what `bpfpin action` does."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

from bpfpin.errors import KeyNotFoundError, UsageError
from bpfpin.map.verdict import CUTTING, KEY, is_signed, parse_verdict, require_willing
from bpfpin.objects.maps.map import Map
from bpfpin.pins import bpffs
from bpfpin.pins.bpffs import BPFFS, RootState
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import locked_root
from bpfpin.pins.trial import (
    MAP,
    RECORD,
    EntryChange,
    Trial,
    TrialPlace,
    begin_trial,
    command_deadline_ms,
    end_trial,
    make_room,
)
from bpfpin.sets.action_map import Subject, find_subject, own_devices
from bpfpin.sets.changing import settled_place
from bpfpin.sets.guard import require_way_back, unset_verdict
from bpfpin.sets.trial import end_waiting, put_back, start_waiting
from bpfpin.syscall import netns as namespaces
from bpfpin.syscall.signals import signals_deferred
from bpfpin.uapi import UpdateFlag, XdpAction

_NOT_SET: Final = "not set"
_VERDICTS: Final = frozenset(map(int, XdpAction))


# What is told of the verdict of a program: the kernel's words, and what they mean there.


class ActionResult(Enum):
    """What became of the verdict."""

    SHOWN = "shown"
    SWITCHED = "switched"
    UNCHANGED = "unchanged"
    ON_TRIAL = "on-trial"


@dataclass(frozen=True, slots=True)
class ActionReport:
    """The verdict of a program; *set* is empty for a program that is not ours.

    *action* and *before* are the kernel's words, a number that is no verdict, or None where the map
    has no entry. *confirm_s* are the seconds in which a verdict on trial is to be confirmed.
    """

    set: str
    device: str
    map_name: str
    map_id: int
    action: str | None
    note: str = ""
    result: ActionResult = ActionResult.SHOWN
    before: str | None = None
    confirm_s: int | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        shown = {
            "set": self.set or None,
            "device": self.device or None,
            "map": {"name": self.map_name, "id": self.map_id},
            "action": self.action,
            "before": self.before,
            "result": self.result.value,
            "note": self.note,
            "notes": list(self.notes),
        }
        return shown if self.confirm_s is None else {**shown, "confirm_s": self.confirm_s}


def report(
    subject: Subject,
    held: Map,
    value: bytes | None,
    *,
    result: ActionResult = ActionResult.SHOWN,
    before: str | None = None,
    unset: XdpAction | None = None,
) -> ActionReport:
    """Return what is to be told where the map *held* of *subject* holds *value*.

    *unset* is what the program answers while no verdict is set, as far as that is known.
    """
    action, note = words_of(subject, held, value, unset)
    return ActionReport(
        subject.set, subject.device, subject.map_name, held.id, action, note, result, before
    )


def words_of(
    subject: Subject, held: Map, value: bytes | None, unset: XdpAction | None = None
) -> tuple[str | None, str]:
    """Return the verdict that a value of *held* means, and what is to be said of it."""
    if subject.is_zero_pass:
        unset = XdpAction.XDP_PASS
    if value is None:
        return unset.name if unset is not None else None, _NOT_SET
    number = int.from_bytes(value, "little", signed=is_signed(held))
    if number == 0 and unset:
        return unset.name, _NOT_SET
    if subject.is_zero_pass and number not in _VERDICTS:
        return XdpAction.XDP_PASS.name, f"{number} is no verdict"
    if number == 0:
        return XdpAction.XDP_ABORTED.name, "or not set: both are 0"
    if number not in _VERDICTS:
        return str(number), "no verdict; a program that returns it aborts"
    return XdpAction(number).name, ""


@dataclass(frozen=True, slots=True)
class Switch:
    """How a verdict is to be switched.

    *flag* is that of BPF_MAP_UPDATE_ELEM; *is_forced* means XDP_TX, XDP_REDIRECT and cutting one's
    own way to the host; with *confirm_s* it goes back after so many seconds unless confirmed.
    """

    flag: UpdateFlag = UpdateFlag.ANY
    is_forced: bool = False
    confirm_s: int | None = None


def show(
    target: str, *, map_name: str | None = None, netns: str | None = None, pin_root: Path = BPFFS
) -> ActionReport:
    """Return the verdict that the program of device or set *target* returns.

    It is read from the map `action`, or *map_name*, of the set; for a program that is not ours, of
    those that the running program uses. Raises `PinNotFoundError` (nothing runs there),
    `UsageError` (no such map) and `IncompatibleMapError` (it holds no verdict).
    """
    with namespaces.enter(netns):
        subject = find_subject(target, map_name=map_name, pin_root=pin_root, netns=netns)
        with subject.open(read_only=True) as held:
            value = _value(held)
            return report(subject, held, value, unset=_unset(subject, held, value))


def switch(
    target: str,
    action: str | XdpAction,
    *,
    how: Switch = Switch(),
    map_name: str | None = None,
    netns: str | None = None,
    pin_root: Path = BPFFS,
    lock_timeout_s: float = 10.0,
) -> ActionReport:
    """Let the program of *target* return *action*, an `XdpAction` or a word for one.

    Raises what `show` does; `UsageError` for a verdict that would cut the default route or one's
    ssh session without a way back, or that a program alone does not make useful; `BusyError` while
    something of the set is on trial; `KeyExistsError` and `KeyNotFoundError` by the flag.
    """
    verdict = action if isinstance(action, XdpAction) else parse_verdict(action)
    require_willing(verdict, is_forced=how.is_forced)
    with namespaces.enter(netns):
        subject = find_subject(target, map_name=map_name, pin_root=pin_root, netns=netns)
        with subject.open(read_only=False) as held:
            _require_meaning(subject, held, verdict)
            place = _place(subject, held, pin_root)
        with _changing(place, lock_timeout_s, is_trial=how.confirm_s is not None) as (root, notes):
            # Anew: what was found may have been reloaded before the lock was ours.
            subject = find_subject(target, map_name=map_name, pin_root=pin_root, netns=netns)
            with subject.open(read_only=False) as held:
                told = _switch(_Switching(subject, held, verdict, how), place, root)
                return replace(told, notes=notes)


@dataclass(frozen=True, slots=True)
class _Switching:
    """A verdict on its way into a map."""

    subject: Subject
    held: Map
    verdict: XdpAction
    how: Switch

    @property
    def value(self) -> bytes:
        """The entry's new value."""
        return int(self.verdict).to_bytes(self.held.value_size, "little")

    def write(self) -> None:
        """Write it; by the flag, it may have to be new or to be there."""
        self.held.update_bytes(KEY, self.value, flag=self.how.flag)


def _switch(switching: _Switching, place: TrialPlace, root: Directory | None) -> ActionReport:
    subject, held, how = switching.subject, switching.held, switching.how
    old = _value(held)
    before = words_of(subject, held, old, _unset(subject, held, old))[0]
    if old == switching.value and how.flag is not UpdateFlag.NOEXIST:
        return report(subject, held, old, result=ActionResult.UNCHANGED, before=before)
    if switching.verdict in CUTTING and not how.is_forced and how.confirm_s is None:
        require_way_back(
            held,
            switching.verdict.name,
            lambda copy: copy.update_bytes(KEY, switching.value),
            pin_root=place.root,
            devices=own_devices(subject),
            is_cutting=True,
        )
    if how.confirm_s is None or root is None:
        switching.write()
        return report(subject, held, _value(held), result=ActionResult.SWITCHED, before=before)
    with _trial(switching, how.confirm_s, place, root):
        switching.write()
        told = report(subject, held, _value(held), result=ActionResult.ON_TRIAL, before=before)
    return replace(told, confirm_s=how.confirm_s)


@contextmanager
def _trial(
    switching: _Switching, seconds: int, place: TrialPlace, root: Directory
) -> Iterator[None]:
    """Let the block change the verdict while a process waits that takes it back.

    The trial begins at the end of the block. An error in there takes the change back.
    """
    with (
        signals_deferred(),
        root.child(place.parent) as parent,
        ExitStack() as opened,
        ExitStack() as undo,
    ):
        with make_room(parent, place.entry) as room:
            undo.callback(end_trial, parent, place.entry)
            switching.held.pin(room.pin_path(MAP))
            token, deadline_ms = secrets.token_hex(8), command_deadline_ms(seconds)
            process = opened.enter_context(start_waiting(place, token, deadline_ms))
            trial = Trial(
                token,
                seconds,
                deadline_ms,
                process.pid,
                process.started,
                device=switching.subject.device,
                netns_inode=namespaces.inode(),
                what=switching.verdict.name,
                change=EntryChange(KEY, _value(switching.held), switching.value),
            )
            undo.callback(end_waiting, trial)
            room.write_text(RECORD, trial.to_text())
        undo.pop_all()
        undo.callback(put_back, root, place, trial)
        yield
        begin_trial(parent, seconds, place.entry)
        undo.pop_all()


@contextmanager
def _changing(
    place: TrialPlace, timeout_s: float, *, is_trial: bool
) -> Iterator[tuple[Directory | None, tuple[str, ...]]]:
    """Lock the pin root and settle what is on trial; yield the pin root and notes.

    Without a pin root nothing is on trial. A user of its group, who may write the map but not take
    the lock, switches without it.
    """
    is_mounted = bpffs.inspect(place.root) is RootState.MOUNTED
    if not is_trial and not (is_mounted and _may_lock(place)):
        yield None, ()
        return
    with locked_root(place.root, timeout_s=timeout_s) as root:
        yield root, settled_place(root, place)[1]


def _may_lock(place: TrialPlace) -> bool:
    parent = place.root / place.parent
    return parent.exists() and parent.stat().st_uid == os.geteuid()


def _place(subject: Subject, held: Map, pin_root: Path) -> TrialPlace:
    if subject.found is not None and subject.is_ours:
        return TrialPlace(pin_root, subject.found.name)
    return TrialPlace.of_map(pin_root, held.id)


def _require_meaning(subject: Subject, held: Map, verdict: XdpAction) -> None:
    """Refuse XDP_ABORTED where the program takes 0 for a verdict that was never set."""
    if verdict is not XdpAction.XDP_ABORTED:
        return
    is_pass = _unset(subject, held, bytes(held.value_size)) is XdpAction.XDP_PASS
    if subject.is_zero_pass or is_pass:
        raise UsageError(
            "XDP_ABORTED is 0, which this program takes for a verdict that was never set, and"
            " passes the packet",
            hint="to drop packets: XDP_DROP; to pass them: XDP_PASS",
        )


def _unset(subject: Subject, held: Map, value: bytes | None) -> XdpAction | None:
    """Return what the program does while no verdict is set, if it is *value* that means this."""
    is_asked = not any(value or b"") and not subject.is_zero_pass
    return unset_verdict(subject.found, held) if is_asked and subject.found else None


def _value(held: Map) -> bytes | None:
    try:
        return held.lookup_bytes(KEY)
    except KeyNotFoundError:
        return None
