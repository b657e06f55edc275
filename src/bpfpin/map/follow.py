"""A map held by its name, through reloads: the name is looked at again, and opened anew.

Whether a name still holds the same is asked by two calls of stat(2): a reload exchanges the set's
directory, and whatever is pinned anew has another inode. inotify only wakes us at that moment; who
may not listen notices at the end of the interval.

While a map is migrated, what is read under its name is too little (`folding.py`): it is read again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from bpfpin.errors import BpfError, PinNotFoundError
from bpfpin.map import generation
from bpfpin.map.changes import Change, Gone, Migrating, Reload, change_across
from bpfpin.map.generation import (
    FoldUnfinishedError,
    Generation,
    identity,
    is_folding,
    program_change,
)
from bpfpin.map.open import open_map
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.watch import ENTRIES_MAX, Pace
from bpfpin.objects.maps.watch import Reading as Snapshot
from bpfpin.objects.maps.watch import read as read_entries
from bpfpin.syscall import fs
from bpfpin.syscall.fd import Closing
from bpfpin.syscall.inotify import Inotify

# How often a name may change while we look at it, before we leave it for the next time.
_ATTEMPTS: Final = 20
# A reload publishes first and lets a group read afterwards.
_DENIED_FOR_S: Final = 1.0
_WAIT_MAX_S: Final = 3600.0
T = TypeVar("T")


# Waking a reader when a name in bpffs comes to hold something else: inotify(7), where it may.


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
        self._folding_at_s: float | None = None
        self._is_gone = False
        self._alarm = Alarm()
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

    def read(self, once: Callable[[Map], T]) -> tuple[T, Reload | None]:
        """Return what *once* reads of the map, none of it taken away, and what was told meanwhile.

        That is a reload as `refresh` tells it. While the map is migrated (tens of milliseconds) its
        contents are in two places: then it waits, and reads the new one. It may call *once* again.
        Raises `BusyError` if a migration takes more than ten seconds in all, at once from then on,
        as long as it lasts; otherwise what `refresh` and *once* raise.
        """
        reload = None
        while True:
            self._wait_for_fold()
            told = self.refresh()
            reload = told.since(reload) if told else reload
            found = once(self.map)
            if self._is_gone or self._is_still():
                return found, reload
            time.sleep(generation.PAUSE_S)

    def wait(self, deadline_s: float) -> bool:
        """Wait until *deadline_s* (monotonic) and return True, or False when a name changed."""
        self._alarm.wait(min(deadline_s - time.monotonic(), _WAIT_MAX_S))
        return time.monotonic() >= deadline_s

    async def _wait_in_a_loop(self, deadline_s: float) -> None:
        await self._alarm.wait_in_a_loop(min(deadline_s - time.monotonic(), _WAIT_MAX_S))

    def watch(
        self, *, interval_s: float = 1.0, count: int | None = None, entries_max: int = ENTRIES_MAX
    ) -> FollowedWatch:
        """Return what tells what changed in each interval, for `for` and `async for`.

        It yields a `Change` for each, *count* times or for ever.

        An interval in which the name is gone is told as such; one in which another map came begins
        anew with the first reading of that map, so that no difference is one of two maps. But where
        the other map was migrated from the one before, the interval goes on: members are compared
        by name, new ones began at 0. Cost and limits are those of `Map.watch`; `LimitError` for
        more than *entries_max* entries.
        """
        pace = Pace(interval_s)
        return FollowedWatch(self, pace, self._changes(pace, count, entries_max))

    def _changes(self, pace: Pace, count: int | None, entries_max: int) -> Iterator[Change | _Wait]:
        def once(held: Map) -> Snapshot:
            pace.begin()
            return read_entries(held, entries_max=entries_max)

        before: Snapshot | None = None
        reload, began_s = None, time.monotonic()
        for found in _readings(self, once, pace=pace, count=count):
            if isinstance(found, _Wait):
                yield found
            elif isinstance(found, Reload):
                reload = found.since(reload)
            elif not isinstance(found, Reading):
                period_s = time.monotonic() - (before.monotonic_s if before else began_s)
                is_gone = isinstance(found, Gone)
                yield Change(
                    time.time(), period_s, found.map, is_gone=is_gone, is_unfinished=not is_gone
                )
            elif before is None or found.is_first:
                before = found.value
            else:
                change = replace(change_across(before, found.value), reload=reload)
                pace.end()
                yield change
                before, reload = found.value, None

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
                found = Generation.of(now, self.path, self._open_now())
                if identity(self.path) == now:
                    return found
                found.map.close()
        return None

    def _take(self, found: Generation) -> Reload | None:
        before, self._now = self._now, found
        reload = Reload(
            program_change(before, found),
            (before.map.id, found.map.id),
            found.goes_on_with(before),
        )
        if reload.is_other_map:
            before.map.close()
            return reload
        before.map.read_as_in(found.map)  # a new program may have more names for the values
        found.map.close()  # whoever has the handle may go on with it
        self._now = replace(found, map=before.map)
        return reload if before.directory != found.directory else None

    def _wait_for_fold(self) -> None:
        """Wait until nothing is moved; only for the rest of the time if that was begun before."""
        if not is_folding(self.path):
            self._folding_at_s = None
            return
        now_s = time.monotonic()
        since_s = self._folding_at_s = self._folding_at_s or now_s
        left_s = max(since_s + generation.WAIT_MAX_S - now_s, 0.0)
        generation.wait_for_fold(self.path, timeout_s=left_s)
        self._folding_at_s = None

    def _is_still(self) -> bool:
        """Whether the name holds the map that it held when it was last looked at, and all of it.

        In this order: a fold ends with an exchange. A reload that keeps the map takes nothing away;
        it is told the next time.
        """
        if is_folding(self.path):
            return False
        try:
            now = identity(self.path)
            return now is not None and now.pin == self._now.identity.pin
        except PermissionError:  # exchanged; who may read is told a moment later
            return False


class FollowedWatch(Closing, Iterator[Change]):
    """The changes of a map that is followed, by `for`, or by `async for` in an event loop.

    One walk of either kind; `close` ends it, the follower stays. `async for` starts no thread: only
    reading takes the loop's time, and for the moment of a migration waiting for its end.
    """

    def __init__(self, live: Follower, pace: Pace, steps: Iterator[Change | _Wait]) -> None:
        self._live, self._pace, self._steps = live, pace, steps
        self._now = _waiting(live, pace, steps)

    def __next__(self) -> Change:
        return next(self._now)

    def __aiter__(self) -> AsyncIterator[Change]:
        return _waiting_in_a_loop(self._live, self._pace, self._steps)

    def close(self) -> None:
        """End the walk."""
        for generator in (self._now, self._steps):
            generator.close()  # type: ignore[attr-defined]  # both are generators


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What was read of a name; *is_first* if nothing that was read before goes on in it."""

    value: T
    is_first: bool


