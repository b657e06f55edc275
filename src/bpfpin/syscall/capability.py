"""The capabilities that a command needs, and those that this thread lacks.

bpf_capable() of include/linux/capability.h is CAP_BPF or CAP_SYS_ADMIN, perfmon_capable() likewise
for CAP_PERFMON, and bpf_net_capable() of kernel/bpf/syscall.c for CAP_NET_ADMIN;
kernel/bpf/syscall.c says which command needs which. (Before Linux 6.9 devmaps, BPF_PROG_QUERY and
links of cgroup_skb needed CAP_NET_ADMIN itself.) rtnetlink asks for CAP_NET_ADMIN alone. The kernel
answers EPERM without a reason, so that messages name the missing capability from these tables.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

from bpfpin.map_traits import traits_of
from bpfpin.program_traits import traits_of_program
from bpfpin.uapi import Cmd

STATUS = Path("/proc/thread-self/status")
UID_MAP = Path("/proc/self/uid_map")
WHOLE_UID_MAP = ["0", "0", "4294967295"]


class Capability(IntEnum):
    """The capabilities that bpf(2), mounts and namespaces need; the value is the bit."""

    CAP_NET_ADMIN = 12
    CAP_SYS_ADMIN = 21
    CAP_PERFMON = 38
    CAP_BPF = 39


BPF, NET, PERFMON = Capability.CAP_BPF, Capability.CAP_NET_ADMIN, Capability.CAP_PERFMON
ADMIN = Capability.CAP_SYS_ADMIN

# rtnetlink_rcv_msg() of net/core/rtnetlink.c: no other capability stands for CAP_NET_ADMIN.
ROUTE_COMMANDS = frozenset(
    {
        "RTM_NEWLINK",
        "RTM_SETLINK",
        "RTM_NEWQDISC",
        "RTM_DELQDISC",
        "RTM_NEWTFILTER",
        "RTM_DELTFILTER",
    }
)
BY_COMMAND: dict[Cmd | str, tuple[Capability, ...]] = {
    Cmd.MAP_CREATE: (BPF,),
    Cmd.PROG_LOAD: (BPF,),
    Cmd.BTF_LOAD: (BPF,),
    # A program of cgroup_skb loads without CAP_NET_ADMIN, so the kernel asks for it at the
    # attachment (bpf_prog_attach_check_attach_type() of kernel/bpf/syscall.c).
    Cmd.LINK_CREATE: (BPF, NET),
    Cmd.PROG_QUERY: (NET,),
    # Ids lead to the objects of all users: CAP_BPF is not enough, unlike for an open of a pin.
    Cmd.PROG_GET_NEXT_ID: (ADMIN,),
    Cmd.MAP_GET_NEXT_ID: (ADMIN,),
    Cmd.BTF_GET_NEXT_ID: (ADMIN,),
    Cmd.LINK_GET_NEXT_ID: (ADMIN,),
    Cmd.PROG_GET_FD_BY_ID: (ADMIN,),
    Cmd.MAP_GET_FD_BY_ID: (ADMIN,),
    Cmd.BTF_GET_FD_BY_ID: (ADMIN,),
    Cmd.LINK_GET_FD_BY_ID: (ADMIN,),
    Cmd.ENABLE_STATS: (ADMIN,),
    "mount": (ADMIN,),
    "perf_event_open": (PERFMON,),
    "setns": (ADMIN,),
    "unshare": (ADMIN,),
    **dict.fromkeys(ROUTE_COMMANDS, (NET,)),
}


def missing_capabilities(command: Cmd | str, subtype: int = 0) -> tuple[str, ...]:
    """Return the names of the capabilities that *command* needs and this thread lacks.

    *subtype* is the type of the map or program to create. Outside of the initial user namespace all
    needed ones count as missing, because the kernel requires them in the initial one.
    """
    needed = _needed(command, subtype)
    # CapEff holds in the own user namespace, and the kernel asks for rights in the initial one.
    if not _is_first_user_namespace():
        return tuple(capability.name for capability in needed)
    effective = _effective()
    if effective >> ADMIN & 1 and command not in ROUTE_COMMANDS:
        return ()
    return tuple(capability.name for capability in needed if not effective >> capability & 1)


def _needed(command: Cmd | str, subtype: int) -> tuple[Capability, ...]:
    needed = BY_COMMAND.get(command, ())
    if command == Cmd.MAP_CREATE and traits_of(subtype).needs_net_admin:
        return (*needed, NET)
    if command != Cmd.PROG_LOAD:
        return needed
    traits = traits_of_program(subtype)
    network = (NET,) if traits.needs_net_admin else ()
    return (*needed, *network, *((PERFMON,) if traits.needs_perfmon else ()))


def _effective() -> int:
    """Return the effective capabilities as a mask (`CapEff` of proc_pid_status(5))."""
    for line in STATUS.read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _is_first_user_namespace() -> bool:
    # A namespace that root made with the whole range of ids looks the same; then nothing is
    # reported as missing, and the message has the kernel's words only.
    return UID_MAP.read_text().split() == WHOLE_UID_MAP
