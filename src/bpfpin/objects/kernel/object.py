"""What maps, programs and links share: a descriptor, an id, pins."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import ClassVar, Final, Self, TypeVar

from bpfpin.errors import (
    NotBpffsError,
    PermissionDeniedError,
    PinError,
    PinKindError,
    PinNameError,
    PinNotFoundError,
    SyscallError,
    UnsafePathError,
)
from bpfpin.syscall import bpf, fs
from bpfpin.syscall.attr import u32
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Closing, Descriptor
from bpfpin.uapi import ObjectFlag

# About one RCU grace period: 8 ms on an idle machine (measured), 16 to 24 ms on a busy one.
_LOOK_AGAIN_S: Final = 0.01

T = TypeVar("T")

# How often opening a path is tried. A publication exchanges the directory by one rename, so a path
# walk that was in the old directory may miss the name once.
RENAMED_UNDER_US = 3


class ObjectKind(Enum):
    """Kinds of kernel objects, by the target of their link in /proc/self/fd."""

    MAP = "anon_inode:bpf-map"
    PROGRAM = "anon_inode:bpf-prog"
    LINK = "anon_inode:bpf-link"
    BTF = "anon_inode:btf"

    def __str__(self) -> str:
        return self.name if self is ObjectKind.BTF else self.name.lower()


OPEN_BY_ID: dict[ObjectKind, Callable[[int], int]] = {
    ObjectKind.MAP: bpf.map_get_fd_by_id,
    ObjectKind.PROGRAM: bpf.prog_get_fd_by_id,
    ObjectKind.LINK: bpf.link_get_fd_by_id,
    ObjectKind.BTF: bpf.btf_get_fd_by_id,
}


def wait_until_freed(
    look: Callable[[], T], is_settled: Callable[[T], bool], *, timeout_s: float
) -> T:
    """Call *look* until *is_settled* accepts its answer, for *timeout_s* at most; return the last.

    The kernel frees an object some time after its last reference is dropped; until then it is
    listed and can be opened by id (kernel/bpf/syscall.c: bpf_link_put() and bpf_map_put() queue
    work, bpf_prog_put() waits for an RCU grace period). *look* must not keep the object open.
    """
    deadline = time.monotonic() + timeout_s
    while not is_settled(answer := look()) and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN_S)
    return answer


class KernelObject(Closing):
    """A kernel object, held by a descriptor of its own until `close` or the end of `with`.

    Args:
        descriptor: The open descriptor; it belongs to the new object.
    """

    kind: ClassVar[ObjectKind]

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Take over an open descriptor.

        Args:
            fd: The descriptor. It belongs to the new object from now on, and is closed on an error.

        Raises:
            PinKindError: The descriptor is open on another kind of object.
            OSError: The number is not an open descriptor.
        """
        what = f"descriptor {fd}"
        try:
            descriptor = Descriptor(fd)
        except OSError as error:
            raise syscall_error("fcntl", error.errno or 0, target=what) from None
        return cls(check_kind(descriptor, cls.kind, path=what))

    @classmethod
    def from_id(cls, object_id: int) -> Self:
        """Open an object by its id.

        Args:
            object_id: The id, as in the kernel's reports.

        Raises:
            IdNotFoundError: No object of this kind has the id.
            PermissionDeniedError: CAP_SYS_ADMIN is missing.

        Kernel: BPF_MAP_GET_FD_BY_ID, BPF_PROG_GET_FD_BY_ID (Linux 4.13), BPF_LINK_GET_FD_BY_ID
            (5.8).
        """
        return cls(Descriptor(OPEN_BY_ID[cls.kind](object_id)))

    @classmethod
    def from_pin(cls, path: str | Path) -> Self:
        """Open a pinned object.

        Args:
            path: The pin in bpffs. Symbolic links are not followed.

        Raises:
            PinNotFoundError: There is no such name.
            PinKindError: The pin is another kind of object, a directory or a symbolic link.
            NotBpffsError: The path is not in a bpffs.
            UnsafePathError: A directory on the way is a symbolic link.
            PermissionDeniedError: The pin's mode or a missing capability forbids it.

        Kernel: BPF_OBJ_GET (Linux 4.4).
        """
        return cls(open_pin(path, cls.kind))

    @property
    def fd(self) -> int:
        """The descriptor's number, which stays this object's; `ValueError` once it is closed."""
        if self._descriptor.is_closed:
            raise ValueError(f"the {self.kind} is closed")
        return self._descriptor.fileno()

    def fileno(self) -> int:
        """Return the descriptor's number, for `select` and similar functions."""
        return self.fd

    def pin(self, path: str | Path) -> None:
        """Give the object a name in bpffs, so that it outlives this process.

        Args:
            path: The new name, in an existing directory.

        Raises:
            PinExistsError: The name exists.
            PinNotFoundError: There is no such directory.
            NotBpffsError: The directory is not in a bpffs.
            PinNameError: The name contains a dot, which bpffs refuses.
            PermissionDeniedError: A capability, or write access to the directory, is missing.

        Kernel: BPF_OBJ_PIN (Linux 4.4).
        """
        try:
            bpf.obj_pin(self.fd, path)
        except (PinError, PermissionDeniedError) as error:
            raise _explain_pin(error, Path(fs.shown_path(path))) from None

    def close(self) -> None:
        """Close the descriptor; the kernel frees the object once nothing references it.

        Closing twice does nothing.
        """
        self._descriptor.close()


