"""Why the kernel refuses an entry: the index, the prefix, the device, the flag, the inner map."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from bpfpin.errors import (
    IncompatibleMapError,
    InterfaceNotFoundError,
    KeyExistsError,
    KeyNotFoundError,
    MapFullError,
    UsageError,
)
from bpfpin.loading.collection import load
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec, ObjectSpec
from bpfpin.uapi import MapFlag, MapType, UpdateFlag

VALUE = {MapType.ARRAY: 8, MapType.PERCPU_ARRAY: 8, MapType.CPUMAP: 4, MapType.DEVMAP: 4}
PAST_THE_END = "index 4 is past the end: max_entries is 4"


def made(kind: MapType, *, key: int = 4, value: int = 4, entries: int = 4, flags: int = 0) -> Map:
    return Map.create(MapSpec("m", kind, key, value, entries, map_flags=flags))


@pytest.mark.parametrize(
    "kind",
    [
        MapType.ARRAY,
        MapType.PERCPU_ARRAY,
        MapType.PROG_ARRAY,
        MapType.DEVMAP,
        MapType.CPUMAP,
        MapType.XSKMAP,
    ],
    ids=lambda kind: kind.name.lower(),
)
def test_an_index_past_the_end_is_told_as_that(kind: MapType) -> None:
    entries = 1 if kind is MapType.CPUMAP else 4  # no more than the kernel has CPUs
    text = f"index {entries} is past the end: max_entries is {entries}"
    key = struct.pack("<I", entries)
    with made(kind, value=VALUE.get(kind, 4), entries=entries) as held:
        is_plain = kind in (MapType.ARRAY, MapType.PERCPU_ARRAY)
        copied = len(held.lookup_bytes(bytes(4))) if is_plain else held.value_size
        with pytest.raises(KeyNotFoundError, match=text):
            held.update_bytes(key, bytes(copied))
        if is_plain:
            with pytest.raises(KeyNotFoundError, match=text):
                held.lookup_bytes(key)
        if not held.is_array:
            with pytest.raises(KeyNotFoundError, match=text):
                held.delete_bytes(key)


def test_an_index_past_the_end_in_a_batch_is_named() -> None:
    with made(MapType.ARRAY, value=8) as held, pytest.raises(KeyNotFoundError, match=PAST_THE_END):
        held.update_batch([(index, bytes(8)) for index in range(6)])


def test_a_full_hash_says_how_many_there_are() -> None:
    with made(MapType.HASH, entries=2) as held:
        for index in range(2):
            held.update_bytes(struct.pack("<I", index), bytes(4))
        with pytest.raises(MapFullError, match="no room for the key: max_entries is 2"):
            held.update_bytes(struct.pack("<I", 2), bytes(4))


@pytest.fixture
def trie() -> Iterator[Map]:
    with made(MapType.LPM_TRIE, key=8, flags=MapFlag.NO_PREALLOC) as held:
        yield held


def test_a_prefix_longer_than_the_key_is_told_as_that(trie: Map) -> None:
    key = struct.pack("<I4s", 33, bytes(4))
    text = "prefix length 33 is more than the 32 bits of a key"

    with pytest.raises(UsageError, match=text):
        trie.update_bytes(key, bytes(4))
    with pytest.raises(KeyNotFoundError, match=text):
        trie.lookup_bytes(key)
    with pytest.raises(KeyNotFoundError, match=text):
        trie.delete_bytes(key)


@pytest.mark.parametrize("kind", [MapType.DEVMAP, MapType.DEVMAP_HASH])
@pytest.mark.parametrize("size", [4, 8])
def test_a_device_that_is_not_there_is_told_as_that(kind: MapType, size: int) -> None:
    value = struct.pack("<I", 999_999).ljust(size, b"\0")
    with made(kind, value=size) as held:
        with pytest.raises(InterfaceNotFoundError, match="no device with ifindex 999999"):
            held.update_bytes(bytes(4), value)
        held.update_bytes(bytes(4), struct.pack("<I", 1).ljust(size, b"\0"))  # lo


def test_the_queue_of_a_cpu_has_a_limit() -> None:
    with (
        made(MapType.CPUMAP, entries=1) as held,
        pytest.raises(UsageError, match="a queue of 20000 packets; at most 16384"),
    ):
        held.update_bytes(bytes(4), struct.pack("<I", 20_000))


@pytest.mark.parametrize("kind", [MapType.PROG_ARRAY, MapType.PERF_EVENT_ARRAY])
def test_a_flag_that_the_type_does_not_take_is_named(kind: MapType) -> None:
    with (
        made(kind) as held,
        pytest.raises(TypeError, match="written without flags, not with NOEXIST"),
    ):
        held.update_bytes(bytes(4), bytes(4), flag=UpdateFlag.NOEXIST)


def test_every_index_of_an_array_is_there() -> None:
    with made(MapType.ARRAY) as held, pytest.raises(KeyExistsError, match="every index is there"):
        held.update_bytes(bytes(4), bytes(4), flag=UpdateFlag.NOEXIST)


INNER = MapSpec("blue", MapType.HASH, 4, 8, 16)
OUTER = MapSpec("outer", MapType.ARRAY_OF_MAPS, 4, 4, 4, inner=INNER, initial=((1, "blue"),))


@pytest.mark.parametrize(
    ("changes", "field", "old", "new"),
    [
        ({"value_size": 16}, "value_size", "16", "8"),
        ({"key_size": 8}, "key_size", "8", "4"),
        ({"map_flags": MapFlag.NO_PREALLOC}, "map_flags", "0x1", "0x0"),
        ({"type": MapType.LRU_HASH}, "type", "lru_hash", "hash"),
    ],
)
def test_an_inner_map_that_does_not_fit_names_the_difference(
    changes: dict[str, object], field: str, old: str, new: str
) -> None:
    other = INNER.with_changes(name="red", **changes)
    spec = ObjectSpec({"outer": OUTER, "blue": INNER}, {})
    wrong = ObjectSpec({"outer": OUTER, "blue": other.with_changes(name="blue")}, {})

    with pytest.raises(IncompatibleMapError, match="outer, entry 1") as at_load:
        load(wrong)
    with load(spec) as loaded, Map.create(other) as given:
        with pytest.raises(IncompatibleMapError, match="outer") as later:
            loaded.maps["outer"][0] = given
        with pytest.raises(IncompatibleMapError):
            loaded.maps["outer"].update(0, given, UpdateFlag.ANY)

    for caught in (at_load, later):
        (difference,) = caught.value.differences
        assert (difference.field, difference.new) == (field, new)
        assert difference.old.startswith(old)


def test_inner_arrays_are_of_one_length_unless_they_say_otherwise() -> None:
    inner = MapSpec("blue", MapType.ARRAY, 4, 8, 16)
    longer = inner.with_changes(name="red", max_entries=17)
    spec = ObjectSpec({"outer": OUTER.with_changes(inner=inner), "blue": inner}, {})
    with (
        load(spec) as loaded,
        Map.create(longer) as given,
        pytest.raises(IncompatibleMapError, match="outer") as caught,
    ):
        loaded.maps["outer"][0] = given
    assert [each.field for each in caught.value.differences] == ["max_entries"]
