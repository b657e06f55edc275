"""The state of one hook of a set: what holds it, and which program it runs."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from errno import EACCES
from pathlib import Path
from typing import Final

from bpfpin.attach import interface
from bpfpin.errors import (
    AttachError,
    BpfError,
    IdNotFoundError,
    PermissionDeniedError,
    PinError,
    PinNotFoundError,
)
from bpfpin.hooks import HeldBy
from bpfpin.objects.kernel.object import wait_until_freed
from bpfpin.objects.link import Link
from bpfpin.pins import names
from bpfpin.pins.manifest import AttachPoint, HookRecord
from bpfpin.pins.pinset import LoadedSet
from bpfpin.records import dataclass
from bpfpin.sets.live import is_shut, own_object_id, reopen, stub_program_id
from bpfpin.sets.place import DeviceState, target_name
from bpfpin.sets.reports import HeldHook
from bpfpin.sets.trial import trial_of
from bpfpin.syscall import netns as namespaces

_PATIENCE_S: Final = 0.3
_GATE: Final = "gate"  # what `status` says of a link whose program has one


@dataclass(frozen=True, slots=True)
class FoundHook:
    """A hook of a set: *running_id* is the program there now, 0 for none, *pinned_id* the set's.

    *missing* says why nothing runs there. A hook that this user may not look at `is_hidden`.
    """

    record: HookRecord
    report: HeldHook
    running_id: int = 0
    pinned_id: int | None = None
    missing: str = ""
    is_hidden: bool = False

    @property
    def is_attached(self) -> bool:
        """Whether a program runs there, the set's or another program."""
        return bool(self.running_id)

    @property
    def runs_own(self) -> bool:
        """Whether the set's own program runs there; any program, if its own is not known."""
        return self.is_attached and self.pinned_id in (None, self.running_id)


@dataclass(frozen=True, slots=True)
class _Seen:
    running_id: int = 0
    link_id: int | None = None
    ifindex: int = 0
    missing: str = ""


def look_at_hook(pin_set: LoadedSet, record: HookRecord) -> FoundHook:
    """Look at one hook of a set; nothing is changed."""
    place = pin_set.manifest.place
    try:
        look = _look_at_link if record.held_by.has_link else _look_at_device
        seen, is_hidden = look(pin_set, record, place), False
    except PermissionDeniedError:
        # Kept apart from "not attached": `clean` removes a set whose hooks are gone, and must not
        # take a hook that it cannot see for one.
        seen, is_hidden = _Seen(), True
    here = replace(place, device=_device(place, seen.ifindex))
    device = target_name(here, record.hook, record.target)
    held = _GATE if record.program in pin_set.manifest.gates else record.held_by.value
    report = HeldHook(record.hook, device, record.program, record.mode, held, seen.link_id)
    pinned_id = _program_id(pin_set, record)
    return FoundHook(record, report, seen.running_id, pinned_id, seen.missing, is_hidden)


def is_without_device(state: DeviceState, hooks: Collection[FoundHook]) -> bool:
    """Whether the device of a set is gone, so that no program of the set runs.

    An attached hook proves that the device exists. If its namespace cannot be entered any more,
    links without a program prove that it is gone.
    """
    if any(hook.is_attached or hook.is_hidden for hook in hooks):
        return False
    if state is not DeviceState.UNKNOWN:
        return state is not DeviceState.HERE
    # Only a link can prove it: its info loses the ifindex with the device. A filter in a namespace
    # that cannot be entered tells nothing.
    return bool(hooks) and all(hook.report.link for hook in hooks)


def _look_at_link(pin_set: LoadedSet, record: HookRecord, _place: AttachPoint) -> _Seen:
    try:
        with _link(pin_set, record) as link:
            info = link.info
    except (PinNotFoundError, IdNotFoundError):
        return _Seen(missing=f"the link at {record.hook} is no longer pinned")
    except PinError as error:
        return _Seen(missing=error.message)
    # The pinned link of a deleted device still opens; its info has ifindex 0.
    if not info.is_attached:
        missing = f"the link at {record.hook} was detached, and {record.program} runs nowhere"
        return _Seen(0, info.id, missing=missing)
    if record.held_by is HeldBy.STUB:
        running_id = stub_program_id(pin_set, record)
        missing = "" if running_id else f"the stub at {record.hook} calls no program"
        return _Seen(running_id, info.id, missing=missing)
    if is_shut(pin_set, record):
        missing = f"the gate of {record.program} is shut: it sees nothing at {record.hook}"
        return _Seen(0, info.id, missing=missing)
    return _Seen(info.object_id, info.id, info.ifindex or 0)


def _link(pin_set: LoadedSet, record: HookRecord) -> Link:
    """Open the link of a hook; the waiting process of a trial is the only holder of its links."""
    if names.LINKS in pin_set.hidden:
        raise PermissionDeniedError(f"{pin_set.path / names.LINKS}: access denied", errno=EACCES)
    if link := _lasting_link(pin_set, record.link):
        return link
    trial = trial_of(pin_set)
    if trial is None or record.link not in trial.links:
        raise PinNotFoundError(f"the link at {record.hook} is not pinned")
    return Link.from_id(trial.links[record.link])


def _lasting_link(pin_set: LoadedSet, pin: str) -> Link | None:
    """Open a link of the set; one that lost its pin only if something else keeps it."""
    link = pin_set.open_link(pin)
    own_id = pin_set.id_of(names.LINKS, pin)
    if link is None or own_id is None or _holds(pin_set.links.get(pin), own_id):
        return link
    # Closed before the wait: this descriptor would keep the link alive.
    link.close()

    def is_gone() -> bool:
        with pin_set.open_link(pin) or nullcontext() as link:
            return link is None

    # A link outlives its last reference for a moment: bpf_link_put() of kernel/bpf/syscall.c leaves
    # its release to a work queue.
    wait_until_freed(is_gone, bool, timeout_s=_PATIENCE_S)
    return pin_set.open_link(pin)


def _holds(path: Path | None, link_id: int) -> bool:
    if path is None:
        return False
    with suppress(BpfError), Link.from_pin(path) as pinned:
        return pinned.id == link_id
    return False


def _look_at_device(_found: LoadedSet, record: HookRecord, place: AttachPoint) -> _Seen:
    try:
        # Without a link there is nothing to open: the device is asked which program it runs.
        with closing(reopen(place, record)) as hook:
            running_id = hook.program_id()
    except AttachError as error:
        return _Seen(missing=error.message)
    if running_id:
        return _Seen(running_id, None, place.ifindex)
    where = target_name(place, record.hook, record.target)
    return _Seen(missing=f"{record.program} no longer runs at {record.hook} of {where}")


def _program_id(pin_set: LoadedSet, record: HookRecord) -> int | None:
    with suppress(PinError, PermissionDeniedError):
        return own_object_id(pin_set, record)
    return None


def _device(place: AttachPoint, ifindex: int) -> str:
    """Return the current name of the device, which may have been renamed."""
    # The info of a link has an ifindex but no network namespace, and an ifindex means another
    # device in another namespace.
    if not ifindex or place.netns_inode != namespaces.inode():
        return place.device
    return interface.name_of(ifindex) or place.device
