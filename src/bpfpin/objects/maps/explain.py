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
from bpfpin.map_traits import KeyKind, ValueKind, traits_of
from bpfpin.syscall.errno_table import BufferTooSmallError, InvalidArgumentError, name_of
from bpfpin.uapi import Cmd, MapType, UpdateFlag

WRITES = (Cmd.MAP_UPDATE_ELEM, Cmd.MAP_UPDATE_BATCH)
CPUMAP_QUEUE_MAX = 16384  # of kernel/bpf/cpumap.c
_INDEX_SIZE = 4
_OF_KEYS = (errno.EINVAL, errno.E2BIG, errno.ENOENT, errno.EEXIST)
# Only these answers may stand for the type; an absent key, a full or a frozen map stay as they are.
VAGUE = (SyscallError, NotSupportedError, InvalidArgumentError, BufferTooSmallError)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the kernel refused: the call, the map's size, and the bytes where they are known."""

    command: Cmd
    max_entries: int = 0
    key: bytes = b""
    value: bytes = b""
    flags: int = 0


def why_not(kind: MapType | int, command: Cmd) -> str:
    """Return why the kernel always refuses *command* for maps of this type, "" if it does not."""
    traits = traits_of(kind)
    return traits.refusal if command in traits.refuses else ""


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
    command, traits = asked.command, traits_of(kind)
    if reason := why_not(kind, command):
        return TypeError(f"{about} is {_a(kind)}: {reason}")
    # An empty slot is EINVAL here, where other types answer ENOENT (sock_map_delete_elem).
    if traits.is_sockmap and traits.has_index_key and command is Cmd.MAP_DELETE_ELEM:
        text = f"{error.target}: there is no such key"
        named = name_of(command)
        return KeyNotFoundError(text, command=named, errno=errno.ENOENT, target=error.target)
    flag = asked.flags & (UpdateFlag.NOEXIST | UpdateFlag.EXIST)
    if command in WRITES and flag and not traits.takes_flags and error.errno == errno.EINVAL:
        name = UpdateFlag(flag).name
        return TypeError(f"{about} is {_a(kind)}: it is written without flags, not with {name}")
    if command is Cmd.MAP_UPDATE_ELEM:
        error.hint = traits.takes or error.hint
    return error


def _about_the_key(error: SyscallError, kind: MapType, asked: Asked) -> BpfError | None:
    """Return the error of a key that no map of this size can have."""
    if len(asked.key) < _INDEX_SIZE or error.errno not in _OF_KEYS:
        return None
    number = int.from_bytes(asked.key[:_INDEX_SIZE], "little")
    traits = traits_of(kind)
    text = ""
    is_index = traits.key is KeyKind.INDEX
    if is_index and len(asked.key) == _INDEX_SIZE and number >= asked.max_entries > 0:
        text = f"index {number} is past the end: max_entries is {asked.max_entries}"
    elif traits.is_trie and number > (bits := 8 * (len(asked.key) - _INDEX_SIZE)):
        text = f"prefix length {number} is more than the {bits} bits of a key"
        if asked.command in WRITES:
            return UsageError(f"{error.target}: {text}")
    elif is_index and isinstance(error, KeyExistsError):
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
    value = traits_of(kind).value
    if value is ValueKind.DEVICE and error.errno == errno.EINVAL and not _is_device(number):
        return InterfaceNotFoundError(
            f"{error.target}: there is no device with ifindex {number} in this network namespace"
        )
    if value is ValueKind.CPU and error.errno == errno.EOVERFLOW:
        return UsageError(
            f"{error.target}: a queue of {number} packets; at most {CPUMAP_QUEUE_MAX} are possible"
        )
    if value is ValueKind.CPU and error.errno == errno.ENODEV:
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
