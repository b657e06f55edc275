"""Ring buffers: events of real programs, taken, waited for, walked."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bpfpin.btf.types import Struct
from bpfpin.errors import BusyError, NotSupportedError, ReadOnlyMapError, UsageError
from bpfpin.loading.collection import load
from bpfpin.objects.events.ring_buffer import RingBuffer
from bpfpin.objects.events.source import EventSource
from bpfpin.objects.kernel.info import MapInfo, map_info
from bpfpin.objects.maps import base
from bpfpin.objfile.reader import read_object
from bpfpin.spec import MapSpec
from bpfpin.syscall.mmap import PAGE_SIZE, SharedPages
from bpfpin.uapi import MapFlag, MapType
from support.events import EVENT_SIZE, RING_SIZE, Teller, need_second_cpu, teller
from support.objects import compiled
from support.wait import HANG_S, wait_until

NO_WAKEUP = 1


@pytest.fixture
def programs() -> Iterator[Teller]:
    with teller() as made:
        yield made


@pytest.fixture
def ring(programs: Teller) -> Iterator[RingBuffer]:
    with ring_of(programs) as opened:
        yield opened


def ring_of(programs: Teller, **reading: Any) -> RingBuffer:
    if not reading:
        reading = {"event_type": "struct event"}
    return RingBuffer.of(programs.loaded.maps["events"], **reading)


def numbers(events: list[Any]) -> list[int]:
    return [event["number"] for event in events]


def test_events_read_as_the_named_structure(programs: Teller, ring: RingBuffer) -> None:
    programs.tell(3)

    first, *others = ring.consume()
    assert first == {"number": 0, "cpu": first["cpu"], "change": 0}
    assert [(event["number"], event["change"]) for event in others] == [(1, -1), (2, -2)]
    assert ring.consume() == []


def test_every_event_comes_once_and_in_order_however_often_the_ring_wraps(
    programs: Teller, ring: RingBuffer
) -> None:
    taken: list[int] = []
    for _ in range(20):
        programs.tell(50)
        taken += numbers(ring.consume())

    assert taken == list(range(1000))
    assert ring.producer_position == ring.consumer_position == 1000 * EVENT_SIZE > 5 * RING_SIZE


def test_a_limit_below_0_is_refused_and_moves_no_position(
    programs: Teller, ring: RingBuffer
) -> None:
    programs.tell(10)
    position = ring.consumer_position
    for take in (ring.consume, lambda limit: ring.poll(0, limit=limit)):
        with pytest.raises(ValueError, match="limit is -1"):
            take(-1)

    assert ring.consumer_position == position
    assert ring.poll(limit=0) == []


def test_a_limit_leaves_the_others_in_the_ring(programs: Teller, ring: RingBuffer) -> None:
    programs.tell(10)

    assert numbers(ring.consume(3)) == [0, 1, 2]
    assert ring.available_bytes == 7 * EVENT_SIZE
    assert ring.consume(0) == []
    assert numbers(ring.poll(0, limit=4)) == [3, 4, 5, 6]
    assert numbers(ring.consume()) == [7, 8, 9]


def test_what_a_full_ring_refuses_only_the_program_knows(
    programs: Teller, ring: RingBuffer
) -> None:
    fitting = RING_SIZE // EVENT_SIZE
    programs.tell(fitting + 30)

    assert numbers(ring.consume()) == list(range(fitting))
    assert programs.seen("refused") == 30


@pytest.mark.parametrize("size", [1, 7, 8, 9, 15, 17, 1000, RING_SIZE - 16])
def test_a_record_of_any_size_comes_whole(programs: Teller, ring: RingBuffer, size: int) -> None:
    """Three of them, so that the larger ones stand across the end of the ring."""
    data = os.urandom(size)
    for _ in range(3):
        programs.tell_bytes(data)

        assert ring.consume() == [data]


def test_a_record_larger_than_the_ring_is_refused_to_the_program(
    programs: Teller, ring: RingBuffer
) -> None:
    programs.tell_bytes(bytes(RING_SIZE - 8))

    assert programs.seen("refused") == 1
    assert ring.poll(0) == []


def test_records_of_other_sizes_stand_as_bytes_among_typed_ones(
    programs: Teller, ring: RingBuffer
) -> None:
    for number in range(6):
        programs.tell(1)
        programs.tell_bytes(bytes([number]) * 5)

    taken = ring.consume()
    assert numbers(taken[::2]) == list(range(6))
    assert taken[1::2] == [bytes([number]) * 5 for number in range(6)]


def test_discarded_records_are_left_out(programs: Teller, ring: RingBuffer) -> None:
    programs.run("take_back", repeat=3)
    programs.tell(2)
    programs.run("take_back", repeat=30)
    programs.tell(1)
    programs.run("take_back")

    assert numbers(ring.consume(1)) == [0]
    assert numbers(ring.consume()) == [1, 2]
    assert ring.consume() == []
    assert ring.available_bytes == 0


def test_a_record_that_is_not_submitted_yet_holds_back_those_behind_it(
    programs: Teller, ring: RingBuffer
) -> None:
    need_second_cpu()
    programs.tell(1)
    holder = threading.Thread(target=programs.run, args=("hold",))
    holder.start()
    wait_until(lambda: ring.available_bytes == 2 * EVENT_SIZE)
    programs.tell(1)

    assert numbers(ring.consume()) == [0]
    assert ring.poll(0.05) == []
    assert ring.available_bytes == 2 * EVENT_SIZE

    programs.set(is_done=1)
    taken = ring.poll(5, limit=1) + ring.poll(5)
    holder.join()
    assert numbers(taken) == [77, 1]


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        ({}, {"number": 0, "change": 0}),
        ({"event_type": "event"}, {"number": 0, "change": 0}),
        ({"value_format": "<QIi"}, (0, 0)),
    ],
    ids=["struct", "name", "format"],
)
def test_what_an_event_is_may_be_told_in_several_ways(
    programs: Teller, reading: dict[str, Any], expected: object
) -> None:
    programs.tell(1)
    with ring_of(programs, **reading) as ring:
        (event,) = ring.consume()

    if isinstance(event, tuple):
        assert (event[0], event[2]) == expected
    else:
        assert {name: event[name] for name in ("number", "change")} == expected


def test_without_a_type_events_are_bytes(programs: Teller) -> None:
    programs.tell(2)
    with RingBuffer.from_id(programs.map_id) as ring:
        assert [int.from_bytes(event[:8], "little") for event in ring.consume()] == [0, 1]


def test_the_definition_of_a_ring_may_say_what_its_events_are() -> None:
    spec = read_object(compiled("events"))
    assert spec.btf is not None
    event = spec.btf.ref(spec.btf.find("event", Struct) or 0)
    typed = spec.with_map("events", value=event, max_entries=RING_SIZE)
    with load(typed) as loaded:
        Teller(loaded).tell(2)
        with RingBuffer.of(loaded.maps["events"]) as ring:
            assert numbers(ring.consume(1)) == [0]
        with RingBuffer.of(loaded.maps["events"], value_format="<QIi") as ring:
            assert ring.consume()[0][0] == 1


def test_formats_go_for_members_of_events(programs: Teller) -> None:
    programs.tell(1)
    with ring_of(programs, event_type="struct event", formats={"number": "hex"}) as ring:
        assert ring.consume()[0]["number"] == "0x0"


def test_an_unknown_type_is_told_with_those_that_there_are(programs: Teller) -> None:
    with pytest.raises(UsageError, match="no type 'struct evnt'") as caught:
        ring_of(programs, event_type="struct evnt")

    assert "struct event (16 bytes)" in caught.value.hint
    assert "xdp_md" not in caught.value.hint


def test_a_structure_is_not_found_as_a_union(programs: Teller) -> None:
    with pytest.raises(UsageError, match="no type 'union event'"):
        ring_of(programs, event_type="union event")


def test_another_kind_of_map_is_no_ring(programs: Teller) -> None:
    with pytest.raises(TypeError, match="is an array, not a ringbuf"):
        RingBuffer.of(programs.loaded.maps["control"])


def test_a_ring_that_programs_overwrite_is_not_read(
    programs: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels that make such rings are newer than most, so the flag is faked."""

    def overwritten(fd: int) -> MapInfo:
        return replace(map_info(fd), map_flags=MapFlag.RB_OVERWRITE)

    monkeypatch.setattr(base, "map_info", overwritten)
    with pytest.raises(NotSupportedError, match="overwrite unread events"):
        ring_of(programs)


