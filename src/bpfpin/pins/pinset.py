"""A pin set as it is found in bpffs; reading one changes nothing and takes no lock."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, Self

from bpfpin.errors import BpfError, PermissionDeniedError, PinNotFoundError, UnsafePathError
from bpfpin.pins import lock, names
from bpfpin.pins.directory import OTHERS_WRITE, Directory, Kind, user_name
from bpfpin.pins.manifest import Manifest

# How often a directory may be exchanged under a reader before it gives up.
_ATTEMPTS: Final = 20


class SetState(Enum):
    """How a set is found."""

    OK = "ok"
    DEFUNCT = "defunct"  # its device or cgroup is gone
    HALF_BUILT = "half-built"  # a command that changed it died, or is at it
    FOREIGN = "foreign"  # not ours, or its manifest is damaged


@dataclass(frozen=True)
class PinSet:
    """One directory of the pin root and what is pinned in it, by map, program and link name.

    *manifest* is None unless the directory is ours; *reason* says why the state is not `OK`. What
    this user may not read is foreign and not `is_readable`.
    """

    path: Path
    state: SetState
    reason: str = ""
    manifest: Manifest | None = None
    maps: Mapping[str, Path] = field(default_factory=dict)
    programs: Mapping[str, Path] = field(default_factory=dict)
    links: Mapping[str, Path] = field(default_factory=dict)
    is_readable: bool = True

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @classmethod
    def read(cls, root: Path, name: str) -> Self:
        """Read set *name*; `PinNotFoundError` if there is neither a set nor a stage of one.

        A directory that is somebody else's comes back as `FOREIGN`, with its owner in *reason*.
        """
        with Directory.open(root) as directory:
            for _ in range(_ATTEMPTS):
                found = cls._read_once(directory, name)
                if found is not None:
                    return found
        raise PinNotFoundError(f"{root / name}: the set changes faster than it can be read")

    @classmethod
    def _read_once(cls, root: Directory, name: str) -> Self | None:
        """Return the set, or None if it was exchanged while it was read."""
        path = root.path / name
        unfinished = _unfinished(root, name)
        try:
            with root.child(name) as directory:
                found = cls._of(directory, path, unfinished)
                return found if _is_still(root, name, directory) else None
        except PermissionDeniedError:
            return cls._unreadable(root, path)
        except UnsafePathError:
            return cls(path, SetState.FOREIGN, "it is a symlink")
        except PinNotFoundError:
            return cls._without_directory(root, path, unfinished)

    @classmethod
    def _unreadable(cls, root: Directory, path: Path) -> Self:
        owner, user = user_name(root.stat(path.name).st_uid), user_name(os.geteuid())
        reason = f"it may not be read by {user}, it belongs to {owner}"
        return cls(path, SetState.FOREIGN, reason, is_readable=False)

    @classmethod
    def _without_directory(cls, root: Directory, path: Path, unfinished: str) -> Self | None:
        if root.has(path.name):
            mode = root.stat(path.name).st_mode
            what = "a symlink" if stat.S_ISLNK(mode) else "no directory"
            is_directory = stat.S_ISDIR(mode)
            return None if is_directory else cls(path, SetState.FOREIGN, f"it is {what}")
        if unfinished:
            return cls(path, SetState.HALF_BUILT, unfinished)
        raise PinNotFoundError(f"there is no pin set {path}", path=str(path))

    @classmethod
    def _of(cls, directory: Directory, path: Path, unfinished: str) -> Self:
        try:
            manifest = read_manifest(directory)
        except UnsafePathError as error:
            return cls(path, SetState.FOREIGN, error.message)
        return cls(
            path,
            SetState.HALF_BUILT if unfinished else SetState.OK,
            unfinished,
            manifest,
            maps=_pins(directory, path),
            programs=_pins_below(directory, names.PROGRAMS),
            links=_pins_below(directory, names.LINKS, name_of=str),
        )


def pin_sets(root: Path) -> list[PinSet]:
    """Return all sets below *root*, foreign and half-built ones too, by name."""
    with Directory.open(root) as directory:
        candidates = {
            entry.removesuffix(names.STAGE_SUFFIX)
            for entry in directory.names()
            if _may_be_set(directory, entry)
        }
    found: list[PinSet] = []
    for name in sorted(candidates):
        with suppress(PinNotFoundError):  # unloaded meanwhile
            found.append(PinSet.read(root, name))
    return found


def read_manifest(directory: Directory) -> Manifest:
    """Return the manifest of a set that is ours; `UnsafePathError` says why one is not."""
    status = directory.status
    if status.st_uid != os.geteuid():
        raise _foreign(f"it belongs to {user_name(status.st_uid)}")
    if status.st_mode & OTHERS_WRITE:
        raise _foreign(f"others may write it (mode {stat.S_IMODE(status.st_mode):04o})")
    try:
        entry = directory.stat(names.MANIFEST)
    except PinNotFoundError:
        raise _foreign("it has no manifest, so bpfpin did not make it") from None
    if not stat.S_ISLNK(entry.st_mode) or entry.st_uid != os.geteuid():
        raise _foreign("its manifest is not one of ours")
    try:
        return Manifest.parse(directory.read_text(names.MANIFEST))
    except ValueError as error:
        raise _foreign(f"its manifest is damaged: {error}") from None


def _foreign(reason: str) -> UnsafePathError:
    return UnsafePathError(reason)


def _may_be_set(root: Directory, entry: str) -> bool:
    name = entry.removesuffix(names.STAGE_SUFFIX)
    if not names.is_set_name(name):
        return False
    if entry != name:
        return True
    try:
        if not stat.S_ISDIR(root.stat(entry).st_mode):
            return False
        with root.child(entry) as directory:
            return directory.has(names.MANIFEST)
    except PermissionDeniedError:
        return True
    except BpfError:
        return False


def _unfinished(root: Directory, name: str) -> str:
    """Return what there is to say of a stage or a mark of the set, "" if there is none."""
    if not root.has(names.stage_name(name)) and not _is_marked(root, name):
        return ""
    is_folding = _is_marked(root, names.stage_name(name), names.FOLDING)
    pid = lock.holder(root)
    if pid:
        return f"process {pid} is {'migrating its maps' if is_folding else 'changing it'}"
    when = " while it migrated maps, whose contents are in two places" if is_folding else ""
    return f"half-built by a dead process{when}; the next load or unload of it finishes that"


def _is_marked(root: Directory, name: str, mark: str = names.COMMIT) -> bool:
    unreadable = (PinNotFoundError, PermissionDeniedError, UnsafePathError)
    with suppress(*unreadable), root.child(name) as directory:
        return directory.has(mark)
    return False


def _is_still(root: Directory, name: str, directory: Directory) -> bool:
    return root.stat(name).st_ino == directory.status.st_ino


def _pins(
    directory: Directory, path: Path, name_of: Callable[[str], str] = names.decode
) -> dict[str, Path]:
    return {
        name_of(entry): path / entry
        for entry, kind in directory.kinds().items()
        if kind is Kind.PIN
    }


def _pins_below(
    directory: Directory, folder: str, name_of: Callable[[str], str] = names.decode
) -> dict[str, Path]:
    if not directory.has(folder):
        return {}
    with directory.child(folder) as below:
        return _pins(below, below.path, name_of)
