"""Which fields of a map are no longer what a definition asks for."""

from __future__ import annotations

import mmap
from typing import Any

import pytest

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Int, IntEncoding, Member, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import Difference
from bpfpin.objects.compat import Types, compare_map
from bpfpin.objects.info import MapInfo
from bpfpin.objects.memory import estimate_bytes
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType

FLOWS = MapSpec("flows", MapType.HASH, key_size=4, value_size=16, max_entries=64)


def reported(spec: MapSpec, **changes: Any) -> MapInfo:
    """Return the info of a map that was made exactly so, but for *changes*."""
    fields: dict[str, Any] = {
        "type": spec.type,
        "id": 1,
        "key_size": spec.key_size,
        "value_size": spec.value_size,
        "max_entries": spec.max_entries,
        "map_flags": spec.map_flags,
        "name": spec.kernel_name,
        "ifindex": 0,
        "btf_id": 0,
        "btf_key_type_id": 0,
        "btf_value_type_id": 0,
        "map_extra": spec.map_extra,
    }
    return MapInfo(**(fields | changes))


def record(*names: str, is_signed: bool = False) -> TypeRef:
    """Return `struct record` with a member of eight bytes for each name."""
    builder = BtfBuilder()
    encoding = IntEncoding.SIGNED if is_signed else IntEncoding.NONE
    number = builder.add(Int("number", 8, 64, encoding))
    members = tuple(Member(name, number, 64 * index) for index, name in enumerate(names))
    struct = builder.add(Struct("record", 8 * len(names), members))
    return Btf.parse(builder.build()).ref(struct)


def test_a_map_made_from_the_same_definition_fits() -> None:
    assert compare_map(FLOWS, reported(FLOWS)) == []


def test_all_differences_are_told_at_once_old_to_new() -> None:
    there = reported(
        FLOWS, type=MapType.LRU_HASH, key_size=8, value_size=24, max_entries=128, map_flags=0x1
    )

    assert compare_map(FLOWS, there) == [
        Difference("flows", "type", "lru_hash", "hash"),
        Difference("flows", "key_size", "8", "4"),
        Difference("flows", "value_size", "24", "16"),
        Difference("flows", "max_entries", "128", "64"),
        Difference("flows", "map_flags", "0x1 (NO_PREALLOC)", "0x0"),
    ]


def test_map_extra_is_compared() -> None:
    bloom = MapSpec("seen", MapType.BLOOM_FILTER, 0, 4, 100, map_extra=3)

    assert compare_map(bloom, reported(bloom, map_extra=5)) == [
        Difference("seen", "map_extra", "0x5", "0x3")
    ]


def test_a_type_of_a_newer_kernel_is_told_by_its_number() -> None:
    assert compare_map(FLOWS, reported(FLOWS, type=999)) == [
        Difference("flows", "type", "999", "hash")
    ]


CPUS = possible_cpus()
PAGE = mmap.PAGESIZE


@pytest.mark.parametrize(
    ("spec", "as_reported"),
    [
        (MapSpec("ring", MapType.RINGBUF, 0, 0, 5000), {"max_entries": 2 * PAGE}),
        (MapSpec("ring", MapType.RINGBUF, 0, 0, 1), {"max_entries": PAGE}),
        (
            MapSpec("events", MapType.PERF_EVENT_ARRAY, 4, 4, 0),
            {"max_entries": CPUS},
        ),
        (MapSpec("ports", MapType.DEVMAP, 4, 4, 8), {"map_flags": 0x80}),
        (MapSpec("ports", MapType.DEVMAP_HASH, 4, 8, 8), {"map_flags": 0x80}),
        (MapSpec("near", MapType.HASH, 4, 4, 8, numa_node=0), {"map_flags": 0x4}),
        (MapSpec("view", MapType.HASH, 4, 4, 8, map_flags=0x8), {"map_flags": 0}),
        (
            MapSpec("lru", MapType.LRU_HASH, 4, 4, CPUS * 8 + 1, map_flags=0x2),
            {"max_entries": CPUS * 8 + CPUS},
        ),
        (MapSpec("lru", MapType.LRU_HASH, 4, 4, CPUS * 8 + 1), {}),
    ],
    ids=lambda value: value.name if isinstance(value, MapSpec) else "",
)
def test_what_the_kernel_rounds_or_adds_is_no_difference(
    spec: MapSpec, as_reported: dict[str, int]
) -> None:
    assert compare_map(spec, reported(spec, **as_reported)) == []


def test_members_that_moved_or_changed_sign_are_told_by_name() -> None:
    wanted = FLOWS.with_changes(value=record("packets", "bytes", is_signed=True))
    types = Types(value=record("packets", "octets"))
    found = compare_map(wanted, reported(wanted), types=types)

    assert {each.field for each in found} == {"value packets", "value bytes", "value octets"}


def test_the_same_layout_under_other_type_names_fits() -> None:
    wanted = FLOWS.with_changes(value=record("packets", "bytes"))
    types = Types(value=record("packets", "bytes"))

    assert compare_map(wanted, reported(wanted), types=types) == []


def test_sizes_alone_decide_where_a_side_has_no_types() -> None:
    wanted = FLOWS.with_changes(value=record("packets", "bytes"))

    assert compare_map(wanted, reported(wanted)) == []
    assert compare_map(FLOWS, reported(FLOWS), types=Types(value=record("a", "b"))) == []


INNER = MapSpec("inner", MapType.ARRAY, key_size=4, value_size=8, max_entries=2)
OUTER = MapSpec("outer", MapType.ARRAY_OF_MAPS, 4, 4, 3, inner=INNER)


def test_the_inner_map_is_compared_where_there_is_one_to_look_at() -> None:
    inner = reported(INNER, value_size=16, max_entries=5)

    assert compare_map(OUTER, reported(OUTER), inner=None) == []
    assert compare_map(OUTER, reported(OUTER), inner=inner) == [
        Difference("outer", "inner value_size", "16", "8"),
        Difference("outer", "inner max_entries", "5", "2"),
    ]


def test_inner_maps_may_differ_in_length_where_the_kernel_lets_them() -> None:
    elastic = INNER.with_changes(map_flags=MapFlag.INNER_MAP)
    inner = reported(elastic, max_entries=5)

    assert compare_map(OUTER.with_changes(inner=elastic), reported(OUTER), inner=inner) == []


@pytest.mark.parametrize(
    ("spec", "least"),
    [
        (MapSpec("a", MapType.ARRAY, 4, 8, 1 << 27), 1 << 30),
        (MapSpec("p", MapType.PERCPU_ARRAY, 4, 12, 1000), 16 * 1000 * CPUS),
        (MapSpec("h", MapType.HASH, 4, 8, 1 << 20), (4 + 8) << 20),
        (MapSpec("r", MapType.RINGBUF, 0, 0, 1 << 31), 1 << 31),
    ],
)
def test_the_memory_of_a_map_is_not_underestimated(spec: MapSpec, least: int) -> None:
    assert estimate_bytes(spec) >= least


def test_a_map_that_grows_as_it_is_filled_counts_its_table_only() -> None:
    lazy = MapSpec("h", MapType.HASH, 4, 1 << 16, 1000, map_flags=MapFlag.NO_PREALLOC)

    assert estimate_bytes(lazy) < 1 << 16
    assert estimate_bytes(lazy.with_changes(type=MapType.LPM_TRIE)) == 0
