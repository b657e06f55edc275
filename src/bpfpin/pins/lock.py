"""The lock of a pin root: flock(2) on the directory `bpfpin~`, so that it ends with its holder.

The kernel releases the lock when the last descriptor of the opened directory is closed, that is at
the latest when the process ends: no stale lock remains after a crash, unlike with a pid file.
The pin root itself cannot be locked: any user may take a flock on a directory that it can open,
which the root of a bpffs of mode 1777 is. `bpfpin~` has the mode 0700.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bpfpin.errors import (
    BpfError,
    LockTimeoutError,
    PermissionDeniedError,
    PinExistsError,
    PinNotFoundError,
    UnsafePathError,
)
from bpfpin.hints import Argument, Fix, Placeholder, shell_line
from bpfpin.pins import bpffs
from bpfpin.pins.directory import OTHERS_WRITE, Directory, require_safe, unsafe_reason, user_name
from bpfpin.pins.names import LOCK_DIRECTORY
from bpfpin.syscall import fs


@contextmanager
def locked(root: Directory, *, timeout_s: float) -> Iterator[None]:
    """Hold the lock of the pin root during the block: one command changes it at a time.

    Waiting commands block in the kernel, in the order of asking, and use no CPU time.

    Args:
        root: The open pin root.
        timeout_s: Seconds to wait for the lock.

    Raises:
        LockTimeoutError: The lock is still taken; names the pid of the holder.
        UnsafePathError: Somebody else made the directory of the lock.
    """
    taker = os.getpid()
    with _current(root, timeout_s) as directory:
        try:
            yield
        finally:
            # A process that was forked in the block shares the lock (flock(2) belongs to the open
            # file description). So this process unlocks explicitly, because closing its descriptor
            # would not; and the forked one does not, because the lock is not its own.
            if os.getpid() == taker:
                fs.unlock(directory.fileno())


@contextmanager
def locked_root(pin_root: Path, *, timeout_s: float) -> Iterator[Directory]:
    """Open the pin root to change it, and hold its lock during the block.

    Raises what `bpffs.open_to_change` and `locked` do.
    """
    with bpffs.open_to_change(pin_root) as root, locked(root, timeout_s=timeout_s):
        yield root


def remove_lock(root: Directory) -> bool:
    """Remove the directory of the lock if it is empty; the lock must be held.

    A command that waits for the lock gets it on the removed directory, notices that, and makes a
    new one (`_current`).
    """
    try:
        with root.child(LOCK_DIRECTORY) as directory:
            if directory.names():
                return False
        root.rmdir(LOCK_DIRECTORY)
    except BpfError:  # a directory that stays does no harm
        return False
    return True


def _current(root: Directory, timeout_s: float) -> Directory:
    """Return the directory of the lock, locked; it is made if it is missing.

    Another command may remove the directory between the open and the lock. Then the lock is on a
    directory without a name, which excludes nobody, and this starts again.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        with suppress(PinExistsError):
            root.mark(LOCK_DIRECTORY)
        try:
            directory = _taken(root, max(0.0, deadline - time.monotonic()), asked_s=timeout_s)
        except PinNotFoundError:  # removed before it was opened
            continue
        if _is_current(root, directory):
            return directory
        directory.close()  # the lock of a removed directory excludes nobody


def _is_current(root: Directory, directory: Directory) -> bool:
    try:
        current = root.stat(LOCK_DIRECTORY)
    except PinNotFoundError:
        return False
    return os.path.samestat(current, directory.status)


def holder(root: Directory) -> int | None:
    """Return the pid of the process that holds the lock, 0 if it is not visible, None if none does.

    A user without the right to open the lock does not see holders in other pid namespaces.
    """
    with suppress(PinNotFoundError):
        status = root.stat(LOCK_DIRECTORY)
        if stat.S_ISDIR(status.st_mode) and not unsafe_reason(status):
            pid = fs.lock_holder(status)
            return 0 if pid is None and _is_locked_out_of_sight(root) else pid
    return None


