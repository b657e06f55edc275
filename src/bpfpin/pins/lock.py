"""The lock of a pin root: a flock(2) on a directory of ours, so that it ends with its holder."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bpfpin.errors import (
    Argument,
    BpfError,
    Fix,
    LockTimeoutError,
    PinExistsError,
    PinNotFoundError,
    Placeholder,
    UnsafePathError,
)
from bpfpin.pins import bpffs
from bpfpin.pins.directory import (
    OTHERS_WRITE,
    Directory,
    require_safe,
    unsafe_reason,
    user_name,
)
from bpfpin.pins.names import LOCK_DIRECTORY
from bpfpin.syscall import fs


@contextmanager
def locked(root: Directory, *, timeout_s: float) -> Iterator[None]:
    """Hold the pin root's lock during the block; one command changes it at a time.

    Who waits stands in the kernel's queue and costs no CPU. `LockTimeoutError` names the holder's
    pid after *timeout_s* seconds.
    """
    taker = os.getpid()
    with _current(root, timeout_s) as directory:
        try:
            yield
        finally:
            # A process forked in the block shares the lock: closing would not end it here, and
            # leaving the block there must not.
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
    """Remove the directory of the lock if nothing is in it; the lock must be held.

    Who waits for the lock meanwhile gets that of a directory without a name, sees that, and makes
    another one.
    """
    try:
        with root.child(LOCK_DIRECTORY) as directory:
            if directory.names():
                return False
        root.rmdir(LOCK_DIRECTORY)
    except BpfError:  # it is no harm if it stays
        return False
    return True


def _current(root: Directory, timeout_s: float) -> Directory:
    """Return the lock's directory with the lock on it, made if it is not there.

    It may be removed between the moment that it is opened and that the lock is granted: then the
    lock is that of a directory which nobody else will ever find.
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
        directory.close()


def _is_current(root: Directory, directory: Directory) -> bool:
    try:
        there = root.stat(LOCK_DIRECTORY)
    except PinNotFoundError:
        return False
    return os.path.samestat(there, directory.status)


def holder(root: Directory) -> int | None:
    """Return the pid that holds the lock, None if nobody does or we cannot see it."""
    with suppress(PinNotFoundError):
        status = root.stat(LOCK_DIRECTORY)
        if stat.S_ISDIR(status.st_mode) and not unsafe_reason(status):
            return fs.lock_holder(status)
    return None


def foreign_lock_directory(root: Directory) -> UnsafePathError | None:
    """Return what is wrong with the name that the lock needs, None if it is ours or free.

    Anybody may take the name in a bpffs of mode 1777: commands that change nothing go on without.
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
        what, remove = f"a directory that is not safe: {reason}", f"rmdir {path}"
        if status.st_uid in (0, os.geteuid()):
            remove = f"chmod 0700 {path}"
    else:
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no directory"
        what, remove = f"{kind}, made by {user_name(status.st_uid)}", f"rm {path}"
    text = f"{path} is {what}; bpfpin keeps the lock of {root.path} under that name"
    hint = remove
    if root.status.st_mode & OTHERS_WRITE:
        hint += f" && chmod 0755 {root.path}  # so that nobody else takes names there"
    return UnsafePathError(text, path=str(path), hint=hint)


def _taken(root: Directory, timeout_s: float, *, asked_s: float) -> Directory:
    """Return the lock's directory, opened anew, with the lock on it."""
    if foreign := foreign_lock_directory(root):
        raise foreign
    directory = root.child(LOCK_DIRECTORY)
    try:
        require_safe(directory)
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
    """A thread that blocks in flock(2), since that can be given neither a time nor a way out.

    It has *directory* until the lock is granted in time; too late, it gives the lock back at once
    and closes. Which of the two it is, is decided once, by who takes `_decision` first.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._decision = threading.Lock()
        self._answer = threading.Event()

    def is_granted(self, timeout_s: float) -> bool:
        """Wait at most *timeout_s* seconds; the directory is the caller's only if it is true."""
        try:
            self._start()
            self._answer.wait(min(timeout_s, threading.TIMEOUT_MAX))
        except BaseException:  # Ctrl-C, SIGTERM
            if not self._is_first():
                self._directory.close()
            raise
        return not self._is_first()

    def _start(self) -> None:
        # A daemon does not keep a process that gave up from ending.
        thread = threading.Thread(target=self._queue, name="bpfpin-lock", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no room for another thread
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
