"""Who is attached where, asked of the hooks themselves: BPF_PROG_QUERY and tc's filters.

The devices are those of the network namespace of the calling thread. XDP is in `attach.xdp`.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from bpfpin.attach import netlink_tc
from bpfpin.attach.cgroup_path import open_cgroup
from bpfpin.attach.netlink_tc import Filter
from bpfpin.spec import Hook
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import ProgQueryAttr
from bpfpin.syscall.errno_table import BufferTooSmallError, InvalidArgumentError
from bpfpin.uapi import AttachFlag, AttachType, QueryFlag

_NO_FLAGS = AttachFlag(0)
_ALL_OWN = QueryFlag(0)
_ROOM = 64  # programs at one hook: all that tcx and netkit take


@dataclass(frozen=True, slots=True)
class HookProgram:
    """One program at a hook; *link_id* is 0 where no link holds it, or the hook does not say."""

    program_id: int
    link_id: int = 0
    flags: AttachFlag = _NO_FLAGS

    @property
    def held(self) -> str:
        """Who holds it, in words."""
        return f"held by link id {self.link_id}" if self.link_id else "held without a link"


def tcx_programs(ifindex: int, hook: Hook) -> tuple[HookProgram, ...]:
    """Return the programs of a tcx or netkit hook in the order in which they run.

    None where the kernel or the device has no such hook; `InterfaceNotFoundError` if the device is
    gone. Stands on BPF_PROG_QUERY (Linux 6.6), and needs CAP_NET_ADMIN.
    """
    assert hook.attach_type is not None
    try:
        return _query(ifindex, hook.attach_type, has_links=True)
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


def cgroup_programs(
    cgroup: str | Path | int, attach_type: AttachType, *, is_effective: bool = False
) -> tuple[HookProgram, ...]:
    """Return the programs of a cgroup, a path or a descriptor, in the order in which they run.

    *is_effective* adds those of the cgroups above it, that run for its processes, too. A cgroup
    does not tell links: those are found by `cgroup_id` among `links()`. None where the kernel does
    not know the attach type; `CgroupNotFoundError` if the cgroup was removed.
    """
    flags = QueryFlag.EFFECTIVE if is_effective else _ALL_OWN
    if not isinstance(cgroup, int):
        with open_cgroup(cgroup) as opened:
            return cgroup_programs(opened.fileno(), attach_type, is_effective=is_effective)
    try:
        return _query(cgroup, attach_type, flags=flags)
    except InvalidArgumentError:
        return ()


def clsact_filters(ifindex: int) -> tuple[Filter, ...]:
    """Return the filters of classic tc on a device that run an eBPF program, ingress first.

    None where the device is gone (RTM_GETTFILTER).
    """
    kind = netlink_tc.qdiscs().get(ifindex)
    if kind is None:
        return ()
    # The qdisc `ingress` answers a question for egress with its ingress.
    hooks = (Hook.TC_INGRESS, Hook.TC_EGRESS)[: 2 if kind == netlink_tc.CLSACT else 1]
    found = (one for hook in hooks for one in netlink_tc.filters(ifindex, hook))
    return tuple(one for one in found if one.program_id)


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
            # Refused where the kernel has nothing to write there.
            prog_attach_flags=0 if flags else ctypes.addressof(attach_flags),
            link_ids=ctypes.addressof(links) if has_links else 0,
        )
        try:
            bpf.prog_query(attribute, target=attach_type.name.lower())
        except BufferTooSmallError:
            room = 2 * attribute.count
            continue
        rows = zip(programs, links, map(AttachFlag, attach_flags), strict=True)
        return tuple(HookProgram(*row) for row in list(rows)[: attribute.count])
