"""Arrays as memory: the same bytes as the map's, live both ways, and never beyond its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import BtfType, Enum, Enumerator, Float, Int, IntEncoding, Member, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import NotSupportedError, ReadOnlyMapError
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.mapped import MappedArray
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapFlag, MapType
from support.maps import DATAREC, FLOWS, U32

MMAPABLE = int(MapFlag.MMAPABLE)
NUMBERS = MapSpec("numbers", MapType.ARRAY, 4, 4, 1000, MMAPABLE, key=U32, value=U32)
RECORDS = MapSpec("records", MapType.ARRAY, 4, 16, 3, MMAPABLE, key=U32, value=DATAREC)


@contextmanager
def mapped(spec: MapSpec) -> Iterator[tuple[Map, MappedArray]]:
    """Make a map and map it."""
    with Map.create(spec) as held, held.mapped() as memory:
        yield held, memory


def test_both_ways_show_the_same_at_once() -> None:
    with mapped(NUMBERS) as (held, memory):
        memory[1] = 10
        held[2] = 20

        assert (held[1], memory[2]) == (10, 20)
        assert (len(memory), list(memory)[:4]) == (1000, [0, 10, 20, 0])


@pytest.mark.parametrize("value_size", [1, 2, 3, 4, 8, 12, 17])
def test_elements_of_any_size_stand_where_the_kernel_has_them(value_size: int) -> None:
    """Each takes a multiple of eight bytes."""
    spec = MapSpec("odd", MapType.ARRAY, 4, value_size, 5, MMAPABLE)
    with mapped(spec) as (held, memory):
        for index in range(5):
            memory[index] = bytes([index + 1]) * value_size

        assert list(held.values()) == list(memory)
        assert memory[-1] == b"\5" * value_size


def test_structures_are_dicts_and_written_whole() -> None:
    with mapped(RECORDS) as (held, memory):
        memory[2] = {"rx_packets": 5, "rx_bytes": 320}

        assert held[2] == memory[2] == {"rx_packets": 5, "rx_bytes": 320}
        assert held[1] == {"rx_packets": 0, "rx_bytes": 0}


@pytest.mark.parametrize("index", [1000, -1001, 1 << 40])
def test_there_is_nothing_beyond_the_end(index: int) -> None:
    with mapped(NUMBERS) as (_, memory):
        with pytest.raises(IndexError):
            _ = memory[index]
        with pytest.raises(IndexError):
            memory[index] = 1


@pytest.mark.parametrize("value", [1 << 32, -1, 1.5, "1"])
def test_a_value_that_does_not_fit_is_refused(value: object) -> None:
    with mapped(NUMBERS) as (_, memory):
        with pytest.raises((ValueError, TypeError)):
            memory[0] = value

        assert memory[0] == 0


def test_numpy_shows_the_memory_itself() -> None:
    with mapped(NUMBERS) as (held, memory):
        shown = memory.to_numpy()
        held[999] = 7
        shown[0] = 5

        assert (shown.dtype, shown.shape) == (np.dtype("<u4"), (1000,))
        assert (int(shown[999]), held[0], int(shown.sum())) == (7, 5, 12)
        del shown


def test_numpy_shows_structures() -> None:
    with mapped(RECORDS) as (held, memory):
        shown = memory.to_numpy()
        held[1] = {"rx_packets": 3, "rx_bytes": 4}

        assert shown["rx_bytes"].tolist() == [0, 4, 0]
        del shown


def test_an_array_of_numpy_outlives_the_mapping() -> None:
    with mapped(NUMBERS) as (held, memory):
        shown = memory.to_numpy()
        memory.close()
        held[3] = 9

        assert int(shown[3]) == 9
        del shown


def test_the_memory_outlives_the_handle() -> None:
    with Map.create(NUMBERS) as held:
        memory = held.mapped()
        held[0] = 4
    with memory:
        assert memory[0] == 4
    with pytest.raises(ValueError, match="released"):
        _ = memory[0]


def test_a_frozen_map_is_read_only() -> None:
    with Map.create(NUMBERS) as held:
        held[0] = 4
        held.freeze()
        with held.mapped() as memory:
            with pytest.raises(ReadOnlyMapError, match="numbers"):
                memory[0] = 5

            assert (memory[0], memory.is_read_only) == (4, True)
            assert not memory.to_numpy().flags.writeable


def test_a_map_can_be_mapped_to_be_read_only() -> None:
    with Map.create(NUMBERS) as held, held.mapped(read_only=True) as memory:
        held[0] = 4

        assert (memory[0], memory.is_read_only) == (4, True)
        with pytest.raises(ReadOnlyMapError):
            memory[0] = 5


def test_a_handle_for_reading_cannot_be_mapped() -> None:
    """The kernel takes a shared mapping of it for a private one, and maps of that kind for none."""
    with (
        Map.create(NUMBERS) as held,
        Map.from_id(held.id, read_only=True) as reader,
        pytest.raises(ReadOnlyMapError, match="opened for reading only") as error,
    ):
        reader.mapped()

    assert "read_only=True" in error.value.hint


def test_a_map_that_cannot_be_mapped_says_what_it_lacks() -> None:
    plain = NUMBERS.with_changes(map_flags=0)
    with Map.create(plain) as held, pytest.raises(TypeError, match="without BPF_F_MMAPABLE"):
        held.mapped()
    with Map.create(FLOWS) as held, pytest.raises(TypeError, match="of type hash: only an array"):
        held.mapped()


def test_values_with_a_lock_cannot_be_mapped() -> None:
    types = BtfBuilder()
    u32 = types.add(Int("unsigned int", 4, 32))
    lock = types.add(Struct("bpf_spin_lock", 4, (Member("val", u32, 0),)))
    members = (Member("lock", lock, 0), Member("number", u32, 32))
    locked = types.add(Struct("locked", 8, members))
    btf = Btf.parse(types.build())
    spec = MapSpec("locked", MapType.ARRAY, 4, 8, 3, MMAPABLE, key=btf.ref(u32))
    with (
        Map.create(spec.with_changes(value=btf.ref(locked))) as held,
        pytest.raises(NotSupportedError, match="'locked'") as error,
    ):
        held.mapped()

    assert "locks" in error.value.hint


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (Int("_Bool", 1, 8, IntEncoding.BOOL), True),
        (Int("short", 2, 16, IntEncoding.SIGNED), -2),
        (Int("__int128", 16, 128, IntEncoding.SIGNED), -(1 << 100)),
        (Float("_Float16", 2), 0.5),
        (Float("float", 4), 0.25),
        (Float("double", 8), 0.1),
        (Enum("verdict", 4, False, (Enumerator("PASS", 2),)), "PASS"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_scalars_of_every_kind_read_as_the_map_reads_them(kind: BtfType, written: object) -> None:
    types = BtfBuilder()
    type_id = types.add(kind)
    value = Btf.parse(types.build()).ref(type_id)
    spec = MapSpec("scalars", MapType.ARRAY, 4, value.size, 2, MMAPABLE, key=U32, value=value)
    with mapped(spec) as (held, memory):
        memory[1] = written

        assert (memory[1], held[1]) == (written, written)
