"""Errors of calls on maps, explained by the type of the map.

The kernel answers calls that a type does not have with EINVAL, ENOSPC, EOPNOTSUPP or its own
ENOTSUPP, none of which says that the type is the reason (measured on Linux 6.18).
"""

from __future__ import annotations

import errno
import socket

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
from bpfpin.objects.kernel.info import type_with_article
from bpfpin.records import dataclass
from bpfpin.syscall.errno_table import BufferTooSmallError, InvalidArgumentError, name_of
from bpfpin.uapi import Cmd, MapType, UpdateFlag

WRITES = (Cmd.MAP_UPDATE_ELEM, Cmd.MAP_UPDATE_BATCH)
CPUMAP_QUEUE_MAX = 16384  # cpu_map_update_elem in kernel/bpf/cpumap.c
_INDEX_SIZE = 4
_OF_KEYS = (errno.EINVAL, errno.E2BIG, errno.ENOENT, errno.EEXIST)
# Only these errors may mean the type; a missing key, a full or a frozen map are clear.
VAGUE = (SyscallError, NotSupportedError, InvalidArgumentError, BufferTooSmallError)


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """A call that the kernel refused, with the map's size, and the bytes if they are known."""

    command: Cmd
    max_entries: int = 0
    key: bytes = b""
    value: bytes = b""
    flags: int = 0


def why_not(map_type: MapType | int, command: Cmd) -> str:
    """Return why the kernel refuses *command* for every map of this type; empty if it does not."""
    traits = traits_of(map_type)
    return traits.refusal if command in traits.refuses else ""


def explained(
    error: BpfError, map_type: MapType | int, call: RefusedCall, *, about: str
) -> Exception:
    """Return the exception for *error* of *call*: `TypeError` if the type is the reason.

    *about* names the map. If a value was refused, the hint says what the kernel accepts.
    """
    if not isinstance(error, SyscallError) or not isinstance(map_type, MapType):
        return error
    # The key and the value first: their fault can be named, while the type is only likely.
    if by_key := _about_the_key(error, map_type, call):
        return by_key
    if by_value := _about_the_value(error, map_type, call):
        return by_value
    if isinstance(error, MapFullError) and call.max_entries:
        text = f"there is no room for the key: max_entries is {call.max_entries}"
        error.message = f"{error.target}: {text}"
    # The very class: a subclass, such as KeyNotFoundError, is clear already.
    if type(error) not in VAGUE:
        return error
    command, traits = call.command, traits_of(map_type)
    described = type_with_article(map_type)
    if reason := why_not(map_type, command):
        return TypeError(f"{about} is {described}: {reason}")
    # An empty slot is EINVAL here, where other types answer ENOENT (sock_map_delete_elem).
    if traits.is_sockmap and traits.has_index_key and command is Cmd.MAP_DELETE_ELEM:
        text = f"{error.target}: there is no such key"
        return KeyNotFoundError(
            text, command=name_of(command), errno=errno.ENOENT, target=error.target
        )
    flag = call.flags & (UpdateFlag.NOEXIST | UpdateFlag.EXIST)
    if command in WRITES and flag and not traits.takes_flags and error.errno == errno.EINVAL:
        name = UpdateFlag(flag).name
        return TypeError(f"{about} is {described}: it is written without flags, not with {name}")
    if command is Cmd.MAP_UPDATE_ELEM:
        error.hint = traits.takes or error.hint
    return error


def _about_the_key(error: SyscallError, map_type: MapType, call: RefusedCall) -> BpfError | None:
    """Return the error of a key that the map cannot have."""
    if len(call.key) < _INDEX_SIZE or error.errno not in _OF_KEYS:
        return None
    number = int.from_bytes(call.key[:_INDEX_SIZE], "little")
    traits = traits_of(map_type)
    text = ""
    # array_map_update_elem() of kernel/bpf/arraymap.c: E2BIG for an index past the end, EEXIST for
    # BPF_NOEXIST. A lookup there is ENOENT.
    is_index = traits.key is KeyKind.INDEX
    if is_index and len(call.key) == _INDEX_SIZE and number >= call.max_entries > 0:
        text = f"index {number} is past the end: max_entries is {call.max_entries}"
    elif traits.is_trie and number > (bits := 8 * (len(call.key) - _INDEX_SIZE)):
        text = f"prefix length {number} is more than the {bits} bits of a key"
        if call.command in WRITES:
            return UsageError(f"{error.target}: {text}")
    elif is_index and isinstance(error, KeyExistsError):
        error.message = f"{error.target}: every index is there: NOEXIST cannot be met"
        return error
    if not text:
        return None
    return KeyNotFoundError(
        f"{error.target}: {text}",
        command=name_of(call.command),
        errno=error.errno or errno.ENOENT,
        target=error.target,
    )


def _about_the_value(error: SyscallError, map_type: MapType, call: RefusedCall) -> BpfError | None:
    """Return the error of a value that names a device or CPU that this machine does not have."""
    if call.command not in WRITES or not call.value:
        return None
    number = int.from_bytes(call.value[:_INDEX_SIZE], "little")
    value = traits_of(map_type).value
    # EINVAL has other causes as well, so the device is looked for.
    if value is ValueKind.DEVICE and error.errno == errno.EINVAL and not _is_device(number):
        return InterfaceNotFoundError(
            f"{error.target}: there is no device with ifindex {number} in this network namespace"
        )
    # cpu_map_update_elem() of kernel/bpf/cpumap.c: EOVERFLOW for the queue, ENODEV for the CPU.
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