def test_a_handle_for_reading_only_is_refused(programs: Teller, bpffs: Path) -> None:
    programs.loaded.maps["events"].pin(bpffs / "events")
    with pytest.raises(ReadOnlyMapError):
        RingBuffer.from_pin(bpffs / "events", read_only=True)
    with RingBuffer.from_pin(bpffs / "events") as ring:
        assert ring.max_entries == RING_SIZE


def test_a_second_reader_is_refused_until_the_first_is_closed(programs: Teller) -> None:
    programs.tell(2)
    with ring_of(programs) as second:
        with ring_of(programs) as first:
            assert numbers(first.consume(1)) == [0]
            with pytest.raises(BusyError, match=f"by process {os.getpid()} already"):
                second.consume()

        assert numbers(second.consume()) == [1]


def test_a_position_that_somebody_else_moved_is_told(programs: Teller, ring: RingBuffer) -> None:
    programs.tell(3)
    with SharedPages(ring.fd, PAGE_SIZE, writable=True) as page, page.words(8) as words:
        words[0] = 4
        with pytest.raises(BusyError, match="another reader uses it"):
            ring.consume()

        programs.tell_bytes(b"\xff\xff\xff\x3f" * 4)
        words[0] = 3 * EVENT_SIZE + 8  # on the data of a record, which make no header
        with pytest.raises(BusyError, match="another reader uses it"):
            ring.consume()


