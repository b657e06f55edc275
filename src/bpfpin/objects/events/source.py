"""What ring buffers and perf buffers share: taking events, waiting for them, iterating."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from bpfpin.objects.events.event_map import EventMap
from bpfpin.syscall.waiter import Waiter

if TYPE_CHECKING:
    import asyncio

READ_AHEAD = 256  # events that an iteration reads at a time
# A program may submit, or drain, without waking anybody (BPF_RB_NO_WAKEUP), so waiting threads
# look now and then.
LOOK_ANYWAY_S = 0.25
# A record that is reserved but not submitted yet makes the descriptor readable
# (ringbuf_map_poll_kern() of kernel/bpf/ringbuf.c compares positions alone), so waiting on it would
# only spin.
NAP_S = 0.001
SHORT, LONG = (
    16,
    4096,
)  # headers compared in one step: at first, and after steps that were all alike


class EventSource(EventMap):
    """A map that programs send events through; taking an event removes it.

    `for event in events` waits for each event and ends when any thread calls `close`;
    `async for event in events` does the same in an event loop, without a thread, and ends with
    `close` or with its task.

    An iteration reads up to 256 events ahead. If it is broken off, the next `consume`, `poll` or
    iteration of the same handle returns the rest first; `close` drops them. Threads may share a
    handle.
    """

    def _prepare(self) -> None:
        self._ahead: deque[Any] = deque()
        self._waiter: Waiter | None = None
        super()._prepare()

    def consume(self, limit: int | None = None) -> list[Any]:
        """Take the available events, without waiting.

        Args:
            limit: The most events to take. Default: all. `Lost` records do not count.

        Returns:
            The events in order; an empty list if there are none.

        Raises:
            BusyError: Another reader takes events from the map.
            ValueError: *limit* is negative, or the handle is closed.
        """
        # A ring would take it for a number of records to go back.
        if limit is not None and limit < 0:
            raise ValueError(f"limit is {limit}: it is a number of events from 0")
        with self._lock:
            _ = self.fd  # raises if closed
            ahead = self._ahead
            room = len(ahead) if limit is None else limit
            events = [ahead.popleft() for _ in range(min(len(ahead), room))]
            left = None if limit is None else limit - len(events)
            return events if left == 0 else events + self._read(left)

    def poll(self, timeout_s: float | None = None, *, limit: int | None = None) -> list[Any]:
        """Wait until there is an event, and take the available ones.

        Args:
            timeout_s: Seconds to wait. Default: without limit.
            limit: The most events to take. Default: all.

        Returns:
            The events in order; an empty list if none came in time, or if another thread closed the
            handle.

        Raises:
            BusyError: Another reader takes events from the map.
            ValueError: *limit* is negative, or the handle is closed already.
        """
        deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        events, is_ready = self.consume(limit), False
        with self._until_closed():
            while not events and limit != 0 and (left := deadline - time.monotonic()) > 0:
                if is_ready:
                    time.sleep(min(NAP_S, left))
                is_ready = self._waiting().wait(min(LOOK_ANYWAY_S, left))
                events = self.consume(limit)
        return events

    def __iter__(self) -> Iterator[Any]:
        _ = self.fd
        return self._as_they_come()

    def __aiter__(self) -> AsyncIterator[Any]:
        _ = self.fd
        return self._as_they_come_in_a_loop()

    def _as_they_come(self) -> Iterator[Any]:
        while not self.is_closed:
            self._fetch(LOOK_ANYWAY_S)
            yield from self._handed_out()

    async def _as_they_come_in_a_loop(self) -> AsyncIterator[Any]:
        is_ready = False
        while not self.is_closed:
            self._fetch(0)
            if self._ahead:
                for event in self._handed_out():
                    yield event
                is_ready = False
            # Also after events: a flood of them must not starve the loop's other tasks.
            await pause(NAP_S if is_ready else 0)
            with self._until_closed():
                is_ready = await ready(self._waiting(), LOOK_ANYWAY_S)

    def _fetch(self, timeout_s: float) -> None:
        """Read events ahead, unless some are left; wait up to *timeout_s* for the first."""
        with self._until_closed():
            if not self._ahead:
                self._ahead.extend(self.poll(timeout_s, limit=READ_AHEAD))

    @contextlib.contextmanager
    def _until_closed(self) -> Iterator[None]:
        """Leave the block if another thread closes the handle meanwhile."""
        try:
            yield
        except ValueError:
            if not self.is_closed:
                raise

    def _handed_out(self) -> Iterator[Any]:
        while True:
            try:
                event = self._ahead.popleft()
            except IndexError:
                return
            yield event

    def _waiting(self) -> Waiter:
        with self._lock:
            if self._waiter is None:
                self._waiter = Waiter(self._watched())
            return self._waiter

    def _let_go(self) -> None:
        if self._waiter is not None:
            self._waiter.close()

    def _read(self, limit: int | None) -> list[Any]:
        """Take up to *limit* events from the kernel's memory; the caller holds the lock."""
        raise NotImplementedError

    def _watched(self) -> list[int]:
        """Return the descriptors that become readable with an event."""
        raise NotImplementedError


class Run(NamedTuple):
    """Consecutive records with the same header.

    *word* is the first word of the header, *start* the position of the first record in bytes,
    *records* their number and *stride* the distance between them.
    """

    word: int
    start: int
    records: int
    stride: int


def runs(words: memoryview, start: int, end: int, stride_of: Callable[[int], int]) -> Iterator[Run]:
    """Yield the records between the bytes *start* and *end*, in order, as runs of equal headers.

    *words* is the memory as words. *stride_of* returns the distance from a record to the next one
    by the header's first word; 0 ends the walk, and so does a record that would pass *end*. Most
    events are as long as the one before, so the headers of equally long records are read in one
    step, by a slice.
    """
    unit, length = words.itemsize, SHORT
    while start < end:
        word = words[start // unit]
        stride = stride_of(word)
        if not stride or stride > end - start:
            return
        wanted = min((end - start) // stride, length)
        first, step = start // unit, stride // unit
        count = _alike(words[first : first + wanted * step : step].tolist(), word)
        yield Run(word, start, count, stride)
        start += count * stride
        length = min(2 * length, LONG) if count == wanted else SHORT


def _alike(headers: list[int], word: int) -> int:
    """Return how many of *headers* from the first on are *word*; the rest may not be headers."""
    count = headers.count(word)
    if count == len(headers):
        return count
    return next(index for index, other in enumerate(headers) if other != word)


async def ready(waiter: Waiter, timeout_s: float) -> bool:
    """Wait as `waiter.wait` does, without blocking the event loop; `ValueError` if it is closed."""
    import asyncio  # noqa: PLC0415  (takes 30 ms; callers have imported it already)

    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()
    # A loop has one reader for each descriptor, so every task waits on a descriptor of its own.
    with waiter.watched() as fd:
        loop.add_reader(fd, _settle, woken)
        try:
            await asyncio.wait_for(woken, timeout_s)
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(fd)
    return True


async def pause(seconds: float) -> None:
    """Let other tasks of the loop run for *seconds*."""
    import asyncio  # noqa: PLC0415  (see above)

    await asyncio.sleep(seconds)


def _settle(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
