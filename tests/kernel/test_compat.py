"""A map that was just made from a definition fits it, whatever the kernel rounds or adds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import bpfpin
from bpfpin.errors import NotSupportedError
from bpfpin.loading.collection import load
from bpfpin.objects.maps.compat import differences
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.uapi import MapFlag, MapType
from support.btf_tables import S32
from support.btf_tables import table as types
from support.maps import DATAREC, KEY, U32
from support.objects import compiled
from support.tools import need

BUILTIN = Path(bpfpin.__file__).parent / "builtin"
CPUS = possible_cpus()
INT = types(S32).ref(1)
INNER = MapSpec("inner", MapType.ARRAY, 4, 8, 2)
LAZY = int(MapFlag.NO_PREALLOC)
MEMORY = int(MapFlag.MMAPABLE)

ORDINARY = [
    MapSpec("hash", MapType.HASH, 4, 16, 8, key=U32, value=DATAREC),
    MapSpec("array", MapType.ARRAY, 4, 16, 8, key=U32, value=DATAREC),
    MapSpec("programs", MapType.PROG_ARRAY, 4, 4, 8),
    MapSpec("events", MapType.PERF_EVENT_ARRAY, 4, 4, 0),
    MapSpec("pc_hash", MapType.PERCPU_HASH, 4, 16, 8, key=KEY, value=DATAREC),
    MapSpec("pc_array", MapType.PERCPU_ARRAY, 4, 16, 8, key=U32, value=DATAREC),
    MapSpec("stacks", MapType.STACK_TRACE, 4, 40, 10),
    MapSpec("cgroups", MapType.CGROUP_ARRAY, 4, 4, 8),
    MapSpec("lru", MapType.LRU_HASH, 4, 16, 8, key=U32, value=DATAREC),
    MapSpec("pc_lru", MapType.LRU_PERCPU_HASH, 4, 16, 8, key=U32, value=DATAREC),
    MapSpec("prefixes", MapType.LPM_TRIE, 8, 8, 8, map_flags=LAZY),
    MapSpec("arrays", MapType.ARRAY_OF_MAPS, 4, 4, 3, inner=INNER),
    MapSpec("hashes", MapType.HASH_OF_MAPS, 4, 4, 3, inner=INNER),
    MapSpec("devices", MapType.DEVMAP, 4, 4, 8),
    MapSpec("sockets", MapType.SOCKMAP, 4, 4, 8),
    MapSpec("cpus", MapType.CPUMAP, 4, 4, CPUS),
    MapSpec("xsks", MapType.XSKMAP, 4, 4, 8),
    MapSpec("sockhash", MapType.SOCKHASH, 4, 4, 8),
    MapSpec("per_cgroup", MapType.CGROUP_STORAGE, 16, 8, 0),
    MapSpec("pc_cgroup", MapType.PERCPU_CGROUP_STORAGE, 16, 8, 0),
    MapSpec("reuse", MapType.REUSEPORT_SOCKARRAY, 4, 8, 8),
    MapSpec("queue", MapType.QUEUE, 0, 4, 8),
    MapSpec("stack", MapType.STACK, 0, 4, 8),
    MapSpec("of_socks", MapType.SK_STORAGE, 4, 16, 0, map_flags=LAZY, key=INT, value=DATAREC),
    MapSpec("devhash", MapType.DEVMAP_HASH, 4, 8, 8),
    MapSpec("ring", MapType.RINGBUF, 0, 0, 5000),
    MapSpec("of_inodes", MapType.INODE_STORAGE, 4, 16, 0, map_flags=LAZY, key=INT, value=DATAREC),
    MapSpec("of_tasks", MapType.TASK_STORAGE, 4, 16, 0, map_flags=LAZY, key=INT, value=DATAREC),
    MapSpec("bloom", MapType.BLOOM_FILTER, 0, 4, 100, map_extra=3),
    MapSpec("bloom_default", MapType.BLOOM_FILTER, 0, 4, 100),
    MapSpec("user_ring", MapType.USER_RINGBUF, 0, 0, 4097),
    MapSpec("of_cgroup", MapType.CGRP_STORAGE, 4, 16, 0, map_flags=LAZY, key=INT, value=DATAREC),
    MapSpec("arena", MapType.ARENA, 0, 0, 4, map_flags=MEMORY),
    MapSpec("places", MapType.INSN_ARRAY, 4, 16, 8),
    MapSpec("growing", MapType.RHASH, 4, 16, 8, map_flags=LAZY, key=U32, value=DATAREC),
]
SPECIAL = [
    MapSpec("numa", MapType.HASH, 4, 8, 8, numa_node=0),
    MapSpec("mapped", MapType.ARRAY, 4, 8, 8, map_flags=MEMORY),
    MapSpec("for_reading", MapType.HASH, 4, 8, 8, map_flags=MapFlag.RDONLY),
    MapSpec("for_writing", MapType.ARRAY, 4, 8, 8, map_flags=MapFlag.WRONLY),
    MapSpec("read_by_programs", MapType.ARRAY, 4, 8, 8, map_flags=MapFlag.RDONLY_PROG),
    MapSpec("own_lists", MapType.LRU_HASH, 4, 8, 8 * CPUS + 1, map_flags=MapFlag.NO_COMMON_LRU),
    MapSpec("one", MapType.LRU_PERCPU_HASH, 4, 8, 1, map_flags=MapFlag.NO_COMMON_LRU),
    MapSpec("lazy", MapType.HASH, 4, 8, 8, map_flags=MapFlag.NO_PREALLOC),
    MapSpec("seedless", MapType.HASH, 4, 8, 8, map_flags=MapFlag.ZERO_SEED),
    MapSpec("some_cpus", MapType.PERF_EVENT_ARRAY, 4, 4, 1),
    MapSpec("page", MapType.RINGBUF, 0, 0, 4096),
    MapSpec("tiny", MapType.RINGBUF, 0, 0, 1),
    MapSpec("dev_program", MapType.DEVMAP, 4, 8, 8),
    MapSpec("a_name_of_more_than_fifteen", MapType.HASH, 4, 8, 8),
    MapSpec(
        "elastic",
        MapType.ARRAY_OF_MAPS,
        *(4, 4, 3),
        inner=INNER.with_changes(map_flags=MapFlag.INNER_MAP),
    ),
]
NOT_MADE = {MapType.UNSPEC, MapType.STRUCT_OPS}


@pytest.mark.parametrize("spec", [*ORDINARY, *SPECIAL], ids=lambda spec: spec.name)
def test_a_map_made_from_a_definition_fits_it(spec: MapSpec) -> None:
    try:
        made = Map.create(spec)
    except (NotSupportedError, InvalidArgumentError) as refused:
        pytest.skip(f"this kernel does not make it: {refused}")
    with made:
        assert differences(spec, made) == []


def test_the_table_has_every_type_of_map_that_a_definition_can_make() -> None:
    assert {spec.type for spec in ORDINARY} == set(MapType) - NOT_MADE


def test_almost_every_type_of_the_table_is_made_here() -> None:
    """So that the test above cannot pass by skipping."""
    made = set()
    for spec in ORDINARY:
        try:
            with Map.create(spec):
                made.add(spec.type)
        except (NotSupportedError, InvalidArgumentError):
            continue

    assert len(made) >= 22


def test_a_map_made_from_another_definition_does_not_fit() -> None:
    for spec in ORDINARY:
        if not spec.max_entries or spec.type in {MapType.RINGBUF, MapType.USER_RINGBUF}:
            continue
        try:
            with Map.create(spec) as made:
                # A CPU map never has more entries than there are CPUs.
                step = -1 if spec.type is MapType.CPUMAP else 1
                found = differences(spec.with_changes(max_entries=spec.max_entries + step), made)
        except (NotSupportedError, InvalidArgumentError):
            continue

        assert [each.field for each in found] == ["max_entries"], spec.name


def test_the_map_in_a_map_is_compared_with_its_types() -> None:
    inner = MapSpec("inner", MapType.HASH, 4, 16, 2, key=U32, value=DATAREC)
    outer = MapSpec("outer", MapType.HASH_OF_MAPS, 4, 4, 3, inner=inner)
    signed = types(S32).ref(1)
    with Map.create(outer) as made, Map.create(inner) as held:
        made[b"\1\0\0\0"] = held
        same = differences(outer, made)
        other = differences(outer.with_changes(inner=inner.with_changes(key=signed)), made)

    assert same == []
    assert [str(each) for each in other] == ["outer: inner key: u32 -> s32"]


@pytest.mark.parametrize("name", ["globals", "callbacks", "udp_port", "builtin:xdp_stats"])
def test_maps_that_bpftool_makes_of_an_object_fit_it(bpffs: Path, name: str) -> None:
    need("bpftool", "clang")
    own = BUILTIN / f"{name.removeprefix('builtin:')}.bpf.o"
    path = own if own.exists() else compiled(name, "clang")
    words = ["bpftool", "prog", "loadall", path, bpffs / "programs", "pinmaps", bpffs / "maps"]
    subprocess.run([str(word) for word in words], check=True)
    spec = read_object(path)
    told = {}
    for map_name, wanted in spec.maps.items():
        with Map.from_pin(_pin_of_libbpf(bpffs / "maps", map_name)) as there:
            told[map_name] = differences(wanted, there)
            assert (there.value_type is None) == (wanted.value is None)

    assert told
    assert all(found == [] for found in told.values())


def _pin_of_libbpf(folder: Path, name: str) -> Path:
    """Return the pin of a map; libbpf calls `.bss` after the object (`globals_bss`)."""
    if not name.startswith("."):
        return folder / name
    (found,) = [pin for pin in folder.iterdir() if pin.name.endswith(name.replace(".", "_"))]
    return found


def test_a_map_that_bpftool_makes_by_hand_fits_by_its_sizes(bpffs: Path) -> None:
    """It has no types, so none can differ."""
    need("bpftool")
    words = ["type", "hash", "key", "4", "value", "16", "entries", "64", "name", "flows"]
    subprocess.run(["bpftool", "map", "create", str(bpffs / "flows"), *words], check=True)
    wanted = MapSpec("flows", MapType.HASH, 4, 16, 64, key=U32, value=DATAREC)
    with Map.from_pin(bpffs / "flows") as there:
        assert differences(wanted, there) == []
        assert [each.field for each in differences(wanted.with_changes(key_size=8), there)] == [
            "key_size"
        ]


def test_our_maps_are_those_that_bpftool_shows(bpffs: Path) -> None:
    """The counterpart: bpftool reads the types that we gave the map."""
    need("bpftool", "clang")
    spec = read_object(compiled("btf_maps", "clang"))
    with load(spec) as loaded:
        loaded.maps["flows"][1] = {"packets": 2, "bytes": 3}
        loaded.maps["flows"].pin(bpffs / "flows")
    words = ["bpftool", "-j", "map", "dump", "pinned", str(bpffs / "flows")]
    (entry,) = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)

    assert entry["formatted"] == {"key": 1, "value": {"packets": 2, "bytes": 3}}
