"""What the kernel refuses of map definitions is explained, and what it takes breaks no rule."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from bpfpin.errors import BpfError, LimitError, SyscallError, UsageError
from bpfpin.loading.collection import load
from bpfpin.objects.maps.create import entries_asked
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.rules import RULES, broken_rules
from bpfpin.objfile.reader import read_object
from bpfpin.spec import MapSpec
from bpfpin.syscall.errno_table import MapDefinitionError
from bpfpin.uapi import MapFlag, MapType
from support.map_types import is_listed
from support.objects import COMPILERS, compiled_case

# A definition of each type that the kernel takes: sizes of key and value, entries, flags.
GOOD: dict[MapType, tuple[int, int, int, int]] = {
    MapType.HASH: (4, 8, 16, 0),
    MapType.LRU_HASH: (4, 8, 16, 0),
    MapType.PERCPU_HASH: (4, 8, 16, 0),
    MapType.LRU_PERCPU_HASH: (4, 8, 16, 0),
    MapType.ARRAY: (4, 8, 16, 0),
    MapType.PERCPU_ARRAY: (4, 8, 16, 0),
    MapType.PROG_ARRAY: (4, 4, 16, 0),
    MapType.CGROUP_ARRAY: (4, 4, 16, 0),
    MapType.PERF_EVENT_ARRAY: (4, 4, 16, 0),
    MapType.LPM_TRIE: (8, 8, 16, MapFlag.NO_PREALLOC),
    MapType.QUEUE: (0, 8, 16, 0),
    MapType.STACK: (0, 8, 16, 0),
    MapType.BLOOM_FILTER: (0, 8, 16, 0),
    MapType.RINGBUF: (0, 0, 4096, 0),
    MapType.USER_RINGBUF: (0, 0, 4096, 0),
    MapType.STACK_TRACE: (4, 80, 16, 0),
    MapType.DEVMAP: (4, 4, 16, 0),
    MapType.DEVMAP_HASH: (4, 8, 16, 0),
    MapType.CPUMAP: (4, 4, 1, 0),
    MapType.XSKMAP: (4, 4, 16, 0),
    MapType.SOCKMAP: (4, 4, 16, 0),
    MapType.SOCKHASH: (4, 8, 16, 0),
    MapType.REUSEPORT_SOCKARRAY: (4, 8, 16, 0),
    MapType.CGROUP_STORAGE: (8, 8, 0, 0),
    MapType.PERCPU_CGROUP_STORAGE: (16, 8, 0, 0),
    MapType.ARENA: (0, 0, 4, MapFlag.MMAPABLE),
    MapType.INSN_ARRAY: (4, 16, 16, 0),
    MapType.RHASH: (4, 8, 16, MapFlag.NO_PREALLOC),
}
SIZES = (0, 1, 2, 4, 5, 7, 8, 16, 260, 261, 512, 520, 32768, 32776, 70_000, 5 << 20)
ENTRIES = (0, 1, 3, 4096, 4097)
FLAGS = tuple(int(flag) for flag in MapFlag if flag is not MapFlag.TOKEN_FD)
# What the running kernel may have and the table has not, or what is a matter of its memory.
APART = (MapFlag.PATH_FD, MapFlag.VTYPE_BTF_OBJ_FD, MapFlag.LINK, MapFlag.RB_OVERWRITE)


def variants(kind: MapType) -> Iterator[MapSpec]:
    """Yield the good definition with one, or two, of its numbers changed."""
    key, value, entries, flags = GOOD[kind]
    good = MapSpec("m", kind, key, value, entries, map_flags=flags)
    yield good
    yield from (good.with_changes(key_size=size) for size in SIZES)
    yield from (good.with_changes(value_size=size) for size in SIZES)
    yield from (good.with_changes(max_entries=number) for number in ENTRIES)
    for flag in FLAGS:
        yield good.with_changes(map_flags=flags | flag)
        yield good.with_changes(map_flags=flag)
    for one, other in itertools.combinations((0x8, 0x10, 0x80, 0x100), 2):
        yield good.with_changes(map_flags=flags | one | other)
    yield from (good.with_changes(map_extra=number) for number in (1, 15, 16, 4096, 4097))
    yield from (good.with_changes(numa_node=node) for node in (0, 63, 100_000))


def asked(spec: MapSpec) -> str:
    return repr((spec.key_size, spec.value_size, spec.max_entries, hex(spec.map_flags)))


@pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.name.lower())
def test_the_table_and_the_kernel_agree(kind: MapType) -> None:
    if not is_listed(kind):
        pytest.skip(f"this kernel has no {kind.name.lower()}")
    unlike: list[tuple[object, ...]] = []
    for spec in variants(kind):
        if spec.map_flags & sum(APART):
            continue
        rules = broken_rules(spec, max_entries=entries_asked(spec))
        try:
            Map.create(spec).close()
        except SyscallError as error:
            if isinstance(error, MapDefinitionError) and error.rules == tuple(rules):
                continue
            unlike.append((asked(spec), spec.map_extra, spec.numa_node, str(error)))
        else:
            if rules:
                unlike.append((asked(spec), spec.map_extra, spec.numa_node, rules))

    assert unlike == []


def test_every_type_that_can_be_made_has_rules() -> None:
    odd = {MapType.UNSPEC, MapType.STRUCT_OPS}
    known = {*RULES, *odd}

    assert [kind for kind in MapType if kind not in known] == []


CASES = {
    1: "map_flags lack BPF_F_NO_PREALLOC, which every lpm_trie needs",
    2: "key_size is 8; that of an array is 4",
    3: r"a value has 40000 bytes; of a per-CPU map at most 32768 \(32 KiB\)",
    4: "max_entries is 0",
    5: "map_flags have BPF_F_NO_PREALLOC, which an array cannot have",
    6: "an LRU map is always preallocated: leave BPF_F_NO_PREALLOC out",
    7: "a queue has no keys: leave key and key_size out",
    9: "max_entries is 16; a sk_storage grows with its owners: leave it out",
    10: "value_size is 4; it must be a multiple of 8",
    11: "value_size is 2; that of a devmap is 4 or 8",
    15: "value_size is 8; that of a prog_array is 4",
    19: "key_size is 0; a key has at least 1 byte",
}


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("number", CASES)
def test_each_reason_of_a_refusal_is_told(number: int, compiler: str) -> None:
    spec = read_object(compiled_case("map_einval", compiler, defines=(f"CASE={number}",)))

    with pytest.raises(MapDefinitionError, match=CASES[number]) as caught:
        load(spec)

    assert "map themap: " in str(caught.value)
    assert "BPF_MAP_CREATE" in str(caught.value)
    assert caught.value.exit_code == 5


OTHERS: dict[int, tuple[type[BpfError], str]] = {
    14: (UsageError, "holds maps"),
    17: (LimitError, "the limit is"),
}


@pytest.mark.parametrize("number", OTHERS)
def test_what_is_refused_before_the_kernel_is_asked(number: int) -> None:
    kind, text = OTHERS[number]
    with pytest.raises(kind, match=text):
        load(read_object(compiled_case("map_einval", defines=(f"CASE={number}",))))
