"""What the kernel refuses user space by the type of a map, and why.

The kernel answers these calls with EINVAL, ENOSPC, EOPNOTSUPP or its own ENOTSUPP, from which
nobody learns that the type is the reason (measured on Linux 6.18; in the kernel's kernel/bpf each
type has its `bpf_map_ops`).
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from bpfpin.errors import (
    BpfError,
    InterfaceNotFoundError,
    KeyExistsError,
    KeyNotFoundError,
    MapFullError,
    NotSupportedError,
    SyscallError,
    UsageError,
)
from bpfpin.syscall.refusal import BufferTooSmallError, InvalidArgumentError, name_of
from bpfpin.uapi import Cmd, MapType, UpdateFlag

READ = (Cmd.MAP_LOOKUP_ELEM,)
WRITE = (Cmd.MAP_UPDATE_ELEM,)
WRITES = (*WRITE, Cmd.MAP_UPDATE_BATCH)
REMOVE = (Cmd.MAP_DELETE_ELEM,)
WALK = (Cmd.MAP_GET_NEXT_KEY,)
ALL = (*READ, *WRITE, *REMOVE, *WALK, Cmd.MAP_LOOKUP_AND_DELETE_ELEM)

UNREADABLE = "the kernel lets nobody read its entries"
NO_COOKIES = "the kernel tells the cookies of its sockets only where values have 8 bytes"
NO_WALK = "user space cannot walk it, only ask for one owner at a time"
NO_KEYS = "it has no keys: open it as a Queue"
WITH_ITS_LINK = "the kernel removes its entries with the link of the program"
MEMBERS_ONLY = "it only knows whether a value was added: open it as a BloomFilter"
RING = "it has no entries but a stream of records"
MEMORY = "it has no entries: it is memory that programs and processes share"


@dataclass(frozen=True, slots=True)
class Refused:
    """Why the kernel refuses *commands*."""

    commands: tuple[Cmd, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What the kernel refused: the call, the map's size, and the bytes where they are known."""

    command: Cmd
    max_entries: int = 0
    key: bytes = b""
    value: bytes = b""
    flags: int = 0


REFUSED: dict[MapType, tuple[Refused, ...]] = {
    MapType.PERF_EVENT_ARRAY: (Refused(READ, UNREADABLE),),
    MapType.CGROUP_ARRAY: (Refused(READ, UNREADABLE),),
    MapType.XSKMAP: (Refused(READ, UNREADABLE),),
    MapType.SOCKMAP: (Refused(READ, NO_COOKIES),),
    MapType.SOCKHASH: (Refused(READ, NO_COOKIES),),
    MapType.REUSEPORT_SOCKARRAY: (Refused(READ, NO_COOKIES),),
    MapType.STACK_TRACE: (Refused(WRITE, "only programs write it (bpf_get_stackid)"),),
    MapType.CGROUP_STORAGE: (Refused(REMOVE, WITH_ITS_LINK),),
    MapType.PERCPU_CGROUP_STORAGE: (Refused(REMOVE, WITH_ITS_LINK),),
    MapType.SK_STORAGE: (Refused(WALK, NO_WALK),),
    MapType.INODE_STORAGE: (Refused(WALK, NO_WALK),),
    MapType.TASK_STORAGE: (Refused(WALK, NO_WALK),),
    MapType.CGRP_STORAGE: (Refused(WALK, NO_WALK),),
    MapType.QUEUE: (Refused((*WALK, *REMOVE), NO_KEYS),),
    MapType.STACK: (Refused((*WALK, *REMOVE), NO_KEYS),),
    MapType.BLOOM_FILTER: (Refused((*WALK, *REMOVE), MEMBERS_ONLY),),
    MapType.RINGBUF: (Refused(ALL, f"{RING}: open it as a RingBuffer"),),
    MapType.USER_RINGBUF: (Refused(ALL, RING),),
    MapType.ARENA: (Refused(ALL, MEMORY),),
}
TAKES_PROGRAM = "it takes XDP programs that are loaded for it (section {})"
TAKES_SOCKETS = "it takes TCP sockets that listen or are connected, and bound UDP sockets"
TAKES_MAPS = "it takes maps of the type, sizes and flags of its template"
# What the kernel takes where it refuses a value.
TAKES: dict[MapType, str] = {
    MapType.PROG_ARRAY: "it takes programs of one type, that of its first one or of its owner",
    MapType.ARRAY_OF_MAPS: TAKES_MAPS,
    MapType.HASH_OF_MAPS: TAKES_MAPS,
    MapType.DEVMAP: TAKES_PROGRAM.format("xdp/devmap"),
    MapType.DEVMAP_HASH: TAKES_PROGRAM.format("xdp/devmap"),
    MapType.CPUMAP: TAKES_PROGRAM.format("xdp/cpumap"),
    MapType.SOCKMAP: TAKES_SOCKETS,
    MapType.SOCKHASH: TAKES_SOCKETS,
    MapType.REUSEPORT_SOCKARRAY: "it takes sockets with SO_REUSEPORT that are bound or listen",
}
# Types whose keys are the numbers below max_entries.
INDEXED = frozenset(
    {
        *(MapType.ARRAY, MapType.PERCPU_ARRAY, MapType.PROG_ARRAY, MapType.PERF_EVENT_ARRAY),
        *(MapType.CGROUP_ARRAY, MapType.ARRAY_OF_MAPS, MapType.DEVMAP, MapType.CPUMAP),
        *(MapType.XSKMAP, MapType.SOCKMAP, MapType.REUSEPORT_SOCKARRAY, MapType.STACK_TRACE),
    }
)
DEVICES = frozenset({MapType.DEVMAP, MapType.DEVMAP_HASH})
# Types that take no flag but BPF_ANY (a queue takes BPF_EXIST, too).
ANY_ALONE = frozenset(
    {
        *(MapType.PROG_ARRAY, MapType.PERF_EVENT_ARRAY, MapType.CGROUP_ARRAY),
        *(MapType.ARRAY_OF_MAPS, MapType.QUEUE, MapType.STACK, MapType.BLOOM_FILTER),
    }
)
CPUMAP_QUEUE_MAX = 16384  # of kernel/bpf/cpumap.c
_INDEX_SIZE = 4
_OF_KEYS = (errno.EINVAL, errno.E2BIG, errno.ENOENT, errno.EEXIST)
# Only these answers may stand for the type; an absent key, a full or a frozen map stay as they are.
VAGUE = (SyscallError, NotSupportedError, InvalidArgumentError, BufferTooSmallError)
# An empty place is EINVAL here, where other types answer ENOENT.
EMPTY_IS_EINVAL = frozenset({MapType.SOCKMAP})