def test_poll_waits_for_the_first_event(programs: Teller, ring: RingBuffer) -> None:
    later = threading.Timer(0.05, programs.tell, args=(2,))
    later.start()
    taken = ring.poll(5)
    later.join()

    assert numbers(taken + ring.poll(0)) == [0, 1]


def test_poll_without_an_event_ends_in_time(ring: RingBuffer) -> None:
    start = time.monotonic()

    assert ring.poll(0.03) == []
    assert 0.03 <= time.monotonic() - start < 2


def test_events_submitted_without_a_wake_up_are_found_all_the_same(
    programs: Teller, ring: RingBuffer
) -> None:
    later = threading.Timer(0.02, programs.tell, args=(1,), kwargs={"flags": NO_WAKEUP})
    later.start()
    taken = ring.poll(5)
    later.join()

    assert numbers(taken) == [0]


def test_a_walk_gives_what_comes_and_ends_when_it_is_closed(programs: Teller) -> None:
    ring = ring_of(programs)
    taken: list[int] = []
    walker = threading.Thread(target=lambda: taken.extend(numbers(list(ring))))
    walker.start()
    programs.tell(3)
    wait_until(lambda: ring.available_bytes == 0)
    ring.close()
    walker.join(timeout=HANG_S)

    assert not walker.is_alive()
    assert taken == [0, 1, 2]


def test_close_ends_a_poll_that_waits(programs: Teller) -> None:
    ring = ring_of(programs)
    answers: list[list[Any]] = []
    waiter = threading.Thread(target=lambda: answers.append(ring.poll()))
    waiter.start()
    wait_until(lambda: ring._waiter is not None and ring._waiter._waiting > 0)
    ring.close()
    waiter.join(timeout=HANG_S)

    assert answers == [[]]


def test_what_a_broken_off_walk_read_ahead_is_given_next(
    programs: Teller, ring: RingBuffer
) -> None:
    programs.tell(5)

    assert numbers(list(itertools.islice(ring, 2))) == [0, 1]
    assert numbers(ring.consume(1)) == [2]
    assert numbers(list(itertools.islice(ring, 1))) == [3]
    programs.tell(1)
    assert numbers(ring.consume()) == [4, 5]


