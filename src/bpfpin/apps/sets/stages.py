"""What commands that died have left beside the sets, and whether it is ours to undo or finish."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bpfpin.errors import BpfError, PinNotFoundError
from bpfpin.objects.program import Program
from bpfpin.pins import names
from bpfpin.pins.directory import Directory, unsafe_reason, user_name
from bpfpin.pins.ownership import foreign_entries
from bpfpin.pins.targets import is_committed


@dataclass(frozen=True, slots=True)
class LeftStage:
    """A directory `NAME~stage`; *foreign* says why it is not ours, *is_committed* how it ends."""

    name: str
    path: Path
    foreign: str = ""
    is_committed: bool = False


def left_stages(root: Directory) -> list[LeftStage]:
    """Return all stages below *root* by name; while the lock is held nobody is at one of them."""
    found = []
    for entry in root.names():
        name = entry.removesuffix(names.STAGE_SUFFIX)
        if name not in ("", entry):
            found.append(_look(root, entry, name))
    return found


def staged_programs(stage: LeftStage) -> set[int]:
    """Return the ids of the programs of a stage that is ours: hooks may run them already."""
    found: set[int] = set()
    with suppress(BpfError), Directory.open(stage.path / names.PROGRAMS) as programs:
        for name in programs.names() if not stage.foreign else ():
            with suppress(BpfError), Program.from_pin(programs.path / name) as program:
                found.add(program.id)
    return found


def foreign_content(directory: Directory) -> str:
    """Return what in a generation of a set is not of our making, "" if nothing is."""
    return "".join(_told(entry.path) for entry in foreign_entries(directory)[:1])


def _in_the_way(directory: Directory) -> str:
    """Return what keeps a stage from being ours to undo, "" if nothing does.

    Where it is written down what is ours, all else is given back to its owner.
    """
    if directory.has(names.OBJECTS):
        return ""
    foreign = (one for one in directory.names() if not _is_ours(one, directory.stat(one).st_mode))
    return "".join(map(_told, list(foreign)[:1]))


def _told(entry: str) -> str:
    return f"it holds {entry!r}, which bpfpin does not make there"


def _look(root: Directory, entry: str, name: str) -> LeftStage:
    path = root.path / entry
    try:
        if reason := _foreign_name(root, entry, name):
            return LeftStage(name, path, reason)
        with root.child(entry) as directory:
            reason = _in_the_way(directory)
            return LeftStage(name, path, reason, is_committed=is_committed(root, directory))
    except PinNotFoundError:
        return LeftStage(name, path, "it is gone meanwhile")
    except BpfError as error:
        return LeftStage(name, path, str(error))


def _foreign_name(root: Directory, entry: str, name: str) -> str:
    status = root.stat(entry)
    if not stat.S_ISDIR(status.st_mode):
        return "it is no directory"
    if not names.is_set_name(name):
        return "no set of ours has such a name"
    if status.st_uid != os.geteuid():
        return f"it belongs to {user_name(status.st_uid)}"
    return unsafe_reason(status)


def _is_ours(entry: str, mode: int) -> bool:
    if stat.S_ISDIR(mode):
        return entry in names.PARTS | names.MARKS
    if stat.S_ISLNK(mode):
        return entry in names.TEXTS
    return "~" not in entry
