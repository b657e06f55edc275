"""The hook registry: every hook that programs are attached to, and its facts.

Each hook is one member of `Hook`, and its row of facts is `Hook.traits`. All other modules ask the
row and never compare hooks. This module is pure data: the code of a hook is in the file of
`attach/` that the row names (`HookTraits.code`), which `attach.registry.code_of` imports on use.
"""

from __future__ import annotations

from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Self

from bpfpin.hook_traits import (
    NETFILTER_STOPS,
    SK_LOOKUP_STOPS,
    TC_STOPS,
    XDP_ANSWERS,
    HeldBy,
    HookTraits,
    PacketForm,
    PacketTraits,
    TargetKind,
    XdpMode,
    accepts,
    cgroup_passes,
    lwt_passes,
    netkit_passes,
    tc_passes,
    tcx_passes,
    xdp_passes,
)
from bpfpin.uapi import AttachType, LinkType, ProgramType

__all__ = [
    "HeldBy",
    "Hook",
    "HookTraits",
    "PacketForm",
    "PacketTraits",
    "TargetKind",
    "XdpMode",
    "has_actions",
    "has_table",
    "hooks_at",
    "hooks_with_code",
    "known_hook",
]


def _xdp() -> HookTraits:
    return HookTraits(
        (ProgramType.XDP,),
        AttachType.XDP,
        TargetKind.DEVICE,
        code="xdp",
        since="5.9",
        link_type=LinkType.XDP,
        runs_one=True,
        has_mode=True,
        has_actions=True,
        can_lock_out=True,
        packets=PacketTraits(True, PacketForm.FRAME, xdp_passes, XDP_ANSWERS),
    )


def _tc(attach_type: AttachType | None, *, is_incoming: bool) -> HookTraits:
    """Return the row of a tc hook: of tcx if it has an attach type, else of classic tc."""
    is_tcx = attach_type is not None
    return HookTraits(
        (ProgramType.SCHED_CLS,),
        attach_type,
        TargetKind.DEVICE,
        code="tcx" if is_tcx else "clsact",
        since="6.6" if is_tcx else "4.5",
        held_by=HeldBy.LINK if is_tcx else HeldBy.FILTER,
        link_type=LinkType.TCX if is_tcx else None,
        # The kernel compares the types of cgroup programs and some others only
        # (bpf_prog_attach_check_attach_type() of kernel/bpf/syscall.c): a tc program fits all tc
        # hooks.
        checks_attach_type=False,
        has_order=is_tcx,
        can_lock_out=True,
        packets=PacketTraits(
            is_incoming, PacketForm.L2, tcx_passes if is_tcx else tc_passes, TC_STOPS
        ),
    )


def _netkit(attach_type: AttachType, *, is_incoming: bool) -> HookTraits:
    return HookTraits(
        (ProgramType.SCHED_CLS,),
        attach_type,
        TargetKind.DEVICE,
        code="netkit",
        since="6.7",
        link_type=LinkType.NETKIT,
        checks_attach_type=False,
        has_order=True,
        can_lock_out=True,
        packets=PacketTraits(is_incoming, PacketForm.L2, netkit_passes, TC_STOPS),
    )


def _cgroup(
    attach_type: AttachType,
    program_type: ProgramType = ProgramType.CGROUP_SOCK_ADDR,
    *,
    since: str = "5.7",
) -> HookTraits:
    """Return the row of a cgroup hook; links hold them since Linux 5.7."""
    return HookTraits(
        (program_type,),
        attach_type,
        TargetKind.CGROUP,
        code="cgroup",
        since=since,
        link_type=LinkType.CGROUP,
        # A program there may refuse packets, and connect(2), bind(2) or sendmsg(2) with EPERM.
        can_lock_out=True,
    )


def _cgroup_skb(attach_type: AttachType, *, is_incoming: bool) -> HookTraits:
    # Of the programs of cgroups only these have a test run (cg_skb_prog_ops of net/core/filter.c).
    # Egress is checked only for a program that may answer 2 or 3 (`enforce_expected_attach_type`,
    # check_return_code() of kernel/bpf/verifier.c).
    return _cgroup(attach_type, ProgramType.CGROUP_SKB)._replace(
        checks_attach_type=False,
        packets=PacketTraits(is_incoming, PacketForm.L3, cgroup_passes, MappingProxyType({})),
    )


