"""The pin root: checks that it is in a bpffs that lasts, and mounts one if there is none."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path, PurePath
from typing import Final

from bpfpin.errors import NotBpffsError, PinNotFoundError, PrivateMountError, UnsafePathError
from bpfpin.hints import Argument, Fix, Placeholder, shell_line
from bpfpin.pins.directory import Directory, require_safe
from bpfpin.syscall import fs
from bpfpin.syscall.fs import Mount

# The kernel makes this directory as a mount point (bpf_init() of kernel/bpf/inode.c).
BPFFS: Final = Path("/sys/fs/bpf")
PRIVATE_MOUNT: Final = "BPFPIN_PRIVATE_MOUNT"
PRIVATE_FIX: Final = Fix.of(
    "run it in the host's mount namespace (nsenter --mount=/proc/1/ns/mnt bpfpin …), in a systemd"
    " unit without PrivateMounts=, PrivateTmp=, ProtectSystem= and the like, in a container with"
    f" the host's {BPFFS} mounted; or, if it is meant: ",
    Argument("private_mount"),
    f", or {PRIVATE_MOUNT}=1",
)
_SYS: Final = "/sys"
_BPF: Final = "bpf"


class RootState(Enum):
    """The state of the path of a pin root."""

    MOUNTED = "a directory of a bpffs"
    ABSENT = "no bpffs is mounted there yet"
    HIDDEN = "/sys was mounted again, which hides the bpffs"
    OTHER = "not a bpffs"
    MISSING = "nothing"


def inspect(root: Path) -> RootState:
    """Return the state of *root*; changes nothing and needs no privilege."""
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
    """Raise `NotBpffsError` with a hint unless *root* is in a bpffs."""
    state = inspect(root)
    if state is not RootState.MOUNTED:
        raise _not_bpffs(root, state)


def ensure(root: Path) -> None:
    """Mount a bpffs on *root* if that is the kernel's mount point for one and nothing is mounted.

    Only `load` and `demo` call this. Any other path outside of a bpffs is a `NotBpffsError`:
    somebody wants it so, or the command runs inside of `ip netns exec`, where nobody else would see
    the mount.
    """
    # Never over another bpffs: a second mount would hide the pins of everybody else.
    if inspect(root) is RootState.ABSENT:
        fs.mount_bpffs(root)
    require(root)


def require_lasting(root: Path) -> None:
    """Raise `PrivateMountError` if pins below *root* would end with this mount namespace.

    A service with private mounts, a container or `unshare --mount` may have a bpffs of its own: its
    pins disappear when the last process of the namespace ends, and nobody else sees them. The
    environment variable `BPFPIN_PRIVATE_MOUNT=1` allows it.
    """
    reason = private_reason(root)
    if reason and not is_private_allowed():
        raise PrivateMountError(
            f"{root}: {reason}; pins there would be gone when the last process in it ends",
            path=str(root),
            hint=PRIVATE_FIX,
        )


def is_private_allowed() -> bool:
    """Whether the environment allows pins that end with this mount namespace."""
    return os.environ.get(PRIVATE_MOUNT) == "1"


def private_reason(root: Path) -> str:
    """Return why only this mount namespace sees a bpffs at *root*, "" if others see it too.

    Process 1 stands for the host. Either it sees the same bpffs (the same device number, at any
    mount point), or a mount made here would propagate to it (the same peer group, see
    mount_namespaces(7)).
    """
    firsts = fs.mounts_of_init()
    if firsts is None:
        return ""
    state = inspect(root)
    if state is RootState.MOUNTED:
        number = root.stat().st_dev
        device = os.major(number), os.minor(number)
        # All mounts of one bpffs have its device number; each new bpffs gets another one.
        is_seen = any(m.device == device and m.fs_type == _BPF for m in firsts)
        return "" if is_seen else "this bpffs is mounted in this process's mount namespace alone"
    if state is not RootState.ABSENT:
        return ""  # refused for another reason
    group = _mount_of(root, fs.mounts()).peer_group
    is_seen = bool(group) and any(mount.peer_group == group for mount in firsts)
    return "" if is_seen else "a bpffs would be mounted in this process's mount namespace alone"


def open_to_change(root: Path) -> Directory:
    """Open the pin root; `UnsafePathError` if another user could replace entries in it."""
    require(root)
    directory = Directory.open(root)
    try:
        # The kernel gives the root of a bpffs the mode 1777 by default (bpf_fill_super() of
        # kernel/bpf/inode.c). With the sticky bit others can add names, but not take ours away.
        require_safe(directory, is_sticky_enough=True)
        # Asked now: otherwise the first refusal (EROFS) would come in the middle of a change.
        _require_writable(directory)
    except BaseException:
        directory.close()
        raise
    return directory


def _require_writable(root: Directory) -> None:
    if os.fstatvfs(root.fileno()).f_flag & os.ST_RDONLY:
        point = _mount_of(root.path, fs.mounts()).mount_point
        raise UnsafePathError(
            f"{root.path} is in a bpffs that is mounted read-only: nothing can be changed there",
            path=str(root.path),
            hint=shell_line("mount -o remount,rw", point),
        )


def _mount_of(path: Path, mounts: list[Mount]) -> Mount:
    """Return the mount of *path*: the last one at the longest mount point, hiding the others."""
    covering = [m for m in mounts if PurePath(path).is_relative_to(m.mount_point)]
    longest = max(len(mount.mount_point) for mount in covering)
    return [mount for mount in covering if len(mount.mount_point) == longest][-1]


def _hiding_namespace(mounts: list[Mount]) -> str | None:
    """Return the namespace of the `ip netns exec` around us, "" if unnamed, None outside of one.

    `ip netns exec` unmounts /sys with everything below it, and mounts a new sysfs whose source is
    the name of the namespace (lib/namespace.c of iproute2).
    """
    if any(mount.mount_point.startswith(f"{_SYS}/") for mount in mounts):
        return None
    source = [mount.source for mount in mounts if mount.mount_point == _SYS][-1]
    return "" if source in ("sysfs", "none") else source


def _not_bpffs(root: Path, state: RootState) -> NotBpffsError:
    mount_line = f"mount -t bpf bpf {BPFFS}"
    if state is RootState.HIDDEN:
        name = _hiding_namespace(fs.mounts()) or Placeholder("NAME")
        return NotBpffsError(
            f"{root} is not a bpffs: {state.value}, as `ip netns exec` does",
            path=str(root),
            hint=Fix.of(
                "run bpfpin outside of `ip netns exec`, with ",
                Argument("netns", name),
                f"; or: {mount_line}",
            ),
        )
    if state is RootState.MISSING:
        return NotBpffsError(
            f"there is no pin root {root}",
            path=str(root),
            hint=f"mkdir {root}" if _is_in_bpffs(root.parent) else fs.bpffs_hint(),
        )
    mount = _mount_of(root, fs.mounts())
    return NotBpffsError(
        f"{root} is not in a bpffs: it is on a {mount.fs_type}"
        f" ({mount.source} at {mount.mount_point})",
        path=str(root),
        hint=mount_line if root == BPFFS else fs.bpffs_hint(),
    )


def _is_in_bpffs(place: Path) -> bool:
    try:
        return fs.is_bpffs(place)
    except PinNotFoundError:
        return False
