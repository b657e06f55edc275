"""The verdict of a running XDP program, shown and switched: what `bpfpin action` does."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
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
    make_trial,
)
from bpfpin.records import dataclass
from bpfpin.sets.action_map import Subject, find_subject, notes_on_hooks, own_devices
from bpfpin.sets.changing import settled_place
from bpfpin.sets.guard import require_way_back, unset_verdict
from bpfpin.sets.trial import end_waiting, put_back, start_waiting
from bpfpin.syscall import netns as namespaces
from bpfpin.syscall.signals import signals_deferred
from bpfpin.uapi import UpdateFlag, XdpAction

NOT_SET: Final = "not set"
_VERDICTS: Final = frozenset(map(int, XdpAction))


class ActionResult(Enum):
    """The outcome of showing or switching a verdict."""

    SHOWN = "shown"
    SWITCHED = "switched"
    UNCHANGED = "unchanged"
    ON_TRIAL = "on-trial"


@dataclass(frozen=True, slots=True)
class ActionReport:
    """The verdict of a program; *set* is empty for a program that is in no set.

    *action* and *before* are the kernel's names of verdicts, a number without a name, or None where
    the map has no entry; *before_note* is the note on *before*. *confirm_s* are the seconds in
    which a verdict on trial can be confirmed.
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
    before_note: str = ""

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
    bpf_map: Map,
    value: bytes | None,
    *,
    result: ActionResult = ActionResult.SHOWN,
    before: tuple[str | None, str] = (None, ""),
    unset: XdpAction | None = None,
) -> ActionReport:
    """Return the report on *value* of the verdict map of *subject*.

    *before* is the earlier verdict with its note. *unset* is the verdict of the program while none
    is set, as far as that is known.
    """
    action, note = words_of(subject, bpf_map, value, unset)
    return ActionReport(
        subject.set,
        subject.device,
        subject.map_name,
        bpf_map.id,
        action,
        note,
        result,
        before[0],
        before_note=before[1],
    )


def words_of(
    subject: Subject, bpf_map: Map, value: bytes | None, unset: XdpAction | None = None
) -> tuple[str | None, str]:
    """Return the verdict that a value of *bpf_map* means, and a note on it."""
    if subject.is_zero_pass:
        unset = XdpAction.XDP_PASS
    if value is None:
        return unset.name if unset is not None else None, NOT_SET
    number = int.from_bytes(value, "little", signed=is_signed(bpf_map))
    if number == 0 and unset:
        return unset.name, NOT_SET
    if subject.is_zero_pass and number not in _VERDICTS:
        return XdpAction.XDP_PASS.name, f"{number} is not a verdict"
    if number == 0:
        # An element of an array that nobody wrote is 0, and so is XDP_ABORTED (enum xdp_action of
        # include/uapi/linux/bpf.h).
        return XdpAction.XDP_ABORTED.name, "or not set: both are 0"
    if number not in _VERDICTS:
        # bpf_warn_invalid_xdp_action() of net/core/filter.c warns once, and drivers then drop the
        # packet as for XDP_ABORTED.
        return str(number), "not a verdict; a program that returns it aborts"
    return XdpAction(number).name, ""


@dataclass(frozen=True, slots=True)
class Switch:
    """Options of switching a verdict.

    *flag* is that of BPF_MAP_UPDATE_ELEM. *is_forced* allows XDP_TX, XDP_REDIRECT and cutting the
    caller's own connection. *confirm_s* takes the verdict back after so many seconds unless it is
    confirmed.
    """

    flag: UpdateFlag = UpdateFlag.ANY
    is_forced: bool = False
    confirm_s: int | None = None


