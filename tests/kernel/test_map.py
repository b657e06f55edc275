"""Maps as Python mappings, in the kernel."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bpfpin.errors import (
    IdNotFoundError,
    KeyExistsError,
    KeyNotFoundError,
    MapFullError,
    ReadOnlyMapError,
)
from bpfpin.objects.maps.create import entries_asked
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType, UpdateFlag
from support.maps import COUNTERS, FLOWS, KEY, U32

CPUS = possible_cpus()


@pytest.fixture
def counters() -> Iterator[Map]:
    """The tutorial's map."""
    with Map.create(COUNTERS) as made:
        yield made


@pytest.fixture
def flows() -> Iterator[Map]:
    """A hash u32 -> u32 of four entries."""
    with Map.create(FLOWS) as made:
        yield made


def test_a_map_is_a_mutable_mapping(flows: Map) -> None:
    flows[1] = 10
    flows.update({2: 20, 3: 30})

    assert flows[1] == 10
    assert sorted(flows) == [1, 2, 3]
    assert sorted(flows.items()) == [(1, 10), (2, 20), (3, 30)]
    assert sorted(flows.values()) == [10, 20, 30]
    assert flows.to_dict() == {1: 10, 2: 20, 3: 30}
    assert (len(flows), 2 in flows, 4 in flows) == (3, True, False)
    assert flows.pop(1) == 10
    assert flows.setdefault(9, 90) == 90
    del flows[2]
    assert flows.get(2) is None
    flows.clear()
    assert len(flows) == 0


def test_a_missing_key_is_a_key_error(flows: Map) -> None:
    with pytest.raises(KeyError) as caught:
        flows[7]
    with pytest.raises(KeyNotFoundError, match="key"):
        del flows[7]

    assert str(caught.value).startswith(f"map flows (id {flows.id}), key 7: there is no such key")


def test_an_empty_map_is_true_and_equals_only_itself(flows: Map) -> None:
    with Map.from_id(flows.id) as again:
        assert flows
        assert flows != again
        assert len({flows, again}) == 2


def test_per_cpu_values_are_lists_over_the_possible_cpus(counters: Map) -> None:
    counters[2] = [{"rx_packets": cpu + 1, "rx_bytes": 100} for cpu in range(CPUS)]

    assert counters[2][0] == {"rx_packets": 1, "rx_bytes": 100}
    assert len(counters[2]) == CPUS
    packets = sum(range(1, CPUS + 1))
    assert counters.total(2) == {"rx_packets": packets, "rx_bytes": 100 * CPUS}
    assert counters.total(0) == {"rx_packets": 0, "rx_bytes": 0}
    assert counters.to_dict()[2] == counters[2]


def test_another_handle_reads_the_types_from_the_kernel(counters: Map) -> None:
    with Map.from_id(counters.id) as again:
        assert again.value_type is not None
        assert again.value_type.name == "datarec"
        assert again[0] == [{"rx_packets": 0, "rx_bytes": 0}] * CPUS
        assert (again.name, again.type, again.key_size, again.value_size, again.max_entries) == (
            "xdp_stats_map", MapType.PERCPU_ARRAY, 4, 16, 5,
        )  # fmt: skip


def test_a_key_beyond_an_array_is_a_key_error(counters: Map) -> None:
    with pytest.raises(KeyNotFoundError, match="index 5 is past the end: max_entries is 5"):
        counters[5]
    with pytest.raises(KeyNotFoundError, match="index 5 is past the end: max_entries is 5"):
        counters[5] = counters[0]


def test_deleting_from_an_array_is_a_type_error(counters: Map) -> None:
    for delete in (lambda: counters.pop(0), counters.clear, lambda: counters.delete_batch([0])):
        with pytest.raises(TypeError, match="is an array: its keys cannot be deleted"):
            delete()

    assert len(counters) == 5


def test_flags_say_whether_the_key_may_be_there(flows: Map) -> None:
    flows.update(1, 10, UpdateFlag.NOEXIST)
    with pytest.raises(KeyExistsError):
        flows.update(1, 11, UpdateFlag.NOEXIST)
    with pytest.raises(KeyNotFoundError):
        flows.update(2, 20, UpdateFlag.EXIST)
    flows[5] = 50

    assert flows.to_dict() == {1: 10, 5: 50}


def test_a_full_map_says_so(flows: Map) -> None:
    flows.update({key: key for key in range(4)})
    with pytest.raises(MapFullError, match="no room for the key"):
        flows[99] = 1


def test_a_structure_is_a_key() -> None:
    spec = FLOWS.with_changes(key=KEY)
    with Map.create(spec) as made:
        made[{"ip": [127, 0, 0, 1]}] = 7

        assert made.to_dict() == {next(iter(made)): 7}
        assert next(iter(made)) == {"ip": (127, 0, 0, 1)}


