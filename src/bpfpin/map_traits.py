"""Facts about the kernel's types of map: one row for each `MapType`.

Other modules ask `traits_of(map_type)` and do not name types themselves. A type that is missing
here (a newer kernel's) gets the row `UNKNOWN`: keys and values are data that is read one entry at
a time. What each type demands of a definition is in `objects/maps/rules.py`.

Sources: the `bpf_map_ops` of each type in the kernel's kernel/bpf and net/core, Linux 6.18;
`bpf_map_alloc` and `map_create` in kernel/bpf/syscall.c for the capabilities.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from bpfpin.uapi import Cmd, MapFlag, MapType


class MapFamily(Enum):
    """Types that the kernel stores, and user space uses, in the same way."""

    HASH = "hash"  # hashtab.c
    RESIZABLE_HASH = "resizable_hash"  # the part of hashtab.c that uses lib/rhashtable.c
    ARRAY = "array"  # arraymap.c
    TRIE = "trie"
    QUEUE = "queue"
    BLOOM_FILTER = "bloom_filter"
    RING_BUFFER = "ring_buffer"
    USER_RING_BUFFER = "user_ring_buffer"
    PERF_BUFFER = "perf_buffer"
    ARENA = "arena"
    OTHER = "other"


class KeyKind(Enum):
    """Kinds of keys."""

    DATA = "data"
    INDEX = "index"  # the numbers below max_entries
    NUMBER = "number"  # any number of 32 bits
    PREFIX = "prefix"  # a prefix length of 32 bits, then the address
    CGROUP_ID = "cgroup_id"  # struct bpf_cgroup_storage_key, or the id alone
    SOCKET = "socket"  # the owner of a local storage, as a descriptor; so are the next three
    FILE = "file"
    PROCESS = "process"
    CGROUP = "cgroup"
    NONE = "none"


class ValueKind(Enum):
    """Kinds of values."""

    DATA = "data"
    MAP = "map"
    PROGRAM = "program"
    DEVICE = "device"
    CPU = "cpu"
    SOCKET = "socket"
    CGROUP = "cgroup"
    PERF_EVENT = "perf_event"
    STACK = "stack"
    STRUCT_OPS = "struct_ops"
    INSTRUCTION = "instruction"
    NONE = "none"


_LOCAL_STORAGE_KEYS = frozenset({KeyKind.SOCKET, KeyKind.FILE, KeyKind.PROCESS, KeyKind.CGROUP})

_READ = (Cmd.MAP_LOOKUP_ELEM,)
_WRITE = (Cmd.MAP_UPDATE_ELEM,)
_DELETE = (Cmd.MAP_DELETE_ELEM,)
_WALK = (Cmd.MAP_GET_NEXT_KEY,)
_KEYED = (*_WALK, *_DELETE)
_ELEMENTS = (*_READ, *_WRITE, *_KEYED, Cmd.MAP_LOOKUP_AND_DELETE_ELEM)

_UNREADABLE = "user space cannot read its entries"
_NO_COOKIES = "user space can read the cookies of its sockets only if values have 8 bytes"
_NO_WALK = "user space cannot walk it, only look up one owner at a time"
_NO_KEYS = "it has no keys: open it as a Queue"
_WITH_ITS_LINK = "its entries are removed with the link of the program"
_MEMBERS_ONLY = "it only knows whether a value was added: open it as a BloomFilter"
_RING = "it has no entries but a stream of records"
_MEMORY = "it has no entries: it is memory that programs and processes share"

_TAKES_MAPS = "it takes maps of the type, sizes and flags of its template"
_TAKES_XDP = "it takes XDP programs that are loaded for it (section {})"
_TAKES_SOCKETS = "it takes TCP sockets that listen or are connected, and bound UDP sockets"

_READ_BY_TYPE = frozenset({ValueKind.DATA, ValueKind.STRUCT_OPS, ValueKind.NONE})


class MapTraits(NamedTuple):
    """The facts about all maps of one type.

    Attributes:
        since: The first kernel that has the type; empty if bpfpin does not know it.
        family: How the kernel stores it and user space uses it.
        key: What its keys are.
        value: What its values are.
        is_percpu: Each possible CPU has a value of its own, padded to eight bytes.
        is_lru: It evicts entries instead of being full.
        needs_net_admin: BPF_MAP_CREATE needs CAP_NET_ADMIN besides CAP_BPF.
        is_read_only_to_programs: No helper writes it: programs look into it or redirect with it.
        added_flags: Flags that the kernel reports although nobody asked for them.
        refuses: Commands that the kernel refuses for every map of the type.
        refusal: Why it refuses them.
        takes: Which values it takes, where it refuses some.
        takes_flags: BPF_NOEXIST and BPF_EXIST are accepted (a queue takes BPF_EXIST all the same).
        note: How to read such a map, for `bpfpin map show`.
    """

    since: str = ""
    family: MapFamily = MapFamily.OTHER
    key: KeyKind = KeyKind.DATA
    value: ValueKind = ValueKind.DATA
    is_percpu: bool = False
    is_lru: bool = False
    needs_net_admin: bool = False
    is_read_only_to_programs: bool = False
    added_flags: MapFlag = MapFlag(0)
    refuses: tuple[Cmd, ...] = ()
    refusal: str = ""
    takes: str = ""
    takes_flags: bool = True
    note: str = ""

    @property
    def is_array(self) -> bool:
        """Whether it is an array of data: all keys always exist, and none can be deleted."""
        return self.family is MapFamily.ARRAY and self.value is ValueKind.DATA

    @property
    def is_hash(self) -> bool:
        """Whether it is a hash of data of fixed size, per-CPU and LRU hashes among them."""
        return self.family is MapFamily.HASH and self.value is ValueKind.DATA

    @property
    def counts_entries(self) -> bool:
        """Whether the kernel counts its entries (bpf_map_init_elem_count in kernel/bpf/hashtab.c).

        `bpf_map_sum_elem_count` returns the sum, which is 0 for every map of another type.
        """
        return self.family is MapFamily.HASH

    @property
    def has_object_values(self) -> bool:
        """Whether a value is an object of the kernel, or what the kernel makes of one."""
        return self.value not in _READ_BY_TYPE

    @property
    def is_trie(self) -> bool:
        """Whether keys are prefixes and a lookup finds the longest one."""
        return self.key is KeyKind.PREFIX

    @property
    def is_plain_data(self) -> bool:
        """Whether its entries are bytes that mean the same in another map and after a reboot."""
        is_keyed = self.is_hash or self.is_trie or self.family is MapFamily.RESIZABLE_HASH
        return self.is_array or is_keyed

    @property
    def pops_in_one_step(self) -> bool:
        """Whether BPF_MAP_LOOKUP_AND_DELETE_ELEM takes an entry by its key (Linux 5.14)."""
        return self.is_hash or self.family is MapFamily.RESIZABLE_HASH

    @property
    def holds_maps(self) -> bool:
        """Whether its values are maps."""
        return self.value is ValueKind.MAP

    @property
    def holds_programs(self) -> bool:
        """Whether it is a program array, which tail calls jump through."""
        return self.value is ValueKind.PROGRAM

    @property
    def is_sockmap(self) -> bool:
        """Whether it holds sockets that programs redirect data to (net/core/sock_map.c)."""
        return self.value is ValueKind.SOCKET and not self.is_read_only_to_programs

    @property
    def is_struct_ops(self) -> bool:
        """Whether its value is a structure of the kernel's whose functions are programs."""
        return self.value is ValueKind.STRUCT_OPS

    @property
    def is_arena(self) -> bool:
        """Whether it is memory without entries."""
        return self.family is MapFamily.ARENA

    @property
    def is_ring(self) -> bool:
        """Whether max_entries is the size of a ring in bytes."""
        return self.family in {MapFamily.RING_BUFFER, MapFamily.USER_RING_BUFFER}

    @property
    def is_local_storage(self) -> bool:
        """Whether each entry belongs to a socket, file, process or cgroup that its key names.

        The kernel demands BTF types of key and value for it, and no max_entries.
        """
        return self.key in _LOCAL_STORAGE_KEYS

    @property
    def grows_with_owners(self) -> bool:
        """Whether the kernel adds and removes entries with their owners; max_entries must be 0."""
        return self.is_local_storage or self.key is KeyKind.CGROUP_ID

    @property
    def has_index_key(self) -> bool:
        """Whether a key is a number of 32 bits by the kernel's rule, with or without BTF."""
        return self.key in {KeyKind.INDEX, KeyKind.NUMBER}

    @property
    def reads_batches(self) -> bool:
        """Whether BPF_MAP_LOOKUP_BATCH reads each entry once and ends.

        The kernel's generic batches (LPM tries, device maps) go from key to key and start again
        where one was deleted: they may repeat entries and never end. Those of an array of maps stop
        at an empty slot (EINTR before Linux 6.15). Those of a resizable hash end with EAGAIN where
        the next key was deleted, and repeat entries after a resize.
        """
        return self.is_array or self.family is MapFamily.HASH

    @property
    def writes_batches(self) -> bool:
        """Whether many entries are written with BPF_MAP_UPDATE_BATCH.

        Writing goes by key, so the generic batches of an LPM trie work here.
        """
        return self.reads_batches or self.is_trie

    @property
    def is_mmapable(self) -> bool:
        """Whether its values can be memory of the process (BPF_F_MMAPABLE)."""
        return self.is_array and not self.is_percpu


