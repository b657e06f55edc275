"""Waiting for one of several descriptors (epoll(7)) so that `close` of another thread ends it."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Iterable, Iterator

from bpfpin.syscall.fd import Closing, Descriptor

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT


class Waiter(Closing):
    """Waits until one of the descriptors *fds* is ready; `close` wakes all waiting threads."""

    def __init__(self, fds: Iterable[int], events: int = READABLE) -> None:
        # Nobody reads the eventfd: once written it stays readable, and wakes every thread that
        # waits.
        self._bell = Descriptor(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._epoll = select.epoll()
        self._epoll.register(self._bell.fileno(), select.EPOLLIN)
        for fd in fds:
            self._epoll.register(fd, events)
        self._lock = threading.Lock()
        self._waiting = 0
        self.is_closed = False

    def wait(self, timeout_s: float) -> bool:
        """Return True as soon as one is ready, False after *timeout_s* seconds or `close`."""
        if not self._enter():
            return False
        try:
            ready = self._epoll.poll(max(0.0, timeout_s))
        finally:
            self._leave()
        return bool(ready) and not self.is_closed

    @contextlib.contextmanager
    def watched(self) -> Iterator[int]:
        """Lend a descriptor, of this block alone, that is readable when `wait` would return.

        For event loops; `ValueError` once it is closed.
        """
        if not self._enter():
            raise ValueError("the waiter is closed")
        try:
            with Descriptor(os.dup(self._epoll.fileno())) as copy:
                yield copy.fileno()
        finally:
            self._leave()

    def close(self) -> None:
        """Wake all waiting threads. Calling it again does nothing."""
        with self._lock:
            if self.is_closed:
                return
            self.is_closed = True
            os.eventfd_write(self._bell.fileno(), 1)
            self._end_if_unused()

    def _enter(self) -> bool:
        with self._lock:
            # Under the lock of `close`: either it counts this thread, or this thread sees that it
            # is closed.
            self._waiting += not self.is_closed
            return not self.is_closed

    def _leave(self) -> None:
        with self._lock:
            self._waiting -= 1
            self._end_if_unused()

    def _end_if_unused(self) -> None:
        # Only when no thread polls: the number of a closed descriptor may be given to another file.
        if self.is_closed and not self._waiting:
            self._epoll.close()
            self._bell.close()
