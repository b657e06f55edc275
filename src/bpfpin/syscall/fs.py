"""System calls on files, directories and mounts that `os` has no functions for."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
from enum import IntFlag
from pathlib import Path

from bpfpin.records import dataclass
from bpfpin.syscall.call import LIBC, checked, uninterrupted

AT_FDCWD = -100
BPFFS = "/sys/fs/bpf"  # the kernel makes this directory as a mount point
BPFFS_MAGIC = 0xCAFE4A11
CGROUP_MAGIC, CGROUP2_MAGIC = 0x27E0EB, 0x63677270  # linux/magic.h
MOUNTINFO = Path("/proc/self/mountinfo")
INIT_MOUNTINFO = Path("/proc/1/mountinfo")
LOCKS = Path("/proc/locks")
PID_NAMESPACE = Path("/proc/self/ns/pid")
FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of linux/proc_ns.h
# Called by number, because C libraries lack it; it is the same on all machines.
OPENAT2 = ctypes.c_long(437)
_OPEN = "/proc/self/fd/"
STATFS_SIZE = 256  # struct statfs takes 120 bytes; its first word is f_type


class Resolve(IntFlag):
    """Restrictions on how openat2(2) resolves a path (linux/openat2.h)."""

    NO_XDEV = 0x1
    NO_MAGICLINKS = 0x2
    NO_SYMLINKS = 0x4
    BENEATH = 0x8
    IN_ROOT = 0x10


class Rename(IntFlag):
    """Flags of renameat2(2) (linux/fs.h); bpffs takes EXCHANGE since Linux 5.16."""

    REPLACE = 0
    NOREPLACE = 0x1
    EXCHANGE = 0x2


_PROBE = "bpfpin~probe~"


def probe_names() -> tuple[str, str]:
    """Return the names of two directories to try an exchange with.

    They have the pid, so that two processes do not meet; `~` is in no name of a set.
    """
    first, second = (f"{_PROBE}{os.getpid()}~{number}" for number in (1, 2))
    return first, second


def is_stale_probe(name: str) -> bool:
    """Whether *name* is one of `probe_names` of a process that is gone."""
    pid, tilde, _ = name.removeprefix(_PROBE).partition("~")
    is_probe = name.startswith(_PROBE) and bool(tilde) and pid.isdecimal()
    return is_probe and not Path("/proc", pid).exists()


class MountFlag(IntFlag):
    """Flags of mount(2) for a file system without programs or devices."""

    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/PID/mountinfo (proc(5)); *device* is (major, minor).

    *id* is unique on the host. A mount made below a mount with a *peer_group* also appears in all
    other mounts of that group, including those of other mount namespaces; 0 means none
    (mount_namespaces(7)).
    """

    mount_point: str
    fs_type: str
    source: str
    root: str
    options: frozenset[str]
    device: tuple[int, int]
    peer_group: int = 0
    id: int = 0


