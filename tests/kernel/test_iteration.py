"""Walks over maps that change under them."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bpfpin.objects.maps.batch import BATCH, STEPS_PER_ENTRY
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapFlag, MapType

ROOM = 4096
STAYING = 1000
VALUE = struct.pack("<I", socket.if_nametoindex("lo"))  # what a map of devices takes, too
WHILE_S = 0.3
HANG_S = 60.0


def plain(key: int) -> bytes:
    """Return the key of a hash."""
    return struct.pack("<Q", key)


def word(key: int) -> bytes:
    """Return the key of a map of devices."""
    return struct.pack("<I", key)


def address(key: int) -> bytes:
    """Return the key of a trie: a whole address."""
    return struct.pack("<I", 32) + struct.pack(">I", key)


Key = Callable[[int], bytes]
KINDS = [
    pytest.param(MapType.HASH, MapFlag(0), plain, id="HASH"),
    pytest.param(MapType.HASH, MapFlag.NO_PREALLOC, plain, id="HASH-NO_PREALLOC"),
    pytest.param(MapType.LRU_HASH, MapFlag(0), plain, id="LRU_HASH"),
    pytest.param(MapType.LPM_TRIE, MapFlag.NO_PREALLOC, address, id="LPM_TRIE"),
    pytest.param(MapType.DEVMAP_HASH, MapFlag(0), word, id="DEVMAP_HASH"),
]


@contextmanager
def map_of_bytes(kind: MapType, flags: MapFlag, key_size: int) -> Iterator[Map]:
    """Make a map whose keys and values are bytes, whatever the type makes of them."""
    key, spec = f"{key_size}s", MapSpec("m", kind, key_size, 4, ROOM, map_flags=flags)
    with (
        Map.create(spec) as made,
        Map.from_id(made.id, key_format=key, value_format="4s") as opened,
    ):
        yield opened


def walks(made: Map) -> list[Counter[bytes]]:
    """Return how often each key was seen, for every walk within a time.

    On a busy machine the time goes on until the other thread has changed something between two.
    """
    start = time.monotonic()
    seen = [Counter(list(made))]
    while (passed := time.monotonic() - start) < WHILE_S or (
        len({len(keys) for keys in seen}) == 1 and passed < HANG_S
    ):
        seen.append(Counter(list(made)))
    return seen


@contextmanager
def churning(made: Map, key: Key, *, keys: range) -> Iterator[None]:
    """Insert and delete *keys* again and again in a thread."""
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            for number in keys:
                made.update_bytes(key(number), VALUE)
            for number in keys:
                made.pop(key(number), None)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(("kind", "flags", "key"), KINDS)
def test_a_walk_sees_what_stays_and_nothing_twice(kind: MapType, flags: MapFlag, key: Key) -> None:
    staying = {key(number) for number in range(STAYING)}
    with map_of_bytes(kind, flags, len(key(0))) as made:
        made.update_batch((one, VALUE) for one in staying)
        with churning(made, key, keys=range(STAYING, STAYING + 500)):
            passes = walks(made)

    assert all(staying <= seen.keys() for seen in passes)
    assert {count for seen in passes for count in seen.values()} == {1}
    assert len({len(seen) for seen in passes}) > 1, "nothing came or went"


def test_a_walk_sees_what_another_process_leaves_there() -> None:
    staying = {plain(number) for number in range(STAYING)}
    with Map.create(MapSpec("m", MapType.HASH, 8, 4, ROOM)) as made:
        made.update_batch((one, VALUE) for one in staying)
        child = os.fork()
        if not child:  # nothing but bytes, so that no lock of another thread is needed
            end = time.monotonic() + 20 * WHILE_S
            while time.monotonic() < end:
                for number in range(STAYING, STAYING + 500):
                    made.update_bytes(plain(number), VALUE)
                    made.delete_bytes(plain(number))
            os._exit(0)
        try:
            passes = walks(made)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)

    assert all(staying <= seen.keys() for seen in passes)
    assert {count for seen in passes for count in seen.values()} == {1}
    assert len({len(seen) for seen in passes}) > 1, "nothing came or went"


@pytest.mark.parametrize(("kind", "flags", "key"), KINDS)
def test_a_walk_goes_on_behind_the_keys_that_are_deleted(
    kind: MapType, flags: MapFlag, key: Key
) -> None:
    with map_of_bytes(kind, flags, len(key(0))) as made:
        made.update_batch((key(number), VALUE) for number in range(100))
        seen = [(one, made.pop(one)) for one in made]

        assert len(seen) == 100
        assert len(made) == 0


def test_a_trie_whose_keys_are_always_new_is_left_after_a_bounded_number_of_steps() -> None:
    room = 8
    spec = MapSpec("m", MapType.LPM_TRIE, 8, 4, room, map_flags=MapFlag.NO_PREALLOC)
    with Map.create(spec) as made:
        made[address(0)] = VALUE
        steps = 0
        walk = made._batches._keys()
        for steps, one in enumerate(walk, 1):
            del made[one]
            made[address(steps)] = VALUE

    assert steps <= STEPS_PER_ENTRY * room + BATCH


def test_sockets_that_are_closed_meanwhile_stop_no_walk() -> None:
    spec = MapSpec("m", MapType.SOCKHASH, 4, 8, 64)
    with Map.create(spec) as made, socket.create_server(("127.0.0.1", 0)) as server:
        pairs = [
            (socket.create_connection(server.getsockname()), server.accept()[0]) for _ in range(8)
        ]
        for number, (client, _) in enumerate(pairs):
            made.update_bytes(struct.pack("<I", number), struct.pack("<Q", client.fileno()))
        seen = []
        for key in made._batches._keys():
            seen.append(key)
            for end in pairs[int.from_bytes(key, "little")]:
                end.close()

        assert sorted(seen) == [struct.pack("<I", number) for number in range(8)]
        assert len(made) == 0


def test_a_map_that_is_closed_meanwhile_says_so() -> None:
    entries = [(plain(number), VALUE) for number in range(2 * BATCH)]
    for kind in (MapType.HASH, MapType.LPM_TRIE):
        flags = MapFlag.NO_PREALLOC if kind == MapType.LPM_TRIE else MapFlag(0)
        key = address if kind == MapType.LPM_TRIE else plain
        made = Map.create(MapSpec("m", kind, 8, 4, 2 * BATCH, map_flags=flags))
        made.update_batch((key(number), value) for number, (_, value) in enumerate(entries))
        walk = made.lookup_batch()
        next(walk)
        made.close()
        with Map.create(MapSpec("other", kind, 8, 4, 8, map_flags=flags)) as other:
            other[key(7)] = VALUE  # it has the number of the descriptor now
            with pytest.raises(ValueError, match="the map is closed"):
                list(walk)


def test_a_map_of_one_handle_is_closed_for_that_handle_alone() -> None:
    with Map.create(MapSpec("m", MapType.HASH, 8, 4, 2 * BATCH)) as made:
        made.update_batch((plain(number), VALUE) for number in range(2 * BATCH))
        with Map.from_id(made.id) as again:
            walk = again.lookup_batch()
            found = len(next(walk))
        with pytest.raises(ValueError, match="the map is closed"):
            next(walk)

        assert 0 < found < len(made)