def _tracepoint(
    *sections: str, types: tuple[ProgramType, ...], code: str, since: str, link_type: LinkType
) -> HookTraits:
    return HookTraits(
        types,
        None,
        TargetKind.TRACEPOINT,
        code=code,
        since=since,
        sections=sections,
        link_type=link_type,
        # bpf_link_ops of kernel/events/core.c and kernel/bpf/syscall.c have no update_prog.
        updates_in_place=False,
        checks_attach_type=False,
    )


def _user_function(*sections: str, at_return: bool = False) -> HookTraits:
    return HookTraits(
        (ProgramType.KPROBE,),
        None,
        TargetKind.USER_FUNCTION,
        code="uprobes",
        since="5.15",
        sections=sections,
        link_type=LinkType.PERF_EVENT,
        # As of tracepoints.
        updates_in_place=False,
        at_return=at_return,
    )


def _user_functions(
    attach_type: AttachType, *sections: str, at_return: bool = False, since: str = "6.6"
) -> HookTraits:
    """Return the row of a hook whose link probes many functions of a file."""
    return _user_function(*sections, at_return=at_return)._replace(
        attach_type=attach_type,
        code="uprobe_multi",
        since=since,
        link_type=LinkType.UPROBE_MULTI,
    )


def _network_namespace(
    attach_type: AttachType, program_type: ProgramType, *, since: str
) -> HookTraits:
    return HookTraits(
        (program_type,),
        attach_type,
        TargetKind.NETWORK_NAMESPACE,
        code="network_namespace",
        since=since,
        link_type=LinkType.NETNS,
        can_lock_out=True,
    )


def _sockmap(
    attach_type: AttachType, program_type: ProgramType = ProgramType.SK_SKB, *, passes: int | None
) -> HookTraits:
    """Return the row of a hook of a map of sockets; *passes* is the answer that lets data pass."""
    return HookTraits(
        (program_type,),
        attach_type,
        TargetKind.MAP,
        code="sockmap",
        since="6.10",
        link_type=LinkType.SOCKMAP,
        # The links have an update, but sockets keep the program that they were added to the map
        # with (sock_map_link() of net/core/sock_map.c). Behind a stub it changes for them, too.
        updates_in_place=False,
        has_partial_update=True,
        empty_answer=passes,
        checks_attach_type=False,
    )


def _struct_ops() -> HookTraits:
    return HookTraits(
        (ProgramType.STRUCT_OPS,),
        AttachType.STRUCT_OPS,
        TargetKind.TABLE,
        code="struct_ops",
        since="6.4",
        sections=("struct_ops", "struct_ops.s"),
        link_type=LinkType.STRUCT_OPS,
        # The kernel compares the position of a program in its structure instead.
        checks_attach_type=False,
    )


def _lwt(program_type: ProgramType, *, is_incoming: bool) -> HookTraits:
    return HookTraits(
        (program_type,),
        None,
        TargetKind.ROUTE,
        code="lwt",
        since="4.10",
        sections=(program_type.name.lower(),),
        held_by=HeldBy.ROUTE,
        checks_attach_type=False,
        can_lock_out=True,
        packets=PacketTraits(
            is_incoming, PacketForm.L3, lwt_passes, MappingProxyType({2: "BPF_DROP"})
        ),
    )


def _netfilter() -> HookTraits:
    return HookTraits(
        (ProgramType.NETFILTER,),
        AttachType.NETFILTER,
        TargetKind.NETFILTER,
        code="netfilter",
        since="6.4",
        link_type=LinkType.NETFILTER,
        # bpf_nf_link_update() of net/netfilter/nf_bpf_link.c refuses, and no two BPF programs have
        # one priority (nf_hook_entries_grow() of net/netfilter/core.c).
        updates_in_place=False,
        empty_answer=1,  # NF_ACCEPT of linux/netfilter.h
        can_lock_out=True,
        packets=PacketTraits(True, PacketForm.OWN, accepts, NETFILTER_STOPS),
    )


def _kprobe(
    section: str,
    attach_type: AttachType | None = None,
    target: TargetKind = TargetKind.FUNCTION,
    *,
    at_return: bool = False,
    since: str = "5.15",
) -> HookTraits:
    """Return the row of probes at functions: at one each, or with an attach type at many."""
    return HookTraits(
        (ProgramType.KPROBE,),
        attach_type,
        target,
        code="kprobe_multi" if attach_type else "kprobe",
        since=since,
        sections=(section,),
        link_type=LinkType.KPROBE_MULTI if attach_type else LinkType.PERF_EVENT,
        # bpf_perf_link_lops and bpf_kprobe_multi_link_lops have no update_prog.
        updates_in_place=False,
        at_return=at_return,
    )


