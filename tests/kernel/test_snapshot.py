"""Maps saved and restored: the same entries, or nothing at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpfpin import restore_map, save_map
from bpfpin.btf import compare
from bpfpin.errors import (
    IncompatibleMapError,
    MapFullError,
    ObjectFileError,
    ReadOnlyMapError,
)
from bpfpin.loading.collection import load
from bpfpin.map.snapshot_file import SnapshotReader, SnapshotWriter
from bpfpin.map.snapshot_fit import definition_of
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType
from support.maps import COUNTERS, DATAREC, FLOWS, KEY, U32
from support.objects import compiled

KINDS = [
    (MapType.HASH, 0),
    (MapType.LRU_HASH, 0),
    (MapType.PERCPU_HASH, 0),
    (MapType.ARRAY, 0),
    (MapType.PERCPU_ARRAY, 0),
    (MapType.LPM_TRIE, int(MapFlag.NO_PREALLOC)),
]
ROOM = 20


def entries(there: Map) -> dict[bytes, bytes]:
    return dict(there.items_bytes())


def filled(spec: MapSpec, content: dict[Any, Any]) -> Map:
    """Make a map with these entries; the caller closes it."""
    made = Map.create(spec)
    made.update_batch(content)
    return made


def value_of(there: Map, seed: int) -> Any:
    """Return a value that tells what it was made of, in a per-CPU map another one for each CPU."""
    if there.is_per_cpu:
        return [bytes([seed ^ cpu]) * there.value_size for cpu in range(possible_cpus())]
    return bytes([seed]) * there.value_size


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 33)),
    seeds=st.lists(st.integers(0, 255), max_size=ROOM, unique=True),
)
def test_what_is_saved_is_what_is_restored(
    tmp_path: Path, kind: tuple[MapType, int], sizes: tuple[int, int], seeds: list[int]
) -> None:
    """Any size of key and value, also odd ones, per CPU and not."""
    is_array, is_trie = kind[0].name.endswith("ARRAY"), kind[0] is MapType.LPM_TRIE
    key_size = 4 if is_array else 6 if is_trie else sizes[0]
    spec = MapSpec("m", kind[0], key_size, sizes[1], ROOM, kind[1])
    path = tmp_path / "m.snapshot"
    with Map.create(spec) as old, Map.create(spec) as new:
        for at, seed in enumerate(seeds):
            key = at.to_bytes(4, "little") if is_array else bytes([seed]) * key_size
            key = b"\x10\0\0\0" + bytes([seed, seed]) if is_trie else key
            old[old._key.decode(key)] = value_of(old, seed)
        saved = save_map(old, path)
        restored = restore_map(path, new)

        assert entries(new) == entries(old)
        assert saved.entries == restored.entries == (ROOM if is_array else len(seeds))
        assert saved.size_bytes == path.stat().st_size


def test_the_file_has_the_types_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "counters"
    with Map.create(COUNTERS) as counters:
        counters[1] = [{"rx_packets": 7, "rx_bytes": 700}] * possible_cpus()
        save_map(counters, path)
        counters[1] = [{"rx_packets": 0, "rx_bytes": 0}] * possible_cpus()
        restore_map(path, counters)

        assert counters.total(1)["rx_packets"] == 7 * possible_cpus()
        assert path.stat().st_mode & 0o777 == 0o600


def test_entries_are_merged_unless_only_those_of_the_file_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    with filled(FLOWS, {1: 10, 2: 20}) as flows:
        save_map(flows, path)
        flows.update_batch({2: 21, 3: 30})
        merged = restore_map(path, flows)
        after_merging = flows.to_dict()
        exactly = restore_map(path, flows, exact=True)

        assert after_merging == {1: 10, 2: 20, 3: 30}
        assert flows.to_dict() == {1: 10, 2: 20}
        assert (merged.deleted, exactly.deleted) == (0, 1)


def test_what_does_not_fit_into_the_room_is_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    with filled(FLOWS, {1: 10, 2: 20, 3: 30}) as flows:
        save_map(flows, path)
    with filled(FLOWS, {3: 31, 4: 41, 5: 51}) as flows:
        with pytest.raises(MapFullError, match="would have 5, and there is room for 4") as error:
            restore_map(path, flows)
        assert flows.to_dict() == {3: 31, 4: 41, 5: 51}
        assert "exact=True" in error.value.hint

        restore_map(path, flows, exact=True)
        assert flows.to_dict() == {1: 10, 2: 20, 3: 30}


def test_entries_that_are_there_already_need_no_room(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    with filled(FLOWS, {1: 10, 2: 20, 3: 30}) as flows:
        save_map(flows, path)
        flows.update_batch({1: 0, 2: 0, 3: 0, 4: 40})
        restore_map(path, flows)

        assert flows.to_dict() == {1: 10, 2: 20, 3: 30, 4: 40}


def test_a_larger_array_takes_the_entries_of_a_smaller_one(tmp_path: Path) -> None:
    path = tmp_path / "array"
    small = MapSpec("array", MapType.ARRAY, 4, 4, 3, key=U32, value=U32)
    with filled(small, {0: 1, 1: 2, 2: 3}) as array:
        save_map(array, path)
    with Map.create(small.with_changes(max_entries=5)) as larger:
        with pytest.raises(IncompatibleMapError, match="max_entries: 3 -> 5"):
            restore_map(path, larger, exact=True)
        restore_map(path, larger)
        assert list(larger.values()) == [1, 2, 3, 0, 0]
    with (
        Map.create(small.with_changes(max_entries=2)) as smaller,
        pytest.raises(MapFullError, match="would have 3, and there is room for 2"),
    ):
        restore_map(path, smaller)


def test_a_map_that_forgets_takes_what_a_hash_held(tmp_path: Path) -> None:
    with (
        filled(FLOWS, {1: 10}) as flows,
        Map.create(FLOWS.with_changes(type=MapType.LRU_HASH)) as forgetting,
    ):
        save_map(flows, tmp_path / "flows")
        restore_map(tmp_path / "flows", forgetting)

        assert forgetting.to_dict() == {1: 10}


def test_all_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    with filled(FLOWS, {1: 10}) as flows:
        save_map(flows, path)
    other = MapSpec("other", MapType.LPM_TRIE, 8, 16, 4, int(MapFlag.NO_PREALLOC), value=DATAREC)
    with Map.create(other) as held, pytest.raises(IncompatibleMapError) as error:
        restore_map(path, held)

    assert [str(one) for one in error.value.differences] == [
        "other: type: hash -> lpm_trie",
        "other: key_size: 4 -> 8",
        "other: value_size: 4 -> 16",
        "other: value: u32 -> struct datarec { u64 rx_packets; u64 rx_bytes; }",
    ]


def test_layouts_are_compared_member_by_member(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    with filled(FLOWS, {1: 10}) as flows:
        save_map(flows, path)
    with Map.create(FLOWS.with_changes(key=KEY)) as held:
        with pytest.raises(IncompatibleMapError, match="key: u32 -> struct key") as error:
            restore_map(path, held)

        assert held.to_dict() == {}
        assert error.value.path == str(path)


def test_values_of_other_cpus_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "counters"
    with Map.create(COUNTERS) as counters, path.open("wb") as file:
        SnapshotWriter(file, replace(definition_of(counters), cpus=999), b"").end()
        file.close()
        with pytest.raises(IncompatibleMapError, match=r"cpus: 999 -> \d+") as error:
            restore_map(path, counters)

    assert "as many" in error.value.hint


def test_a_damaged_file_changes_nothing(tmp_path: Path) -> None:
    """Also where all entries before the damage are whole."""
    path = tmp_path / "flows"
    with filled(FLOWS, {1: 10, 2: 20}) as flows:
        save_map(flows, path)
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        flows[1] = 11
        with pytest.raises(ObjectFileError, match="checksum"):
            restore_map(path, flows, exact=True)

        assert flows.to_dict() == {1: 11, 2: 20}


def test_a_map_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    with filled(FLOWS, {1: 10}) as flows:
        save_map(flows, path)
        with (
            Map.from_id(flows.id, read_only=True) as reader,
            pytest.raises(ReadOnlyMapError),
        ):
            restore_map(path, reader)


def test_entries_that_are_more_than_bytes_are_not_saved(tmp_path: Path) -> None:
    spec = MapSpec("jumps", MapType.PROG_ARRAY, 4, 4, 4)
    with Map.create(spec) as jumps, pytest.raises(TypeError, match="of type prog_array: only"):
        save_map(jumps, tmp_path / "jumps")

    assert list(tmp_path.iterdir()) == []


def test_many_entries_come_back(tmp_path: Path) -> None:
    """In several batches, of the file and of the kernel."""
    spec = FLOWS.with_changes(max_entries=50_000)
    content = {number: 3 * number for number in range(50_000)}
    with filled(spec, content) as old, Map.create(spec) as new:
        save_map(old, tmp_path / "flows")
        restore_map(tmp_path / "flows", new)

        assert new.to_dict() == content


def test_global_variables_are_saved_with_their_names(tmp_path: Path) -> None:
    """A data section is a type of its own kind, with another one for each variable."""
    path = tmp_path / "data"
    with load(read_object(compiled("globals"))) as loaded:
        save_map(loaded.maps[".data"], path)
        loaded.variables["verdict"].value = 1
        loaded.variables["weights"].value = [0, 0, 0, 0]
        restore_map(path, loaded.maps[".data"])

        assert loaded.variables["verdict"].value == 2
        assert loaded.variables["weights"].value == [1, 2, 3, 4]
        with SnapshotReader(path) as reader:
            assert reader.types[1] is not None
            assert compare.differences(reader.types[1], loaded.maps[".data"].value_type) == []