class _OpenHow(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


_HOW_SIZE = ctypes.c_size_t(ctypes.sizeof(_OpenHow))


def openat2(
    path: str | Path, *, flags: int = os.O_PATH, resolve: Resolve, dir_fd: int = AT_FDCWD
) -> int:
    """Open *path* as far as *resolve* allows, and return a descriptor (openat2(2), Linux 5.6).

    `PinNotFoundError` if it is missing, `UnsafePathError` at a symbolic link (ELOOP) or if the path
    leaves the directory (EXDEV).
    """
    how = ctypes.byref(_OpenHow(flags | os.O_CLOEXEC, 0, resolve))
    raw = os.fsencode(path)
    answer = uninterrupted(lambda: LIBC.syscall(OPENAT2, dir_fd, raw, how, _HOW_SIZE))
    return answer if answer >= 0 else checked("openat2", answer, target=str(path))


def renameat2(
    old: str | Path,
    new: str | Path,
    *,
    flags: Rename = Rename.REPLACE,
    old_dir_fd: int = AT_FDCWD,
    new_dir_fd: int = AT_FDCWD,
) -> None:
    """Rename, or exchange two names, atomically (renameat2(2)).

    `PinNotFoundError` if a name is missing, `PinExistsError` if NOREPLACE meets a name,
    `NotSupportedError` if the file system does not know the flag (EINVAL).
    """
    names = (old_dir_fd, os.fsencode(old), new_dir_fd, os.fsencode(new))
    answer = uninterrupted(lambda: int(LIBC.renameat2(*names, ctypes.c_uint(flags))))
    checked("renameat2", answer, target=f"{old} -> {new}")


def shown_path(path: str | bytes | os.PathLike[str]) -> str:
    """Return a path for messages: `/proc/self/fd/N/NAME` by the path of the directory N."""
    text = os.fsdecode(path)
    head, _, name = text.removeprefix(_OPEN).partition("/")
    if not text.startswith(_OPEN) or not head.isdecimal():
        return text
    try:
        place = os.readlink(f"{_OPEN}{head}")  # noqa: PTH115
    except OSError:
        return text
    return f"{place}/{name}" if name else place


def is_bpffs(place: str | Path | int) -> bool:
    """Whether a path or descriptor is in a bpffs; `PinNotFoundError` if there is no such path."""
    return magic(place) == BPFFS_MAGIC


def bpffs_hint() -> str:
    """Return a hint for a path outside of any bpffs: where one is, or how to mount one."""
    try:
        if is_bpffs(BPFFS):
            return f"name a place in a bpffs: one is mounted at {BPFFS}"
    except OSError:
        pass
    return f"mount -t bpf bpf {BPFFS}"


def magic(place: str | Path | int) -> int:
    """Return the magic number of the file system of a path or descriptor (statfs(2))."""
    buffer = ctypes.create_string_buffer(STATFS_SIZE)
    if isinstance(place, int):
        answer = LIBC.fstatfs(place, buffer)
    else:
        answer = LIBC.statfs(os.fsencode(place), buffer)
    checked("statfs", answer, target=str(place))
    # f_type is a signed word, and 0xcafe4a11 has the top bit of its 32: only these count.
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF


def mount_bpffs(path: str | Path) -> None:
    """Mount a bpffs on the directory *path* (mount(2)); needs CAP_SYS_ADMIN.

    Its mode is 0700, as with systemd: the default of the kernel (1777) lets all users take names
    and make directories in it. bpffs silently ignores options that it does not know.
    """
    flags = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC
    data = b"mode=0700"
    answer = LIBC.mount(b"bpf", os.fsencode(path), b"bpf", ctypes.c_ulong(flags), data)
    checked("mount", answer, target=str(path))


def mounts(mountinfo: Path | None = None) -> list[Mount]:
    """Return the mounts of this process, or of another by its *mountinfo*, oldest first."""
    text = (mountinfo or MOUNTINFO).read_text(errors="surrogateescape")
    return [_mount(line) for line in text.splitlines()]


def mounts_of_init() -> list[Mount] | None:
    """Return the mounts of process 1; None in its mount namespace, or without permission.

    Each mount namespace has its own mounts with their own ids, so one common id means that it is
    the same namespace. In a container, process 1 is the init of the container.
    """
    try:
        of_init = mounts(INIT_MOUNTINFO)
    except OSError:  # /proc is mounted with hidepid, or not at all
        return None
    common = {mount.id for mount in of_init} & {mount.id for mount in mounts()}
    return None if common or not of_init else of_init


def _mount(line: str) -> Mount:
    """Read a line: `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/sda rw` (proc(5))."""
    # A space in a path is written as `\040`, so the first ` - ` ends the optional fields.
    mount, _, system = line.partition(" - ")
    mount_id, _, device, root, point, options, *tags = mount.split(" ")
    fs_type, source = system.split(" ")[:2]
    major, minor = device.split(":")
    flags = frozenset(options.split(","))
    places = (_unescape(point), fs_type, _unescape(source), _unescape(root))
    groups = [int(tag.removeprefix("shared:")) for tag in tags if tag.startswith("shared:")]
    numbers = ((int(major), int(minor)), sum(groups), int(mount_id))
    return Mount(*places, flags, *numbers)


def _unescape(text: str) -> str:
    r"""Decode `\040` to a space; the kernel encodes space, tab, newline and backslash in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def try_lock(fd: int) -> bool:
    """Take the exclusive flock(2) of an open file; False if it is taken.

    It ends when the last descriptor of this open file description is closed, at the latest with the
    last process that has it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(fd: int) -> None:
    """Take the exclusive flock(2) of an open file; blocks, in the order of asking."""
    fcntl.flock(fd, fcntl.LOCK_EX)


def unlock(fd: int) -> None:
    """Release the flock(2) of an open file."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def lock_holder(status: os.stat_result) -> int | None:
    """Return the pid that holds the flock of the file with *status*, None if nobody visible does.

    /proc/locks leaves out the locks of processes that have no pid in this pid namespace
    (locks_show() of fs/locks.c).
    """
    # Device numbers in hexadecimal, the inode in decimal (lock_get_status() of fs/locks.c).
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    lines = (line.split() for line in LOCKS.read_text().splitlines())
    # The line of a waiting process has an arrow (`->`) as its second field.
    return next((int(f[4]) for f in lines if f[1] == "FLOCK" and f[5] == device), None)


def is_locked(fd: int) -> bool:
    """Whether another process may hold the exclusive flock(2) of an open file, out of sight.

    False in the first pid namespace, where `lock_holder` sees all. Elsewhere the lock is tried,
    which may make a command fail that does not wait for it.
    """
    if PID_NAMESPACE.stat().st_ino == FIRST_PID_NAMESPACE:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    unlock(fd)
    return False
