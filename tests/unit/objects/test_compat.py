"""Which fields of a map are no longer what a definition asks for."""

from __future__ import annotations

import mmap
from typing import Any

import pytest

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import DataSection, Int, IntEncoding, Member, SectionVariable, Struct, Var
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import Difference
from bpfpin.objects.kernel.info import MapInfo
from bpfpin.objects.maps.compat import Inner, Types, compare_map
from bpfpin.objects.maps.create import estimate_bytes
from bpfpin.spec import Dialect, MapSpec, Pinning
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType
from support.btf_tables import S32, U8, U32, table

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

    assert [(each.field, each.old, each.new) for each in found] == [
        (
            "value",
            "struct record { u64 packets; u64 octets; }",
            "struct record { s64 packets; s64 bytes; }",
        ),
        ("value octets", "u64 at byte 8", "none"),
        ("value bytes", "none", "s64 at byte 8"),
        ("value packets", "u64", "s64"),
    ]


def test_a_structure_that_grew_is_told_by_size_as_a_whole_and_by_member() -> None:
    old = MapSpec("xdp_stats_map", MapType.ARRAY, 4, 8, 5, value=record("rx_packets"))
    grown = old.with_changes(value_size=16, value=record("rx_packets", "rx_bytes"))

    assert compare_map(grown, reported(old), types=Types(value=old.value)) == [
        Difference("xdp_stats_map", "value_size", "8", "16"),
        Difference(
            "xdp_stats_map",
            "value",
            "struct record { u64 rx_packets; }",
            "struct record { u64 rx_packets; u64 rx_bytes; }",
        ),
        Difference("xdp_stats_map", "value rx_bytes", "none", "u64 at byte 8"),
    ]


def test_a_key_that_is_no_structure_is_told_once() -> None:
    wanted = FLOWS.with_changes(key=table(S32).ref(1))

    assert compare_map(wanted, reported(wanted), types=Types(key=table(U32).ref(1))) == [
        Difference("flows", "key", "u32", "s32")
    ]


def test_types_that_read_alike_in_one_line_are_told_by_what_moved() -> None:
    """Packed and not: the same text, other places."""
    parts = (Member("kind", 1, 0), Member("count", 2, 8))
    packed = table(U8, U32, Struct("s", 5, parts)).ref(3)
    padded = table(U8, U32, Struct("s", 8, (parts[0], Member("count", 2, 32)))).ref(3)
    wanted = FLOWS.with_changes(value=padded)

    assert compare_map(wanted, reported(wanted), types=Types(value=packed)) == [
        Difference("flows", "value count", "at byte 1", "at byte 4")
    ]


def section(*names: str) -> TypeRef:
    """Return section `.bss` with so many u32 variables."""
    variables = [Var(name, 1) for name in names]
    places = tuple(SectionVariable(2 + index, 4 * index, 4) for index in range(len(names)))
    return table(U32, *variables, DataSection(".bss", 4 * len(names), places)).ref(2 + len(names))


def test_a_data_section_is_told_by_its_variables_alone() -> None:
    bss = MapSpec(".bss", MapType.ARRAY, 4, 8, 1, value=section("hits", "misses"))
    old = bss.with_changes(value_size=4, value=section("misses"))

    assert compare_map(bss, reported(old), types=Types(value=old.value)) == [
        Difference(".bss", "value_size", "4", "8"),
        Difference(".bss", "value misses", "at byte 0", "at byte 4"),
        Difference(".bss", "value hits", "none", "u32 at byte 0"),
    ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"type": MapType.LRU_HASH}, "type"),
        ({"key_size": 8}, "key_size"),
        ({"value_size": 8}, "value_size"),
        ({"max_entries": 65}, "max_entries"),
        ({"map_flags": MapFlag.NO_PREALLOC}, "map_flags"),
        ({"map_flags": MapFlag.RDONLY_PROG}, "map_flags"),
        ({"numa_node": 0}, "map_flags"),
        ({"map_extra": 2}, "map_extra"),
        ({"key": table(S32).ref(1)}, "key"),
        ({"value": record("packets", "octets")}, "value"),
    ],
    ids=str,
)
def test_every_field_of_a_definition_that_changes_is_told(
    changes: dict[str, Any], field: str
) -> None:
    there = FLOWS.with_changes(key=table(U32).ref(1), value=record("packets", "bytes"))
    found = compare_map(
        there.with_changes(**changes), reported(there), types=Types(there.key, there.value)
    )

    assert found[0].field == field
    assert found[0].old != found[0].new


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"pinning": Pinning.BY_NAME},
        {"initial": ((0, "first"),)},
        {"contents": b"1"},
        {"dialect": Dialect.BPF_MAP_DEF},
        {"section": "maps", "section_index": 3, "offset": 40},
        {"id": 1, "inner_id": 2, "inner_index": 3},
        {"map_flags": MapFlag.RDONLY},
    ],
    ids=str,
)
def test_what_is_no_property_of_the_map_is_no_difference(changes: dict[str, Any]) -> None:
    assert compare_map(FLOWS.with_changes(**changes), reported(FLOWS)) == []


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
    inner = Inner(reported(INNER, value_size=16, max_entries=5))

    assert compare_map(OUTER, reported(OUTER), inner=None) == []
    assert compare_map(OUTER, reported(OUTER), inner=inner) == [
        Difference("outer", "inner value_size", "16", "8"),
        Difference("outer", "inner max_entries", "5", "2"),
    ]


def test_the_layout_of_the_inner_map_is_compared_too() -> None:
    wanted = OUTER.with_changes(inner=INNER.with_changes(value=record("bytes")))
    inner = Inner(reported(INNER), Types(value=record("packets")))
    told = [str(each) for each in compare_map(wanted, reported(wanted), inner=inner)]

    assert told == [
        "outer: inner value: struct record { u64 packets; } -> struct record { u64 bytes; }",
        "outer: inner value packets: u64 at byte 0 -> none",
        "outer: inner value bytes: none -> u64 at byte 0",
    ]


def test_inner_maps_may_differ_in_length_where_the_kernel_lets_them() -> None:
    elastic = INNER.with_changes(map_flags=MapFlag.INNER_MAP)
    inner = Inner(reported(elastic, max_entries=5))

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
