"""Follows a map by its path through reloads and migrations.

Two calls of stat(2) tell whether the path still leads to the same map: a reload exchanges the
directory of the set, and a new pin has another inode. inotify(7) only wakes the follower at that
moment; without permission for it, changes are noticed at the end of the interval.

While a map is migrated its entries are in two maps (`generation.py`): such a reading is repeated.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from bpfpin.errors import BpfError, PinNotFoundError
from bpfpin.map import generation
from bpfpin.map.diff_across_migration import change_across
from bpfpin.map.generation import (
    FoldUnfinishedError,
    Generation,
    identity,
    is_folding,
    program_change,
)
from bpfpin.map.open import open_map
from bpfpin.objects.maps.base import ENTRIES_MAX
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.watch import Change, Pace, Reload, Snapshot
from bpfpin.objects.maps.watch import read as read_entries
from bpfpin.records import dataclass
from bpfpin.syscall import fs
from bpfpin.syscall.fd import Closing
from bpfpin.syscall.inotify import Inotify

if TYPE_CHECKING:
    from bpfpin.btf.btf import TypeRef
    from bpfpin.codecs.formats import Format

# How often a path may change while it is opened before the follower gives up until the next time.
_ATTEMPTS: Final = 20
# A reload publishes the set first and grants a group read access afterwards.
_DENIED_FOR_S: Final = 1.0
# poll(2) takes milliseconds as an int, which 25 days overflow. The caller just waits again.
_WAIT_MAX_S: Final = 3600.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Gone:
    """An event: the path leads to nothing now; *map* is the id of the last map."""

    path: Path
    map: int

    def __str__(self) -> str:
        return f"{self.path} is gone; waiting for it"


@dataclass(frozen=True, slots=True)
class StillMigrating:
    """An event: map *map* (its id) has been migrated for too long, so nothing can be read."""

    path: Path
    map: int

    def __str__(self) -> str:
        return (
            f"{self.path} is still being migrated; waiting for it. If the process that did it is"
            " dead, bpfpin clean finishes it, and so does the next load"
        )


def follow_event_to_json(event: Reload | Gone | StillMigrating) -> dict[str, Any]:
    """Return an event of a follower in the form of the JSON documents."""
    if isinstance(event, Reload):
        migrated = {"migrated": True} if event.is_migration else {}
        return {"event": "reload", "program": event.program, "map": event.map, **migrated}
    word = "gone" if isinstance(event, Gone) else "migrating"
    return {"event": word, "path": event.path, "map": event.map}


class BpffsWatch(Closing):
    """Wakes a reader when a name changes in the directory of a pin, or in the one above (inotify).

    Without inotify (no instances left for this user, no permission) `wait` just sleeps.
    """

    def __init__(self) -> None:
        self._inotify: Inotify | None = None
        with suppress(BpfError):  # fs.inotify.max_user_instances is used up
            self._inotify = Inotify()

    def close(self) -> None:
        """Stop watching."""
        if self._inotify:
            self._inotify.close()

    def add(self, path: Path) -> None:
        """Watch the directories above *path* that exist now."""
        if self._inotify is None:
            return
        # Pins come and go in the directory of the set. A reload exchanges that directory, which is
        # an event of the one above. To add a watched directory again changes nothing (inotify(7)).
        for directory in (path.parent, path.parent.parent):
            with suppress(BpfError):  # it was removed, or this user may not read it
                # Above the root of a bpffs is another file system, where no pins come and go.
                if fs.is_bpffs(directory):
                    self._inotify.add(directory)

    def wait(self, timeout_s: float) -> None:
        """Wait until a name changes, at most *timeout_s* seconds."""
        if self._inotify:
            self._inotify.wait(timeout_s)
        else:
            time.sleep(max(0.0, timeout_s))

    async def wait_in_a_loop(self, timeout_s: float) -> None:
        """Do the same as `wait` without blocking the event loop."""
        import asyncio  # noqa: PLC0415  (30 ms)

        if not self._inotify:
            await asyncio.sleep(max(0.0, timeout_s))
            return
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        # A loop has one reader per descriptor, so each wait needs a descriptor of its own.
        with self._inotify.duplicate() as descriptor:
            loop.add_reader(descriptor.fileno(), woken.set)
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), max(0.0, timeout_s))
            finally:
                loop.remove_reader(descriptor.fileno())
        # Take the events out: the descriptor would stay readable, and no later wait would wait.
        self._inotify.wait(0)


def follow(
    path: str | Path,
    *,
    read_only: bool = False,
    key_type: TypeRef | str | None = None,
    value_type: TypeRef | str | None = None,
    key_format: Any = None,
    value_format: Any = None,
    raw: bool = False,
    formats: Mapping[str, Format | str] | None = None,
) -> Follower:
    """Open the map pinned at *path* and follow the path through reloads; use it in a `with`.

    Args:
        path: Path of the pin in a bpffs.
        read_only: Open for reading only; read permission on the pin is enough.
        key_type: BTF type of the keys, or its name, such as `"struct flow"`; see `Map.from_pin`.
        value_type: The same for values.
        key_format: Layout of keys without BTF: a format of the struct module, a
            `ctypes.Structure`, or a `NamedTuple` of annotated integers; see `Map.from_pin`.
        value_format: The same for values.
        raw: Decode enumerations as numbers and char arrays as bytes.
        formats: Formats of single members or types, such as `bpfpin.AUTO`; see `Map.from_pin`.

    Returns:
        The follower, with the map that is pinned now.

    Raises:
        PinNotFoundError: Nothing is pinned at *path* yet.
        PinKindError: A program or a link is pinned there.
        PermissionDeniedError: This user may not open the pin.
        UsageError: A type of that name is not in the BTF of the programs that use the map.
        ValueError: A format does not fit the map.

    Kernel: BPF_OBJ_GET, stat(2), openat2(2) (Linux 5.6), inotify(7) if this user may use it.
    """
    # The process may change its current directory later. Symlinks stay, for `from_pin` to refuse.
    name = Path(path).absolute()
    reading: dict[str, Any] = {
        "key_type": key_type,
        "value_type": value_type,
        "key_format": key_format,
        "value_format": value_format,
        "formats": formats,
    }
    reading = {option: value for option, value in reading.items() if value is not None}
    if raw:
        reading["raw"] = True
    if reading:
        return Follower(name, lambda: Map.from_pin(name, read_only=read_only, **reading))
    return Follower(name, lambda: open_map(str(name), read_only=read_only))


class Follower(Closing):
    """A map that is followed by its path, also through reloads that put another map there.

    `map` is the current handle; when another map takes its place the old handle is closed. That
    happens only within `refresh`, `read`, or a step of `watch`. Not safe for use by two threads.
    Make one with `bpfpin.follow`.

    Args:
        path: Absolute path of the pin.
        open_now: Opens the map that is pinned at *path* now; called again after each reload.
    """

    def __init__(self, path: Path, open_now: Callable[[], Map]) -> None:
        self.path = path
        self._open_now = open_now
        self._denied_at_s: float | None = None
        self._folding_at_s: float | None = None
        self._is_gone = False
        self._watch = BpffsWatch()
        try:
            self._now = self._first()
        except BaseException:
            # A user has few inotify instances (fs.inotify.max_user_instances): none may be left
            # open.
            self._watch.close()
            raise

    @property
    def map(self) -> Map:
        """The current handle; if the pin is gone, the last one, which can still be read."""
        return self._now.map

    @property
    def is_gone(self) -> bool:
        """Whether nothing was pinned at the path at the last look."""
        return self._is_gone

    def close(self) -> None:
        """Close the map and stop following; may be called again."""
        self._now.map.close()
        self._watch.close()

    def refresh(self) -> Reload | None:
        """Look at the path, and replace `map` if a reload put another map there.

        Returns:
            The reload, or None if nothing changed or the pin is gone (see `is_gone`).

        Raises:
            PinKindError: A program or a link is pinned there now.
            PermissionDeniedError: This user has not been allowed to open the pin for a second. A
                reload that has just been published may still be granting access.

        Kernel: stat(2); after a change BPF_OBJ_GET.
        """
        try:
            # Two calls of stat(2) in the usual case; only a change opens the pin.
            is_same = not self._is_gone and identity(self.path) == self._now.identity
            current = None if is_same else self._look()
        except PermissionError:
            if not self._may_be_granted_yet():
                raise
            return None
        self._denied_at_s = None
        return self._take(current) if current else None

    def read(self, once: Callable[[Map], T]) -> tuple[T, Reload | None]:
        """Read the map as a whole, not while a migration moves its entries.

        A migration takes tens of milliseconds, in which the entries are in two maps; then this
        waits, and reads the new map.

        Args:
            once: Reads the map that it is given. It may be called again, with another map.

        Returns:
            The result of *once*, and the reload that was noticed meanwhile, if any.

        Raises:
            BusyError: A migration has been going on for more than ten seconds; from then on
                raised without waiting, as long as the migration lasts.
            PinKindError: A program or a link is pinned there now.
            PermissionDeniedError: This user may not open the pin (any more).
        """
        reload = None
        while True:
            self._wait_for_fold()
            noticed = self.refresh()
            reload = noticed.since(reload) if noticed else reload
            result = once(self.map)
            # Like a reader of a seqlock: a fold that began or ended while *once* read shows now. If
            # the pin is gone, there is no other map to read.
            if self._is_gone or self._is_still():
                return result, reload
            time.sleep(generation.PAUSE_S)

    def wait(self, deadline_s: float) -> bool:
        """Wait until a pin near the path changes, or until the deadline.

        Args:
            deadline_s: When to stop, by `time.monotonic()`.

        Returns:
            True at the deadline, False if something changed before.

        Kernel: inotify(7), else a sleep.
        """
        self._watch.wait(min(deadline_s - time.monotonic(), _WAIT_MAX_S))
        return time.monotonic() >= deadline_s

    async def _wait_in_a_loop(self, deadline_s: float) -> None:
        await self._watch.wait_in_a_loop(min(deadline_s - time.monotonic(), _WAIT_MAX_S))

    def watch(
        self, *, interval_s: float = 1.0, count: int | None = None, entries_max: int = ENTRIES_MAX
    ) -> FollowedWatch:
        """Yield a `Change` for each interval, for `for` or `async for`.

        If the pin is gone at the end of an interval, `Change.is_gone` is true. If a reload brings
        another map, the interval starts again with the first reading of that map: a change never
        mixes two maps. But if the new map was migrated from the old one, the interval goes on:
        members are compared by name, and new members started at 0. The cost is that of
        `Map.watch`.

        Args:
            interval_s: Seconds between two readings; longer if reading takes more than a twentieth
                of it.
            count: Number of intervals; None for no end.
            entries_max: Largest number of entries to read.

        Returns:
            An iterator of `Change`; closing it leaves the follower open.

        Raises:
            LimitError: The map has more than *entries_max* entries.
            PinKindError: A program or a link is pinned there now.
            PermissionDeniedError: This user may not open the pin (any more).
        """
        return FollowedWatch(self, Pace(interval_s), count=count, entries_max=entries_max)

    def _changes(
        self, pace: Pace, count: int | None, entries_max: int
    ) -> Iterator[Change | _WaitStep]:
        def once(bpf_map: Map) -> Snapshot:
            pace.begin()
            return read_entries(bpf_map, entries_max=entries_max)

        before: Snapshot | None = None
        reload, began_s = None, time.monotonic()
        for event in _readings(self, once, pace=pace, count=count):
            if isinstance(event, _WaitStep):
                yield event
            elif isinstance(event, Reload):
                reload = event.since(reload)
            elif not isinstance(event, FollowedReading):
                period_s = time.monotonic() - (before.monotonic_s if before else began_s)
                is_gone = isinstance(event, Gone)
                yield Change(
                    time.time(), period_s, event.map, is_gone=is_gone, is_unfinished=not is_gone
                )
            # The first reading of a map makes no change yet: the next one is compared with it.
            elif before is None or event.is_first:
                before = event.value
            else:
                change = replace(change_across(before, event.value), reload=reload)
                pace.end()
                yield change
                before, reload = event.value, None

    def _first(self) -> Generation:
        current = self._look()
        if current:
            return current
        # No pin, or one that cannot be opened: the usual way to open it has the best error.
        self._open_now().close()  # raises the error for the path
        raise PinNotFoundError(f"{self.path} changes faster than it can be read")

    def _may_be_granted_yet(self) -> bool:
        now_s = time.monotonic()
        if self._denied_at_s is None:
            self._denied_at_s = now_s
        return now_s - self._denied_at_s < _DENIED_FOR_S

    def _look(self) -> Generation | None:
        """Open the map that is pinned now; None if none is, or if it keeps changing."""
        for _ in range(_ATTEMPTS):
            # Watch first, then look: a change in between wakes the next wait.
            self._watch.add(self.path)
            now = identity(self.path)
            self._is_gone = now is None
            if now is None:
                return None
            with suppress(PinNotFoundError):  # exchanged or removed just now
                current = Generation.of(now, self.path, self._open_now())
                # The path may have been exchanged between stat and open: then the map belongs to a
                # generation, but perhaps not to the one that *now* identifies.
                if identity(self.path) == now:
                    return current
                current.map.close()
        return None

    def _take(self, current: Generation) -> Reload | None:
        before, self._now = self._now, current
        reload = Reload(
            program_change(before, current),
            (before.map.id, current.map.id),
            current.continues(before),
        )
        if reload.is_other_map:
            before.map.close()
            return reload
        # Keep the old handle, which the caller may be using; only its types may be newer now: an
        # enumeration of the new program may name more values.
        before.map.read_as_in(current.map)
        current.map.close()
        self._now = replace(current, map=before.map)
        # In the same directory somebody pinned the same map again: no reload, nothing to report.
        return reload if before.directory != current.directory else None

    def _wait_for_fold(self) -> None:
        """Wait until no entries are being moved, at most `WAIT_MAX_S` in all for one migration."""
        if not is_folding(self.path):
            self._folding_at_s = None
            return
        now_s = time.monotonic()
        # Kept from call to call: the next reading does not wait ten seconds more.
        since_s = self._folding_at_s = self._folding_at_s or now_s
        left_s = max(since_s + generation.WAIT_MAX_S - now_s, 0.0)
        generation.wait_for_fold(self.path, timeout_s=left_s)
        self._folding_at_s = None

    def _is_still(self) -> bool:
        """Whether the path still leads to the same map, and no entry was moved out of it.

        The mark of a fold is checked before the identity, because a fold ends with the exchange
        that changes the identity. A reload that keeps the map moves nothing; `refresh` reports it
        the next time.
        """
        if is_folding(self.path):
            return False
        try:
            # The inode of the pin decides: a kept map has a hard link in the next generation.
            now = identity(self.path)
            return now is not None and now.pin == self._now.identity.pin
        except PermissionError:  # exchanged; read access is granted a moment later
            return False


class FollowedWatch(Closing, Iterator[Change]):
    """The changes of a followed map, by `for`, or by `async for` in an event loop.

    Can be walked once; `close` ends the walk and leaves the follower open. `async for` starts no
    thread: reading takes the loop's time, and so does waiting for the end of a migration.
    """

    def __init__(
        self,
        live: Follower,
        pace: Pace,
        *,
        count: int | None = None,
        entries_max: int = ENTRIES_MAX,
    ) -> None:
        """Start the walk; `Follower.watch` calls this.

        Args:
            live: The follower, which stays open after the walk.
            pace: When to read next.
            count: Number of intervals; None for no end.
            entries_max: Largest number of entries to read.
        """
        self._live, self._pace = live, pace
        # `for` and `async for` share this generator and differ only in how they wait.
        self._steps = live._changes(pace, count, entries_max)
        self._now = _waiting(live, pace, self._steps)

    def __next__(self) -> Change:
        return next(self._now)

    def __aiter__(self) -> AsyncIterator[Change]:
        return _waiting_in_a_loop(self._live, self._pace, self._steps)

    def close(self) -> None:
        """End the walk."""
        for generator in (self._now, self._steps):
            generator.close()  # type: ignore[attr-defined]  # both are generators


@dataclass(frozen=True, slots=True)
class FollowedReading(Generic[T]):
    """One reading of a followed map.

    *is_first*: it cannot be compared with earlier readings, because the map is another one.
    """

    value: T
    is_first: bool


class _WaitStep(Enum):
    """Yielded by a walk when its caller has to wait for the end of the interval."""

    NOW = "wait"


def readings(
    live: Follower, once: Callable[[Map], T], *, pace: Pace, count: int | None = None
) -> Iterator[FollowedReading[T] | Reload | Gone | StillMigrating]:
    """Yield a first reading by *once*, then one at the end of each of *count* intervals.

    Events come in between: a reload when it is noticed; `Gone` or `StillMigrating` instead of the
    reading at the end of an interval.
    """
    return _waiting(live, pace, _readings(live, once, pace=pace, count=count))


def _waiting(live: Follower, pace: Pace, steps: Iterator[T | _WaitStep]) -> Iterator[T]:
    """Yield the items of *steps*; at `_WaitStep`, wait in this thread."""
    for step in steps:
        if isinstance(step, _WaitStep):
            live.wait(pace.deadline_s)
        else:
            yield step


async def _waiting_in_a_loop(
    live: Follower, pace: Pace, steps: Iterator[T | _WaitStep]
) -> AsyncIterator[T]:
    """Do the same as `_waiting` without blocking the event loop."""
    for step in steps:
        if isinstance(step, _WaitStep):
            await live._wait_in_a_loop(pace.deadline_s)
        else:
            yield step


def _readings(
    live: Follower, once: Callable[[Map], T], *, pace: Pace, count: int | None
) -> Iterator[FollowedReading[T] | Reload | Gone | StillMigrating | _WaitStep]:
    is_first = True
    # A beat before the first interval: the first reading is at once.
    for beat in itertools.chain([live.refresh()], _beats(live, pace=pace, count=count)):
        if beat:
            yield beat
        if isinstance(beat, _WaitStep):
            continue
        if isinstance(beat, Reload):
            is_first = is_first or beat.is_restart
        # A reload that keeps the map does not end the interval: there is nothing to read yet.
        if isinstance(beat, Gone) or (beat and not is_first):
            continue
        try:
            value, reload = live.read(once)
        except FoldUnfinishedError:
            yield StillMigrating(live.path, live.map.id)
            continue
        if reload:
            yield reload
            is_first = is_first or reload.is_restart
        yield FollowedReading(value, is_first)
        is_first = False


def beats(
    live: Follower, *, pace: Pace, count: int | None = None
) -> Iterator[Reload | Gone | None]:
    """Yield the items of `_beats`, and wait in between."""
    return _waiting(live, pace, _beats(live, pace=pace, count=count))


def _beats(
    live: Follower, *, pace: Pace, count: int | None
) -> Iterator[Reload | Gone | _WaitStep | None]:
    """Yield None at the end of each interval, or `Gone` if the pin is gone; *count* times.

    A reload is yielded when it is noticed. If it brings another map, the interval starts again
    when the caller, after the first reading of that map, asks for the next item. A caller that
    reads between `pace.begin` and `pace.end` gets longer intervals if reading is expensive. At
    `_WaitStep` the caller waits for the deadline, or until a pin changed.
    """
    number = 0
    while count is None or number < count:
        yield _WaitStep.NOW
        # Before the look at the path: to open a new pin takes time, which must not end the
        # interval.
        is_over = time.monotonic() >= pace.deadline_s
        reload = live.refresh()
        if reload:
            yield reload
        # The caller has just read the new map: from there on a whole interval is measured.
        if reload and reload.is_restart:
            pace.restart()
        elif is_over:
            yield Gone(live.path, live.map.id) if live.is_gone else None
            pace.step()
            number += 1
