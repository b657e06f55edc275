"""The map that holds the verdict of an XDP program: found by its set or its device, and checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bpfpin.attach import interface, netkit, tcx
from bpfpin.attach.devices import DeviceRow, all_devices
from bpfpin.attach.query import clsact_filters, tcx_programs
from bpfpin.errors import (
    IdNotFoundError,
    InterfaceNotFoundError,
    PermissionDeniedError,
    PinNotFoundError,
    UsageError,
)
from bpfpin.map.verdict import USUAL_NAME, require_verdict
from bpfpin.objects.kernel.info import KERNEL_NAME_LENGTH
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names
from bpfpin.pins.manifest import Manifest
from bpfpin.pins.pinset import LoadedSet, PinSet
from bpfpin.sets.find import find_readable_set
from bpfpin.spec import Hook
from bpfpin.syscall import netns as namespaces

_TAKES_ZERO_FOR_PASS: Final = frozenset({"builtin:xdp_stats"})


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose verdict it is: that of a set, or (*found* is None) of what runs on a device.

    *path* is the pin of the map in the set.
    """

    found: PinSet | None
    device: str = ""
    map_name: str = USUAL_NAME
    path: Path | None = None

    @property
    def set(self) -> str:
        """The set as a user types it, "" if it is none."""
        return names.display_name(self.found.name) if self.found else ""

    @property
    def is_ours(self) -> bool:
        """Whether it is a set that this user made."""
        found = self.found
        return isinstance(found, LoadedSet) and found.is_own

    @property
    def is_zero_pass(self) -> bool:
        """Whether the program is known to pass what a verdict of 0, never set, is held for."""
        return self.found is not None and _object_of(self.found) in _TAKES_ZERO_FOR_PASS

    def open(self, *, read_only: bool) -> Map:
        """Open the map; `UsageError` with those there are, `IncompatibleMapError` if it is none."""
        if self.path is None:
            held = _map_of_running(self.device, self.map_name, read_only=read_only)
        else:
            held = Map.from_pin(self.path, read_only=read_only)
        try:
            require_verdict(held, self.map_name)
        except BaseException:
            held.close()
            raise
        return held


def find_subject(
    target: str, *, map_name: str | None = None, pin_root: Path, netns: str | None = None
) -> Subject:
    """Return what *target*, a device or a set, means; the current namespace is that of *netns*.

    Where the set of a device has no such map, or nothing of ours is there, it is the program that
    runs on the device. `PinNotFoundError` if nothing is, `UsageError` if the set has no such map.
    """
    name = map_name or USUAL_NAME
    try:
        found = find_readable_set(target, pin_root=pin_root, netns=netns)
    except PinNotFoundError:
        if not running_ids(target):
            raise
        return Subject(None, target, name)
    pins = dict(found.maps) or _pins_of_others(found)
    if name in pins:
        device = found.manifest.place.device if isinstance(found, LoadedSet) else target
        return Subject(found, device, name, pins[name])
    if not _has_xdp(found) and running_ids(target):
        return Subject(None, target, name)
    raise UsageError(
        f"{target!r} has no map {name!r}; it has: {', '.join(pins) or 'none'}",
        hint="choose one: --map NAME",
    )


def running_ids(device: str) -> list[int]:
    """Return the ids of the XDP programs that run on a device of this namespace."""
    try:
        ifindex = interface.ifindex(device)
    except InterfaceNotFoundError:
        return []
    return [id_ for row in all_devices() if row.ifindex == ifindex for id_ in row.xdp.values()]


def own_devices(subject: Subject) -> list[str]:
    """Return the device of a set, if it is one of this namespace."""
    found = subject.found
    is_elsewhere = (
        isinstance(found, LoadedSet) and found.manifest.place.netns_inode != namespaces.inode()
    )
    is_here = not is_elsewhere and subject.device in interface.names().values()
    return [subject.device] if is_here else []


def devices_of_map(map_id: int) -> list[str]:
    """Return the devices of this namespace on which a program runs that uses the map.

    Without CAP_SYS_ADMIN others cannot be seen.
    """
    found = []
    with suppress(PermissionDeniedError):
        for row in all_devices():
            if any(map_id in _map_ids(program_id) for program_id in _program_ids(row)):
                found.append(row.name)
    return found


def _program_ids(row: DeviceRow) -> Iterator[int]:
    yield from row.xdp.values()
    hooks = netkit.HOOKS if row.kind == "netkit" else tcx.HOOKS
    for hook in sorted(hooks, key=lambda hook: hook.value):
        yield from (each.program_id for each in tcx_programs(row.ifindex, hook))
    yield from (each.program_id for each in clsact_filters(row.ifindex))


def _pins_of_others(found: PinSet) -> dict[str, Path]:
    """Return what is pinned in a set that is not this user's, but that it may read."""
    with os.scandir(found.path) as entries:
        files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    return {name: found.path / name for name in sorted(files)}


def _has_xdp(found: PinSet) -> bool:
    return any(record.hook == Hook.XDP.value for record in found.hooks)


def _map_ids(program_id: int) -> tuple[int, ...]:
    with suppress(IdNotFoundError), Program.from_id(program_id) as program:
        return program.info.map_ids
    return ()


def _map_of_running(device: str, name: str, *, read_only: bool) -> Map:
    ids = [map_id for program_id in running_ids(device) for map_id in _map_ids(program_id)]
    with ExitStack() as opened:
        there = [opened.enter_context(Map.from_id(id_, read_only=read_only)) for id_ in ids]
        fitting = [held for held in there if held.name == name[:KERNEL_NAME_LENGTH]]
        if len(fitting) == 1:
            return Map.from_id(fitting[0].id, read_only=read_only)
    listed = ", ".join(f"{held.name} (id {held.id})" for held in fitting or there) or "none"
    what = f"{len(fitting)} maps named {name!r}" if fitting else f"no map {name!r}"
    raise UsageError(
        f"the program that runs on {device} uses {what}: {listed}",
        hint="choose one: --map NAME" if not fitting else "bpfpin map set id:N 0 VERDICT",
    )


def _object_of(found: PinSet) -> str:
    """Return the object of a set; a set of root's tells it to everybody who may read it."""
    if isinstance(found, LoadedSet):
        return found.manifest.object
    link = found.path / names.MANIFEST
    try:
        if {found.path.lstat().st_uid, link.lstat().st_uid} != {0}:
            return ""
        return Manifest.parse(os.readlink(link)).object  # noqa: PTH115  (a text, not a path)
    except (OSError, ValueError):
        return ""