def show(
    target: str, *, map_name: str | None = None, netns: str | None = None, pin_root: Path = BPFFS
) -> ActionReport:
    """Return the verdict that the program of device or set *target* returns.

    It is read from map `action`, or *map_name*, of the set; of a program that is in no set, from
    the maps that it uses. Raises `PinNotFoundError` (nothing runs there), `UsageError` (no such
    map) and `IncompatibleMapError` (the map holds no verdict).
    """
    with namespaces.enter(netns):
        subject = find_subject(target, map_name=map_name, pin_root=pin_root, netns=netns)
        with subject.open(read_only=True) as bpf_map:
            value = _value(bpf_map)
            shown = report(subject, bpf_map, value, unset=_unset(subject, bpf_map, value))
            return replace(shown, notes=notes_on_hooks(subject))


def switch(
    target: str,
    action: str | XdpAction,
    *,
    how: Switch = Switch(),  # noqa: B008  (frozen)
    map_name: str | None = None,
    netns: str | None = None,
    pin_root: Path = BPFFS,
    lock_timeout_s: float = 10.0,
) -> ActionReport:
    """Let the program of *target* return *action*, an `XdpAction` or its name.

    Raises what `show` does; `UsageError` for a verdict that would cut the default route or the
    caller's SSH session without a way back, or that is rarely intended; `BusyError` while a change
    of the set is on trial; `KeyExistsError` and `KeyNotFoundError` by the flag.
    """
    verdict = action if isinstance(action, XdpAction) else parse_verdict(action)
    require_willing(verdict, is_forced=how.is_forced)
    with namespaces.enter(netns):
        subject = find_subject(target, map_name=map_name, pin_root=pin_root, netns=netns)
        with subject.open(read_only=False) as bpf_map:
            _require_meaning(subject, bpf_map, verdict)
            # Only to learn which lock to take: everything is looked at again under the lock.
            place = _place(subject, bpf_map, pin_root)
        with _changing(place, lock_timeout_s, is_trial=how.confirm_s is not None) as (root, notes):
            # Look again: the set may have been reloaded before the lock was granted.
            subject = find_subject(target, map_name=map_name, pin_root=pin_root, netns=netns)
            with subject.open(read_only=False) as bpf_map:
                switched = _switch(_Switching(subject, bpf_map, verdict, how), place, root)
                return replace(switched, notes=notes + notes_on_hooks(subject))


@dataclass(frozen=True, slots=True)
class _Switching:
    """The switch of one verdict map."""

    subject: Subject
    bpf_map: Map
    verdict: XdpAction
    how: Switch

    @property
    def value(self) -> bytes:
        """The entry's new value."""
        return int(self.verdict).to_bytes(self.bpf_map.value_size, "little")

    def write(self) -> None:
        """Write the value; the flag may require that the entry is new, or that it exists."""
        self.bpf_map.update_bytes(KEY, self.value, flag=self.how.flag)


def _switch(switching: _Switching, place: TrialPlace, root: Directory | None) -> ActionReport:
    subject, bpf_map, how = switching.subject, switching.bpf_map, switching.how
    old = _value(bpf_map)
    before = words_of(subject, bpf_map, old, _unset(subject, bpf_map, old))
    # With BPF_NOEXIST the write itself has to answer, with EEXIST.
    if old == switching.value and how.flag is not UpdateFlag.NOEXIST:
        return report(subject, bpf_map, old, result=ActionResult.UNCHANGED, before=before)
    # With --confirm the verdict goes back by itself, so the user cannot be locked out for good.
    if switching.verdict in CUTTING and not how.is_forced and how.confirm_s is None:
        require_way_back(
            bpf_map,
            switching.verdict.name,
            lambda copy: copy.update_bytes(KEY, switching.value),
            pin_root=place.root,
            devices=own_devices(subject),
            is_cutting=True,
        )
    if how.confirm_s is None or root is None:
        switching.write()
        return report(
            subject, bpf_map, _value(bpf_map), result=ActionResult.SWITCHED, before=before
        )
    with _trial(switching, how.confirm_s, place, root):
        switching.write()
        value = _value(bpf_map)
        on_trial = report(subject, bpf_map, value, result=ActionResult.ON_TRIAL, before=before)
    return replace(on_trial, confirm_s=how.confirm_s)


