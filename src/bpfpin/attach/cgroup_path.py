"""Cgroups by their folders, in the hierarchy of version 2: only there programs are attached."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bpfpin.errors import BpfError, CgroupNotFoundError
from bpfpin.syscall import fs
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Descriptor

_USUAL = Path("/sys/fs/cgroup")
_MOUNT = "mount -t cgroup2 none"


def cgroup2_mount() -> Path:
    """Return the mount point of the cgroup2 hierarchy (/proc/self/mountinfo).

    Of several mounts it is the first one of the whole hierarchy, which the system made.
    `CgroupNotFoundError` if there is none.
    """
    # Not always /sys/fs/cgroup: with version 1 beside it, systemd mounts /sys/fs/cgroup/unified.
    mounts = fs.mounts()
    seen = [mount for mount in mounts if mount.fs_type == "cgroup2" and _is_seen(mount.mount_point)]
    # A bind mount, as in a container, may show a part of the hierarchy only.
    whole = [mount for mount in seen if mount.root == "/"]
    if seen:
        return Path((whole or seen)[0].mount_point)
    raise CgroupNotFoundError("no cgroup2 is mounted", hint=f"mount one: {_mount_line(mounts)}")


def _mount_line(mounts: Sequence[fs.Mount]) -> str:
    # Version 1 has folders in a tmpfs at the usual place, and version 2 gets one beside them.
    if any(Path(mount.mount_point) == _USUAL for mount in mounts):
        beside = _USUAL / "unified"
        return f"mkdir -p {beside} && {_MOUNT} {beside}"
    return f"{_MOUNT} {_USUAL}"


def open_cgroup(path: str | Path) -> Descriptor:
    """Open the folder of a cgroup; *path* is absolute, or relative to `cgroup2_mount`.

    `CgroupNotFoundError` if the folder is not a cgroup, or a cgroup of version 1; the hint has the
    path of version 2 to type.
    """
    whole = Path(path) if Path(path).is_absolute() else cgroup2_mount() / path
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        opened = Descriptor(os.open(whole, flags))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise _not_found(whole) from None
    except OSError as error:
        raise syscall_error("open", error.errno or 0, target=str(whole)) from None
    # Asked of the descriptor, so that it is the folder that is used. Attaching to a folder of
    # version 1 is refused with EBADF, which says nothing of versions.
    kind = fs.magic(opened.fileno())
    if kind == fs.CGROUP2_MAGIC:
        return opened
    opened.close()
    raise _version_1(whole) if kind == fs.CGROUP_MAGIC else _not_found(whole)


def _is_seen(mount_point: str) -> bool:
    """Whether no other mount hides it."""
    try:
        return fs.magic(mount_point) == fs.CGROUP2_MAGIC
    except BpfError:
        return False


def _not_found(path: Path) -> CgroupNotFoundError:
    mount = cgroup2_mount()
    message = f"{path} is not a cgroup" if path.is_dir() else f"there is no cgroup {path}"
    below = mount / str(path).lstrip("/")
    if below.is_dir():
        return CgroupNotFoundError(message, hint=f"did you mean {below}?")
    hint = f"cgroups are the folders below {mount}; a new one: mkdir {mount}/NAME"
    return CgroupNotFoundError(message, hint=hint)


def _version_1(path: Path) -> CgroupNotFoundError:
    """Return the error for a cgroup of version 1; its hint has the folder of the same name."""
    mount = cgroup2_mount()
    tops = [Path(entry.mount_point) for entry in fs.mounts() if entry.fs_type == "cgroup"]
    inner = next((path.relative_to(top) for top in tops if path.is_relative_to(top)), Path())
    same = mount / inner
    hint = f"type {same}" if same.is_dir() else f"make one: mkdir -p {same}"
    return CgroupNotFoundError(
        f"{path} is a cgroup of version 1, where no program can be attached;"
        f" those of version 2 are below {mount}",
        hint=f"{hint}; where a process is: grep ^0:: /proc/PID/cgroup",
    )
