"""The number of entries of a map: by the kernel's counter where it has one, else by a walk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.errors import NotSupportedError, PermissionDeniedError
from bpfpin.map.list import list_maps
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.info import fdinfo
from bpfpin.objects.maps import fill
from bpfpin.objects.maps.fill import entry_counts
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.call import fail_call
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType
from support.nobody import nobody

ROOM = 5000
HASHES = [kind for kind in MapType if traits_of(kind).is_hash]
EPERM = 1


@pytest.fixture
def _counter() -> None:
    try:
        fill.function_id()
    except NotSupportedError as error:
        pytest.skip(f"this kernel does not count entries: {error}")


@pytest.fixture
def trie() -> Iterator[Map]:
    """An LPM trie with three prefixes."""
    spec = MapSpec("prefixes", MapType.LPM_TRIE, 8, 4, ROOM, map_flags=MapFlag.NO_PREALLOC)
    with Map.create(spec) as made:
        for length in (8, 16, 24):
            made[length.to_bytes(4, "little") + bytes(4)] = bytes(4)
        yield made


def filled(kind: MapType, count: int, *, flags: int = 0) -> Map:
    made = Map.create(MapSpec("m", kind, 4, 8, ROOM, map_flags=flags))
    value = made.value_size * b"\1"
    per_cpu = [value] * possible_cpus() if made.is_per_cpu else value
    made.update_batch((key.to_bytes(4, "little"), per_cpu) for key in range(count))
    return made


def walked(bpf_map: Map) -> int:
    return sum(batch.count for batch in bpf_map.batches_bytes())


@pytest.mark.usefixtures("_counter")
@pytest.mark.parametrize("kind", HASHES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("flags", [MapFlag(0), MapFlag.NO_PREALLOC], ids=["", "NO_PREALLOC"])
def test_the_counter_of_a_hash_is_what_a_walk_counts(kind: MapType, flags: MapFlag) -> None:
    if flags and traits_of(kind).is_lru:
        pytest.skip("the kernel refuses an LRU hash without preallocation")
    with filled(kind, 1500, flags=flags) as made:
        for key in range(0, 100, 2):
            del made[key.to_bytes(4, "little")]

        assert entry_counts([made.fd]) == [walked(made)] == [1450]
        assert len(made) == 1450
        made.clear()
        assert entry_counts([made.fd]) == [0]


@pytest.mark.usefixtures("_counter")
def test_an_lru_hash_that_evicts_counts_what_is_left() -> None:
    with filled(MapType.LRU_HASH, 3 * ROOM) as made:
        assert entry_counts([made.fd]) == [walked(made)]
        assert 0 < walked(made) <= ROOM


@pytest.mark.usefixtures("_counter")
def test_more_maps_than_a_program_may_refer_to_are_counted_in_their_order() -> None:
    maps = [filled(MapType.HASH, count) for count in range(70)]

    assert entry_counts([made.fd for made in maps]) == list(range(70))
    for made in maps:
        made.close()


def test_the_length_is_the_same_without_the_counter() -> None:
    with filled(MapType.HASH, 1234) as made:
        with fail_call(1, EPERM):
            fill._function_id.cache_clear()
            assert len(made) == 1234
        fill._function_id.cache_clear()
        assert len(made) == 1234


def test_a_user_without_capabilities_is_refused_by_name_and_walks() -> None:
    fill._function_id.cache_clear()
    with filled(MapType.HASH, 1100) as made:
        with nobody():
            with pytest.raises(PermissionDeniedError):
                entry_counts([made.fd])
            assert len(made) == 1100
        fill._function_id.cache_clear()


def test_a_list_counts_hashes_and_walks_others_only_if_asked(bpffs: Path, trie: Map) -> None:
    spec = MapSpec("four", MapType.ARRAY, 4, 4, 4)
    with filled(MapType.HASH, 17) as made, Map.create(spec) as array:

        def entries(*, with_walks: bool) -> list[int | None]:
            rows = list_maps(bpffs, with_walks=with_walks).maps
            by_id = {row.info.id: row.entries for row in rows}
            return [by_id[bpf_map.id] for bpf_map in (made, array, trie)]

        assert entries(with_walks=True) == [17, 4, 3]
        in_trie = 3 if fill.trie_entry_size(8, 4) else None
        try:
            fill.function_id()
        except NotSupportedError:
            assert entries(with_walks=False) == [None, 4, in_trie]
        else:
            assert entries(with_walks=False) == [17, 4, in_trie]


def test_the_entries_of_a_trie_follow_from_its_memory() -> None:
    if not fill.trie_entry_size(8, 16):
        pytest.skip("this kernel reports the memory of a trie by its max_entries")
    spec = MapSpec("p", MapType.LPM_TRIE, 8, 16, ROOM, map_flags=MapFlag.NO_PREALLOC)
    keys = {
        (number % 25 + 8).to_bytes(4, "little") + (number * 2654435761 % 2**32).to_bytes(4, "big")
        for number in range(1000)
    }
    with Map.create(spec) as made:

        def counted() -> int:
            return int(fdinfo(made.fd)["memlock"]) // fill.trie_entry_size(8, 16)

        for key in keys:
            made[key] = bytes(16)
        assert counted() == walked(made) > 900
        for key in list(made)[:300]:
            del made[key]
            made[next(iter(made))] = bytes(16)  # replaced, not added
        assert counted() == walked(made)