# array_map_delete_elem answers EINVAL for every key (kernel/bpf/arraymap.c).
_ARRAY = MapTraits("3.19", MapFamily.ARRAY, KeyKind.INDEX)
_HASH = MapTraits("3.19", MapFamily.HASH)
_PERCPU_HASH = _HASH._replace(since="4.6", is_percpu=True)
_DEVMAP = MapTraits(
    "4.14",
    key=KeyKind.INDEX,
    value=ValueKind.DEVICE,
    needs_net_admin=True,
    is_read_only_to_programs=True,
    added_flags=MapFlag.RDONLY_PROG,  # dev_map_init_map in kernel/bpf/devmap.c
    takes=_TAKES_XDP.format("xdp/devmap"),
)
# sock_map_lookup_sys answers ENOSPC unless values have the 8 bytes of a cookie.
_SOCKMAP = MapTraits(
    "4.14",
    key=KeyKind.INDEX,
    value=ValueKind.SOCKET,
    needs_net_admin=True,
    refuses=_READ,
    refusal=_NO_COOKIES,
    takes=_TAKES_SOCKETS,
)
# kernel/bpf/queue_stack_maps.c: EINVAL for keys, and for BPF_NOEXIST; BPF_EXIST drops the oldest.
_QUEUE = MapTraits(
    "4.20",
    MapFamily.QUEUE,
    KeyKind.NONE,
    refuses=_KEYED,
    refusal=_NO_KEYS,
    takes_flags=False,
)
# cgroup_storage_delete_elem answers EINVAL (kernel/bpf/local_storage.c).
_CGROUP_STORAGE = MapTraits("4.19", key=KeyKind.CGROUP_ID, refuses=_DELETE, refusal=_WITH_ITS_LINK)


