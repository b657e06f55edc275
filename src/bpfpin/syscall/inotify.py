"""Waking up when names in a directory change (inotify(7)), which works in bpffs as well."""

from __future__ import annotations

import ctypes
import math
import os
import select
from enum import IntFlag
from pathlib import Path

from bpfpin.syscall.call import LIBC, checked
from bpfpin.syscall.fd import Closing, Descriptor

# Some hundred events; those that do not fit wake the next `wait`.
BUFFER_SIZE = 65536


class InotifyEvent(IntFlag):
    """The changes of names in a directory, as bits of a mask (linux/inotify.h)."""

    ATTRIB = 0x4
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200


NAMES = (
    InotifyEvent.ATTRIB
    | InotifyEvent.MOVED_FROM
    | InotifyEvent.MOVED_TO
    | InotifyEvent.CREATE
    | InotifyEvent.DELETE
)


class Inotify(Closing):
    """A set of watched directories. It does not say which name changed: the caller looks."""

    def __init__(self) -> None:
        flags = ctypes.c_int(os.O_NONBLOCK | os.O_CLOEXEC)
        self._descriptor = Descriptor(checked("inotify_init1", LIBC.inotify_init1(flags)))
        self._poll = select.poll()
        self._poll.register(self._descriptor.fileno(), select.POLLIN)

    def close(self) -> None:
        """Stop watching."""
        self._descriptor.close()

    def duplicate(self) -> Descriptor:
        """Return a descriptor that is readable when a name has changed."""
        return self._descriptor.duplicate()

    def add(self, directory: Path, events: InotifyEvent = NAMES) -> None:
        """Watch the directory that is at this path now. Calling it again does nothing."""
        fd, mask = self._descriptor.fileno(), ctypes.c_uint32(events)
        # A watch follows the directory, not the path: after an exchange of two directories, the
        # path needs a watch of its own.
        answer = LIBC.inotify_add_watch(fd, os.fsencode(directory), mask)
        checked("inotify_add_watch", answer, target=str(directory))

    def wait(self, timeout_s: float) -> bool:
        """Wait for a change; return True at the first one, False after *timeout_s* seconds."""
        # Rounded up: with a rest of less than a millisecond, 0 would make the caller's loop spin.
        if not self._poll.poll(max(0, math.ceil(timeout_s * 1000))):
            return False
        # The events are not decoded: after an overflow some are missing (inotify(7)), so callers
        # must look at the directory in any case.
        os.read(self._descriptor.fileno(), BUFFER_SIZE)
        return True
