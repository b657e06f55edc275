"""The verdict map of an XDP program: looked up by set or device, and checked."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from bpfpin.attach import interface
from bpfpin.attach.devices import all_devices
from bpfpin.attach.registry import running_on_devices
from bpfpin.btf.names import kernel_name
from bpfpin.errors import (
    IdNotFoundError,
    InterfaceNotFoundError,
    PermissionDeniedError,
    PinNotFoundError,
    UsageError,
)
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.hooks import has_actions
from bpfpin.map.verdict import USUAL_NAME, require_verdict
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names
from bpfpin.pins.manifest import Manifest
from bpfpin.pins.pinset import LoadedSet, PinSet
from bpfpin.records import dataclass
from bpfpin.sets.find import find_readable_set
from bpfpin.sets.hook_state import look_at_hook
from bpfpin.sets.place import load_line
from bpfpin.syscall import netns as namespaces

# Known from its source, so that also users without the right to try programs get the right word.
_TAKES_ZERO_FOR_PASS: Final = frozenset({"builtin:xdp_stats"})


@dataclass(frozen=True, slots=True)
class Subject:
    """The owner of a verdict: a set, or (*pin_set* is None) the program that runs on a device.

    *path* is the pin of the map in a set whose own maps are not known, as in that of another user.
    """

    pin_set: PinSet | None
    device: str = ""
    map_name: str = USUAL_NAME
    path: Path | None = None

    @property
    def set(self) -> str:
        """The set as its user types it, "" for a program without a set."""
        return names.display_name(self.pin_set.name) if self.pin_set else ""

    @property
    def is_ours(self) -> bool:
        """Whether it is a set of this user."""
        pin_set = self.pin_set
        return isinstance(pin_set, LoadedSet) and pin_set.is_own

    @property
    def is_zero_pass(self) -> bool:
        """Whether the program is known to pass packets while the verdict is 0, as never set."""
        return self.pin_set is not None and _object_of(self.pin_set) in _TAKES_ZERO_FOR_PASS

    def open(self, *, read_only: bool) -> Map:
        """Open the map; `UsageError` lists the maps if it is missing.

        `IncompatibleMapError` if it cannot hold a verdict, `PinNotFoundError` if the set lost it.
        """
        bpf_map = self._open(read_only=read_only)
        try:
            require_verdict(bpf_map, self.map_name)
        except BaseException:
            bpf_map.close()
            raise
        return bpf_map

    def _open(self, *, read_only: bool) -> Map:
        if self.path is not None:
            return Map.from_pin(self.path, read_only=read_only)
        if isinstance(self.pin_set, LoadedSet):
            # The set's own map, which its program uses: somebody may have pinned another there.
            if bpf_map := self.pin_set.open_map(self.map_name, read_only=read_only):
                return bpf_map
            raise PinNotFoundError(
                f"map {self.map_name} of {self.set} is gone: its pin was removed by hand",
                path=str(self.pin_set.path / names.map_pin_name(self.map_name)),
                hint="see what is left: bpfpin status",
            )
        return _map_of_running(self.device, self.map_name, read_only=read_only)


def notes_on_hooks(subject: Subject) -> tuple[str, ...]:
    """Return a note if the program of the set, which the verdict is for, does not run."""
    live = subject.pin_set
    if not isinstance(live, LoadedSet):
        return ()  # a program that runs, or a set of which this user cannot see the hooks
    hooks = [look_at_hook(live, record) for record in live.hooks if has_actions(record.hook)]
    # A hook that runs, or that this user cannot see, may need the verdict now.
    if any(hook.is_hidden or hook.runs_own for hook in hooks):
        return ()
    why = [
        hook.missing or f"{hook.record.hook} runs program id {hook.running_id}, which is not its"
        for hook in hooks
    ]
    line = load_line(live.path, live.manifest)
    if any(hook.is_attached and not hook.runs_own for hook in hooks):
        line += " --take-over"
    reason = "; ".join(why) or "only its maps are there"
    return (f"no XDP program of {subject.set} runs ({reason}); to load it again: {line}",)


def find_subject(
    target: str, *, map_name: str | None = None, pin_root: Path, netns: str | None = None
) -> Subject:
    """Return the subject of *target*, a device or a set; the current namespace is that of *netns*.

    If no set is loaded on the device, or its set has neither the map nor an XDP program, the
    subject is the program that runs there. `PinNotFoundError` if none does, `UsageError` if the
    set has no such map.
    """
    name = map_name or USUAL_NAME
    try:
        pin_set = find_readable_set(target, pin_root=pin_root, netns=netns)
    except PinNotFoundError:
        if not running_ids(target):
            raise
        return Subject(None, target, name)
    maps = pin_set.map_names
    pins = {} if maps else _pins_of_others(pin_set)
    if name in (*maps, *pins):
        device = pin_set.manifest.place.device if isinstance(pin_set, LoadedSet) else target
        return Subject(pin_set, device, name, pins.get(name))
    # A set at tc or a cgroup has no verdict map, and another program may have one on the same
    # device.
    if not _has_xdp(pin_set) and running_ids(target):
        return Subject(None, target, name)
    raise UsageError(
        f"{target!r} has no map {name!r}; it has: {', '.join((*maps, *pins)) or 'none'}",
        hint=Fix.of("choose one: ", Argument("map_name", Placeholder("NAME"))),
    )


def running_ids(device: str) -> list[int]:
    """Return the ids of the XDP programs that run on a device of this namespace."""
    try:
        ifindex = interface.ifindex(device)
    except InterfaceNotFoundError:
        return []
    return [id_ for row in all_devices() if row.ifindex == ifindex for id_ in row.xdp.values()]


def own_devices(subject: Subject) -> list[str]:
    """Return the device of *subject* if it is in this namespace."""
    pin_set = subject.pin_set
    is_elsewhere = (
        isinstance(pin_set, LoadedSet) and pin_set.manifest.place.netns_inode != namespaces.inode()
    )
    is_here = not is_elsewhere and subject.device in interface.names().values()
    return [subject.device] if is_here else []


def devices_of_map(map_id: int) -> list[str]:
    """Return the devices of this namespace on which a program runs that uses the map.

    None without CAP_SYS_ADMIN: programs can be opened by id with it alone.
    """
    devices = all_devices()
    users = set()
    with suppress(PermissionDeniedError):
        for running in running_on_devices(devices):
            if map_id in _map_ids(running.program_id):
                users.add(running.ifindex)
    return [device.name for device in devices if device.ifindex in users]


def _pins_of_others(pin_set: PinSet) -> dict[str, Path]:
    """Return the pins of another user's set that this user may read."""
    with os.scandir(pin_set.path) as entries:
        files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    return {name: pin_set.path / name for name in sorted(files)}


