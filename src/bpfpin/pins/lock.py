"""The lock of a pin root: a flock(2) on a directory of ours, so that it ends with its holder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from bpfpin.errors import LockTimeoutError, PinExistsError
from bpfpin.pins.directory import Directory, require_safe
from bpfpin.pins.names import LOCK_DIRECTORY
from bpfpin.syscall import fs

_PAUSE_S: Final = 0.02


@contextmanager
def locked(root: Directory, *, timeout_s: float) -> Iterator[None]:
    """Hold the pin root's lock during the block; one command changes it at a time.

    `LockTimeoutError` names the holder's pid after *timeout_s* seconds.
    """
    with suppress(PinExistsError):
        root.mark(LOCK_DIRECTORY)
    with root.child(LOCK_DIRECTORY) as directory:
        require_safe(directory)
        _wait(directory, timeout_s)
        yield


def holder(root: Directory) -> int | None:
    """Return the pid that holds the lock, None if nobody does or we cannot see it."""
    if not root.has(LOCK_DIRECTORY):
        return None
    return fs.lock_holder(root.path / LOCK_DIRECTORY)


def _wait(directory: Directory, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not fs.try_lock(directory.fileno()):
        if time.monotonic() >= deadline:
            raise _timeout(directory, timeout_s)
        time.sleep(min(_PAUSE_S, max(0.0, deadline - time.monotonic())))


def _timeout(directory: Directory, timeout_s: float) -> LockTimeoutError:
    pid = fs.lock_holder(directory.fileno())
    who = f"process {pid}" if pid else "another process"
    return LockTimeoutError(
        f"{who} has been changing {directory.path.parent} for {timeout_s:g} seconds",
        holder=f"pid {pid}" if pid else "",
        hint="wait for it, or give it longer: --lock-timeout SECONDS",
    )
