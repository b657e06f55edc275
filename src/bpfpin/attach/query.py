"""The programs of a hook, asked of the kernel by BPF_PROG_QUERY.

Devices are those of the network namespace of the calling thread. XDP programs are listed by netlink
(`attach.devices`), filters of classic tc by rtnetlink (`attach.clsact`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bpfpin.attach.cgroup_path import open_cgroup
from bpfpin.attach.registry import RunningProgram
from bpfpin.errors import (
    HookBusyError,
    InterfaceNotFoundError,
    NotSupportedError,
    PermissionDeniedError,
)
from bpfpin.hooks import Hook
from bpfpin.records import dataclass
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import ProgQueryAttr
from bpfpin.syscall.errno_table import BufferTooSmallError, InvalidArgumentError
from bpfpin.uapi import AttachFlag, AttachType, QueryFlag

if TYPE_CHECKING:
    from bpfpin.attach.devices import DeviceRow

_NO_FLAGS = AttachFlag(0)
_ALL_OWN = QueryFlag(0)
_ROOM = 64  # programs at one hook: BPF_MPROG_MAX, all that tcx and netkit take


@dataclass(frozen=True, slots=True)
class HookProgram:
    """One program at a hook; *link_id* is 0 where no link holds it, or the hook does not say."""

    program_id: int
    link_id: int = 0
    flags: AttachFlag = _NO_FLAGS

    @property
    def held(self) -> str:
        """What holds it, in words."""
        return f"held by link id {self.link_id}" if self.link_id else "held without a link"


def tcx_programs(ifindex: int, hook: Hook) -> tuple[HookProgram, ...]:
    """Return the programs of a tcx or netkit hook in the order in which they run.

    There are none where the kernel or the device has no such hook. `InterfaceNotFoundError` if
    the device is gone, `PermissionDeniedError` without CAP_NET_ADMIN. BPF_PROG_QUERY (Linux 6.6).
    """
    assert hook.attach_type is not None
    try:
        return _query(ifindex, hook.attach_type, has_links=True)
    # bpf_prog_query() of kernel/bpf/syscall.c: EINVAL for an attach type that it does not know.
    except InvalidArgumentError:
        return ()


def is_known(ifindex: int, hook: Hook) -> bool:
    """Whether the kernel has the hook for that device."""
    assert hook.attach_type is not None
    try:
        _query(ifindex, hook.attach_type, has_links=True)
    except InvalidArgumentError:
        return False
    return True


def running_on(devices: Iterable[DeviceRow], hooks: Iterable[Hook]) -> Iterator[RunningProgram]:
    """Yield the programs of tcx or netkit hooks; devices that are gone are left out.

    `PermissionDeniedError` if this user cannot ask any of them.
    """
    hooks = tuple(hooks)
    for device in devices:
        try:
            programs = [(hook, tcx_programs(device.ifindex, hook)) for hook in hooks]
        except PermissionDeniedError as error:
            if error.missing:
                raise
            continue  # EACCES of a peer of netkit, whose primary device has the hooks
        except (InterfaceNotFoundError, NotSupportedError):  # gone meanwhile, or no netkit
            continue
        for hook, entries in programs:
            for entry in entries:
                yield RunningProgram(hook, entry.program_id, device.ifindex, link_id=entry.link_id)


def cgroup_programs(
    cgroup: str | Path | int, attach_type: AttachType, *, is_effective: bool = False
) -> tuple[HookProgram, ...]:
    """Return the programs of a cgroup, a path or a descriptor, in the order in which they run.

    *is_effective* adds those of the cgroups above it, which run for its processes, too. The kernel
    does not report their links: find these by `cgroup_id` among `links()`. There are none where
    the kernel does not know the attach type; `CgroupNotFoundError` if the cgroup was removed.
    """
    flags = QueryFlag.EFFECTIVE if is_effective else _ALL_OWN
    if not isinstance(cgroup, int):
        with open_cgroup(cgroup) as opened:
            return cgroup_programs(opened.fileno(), attach_type, is_effective=is_effective)
    try:
        return _query(cgroup, attach_type, flags=flags)
    except InvalidArgumentError:
        return ()


def sockmap_program(map_fd: int, attach_type: AttachType) -> int:
    """Return the id of the program of a map of sockets, 0 for none (Linux 5.17)."""
    # sock_map_prog_link_lookup() of net/core/sock_map.c says EBUSY for a verdict where the map has
    # a stream verdict, and the other way round.
    with suppress(HookBusyError):
        return next((entry.program_id for entry in _query(map_fd, attach_type)), 0)
    return 0


def netns_program(netns_fd: int, attach_type: AttachType) -> int:
    """Return the id of the first program of a network namespace, 0 for none (Linux 5.8)."""
    # netns_bpf_prog_query() of kernel/bpf/net_namespace.c.
    return next((entry.program_id for entry in _query(netns_fd, attach_type)), 0)


def _query(
    target: int,
    attach_type: AttachType,
    *,
    flags: QueryFlag = _ALL_OWN,
    has_links: bool = False,
) -> tuple[HookProgram, ...]:
    room = _ROOM
    while True:
        programs, links, attach_flags = ((ctypes.c_uint32 * room)() for _ in range(3))
        attribute = ProgQueryAttr(
            target=target,
            attach_type=attach_type,
            query_flags=flags,
            prog_ids=ctypes.addressof(programs),
            count=room,
            # With query flags the kernel refuses a buffer for attach flags: it has none to write.
            prog_attach_flags=0 if flags else ctypes.addressof(attach_flags),
            link_ids=ctypes.addressof(links) if has_links else 0,
        )
        try:
            bpf.prog_query(attribute, target=attach_type.name.lower())
        # With ENOSPC the kernel has written the number of programs to `count`. Twice that: others
        # may be attached before the next call.
        except BufferTooSmallError:
            room = 2 * attribute.count
            continue
        # Cut before the flags become members of the enum, which is slow for a whole buffer.
        count = attribute.count
        rows = zip(programs[:count], links[:count], attach_flags[:count], strict=True)
        return tuple(
            HookProgram(program_id, link_id, AttachFlag(bits)) for program_id, link_id, bits in rows
        )