def test_threads_share_a_handle_and_each_event_comes_to_one(programs: Teller) -> None:
    taken: list[int] = []

    def walk(shared: RingBuffer) -> None:
        for event in shared:
            taken.append(event["number"])

    with ring_of(programs) as ring:
        walkers = [threading.Thread(target=walk, args=(ring,)) for _ in range(3)]
        for walker in walkers:
            walker.start()
        for _ in range(20):
            programs.tell(100)
            wait_until(lambda: ring.available_bytes == 0)
        wait_until(lambda: len(taken) == 2000)
    for walker in walkers:
        walker.join(timeout=HANG_S)

    assert sorted(taken) == list(range(2000))


def test_nothing_is_lost_untold_while_programs_and_reader_run_at_once(programs: Teller) -> None:
    """What was refused to the program is missing, everything else is there and in order."""
    ring = ring_of(programs)
    programs.set(count=100)
    taken: list[int] = []
    runs = 0

    def reader_went_round() -> bool:
        nonlocal runs
        programs.run("tell")
        runs += 1
        return len(taken) > 2 * RING_SIZE // EVENT_SIZE

    def tell() -> None:
        try:
            wait_until(reader_went_round)
            wait_until(lambda: ring.available_bytes == 0)
        finally:
            ring.close()

    teller_thread = threading.Thread(target=tell)
    teller_thread.start()
    for event in ring:
        taken.extend(numbers([event]))
    teller_thread.join()

    assert taken == list(range(len(taken)))
    assert len(taken) + programs.seen("refused") == 100 * runs
    assert len(taken) > 2 * RING_SIZE // EVENT_SIZE


def test_a_ring_is_made_with_what_its_events_are() -> None:
    with RingBuffer.create(MapSpec("mine", MapType.RINGBUF, 0, 0, 5000), value_format="Q") as ring:
        assert (ring.max_entries, ring.available_bytes) == (8192, 0)
        assert ring.consume() == []


def test_a_closed_ring_says_so(programs: Teller) -> None:
    ring = ring_of(programs)
    ring.close()
    ring.close()

    for use in (ring.consume, ring.poll, lambda: iter(ring), lambda: ring.available_bytes):
        with pytest.raises(ValueError, match="the map is closed"):
            use()


async def gather(ring: EventSource, taken: list[int], *, until: int) -> None:
    async for event in ring:
        taken.append(event["number"])
        if len(taken) == until:
            return


def test_an_event_loop_waits_for_events(programs: Teller, ring: RingBuffer) -> None:
    taken: list[int] = []

    async def story() -> None:
        task = asyncio.create_task(gather(ring, taken, until=300))
        for _ in range(3):
            await asyncio.sleep(0.01)
            await asyncio.to_thread(programs.tell, 100)
        await asyncio.wait_for(task, 5)

    asyncio.run(story())
    assert taken == list(range(300))


def test_two_tasks_may_walk_one_ring(programs: Teller, ring: RingBuffer) -> None:
    taken: list[int] = []

    async def story() -> None:
        tasks = [asyncio.create_task(gather(ring, taken, until=0)) for _ in range(2)]
        await asyncio.sleep(0.01)
        programs.tell(40)
        while len(taken) < 40:
            await asyncio.sleep(0.01)
        ring.close()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)

    asyncio.run(story())
    assert sorted(taken) == list(range(40))


def test_a_cancelled_task_leaves_the_ring_usable(programs: Teller, ring: RingBuffer) -> None:
    taken: list[int] = []

    async def story() -> None:
        task = asyncio.create_task(gather(ring, taken, until=0))
        programs.tell(2)
        while len(taken) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    programs.tell(1)
    assert taken == [0, 1]
    assert numbers(ring.consume()) == [2]


def test_an_event_loop_does_not_spin_on_a_record_that_is_held(
    programs: Teller, ring: RingBuffer
) -> None:
    need_second_cpu()
    taken: list[int] = []
    holder = threading.Thread(target=programs.run, args=("hold",))
    holder.start()
    wait_until(lambda: ring.available_bytes == EVENT_SIZE)

    async def story() -> None:
        task = asyncio.create_task(gather(ring, taken, until=1))
        await asyncio.sleep(0.05)
        assert taken == []
        programs.set(is_done=1)
        await asyncio.wait_for(task, 5)

    asyncio.run(story())
    holder.join()
    assert taken == [77]