def _has_xdp(pin_set: PinSet) -> bool:
    return any(has_actions(record.hook) for record in pin_set.hooks)


def _map_ids(program_id: int) -> tuple[int, ...]:
    with suppress(IdNotFoundError), Program.from_id(program_id) as program:
        return program.info.map_ids
    return ()


def _map_of_running(device: str, name: str, *, read_only: bool) -> Map:
    ids = [map_id for program_id in running_ids(device) for map_id in _map_ids(program_id)]
    with ExitStack() as opened:
        there = [opened.enter_context(Map.from_id(id_, read_only=read_only)) for id_ in ids]
        fitting = [bpf_map for bpf_map in there if bpf_map.name == kernel_name(name)]
        if len(fitting) == 1:
            return Map.from_id(fitting[0].id, read_only=read_only)
    listed = (
        ", ".join(f"{bpf_map.name} (id {bpf_map.id})" for bpf_map in fitting or there) or "none"
    )
    what = f"{len(fitting)} maps named {name!r}" if fitting else f"no map {name!r}"
    raise UsageError(
        f"the program that runs on {device} uses {what}: {listed}",
        hint="bpfpin map set id:N 0 VERDICT"
        if fitting
        else Fix.of("choose one: ", Argument("map_name", Placeholder("NAME"))),
    )


def _object_of(pin_set: PinSet) -> str:
    """Return the object of a set; that of root's sets can be read by everybody."""
    if isinstance(pin_set, LoadedSet):
        return pin_set.manifest.object
    link = pin_set.path / names.MANIFEST
    try:
        # Anybody may make a directory in a bpffs of mode 1777, so only the text of root is
        # believed.
        if {pin_set.path.lstat().st_uid, link.lstat().st_uid} != {0}:
            return ""
        return Manifest.parse(os.readlink(link)).object  # noqa: PTH115  (a text, not a path)
    except (OSError, ValueError):
        return ""
