"""Leftovers: stages of interrupted commands, and sets whose device is gone."""

from __future__ import annotations

import dataclasses
import os
import stat
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from bpfpin.errors import BpfError, PinNotFoundError, UnsafePathError
from bpfpin.hints import shell_line
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names
from bpfpin.pins import shared as outside
from bpfpin.pins.directory import Directory, unsafe_reason, user_name
from bpfpin.pins.manifest import OutsidePin, read_manifest
from bpfpin.pins.ownership import foreign_entries
from bpfpin.pins.pinset import LoadedSet, PinSet
from bpfpin.pins.recover import advice_on_foreign, is_left_over
from bpfpin.pins.targets import is_committed
from bpfpin.pins.transaction import next_generation, remove
from bpfpin.records import dataclass
from bpfpin.sets.hook_state import is_without_device, look_at_hook
from bpfpin.sets.live import reopen
from bpfpin.sets.place import DeviceState, device_state, name_of
from bpfpin.sets.reports import LeftoverKind
from bpfpin.sets.shared import links_elsewhere, map_ids


@dataclass(frozen=True, slots=True)
class LeftStage:
    """A directory `NAME~stage` that an interrupted command left.

    *foreign* says why it must be left alone, "" if recovery may complete it (*is_committed*), undo
    it, or remove it (*is_left_over*). *advice* says what to do about one that is not ours, as far
    as that is known.
    """

    name: str
    path: Path
    foreign: str = ""
    is_committed: bool = False
    is_left_over: bool = False
    advice: str = ""


def left_stages(root: Directory) -> list[LeftStage]:
    """Return all stages below *root* by name; while the lock is held no command builds one."""
    stages = []
    for entry in root.names():
        name = entry.removesuffix(names.STAGE_SUFFIX)
        # "" is a directory called `~stage`, which belongs to no set.
        if name not in ("", entry):
            stages.append(_look(root, entry, name))
    return stages


def staged_programs(stage: LeftStage) -> set[int]:
    """Return the ids of the programs of a stage of this user: hooks may run them already."""
    ids: set[int] = set()
    with suppress(BpfError), Directory.open(stage.path / names.PROGRAMS) as programs:
        for name in programs.names() if not stage.foreign else ():
            with suppress(BpfError), Program.from_pin(programs.path / name) as program:
                ids.add(program.id)
    return ids


def foreign_content(directory: Directory) -> str:
    """Describe a pin of others in a generation of a set, "" if there is none."""
    return "".join(_described(entry.path) for entry in foreign_entries(directory)[:1])


def _in_the_way(directory: Directory) -> str:
    """Describe an entry that keeps recovery from undoing a stage, "" if there is none.

    Where the stage records its own objects, recovery gives all other entries back to their owner.
    """
    if directory.has(names.OBJECTS):
        return ""
    foreign = [
        entry for entry in directory.names() if not _is_ours(entry, directory.stat(entry).st_mode)
    ]
    return "".join(map(_described, foreign[:1]))


def _unmade(directory: Directory) -> str:
    """Say why a stage with the mark of a change cannot be one, "" if it can."""
    try:
        read_manifest(directory)
    except UnsafePathError as error:
        return error.message
    return ""


def _described(entry: str) -> str:
    return f"it holds {entry!r}, which bpfpin does not make there"


def _look(root: Directory, entry: str, name: str) -> LeftStage:
    path = root.path / entry
    try:
        if reason := _foreign_name(root, entry, name):
            return LeftStage(name, path, reason)
        with root.child(entry) as directory:
            reason, is_done = _in_the_way(directory), is_committed(root, directory)
            is_marked = is_done or directory.has(names.ABORT)
            if not reason and is_marked and (unmade := _unmade(directory)):
                return LeftStage(name, path, unmade, advice=advice_on_foreign(path))
            is_rest = not is_done and is_left_over(root, name)
            return LeftStage(name, path, reason, is_committed=is_done, is_left_over=is_rest)
    except PinNotFoundError:
        # Only without the lock, in `status` or a dry run: the command that built it has finished.
        return LeftStage(name, path, "it is gone meanwhile")
    except BpfError as error:
        return LeftStage(name, path, str(error))


def _foreign_name(root: Directory, entry: str, name: str) -> str:
    status = root.stat(entry)
    if not stat.S_ISDIR(status.st_mode):
        return "it is not a directory"
    if not names.is_set_name(name):
        return "no set of ours has such a name"
    # Everybody may make directories in a bpffs of mode 1777. One of another user with our suffix
    # must not be completed or removed as root.
    if status.st_uid != os.geteuid():
        return f"it belongs to {user_name(status.st_uid)}"
    return unsafe_reason(status)


