"""The kernel's rules for the definition of a map, by type: why BPF_MAP_CREATE was refused.

The kernel answers EINVAL or E2BIG for most of them and does not say which rule is broken. The rules
are those of `map_alloc_check` and `map_alloc` in the kernel's kernel/bpf (arraymap.c, hashtab.c,
lpm_trie.c, queue_stack_maps.c, bloom_filter.c, ringbuf.c, stackmap.c, devmap.c, cpumap.c,
local_storage.c, bpf_local_storage.c, arena.c) and net (sock_map.c, xskmap.c), Linux 6.18. They are
asked only after a refusal: other kernels may accept what this table does not.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

from bpfpin.errors import BpfError, Difference, IncompatibleMapError, SyscallError
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.info import MapInfo, map_info, type_name, type_with_article
from bpfpin.objects.kernel.object import OPEN_BY_ID, ObjectKind
from bpfpin.records import dataclass
from bpfpin.spec import MapSpec
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import MapFlag, MapType

PERCPU_VALUE_MAX = 32 << 10  # PCPU_MIN_UNIT_SIZE
KMALLOC_MAX = 4 << 20  # KMALLOC_MAX_SIZE
ENTRIES_MAX = 1 << 31
STACK_MAX = 512  # MAX_BPF_STACK
STORAGE_MAX = (64 << 10) - 64  # BPF_LOCAL_STORAGE_MAX_VALUE_SIZE, less what elements take
ARENA_MAX = 4 << 30
INT_MAX = (1 << 31) - 1
LPM_KEY = (5, 260)  # a length of 4 bytes, and 1 to 256 bytes of data
_BUILD_ID_SIZE = 32  # struct bpf_stack_build_id
_MAX_STACK = Path("/proc/sys/kernel/perf_event_max_stack")
_ONLINE_NODES = Path("/sys/devices/system/node/online")
_LAST_CPU = Path("/sys/devices/system/cpu/kernel_max")

_F = MapFlag
_ACCESS = _F.RDONLY | _F.WRONLY | _F.RDONLY_PROG | _F.WRONLY_PROG
_NODE = _F.NUMA_NODE
_NO_FLAGS = MapFlag(0)
_DESCRIPTOR = _F.RDONLY | _F.WRONLY


@dataclass(frozen=True, slots=True)
class DefinitionRules:
    """The kernel's rules for definitions of one type.

    *key* and *value* are the allowed sizes, or None for any size from 1 on. *flags* are those that
    the type accepts, *needs* those that every map of it has. *more* yields what else is broken.
    """

    key: tuple[int, ...] | range | None
    value: tuple[int, ...] | range | None
    flags: MapFlag
    needs: MapFlag = _NO_FLAGS
    entries_max: int = (1 << 32) - 1
    more: Callable[[MapSpec], Iterator[str]] | None = None


def _hash(spec: MapSpec) -> Iterator[str]:
    # htab_map_alloc_check
    size = spec.key_size + spec.value_size
    # 64: about what the kernel's own part of an element takes.
    if size >= KMALLOC_MAX - 64:
        yield f"key and value have {size} bytes together; they must have less than {KMALLOC_MAX}"
    is_lru = traits_of(spec.type).is_lru
    if not is_lru and spec.map_flags & _F.NO_COMMON_LRU:
        yield "BPF_F_NO_COMMON_LRU is for lru_hash and lru_percpu_hash"
    if is_lru and spec.map_flags & _F.NO_PREALLOC:
        yield "an LRU map is always preallocated: leave BPF_F_NO_PREALLOC out"
    is_split = spec.map_flags & _F.NO_COMMON_LRU or traits_of(spec.type).is_percpu
    if spec.numa_node is not None and is_split:
        yield "per-CPU memory cannot be on one NUMA node: leave numa_node out"


def _percpu_array(spec: MapSpec) -> Iterator[str]:
    # array_map_alloc_check
    if spec.numa_node is not None:
        yield "per-CPU memory cannot be on one NUMA node: leave numa_node out"


def _array(spec: MapSpec) -> Iterator[str]:
    # array_map_alloc_check
    if spec.value_size > INT_MAX:
        yield f"a value has {spec.value_size} bytes; at most {INT_MAX} fit"


def _ring(spec: MapSpec) -> Iterator[str]:
    # ringbuf_map_alloc
    size = spec.max_entries
    if size and (size & (size - 1) or size % mmap.PAGESIZE):
        yield (
            f"max_entries is {size}: the size of a ring in bytes, which must be a power of two and"
            f" whole pages of {mmap.PAGESIZE}"
        )


def _stack_trace(spec: MapSpec) -> Iterator[str]:
    # stack_map_alloc
    has_build_ids = bool(spec.map_flags & _F.STACK_BUILD_ID)
    size = _BUILD_ID_SIZE if has_build_ids else 8
    what = "struct bpf_stack_build_id" if has_build_ids else "address"
    if spec.value_size < size or spec.value_size % size:
        yield (
            f"value_size is {spec.value_size}; it must be a multiple of {size}, one {what} a frame"
        )
    elif spec.value_size // size > (limit := _max_stack()):
        yield (
            f"value_size is {spec.value_size}, {spec.value_size // size} frames; at most {limit}"
            f" (sysctl kernel.perf_event_max_stack), {limit * size} bytes"
        )


def _max_stack() -> int:
    try:
        return int(_MAX_STACK.read_text())
    except (OSError, ValueError):
        return 127


def _large(spec: MapSpec) -> Iterator[str]:
    # trie_alloc, queue_stack_map_alloc_check
    size = spec.key_size + spec.value_size
    if size > KMALLOC_MAX - 64:
        yield f"an entry has {size} bytes; at most about {KMALLOC_MAX} (4 MiB) fit"


def _cpumap(spec: MapSpec) -> Iterator[str]:
    # cpu_map_alloc compares with NR_CPUS, which the kernel shows as its last CPU.
    try:
        limit = int(_LAST_CPU.read_text()) + 1
    except (OSError, ValueError):
        return
    if spec.max_entries > limit:
        yield f"max_entries is {spec.max_entries}; this kernel has at most {limit} CPUs"


def _bloom_filter(spec: MapSpec) -> Iterator[str]:
    # bloom_map_alloc
    yield from _large(spec)
    if spec.map_extra > 15:
        yield f"map_extra is {spec.map_extra}: the number of hash functions, 1 to 15 (0: 5)"


def _cgroup_storage(spec: MapSpec) -> Iterator[str]:
    # cgroup_storage_map_alloc
    is_percpu = traits_of(spec.type).is_percpu
    limit = PERCPU_VALUE_MAX if is_percpu else STORAGE_MAX
    if spec.value_size > limit:
        yield f"a value has {spec.value_size} bytes; at most about {limit} fit"


def _storage(spec: MapSpec) -> Iterator[str]:
    # bpf_local_storage_map_alloc_check
    if spec.value_size > STORAGE_MAX:
        yield f"a value has {spec.value_size} bytes; at most about {STORAGE_MAX} fit"


def _arena(spec: MapSpec) -> Iterator[str]:
    # arena_map_alloc
    size = spec.max_entries * mmap.PAGESIZE
    if size > ARENA_MAX:
        yield f"max_entries is {spec.max_entries} pages; an arena has at most 4 GiB"
    if spec.map_extra % mmap.PAGESIZE:
        yield f"map_extra is {spec.map_extra:#x}: the address of the arena, at a page's beginning"
    elif spec.map_extra and spec.map_extra >> 32 != (spec.map_extra + size - 1) >> 32:
        yield f"the arena of {size} bytes at {spec.map_extra:#x} crosses a border of 4 GiB"


def _resizable_hash(spec: MapSpec) -> Iterator[str]:
    # rhtab_map_alloc_check
    yield from _hash(spec)
    if spec.key_size > 0xFFFF:
        yield f"a key has {spec.key_size} bytes; at most {0xFFFF} fit"
    if spec.map_extra > min(spec.max_entries, 0xFFFF):
        yield (
            f"map_extra is {spec.map_extra}: the number of entries to make room for at the start,"
            f" at most max_entries ({spec.max_entries}) and {0xFFFF}"
        )


def _sockhash(spec: MapSpec) -> Iterator[str]:
    # sock_hash_alloc
    if spec.key_size > STACK_MAX:
        yield f"a key has {spec.key_size} bytes; at most {STACK_MAX} fit"


_HASH_FLAGS = _F.NO_PREALLOC | _F.NO_COMMON_LRU | _F.ZERO_SEED | _NODE | _ACCESS
_HASHES = DefinitionRules(None, None, _HASH_FLAGS, entries_max=ENTRIES_MAX, more=_hash)
_PERCPU_HASHES = DefinitionRules(None, None, _HASH_FLAGS, entries_max=ENTRIES_MAX, more=_hash)
_ARRAY_FLAGS = _NODE | _ACCESS
_DESCRIPTORS = DefinitionRules((4,), (4,), _NODE | _DESCRIPTOR)
_QUEUES = DefinitionRules((0,), None, _NODE | _ACCESS, more=_large)
_RINGS = DefinitionRules((0,), (0,), _NODE, more=_ring)
_DEVICES = DefinitionRules((4,), (4, 8), _NODE | _DESCRIPTOR)
_STORAGES = DefinitionRules(
    (4,),
    None,
    _F.NO_PREALLOC | _F.CLONE,
    needs=_F.NO_PREALLOC,
    more=_storage,
)

RULES: dict[MapType, DefinitionRules] = {
    MapType.HASH: _HASHES,
    MapType.LRU_HASH: _HASHES,
    MapType.PERCPU_HASH: _PERCPU_HASHES,
    MapType.LRU_PERCPU_HASH: _PERCPU_HASHES,
    MapType.HASH_OF_MAPS: DefinitionRules(
        None, (4,), _HASH_FLAGS, entries_max=ENTRIES_MAX, more=_hash
    ),
    MapType.ARRAY: DefinitionRules(
        (4,), None, _ARRAY_FLAGS | _F.MMAPABLE | _F.INNER_MAP, more=_array
    ),
    MapType.PERCPU_ARRAY: DefinitionRules((4,), None, _ARRAY_FLAGS, more=_percpu_array),
    MapType.PROG_ARRAY: _DESCRIPTORS,
    MapType.CGROUP_ARRAY: _DESCRIPTORS,
    MapType.ARRAY_OF_MAPS: _DESCRIPTORS,
    MapType.PERF_EVENT_ARRAY: DefinitionRules((4,), (4,), _NODE | _DESCRIPTOR | _F.PRESERVE_ELEMS),
    MapType.LPM_TRIE: DefinitionRules(
        range(LPM_KEY[0], LPM_KEY[1] + 1),
        None,
        _F.NO_PREALLOC | _NODE | _ACCESS,
        needs=_F.NO_PREALLOC,
        more=_large,
    ),
    MapType.QUEUE: _QUEUES,
    MapType.STACK: _QUEUES,
    MapType.BLOOM_FILTER: DefinitionRules(
        (0,), None, _NODE | _F.ZERO_SEED | _ACCESS, more=_bloom_filter
    ),
    MapType.RINGBUF: _RINGS,
    MapType.USER_RINGBUF: _RINGS,
    MapType.STACK_TRACE: DefinitionRules(
        (4,), None, _NODE | _DESCRIPTOR | _F.STACK_BUILD_ID, more=_stack_trace
    ),
    MapType.DEVMAP: _DEVICES,
    MapType.DEVMAP_HASH: DefinitionRules(
        (4,), (4, 8), _NODE | _DESCRIPTOR, entries_max=ENTRIES_MAX
    ),
    MapType.CPUMAP: DefinitionRules((4,), (4, 8), _NODE, more=_cpumap),
    MapType.XSKMAP: DefinitionRules((4,), (4,), _NODE | _DESCRIPTOR),
    MapType.SOCKMAP: _DEVICES,
    MapType.SOCKHASH: DefinitionRules(None, (4, 8), _NODE | _DESCRIPTOR, more=_sockhash),
    MapType.REUSEPORT_SOCKARRAY: DefinitionRules((4,), (4, 8), _ARRAY_FLAGS),
    MapType.SK_STORAGE: _STORAGES,
    MapType.INODE_STORAGE: _STORAGES,
    MapType.TASK_STORAGE: _STORAGES,
    MapType.CGRP_STORAGE: _STORAGES,
    MapType.CGROUP_STORAGE: DefinitionRules((8, 16), None, _NODE | _ACCESS, more=_cgroup_storage),
    MapType.PERCPU_CGROUP_STORAGE: DefinitionRules(
        (8, 16), None, _NODE | _ACCESS, more=_cgroup_storage
    ),
    MapType.ARENA: DefinitionRules(
        (0,),
        (0,),
        _F.MMAPABLE | _F.SEGV_ON_FAULT | _F.NO_USER_CONV,
        needs=_F.MMAPABLE,
        more=_arena,
    ),
    MapType.INSN_ARRAY: DefinitionRules((4,), (16,), _NO_FLAGS),
    MapType.RHASH: DefinitionRules(
        None,
        None,
        _F.NO_PREALLOC | _NODE | _ACCESS,
        needs=_F.NO_PREALLOC,
        entries_max=ENTRIES_MAX,
        more=_resizable_hash,
    ),
}
_WITH_EXTRA = (MapType.BLOOM_FILTER, MapType.ARENA, MapType.RHASH)


def broken_rules(
    spec: MapSpec, *, max_entries: int | None = None, has_inner: bool = True
) -> list[str]:
    """Return the rules of its type that *spec* breaks; none if no broken rule is known.

    *max_entries* is the number that the kernel got if it differs from that of *spec*; *has_inner*
    whether a map of maps was given an inner map as a template.
    """
    rules = RULES.get(spec.type)
    if rules is None:
        return []
    if max_entries is not None:
        spec = spec.with_changes(max_entries=max_entries)
    if spec.map_flags & _NODE:
        node = spec.numa_node or 0
        spec = spec.with_changes(map_flags=spec.map_flags & ~_NODE, numa_node=node)
    traits = traits_of(spec.type)
    broken = [
        *_sizes(spec, rules),
        *_entries(spec, rules),
        *_flags(spec, rules),
        *_node(spec),
        *(rules.more(spec) if rules.more else ()),
    ]
    if traits.holds_maps and not has_inner:
        broken.append("nothing says what maps it holds: __array(values, struct { … })")
    if traits.is_local_storage and (spec.key is None or spec.value is None):
        broken.append("the types of key and value are needed: __type(key, int), __type(value, T)")
    if spec.map_extra and spec.type not in _WITH_EXTRA:
        broken.append(
            f"map_extra is {spec.map_extra:#x}; only bloom_filter, arena and rhash have it"
        )
    return broken


def _sizes(spec: MapSpec, rules: DefinitionRules) -> Iterator[str]:
    for what, size, sizes in (
        ("key", spec.key_size, rules.key),
        ("value", spec.value_size, rules.value),
    ):
        if sizes is None:
            if not size:
                yield f"{what}_size is 0; a {what} has at least 1 byte"
        elif size not in sizes:
            yield f"{what}_size is {size}; {_allowed(spec.type, what, sizes)}"
    traits = traits_of(spec.type)
    is_limited = traits.is_percpu and not traits.grows_with_owners
    if is_limited and spec.value_size > PERCPU_VALUE_MAX:
        yield (
            f"a value has {spec.value_size} bytes; of a per-CPU map at most {PERCPU_VALUE_MAX}"
            " (32 KiB)"
        )


def _allowed(kind: MapType, what: str, sizes: tuple[int, ...] | range) -> str:
    if isinstance(sizes, range):
        return (
            f"it must be {sizes.start} to {sizes.stop - 1}: the prefix length (4 bytes) and 1 to"
            f" {sizes.stop - 5} bytes of data"
        )
    if sizes == (0,):
        return f"{type_with_article(kind)} has no {what}s: leave {what} and {what}_size out"
    return f"that of {type_with_article(kind)} is {' or '.join(map(str, sizes))}"


def _entries(spec: MapSpec, rules: DefinitionRules) -> Iterator[str]:
    if traits_of(spec.type).grows_with_owners:
        if spec.max_entries:
            yield (
                f"max_entries is {spec.max_entries}; {type_with_article(spec.type)} grows with its"
                " owners: leave it out"
            )
    elif not spec.max_entries:
        yield "max_entries is 0"
    elif spec.max_entries > rules.entries_max:
        yield f"max_entries is {spec.max_entries}; at most {rules.entries_max} fit"


def _flags(spec: MapSpec, rules: DefinitionRules) -> Iterator[str]:
    missing = rules.needs & ~spec.map_flags
    if missing:
        yield f"map_flags lack {_names(missing)}, which every {spec.type.name.lower()} needs"
    unknown = spec.map_flags & ~rules.flags
    if unknown:
        yield f"map_flags have {_names(unknown)}, which {type_with_article(spec.type)} cannot have"
    for first, second in ((_F.RDONLY, _F.WRONLY), (_F.RDONLY_PROG, _F.WRONLY_PROG)):
        if spec.map_flags & first and spec.map_flags & second:
            yield f"map_flags have both {_names(first)} and {_names(second)}"


def _names(flags: int) -> str:
    known = [flag for flag in MapFlag if flags & flag]
    rest = flags & ~sum(known)
    names = [f"BPF_F_{flag.name}" for flag in known]
    return " and ".join([*names, *([f"{rest:#x}"] if rest else [])])


def _node(spec: MapSpec) -> Iterator[str]:
    node = spec.numa_node
    if node is None:
        return
    if not _NODE & RULES[spec.type].flags:
        yield f"numa_node is set, which {type_with_article(spec.type)} cannot have"
        return
    online = _online_nodes()
    if online and node not in online:
        nodes = ", ".join(map(str, sorted(online)))
        yield f"numa_node is {node}; this machine has: {nodes}"


def _online_nodes() -> set[int]:
    """Return the NUMA nodes of this machine; none if the kernel does not report them."""
    try:
        text = _ONLINE_NODES.read_text().strip()
    except OSError:
        return {0}  # a kernel without NUMA has node 0 alone
    nodes: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        nodes.update(range(int(first), int(last or first) + 1))
    return nodes


def unlike_sample(error: SyscallError, sample: bytes, value: bytes, *, about: str) -> BpfError:
    """Return in what the map of descriptor *value* differs from the map whose id is *sample*.

    *error* is the refusal of *value* by the map of maps that *about* names; it is returned if no
    difference is found. The kernel compares with a template that it does not show, but every map in
    a map of maps has passed that comparison (bpf_map_meta_equal in kernel/bpf/map_in_map.c).
    """
    with contextlib.suppress(BpfError):
        given = map_info(int.from_bytes(value, "little"))
        sample_fd = OPEN_BY_ID[ObjectKind.MAP](int.from_bytes(sample, "little"))
        with Descriptor(sample_fd) as opened:
            differences = inner_differences(map_info(opened.fileno()), given)
        if differences:
            return IncompatibleMapError(
                f"{about}: map {given.name} (id {given.id}) is not what it holds",
                differences=differences,
            )
    return error


def inner_differences(sample: MapInfo, given: MapInfo) -> list[Difference]:
    """Return the fields in which *given* differs from *sample*, which is in the map of maps.

    As bpf_map_meta_equal and array_map_meta_equal in the kernel's kernel/bpf have it: type, sizes
    and flags, and `max_entries` of arrays without BPF_F_INNER_MAP.
    """
    traits = traits_of(sample.type)
    is_array = traits.is_array and not traits.is_percpu
    fields = ["type", "key_size", "value_size", "map_flags"]
    if is_array and not sample.map_flags & _F.INNER_MAP:
        fields.append("max_entries")
    return [
        Difference(given.name, name, _shown(name, value), _shown(name, wanted))
        for name in fields
        if (value := getattr(given, name)) != (wanted := getattr(sample, name))
    ]


def _shown(field: str, value: int) -> str:
    if field == "type":
        return type_name(value)
    return hex(value) if field == "map_flags" else str(value)
