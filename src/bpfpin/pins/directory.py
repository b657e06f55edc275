"""An open directory of a bpffs: entries are reached by one name below its descriptor.

The descriptor stays with the directory when its path is renamed or replaced, and no symlink can be
put in between. Owner and mode are read from the descriptor too, so that the checked directory is
the used one. Pins are made through `/proc/self/fd/N/NAME`, because BPF_OBJ_PIN takes a path; its
flag BPF_F_PATH_FD (Linux 6.5) would follow `..` and symlinks.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Final, Self

from bpfpin.errors import (
    BpfError,
    PermissionDeniedError,
    PinExistsError,
    PinNotFoundError,
    UnsafePathError,
)
from bpfpin.hints import shell_line
from bpfpin.pins.names import LINKS
from bpfpin.syscall import fs
from bpfpin.syscall.call import INTERRUPTED_MAX
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Closing, Descriptor
from bpfpin.syscall.fs import Rename, Resolve

DIRECTORY_MODE: Final = 0o700
OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

# One component below the descriptor: ELOOP for a symlink, EXDEV for `..`, also in bpffs.
_BELOW = Resolve.NO_SYMLINKS | Resolve.BENEATH
# O_DIRECTORY: for a pin the error is ENOTDIR then, not the EIO of bpffs_obj_open()
# (kernel/bpf/inode.c).
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class EntryKind(Enum):
    """The kind of an entry in bpffs, which has no others."""

    PIN = "pin"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


class Directory(Closing):
    """An open directory; *path* is where it was opened, for messages and for `Map.from_pin`."""

    def __init__(self, descriptor: Descriptor, path: Path, name: str = "") -> None:
        self._descriptor = descriptor
        self._parent_path, self._name = path, name

    @cached_property
    def path(self) -> Path:
        """The path at which it was opened."""
        return self._parent_path / self._name if self._name else self._parent_path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open *path* in one step; a symlink anywhere in it is an `UnsafePathError`."""
        path = path.absolute()
        return cls(
            # One call for the whole path. A walk from directory to directory fails once in 100
            # opens while the set is exchanged again and again, one call once in 20,000 (measured).
            Descriptor(fs.openat2(path, flags=_FLAGS, resolve=Resolve.NO_SYMLINKS)),
            path,
        )

    def child(self, name: str) -> Directory:
        """Open the directory *name* in this one; `PinNotFoundError` if there is none."""
        fd = fs.openat2(name, flags=_FLAGS, resolve=_BELOW, dir_fd=self.fileno())
        return Directory(Descriptor(fd), self.path, name)

    def fileno(self) -> int:
        """Return the descriptor's number."""
        return self._descriptor.fileno()

    def close(self) -> None:
        """Close the descriptor."""
        self._descriptor.close()

    @property
    def status(self) -> os.stat_result:
        """The result of fstat(2) on the directory."""
        return os.fstat(self.fileno())

    def names(self) -> list[str]:
        """Return the names in it, sorted."""
        try:
            return sorted(os.listdir(self.fileno()))  # noqa: PTH208 - Path takes no descriptor
        except OSError as error:
            raise self._refusal("readdir", "", error) from None

    def has(self, name: str) -> bool:
        """Whether there is anything called *name*."""
        try:
            os.stat(name, dir_fd=self.fileno(), follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._refusal("stat", name, error) from None
        return True

    def stat(self, name: str) -> os.stat_result:
        """Return the status of *name* itself, not of what it may point to (lstat(2))."""
        try:
            return os.stat(name, dir_fd=self.fileno(), follow_symlinks=False)
        except OSError as error:
            raise self._refusal("stat", name, error) from None

    def kinds(self) -> dict[str, EntryKind]:
        """Return the kind of each entry by name, sorted."""
        try:
            with os.scandir(self.fileno()) as entries:
                return dict(sorted((entry.name, _kind(entry)) for entry in entries))
        except OSError as error:
            raise self._refusal("readdir", "", error) from None

    def make(self, name: str) -> Directory:
        """Make the directory *name*, 0700, and open it; `PinExistsError` if the name is taken."""
        self.mark(name)
        return self.child(name)

    def mark(self, name: str, mode: int = DIRECTORY_MODE) -> None:
        """Make the directory *name* without opening it; its existence is the information."""
        # mkdir(2) creates or fails with EEXIST, so a name that is a mark is set once.
        self._do("mkdir", name, lambda: os.mkdir(name, mode, dir_fd=self.fileno()))

    def mark_like(self, name: str, other: Directory, *, extra: int = 0) -> None:
        """Make the directory *name* with group and mode of *other*, and the mode bits *extra*."""
        # mkdir(2) cuts the mode by the umask, and takes the group of the process: until the
        # directory has its own, it is open to nobody else. Linux sets the sticky bit at once.
        self.mark(name, DIRECTORY_MODE | extra)
        with self.child(name) as made:
            made.set_access_like(other, extra=extra)

    def set_access_like(self, other: Directory, *, extra: int = 0) -> None:
        """Give this directory group and mode of *other*, without write permission of others.

        If this user may not give it that group, it is not opened to any.
        """
        status = other.status
        mode = stat.S_IMODE(status.st_mode) & ~OTHERS_WRITE | extra
        try:
            self.set_access(status.st_gid, mode)
        except PermissionDeniedError:
            self.set_access(None, mode & ~stat.S_IRWXG)

    def set_access(self, gid: int | None, mode: int) -> None:
        """Set group, unless None, and mode of this directory itself, whatever the umask."""
        status = self.status
        # The mode after the group: before, the bits for the group would serve the wrong group.
        if gid is not None and status.st_gid != gid:
            self._do("chown", "", lambda: os.fchown(self.fileno(), -1, gid))
        if stat.S_IMODE(status.st_mode) != mode:
            self._do("chmod", "", lambda: os.fchmod(self.fileno(), mode))

    def rmdir(self, name: str) -> None:
        """Remove the empty directory *name*."""
        self._do("rmdir", name, lambda: os.rmdir(name, dir_fd=self.fileno()))

    def unlink(self, name: str) -> None:
        """Remove the pin or symlink *name*."""
        self._do("unlink", name, lambda: os.unlink(name, dir_fd=self.fileno()))

    def write_text(self, name: str, text: str) -> None:
        """Store *text* in a new symlink *name*; it is never followed."""
        # The text appears as a whole or not at all: a crash leaves no half of it.
        self._do("symlink", name, lambda: os.symlink(text, name, dir_fd=self.fileno()))

    def read_text(self, name: str) -> str:
        """Return the text of the symlink *name*."""
        try:
            return os.readlink(name, dir_fd=self.fileno())
        except OSError as error:
            raise self._refusal("readlink", name, error) from None

    def link_from(self, other: Directory, name: str, new_name: str = "") -> None:
        """Hard-link the pin *name* of *other* here, as *new_name* if given (link(2))."""
        # A symlink is linked itself (the stored types are symlinks): by default Python would follow
        # it.
        places = {"src_dir_fd": other.fileno(), "dst_dir_fd": self.fileno()}
        self._do(
            "link",
            new_name or name,
            lambda: os.link(name, new_name or name, **places, follow_symlinks=False),
        )

    def rename(self, old: str, new: str, flags: Rename) -> None:
        """Rename, or exchange, two names in it."""
        fd = self.fileno()
        fs.renameat2(old, new, flags=flags, old_dir_fd=fd, new_dir_fd=fd)

    def exchange(self, name: str, other: Directory, other_name: str) -> None:
        """Exchange the name *name* with one of another directory of the same file system."""
        self._rename(Rename.EXCHANGE, name, other, other_name)

    def rename_into(self, target: Directory, old: str, new: str) -> None:
        """Move *old* to *target* as *new*; `PinExistsError` if that name is taken."""
        self._rename(Rename.NOREPLACE, old, target, new)

    def _rename(self, flags: Rename, old: str, target: Directory, new: str) -> None:
        fds = {"old_dir_fd": self.fileno(), "new_dir_fd": target.fileno()}
        fs.renameat2(old, new, flags=flags, **fds)

    def chmod(self, name: str, mode: int) -> None:
        """Set the mode of the pin *name*."""
        self._do("chmod", name, lambda: os.chmod(name, mode, dir_fd=self.fileno()))

    def chown_group(self, name: str, gid: int) -> None:
        """Give the pin *name* to the group *gid*."""
        self._do("chown", name, lambda: os.chown(name, -1, gid, dir_fd=self.fileno()))

    def pin_path(self, name: str) -> Path:
        """Return a path for BPF_OBJ_PIN and BPF_OBJ_GET that leads into this very directory."""
        return Path(f"/proc/self/fd/{self.fileno()}/{name}")

    def _do(self, command: str, name: str, change: Callable[[], None]) -> None:
        """Run *change*, and repeat it after EINTR.

        PEP 475 repeats only some calls; os.rename(), os.mkdir() and the like are not among them.
        """
        for left in reversed(range(INTERRUPTED_MAX)):
            try:
                return change()
            except OSError as error:
                if not left or not isinstance(error, InterruptedError):
                    raise self._refusal(command, name, error) from None
        return None

    def _refusal(self, command: str, name: str, error: OSError) -> BpfError:
        path = str(self.path / name)
        if isinstance(error, FileNotFoundError):
            return PinNotFoundError(f"{path}: there is no such name", path=path)
        if isinstance(error, FileExistsError):
            return PinExistsError(f"{path}: the name is taken", path=path)
        return syscall_error(command, error.errno or 0, target=path)


def _kind(entry: os.DirEntry[str]) -> EntryKind:
    if entry.is_dir(follow_symlinks=False):
        return EntryKind.DIRECTORY
    return EntryKind.PIN if entry.is_file(follow_symlinks=False) else EntryKind.SYMLINK


def remove_tree(parent: Directory, name: str) -> None:
    """Remove the directory *name* with its contents: links first, so that hooks are detached first.

    The pins in *name* itself, the maps, go last, because a reader may be about to open one. Call it
    only for directories for which `unsafe_reason` is "".
    """
    with parent.child(name) as directory:
        entries = {entry: kind is EntryKind.DIRECTORY for entry, kind in directory.kinds().items()}
        # Depth first, for rmdir(2) takes only an empty directory. A kill leaves a smaller tree,
        # which is removed in the same way.
        for entry in sorted(entries, key=lambda entry: (entry != LINKS, not entries[entry], entry)):
            if entries[entry]:
                remove_tree(directory, entry)
            else:
                directory.unlink(entry)
    parent.rmdir(name)


def unsafe_reason(status: os.stat_result, *, is_sticky_enough: bool = False) -> str:
    """Return why another user could change a directory or symlink, "" if none could.

    It may belong to root or to the effective user. With *is_sticky_enough* others may write it if
    it is sticky: they cannot rename or remove entries of other users there.
    """
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to {user_name(status.st_uid)}"
    # Every symlink has the mode 0777 (bpf_symlink() of kernel/bpf/inode.c), which allows nothing.
    if stat.S_ISLNK(status.st_mode) or not status.st_mode & OTHERS_WRITE:
        return ""
    if is_sticky_enough and status.st_mode & stat.S_ISVTX:
        return ""
    return f"others may write it (mode {stat.S_IMODE(status.st_mode):04o})"


def require_safe(directory: Directory, *, is_sticky_enough: bool = False) -> None:
    """Raise `UnsafePathError` if another user could change the entries of *directory*."""
    if reason := unsafe_reason(directory.status, is_sticky_enough=is_sticky_enough):
        raise UnsafePathError(
            f"{directory.path} is not safe to change: {reason}",
            path=str(directory.path),
            hint="chown and chmod it (0700), or use another pin root:"
            f" {shell_line('ls -ld', directory.path)}",
        )


def user_name(uid: int) -> str:
    """Return a user for a message: `nobody (uid 65534)`."""
    import pwd  # noqa: PLC0415  (only for a message)

    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
