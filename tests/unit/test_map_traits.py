"""The table of map types: a row for each, and rows that agree with the other tables of types."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bpfpin.map_traits import (
    MAP_TRAITS,
    UNKNOWN,
    KeyKind,
    MapFamily,
    MapTraits,
    ValueKind,
    traits_of,
    types_in,
)
from bpfpin.objects.maps.kernel_values import HOLDERS, OWNERS
from bpfpin.objects.maps.rules import RULES
from bpfpin.uapi import Cmd, MapFlag, MapType

FUTURE = 1000
WITHOUT_FACTS = {MapType.UNSPEC}


def those(trait: str) -> set[MapType]:
    return {map_type for map_type in MapType if getattr(traits_of(map_type), trait)}


def test_every_type_has_a_row() -> None:
    assert set(MAP_TRAITS) == set(MapType)
    assert {kind for kind, row in MAP_TRAITS.items() if row == UNKNOWN} == WITHOUT_FACTS


def test_every_type_with_facts_says_since_which_kernel_it_exists() -> None:
    rows = {kind: row for kind, row in MAP_TRAITS.items() if kind not in WITHOUT_FACTS}
    versions = [tuple(map(int, row.since.split("."))) for _, row in sorted(rows.items())]

    assert all(re.fullmatch(r"[3-7]\.\d+", row.since) for row in rows.values())
    # The kernel numbers its types in the order in which they came.
    assert versions == sorted(versions)


def test_a_type_of_a_newer_kernel_is_read_entry_by_entry_as_data() -> None:
    row = traits_of(FUTURE)

    assert row == UNKNOWN == MapTraits()
    assert (row.family, row.key, row.value) == (MapFamily.OTHER, KeyKind.DATA, ValueKind.DATA)
    assert not any((row.is_array, row.is_hash, row.is_plain_data, row.reads_batches))
    assert row.refuses == ()


def test_arrays_and_hashes_of_data_are_told_from_those_of_objects() -> None:
    percpu_hashes = {MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH}

    assert those("is_array") == {MapType.ARRAY, MapType.PERCPU_ARRAY}
    assert those("is_hash") == {MapType.HASH, MapType.LRU_HASH} | percpu_hashes
    assert those("pops_in_one_step") == those("is_hash") | {MapType.RHASH}
    assert those("is_lru") == {MapType.LRU_HASH, MapType.LRU_PERCPU_HASH}
    assert those("is_percpu") == percpu_hashes | {
        MapType.PERCPU_ARRAY,
        MapType.PERCPU_CGROUP_STORAGE,
    }
    assert those("holds_maps") == {MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS}
    assert those("holds_programs") == {MapType.PROG_ARRAY}
    assert those("is_mmapable") == {MapType.ARRAY}
    assert those("is_sockmap") == {MapType.SOCKMAP, MapType.SOCKHASH}


def test_batches_are_used_where_they_end() -> None:
    read = those("is_array") | those("is_hash") | {MapType.HASH_OF_MAPS}

    assert those("reads_batches") == read
    assert those("writes_batches") == read | {MapType.LPM_TRIE}


def test_only_maps_of_devices_sockets_and_af_xdp_need_net_admin() -> None:
    assert those("needs_net_admin") == {
        MapType.DEVMAP,
        MapType.DEVMAP_HASH,
        MapType.SOCKMAP,
        MapType.SOCKHASH,
        MapType.XSKMAP,
    }


def test_a_refusal_has_a_reason_and_a_reason_a_refusal() -> None:
    for map_type, row in MAP_TRAITS.items():
        assert bool(row.refuses) == bool(row.refusal), map_type
        assert all(isinstance(command, Cmd) for command in row.refuses)


def test_each_kind_of_key_and_value_that_is_no_data_has_a_codec() -> None:
    keys = {row.key for row in MAP_TRAITS.values() if row.is_local_storage}
    values = {row.value for row in MAP_TRAITS.values() if row.has_object_values}

    assert set(OWNERS) == keys
    assert set(HOLDERS) == values
    assert values == set(ValueKind) - {ValueKind.DATA, ValueKind.STRUCT_OPS, ValueKind.NONE}


@pytest.mark.parametrize("map_type", RULES, ids=lambda map_type: map_type.name.lower())
def test_the_rules_of_definitions_agree_with_the_traits(map_type: MapType) -> None:
    rules, row = RULES[map_type], traits_of(map_type)

    if row.has_index_key or row.is_local_storage:
        assert rules.key == (4,)
    assert (rules.key == (0,)) == (row.key is KeyKind.NONE)
    assert (rules.value == (0,)) == (row.value is ValueKind.NONE)
    assert bool(rules.flags & MapFlag.MMAPABLE) == (row.is_mmapable or row.is_arena)


def test_every_type_but_struct_ops_has_rules_for_its_definition() -> None:
    assert set(MapType) - set(RULES) == WITHOUT_FACTS | {MapType.STRUCT_OPS}


def test_classes_open_the_types_of_their_family() -> None:
    assert types_in(MapFamily.QUEUE) == {MapType.QUEUE, MapType.STACK}
    assert types_in(MapFamily.BLOOM_FILTER) == {MapType.BLOOM_FILTER}
    assert types_in(MapFamily.PERF_BUFFER) == {MapType.PERF_EVENT_ARRAY}


def test_the_page_of_map_types_names_the_kernel_of_each() -> None:
    page = (Path(__file__).parents[2] / "docs" / "map-types.md").read_text()
    table = page.partition("## Since which kernel")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|$", table, re.MULTILINE))
    rows = {kind: row for kind, row in MAP_TRAITS.items() if kind not in WITHOUT_FACTS}

    assert told == {MapType(kind).name.lower(): row.since for kind, row in rows.items()}
