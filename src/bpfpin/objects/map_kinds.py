"""What the kernel refuses user space by the type of a map, and why.

The kernel answers these calls with EINVAL, ENOSPC, EOPNOTSUPP or its own ENOTSUPP, from which
nobody learns that the type is the reason (measured on Linux 6.18; in the kernel's kernel/bpf each
type has its `bpf_map_ops`).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from bpfpin.errors import BpfError, KeyNotFoundError, NotSupportedError, SyscallError
from bpfpin.syscall.refusal import BufferTooSmallError, InvalidArgumentError, name_of
from bpfpin.uapi import Cmd, MapType

READ = (Cmd.MAP_LOOKUP_ELEM,)
WRITE = (Cmd.MAP_UPDATE_ELEM,)
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
# Only these answers may stand for the type; an absent key, a full or a frozen map stay as they are.
VAGUE = (SyscallError, NotSupportedError, InvalidArgumentError, BufferTooSmallError)
# An empty place is EINVAL here, where other types answer ENOENT.
EMPTY_IS_EINVAL = frozenset({MapType.SOCKMAP})


def why_not(kind: MapType | int, command: Cmd) -> str:
    """Return why the kernel always refuses *command* for maps of this type, "" if it does not."""
    rows = REFUSED.get(kind, ()) if isinstance(kind, MapType) else ()
    return next((row.reason for row in rows if command in row.commands), "")


def explained(error: BpfError, kind: MapType | int, command: Cmd, *, about: str) -> Exception:
    """Return what to raise for *error*, the refusal of *command*: `TypeError` if the type is why.

    *about* names the map. Where a value was refused, the hint says what the kernel takes.
    """
    if not isinstance(error, SyscallError) or type(error) not in VAGUE:
        return error
    if not isinstance(kind, MapType):
        return error
    if reason := why_not(kind, command):
        word = kind.name.lower()
        article = "an" if word[0] in "ai" else "a"
        return TypeError(f"{about} is {article} {word}: {reason}")
    if kind in EMPTY_IS_EINVAL and command in REMOVE:
        text = f"{error.target}: there is no such key"
        named = name_of(command)
        return KeyNotFoundError(text, command=named, errno=errno.ENOENT, target=error.target)
    if command in WRITE:
        error.hint = TAKES.get(kind, error.hint)
    return error