def _is_ours(entry: str, mode: int) -> bool:
    if stat.S_ISDIR(mode):
        return entry in names.PARTS | names.MARKS
    if stat.S_ISLNK(mode):
        return entry in names.TEXTS
    # Names of C have no `~`, so this is how a map's pin looks. All other names of ours are in the
    # lists above.
    return "~" not in entry


@dataclass(frozen=True, slots=True)
class LeftoverVerdict:
    """Whether a set is a leftover, and why or why not; a set in order has no reason."""

    is_leftover: bool
    reason: str = ""


def judge(root: Directory, pin_set: LoadedSet) -> LeftoverVerdict:
    """Return whether a set of this user is a leftover; the lock must be held after recovery."""
    manifest = pin_set.manifest
    by_hand = f"to remove it: {shell_line('bpfpin unload', names.display_name(pin_set.name))}"
    device = device_state(manifest.place)
    gone = f"{name_of(manifest.place)} is gone"
    # Somebody asked for these maps to be kept, so they stay, even without their device.
    if not manifest.hooks:
        why = "" if device is DeviceState.HERE else f"{gone}; "
        return LeftoverVerdict(False, f"{why}its maps were kept for the next load; {by_hand}")
    hooks = [look_at_hook(pin_set, record) for record in manifest.hooks]
    if not is_without_device(device, hooks):
        is_known = device is DeviceState.HERE or any(hook.is_attached for hook in hooks)
        return LeftoverVerdict(False, "" if is_known else f"{device.value}; {by_hand}")
    # The driver may have made the device anew, as after a reset. The next load finds the set by its
    # name, and keeps the counts.
    if device is DeviceState.ANOTHER:
        reason = f"{gone}, but another has its name: a load goes on with the maps; {by_hand}"
        return LeftoverVerdict(False, reason)
    # Last, since it lists all links of the host.
    if others := _others(root, pin_set):
        return LeftoverVerdict(False, f"{gone}, but {others}; {by_hand}")
    return LeftoverVerdict(True, gone)


def parts(pin_set: PinSet, used: Collection[str]) -> list[tuple[LeftoverKind, Path]]:
    """Return the parts of a set to remove: all of it, or all but the maps that are *used*."""
    if not used:
        return [(LeftoverKind.SET, pin_set.path)]
    maps = [path for name, path in pin_set.maps.items() if name not in used]
    return [
        *((LeftoverKind.LINK, path) for path in pin_set.links.values()),
        *((LeftoverKind.PROGRAM, path) for path in pin_set.programs.values()),
        *((LeftoverKind.MAP, path) for path in maps),
    ]


def remove_unused(root: Directory, pin_set: LoadedSet, used: Collection[str]) -> None:
    """Remove the set, or all of it but the maps that are *used*; the lock must be held."""
    given_up = map_ids(pin_set, [pin for pin in pin_set.outside if pin.map not in used])
    if used:
        _shrink(root, pin_set, used, given_up=given_up)
    else:
        remove(root, pin_set.name, reopen, given_up)


def _shrink(
    root: Directory,
    pin_set: LoadedSet,
    used: Collection[str],
    *,
    given_up: Mapping[OutsidePin, int],
) -> None:
    """Publish a generation that has the *used* maps alone, and give shared names up.

    Its manifest still names the hooks, so that a later `clean` removes the set once its maps are
    unused: nobody asked to keep it.
    """
    manifest = pin_set.manifest
    shared = map_ids(pin_set, [pin for pin in pin_set.outside if pin.map in used])
    # A shared name that holds another map by now is no longer the set's.
    kept_names = tuple(
        pin for pin, map_id in shared.items() if outside.holds(root.path, pin, map_id)
    )
    shrunk = dataclasses.replace(
        manifest, generation=manifest.generation + 1, time=int(time.time()), outside=kept_names
    )
    with next_generation(root, pin_set.name, reopen) as stage, root.child(pin_set.name) as old:
        for name in used:
            stage.keep_map(name, old)
            stage.keep_foldings(name, old)
        stage.write_manifest(shrunk)
        for pin, map_id in given_up.items():
            stage.unshare(pin, map_id)


def _others(root: Directory, pin_set: LoadedSet) -> str:
    """Return what of somebody else's keeps the set from being removed, "" for nothing."""
    with root.child(pin_set.name) as directory:
        if foreign := foreign_content(directory):
            return foreign
    unknown = set(pin_set.links) - {record.link for record in pin_set.hooks}
    if unknown:
        return f"no hook of it knows the links {', '.join(sorted(unknown))}"
    # A program that another link runs has effects although its own hook is gone.
    running = ", ".join(str(link.id) for link in links_elsewhere(pin_set))
    return f"its programs run by links of others: id {running}" if running else ""
