"""Saves the state to a directory: the state file, the objects, and the contents of the maps."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from bpfpin.errors import (
    BpfError,
    NotSupportedError,
    ObjectNotFoundError,
    UnsafePathError,
)
from bpfpin.map.snapshot import save_map
from bpfpin.map.snapshot_file import new_file, resolved
from bpfpin.map_traits import traits_of
from bpfpin.objfile.reader import PREFIX
from bpfpin.pins import names
from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.directory import unsafe_reason
from bpfpin.pins.pinset import PinSet
from bpfpin.records import dataclass
from bpfpin.sets.apply.state import LoadedState, StateOfSet, loaded_state
from bpfpin.syscall import fs
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Descriptor

FILE: Final = "state.toml"
OBJECTS: Final = "objects"
MAPS: Final = "maps"
_OWN: Final = frozenset({FILE, OBJECTS, MAPS})
_PRIVATE: Final = 0o700
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TOKEN_BYTES: Final = 6
_TOKEN: Final = re.compile(f"[0-9a-f]{{{2 * _TOKEN_BYTES}}}")


@dataclass(frozen=True)
class SavedState:
    """A state that was saved.

    Attributes:
        file: The state file, which `apply` reads.
        state: What it has.
        objects: The number of objects beside it.
        snapshots: The number of maps whose contents are beside it.
    """

    file: Path
    state: LoadedState
    objects: int = 0
    snapshots: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {
            "result": "saved",
            "file": str(self.file),
            "objects": self.objects,
            "snapshots": self.snapshots,
            **self.state.to_json(),
        }


def save_state(directory: str | Path, *, pin_root: str | Path = BPFFS) -> SavedState:
    """Save what is loaded, with copies of the objects and the contents of the maps.

    The directory exists as a whole or not at all: a new one is written beside it (mode 0700) and
    put in its place at once; what was there before is removed then. Entries that change meanwhile
    are saved as they are when they are read.

    Args:
        directory: The directory; it does not exist, is empty, or has a state that was saved before.
        pin_root: Directory of bpffs that holds the sets; `/sys/fs/bpf` by default.

    Returns:
        The state file, and what was saved.

    Raises:
        UnsafePathError: Another user could change the directory, or it has other files.
        ObjectNotFoundError: The directory that it is to be made in does not exist.
        NotSupportedError: The file system cannot exchange two directories at once.
        BpfError: It cannot be written, such as on a full disk; nothing was changed.

    Kernel: renameat2(2) with RENAME_EXCHANGE if the directory exists already.
    """
    target = Path(directory).absolute()
    target = resolved(target.parent) / target.name
    _require_safe(target)
    state = loaded_state(pin_root=pin_root)
    made = target.with_name(f"{_prefix(target)}{secrets.token_hex(_TOKEN_BYTES)}")
    try:
        _remove_leftovers(target)
        _made(made)
        # While the lock is held, no other command takes the directory for a leftover.
        with Descriptor(os.open(made, _DIRECTORY)) as lock:
            fs.lock(lock.fileno())
            saved = _Saving(made).saved(state)
            _published(made, target)
    except OSError as error:
        raise _as_ours(error, target) from None
    finally:
        # After an error what was written; after an exchange the state before.
        shutil.rmtree(made, ignore_errors=True)
    return SavedState(target / FILE, saved.state, saved.objects, saved.snapshots)


def _prefix(target: Path) -> str:
    return f".{target.name[:200]}."


def _remove_leftovers(target: Path) -> None:
    """Remove what commands that were killed left beside the directory."""
    prefix = _prefix(target)
    for path in target.parent.iterdir():
        token = path.name.removeprefix(prefix)
        is_ours = path.name.startswith(prefix) and _TOKEN.fullmatch(token) is not None
        if not is_ours or path.is_symlink() or path.lstat().st_uid != os.geteuid():
            continue
        with suppress(OSError), Descriptor(os.open(path, _DIRECTORY)) as leftover:
            if fs.try_lock(leftover.fileno()):
                shutil.rmtree(path, ignore_errors=True)


def _require_safe(target: Path) -> None:
    """Raise an error for a directory that another user could change, or that has other files."""
    if not target.parent.is_dir():
        raise ObjectNotFoundError("no such directory", path=str(target.parent))
    for path, is_sticky_enough in ((target.parent, True), (target, False)):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            raise UnsafePathError(f"{path} is not a directory", path=str(path))
        if reason := unsafe_reason(status, is_sticky_enough=is_sticky_enough):
            raise UnsafePathError(
                f"{path} is not safe for a state: {reason}",
                path=str(path),
                hint="choose a directory that only root may write, such as /var/lib/bpfpin",
            )
    if target.is_dir() and (others := sorted(set(os.listdir(target)) - _OWN)):  # noqa: PTH208
        raise UnsafePathError(
            f"{target} has files that are no saved state, which would be removed:"
            f" {', '.join(others[:5])}",
            path=str(target),
            hint="choose another directory",
        )


def _made(path: Path) -> None:
    # Not by `mkdir(parents=…)`, whose mode is less the umask: 0700 has nothing that a usual one
    # takes away, and chmod makes it certain.
    path.mkdir(_PRIVATE)
    path.chmod(_PRIVATE)


def _published(made: Path, target: Path) -> None:
    _synced(made)
    if target.exists():
        try:
            fs.renameat2(made, target, flags=fs.Rename.EXCHANGE)
        except NotSupportedError as error:
            error.message = f"{target}: its file system cannot exchange two directories at once"
            error.hint = "choose a directory that does not exist, or another file system"
            raise
    else:
        fs.renameat2(made, target, flags=fs.Rename.NOREPLACE)
    _synced(target.parent)


def _synced(directory: Path) -> None:
    """Make the names in a directory durable."""
    with Descriptor(os.open(directory, _DIRECTORY)) as opened:
        os.fsync(opened.fileno())


def _as_ours(error: OSError, target: Path) -> BpfError:
    if isinstance(error, BpfError):
        return error
    return syscall_error("write", error.errno or 0, target=str(target))


class _Saving:
    """Writes a state into a new directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._objects: set[str] = set()
        self._snapshots = 0

    def saved(self, state: LoadedState) -> SavedState:
        """Write objects and maps, then the state file that names them."""
        for name in (OBJECTS, MAPS):
            _made(self._directory / name)
        sets = tuple(self._saved_set(each) if each.keys else each for each in state.sets)
        complete = LoadedState(state.pin_root, sets)
        with new_file(self._directory / FILE) as file:
            file.write(complete.to_toml().encode())
        for name in (OBJECTS, MAPS):
            _synced(self._directory / name)
        return SavedState(self._directory / FILE, complete, len(self._objects), self._snapshots)

    def _saved_set(self, each: StateOfSet) -> StateOfSet:
        keys, problems = dict(each.keys), list(each.problems)
        source = keys["object"]
        if not source.startswith(PREFIX):
            name = f"{OBJECTS}/{keys['sha256']}.bpf.o"
            if self._has_object(Path(source), keys["sha256"], name):
                # Its name was that of the set, where nothing else gave it one.
                if not ("device" in keys or "cgroup" in keys):
                    keys.setdefault("name", each.set)
                keys["object"] = name
        maps = {name: dict(wanted) for name, wanted in keys.get("maps", {}).items()}
        with suppress(BpfError):
            pin_set = PinSet.read(each.path.parent, each.path.name)
            for name in each.maps:
                if snapshot := self._snapshot(pin_set, name, problems):
                    maps.setdefault(name, {})["snapshot"] = snapshot
        keys |= {"maps": maps} if maps else {}
        return StateOfSet(each.set, each.path, keys, tuple(problems), each.maps)

    def _has_object(self, path: Path, sha256: str, name: str) -> bool:
        """Copy an object, if it is still the one that is loaded."""
        import hashlib  # noqa: PLC0415 - only for objects of files

        try:
            data = path.read_bytes()
        except OSError:  # `loaded_state` has said that it cannot be read
            return False
        if hashlib.sha256(data).hexdigest() != sha256:
            return False
        if sha256 not in self._objects:
            with new_file(self._directory / name) as file:
                file.write(data)
            self._objects.add(sha256)
        return True

    def _snapshot(self, pin_set: PinSet, name: str, problems: list[str]) -> str:
        """Save the contents of a map; return the path below the directory, "" for none."""
        bpf_map = pin_set.open_map(name, read_only=True)
        if bpf_map is None:
            problems.append(f"map {name} is gone: its contents are not saved")
            return ""
        with bpf_map:
            # Ring buffers and the like have no entries, and maps of maps are made by the object.
            if not traits_of(bpf_map.type).is_plain_data:
                return ""
            folder = self._directory / MAPS / pin_set.name
            folder.mkdir(_PRIVATE, exist_ok=True)
            path = f"{MAPS}/{pin_set.name}/{names.map_pin_name(name)}.snapshot"
            save_map(bpf_map, self._directory / path)
            self._snapshots += 1
        return path
