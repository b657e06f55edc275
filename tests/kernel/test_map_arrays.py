"""Maps as arrays of numpy, in the kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapType
from support.maps import COUNTERS, FLOWS

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


def test_arrays_of_numpy_hold_the_same(counters: Map) -> None:
    pytest.importorskip("numpy")
    counters[3] = [{"rx_packets": 3, "rx_bytes": 9}] * CPUS
    keys, values = counters.to_numpy()

    assert keys.tolist() == [0, 1, 2, 3, 4]
    assert values.shape == (5, CPUS)
    assert values["rx_bytes"].sum(axis=1).tolist() == [0, 0, 0, 9 * CPUS, 0]


def test_arrays_of_numpy_own_what_was_read(flows: Map) -> None:
    np = pytest.importorskip("numpy")
    flows.update({1: 10, 2: 20})
    keys, values = flows.to_numpy()
    values += 1
    order = np.argsort(keys)

    assert keys[order].tolist() == [1, 2]
    assert values[order].tolist() == [11, 21]
    assert flows.to_dict() == {1: 10, 2: 20}


def test_arrays_of_numpy_are_written(flows: Map) -> None:
    np = pytest.importorskip("numpy")
    keys = np.arange(8, dtype="u4")
    assert flows.update_arrays(keys[::2], np.full(4, 9, dtype="u4")) == 4

    assert flows.to_dict() == {0: 9, 2: 9, 4: 9, 6: 9}
    keys.flags.writeable = False
    assert flows.update_arrays(keys[:1], keys[5:6]) == 1
    assert flows[0] == 5
    with pytest.raises(ValueError, match="elements of 8 bytes, where the map has 4 bytes"):
        flows.update_arrays(keys[:1], np.arange(1, dtype="u8"))


@pytest.mark.parametrize("size", [1, 3, 8, 12])
def test_per_cpu_arrays_of_numpy_are_written_as_they_were_read(size: int) -> None:
    np = pytest.importorskip("numpy")
    spec = MapSpec("m", MapType.PERCPU_HASH, 4, size, 4)
    with Map.create(spec) as made, Map.from_id(made.id, value_format=f"{size}s") as texts:
        made[b"key1"] = [bytes([65 + cpu]) * size for cpu in range(CPUS)]
        keys, values = made.to_numpy()
        assert values.shape == (1, CPUS)
        made.clear()
        made.update_arrays(keys, values)
        assert texts.to_dict() == {b"key1": [bytes([65 + cpu]) * size for cpu in range(CPUS)]}
        made.update_arrays(keys, np.ascontiguousarray(values)[:, ::-1])

        assert texts[b"key1"][0] == bytes([64 + CPUS]) * size


def test_arrays_of_structures_go_both_ways(counters: Map) -> None:
    pytest.importorskip("numpy")
    keys, values = counters.to_numpy()
    values["rx_bytes"][2] = 7
    counters.update_arrays(keys, values)

    assert counters.total(2) == {"rx_packets": 0, "rx_bytes": 7 * CPUS}
