"""Waking a reader when a name in bpffs comes to hold something else: inotify(7), where it may."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from bpfpin.errors import BpfError
from bpfpin.syscall import fs
from bpfpin.syscall.fd import Closing
from bpfpin.syscall.inotify import Inotify


class Alarm(Closing):
    """Wakes when a name changes where the follower's lies, or its directory's."""

    def __init__(self) -> None:
        self._inotify: Inotify | None = None
        with suppress(BpfError):  # no more instances of it for this user
            self._inotify = Inotify()

    def close(self) -> None:
        """Wake nobody any more."""
        if self._inotify:
            self._inotify.close()

    def listen(self, path: Path) -> None:
        """Listen to the directories on the way to *path* that are there now."""
        if self._inotify is None:
            return
        for directory in (path.parent, path.parent.parent):
            with suppress(BpfError):  # it is gone, or not for this user
                if fs.is_bpffs(directory):
                    self._inotify.add(directory)

    def wait(self, timeout_s: float) -> None:
        """Wait for *timeout_s*, or less."""
        if self._inotify:
            self._inotify.wait(timeout_s)
        else:
            time.sleep(max(0.0, timeout_s))

    async def wait_in_a_loop(self, timeout_s: float) -> None:
        """Do what `wait` does without keeping the event loop."""
        import asyncio  # noqa: PLC0415  (30 ms)

        if not self._inotify:
            await asyncio.sleep(max(0.0, timeout_s))
            return
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        # A loop has one reader for a number: each wait has one of its own.
        with self._inotify.duplicate() as descriptor:
            loop.add_reader(descriptor.fileno(), woken.set)
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), max(0.0, timeout_s))
            finally:
                loop.remove_reader(descriptor.fileno())
        self._inotify.wait(0)