def _is_locked_out_of_sight(root: Directory) -> bool:
    with suppress(PinNotFoundError, PermissionDeniedError), root.child(LOCK_DIRECTORY) as directory:
        return fs.is_locked(directory.fileno())
    return False


def foreign_lock_directory(root: Directory) -> UnsafePathError | None:
    """Return an error if somebody else took the name of the lock; None if it is ours or free.

    In a bpffs of mode 1777 any user may take the name. Commands that only read work without it.
    """
    path = root.path / LOCK_DIRECTORY
    try:
        status = root.stat(LOCK_DIRECTORY)
    except PinNotFoundError:
        return None
    is_directory = stat.S_ISDIR(status.st_mode)
    reason = unsafe_reason(status)
    if is_directory and not reason:
        return None
    if is_directory:
        what, remove = f"a directory that is not safe: {reason}", shell_line("rmdir", path)
        if status.st_uid in (0, os.geteuid()):
            remove = shell_line("chmod 0700", path)
    else:
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no directory"
        what, remove = f"{kind}, made by {user_name(status.st_uid)}", shell_line("rm", path)
    text = f"{path} is {what}; bpfpin keeps the lock of {root.path} under that name"
    hint = remove
    if root.status.st_mode & OTHERS_WRITE:
        hint += (
            f" && {shell_line('chmod 0755', root.path)}  # so that nobody else takes names there"
        )
    return UnsafePathError(text, path=str(path), hint=hint)


def _taken(root: Directory, timeout_s: float, *, asked_s: float) -> Directory:
    """Open the directory of the lock and lock it within *timeout_s* seconds.

    It is opened anew each time: locks by one open file description do not exclude each other.
    """
    # Refused before the wait: the owner of the directory could hold its lock for ever.
    if foreign := foreign_lock_directory(root):
        raise foreign
    directory = root.child(LOCK_DIRECTORY)
    try:
        require_safe(directory)
        # The usual case needs no thread.
        if fs.try_lock(directory.fileno()):
            return directory
        if timeout_s <= 0:
            raise _timeout(root, asked_s)
    except BaseException:
        directory.close()
        raise
    if _PlaceInQueue(directory).is_granted(timeout_s):
        return directory
    raise _timeout(root, asked_s)


class _PlaceInQueue:
    """A thread that blocks in flock(2), which has no timeout and cannot be cancelled.

    The thread owns *directory* until the lock is granted in time. If it is granted too late, the
    thread unlocks and closes it at once. The thread and the waiting caller decide by `_decision`,
    which only one of them can take, so that exactly one of them owns the directory.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._decision = threading.Lock()
        self._answer = threading.Event()

    def is_granted(self, timeout_s: float) -> bool:
        """Wait at most *timeout_s* seconds; if True, the caller owns the locked directory."""
        try:
            self._start()
            # Above TIMEOUT_MAX `Event.wait` raises OverflowError.
            self._answer.wait(min(timeout_s, threading.TIMEOUT_MAX))
        except BaseException:  # Ctrl-C, SIGTERM
            # The thread was first: it has the lock and leaves the directory to this side.
            if not self._is_first():
                self._directory.close()
            raise
        return not self._is_first()

    def _start(self) -> None:
        # A daemon thread does not keep the process from exiting after a timeout.
        thread = threading.Thread(target=self._queue, name="bpfpin-lock", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no memory for another thread
            self._directory.close()
            raise

    def _queue(self) -> None:
        fs.lock(self._directory.fileno())
        if self._is_first():
            self._answer.set()
            return
        fs.unlock(self._directory.fileno())
        self._directory.close()

    def _is_first(self) -> bool:
        return self._decision.acquire(blocking=False)


def _timeout(root: Directory, timeout_s: float) -> LockTimeoutError:
    pid = holder(root)
    who = f"process {pid}" if pid else "another process"
    return LockTimeoutError(
        f"{who} has been changing {root.path} for {timeout_s:g} seconds",
        holder=f"pid {pid}" if pid else "",
        hint=Fix.of(
            "wait for it, or give it longer: ", Argument("lock_timeout_s", Placeholder("SECONDS"))
        ),
    )
