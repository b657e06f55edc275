"""A name followed through reloads: by exchange, by rename, over an absence, under a busy writer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from bpfpin.errors import (
    LimitError,
    PinKindError,
    PinNotFoundError,
    SyscallError,
)
from bpfpin.map import follow as alarm_module
from bpfpin.map import follow as follow_module
from bpfpin.map.follow import Follower, Gone, beats, follow
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.watch import Change, Pace, Reload
from bpfpin.objects.programs.program import Program
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.maps import FLOWS
from support.nobody import let_everybody_enter, nobody
from support.sets import counted, publish, unpublish, xdp_program

SHORT_S = 0.05
LONG_S = 60.0
PLAIN = MapSpec("plain", MapType.ARRAY, 4, 16, 5)


@pytest.fixture
def programs() -> Iterator[tuple[Program, Program]]:
    with xdp_program() as first, xdp_program() as second:
        yield first, second


@pytest.fixture
def maps() -> Iterator[tuple[Map, Map]]:
    """Two maps of the same definition; packets of XDP_PASS: 1000 in the first, 10 in the second."""
    with Map.create(PLAIN) as first, Map.create(PLAIN) as second:
        first[2], second[2] = counted(1000), counted(10)
        yield first, second


@pytest.fixture
def lab0(bpffs: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]) -> Path:
    """A set with the first map and the first program."""
    publish(bpffs / "lab0", {"counters": maps[0]}, {"xdp": programs[0]})
    return bpffs / "lab0"


@pytest.fixture
def live(lab0: Path) -> Iterator[Follower]:
    with follow(lab0 / "counters") as made:
        yield made


def reload(lab0: Path, held: Map, program: Program) -> None:
    publish(lab0, {"counters": held}, {"xdp": program})


def test_a_name_that_stays_is_no_reload(live: Follower, maps: tuple[Map, Map]) -> None:
    assert live.refresh() is None
    assert live.map.id == maps[0].id


def test_a_reload_that_keeps_the_map_keeps_the_handle(
    live: Follower, lab0: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]
) -> None:
    handle = live.map
    reload(lab0, maps[0], programs[1])
    told = live.refresh()

    old, new = programs[0].id, programs[1].id
    assert str(told) == f"reload followed: program {old} -> {new}, same map"
    assert live.map is handle
    assert live.refresh() is None


def test_another_map_under_the_name_is_opened_and_told(
    live: Follower, lab0: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]
) -> None:
    handle = live.map
    reload(lab0, maps[1], programs[1])
    told = live.refresh()

    assert told == Reload((programs[0].id, programs[1].id), (maps[0].id, maps[1].id))
    assert str(told) == f"map {maps[0].id} -> {maps[1].id}: counters restart"
    assert live.map[2] == counted(10)
    with pytest.raises(ValueError, match="closed"):
        _ = handle.fd


def test_of_several_hooks_the_one_that_changed_is_told(
    bpffs: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]
) -> None:
    first, second = programs
    publish(bpffs / "set", {"counters": maps[0]}, {"tcx": first, "xdp": first})
    with follow(bpffs / "set/counters") as live:
        publish(bpffs / "set", {"counters": maps[0]}, {"tcx": first, "xdp": second})
        told = live.refresh()

    assert told == Reload((first.id, second.id), (maps[0].id, maps[0].id))


def test_a_generation_without_programs_is_told_as_such(
    live: Follower, lab0: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]
) -> None:
    """What `unload --keep-maps` leaves."""
    publish(lab0, {"counters": maps[0]}, {})

    assert str(live.refresh()) == f"reload followed: program {programs[0].id} -> none, same map"


def test_directories_and_pins_of_others_are_followed_without_programs(
    bpffs: Path, maps: tuple[Map, Map]
) -> None:
    (bpffs / "theirs").mkdir()
    maps[0].pin(bpffs / "theirs/counters")
    with follow(bpffs / "theirs/counters") as live:
        maps[1].pin(bpffs / "theirs/next")
        (bpffs / "theirs/next").rename(bpffs / "theirs/counters")
        told = live.refresh()

    assert told == Reload((None, None), (maps[0].id, maps[1].id))


def test_the_same_map_pinned_anew_is_no_reload(bpffs: Path, maps: tuple[Map, Map]) -> None:
    maps[0].pin(bpffs / "counters")
    with follow(bpffs / "counters") as live:
        (bpffs / "counters").unlink()
        maps[0].pin(bpffs / "counters")

        assert live.refresh() is None
        assert live.map[2] == counted(1000)


def test_a_definition_that_changed_reads_as_it_is_now(live: Follower, lab0: Path) -> None:
    with Map.create(FLOWS) as flows:
        flows[7] = 70
        publish(lab0, {"counters": flows}, {})
        live.refresh()

    assert live.map.to_dict() == {7: 70}


def test_a_caller_s_format_reads_every_generation(
    lab0: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]
) -> None:
    with follow(lab0 / "counters", value_format="QQ", read_only=True) as live:
        before = live.map[2]
        reload(lab0, maps[1], programs[1])
        live.refresh()

        assert (before, live.map[2]) == ((1000, 0), (10, 0))


def test_a_name_that_holds_nothing_cannot_be_followed(bpffs: Path) -> None:
    with pytest.raises(PinNotFoundError):
        follow(bpffs / "lab0/counters")


def test_another_kind_of_object_under_the_name_is_refused(
    live: Follower, lab0: Path, programs: tuple[Program, Program]
) -> None:
    (lab0 / "counters").unlink()
    programs[0].pin(lab0 / "counters")

    with pytest.raises(PinKindError):
        live.refresh()


def test_a_name_that_went_is_waited_for(
    live: Follower, lab0: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]
) -> None:
    steps = beats(live, pace=Pace(SHORT_S))
    unpublish(lab0)
    gone = next(steps)
    reload(lab0, maps[1], programs[1])
    back = next(steps)

    assert gone == Gone(lab0 / "counters", maps[0].id)
    assert str(gone) == f"{lab0}/counters is gone; waiting for it"
    assert back == Reload((programs[0].id, programs[1].id), (maps[0].id, maps[1].id))
    assert next(steps) is None


def test_an_absence_within_an_interval_is_only_a_reload(
    live: Follower, lab0: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]
) -> None:
    def unload_then_load() -> None:
        unpublish(lab0)
        reload(lab0, maps[1], programs[1])

    loader = threading.Thread(target=unload_then_load)
    steps = beats(live, pace=Pace(LONG_S))
    loader.start()
    told = next(steps)
    loader.join()

    assert isinstance(told, Reload)


def test_a_reload_wakes_in_the_middle_of_an_interval(
    live: Follower, lab0: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]
) -> None:
    steps = beats(live, pace=Pace(LONG_S))
    loader = threading.Timer(SHORT_S, reload, (lab0, maps[1], programs[1]))
    began_s = time.monotonic()
    loader.start()
    told = next(steps)
    loader.join()

    assert isinstance(told, Reload)
    assert time.monotonic() - began_s < LONG_S / 4


def test_who_may_not_listen_notices_at_the_end_of_the_interval(
    monkeypatch: pytest.MonkeyPatch,
    lab0: Path,
    maps: tuple[Map, Map],
    programs: tuple[Program, Program],
) -> None:
    def no_more_instances() -> NoReturn:
        raise SyscallError("refused", command="inotify_init1")

    monkeypatch.setattr(alarm_module, "Inotify", no_more_instances)
    with follow(lab0 / "counters") as live:
        steps = beats(live, pace=Pace(SHORT_S))
        reload(lab0, maps[1], programs[1])

        assert isinstance(next(steps), Reload)
        assert next(steps) is None


def test_readers_never_fail_while_a_set_is_exchanged_without_end(
    live: Follower, lab0: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]
) -> None:
    def reload_often() -> None:
        for number in range(1, 201):
            reload(lab0, maps[number % 2], programs[number % 2])

    loader = threading.Thread(target=reload_often)
    loader.start()
    seen = []
    while loader.is_alive():
        told = live.refresh()
        seen.append((told, live.is_gone, live.map[2]))
    loader.join()
    live.refresh()

    assert live.map.id == maps[0].id
    assert not any(is_gone for _, is_gone, _ in seen)
    assert {value for _, _, value in seen} <= {counted(10), counted(1000)}
    assert any(told for told, _, _ in seen)


def test_watching_tells_what_was_changed_added_and_removed(bpffs: Path) -> None:
    with Map.create(FLOWS) as flows:
        flows.pin(bpffs / "flows")
        flows.update({1: 10, 2: 20})
        with follow(bpffs / "flows") as live:
            changes = live.watch(interval_s=SHORT_S)
            quiet = next(changes)
            flows.update({1: 11, 3: 30})
            del flows[2]
            change = next(changes)

    assert (quiet.changed, quiet.added, quiet.removed, quiet.reload) == ({}, {}, {}, None)
    assert (change.changed, change.added, change.removed) == ({1: (10, 11)}, {3: 30}, {2: 20})
    assert change.entries == {1: 11, 3: 30}
    assert SHORT_S / 2 < change.period_s < LONG_S
    assert change.map_id == live.map.id


def test_watching_never_compares_two_maps(
    live: Follower, lab0: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]
) -> None:
    changes = live.watch(interval_s=SHORT_S)
    next(changes)
    reload(lab0, maps[1], programs[1])
    change = next(changes)
    maps[1][2] = counted(11)
    after = next(changes)

    assert change.reload is not None
    assert change.reload.map == (maps[0].id, maps[1].id)
    assert (change.map_id, change.changed) == (maps[1].id, {})
    assert change.period_s >= SHORT_S
    assert after.changed == {2: (counted(10), counted(11))}
    assert after.reload is None


def test_watching_tells_several_reloads_of_an_interval_as_one(
    live: Follower, lab0: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]
) -> None:
    changes = live.watch(interval_s=SHORT_S)
    next(changes)
    reload(lab0, maps[0], programs[1])
    with xdp_program() as third:
        reload(lab0, maps[0], third)
        expected = Reload((programs[0].id, third.id), (maps[0].id, maps[0].id))

        assert next(changes).reload == expected


def test_watching_a_name_that_is_gone_says_so_each_time_and_ends(
    live: Follower, lab0: Path
) -> None:
    unpublish(lab0)
    changes = list(live.watch(interval_s=SHORT_S, count=2))

    assert [change.is_gone for change in changes] == [True, True]
    assert [dict(change.entries) for change in changes] == [{}, {}]


def test_watching_more_entries_than_wanted_is_refused(live: Follower) -> None:
    with pytest.raises(LimitError, match="more than 4 entries"):
        next(live.watch(interval_s=SHORT_S, entries_max=4))


def grant(lab0: Path) -> None:
    """Let everybody read, as `load --chmod` does after the exchange."""
    (lab0 / "counters").chmod(0o644)
    lab0.chmod(0o755)


def test_a_reader_of_a_group_waits_until_it_may_read(
    lab0: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]
) -> None:
    let_everybody_enter(lab0.parent)
    grant(lab0)
    with nobody():
        live = follow(lab0 / "counters", read_only=True)
    with live:
        reload(lab0, maps[1], programs[1])
        with nobody():
            denied = live.refresh()
        value = live.map[2]
        grant(lab0)
        with nobody():
            told = live.refresh()

    assert (denied, value) == (None, counted(1000))
    assert told == Reload((None, None), (maps[0].id, maps[1].id))


def test_a_reader_who_may_not_read_any_more_is_told(
    monkeypatch: pytest.MonkeyPatch,
    lab0: Path,
    maps: tuple[Map, Map],
    programs: tuple[Program, Program],
) -> None:
    monkeypatch.setattr(follow_module, "_DENIED_FOR_S", 0.0)
    let_everybody_enter(lab0.parent)
    grant(lab0)
    with nobody():
        live = follow(lab0 / "counters", read_only=True)
    with live:
        reload(lab0, maps[1], programs[1])

        with nobody(), pytest.raises(PermissionError):
            live.refresh()


def test_a_watch_is_walked_in_an_event_loop_too(
    lab0: Path, maps: tuple[Map, Map], programs: tuple[Program, Program]
) -> None:
    """Other tasks run meanwhile, a reload is told, and breaking off leaves the follower usable."""
    ticks = 0

    async def walk(live: Follower) -> list[Change]:
        nonlocal ticks
        changes = []

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        async for change in live.watch(interval_s=SHORT_S):
            changes.append(change)
            if len(changes) == 1:
                reload(lab0, maps[1], programs[1])
            if change.reload or len(changes) > 500:
                break
        ticking.cancel()
        return changes

    with follow(lab0 / "counters") as live:
        changes = asyncio.run(walk(live))
        assert changes[-1].reload is not None
        assert ticks > len(changes)
        assert live.map.id == maps[1].id
        assert len(list(live.watch(interval_s=SHORT_S, count=2))) == 2


def test_a_watch_that_is_cancelled_lets_the_loop_go(lab0: Path) -> None:
    async def walk(live: Follower) -> None:
        async for _ in live.watch(interval_s=LONG_S):
            pass

    async def cancelled(live: Follower) -> None:
        task = asyncio.create_task(walk(live))
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    with follow(lab0 / "counters") as live:
        asyncio.run(cancelled(live))
        assert live.refresh() is None
