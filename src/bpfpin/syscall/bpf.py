"""The commands of bpf(2), one function each, named as the kernel names them.

The functions know nothing of layouts or types. Each raises what `errno_table.TABLE` has for its
command; the docstrings name the errors that callers handle. The argument *target* names the object
in the message of an error (`map flows`).

Commands that run thousands of times a second go past these functions: `objects/maps` keeps a
`call.Call` for the entries and batches that it reads and writes.
"""

from __future__ import annotations

import ctypes
import os

from bpfpin.errors import IdNotFoundError
from bpfpin.syscall import fs
from bpfpin.syscall.attr import (
    BtfLoadAttr,
    EnableStatsAttr,
    IdAttr,
    IterCreateAttr,
    LinkCreateAttr,
    LinkDetachAttr,
    LinkDetails,
    LinkUpdateAttr,
    MapBatchAttr,
    MapCreateAttr,
    MapElemAttr,
    MapFreezeAttr,
    ObjAttr,
    ObjInfoAttr,
    ProgAttachAttr,
    ProgBindMapAttr,
    ProgLoadAttr,
    ProgQueryAttr,
    ProgStreamReadAttr,
    ProgTestRunAttr,
    RawTracepointAttr,
)
from bpfpin.syscall.call import bpf
from bpfpin.uapi import AttachType, Cmd, LinkUpdateFlag

# The attributes have room for a u32; the kernel gives ids from 1 to INT_MAX in a circle, so that
# the id of a freed object is not soon used again (bpf_map_alloc_id() of kernel/bpf/syscall.c).
ID_MAX = (1 << 32) - 1

Path = str | bytes | os.PathLike[str]