@contextmanager
def _trial(
    switching: _Switching, seconds: int, place: TrialPlace, root: Directory
) -> Iterator[None]:
    """Let the block change the verdict while a process waits that takes the change back.

    The trial begins at the end of the block. An error in the block takes the change back.
    """
    with (
        # Over the whole block and its clean-up: an interrupt in there would leave the trial half
        # undone.
        signals_deferred(),
        root.child(place.parent) as parent,
        ExitStack() as opened,
        ExitStack() as undo,
    ):
        with make_trial(parent, place.entry) as room:
            undo.callback(end_trial, parent, place.entry)
            # The way back opens the map by this pin; the program that used it may be gone by then.
            switching.bpf_map.pin(room.pin_path(MAP))
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
                change=EntryChange(KEY, _value(switching.bpf_map), switching.value),
            )
            undo.callback(end_waiting, trial)
            # The record comes last: if the command dies before, the next change of this place finds
            # no trial, ends the process as an orphan and removes the rest.
            room.write_text(RECORD, trial.to_text())
        # From here on the change may have been made, so an error no longer just removes the trial.
        undo.pop_all()
        undo.callback(put_back, root, place, trial)
        yield
        # Last: the seconds to confirm begin when the verdict is in force.
        begin_trial(parent, seconds, place.entry)
        undo.pop_all()


@contextmanager
def _changing(
    place: TrialPlace, timeout_s: float, *, is_trial: bool
) -> Iterator[tuple[Directory | None, tuple[str, ...]]]:
    """Lock the pin root and settle an open trial; yield the pin root and notes.

    Without a pin root nothing is on trial. A user of its group, with the right to write the map but
    not to take the lock, switches without it.
    """
    is_mounted = bpffs.inspect(place.root) is RootState.MOUNTED
    if not is_trial and not (is_mounted and _may_lock(place)):
        yield None, ()
        return
    with locked_root(place.root, timeout_s=timeout_s) as root:
        yield root, settled_place(root, place)


def _may_lock(place: TrialPlace) -> bool:
    parent = place.root / place.parent
    # The directory of the set, or that of the lock for a map outside of sets: its owner may take
    # the lock.
    return parent.exists() and parent.stat().st_uid == os.geteuid()


def _place(subject: Subject, bpf_map: Map, pin_root: Path) -> TrialPlace:
    if subject.pin_set is not None and subject.is_ours:
        return TrialPlace(pin_root, subject.pin_set.name)
    # By the id of the map: without a set this is all that identifies the change.
    return TrialPlace.of_map(pin_root, bpf_map.id)


def _require_meaning(subject: Subject, bpf_map: Map, verdict: XdpAction) -> None:
    """Refuse XDP_ABORTED where the program reads 0 as a verdict that was never set."""
    if verdict is not XdpAction.XDP_ABORTED:
        return
    is_pass = _unset(subject, bpf_map, bytes(bpf_map.value_size)) is XdpAction.XDP_PASS
    if subject.is_zero_pass or is_pass:
        raise UsageError(
            "XDP_ABORTED is 0, which this program takes for a verdict that was never set, and"
            " passes the packet",
            hint="to drop packets: XDP_DROP; to pass them: XDP_PASS",
        )


def _unset(subject: Subject, bpf_map: Map, value: bytes | None) -> XdpAction | None:
    """Return the program's verdict while none is set, if *value* may mean that none is."""
    is_asked = not any(value or b"") and not subject.is_zero_pass
    return unset_verdict(subject.pin_set, bpf_map) if is_asked and subject.pin_set else None


def _value(bpf_map: Map) -> bytes | None:
    try:
        return bpf_map.lookup_bytes(KEY)
    except KeyNotFoundError:
        return None
