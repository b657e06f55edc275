"""Confirm a change that is on trial: what `bpfpin confirm` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bpfpin.attach import interface
from bpfpin.errors import (
    BpfError,
    BusyError,
    IdNotFoundError,
    InterfaceNotFoundError,
    PinNotFoundError,
    ProgramChangedError,
    UnsafePathError,
    UsageError,
)
from bpfpin.hints import Argument, Fix, Placeholder, shell_line
from bpfpin.hooks import HeldBy
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.directory import Directory, unsafe_reason
from bpfpin.pins.lock import locked_root
from bpfpin.pins.manifest import HookRecord, read_manifest
from bpfpin.pins.ownership import ObjectIds, record_object
from bpfpin.pins.pinset import all_sets
from bpfpin.pins.recover import own_program_id
from bpfpin.pins.trial import CONFIRM, Trial, TrialPlace, end_record, read_trial
from bpfpin.records import dataclass
from bpfpin.sets.find import find_set
from bpfpin.sets.live import recovered
from bpfpin.sets.trial import (
    end_orphans,
    end_orphans_below,
    end_trial,
    end_waiting,
    is_overdue,
    put_back,
    shown_name,
    trial_at,
)
from bpfpin.syscall import netns as namespaces
from bpfpin.syscall.signals import signals_deferred


@dataclass(frozen=True, slots=True)
class ConfirmReport:
    """The confirmed change; *set* is empty for a device whose program is in no set."""

    set: str
    device: str
    what: str

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {
            "result": "confirmed",
            "set": self.set or None,
            "device": self.device or None,
            "what": self.what,
        }


@dataclass(frozen=True, slots=True)
class OnTrial:
    """A change that is on trial, and the place of its record."""

    place: TrialPlace
    trial: Trial

    @property
    def shown(self) -> str:
        """The name of the set or device, as its user types it."""
        return shown_name(self.place, self.trial)


def trials(pin_root: Path = BPFFS) -> list[OnTrial]:
    """Return all changes on trial below *pin_root*, sets first; `NotBpffsError`."""
    # Without the lock: also a user that may not take it can list the trials.
    places = [TrialPlace(pin_root, pin_set.name) for pin_set in all_sets(pin_root)]
    with_trials = [(place, trial_at(place)) for place in [*places, *_places_of_maps(pin_root)]]
    return [OnTrial(place, trial) for place, trial in with_trials if trial is not None]


def confirm(
    target: str | None = None,
    *,
    netns: str | None = None,
    pin_root: Path = BPFFS,
    lock_timeout_s: float = 10.0,
) -> ConfirmReport:
    """Keep the change on trial of device or set *target*; None for the only change on trial.

    `PinNotFoundError` if nothing is on trial, `UsageError` with the list if several changes are,
    `BusyError` if it is too late: then the change was taken back.
    """
    try:
        wanted = _only(trials(pin_root), target, pin_root=pin_root, netns=netns)
    except PinNotFoundError:
        # A confirm that was killed may have left the waiting process of the change it confirmed.
        end_orphans_below(pin_root, lock_timeout_s=lock_timeout_s)
        raise
    place = wanted.place
    with locked_root(pin_root, timeout_s=lock_timeout_s) as root:
        if place.set:
            recovered(root, place.set)
        with root.child(place.parent) as parent:
            trial = read_trial(parent, place.entry)
        # Before the lock was granted, the trial may have ended and another may have begun.
        if trial is None or trial.token != wanted.trial.token:
            raise _nothing(target)
        # The deadline holds, even if the process has not taken the change back yet.
        if is_overdue(trial):
            raise BusyError(
                put_back(root, place, trial),
                hint=Fix.of("change it again: ", Argument("confirm_s", Placeholder("SECONDS"))),
            )
        # Between the first link that is pinned and the end of the record, Ctrl-C would leave a
        # trial that is half confirmed.
        with signals_deferred():
            _keep(root, place, trial)
    return ConfirmReport(names.display_name(place.set), trial.device, trial.what)


def clear(root: Directory) -> tuple[str, ...]:
    """Take overdue changes back, and remove the rest of ended trials; the lock must be held.

    Returns notes. Trials that can still be confirmed stay, and so do those of other users.
    """
    notes = [*end_orphans(root)]
    sets = [TrialPlace(root.path, pin_set.name) for pin_set in all_sets(root.path)]
    for place in [*sets, *_places_of_maps(root.path)]:
        with suppress(PinNotFoundError, UnsafePathError), root.child(place.parent) as parent:
            trial = read_trial(parent, place.entry)
            if trial is None:
                end_trial(parent, place.entry)
            elif is_overdue(trial):
                notes.append(put_back(root, place, trial))
    return tuple(notes)


def _places_of_maps(pin_root: Path) -> Iterator[TrialPlace]:
    """Yield the places of trials of maps that are in no set."""
    missing = (PinNotFoundError, UnsafePathError)  # somebody else's directory has no trials
    with suppress(*missing), Directory.open(pin_root / names.LOCK_DIRECTORY) as directory:
        for name in [] if unsafe_reason(directory.status) else directory.names():
            if name.startswith(CONFIRM):
                yield TrialPlace(pin_root, names.LOCK_DIRECTORY, name)


def _only(
    on_trial: list[OnTrial], target: str | None, *, pin_root: Path, netns: str | None
) -> OnTrial:
    fitting = on_trial
    if target is not None:
        fitting = list(_fitting(on_trial, target, pin_root=pin_root, netns=netns))
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        listed = ", ".join(change.shown for change in fitting)
        raise UsageError(
            f"{len(fitting)} changes are on trial: {listed}",
            hint=f"name one of them: {shell_line('bpfpin confirm', fitting[0].shown)}",
        )
    if target is not None and not _is_known(target, pin_root=pin_root, netns=netns):
        raise PinNotFoundError(
            f"nothing is on trial for {target!r}, and there is no such set or device; the set of a"
            " first load that was not confirmed in time is gone",
            hint="see what is loaded: bpfpin status",
        )
    raise _nothing(target)


def _is_known(target: str, *, pin_root: Path, netns: str | None) -> bool:
    with suppress(PinNotFoundError):
        find_set(target, pin_root=pin_root, netns=netns)
        return True
    with suppress(InterfaceNotFoundError), namespaces.enter(netns):
        interface.ifindex(target)
        return True
    return False


def _fitting(
    on_trial: list[OnTrial], target: str, *, pin_root: Path, netns: str | None
) -> Iterator[OnTrial]:
    name = ""
    with suppress(PinNotFoundError):
        name = find_set(target, pin_root=pin_root, netns=netns).name
    with namespaces.enter(netns):
        here = namespaces.inode()
    for change in on_trial:
        is_device = (change.trial.device, change.trial.netns_inode) == (target, here)
        if change.place.set == name if change.place.set else is_device:
            yield change


def _nothing(target: str | None) -> PinNotFoundError:
    whose = f" for {target!r}" if target else ""
    return PinNotFoundError(
        f"nothing is on trial{whose}; a change that was on trial is confirmed by now, or it went"
        " back when its time was over",
        hint="see what runs: bpfpin status",
    )


def _keep(root: Directory, place: TrialPlace, trial: Trial) -> None:
    with root.child(place.parent) as parent:
        # Before the record goes: until then the process would take the change back, and afterwards
        # nothing else holds the links.
        if trial.links:
            _pin_links(root, place, trial, parent)
        end_record(parent, place.entry)  # from here on it is confirmed; the rest is cleanup
        end_waiting(trial)
        try:
            end_trial(parent, place.entry)
        except BpfError:
            with suppress(BpfError):  # after a second failure the next command does it
                end_trial(parent, place.entry)


def _pin_links(root: Directory, place: TrialPlace, trial: Trial, parent: Directory) -> None:
    """Pin the links that only the waiting process holds."""
    records = {record.link: record for record in read_manifest(parent).hooks}
    objects = ObjectIds.read(parent)
    with parent.child(names.LINKS) as links:
        for pin, link_id in trial.links.items():
            try:
                with Link.from_id(link_id) as link:
                    # The link was only open to a process, but BPF_LINK_GET_FD_BY_ID lets root
                    # update any link.
                    own_id = own_program_id(parent, records[pin], objects)
                    _require_own_program(parent, records[pin], link, own_id)
                    if not links.has(pin):  # an earlier confirm may have been killed after this
                        # Recorded first, so that after a crash the pin counts as the set's own.
                        if parent.has(names.OBJECTS):
                            record_object(parent, names.LINKS, pin, link.id)
                        link.pin(links.pin_path(pin))
            # The process was killed, and its links went with it. Nothing is left to confirm.
            except IdNotFoundError:
                note = put_back(root, place, trial)
                raise BusyError(
                    note,
                    hint=Fix.of("load it again: ", Argument("confirm_s", Placeholder("SECONDS"))),
                ) from None


def _require_own_program(directory: Directory, record: HookRecord, link: Link, own_id: int) -> None:
    running = link.program_id()
    if record.held_by is HeldBy.STUB:
        from bpfpin.objects.stub import program_in  # noqa: PLC0415 - few sets have stubs

        with Map.from_pin(directory.path / names.SLOTS / record.link) as slot:
            running = program_in(slot)
    if running != own_id:
        raise ProgramChangedError(
            f"link id {link.id} runs program id {running}, which is not the set's {record.program}:"
            " somebody else put it there; it was not confirmed",
            holder=f"program id {running}",
        )
