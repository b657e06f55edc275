"""Many elements written or deleted at a time, with and without batches in the kernel."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator

import pytest

from bpfpin.errors import KeyExistsError, KeyNotFoundError, MapFullError
from bpfpin.objects.maps import batch
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.call import fail_call
from bpfpin.uapi import MapFlag, MapType, UpdateFlag

MANY = 10_000


def hash_of(entries: int, **changes: object) -> MapSpec:
    """Describe a hash of u32 -> u32."""
    return MapSpec("numbers", MapType.HASH, 4, 4, entries).with_changes(**changes)


def typed(made: Map) -> Map:
    """Return another handle of *made* with numbers for keys and values."""
    return Map.from_id(made.id, key_format="I", value_format="I")


def test_a_kernel_without_batches_is_written_one_by_one() -> None:
    with Map.create(hash_of(16)) as made, typed(made) as numbers:
        with fail_call(1, 524):
            assert numbers.update_batch({1: 10, 2: 20}) == 2
        assert numbers.to_dict() == {1: 10, 2: 20}
        with typed(made) as again, fail_call(1, 524):
            assert again.delete_batch([1, 2]) == 2
        assert len(numbers) == 0


def test_what_is_refused_is_named_and_what_stood_before_it_is_written() -> None:
    with Map.create(hash_of(4)) as made, typed(made) as numbers:
        with pytest.raises(MapFullError, match="no room for the key"):
            numbers.update_batch([(key, key) for key in range(9)])
        assert len(numbers) == 4
        with pytest.raises(KeyNotFoundError) as caught:
            numbers.delete_batch([*list(numbers)[:2], 77])

        assert f"map numbers (id {made.id}), key 77: there is no such key" in str(caught.value)
        assert len(numbers) == 2


def test_nothing_to_write_or_delete_is_no_error() -> None:
    with Map.create(hash_of(4)) as made, typed(made) as numbers:
        assert numbers.update_batch({}) == 0
        assert numbers.delete_batch([]) == 0


def test_entries_stream_in_from_a_generator() -> None:
    waiting: list[int] = []

    def entries(held: Map) -> Iterator[tuple[int, int]]:
        for key in range(MANY):
            if not key % 1000:
                waiting.append(key - len(held))
            yield key, key

    with Map.create(hash_of(MANY)) as made, typed(made) as numbers:
        assert numbers.update_batch(entries(made)) == MANY
        assert len(numbers) == MANY

    assert 0 < max(waiting) <= batch.BATCH


@pytest.mark.parametrize("kind", [MapType.HASH, MapType.LRU_HASH], ids=lambda kind: kind.name)
def test_flags_that_batches_lack_hold_for_many_entries(kind: MapType) -> None:
    with Map.create(hash_of(8, type=kind)) as made, typed(made) as numbers:
        numbers.update_batch({1: 10}, flag=UpdateFlag.NOEXIST)
        with pytest.raises(KeyExistsError, match="key 1: "):
            numbers.update_batch({2: 20, 1: 11}, flag=UpdateFlag.NOEXIST)
        with pytest.raises(KeyNotFoundError, match="key 3: "):
            numbers.update_batch({1: 12, 3: 30}, flag=UpdateFlag.EXIST)

        assert numbers.to_dict() == {1: 12, 2: 20}


def test_what_does_not_fit_leaves_its_batch_unwritten() -> None:
    with Map.create(hash_of(8)) as made, typed(made) as numbers:
        with pytest.raises(ValueError, match="does not fit"):
            numbers.update_batch([(1, 1), (2, 1 << 32)])

        assert len(numbers) == 0


def test_a_full_trie_says_so() -> None:
    spec = MapSpec("trie", MapType.LPM_TRIE, 8, 4, 4, map_flags=MapFlag.NO_PREALLOC)
    entries = [(struct.pack("<II", 32, number), bytes(4)) for number in range(5)]
    with Map.create(spec) as made:
        with pytest.raises(MapFullError, match="no room for the key"):
            made.update_batch(entries)
        with pytest.raises(MapFullError, match="no room for the key"):
            made[entries[4][0]] = bytes(4)


def test_arrays_are_written_as_they_lie_in_memory() -> None:
    keys, values = array("I", range(MANY)), array("I", range(MANY, 0, -1))
    with Map.create(hash_of(MANY)) as made, typed(made) as numbers:
        assert numbers.update_arrays(keys, values) == MANY
        assert numbers.to_dict() == dict(zip(keys, values, strict=True))
        assert numbers.to_list() == list(numbers.items())
        assert numbers.update_arrays(*made.dump_bytes()) == MANY
        assert numbers.update_arrays(array("I"), array("I")) == 0


def test_arrays_that_do_not_fit_are_refused_before_anything_is_written() -> None:
    keys = array("I", range(4))
    with Map.create(hash_of(8)) as made:
        with pytest.raises(ValueError, match="elements of 8 bytes, where the map has 4 bytes"):
            made.update_arrays(keys, array("Q", range(4)))
        with pytest.raises(ValueError, match="4 keys want 4 values of 4 bytes, not 12 bytes"):
            made.update_arrays(keys, array("I", range(3)))
        with pytest.raises(ValueError, match="7 bytes of keys are not a multiple of 4"):
            made.update_arrays(bytes(7), bytes(8))

        assert len(made) == 0
