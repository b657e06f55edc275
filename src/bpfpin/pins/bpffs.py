"""The pin root: whether it is a bpffs, what is there else, and mounting one where none is."""

from __future__ import annotations

from enum import Enum
from pathlib import Path, PurePath
from typing import Final

from bpfpin.errors import NotBpffsError, PinNotFoundError
from bpfpin.pins.directory import Directory, require_safe
from bpfpin.syscall import fs
from bpfpin.syscall.fs import Mount

BPFFS: Final = Path("/sys/fs/bpf")  # the directory that the kernel makes for it
_SYS: Final = "/sys"


class RootState(Enum):
    """What is found at a pin root."""

    MOUNTED = "a directory of a bpffs"
    ABSENT = "no bpffs is mounted there yet"
    HIDDEN = "/sys was mounted anew, which hides the bpffs"
    OTHER = "something else than a bpffs"
    MISSING = "nothing"


def inspect(root: Path) -> RootState:
    """Say what is at *root*; changes nothing, needs no privilege."""
    try:
        if fs.is_bpffs(root):
            return RootState.MOUNTED
    except PinNotFoundError:
        return RootState.MISSING
    mounts = fs.mounts()
    if root != BPFFS or _mount_of(root, mounts).fs_type != "sysfs":
        return RootState.OTHER
    return RootState.HIDDEN if _hiding_namespace(mounts) is not None else RootState.ABSENT


def require(root: Path) -> None:
    """Raise `NotBpffsError` with what to do unless *root* is in a bpffs."""
    state = inspect(root)
    if state is not RootState.MOUNTED:
        raise _not_bpffs(root, state)


def ensure(root: Path) -> None:
    """Mount a bpffs if *root* is the kernel's place for one and it is bare; for `load` and `demo`.

    Anything else that is no bpffs is a `NotBpffsError`: somebody meant it to be so, or we are
    inside `ip netns exec`, where a mount would not be seen by anybody else.
    """
    if inspect(root) is RootState.ABSENT:
        fs.mount_bpffs(root)
    require(root)


def open_to_change(root: Path) -> Directory:
    """Open the pin root; `UnsafePathError` if somebody else could swap what we make in it."""
    require(root)
    directory = Directory.open(root)
    try:
        require_safe(directory, is_sticky_enough=True)
    except BaseException:
        directory.close()
        raise
    return directory


def _mount_of(path: Path, mounts: list[Mount]) -> Mount:
    """Return the mount that *path* is on: of the longest mount points the last one."""
    covering = [m for m in mounts if PurePath(path).is_relative_to(m.mount_point)]
    longest = max(len(mount.mount_point) for mount in covering)
    return [mount for mount in covering if len(mount.mount_point) == longest][-1]


def _hiding_namespace(mounts: list[Mount]) -> str | None:
    """Return the namespace whose `ip netns exec` we are in ("" if unnamed), None for a whole /sys.

    `ip netns exec` takes /sys and all that is mounted below it away, and mounts a new one with the
    namespace's name as its source.
    """
    if any(mount.mount_point.startswith(f"{_SYS}/") for mount in mounts):
        return None
    source = [mount.source for mount in mounts if mount.mount_point == _SYS][-1]
    return "" if source in ("sysfs", "none") else source


def _not_bpffs(root: Path, state: RootState) -> NotBpffsError:
    mount_line = f"mount -t bpf bpf {root}"
    if state is RootState.HIDDEN:
        name = _hiding_namespace(fs.mounts()) or "NAME"
        return NotBpffsError(
            f"{root} is no bpffs: {state.value}, as `ip netns exec` does",
            path=str(root),
            hint=f"run bpfpin outside of `ip netns exec`, with -n {name}; or: {mount_line}",
        )
    if state is RootState.MISSING:
        return NotBpffsError(
            f"there is no pin root {root}",
            path=str(root),
            hint=f"make the directory in a bpffs (mkdir {root}), or: {mount_line}",
        )
    there = _mount_of(root, fs.mounts())
    return NotBpffsError(
        f"{root} is no bpffs: it is on a {there.fs_type} ({there.source} at {there.mount_point})",
        path=str(root),
        hint=mount_line,
    )
