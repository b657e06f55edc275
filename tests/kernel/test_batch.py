"""Many elements at a time, with and without batches in the kernel."""

from __future__ import annotations

import errno
import gc
import struct

import pytest

from bpfpin.objects.maps import batch, elements
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.call import fail_call
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType

U32 = struct.Struct("<I")
MANY = 10_000
GUARD = 64


def hash_of(entries: int, **changes: object) -> MapSpec:
    """Describe a hash of u32 -> u32."""
    return MapSpec("numbers", MapType.HASH, 4, 4, entries).with_changes(**changes)


def typed(made: Map) -> Map:
    """Return another handle of *made* with numbers for keys and values."""
    return Map.from_id(made.id, key_format="I", value_format="I")


def test_more_than_one_batch_is_written_read_and_deleted() -> None:
    entries = {key: 3 * key for key in range(MANY)}
    with Map.create(hash_of(MANY)) as made, typed(made) as numbers:
        assert numbers.update_batch(entries) == MANY
        assert numbers.to_dict() == entries
        assert len(numbers) == MANY
        assert max(len(part) for part in numbers.lookup_batch()) <= batch.BATCH
        assert numbers.delete_batch(range(0, MANY, 2)) == MANY // 2
        assert sorted(numbers) == list(range(1, MANY, 2))


@pytest.mark.parametrize("entries", [1, 5, 4095, 4096, 4097, MANY])
def test_an_array_is_read_whole_at_every_size(entries: int) -> None:
    spec = MapSpec("array", MapType.ARRAY, 4, 4, entries)
    with Map.create(spec) as made, typed(made) as numbers:
        numbers.update({key: key + 1 for key in range(entries)})

        assert numbers.to_dict() == {key: key + 1 for key in range(entries)}
        assert list(numbers.values()) == list(range(1, entries + 1))
        assert numbers.dump_bytes()[0] == b"".join(map(U32.pack, range(entries)))


PER_CPU = [MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH, MapType.PERCPU_ARRAY]


@pytest.mark.parametrize("kind", PER_CPU, ids=lambda kind: kind.name)
def test_per_cpu_values_travel_in_batches(kind: MapType) -> None:
    cpus = possible_cpus()
    entries = {key: [key + cpu for cpu in range(cpus)] for key in range(8)}
    with Map.create(MapSpec("percpu", kind, 4, 4, 8)) as made, typed(made) as numbers:
        numbers.update(entries)

        assert numbers.to_dict() == entries


OTHERS = [
    (MapType.LPM_TRIE, 8, MapFlag.NO_PREALLOC),
    (MapType.LRU_HASH, 4, MapFlag(0)),
    (MapType.HASH, 4, MapFlag.NO_PREALLOC),
]


@pytest.mark.parametrize(("kind", "key_size", "flags"), OTHERS, ids=str)
def test_every_keyed_map_is_walked(kind: MapType, key_size: int, flags: MapFlag) -> None:
    spec = MapSpec("m", kind, key_size, 4, 64, map_flags=flags)
    keys = [struct.pack("<II", 32, key)[-key_size:] for key in range(16)]
    if kind == MapType.LPM_TRIE:
        keys = [struct.pack("<I", 32) + struct.pack(">I", key) for key in range(16)]
    with Map.create(spec) as made:
        for key in keys:
            made[key] = key[-4:]

        assert dict(made.items()) == {key: key[-4:] for key in keys}


@pytest.mark.parametrize("code", [524, errno.EINVAL], ids=["ENOTSUPP", "EINVAL"])
def test_a_kernel_without_batches_is_read_key_by_key(code: int) -> None:
    with Map.create(hash_of(16)) as made, typed(made) as numbers:
        numbers.update({key: key for key in range(10)})
        with fail_call(1, code):
            found = numbers.to_dict()

        assert found == {key: key for key in range(10)}
        assert numbers.to_dict() == found


