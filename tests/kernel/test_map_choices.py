"""One entry read and written with the choices that the kernel gives."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Int, Member, Struct, Union
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import KeyExistsError, KeyNotFoundError, NotSupportedError
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.call import fail_call
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType, UpdateFlag
from support.maps import COUNTERS, DATAREC, FLOWS, U32

CPUS = possible_cpus()
NOTHING = {"rx_packets": 0, "rx_bytes": 0}


def guarded() -> MapSpec:
    """Describe a hash of structures: a lock, a number, a structure and a union."""
    builder = BtfBuilder()
    u32 = builder.add(Int("unsigned int", 4, 32))
    u16 = builder.add(Int("unsigned short", 2, 16))
    lock = builder.add(Struct("bpf_spin_lock", 4, (Member("val", u32, 0),)))
    port = builder.add(Struct("port", 4, (Member("low", u16, 0), Member("high", u16, 16))))
    either = builder.add(Union("either", 4, (Member("word", u32, 0), Member("half", u16, 0))))
    members = (
        Member("lock", lock, 0),
        Member("count", u32, 32),
        Member("port", port, 64),
        Member("either", either, 96),
    )
    value = builder.add(Struct("guarded", 16, members))
    btf = Btf.parse(builder.build())
    return MapSpec("guarded", MapType.HASH, 4, 16, 4, key=btf.ref(u32), value=btf.ref(value))


def bits() -> MapSpec:
    """Describe a hash of bit-fields, which the kernel takes beside no lock."""
    builder = BtfBuilder()
    u32 = builder.add(Int("unsigned int", 4, 32))
    low = Member("low", u32, 0, bitfield_size=3)
    high = Member("high", u32, 3, bitfield_size=29)
    value = builder.add(Struct("bits", 4, (low, high)))
    btf = Btf.parse(builder.build())
    return MapSpec("bits", MapType.HASH, 4, 4, 4, key=btf.ref(u32), value=btf.ref(value))


FULL = {"count": 1, "port": {"low": 2, "high": 3}, "either": {"word": 0x11112222}}


@pytest.fixture
def held() -> Iterator[Map]:
    """A map of guarded structures with one entry."""
    with Map.create(guarded()) as made:
        made[1] = FULL
        yield made


@pytest.fixture
def counters() -> Iterator[Map]:
    """A hash of per-CPU counters."""
    spec = COUNTERS.with_changes(type=MapType.PERCPU_HASH)
    with Map.create(spec) as made:
        yield made


def test_a_partial_write_leaves_the_other_members(held: Map) -> None:
    held.update(1, {"port": {"high": 33}}, partial=True)
    held.update(1, {"either": {"half": 0x3333}}, partial=True)

    assert held[1] == {
        "count": 1,
        "port": {"low": 2, "high": 33},
        "either": {"word": 0x11113333, "half": 0x3333},
    }


def test_a_partial_write_leaves_the_bits_beside_a_bit_field() -> None:
    with Map.create(bits()) as made:
        made[1] = {"low": 5, "high": 0x1234567}
        made.update(1, {"low": 2}, partial=True)

        assert made[1] == {"low": 2, "high": 0x1234567}


def test_a_partial_write_names_what_does_not_fit(held: Map) -> None:
    with pytest.raises(ValueError, match=r"^port\.high: 65536 does not fit into 16 bits"):
        held.update(1, {"port": {"high": 65536}}, partial=True)
    with pytest.raises(ValueError, match="no member colour"):
        held.update(1, {"colour": 1}, partial=True)
    with pytest.raises(ValueError, match="NOEXIST contradicts"):
        held.update(1, {"count": 1}, UpdateFlag.NOEXIST, partial=True)

    assert held[1]["port"] == {"low": 2, "high": 3}


def test_a_partial_write_makes_no_new_entry(held: Map) -> None:
    with pytest.raises(KeyNotFoundError, match="key 9"):
        held.update(9, {"count": 1}, partial=True)

    assert list(held) == [1]


def test_reading_and_writing_under_the_lock(held: Map) -> None:
    held.update(1, {**FULL, "count": 8}, lock=True)
    held.update(1, {"port": {"low": 9}}, partial=True, lock=True)

    assert held.lookup(1, lock=True) == held[1]
    assert (held[1]["count"], held[1]["port"]) == (8, {"low": 9, "high": 3})


def test_values_without_a_lock_are_said_to_have_none() -> None:
    with Map.create(FLOWS) as flows:
        flows[1] = 1
        for use in (lambda: flows.lookup(1, lock=True), lambda: flows.update(1, 2, lock=True)):
            with pytest.raises(TypeError, match=r"map flows \(id \d+\) has no bpf_spin_lock"):
                use()

        assert flows[1] == 1


def test_one_cpu_is_written_and_read_alone(counters: Map) -> None:
    last = CPUS - 1
    counters.update(3, {"rx_packets": 7, "rx_bytes": 70}, cpu=last)
    counters.update(3, {"rx_bytes": 71}, cpu=last, partial=True)

    assert counters.lookup(3, cpu=last) == {"rx_packets": 7, "rx_bytes": 71}
    assert counters[3] == [NOTHING] * last + [{"rx_packets": 7, "rx_bytes": 71}]


def test_one_value_is_written_for_all_cpus(counters: Map) -> None:
    counters.update(3, {"rx_packets": 1, "rx_bytes": 2}, all_cpus=True)
    counters.update({3: {"rx_bytes": 5}}, all_cpus=True, partial=True)

    assert counters[3] == [{"rx_packets": 1, "rx_bytes": 5}] * CPUS
    assert counters.total(3) == {"rx_packets": CPUS, "rx_bytes": 5 * CPUS}


def test_the_greatest_value_of_the_cpus_is_told(counters: Map) -> None:
    counters[0] = [{"rx_packets": cpu, "rx_bytes": CPUS - cpu} for cpu in range(CPUS)]

    assert counters.maximum(0) == {"rx_packets": CPUS - 1, "rx_bytes": CPUS}


def test_a_flag_holds_for_one_cpus_value(counters: Map) -> None:
    with pytest.raises(KeyNotFoundError):
        counters.update(3, NOTHING, UpdateFlag.EXIST, cpu=0)
    counters.update(3, NOTHING, UpdateFlag.NOEXIST, cpu=0)
    with pytest.raises(KeyExistsError):
        counters.update(3, NOTHING, UpdateFlag.NOEXIST, cpu=0)


def test_cpus_that_are_not_there_are_refused(counters: Map) -> None:
    with pytest.raises(ValueError, match=f"there is no CPU {CPUS}"):
        counters.lookup(3, cpu=CPUS)
    with pytest.raises(ValueError, match="either one CPU or all"):
        counters.update(3, NOTHING, cpu=0, all_cpus=True)
    with Map.create(FLOWS) as flows, pytest.raises(TypeError, match="no values of single CPUs"):
        flows.update(1, 2, cpu=0)


TAKING = [MapType.HASH, MapType.LRU_HASH, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH]


@pytest.mark.parametrize("kind", TAKING, ids=lambda kind: kind.name)
def test_an_entry_is_read_and_deleted_in_one_step(kind: MapType) -> None:
    spec = MapSpec("m", kind, 4, 16, 8, key=U32, value=DATAREC)
    with Map.create(spec) as made:
        value = {"rx_packets": 1, "rx_bytes": 2}
        made[7] = [value] * CPUS if made.is_per_cpu else value
        there = made[7]

        assert made.lookup_and_delete(7) == there
        with pytest.raises(KeyNotFoundError, match="key 7"):
            made.lookup_and_delete(7)


def test_an_entry_is_popped_from_a_hash_by_one_call() -> None:
    with Map.create(FLOWS) as flows:
        flows[1] = 10
        with fail_call(2, errno.EIO):
            assert flows.pop(1) == 10
        assert flows.pop(1, None) is None
        with pytest.raises(KeyNotFoundError, match="key 1: there is no such key"):
            flows.pop(1)


def test_reading_and_deleting_in_one_step_is_refused_where_the_kernel_has_it_not() -> None:
    trie = MapSpec("trie", MapType.LPM_TRIE, 8, 4, 4, map_flags=MapFlag.NO_PREALLOC)
    key = struct.pack("<II", 32, 1)
    with Map.create(trie) as made:
        made[key] = bytes(4)
        with pytest.raises(TypeError, match=r"map trie \(id \d+\): .* only in hashes"):
            made.lookup_and_delete(key)

        assert key in made
    with Map.create(COUNTERS) as made, pytest.raises(TypeError, match="is an array"):
        made.lookup_and_delete(0)
    with Map.create(FLOWS) as made, fail_call(1, 524), pytest.raises(NotSupportedError):
        made.lookup_and_delete(1)