def address(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    """Return the address of *buffer*, 0 for None; the caller keeps it alive during the call."""
    return 0 if buffer is None else ctypes.addressof(buffer)


def buffer_of(data: bytes) -> ctypes.Array[ctypes.c_char]:
    """Return a writable copy of *data* for the kernel, without a NUL at its end."""
    return (ctypes.c_char * len(data)).from_buffer_copy(data)


def map_create(attribute: MapCreateAttr, *, target: str = "") -> int:
    """Create a map and return its descriptor (BPF_MAP_CREATE, Linux 3.18).

    `InvalidArgumentError` if the definition breaks a rule of the map's type.
    """
    return bpf(Cmd.MAP_CREATE, attribute, target=target)


def map_freeze(fd: int, *, target: str = "") -> None:
    """Make the map read-only for user space, for good (BPF_MAP_FREEZE, Linux 5.2).

    `SyscallError` (EBUSY) if it is frozen already, or while a process writes to it or maps it.
    """
    bpf(Cmd.MAP_FREEZE, MapFreezeAttr(map_fd=fd), target=target)


def map_lookup_elem(
    fd: int, key: bytes, value_size: int, *, flags: int = 0, target: str = ""
) -> bytes:
    """Return the value at *key*, *value_size* bytes (BPF_MAP_LOOKUP_ELEM, Linux 3.18).

    `KeyNotFoundError` if there is no such key.
    """
    return _read_elem(Cmd.MAP_LOOKUP_ELEM, fd, key, value_size, flags=flags, target=target)


def map_lookup_and_delete_elem(
    fd: int, key: bytes, value_size: int, *, flags: int = 0, target: str = ""
) -> bytes:
    """Return the value at *key* and remove it (BPF_MAP_LOOKUP_AND_DELETE_ELEM).

    For a queue or a stack (Linux 4.20) *key* is empty, and the value is popped; for a hash since
    Linux 5.14. `KeyNotFoundError` if there is no such key, or the queue is empty.
    """
    command = Cmd.MAP_LOOKUP_AND_DELETE_ELEM
    return _read_elem(command, fd, key, value_size, flags=flags, target=target)


def map_get_next_key(fd: int, key: bytes | None, key_size: int, *, target: str = "") -> bytes:
    """Return the key after *key*, the first one for None (BPF_MAP_GET_NEXT_KEY, Linux 3.18).

    `KeyNotFoundError` after the last key.
    """
    return _read_elem(Cmd.MAP_GET_NEXT_KEY, fd, key or b"", key_size, target=target)


def _read_elem(
    command: Cmd, fd: int, key: bytes, size: int, *, flags: int = 0, target: str = ""
) -> bytes:
    # A queue has no key, and the kernel refuses every pointer but NULL for it (__bpf_copy_key() of
    # kernel/bpf/syscall.c). In BPF_MAP_GET_NEXT_KEY, NULL asks for the first key.
    key_buffer = buffer_of(key) if key else None
    value = ctypes.create_string_buffer(size)
    attribute = MapElemAttr(fd, address(key_buffer), ctypes.addressof(value), flags)
    bpf(command, attribute, target=target)
    return value.raw


def map_update_elem(fd: int, key: bytes, value: bytes, *, flags: int = 0, target: str = "") -> None:
    """Write *value* at *key* (BPF_MAP_UPDATE_ELEM, Linux 3.18); *flags* are of `UpdateFlag`.

    `KeyExistsError` with NOEXIST, `KeyNotFoundError` with EXIST, `MapFullError`, and
    `ReadOnlyMapError` for a frozen map or a descriptor for reading.
    """
    key_buffer, value_buffer = buffer_of(key), buffer_of(value)
    attribute = MapElemAttr(fd, address(key_buffer), address(value_buffer), flags)
    bpf(Cmd.MAP_UPDATE_ELEM, attribute, target=target)


def map_delete_elem(fd: int, key: bytes, *, flags: int = 0, target: str = "") -> None:
    """Remove *key* (BPF_MAP_DELETE_ELEM, Linux 3.18); `KeyNotFoundError` if it is missing."""
    key_buffer = buffer_of(key)
    attribute = MapElemAttr(fd, address(key_buffer), 0, flags)
    bpf(Cmd.MAP_DELETE_ELEM, attribute, target=target)


def map_lookup_batch(attribute: MapBatchAttr, *, target: str = "") -> None:
    """Read many elements (BPF_MAP_LOOKUP_BATCH, Linux 5.6); `KeyNotFoundError` at the end."""
    bpf(Cmd.MAP_LOOKUP_BATCH, attribute, target=target)


def prog_load(attribute: ProgLoadAttr, *, target: str = "") -> int:
    """Verify and load a program and return its descriptor (BPF_PROG_LOAD, Linux 3.18).

    `BufferTooSmallError` if the verifier's log did not fit; then `log_true_size` of the attribute
    is the size needed (Linux 6.4, 0 before).
    """
    return bpf(Cmd.PROG_LOAD, attribute, target=target)


def prog_bind_map(prog_fd: int, map_fd: int, *, target: str = "") -> None:
    """Make a program keep a reference to a map that it does not use (BPF_PROG_BIND_MAP, 5.10)."""
    bpf(Cmd.PROG_BIND_MAP, ProgBindMapAttr(prog_fd, map_fd), target=target)


def prog_test_run(attribute: ProgTestRunAttr, *, target: str = "") -> None:
    """Run a program on given input, once or several times (BPF_PROG_TEST_RUN, Linux 4.12)."""
    bpf(Cmd.PROG_TEST_RUN, attribute, target=target)


def prog_attach(prog_fd: int, attach_to: int, attach_type: AttachType, *, target: str = "") -> None:
    """Attach a program to a map of sockets without a link (BPF_PROG_ATTACH, Linux 4.14)."""
    bpf(Cmd.PROG_ATTACH, ProgAttachAttr(attach_to, prog_fd, attach_type), target=target)


def prog_detach(
    prog_fd: int, attached_to: int, attach_type: AttachType, *, target: str = ""
) -> None:
    """Detach a program that no link holds (BPF_PROG_DETACH, Linux 4.14).

    `ProgramChangedError` if another program is attached.
    """
    bpf(Cmd.PROG_DETACH, ProgAttachAttr(attached_to, prog_fd, attach_type), target=target)


def prog_query(attribute: ProgQueryAttr, *, target: str = "") -> None:
    """Fill in the programs that are attached at a hook (BPF_PROG_QUERY, Linux 4.15).

    `BufferTooSmallError` if there are more than the attribute has room for.
    """
    bpf(Cmd.PROG_QUERY, attribute, target=target)


def enable_stats() -> int:
    """Count the runs of all programs until the returned descriptor is closed (5.8).

    BPF_ENABLE_STATS with BPF_STATS_RUN_TIME.
    """
    # The only kind of statistics, BPF_STATS_RUN_TIME of linux/bpf.h, is 0.
    return bpf(Cmd.ENABLE_STATS, EnableStatsAttr(), target="statistics of programs")


def prog_stream_read(prog_fd: int, stream: int, size: int, *, target: str = "") -> bytes:
    """Take at most *size* bytes out of a stream of a program (BPF_PROG_STREAM_READ_BY_FD, 6.17).

    *stream* is a `StreamId`. Empty if there is nothing to read now.
    """
    text = ctypes.create_string_buffer(size)
    attribute = ProgStreamReadAttr(ctypes.addressof(text), size, stream, prog_fd)
    length = bpf(Cmd.PROG_STREAM_READ_BY_FD, attribute, target=target)
    return text.raw[:length]


def obj_pin(fd: int, path: Path, *, flags: int = 0, path_fd: int = 0) -> None:
    """Pin an object at *path* in a bpffs (BPF_OBJ_PIN, Linux 4.4).

    `PinExistsError` if the name is taken, also by a symbolic link: the last component is never
    followed. `PinError` (EPERM) outside of a bpffs, and for names with a dot.
    """
    # Names in bpffs are bytes; os.fsencode() also gives back those that are not valid UTF-8.
    name = ctypes.create_string_buffer(os.fsencode(path))
    attribute = ObjAttr(ctypes.addressof(name), fd, flags, path_fd)
    bpf(Cmd.OBJ_PIN, attribute, target=fs.shown_path(path))


def obj_get(path: Path, *, flags: int = 0, path_fd: int = 0) -> int:
    """Open the object pinned at *path* and return its descriptor (BPF_OBJ_GET, Linux 4.4).

    Symbolic links are followed. *flags* are of `ObjectFlag` (Linux 4.15). `PinNotFoundError` if
    nothing is pinned at *path*.
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    attribute = ObjAttr(ctypes.addressof(name), 0, flags, path_fd)
    # The words for the path only for an error: a walk over all pins opens hundreds.
    return bpf(Cmd.OBJ_GET, attribute, target=lambda: fs.shown_path(path))


def obj_get_info_by_fd(fd: int, info: ctypes.Structure) -> int:
    """Fill *info* and return how many bytes of it the kernel knows (BPF_OBJ_GET_INFO_BY_FD, 4.13).

    An older kernel knows fewer members and leaves the rest as it was.
    """
    # The kernel reads `info` first: a pointer or count in it asks for an array, and nonzero bytes
    # beyond its own structure are an error (E2BIG; bpf_prog_get_info_by_fd() of
    # kernel/bpf/syscall.c).
    attribute = ObjInfoAttr(fd, ctypes.sizeof(info), ctypes.addressof(info))
    bpf(Cmd.OBJ_GET_INFO_BY_FD, attribute, target=f"descriptor {fd}")
    return int(attribute.info_len)


def map_get_next_id(after: int) -> int | None:
    """Return the next map id above *after*, None at the end (BPF_MAP_GET_NEXT_ID, 4.13)."""
    return _next_id(Cmd.MAP_GET_NEXT_ID, after)


def prog_get_next_id(after: int) -> int | None:
    """Return the next program id above *after*, None at the end (BPF_PROG_GET_NEXT_ID, 4.13)."""
    return _next_id(Cmd.PROG_GET_NEXT_ID, after)


def link_get_next_id(after: int) -> int | None:
    """Return the next link id above *after*, None at the end (BPF_LINK_GET_NEXT_ID, 5.8)."""
    return _next_id(Cmd.LINK_GET_NEXT_ID, after)


def btf_get_next_id(after: int) -> int | None:
    """Return the next BTF id above *after*, None at the end (BPF_BTF_GET_NEXT_ID, 5.4)."""
    return _next_id(Cmd.BTF_GET_NEXT_ID, after)


def _next_id(command: Cmd, after: int) -> int | None:
    attribute = IdAttr(after)
    try:
        bpf(command, attribute)
    except IdNotFoundError:
        return None
    # The object may be freed before it is opened by this id: openers handle `IdNotFoundError`.
    return int(attribute.next_id)


def _open_by_id(command: Cmd, what: str, number: int, flags: int = 0) -> int:
    """Open an object by its id; `IdNotFoundError` if there is none."""
    target = f"{what} id {number}"
    # ctypes would cut a larger number to 32 bits, which may be the id of another object.
    if not 0 <= number <= ID_MAX:
        raise IdNotFoundError(f"{target}: ids are from 1 to {ID_MAX}", target=target)
    return bpf(command, IdAttr(number, 0, flags), target=target)


def map_get_fd_by_id(map_id: int, *, flags: int = 0) -> int:
    """Open map *map_id* (BPF_MAP_GET_FD_BY_ID, Linux 4.13); *flags* are of `ObjectFlag`."""
    return _open_by_id(Cmd.MAP_GET_FD_BY_ID, "map", map_id, flags)


def prog_get_fd_by_id(prog_id: int) -> int:
    """Open program *prog_id* (BPF_PROG_GET_FD_BY_ID, Linux 4.13)."""
    return _open_by_id(Cmd.PROG_GET_FD_BY_ID, "program", prog_id)


def link_get_fd_by_id(link_id: int) -> int:
    """Open link *link_id* (BPF_LINK_GET_FD_BY_ID, Linux 5.8)."""
    return _open_by_id(Cmd.LINK_GET_FD_BY_ID, "link", link_id)


def btf_get_fd_by_id(btf_id: int) -> int:
    """Open BTF *btf_id* (BPF_BTF_GET_FD_BY_ID, Linux 4.18)."""
    return _open_by_id(Cmd.BTF_GET_FD_BY_ID, "BTF", btf_id)


def btf_load(data: bytes, *, log_size: int = 0, target: str = "") -> int:
    """Load BTF and return its descriptor (BPF_BTF_LOAD, Linux 4.18).

    With *log_size* bytes for a log, an error has the kernel's log as its hint.
    """
    buffer = buffer_of(data)
    log = ctypes.create_string_buffer(log_size) if log_size else None
    attribute = BtfLoadAttr(address(buffer), address(log), len(data), log_size, int(log_size > 0))
    try:
        return bpf(Cmd.BTF_LOAD, attribute, target=target)
    except OSError as error:
        if log is not None and hasattr(error, "hint"):
            error.hint = log.value.decode(errors="replace").strip()
        raise


def link_create(
    prog_fd: int,
    link_target: int,
    attach_type: int,
    *,
    flags: int = 0,
    details: LinkDetails | None = None,
    target: str = "",
) -> int:
    """Attach a program and return the descriptor of the link (BPF_LINK_CREATE).

    Cgroups since Linux 5.7, XDP since 5.9, perf events since 5.15, tcx since 6.6. `HookBusyError`
    if another program is in the way.

    Args:
        prog_fd: The program.
        link_target: An ifindex, or the descriptor of a cgroup, a network namespace, a perf event.
        attach_type: The `AttachType`.
        flags: Of `AttachFlag`: the order, or the XDP mode.
        details: What the kind of link takes besides, such as the program or link before or after
            which this one goes.
        target: The hook, for messages.
    """
    more = details or LinkDetails()
    attribute = LinkCreateAttr(prog_fd, link_target, attach_type, flags, more)
    return bpf(Cmd.LINK_CREATE, attribute, target=target)


def raw_tracepoint_open(prog_fd: int, name: str = "", *, target: str = "") -> int:
    """Attach to a raw tracepoint, return the link's descriptor (BPF_RAW_TRACEPOINT_OPEN, 4.17).

    Without a *name* a program of tracing or LSM is attached to what it was made for (5.5).
    """
    text = buffer_of(os.fsencode(name) + b"\0") if name else None
    attribute = RawTracepointAttr(name=address(text), prog_fd=prog_fd)
    return bpf(Cmd.RAW_TRACEPOINT_OPEN, attribute, target=target or f"raw tracepoint {name}")


def iter_create(link_fd: int, *, target: str = "") -> int:
    """Return the descriptor of a new run of an iterator's link, to be read (BPF_ITER_CREATE)."""
    return bpf(Cmd.ITER_CREATE, IterCreateAttr(link_fd), target=target)


def link_update(
    link_fd: int, new_prog_fd: int, *, old_prog_fd: int | None = None, target: str = ""
) -> None:
    """Replace the program of a link atomically (BPF_LINK_UPDATE, Linux 5.7; XDP 5.9).

    With *old_prog_fd* the kernel compares and swaps: `ProgramChangedError` if the link runs another
    program. `InterfaceNotFoundError` if the device or cgroup is gone.
    """
    # Without BPF_F_REPLACE the descriptor of an old program must be 0 (EINVAL; link_update() of
    # kernel/bpf/syscall.c).
    flags = LinkUpdateFlag(0) if old_prog_fd is None else LinkUpdateFlag.REPLACE
    attribute = LinkUpdateAttr(link_fd, new_prog_fd, flags, old_prog_fd or 0)
    bpf(Cmd.LINK_UPDATE, attribute, target=target)


def link_detach(link_fd: int, *, target: str = "") -> None:
    """Detach the program of a link for good; the link stays, defunct (BPF_LINK_DETACH, 5.9)."""
    bpf(Cmd.LINK_DETACH, LinkDetachAttr(link_fd), target=target)
