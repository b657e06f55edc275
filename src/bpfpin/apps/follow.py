"""A map held by its name, through reloads: the name is looked at again, and opened anew.

Whether a name still holds the same is asked by two calls of stat(2): a reload exchanges the set's
directory, and whatever is pinned anew has another inode. inotify only wakes us at that moment; who
may not listen notices at the end of the interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bpfpin.apps.changes import Change, Gone, Reload
from bpfpin.apps.generation import Generation, identity, program_change, program_ids
from bpfpin.apps.maps.naming import open_map
from bpfpin.errors import BpfError, PinNotFoundError
from bpfpin.objects.map import Map
from bpfpin.objects.watch import ENTRIES_MAX, Pace, change_between, read
from bpfpin.syscall import fs
from bpfpin.syscall.fd import Closing
from bpfpin.syscall.inotify import Inotify

# How often a name may change while we look at it, before we leave it for the next time.
_ATTEMPTS: Final = 20
# A reload publishes first and lets a group read afterwards.
_DENIED_FOR_S: Final = 1.0
_WAIT_MAX_S: Final = 3600.0


def follow(path: str | Path, *, read_only: bool = False, **reading: Any) -> Follower:
    """Open the map pinned at *path* and follow the name from then on; `with` ends it.

    The arguments are those of `Map.from_pin`, and so are the errors; a name that holds nothing yet
    is `PinNotFoundError`. Stands on stat(2), openat2(2), BPF_OBJ_GET and, where it may, inotify(7).
    """
    name = Path(path).absolute()
    if reading:
        return Follower(name, lambda: Map.from_pin(name, read_only=read_only, **reading))
    return Follower(name, lambda: open_map(str(name), read_only=read_only))


class Follower(Closing):
    """The map that a name holds, also after the name was reloaded.

    `map` is the handle of now: where another map came, the one before is closed. Between two calls
    of `refresh`, or steps of `watch`, nothing changes under the caller. Not for two threads.
    """

    def __init__(self, path: Path, open_now: Callable[[], Map]) -> None:
        self.path = path
        self._open_now = open_now
        self._denied_at_s: float | None = None
        self._is_gone = False
        self._alarm = _Alarm()
        try:
            self._now = self._first()
        except BaseException:
            self._alarm.close()
            raise

    @property
    def map(self) -> Map:
        """The handle of now; of a name that is gone the last one, which still reads."""
        return self._now.map

    @property
    def is_gone(self) -> bool:
        """Whether the name held nothing when it was last looked at."""
        return self._is_gone

    def close(self) -> None:
        """Let the map go and follow no longer; again does nothing."""
        self._now.map.close()
        self._alarm.close()

    def refresh(self) -> Reload | None:
        """Look at the name; if it holds another generation, `map` is of that, and it is told.

        None also when the name is gone: see `is_gone`. Raises what `Map.from_pin` does where the
        name holds something that cannot be opened, of rights only when they lack for a while.
        """
        try:
            is_same = not self._is_gone and identity(self.path) == self._now.identity
            found = None if is_same else self._look()
        except PermissionError:
            if not self._may_be_granted_yet():
                raise
            return None
        self._denied_at_s = None
        return self._take(found) if found else None

    def wait(self, deadline_s: float) -> bool:
        """Wait until *deadline_s* (monotonic) and return True, or False when a name changed."""
        self._alarm.wait(min(deadline_s - time.monotonic(), _WAIT_MAX_S))
        return time.monotonic() >= deadline_s

    def watch(
        self, *, interval_s: float = 1.0, count: int | None = None, entries_max: int = ENTRIES_MAX
    ) -> Iterator[Change]:
        """Yield what changed in each interval, *count* times or for ever.

        An interval in which the name is gone is told as such; one in which another map came begins
        anew with the first reading of that map, so that no difference is one of two maps. Cost and
        limits are those of `Map.watch`; `LimitError` for more than *entries_max* entries.
        """
        pace = Pace(interval_s)
        before, reload = read(self.map, entries_max=entries_max), None
        for beat in beats(self, pace=pace, count=count):
            if isinstance(beat, Gone):
                gone_since_s = time.monotonic() - before.monotonic_s
                yield Change(time.time(), gone_since_s, beat.map, is_gone=True)
                continue
            if isinstance(beat, Reload):
                reload = beat.since(reload)
                if beat.is_restart:
                    before = read(self.map, entries_max=entries_max)
                continue
            pace.begin()
            now = read(self.map, entries_max=entries_max)
            change = replace(change_between(before, now), reload=reload)
            pace.end()
            yield change
            before, reload = now, None

    def _first(self) -> Generation:
        found = self._look()
        if found:
            return found
        self._open_now().close()  # says what is wrong with the path
        raise PinNotFoundError(f"{self.path} changes faster than it can be read")

    def _may_be_granted_yet(self) -> bool:
        now_s = time.monotonic()
        if self._denied_at_s is None:
            self._denied_at_s = now_s
        return now_s - self._denied_at_s < _DENIED_FOR_S

    def _look(self) -> Generation | None:
        """Open what the name holds; None if that is nothing, or another thing each time."""
        for _ in range(_ATTEMPTS):
            self._alarm.listen(self.path)
            now = identity(self.path)
            self._is_gone = now is None
            if now is None:
                return None
            with suppress(PinNotFoundError):  # exchanged or removed just now
                found = Generation(now, self._open_now(), program_ids(self.path))
                if identity(self.path) == now:
                    return found
                found.map.close()
        return None

    def _take(self, found: Generation) -> Reload | None:
        before, self._now = self._now, found
        reload = Reload(program_change(before, found), (before.map.id, found.map.id))
        if reload.is_restart:
            before.map.close()
            return reload
        found.map.close()  # whoever has the handle may go on with it
        self._now = replace(found, map=before.map)
        return reload if before.directory != found.directory else None


def beats(
    live: Follower, *, pace: Pace, count: int | None = None
) -> Iterator[Reload | Gone | None]:
    """Yield None at the end of each interval, `Gone` if the name is gone then; *count* of them.

    A reload is yielded when it is noticed. If it brings another map, the interval begins anew,
    when the caller has taken his first reading of it and comes back. Who reads between the pace's
    `begin` and `end` has longer intervals where reading costs much.
    """
    number = 0
    while count is None or number < count:
        is_over = live.wait(pace.deadline_s)
        reload = live.refresh()
        if reload:
            yield reload
        if reload and reload.is_restart:
            pace.restart()
        elif is_over:
            yield Gone(live.path, live.map.id) if live.is_gone else None
            pace.step()
            number += 1


class _Alarm(Closing):
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
