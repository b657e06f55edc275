"""What ring buffers and perf buffers have in common: events are taken, waited for, walked."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from bpfpin.objects.events.event_map import EventMap
from bpfpin.syscall.fd import Descriptor
from bpfpin.syscall.waiter import Waiter

if TYPE_CHECKING:
    import asyncio

READ_AHEAD = 256  # events that a walk takes at a time
# A program may submit without waking anybody (BPF_RB_NO_WAKEUP), so we look now and then.
LOOK_ANYWAY_S = 0.25
# A record that is reserved and not submitted yet counts as readable: waiting would only spin.
NAP_S = 0.001
SHORT, LONG = 16, 4096  # records that are looked at in one step: first, and when all were alike


class EventSource(EventMap):
    """A map that programs send events by; taking an event removes it.

    `for event in events` waits for each and ends when some thread calls `close`;
    `async for event in events` does so in an event loop, without a thread, and ends with `close` or
    with its task. A walk takes up to 256 events at a time. It hands them all out before it ends; if
    it is broken off, the next `consume`, `poll` or walk of this handle gives the others first, and
    they end with the handle. Threads may share one.
    """

    def __init__(self, descriptor: Descriptor, **reading: Any) -> None:
        self._ahead: deque[Any] = deque()
        self._waiter: Waiter | None = None
        super().__init__(descriptor, **reading)

    def consume(self, limit: int | None = None) -> list[Any]:
        """Take the events that are there, *limit* at most, without waiting; `[]` for none.

        `ValueError` once it is closed.
        """
        with self._lock:
            _ = self.fd  # a closed one says so
            ahead = self._ahead
            found = [ahead.popleft() for _ in range(min(len(ahead), _number(limit, len(ahead))))]
            left = None if limit is None else limit - len(found)
            return found if left == 0 else found + self._read(left)

    def poll(self, timeout_s: float | None = None, *, limit: int | None = None) -> list[Any]:
        """Wait until there is an event and take what is there, *limit* at most.

        `[]` after *timeout_s* seconds without one (None: for ever), and when another thread closes
        the handle meanwhile. `ValueError` if it is closed already.
        """
        deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        found, is_ready = self.consume(limit), False
        with self._until_closed():
            while not found and (left := deadline - time.monotonic()) > 0:
                if is_ready:
                    time.sleep(min(NAP_S, left))
                is_ready = self._waiting().wait(min(LOOK_ANYWAY_S, left))
                found = self.consume(limit)
        return found

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
            # Also after events: a flood of them must not keep the loop.
            await pause(NAP_S if is_ready else 0)
            with self._until_closed():
                is_ready = await ready(self._waiting(), LOOK_ANYWAY_S)

    def _fetch(self, timeout_s: float) -> None:
        """Have events at hand, unless there is none for so long or the handle is closed."""
        with self._until_closed():
            if not self._ahead:
                self._ahead.extend(self.poll(timeout_s, limit=READ_AHEAD))

    @contextlib.contextmanager
    def _until_closed(self) -> Iterator[None]:
        """End the block when another thread closes the handle meanwhile."""
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
        """Take up to *limit* events out of the kernel's memory; the lock is held."""
        raise NotImplementedError

    def _watched(self) -> list[int]:
        """Return the descriptors that are readable when there is an event."""
        raise NotImplementedError


def _number(limit: int | None, otherwise: int) -> int:
    return otherwise if limit is None else limit


# Records in a ring, found many at a time.


class Run(NamedTuple):
    """*records* of them with the same header *word*, one every *stride* bytes from *start* on."""

    word: int
    start: int
    records: int
    stride: int


def runs(words: memoryview, start: int, end: int, stride_of: Callable[[int], int]) -> Iterator[Run]:
    """Yield the records between the bytes *start* and *end*, in order.

    Each begins with a header whose first word says how far it is to the next one, which is what
    *stride_of* returns for it; 0 ends the walk. So does a record that would pass *end*. *words* is
    the memory as words of the header's size. Most events are as long as the one before; so the
    headers that would follow then are read in one step, by a slice.
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
    """Return how many of *headers*, from the first on, are *word*; only so far they are headers."""
    count = headers.count(word)
    if count == len(headers):
        return count
    return next(index for index, other in enumerate(headers) if other != word)


# Waiting for descriptors in an event loop, without a thread.


async def ready(waiter: Waiter, timeout_s: float) -> bool:
    """Do what `waiter.wait` does without keeping the loop; `ValueError` once it is closed."""
    import asyncio  # noqa: PLC0415  (30 ms, for those who use it already)

    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()
    # Each has a number of its own, since a loop has one reader for a number.
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
    """Let the other tasks of the loop run."""
    import asyncio  # noqa: PLC0415  (see above)

    await asyncio.sleep(seconds)


def _settle(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