def _local_storage(since: str, key: KeyKind, owners: str) -> MapTraits:
    # Their map_get_next_key is notsupp_get_next_key: ENOTSUPP.
    note = f"stored with {owners}: an entry ends with its owner"
    return MapTraits(since, key=key, refuses=_WALK, refusal=_NO_WALK, note=note)


UNKNOWN = MapTraits()

MAP_TRAITS: dict[int, MapTraits] = {
    MapType.UNSPEC: UNKNOWN,
    MapType.HASH: _HASH,
    MapType.ARRAY: _ARRAY,
    # bpf_prog_map_compatible (kernel/bpf/core.c) compares a program with the owner of the array.
    MapType.PROG_ARRAY: _ARRAY._replace(
        since="4.2",
        value=ValueKind.PROGRAM,
        takes="it takes programs of one type, that of its first one or of its owner",
        takes_flags=False,
    ),
    # bpf_fd_array_map_lookup_elem answers ENOTSUPP without a map_fd_sys_lookup_elem.
    MapType.PERF_EVENT_ARRAY: MapTraits(
        "4.3",
        MapFamily.PERF_BUFFER,
        KeyKind.INDEX,
        ValueKind.PERF_EVENT,
        refuses=_READ,
        refusal=_UNREADABLE,
        takes_flags=False,
        note="one ring buffer for each CPU, opened by the reader of the events",
    ),
    MapType.PERCPU_HASH: _PERCPU_HASH,
    MapType.PERCPU_ARRAY: _ARRAY._replace(since="4.6", is_percpu=True),
    # stack_map_update_elem answers EINVAL (kernel/bpf/stackmap.c).
    MapType.STACK_TRACE: MapTraits(
        "4.6",
        key=KeyKind.INDEX,
        value=ValueKind.STACK,
        refuses=_WRITE,
        refusal="only programs write it (bpf_get_stackid)",
    ),
    MapType.CGROUP_ARRAY: MapTraits(
        "4.8",
        MapFamily.ARRAY,
        KeyKind.INDEX,
        ValueKind.CGROUP,
        is_read_only_to_programs=True,
        refuses=_READ,
        refusal=_UNREADABLE,
        takes_flags=False,
    ),
    MapType.LRU_HASH: _HASH._replace(since="4.10", is_lru=True),
    MapType.LRU_PERCPU_HASH: _PERCPU_HASH._replace(since="4.10", is_lru=True),
    MapType.LPM_TRIE: MapTraits(
        "4.11",
        MapFamily.TRIE,
        KeyKind.PREFIX,
        note="a key is a prefix: a lookup finds the longest one that fits",
    ),
    MapType.ARRAY_OF_MAPS: _ARRAY._replace(
        since="4.12", value=ValueKind.MAP, takes=_TAKES_MAPS, takes_flags=False
    ),
    MapType.HASH_OF_MAPS: _HASH._replace(since="4.12", value=ValueKind.MAP, takes=_TAKES_MAPS),
    MapType.DEVMAP: _DEVMAP,
    MapType.SOCKMAP: _SOCKMAP,
    MapType.CPUMAP: MapTraits(
        "4.15",
        key=KeyKind.INDEX,
        value=ValueKind.CPU,
        is_read_only_to_programs=True,
        takes=_TAKES_XDP.format("xdp/cpumap"),
    ),
    # xsk_map_lookup_elem_sys_only answers EOPNOTSUPP (net/xdp/xskmap.c). Linux 7.3 answers ENOBUFS
    # to a socket without a ring to receive into.
    MapType.XSKMAP: MapTraits(
        "4.18",
        key=KeyKind.INDEX,
        value=ValueKind.SOCKET,
        needs_net_admin=True,
        is_read_only_to_programs=True,
        refuses=_READ,
        refusal=_UNREADABLE,
        takes="it takes AF_XDP sockets that have a ring to receive into (XDP_RX_RING)",
    ),
    MapType.SOCKHASH: _SOCKMAP._replace(since="4.18", key=KeyKind.DATA),
    MapType.CGROUP_STORAGE: _CGROUP_STORAGE,
    # bpf_fd_reuseport_array_lookup_elem answers ENOSPC unless values have 8 bytes.
    MapType.REUSEPORT_SOCKARRAY: MapTraits(
        "4.19",
        key=KeyKind.INDEX,
        value=ValueKind.SOCKET,
        is_read_only_to_programs=True,
        refuses=_READ,
        refusal=_NO_COOKIES,
        takes="it takes sockets with SO_REUSEPORT that are bound or listen",
    ),
    MapType.PERCPU_CGROUP_STORAGE: _CGROUP_STORAGE._replace(since="4.20", is_percpu=True),
    MapType.QUEUE: _QUEUE,
    MapType.STACK: _QUEUE,
    MapType.SK_STORAGE: _local_storage("5.2", KeyKind.SOCKET, "sockets"),
    MapType.DEVMAP_HASH: _DEVMAP._replace(since="5.4", key=KeyKind.NUMBER),
    MapType.STRUCT_OPS: MapTraits(
        "5.6",
        key=KeyKind.NUMBER,
        value=ValueKind.STRUCT_OPS,
        note="functions of the kernel that programs implement: its value is the kernel's own"
        " structure, used once the map is registered or has a link",
    ),
    # All operations on elements answer ENOTSUPP (kernel/bpf/ringbuf.c).
    MapType.RINGBUF: MapTraits(
        "5.8",
        MapFamily.RING_BUFFER,
        KeyKind.NONE,
        ValueKind.NONE,
        refuses=_ELEMENTS,
        refusal=f"{_RING}: open it as a RingBuffer",
        note="max_entries is its size in bytes",
    ),
    MapType.INODE_STORAGE: _local_storage("5.10", KeyKind.FILE, "files"),
    MapType.TASK_STORAGE: _local_storage("5.11", KeyKind.PROCESS, "tasks"),
    # Its map_delete_elem and map_get_next_key answer EOPNOTSUPP (kernel/bpf/bloom_filter.c).
    MapType.BLOOM_FILTER: MapTraits(
        "5.16",
        MapFamily.BLOOM_FILTER,
        KeyKind.NONE,
        refuses=_KEYED,
        refusal=_MEMBERS_ONLY,
        takes_flags=False,
        note="it only knows whether a value may have been added; map_extra is the number of its"
        " hash functions",
    ),
    MapType.USER_RINGBUF: MapTraits(
        "6.1",
        MapFamily.USER_RING_BUFFER,
        KeyKind.NONE,
        ValueKind.NONE,
        refuses=_ELEMENTS,
        refusal=_RING,
        note="max_entries is its size in bytes; programs drain it",
    ),
    MapType.CGRP_STORAGE: _local_storage("6.2", KeyKind.CGROUP, "cgroups"),
    # kernel/bpf/arena.c; programs get its pages with bpf_arena_alloc_pages.
    MapType.ARENA: MapTraits(
        "6.9",
        MapFamily.ARENA,
        KeyKind.NONE,
        ValueKind.NONE,
        refuses=_ELEMENTS,
        refusal=_MEMORY,
        note="memory that programs and processes share: max_entries counts pages, map_extra is the"
        " address that it is mapped at, 0 for any",
    ),
    # kernel/bpf/bpf_insn_array.c: insn_array_delete_elem answers EINVAL. Programs jump to its
    # entries (gotox) and no helper takes it.
    MapType.INSN_ARRAY: MapTraits(
        "6.19",
        key=KeyKind.INDEX,
        value=ValueKind.INSTRUCTION,
        is_read_only_to_programs=True,
        refuses=_DELETE,
        refusal="its entries are instructions of a program and always exist",
        takes="it takes the index of an instruction; the kernel fills in the other members",
        note="places in the code of one program, for indirect jumps: orig_off in the object,"
        " xlated_off after the verifier, jitted_off in machine code",
    ),
    # Values are written in place, so a reader may see one that is half written
    # (rhtab_map_update_existing in kernel/bpf/hashtab.c).
    MapType.RHASH: MapTraits(
        "7.2",
        MapFamily.RESIZABLE_HASH,
        note="a hash that grows and shrinks with its entries; map_extra is the number of entries"
        " that it has room for from the start",
    ),
}


def traits_of(map_type: MapType | int) -> MapTraits:
    """Return the facts about a type of map; `UNKNOWN` for one that has no row."""
    return MAP_TRAITS.get(map_type, UNKNOWN)


def stride_of(value_size: int) -> int:
    """Return the bytes of one CPU's value where the kernel copies those of all CPUs.

    Each is padded to eight bytes (bpf_percpu_hash_copy in kernel/bpf/hashtab.c).
    """
    return (value_size + 7) // 8 * 8


def types_in(family: MapFamily) -> frozenset[MapType]:
    """Return the types of a family."""
    return frozenset(map_type for map_type in MapType if traits_of(map_type).family is family)