def test_bytes_of_the_wrong_size_are_refused(flows: Map) -> None:
    with pytest.raises(ValueError, match="a key of 3 bytes, not 4"):
        flows.lookup_bytes(b"abc")
    with pytest.raises(ValueError, match="a value of 5 bytes, not 4"):
        flows.update_bytes(b"abcd", b"abcde")


def test_a_frozen_map_stays_as_it_is(flows: Map) -> None:
    assert not flows.is_frozen()
    flows[1] = 10
    flows.freeze()

    assert flows.is_frozen()
    told = rf"^map flows \(id {flows.id}\), key 1: the map is frozen"
    for change in (
        lambda: flows.update(1, 11),
        lambda: flows.pop(1),
        lambda: flows.update_batch({1: 11}),
        lambda: flows.delete_batch([1]),
        lambda: flows.lookup_and_delete(1),
    ):
        with pytest.raises(ReadOnlyMapError, match=told):
            change()
    assert flows[1] == 10


def test_a_handle_for_reading_says_that_it_is_one(flows: Map) -> None:
    flows[1] = 10
    with Map.from_id(flows.id, read_only=True) as reader:
        for change in (lambda: reader.update(1, 11), lambda: reader.update_batch({1: 11})):
            with pytest.raises(ReadOnlyMapError, match=r"key 1: the map was opened for reading"):
                change()

        assert reader.to_dict() == {1: 10}


@pytest.mark.parametrize(
    ("key", "error", "told"),
    [
        (-1, ValueError, "does not fit into 32 bits"),
        (1 << 32, ValueError, "does not fit into 32 bits"),
        ("1", TypeError, "an integer was expected"),
        (1.0, TypeError, "an integer was expected"),
    ],
)
def test_a_key_of_another_kind_is_refused(
    flows: Map, key: object, error: type[Exception], told: str
) -> None:
    flows[1] = 10
    for use in (lambda: flows[key], lambda: flows.lookup(key), lambda: flows.update(key, 1)):
        with pytest.raises(error, match=told):
            use()

    assert flows[1] == 10


def test_what_comes_back_after_closing_is_not_used_again() -> None:
    made = Map.create(FLOWS)
    slot = made._elements.take()
    made.close()
    made._elements.put(slot)

    assert made._elements.take() is not slot


def test_a_closed_map_says_so_and_touches_no_other_descriptor() -> None:
    made = Map.create(FLOWS)
    made[1] = 1
    made.to_dict()
    made.close()
    made.close()
    with Map.create(FLOWS) as other:  # takes the descriptor's number
        for use in (lambda: made[1], lambda: list(made), made.to_dict, lambda: made.update(2, 2)):
            with pytest.raises(ValueError, match="the map is closed"):
                use()

        assert len(other) == 0


def test_a_dropped_map_warns() -> None:
    made = [Map.create(FLOWS)]
    with pytest.warns(ResourceWarning, match="unclosed"):
        made.clear()


def test_a_map_of_maps_takes_maps_and_reads_ids(flows: Map) -> None:
    spec = MapSpec("outer", MapType.ARRAY_OF_MAPS, 4, 4, 2, inner=FLOWS)
    with Map.create(spec) as outer:
        outer[1] = flows

        assert outer[1] == flows.id
        assert outer.to_dict() == {1: flows.id}
        with pytest.raises(TypeError, match="a Map was expected, not 3"):
            outer[0] = 3


@pytest.mark.parametrize(
    ("kind", "asked", "given"),
    [
        (MapType.PERF_EVENT_ARRAY, 0, CPUS),
        (MapType.RINGBUF, 1, 4096),
        (MapType.RINGBUF, 5000, 8192),
        (MapType.ARRAY, 5, 5),
    ],
)
def test_sizes_are_rounded_as_the_kernel_wants_them(kind: MapType, asked: int, given: int) -> None:
    assert entries_asked(MapSpec("m", kind, 4, 4, asked)) == given


def test_a_kernel_that_takes_no_types_for_a_map_gets_none() -> None:
    spec = MapSpec("devices", MapType.DEVMAP, 4, 4, 4, key=U32, value=U32)
    with Map.create(spec) as made:
        assert made.info.btf_id == 0
        assert made.value_type is U32


def test_a_map_that_is_gone_has_no_id() -> None:
    with Map.create(FLOWS) as made:
        gone = made.id
    with pytest.raises(IdNotFoundError):
        Map.from_id(gone)


def test_threads_may_share_a_map(flows: Map) -> None:
    flows.update({key: key * 1000 for key in range(4)})
    wrong: list[tuple[int, int]] = []

    def read(key: int) -> None:
        wrong.extend((key, got) for _ in range(3000) if (got := flows[key]) != key * 1000)

    threads = [threading.Thread(target=read, args=(key,)) for key in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_flags_of_the_spec_reach_the_kernel() -> None:
    with Map.create(FLOWS.with_changes(map_flags=MapFlag.NO_PREALLOC)) as made:
        assert made.info.map_flags == MapFlag.NO_PREALLOC
        assert made.memory_bytes() > 0