class _Wait(Enum):
    """What a walk yields where its caller has to wait for the end of the interval."""

    NOW = "wait"


def readings(
    live: Follower, once: Callable[[Map], T], *, pace: Pace, count: int | None = None
) -> Iterator[Reading[T] | Reload | Gone | Migrating]:
    """Yield what *once* reads at first, then at the end of each interval, *count* of them.

    What is noticed meanwhile comes between: a reload; at the end of an interval that the name is
    gone, or that its map has been migrated for long.
    """
    return _waiting(live, pace, _readings(live, once, pace=pace, count=count))


def _waiting(live: Follower, pace: Pace, steps: Iterator[T | _Wait]) -> Iterator[T]:
    """Yield what *steps* does, and wait in this thread where it says so."""
    for step in steps:
        if isinstance(step, _Wait):
            live.wait(pace.deadline_s)
        else:
            yield step


async def _waiting_in_a_loop(
    live: Follower, pace: Pace, steps: Iterator[T | _Wait]
) -> AsyncIterator[T]:
    """Do what `_waiting` does without keeping the event loop."""
    for step in steps:
        if isinstance(step, _Wait):
            await live._wait_in_a_loop(pace.deadline_s)
        else:
            yield step


def _readings(
    live: Follower, once: Callable[[Map], T], *, pace: Pace, count: int | None
) -> Iterator[Reading[T] | Reload | Gone | Migrating | _Wait]:
    is_first = True
    for beat in itertools.chain([live.refresh()], _beats(live, pace=pace, count=count)):
        if beat:
            yield beat
        if isinstance(beat, _Wait):
            continue
        if isinstance(beat, Reload):
            is_first = is_first or beat.is_restart
        if isinstance(beat, Gone) or (beat and not is_first):
            continue
        try:
            value, reload = live.read(once)
        except FoldUnfinishedError:
            yield Migrating(live.path, live.map.id)
            continue
        if reload:
            yield reload
            is_first = is_first or reload.is_restart
        yield Reading(value, is_first)
        is_first = False


def beats(
    live: Follower, *, pace: Pace, count: int | None = None
) -> Iterator[Reload | Gone | None]:
    """Do what `_beats` does, and wait in between."""
    return _waiting(live, pace, _beats(live, pace=pace, count=count))


def _beats(
    live: Follower, *, pace: Pace, count: int | None
) -> Iterator[Reload | Gone | _Wait | None]:
    """Yield None at the end of each interval, `Gone` if the name is gone then; *count* of them.

    A reload is yielded when it is noticed. If it brings another map, the interval begins anew,
    when the caller has taken his first reading of it and comes back. Who reads between the pace's
    `begin` and `end` has longer intervals where reading costs much. At `_Wait` the caller waits for
    the deadline, or until the name changed.
    """
    number = 0
    while count is None or number < count:
        yield _Wait.NOW
        is_over = time.monotonic() >= pace.deadline_s
        reload = live.refresh()
        if reload:
            yield reload
        if reload and reload.is_restart:
            pace.restart()
        elif is_over:
            yield Gone(live.path, live.map.id) if live.is_gone else None
            pace.step()
            number += 1