def test_a_bucket_larger_than_the_batch_doubles_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one element a call, two that share a bucket do not fit."""
    monkeypatch.setattr(batch, "BATCH", 1)
    entries = {key: key for key in range(200)}
    with Map.create(hash_of(256)) as made, typed(made) as numbers:
        numbers.update(entries)
        sizes = [len(part) for part in numbers.lookup_batch()]

        assert numbers.to_dict() == entries
        assert sum(sizes) == 200
        assert max(sizes) > 1


@pytest.mark.parametrize("kind", [MapType.HASH, MapType.LPM_TRIE], ids=lambda kind: kind.name)
def test_a_walk_ends_though_each_key_is_deleted_and_new_ones_come(kind: MapType) -> None:
    is_trie = kind == MapType.LPM_TRIE
    flags = MapFlag.NO_PREALLOC if is_trie else MapFlag(0)
    spec = MapSpec("m", kind, 8 if is_trie else 4, 4, 64, map_flags=flags)
    prefix = U32.pack(32) if is_trie else b""
    with Map.create(spec) as made:
        made.update({prefix + U32.pack(key): bytes(4) for key in range(32)})
        fresh, steps = 1000, 0
        for key in made:
            steps += 1
            del made[key]
            fresh += 1
            made[prefix + U32.pack(fresh)] = bytes(4)

        assert 32 <= steps <= batch.STEPS_PER_ENTRY * 64 + batch.BATCH
        assert len(made) == 32


def test_two_walks_at_a_time_do_not_meet() -> None:
    with Map.create(hash_of(64)) as made, typed(made) as numbers:
        numbers.update({key: key for key in range(50)})
        pairs = [(a, b) for a in numbers for b in numbers]

        assert len(set(pairs)) == 2500


@pytest.mark.parametrize("kind", PER_CPU, ids=lambda kind: kind.name)
@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 16, 17])
def test_nothing_is_written_behind_a_buffer(
    kind: MapType, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a per-CPU value the kernel copies all CPUs, each padded to eight bytes."""
    guards: list[memoryview] = []
    plain = elements.buffer

    def guarded(length: int) -> tuple[memoryview, int]:
        whole, address = plain(length + GUARD)
        whole[length:] = bytes([0xA5]) * GUARD
        guards.append(whole[length:])
        return whole[:length], address

    monkeypatch.setattr(batch, "buffer", guarded)
    monkeypatch.setattr(elements, "buffer", guarded)
    cpus = possible_cpus()
    entries = {
        U32.pack(key): [bytes([key + cpu]) * size for cpu in range(cpus)] for key in range(6)
    }
    with (
        Map.create(MapSpec("m", kind, 4, size, 6)) as made,
        Map.from_id(made.id, key_format="4s") as again,
    ):
        made.update(
            {U32.unpack(key)[0] if made.is_array else key: value for key, value in entries.items()}
        )

        assert {key: again[key] for key in again} == entries
        assert again.to_dict() == entries
        assert dict(part for parts in again.lookup_batch() for part in parts) == entries
    assert len(guards) > 2
    assert {bytes(guard) for guard in guards} == {bytes([0xA5]) * GUARD}


EMPTIED = [
    pytest.param(MapType.HASH, MapFlag(0), id="HASH"),
    pytest.param(MapType.LRU_HASH, MapFlag(0), id="LRU_HASH"),
    pytest.param(MapType.LPM_TRIE, MapFlag.NO_PREALLOC, id="LPM_TRIE"),
]


@pytest.mark.parametrize(("kind", "flags"), EMPTIED)
def test_a_map_is_emptied_in_batches(kind: MapType, flags: MapFlag) -> None:
    entries = {struct.pack("<II", 32, key): U32.pack(key) for key in range(2 * batch.BATCH)}
    with Map.create(MapSpec("m", kind, 8, 4, 4 * batch.BATCH, map_flags=flags)) as made:
        made.update_batch(entries)
        taken = list(made.lookup_and_delete_batch())

        assert {key: value for part in taken for key, value in part} == entries
        assert len(taken) > 1
        assert len(made) == 0


def test_a_map_is_emptied_where_the_kernel_has_no_batches() -> None:
    with Map.create(hash_of(16)) as made, typed(made) as numbers:
        numbers.update({1: 10, 2: 20})
        with fail_call(1, 524):
            taken = [entry for part in numbers.lookup_and_delete_batch() for entry in part]

        assert sorted(taken) == [(1, 10), (2, 20)]
        assert len(numbers) == 0


def test_an_array_cannot_be_emptied() -> None:
    spec = MapSpec("a", MapType.ARRAY, 4, 4, 4)
    with Map.create(spec) as made, pytest.raises(TypeError, match="is an array"):
        made.lookup_and_delete_batch()


@pytest.mark.parametrize("was_on", [True, False])
def test_the_search_for_cycles_is_left_as_it_was(was_on: bool) -> None:
    entries = batch.WORTH_A_PAUSE
    with Map.create(hash_of(entries)) as made, typed(made) as numbers:
        numbers.update_batch((key, key) for key in range(entries))
        before = gc.isenabled()
        try:
            (gc.enable if was_on else gc.disable)()
            assert len(numbers.to_dict()) == entries
            assert gc.isenabled() is was_on
        finally:
            (gc.enable if before else gc.disable)()