def _traced(
    attach_type: AttachType,
    program_type: ProgramType = ProgramType.TRACING,
    target: TargetKind = TargetKind.FUNCTION,
    *,
    link_type: LinkType = LinkType.TRACING,
    since: str = "5.5",
) -> HookTraits:
    """Return the row of a hook whose programs are made for one function of the kernel."""
    return HookTraits(
        (program_type,),
        attach_type,
        target,
        code="trace",
        since=since,
        link_type=link_type,
        # bpf_tracing_link_lops of kernel/bpf/syscall.c has no update_prog.
        updates_in_place=False,
    )


def _iterator() -> HookTraits:
    return HookTraits(
        (ProgramType.TRACING,),
        AttachType.TRACE_ITER,
        TargetKind.ITERATOR,
        code="iterators",
        since="5.8",
        link_type=LinkType.ITER,
    )


class Hook(Enum):
    """A hook that a program attaches to, with the name that `--hook` accepts as its value.

    The names are those of the kernel's attach types (`BPF_TCX_INGRESS` -> `"tcx-ingress"`); classic
    tc has none. Wherever a hook is expected, its value may be given as text.

    Attributes:
        XDP: The receive path of a network device (see `XdpMode`).
        TCX_INGRESS: tc on a device's ingress, as a link (Linux 6.6).
        TCX_EGRESS: tc on a device's egress, as a link (Linux 6.6).
        TC_INGRESS: A classic tc filter (clsact) on ingress.
        TC_EGRESS: A classic tc filter (clsact) on egress.
        NETKIT_PRIMARY: The primary device of a netkit pair (Linux 6.7).
        NETKIT_PEER: The peer device of a netkit pair (Linux 6.7).
        CGROUP_INET_INGRESS: Packets received by the sockets of a cgroup. All `CGROUP_*` hooks are
            named after the kernel's attach types.
        TRACEPOINT: A tracepoint of the kernel, with its record.
        RAW_TRACEPOINT: A tracepoint with its bare arguments.
        TP_BTF: A tracepoint with typed arguments.
        KPROBE: An instruction of a function of the kernel, mostly the first; KRETPROBE its return.
        KSYSCALL: A system call; KRETSYSCALL its return.
        KPROBE_MULTI: All functions that a pattern matches (Linux 5.18); KRETPROBE_MULTI their
            returns, KPROBE_SESSION both (Linux 6.10).
        FENTRY: A function with typed arguments; FEXIT its return, FMOD_RET before it, with an
            answer that replaces the function's.
        LSM: A hook of the Linux security modules; LSM_CGROUP for the processes of a cgroup.
        FREPLACE: A function of another program.
        UPROBE: A function of a user program; URETPROBE its return.
        UPROBE_MULTI: All functions of a file that a pattern matches (Linux 6.6); URETPROBE_MULTI
            their returns, UPROBE_SESSION both (Linux 6.13).
        USDT: A probe that a user program has in its code, with arguments.
        PERF_EVENT: A counter of the CPU or the kernel, by frequency or period.
    """

    XDP = "xdp", _xdp()
    TCX_INGRESS = "tcx-ingress", _tc(AttachType.TCX_INGRESS, is_incoming=True)
    TCX_EGRESS = "tcx-egress", _tc(AttachType.TCX_EGRESS, is_incoming=False)
    TC_INGRESS = "tc-ingress", _tc(None, is_incoming=True)
    TC_EGRESS = "tc-egress", _tc(None, is_incoming=False)
    # A program of netkit sees what its device transmits (netkit_xmit() of drivers/net/netkit.c):
    # the primary sends into the container, and its peer there to the host.
    NETKIT_PRIMARY = "netkit-primary", _netkit(AttachType.NETKIT_PRIMARY, is_incoming=False)
    NETKIT_PEER = "netkit-peer", _netkit(AttachType.NETKIT_PEER, is_incoming=True)
    CGROUP_INET_INGRESS = (
        "cgroup-inet-ingress",
        _cgroup_skb(AttachType.CGROUP_INET_INGRESS, is_incoming=True),
    )
    CGROUP_INET_EGRESS = (
        "cgroup-inet-egress",
        _cgroup_skb(AttachType.CGROUP_INET_EGRESS, is_incoming=False),
    )
    CGROUP_INET_SOCK_CREATE = (
        "cgroup-inet-sock-create",
        _cgroup(AttachType.CGROUP_INET_SOCK_CREATE, ProgramType.CGROUP_SOCK),
    )
    CGROUP_INET_SOCK_RELEASE = (
        "cgroup-inet-sock-release",
        _cgroup(AttachType.CGROUP_INET_SOCK_RELEASE, ProgramType.CGROUP_SOCK, since="5.9"),
    )
    CGROUP_SOCK_OPS = "cgroup-sock-ops", _cgroup(AttachType.CGROUP_SOCK_OPS, ProgramType.SOCK_OPS)
    CGROUP_DEVICE = "cgroup-device", _cgroup(AttachType.CGROUP_DEVICE, ProgramType.CGROUP_DEVICE)
    CGROUP_INET4_BIND = "cgroup-inet4-bind", _cgroup(AttachType.CGROUP_INET4_BIND)
    CGROUP_INET6_BIND = "cgroup-inet6-bind", _cgroup(AttachType.CGROUP_INET6_BIND)
    CGROUP_INET4_POST_BIND = (
        "cgroup-inet4-post-bind",
        _cgroup(AttachType.CGROUP_INET4_POST_BIND, ProgramType.CGROUP_SOCK),
    )
    CGROUP_INET6_POST_BIND = (
        "cgroup-inet6-post-bind",
        _cgroup(AttachType.CGROUP_INET6_POST_BIND, ProgramType.CGROUP_SOCK),
    )
    CGROUP_INET4_CONNECT = "cgroup-inet4-connect", _cgroup(AttachType.CGROUP_INET4_CONNECT)
    CGROUP_INET6_CONNECT = "cgroup-inet6-connect", _cgroup(AttachType.CGROUP_INET6_CONNECT)
    CGROUP_UNIX_CONNECT = (
        "cgroup-unix-connect",
        _cgroup(AttachType.CGROUP_UNIX_CONNECT, since="6.7"),
    )
    CGROUP_UDP4_SENDMSG = "cgroup-udp4-sendmsg", _cgroup(AttachType.CGROUP_UDP4_SENDMSG)
    CGROUP_UDP6_SENDMSG = "cgroup-udp6-sendmsg", _cgroup(AttachType.CGROUP_UDP6_SENDMSG)
    CGROUP_UNIX_SENDMSG = (
        "cgroup-unix-sendmsg",
        _cgroup(AttachType.CGROUP_UNIX_SENDMSG, since="6.7"),
    )
    CGROUP_UDP4_RECVMSG = "cgroup-udp4-recvmsg", _cgroup(AttachType.CGROUP_UDP4_RECVMSG)
    CGROUP_UDP6_RECVMSG = "cgroup-udp6-recvmsg", _cgroup(AttachType.CGROUP_UDP6_RECVMSG)
    CGROUP_UNIX_RECVMSG = (
        "cgroup-unix-recvmsg",
        _cgroup(AttachType.CGROUP_UNIX_RECVMSG, since="6.7"),
    )
    CGROUP_INET4_GETPEERNAME = (
        "cgroup-inet4-getpeername",
        _cgroup(AttachType.CGROUP_INET4_GETPEERNAME, since="5.8"),
    )
    CGROUP_INET6_GETPEERNAME = (
        "cgroup-inet6-getpeername",
        _cgroup(AttachType.CGROUP_INET6_GETPEERNAME, since="5.8"),
    )
    CGROUP_UNIX_GETPEERNAME = (
        "cgroup-unix-getpeername",
        _cgroup(AttachType.CGROUP_UNIX_GETPEERNAME, since="6.7"),
    )
    CGROUP_INET4_GETSOCKNAME = (
        "cgroup-inet4-getsockname",
        _cgroup(AttachType.CGROUP_INET4_GETSOCKNAME, since="5.8"),
    )
    CGROUP_INET6_GETSOCKNAME = (
        "cgroup-inet6-getsockname",
        _cgroup(AttachType.CGROUP_INET6_GETSOCKNAME, since="5.8"),
    )
    CGROUP_UNIX_GETSOCKNAME = (
        "cgroup-unix-getsockname",
        _cgroup(AttachType.CGROUP_UNIX_GETSOCKNAME, since="6.7"),
    )
    CGROUP_SYSCTL = "cgroup-sysctl", _cgroup(AttachType.CGROUP_SYSCTL, ProgramType.CGROUP_SYSCTL)
    CGROUP_GETSOCKOPT = (
        "cgroup-getsockopt",
        _cgroup(AttachType.CGROUP_GETSOCKOPT, ProgramType.CGROUP_SOCKOPT),
    )
    CGROUP_SETSOCKOPT = (
        "cgroup-setsockopt",
        _cgroup(AttachType.CGROUP_SETSOCKOPT, ProgramType.CGROUP_SOCKOPT),
    )

    SK_LOOKUP = (
        "sk-lookup",
        _network_namespace(AttachType.SK_LOOKUP, ProgramType.SK_LOOKUP, since="5.9")._replace(
            packets=PacketTraits(True, PacketForm.OWN, accepts, SK_LOOKUP_STOPS)
        ),
    )
    FLOW_DISSECTOR = (
        "flow-dissector",
        # flow_dissector_bpf_prog_attach_check() of net/core/flow_dissector.c.
        _network_namespace(
            AttachType.FLOW_DISSECTOR, ProgramType.FLOW_DISSECTOR, since="5.8"
        )._replace(runs_one=True),
    )
    NETFILTER = "netfilter", _netfilter()
    ITER = "iter", _iterator()
    STRUCT_OPS = "struct-ops", _struct_ops()
    LWT_IN = "lwt-in", _lwt(ProgramType.LWT_IN, is_incoming=True)
    LWT_OUT = "lwt-out", _lwt(ProgramType.LWT_OUT, is_incoming=False)
    LWT_XMIT = "lwt-xmit", _lwt(ProgramType.LWT_XMIT, is_incoming=False)
    SK_SKB_STREAM_PARSER = (
        "sk-skb-stream-parser",
        _sockmap(AttachType.SK_SKB_STREAM_PARSER, passes=None),
    )
    SK_SKB_STREAM_VERDICT = (
        "sk-skb-stream-verdict",
        _sockmap(AttachType.SK_SKB_STREAM_VERDICT, passes=1),  # SK_PASS of linux/bpf.h
    )
    SK_SKB_VERDICT = "sk-skb-verdict", _sockmap(AttachType.SK_SKB_VERDICT, passes=1)
    SK_MSG_VERDICT = (
        "sk-msg-verdict",
        _sockmap(AttachType.SK_MSG_VERDICT, ProgramType.SK_MSG, passes=1),
    )
    TRACEPOINT = (
        "tracepoint",
        _tracepoint(
            *("tracepoint", "tracepoint.s", "tp", "tp.s"),
            types=(ProgramType.TRACEPOINT,),
            code="tracepoints",
            since="5.15",
            link_type=LinkType.PERF_EVENT,
            # At 0, the tracepoint is hidden from perf (perf_trace_run_bpf_submit() of
            # kernel/events/core.c).
        )._replace(empty_answer=1),
    )
    RAW_TRACEPOINT = (
        "raw-tracepoint",
        _tracepoint(
            *("raw_tracepoint", "raw_tracepoint.s", "raw_tp", "raw_tp.s"),
            *("raw_tracepoint.w", "raw_tp.w"),
            types=(ProgramType.RAW_TRACEPOINT, ProgramType.RAW_TRACEPOINT_WRITABLE),
            code="raw_tracepoints",
            since="4.17",
            link_type=LinkType.RAW_TRACEPOINT,
        ),
    )
    UPROBE = "uprobe", _user_function("uprobe", "uprobe.s")
    URETPROBE = "uretprobe", _user_function("uretprobe", "uretprobe.s", at_return=True)
    TP_BTF = (
        "tp-btf",
        _traced(
            AttachType.TRACE_RAW_TP,
            target=TargetKind.TRACEPOINT,
            link_type=LinkType.RAW_TRACEPOINT,
        ),
    )
    KPROBE = "kprobe", _kprobe("kprobe")
    KRETPROBE = "kretprobe", _kprobe("kretprobe", at_return=True)
    KSYSCALL = "ksyscall", _kprobe("ksyscall", target=TargetKind.SYSTEM_CALL)
    KRETSYSCALL = (
        "kretsyscall",
        _kprobe("kretsyscall", target=TargetKind.SYSTEM_CALL, at_return=True),
    )
    KPROBE_MULTI = (
        "kprobe-multi",
        _kprobe("kprobe.multi", AttachType.TRACE_KPROBE_MULTI, TargetKind.FUNCTIONS, since="5.18"),
    )
    KRETPROBE_MULTI = (
        "kretprobe-multi",
        _kprobe(
            "kretprobe.multi",
            AttachType.TRACE_KPROBE_MULTI,
            TargetKind.FUNCTIONS,
            at_return=True,
            since="5.18",
        ),
    )
    KPROBE_SESSION = (
        "kprobe-session",
        _kprobe(
            "kprobe.session", AttachType.TRACE_KPROBE_SESSION, TargetKind.FUNCTIONS, since="6.10"
        ),
    )
    FENTRY = "fentry", _traced(AttachType.TRACE_FENTRY)
    FEXIT = "fexit", _traced(AttachType.TRACE_FEXIT)
    FMOD_RET = "fmod-ret", _traced(AttachType.MODIFY_RETURN, since="5.7")
    LSM = "lsm", _traced(AttachType.LSM_MAC, ProgramType.LSM, TargetKind.LSM_HOOK, since="5.7")
    LSM_CGROUP = (
        "lsm-cgroup",
        _cgroup(AttachType.LSM_CGROUP, ProgramType.LSM, since="6.0")._replace(
            function="socket_bind"
        ),
    )
    FREPLACE = (
        "freplace",
        HookTraits(
            (ProgramType.EXT,),
            None,
            TargetKind.PROGRAM,
            code="freplace",
            since="5.10",
            sections=("freplace",),
            link_type=LinkType.TRACING,
            updates_in_place=False,
            # prog_fd_array_get_ptr() of kernel/bpf/arraymap.c: no array takes extensions.
            takes_stub=False,
        ),
    )
    USDT = (
        "usdt",
        _user_functions(AttachType.TRACE_UPROBE_MULTI, "usdt", "usdt.s", since="5.15")._replace(
            target=TargetKind.PROBE, code="usdt", map="__bpf_usdt_specs", has_several_links=True
        ),
    )
    UPROBE_MULTI = (
        "uprobe-multi",
        _user_functions(AttachType.TRACE_UPROBE_MULTI, "uprobe.multi", "uprobe.multi.s"),
    )
    URETPROBE_MULTI = (
        "uretprobe-multi",
        _user_functions(
            AttachType.TRACE_UPROBE_MULTI, "uretprobe.multi", "uretprobe.multi.s", at_return=True
        ),
    )
    UPROBE_SESSION = (
        "uprobe-session",
        _user_functions(
            AttachType.TRACE_UPROBE_SESSION, "uprobe.session", "uprobe.session.s", since="6.13"
        ),
    )
    PERF_EVENT = (
        "perf-event",
        HookTraits(
            (ProgramType.PERF_EVENT,),
            None,
            TargetKind.PERF_EVENT,
            code="perf_events",
            since="5.15",
            sections=("perf_event",),
            link_type=LinkType.PERF_EVENT,
            updates_in_place=False,
            has_several_links=True,
        ),
    )

    _value_: str
    traits: HookTraits
    """The facts of the hook."""

    def __new__(cls, word: str, traits: HookTraits | None = None) -> Self:
        """Make a member whose value is its *word*; for type checkers, `Hook(word)` calls this."""
        assert traits is not None
        member = object.__new__(cls)
        member._value_ = word
        member.traits = traits
        return member

    @property
    def attach_type(self) -> AttachType | None:
        """The attach type for BPF_LINK_CREATE; None for hooks of classic tc, which has no links."""
        return self.traits.attach_type

    @property
    def is_cgroup(self) -> bool:
        """Whether it is a hook of a cgroup."""
        return self.traits.target is TargetKind.CGROUP


def known_hook(word: str) -> Hook | None:
    """Return the hook that is called *word*; None for one that only another version knows."""
    # Words come from manifests as well, which a newer version may have written.
    return next((hook for hook in Hook if hook.value == word), None)


def has_actions(word: str) -> bool:
    """Whether the programs of the hook called *word* answer with XDP actions."""
    hook = known_hook(word)
    return hook is not None and hook.traits.has_actions


def has_table(word: str) -> bool:
    """Whether the links of the hook called *word* hold a table of functions, not a program."""
    hook = known_hook(word)
    return hook is not None and hook.traits.target is TargetKind.TABLE


def hooks_at(target: TargetKind) -> list[Hook]:
    """Return the hooks that belong to targets of a kind, in the order of the registry."""
    return [hook for hook in Hook if hook.traits.target is target]


@cache
def hooks_with_code(code: str) -> tuple[Hook, ...]:
    """Return the hooks whose code is in the module *code* of `bpfpin.attach`."""
    return tuple(hook for hook in Hook if hook.traits.code == code)
