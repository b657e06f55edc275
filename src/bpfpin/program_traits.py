"""Facts about the kernel's types of program: one row for each `ProgramType`.

Other modules ask `traits_of_program(program_type)`. A type that is missing here (a newer kernel's)
gets the row of `UNSPEC`. What the places are that programs run at is in `bpfpin.hooks`.

Sources, Linux 6.18: is_net_admin_prog_type() and is_perfmon_prog_type() of kernel/bpf/syscall.c for
the capabilities, net/bpf/test_run.c for the test runs, check_attach_btf_id() of
kernel/bpf/verifier.c for the targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple

from bpfpin.uapi import AttachType, ProgramType, XdpAction


class RunInput(Enum):
    """What BPF_PROG_TEST_RUN gives to a type of program."""

    PACKET = "packet"  # with an Ethernet header
    CONTEXT = "context"  # nothing else, and it runs once
    OTHER = "other"  # the kernel knows


class ProgramTraits(NamedTuple):
    """The facts of one type of program."""

    needs_net_admin: bool = False
    """Whether loading it needs CAP_NET_ADMIN, beside CAP_BPF."""
    needs_perfmon: bool = False
    """Whether loading it needs CAP_PERFMON, beside CAP_BPF."""
    test_run: RunInput = RunInput.OTHER
    verdicts: Mapping[int, str] = MappingProxyType({})
    """The names of return values; others are shown as numbers."""
    attach_type: AttachType | None = None
    """The attach type to load it with, if nothing says another one."""
    has_target: bool = False
    """Whether it is loaded for a function, a program, or a structure of the kernel."""
    runs_undisturbed: bool = False
    """Whether no task gets the CPU while it runs: softirqs are disabled. Not on PREEMPT_RT."""
    iproute2_directory: str = "tc"
    """The directory of bpffs that iproute2 pins its maps in."""


_TC: Final = MappingProxyType(  # TC_ACT_* of linux/pkt_cls.h
    {
        -1: "TC_ACT_UNSPEC",
        0: "TC_ACT_OK",
        1: "TC_ACT_RECLASSIFY",
        2: "TC_ACT_SHOT",
        3: "TC_ACT_PIPE",
        4: "TC_ACT_STOLEN",
        5: "TC_ACT_QUEUED",
        6: "TC_ACT_REPEAT",
        7: "TC_ACT_REDIRECT",
        8: "TC_ACT_TRAP",
    }
)
_LWT_VERDICTS: Final = MappingProxyType(  # enum bpf_ret_code of linux/bpf.h
    {0: "BPF_OK", 2: "BPF_DROP", 7: "BPF_REDIRECT", 128: "BPF_LWT_REROUTE"}
)
_SK_VERDICTS: Final = MappingProxyType({0: "SK_DROP", 1: "SK_PASS"})
_PACKET: Final = RunInput.PACKET
_CONTEXT: Final = RunInput.CONTEXT

_NET: Final = ProgramTraits(needs_net_admin=True)
_PERFMON: Final = ProgramTraits(needs_perfmon=True)
_TRACING: Final = ProgramTraits(needs_perfmon=True, has_target=True)
_SCHED: Final = ProgramTraits(
    needs_net_admin=True, test_run=_PACKET, verdicts=_TC, runs_undisturbed=True
)
_LWT: Final = ProgramTraits(
    needs_net_admin=True, test_run=_PACKET, verdicts=_LWT_VERDICTS, iproute2_directory="ip"
)

PROGRAM_TRAITS: Final[Mapping[int, ProgramTraits]] = MappingProxyType(
    {
        ProgramType.UNSPEC: _NET,
        ProgramType.SOCKET_FILTER: ProgramTraits(test_run=_PACKET),
        ProgramType.KPROBE: _PERFMON,
        ProgramType.SCHED_CLS: _SCHED,
        ProgramType.SCHED_ACT: _SCHED,
        ProgramType.TRACEPOINT: _PERFMON,
        ProgramType.XDP: ProgramTraits(
            needs_net_admin=True,
            test_run=_PACKET,
            verdicts=MappingProxyType({int(action): action.name for action in XdpAction}),
            # Since Linux 6.18 a link only takes an XDP program that was loaded with this.
            attach_type=AttachType.XDP,
            runs_undisturbed=True,
            iproute2_directory="xdp",
        ),
        ProgramType.PERF_EVENT: _PERFMON,
        ProgramType.CGROUP_SKB: ProgramTraits(
            test_run=_PACKET, verdicts=MappingProxyType({0: "deny", 1: "allow"})
        ),
        ProgramType.CGROUP_SOCK: _NET,
        ProgramType.LWT_IN: _LWT,
        ProgramType.LWT_OUT: _LWT,
        ProgramType.LWT_XMIT: _LWT,
        ProgramType.SOCK_OPS: _NET,
        ProgramType.SK_SKB: ProgramTraits(
            needs_net_admin=True, test_run=_PACKET, verdicts=_SK_VERDICTS
        ),
        ProgramType.CGROUP_DEVICE: _NET,
        ProgramType.SK_MSG: _NET,
        ProgramType.RAW_TRACEPOINT: ProgramTraits(needs_perfmon=True, test_run=_CONTEXT),
        ProgramType.CGROUP_SOCK_ADDR: _NET,
        ProgramType.LWT_SEG6LOCAL: ProgramTraits(needs_net_admin=True, iproute2_directory="ip"),
        ProgramType.LIRC_MODE2: _NET,
        ProgramType.SK_REUSEPORT: ProgramTraits(),
        ProgramType.FLOW_DISSECTOR: ProgramTraits(
            needs_net_admin=True,
            test_run=_PACKET,
            verdicts=MappingProxyType({0: "BPF_OK", 2: "BPF_DROP"}),
        ),
        ProgramType.CGROUP_SYSCTL: _NET,
        ProgramType.RAW_TRACEPOINT_WRITABLE: _PERFMON,
        ProgramType.CGROUP_SOCKOPT: _NET,
        ProgramType.TRACING: _TRACING,
        ProgramType.STRUCT_OPS: _TRACING,
        ProgramType.EXT: ProgramTraits(needs_net_admin=True, needs_perfmon=True, has_target=True),
        ProgramType.LSM: _TRACING,
        ProgramType.SK_LOOKUP: ProgramTraits(verdicts=_SK_VERDICTS),
        ProgramType.SYSCALL: ProgramTraits(test_run=_CONTEXT),
        ProgramType.NETFILTER: ProgramTraits(
            needs_net_admin=True,
            test_run=_PACKET,
            verdicts=MappingProxyType({0: "NF_DROP", 1: "NF_ACCEPT"}),  # linux/netfilter.h
        ),
    }
)


def traits_of_program(program_type: ProgramType | int) -> ProgramTraits:
    """Return the facts about a type of program; the row of `UNSPEC` for one that has no row."""
    return PROGRAM_TRAITS.get(program_type, _NET)