def open_pin(path: str | Path, kind: ObjectKind, *, read_only: bool = False) -> Descriptor:
    """Open the *kind* of object pinned at *path* without following a symbolic link.

    Raises `PinNotFoundError`, `PinKindError` (another kind of object), `NotBpffsError`,
    `UnsafePathError` (a directory on the way is a symbolic link) and `PermissionDeniedError`. If
    the directory is exchanged for another one at this moment, one of them is opened.
    """
    flags = ObjectFlag.RDONLY if read_only else ObjectFlag(0)
    # BPF_OBJ_GET follows symlinks (bpf_obj_do_get() of kernel/bpf/inode.c). By a descriptor in
    # /proc/self/fd it opens the entry that openat2(2) found, and nothing put in its place since.
    with _open_path(Path(path)) as place:
        try:
            fd = _object_at(f"/proc/self/fd/{place.fileno()}", flags)
        except (PinError, PermissionDeniedError) as error:
            raise _explain_open(error, Path(path), place.fileno(), kind) from None
    return check_kind(Descriptor(fd), kind, path=str(path))


def _object_at(path: str, flags: ObjectFlag) -> int:
    try:
        return bpf.obj_get(path, flags=flags)
    except (PinError, PermissionDeniedError):
        raise
    except SyscallError:
        if not flags:
            raise
        # Only a map can be opened for reading alone. For the message, find out what else it is.
        return bpf.obj_get(path)


def _open_path(path: Path) -> Descriptor:
    for left in reversed(range(RENAMED_UNDER_US)):
        try:
            return Descriptor(fs.openat2(path, resolve=fs.Resolve.NO_SYMLINKS))
        except PinNotFoundError as error:
            if not left:
                raise _explain_missing(error, path) from None
        # ELOOP is for a symlink anywhere in the path; only one at its end is the wrong kind of pin.
        except UnsafePathError:
            if path.is_symlink():
                raise PinKindError(f"{path} is a symbolic link", path=str(path)) from None
            raise
    raise AssertionError("unreachable")


class _ObjectIdStruct(ctypes.Structure):
    """The fields that the infos of maps, programs and links begin with."""

    _fields_ = [*u32("type", "id")]


def identity(path: str | Path) -> tuple[ObjectKind, int] | None:
    """Return kind and id of the object pinned at *path*; None if it is not a map, program or link.

    A map that this user may only read is opened for reading. Raises `PinNotFoundError` if there is
    no such name.
    """
    try:
        # For reading and writing first: the only way to open programs and links.
        fd = bpf.obj_get(path)
    except PermissionDeniedError as error:
        try:
            fd = bpf.obj_get(path, flags=ObjectFlag.RDONLY)
        except SyscallError:  # programs and links cannot be opened that way
            raise error from None
    with Descriptor(fd) as opened:
        target = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - in half the time
        with suppress(ValueError):
            kind = ObjectKind(target.replace("_link", "-link"))
            answer = _ObjectIdStruct()
            bpf.obj_get_info_by_fd(opened.fileno(), answer)
            return kind, int(answer.id)
    return None


def check_kind(descriptor: Descriptor, kind: ObjectKind, *, path: str) -> Descriptor:
    """Return *descriptor* if it is open on a *kind*; else close it and raise `PinKindError`."""
    link = os.readlink(f"/proc/self/fd/{descriptor.fileno()}")  # noqa: PTH115 - in half the time
    # The kernel names the inode bpf_link when it creates a link, bpf-link when it opens one
    # (bpf_link_prime() and bpf_link_new_fd() of kernel/bpf/syscall.c).
    target = link.replace("_link", "-link")
    if target == kind.value:
        return descriptor
    descriptor.close()
    actual = next((str(other) for other in ObjectKind if other.value == target), target)
    raise PinKindError(f"{path}: a {kind} was asked for, a {actual} is there", path=path)


def _explain_open(
    error: PinError | PermissionDeniedError, path: Path, fd: int, kind: ObjectKind
) -> Exception:
    """Return an error that says what EACCES or EPERM meant here.

    The kernel returns them for a path outside of bpffs, a directory, another kind of object, and a
    missing right.
    """
    # In this order: EACCES is also the answer for a file of another file system and for a directory
    # (bpf_inode_type() of kernel/bpf/inode.c), where no right is missing.
    if not fs.is_bpffs(fd):
        return _no_bpffs(path)
    if os.path.isdir(path):  # noqa: PTH112 - no error for what this user may not see
        return PinKindError(f"{path}: a {kind} was asked for, a directory is there", path=str(path))
    if isinstance(error, PermissionDeniedError):
        error.target = str(path)
        error.message = f"{path}: access denied"
        error.hint = f"the pin is {_rights(path)}"
    return error


def _rights(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # a directory on the way is closed to this user
        return "in a directory that this user may not enter"
    return f"mode {status.st_mode & 0o777:04o} of uid {status.st_uid}, gid {status.st_gid}"


def _explain_missing(error: PinNotFoundError, path: Path) -> PinError:
    """Return *error*, or another one if the path is not in a bpffs at all."""
    existing = next((parent for parent in path.parents if os.path.isdir(parent)), Path("/"))  # noqa: PTH112 - no error for what this user may not see
    return error if fs.is_bpffs(existing) else _no_bpffs(path)


def _explain_pin(error: PinError | PermissionDeniedError, path: Path) -> Exception:
    if os.path.isdir(path.parent) and not fs.is_bpffs(path.parent):  # noqa: PTH112 - as above
        return _no_bpffs(path)
    if "." in path.name and not isinstance(error, PermissionDeniedError):
        return PinNameError(f"{path}: a name in bpffs has no dots", path=str(path))
    return error


def _no_bpffs(path: Path) -> NotBpffsError:
    message = f"{path} does not lie in a bpffs"
    return NotBpffsError(message, path=os.fspath(path), hint=fs.bpffs_hint())