def why_not(kind: MapType | int, command: Cmd) -> str:
    """Return why the kernel always refuses *command* for maps of this type, "" if it does not."""
    rows = REFUSED.get(kind, ()) if isinstance(kind, MapType) else ()
    return next((row.reason for row in rows if command in row.commands), "")


def explained(error: BpfError, kind: MapType | int, asked: Asked, *, about: str) -> Exception:
    """Return what to raise for *error*, the refusal of *asked*: `TypeError` if the type is why.

    *about* names the map. Where a value was refused, the hint says what the kernel takes.
    """
    if not isinstance(error, SyscallError) or not isinstance(kind, MapType):
        return error
    if by_key := _about_the_key(error, kind, asked):
        return by_key
    if by_value := _about_the_value(error, kind, asked):
        return by_value
    if isinstance(error, MapFullError) and asked.max_entries:
        error.message = f"{error.target}: there is no room for the key: max_entries is" + (
            f" {asked.max_entries}"
        )
    if type(error) not in VAGUE:
        return error
    command = asked.command
    if reason := why_not(kind, command):
        return TypeError(f"{about} is {_a(kind)}: {reason}")
    if kind in EMPTY_IS_EINVAL and command in REMOVE:
        text = f"{error.target}: there is no such key"
        named = name_of(command)
        return KeyNotFoundError(text, command=named, errno=errno.ENOENT, target=error.target)
    flag = asked.flags & (UpdateFlag.NOEXIST | UpdateFlag.EXIST)
    if command in WRITES and flag and kind in ANY_ALONE and error.errno == errno.EINVAL:
        name = UpdateFlag(flag).name
        return TypeError(f"{about} is {_a(kind)}: it is written without flags, not with {name}")
    if command in WRITE:
        error.hint = TAKES.get(kind, error.hint)
    return error


def _about_the_key(error: SyscallError, kind: MapType, asked: Asked) -> BpfError | None:
    """Return the error of a key that no map of this size can have."""
    if len(asked.key) < _INDEX_SIZE or error.errno not in _OF_KEYS:
        return None
    number = int.from_bytes(asked.key[:_INDEX_SIZE], "little")
    text = ""
    if kind in INDEXED and len(asked.key) == _INDEX_SIZE and number >= asked.max_entries > 0:
        text = f"index {number} is past the end: max_entries is {asked.max_entries}"
    elif kind is MapType.LPM_TRIE and number > (bits := 8 * (len(asked.key) - _INDEX_SIZE)):
        text = f"prefix length {number} is more than the {bits} bits of a key"
        if asked.command in WRITES:
            return UsageError(f"{error.target}: {text}")
    elif kind in INDEXED and isinstance(error, KeyExistsError):
        error.message = f"{error.target}: every index is there: NOEXIST cannot be met"
        return error
    if not text:
        return None
    return KeyNotFoundError(
        f"{error.target}: {text}",
        command=name_of(asked.command),
        errno=error.errno or errno.ENOENT,
        target=error.target,
    )


def _about_the_value(error: SyscallError, kind: MapType, asked: Asked) -> BpfError | None:
    """Return the error of a value that stands for what this machine does not have."""
    if asked.command not in WRITES or not asked.value:
        return None
    number = int.from_bytes(asked.value[:_INDEX_SIZE], "little")
    if kind in DEVICES and error.errno == errno.EINVAL and not _is_device(number):
        return InterfaceNotFoundError(
            f"{error.target}: there is no device with ifindex {number} in this network namespace"
        )
    if kind is MapType.CPUMAP and error.errno == errno.EOVERFLOW:
        return UsageError(
            f"{error.target}: a queue of {number} packets; at most {CPUMAP_QUEUE_MAX} are possible"
        )
    if kind is MapType.CPUMAP and error.errno == errno.ENODEV:
        return UsageError(f"{error.target}: this machine has no such CPU")
    return None


def _is_device(ifindex: int) -> bool:
    try:
        socket.if_indextoname(ifindex)
    except (OSError, OverflowError):
        return False
    return True


def _a(kind: MapType) -> str:
    word = kind.name.lower()
    return f"{'an' if word[0] in 'ai' else 'a'} {word}"
