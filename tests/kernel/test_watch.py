"""A map watched: for and async for, under a busy writer, at a bounded cost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from bpfpin.errors import LimitError
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.watch import SHARE_MAX, Change, Pace
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.maps import COUNTERS, FLOWS, U32

SHORT_S = 0.02
MANY = 20_000


@pytest.fixture
def flows() -> Iterator[Map]:
    """A hash u32 -> u32 with room for many."""
    with Map.create(FLOWS.with_changes(max_entries=MANY)) as made:
        made.update(dict.fromkeys(range(1000), 1))
        yield made


def test_watching_tells_what_came_went_and_changed_and_nothing_else(flows: Map) -> None:
    changes = flows.watch(interval_s=SHORT_S, count=2)
    flows.update({7: 70, 5000: 50})
    del flows[9]
    first, second = list(changes)

    assert (first.changed, first.added, first.removed) == ({7: (1, 70)}, {5000: 50}, {9: 1})
    assert (second.changed, second.added, second.removed) == ({}, {}, {})
    assert first.entries == second.entries == flows.to_dict()
    assert first.map_id == flows.id
    assert first.period_s >= SHORT_S / 2


def test_what_is_told_leads_from_reading_to_reading_under_a_busy_writer(flows: Map) -> None:
    """Applied to the first reading, all changes give the last one, whatever was seen in between."""
    is_over = threading.Event()

    def write() -> None:
        for number in range(1, 10_000):
            if is_over.is_set():
                return
            flows.update({number % 3000: number, 2000 + number % 5000: number})
            flows.pop(number * 7 % 3000, None)

    known = flows.to_dict()
    changes = flows.watch(interval_s=SHORT_S, count=8)
    writer = threading.Thread(target=write)
    writer.start()
    found = [next(changes) for _ in range(7)]
    is_over.set()
    writer.join()
    found.append(next(changes))
    for change in found:
        applied(change, to=known)

    assert known == flows.to_dict()
    assert any(change.changed for change in found)
    assert any(change.added for change in found)


def applied(change: Change, *, to: dict[int, int]) -> None:
    for key, value in change.removed.items():
        assert to.pop(key) == value
    for key, (old, new) in change.changed.items():
        assert to[key] == old
        to[key] = new
    assert not change.added.keys() & to.keys()
    to.update(change.added)


@pytest.mark.parametrize(
    "spec",
    [
        COUNTERS,
        MapSpec("counters", MapType.ARRAY, 4, 4, 5, key=U32, value=U32),
        MapSpec("lru", MapType.LRU_HASH, 4, 4, 64, key=U32, value=U32),
        MapSpec("bytes", MapType.HASH, 6, 3, 8),
    ],
    ids=lambda spec: spec.name,
)
def test_every_kind_of_value_is_told_as_it_reads(spec: MapSpec) -> None:
    with Map.create(spec) as held:
        key = 3 if spec.key else b"\0" * 6
        held[key] = held._value.decode(bytes(held._value.size))
        changes = held.watch(interval_s=SHORT_S)
        old = held[key]
        held[key] = held._value.decode(b"\1" * held._value.size)
        change = next(changes)

        assert change.changed == {key: (old, held[key])}
        assert change.entries[key] == held[key] != old


def test_many_watch_at_the_same_time_in_one_thread(flows: Map) -> None:
    async def first_of(watched: Map) -> Change:
        async for change in watched.watch(interval_s=SHORT_S):
            if change.changed:
                return change
        raise AssertionError

    async def both() -> list[Change]:
        with Map.create(FLOWS) as other:
            other[1] = 1
            tasks = [asyncio.create_task(first_of(watched)) for watched in (flows, other)]
            await asyncio.sleep(0)
            flows[1], other[1] = 10, 11
            return await asyncio.gather(*tasks)

    changes = asyncio.run(both())

    assert [change.changed for change in changes] == [{1: (1, 10)}, {1: (1, 11)}]


def test_watching_can_be_cancelled_and_leaves_nothing(flows: Map) -> None:
    async def cancelled() -> bool:
        async def watch() -> None:
            async for _ in flows.watch(interval_s=60):
                raise AssertionError

        task = asyncio.create_task(watch())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task.cancelled()

    assert asyncio.run(cancelled())
    assert threading.active_count() == 1
    assert flows[1] == 1


def test_an_async_watch_ends_after_its_count(flows: Map) -> None:
    async def count() -> int:
        return len([change async for change in flows.watch(interval_s=SHORT_S, count=2)])

    assert asyncio.run(count()) == 2


def test_what_cannot_be_watched_is_refused_at_once(flows: Map) -> None:
    with pytest.raises(LimitError, match="more than 999 entries"):
        flows.watch(entries_max=999)
    with pytest.raises(ValueError, match="more than 0"):
        flows.watch(interval_s=0)
    with (
        Map.create(MapSpec("jobs", MapType.QUEUE, 0, 4, 1, value=U32)) as jobs,
        pytest.raises(TypeError, match="is a queue"),
    ):
        jobs.watch()


def test_a_map_that_is_closed_ends_the_watch(flows: Map) -> None:
    with Map.from_id(flows.id) as again:
        changes = again.watch(interval_s=SHORT_S)
    with pytest.raises(ValueError, match="closed"):
        next(changes)


def test_an_interval_is_stretched_where_reading_costs_too_much() -> None:
    pace = Pace(0.001)
    pace.begin()
    began_s = time.thread_time()
    while time.thread_time() - began_s < 0.002:
        pass
    pace.end()

    assert pace.stretched_s >= 0.002 / SHARE_MAX
    pace.begin()
    pace.end()
    assert pace.stretched_s < 0.002 / SHARE_MAX
