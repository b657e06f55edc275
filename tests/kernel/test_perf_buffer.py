"""Perf buffers: events of real programs by CPU, and what was lost."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bpfpin.errors import BusyError
from bpfpin.objects.events.perf_buffer import PerfBuffer
from bpfpin.objects.events.perf_ring import Lost
from bpfpin.syscall.cpu import online_cpus
from bpfpin.syscall.mmap import PAGE_SIZE
from support.events import Teller, on_cpu, teller
from support.wait import HANG_S, wait_until

RECORD = 32  # of an event of 16 bytes: header, length, padding
FITTING = PAGE_SIZE // RECORD - 1  # the kernel never fills a buffer to the last byte


@pytest.fixture
def programs() -> Iterator[Teller]:
    with teller() as made:
        yield made


@pytest.fixture
def buffer(programs: Teller) -> Iterator[PerfBuffer]:
    with buffer_of(programs) as opened:
        yield opened


@pytest.fixture
def first_cpu() -> Iterator[int]:
    cpu = online_cpus()[0]
    with on_cpu(cpu):
        yield cpu


def buffer_of(programs: Teller, **changes: Any) -> PerfBuffer:
    reading = {"event_type": "struct event", "pages": 1, **changes}
    return PerfBuffer.of(programs.loaded.maps["samples"], **reading)


def numbers(events: list[Any]) -> list[int]:
    return [event["number"] for event in events]


def test_events_of_every_cpu_are_read(programs: Teller, buffer: PerfBuffer) -> None:
    for cpu in online_cpus():
        with on_cpu(cpu):
            programs.run("tell_perf", repeat=3)

    events = buffer.consume()
    assert sorted(numbers(events)) == list(range(3 * len(online_cpus())))
    assert {event["cpu"] for event in events} == set(online_cpus())
    assert events[0]["change"] == -1
    assert buffer.available_bytes == 0


def test_events_of_one_cpu_come_once_and_in_order_however_often_its_buffer_wraps(
    programs: Teller, buffer: PerfBuffer, first_cpu: int
) -> None:
    taken: list[int] = []
    for _ in range(10):
        programs.run("tell_perf", repeat=100)
        taken += numbers(buffer.consume())

    assert taken == list(range(1000))
    assert buffer.lost == 0


def test_lost_events_are_told_at_once_and_only_once(
    programs: Teller, buffer: PerfBuffer, first_cpu: int
) -> None:
    """The kernel's own record of them comes only with the next event that finds room."""
    programs.run("tell_perf", repeat=FITTING + 10)

    *events, lost = buffer.consume()
    assert numbers(events) == list(range(FITTING))
    assert lost == Lost(first_cpu, 10)
    assert buffer.consume() == []

    programs.run("tell_perf")
    assert numbers(buffer.consume()) == [FITTING + 10]
    assert buffer.lost == 10


def test_the_record_of_a_loss_stands_where_it_happened(
    programs: Teller, buffer: PerfBuffer, first_cpu: int
) -> None:
    programs.run("tell_perf", repeat=FITTING + 5)
    events = buffer.consume(10)  # makes room, and the end of the buffer is not reached
    programs.run("tell_perf", repeat=2)
    events += buffer.consume()

    assert [event for event in events if isinstance(event, Lost)] == [Lost(first_cpu, 5)]
    kept = [event for event in events if not isinstance(event, Lost)]
    assert numbers(kept) == [*range(FITTING), FITTING + 5, FITTING + 6]


def test_an_event_larger_than_the_buffer_is_lost_and_told(
    programs: Teller, buffer: PerfBuffer, first_cpu: int
) -> None:
    programs.tell_bytes(bytes(4096), program="tell_perf_bytes")

    assert buffer.consume() == [Lost(first_cpu, 1)]


@pytest.mark.parametrize("size", [1, 4, 5, 12, 17, 1000])
def test_a_sample_of_any_size_comes_with_the_padding_of_the_kernel(
    programs: Teller, size: int
) -> None:
    data = os.urandom(size)
    with buffer_of(programs, event_type=None) as buffer:
        for _ in range(10):
            programs.tell_bytes(data, program="tell_perf_bytes")

            (event,) = buffer.consume()
            assert event[:size] == data
            assert (len(event) + 4) % 8 == 0
            assert len(event) - size < 8


def test_samples_of_other_sizes_stand_as_bytes_among_typed_ones(
    programs: Teller, buffer: PerfBuffer, first_cpu: int
) -> None:
    programs.run("tell_perf")
    programs.tell_bytes(b"abcdefgh" * 4, program="tell_perf_bytes")
    programs.run("tell_perf")

    first, plain, last = buffer.consume()
    assert numbers([first, last]) == [0, 1]
    assert plain == b"abcdefgh" * 4 + bytes(4)


def test_a_limit_leaves_the_others_in_the_buffer(
    programs: Teller, buffer: PerfBuffer, first_cpu: int
) -> None:
    programs.run("tell_perf", repeat=5)

    assert numbers(buffer.consume(2)) == [0, 1]
    assert buffer.available_bytes == 3 * RECORD
    assert numbers(buffer.consume()) == [2, 3, 4]


def test_a_watermark_still_gives_everything(programs: Teller, first_cpu: int) -> None:
    with buffer_of(programs, watermark_bytes=PAGE_SIZE // 2) as buffer:
        later = threading.Timer(0.02, programs.run, args=("tell_perf",))
        later.start()
        events = buffer.poll(5)
        later.join()

    assert numbers(events) == [0]


def test_closing_takes_the_buffers_out_of_the_map(programs: Teller) -> None:
    with buffer_of(programs):
        programs.run("tell_perf")
        assert programs.seen("refused") == 0

    programs.run("tell_perf")
    assert programs.seen("refused") == 1


def test_a_second_reader_is_refused_and_takes_nothing_from_the_first(
    programs: Teller, buffer: PerfBuffer
) -> None:
    with pytest.raises(BusyError, match="already"):
        buffer_of(programs)

    programs.run("tell_perf")
    assert numbers(buffer.consume()) == [0]


@pytest.mark.parametrize("pages", [0, 3, -1])
def test_the_pages_are_a_power_of_two(programs: Teller, pages: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        buffer_of(programs, pages=pages)


def test_a_walk_ends_when_the_buffer_is_closed(programs: Teller) -> None:
    buffer = buffer_of(programs)
    taken: list[int] = []
    walker = threading.Thread(target=lambda: taken.extend(numbers(list(buffer))))
    walker.start()
    programs.run("tell_perf", repeat=3)
    wait_until(lambda: buffer.available_bytes == 0)
    buffer.close()
    walker.join(timeout=HANG_S)

    assert not walker.is_alive()
    assert taken == [0, 1, 2]


def test_an_event_loop_waits_for_events(programs: Teller, buffer: PerfBuffer) -> None:
    async def story() -> Any:
        task = asyncio.ensure_future(anext(aiter(buffer)))
        await asyncio.sleep(0.01)
        programs.run("tell_perf")
        return await asyncio.wait_for(task, 5)

    assert asyncio.run(story())["number"] == 0
