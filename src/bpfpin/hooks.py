"""The hook registry: every hook that programs are attached to, and its facts.

Each hook is one member of `Hook`, and its row of facts is `Hook.traits`. All other modules ask the
row and never compare hooks. This module is pure data: the code of a hook is in the file of
`attach/` that the row names (`HookTraits.code`), which `attach.registry.code_of` imports on use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple, Self

from bpfpin.uapi import AttachType, LinkType, ProgramType, XdpAction


class XdpMode(Enum):
    """The stage of the receive path at which an XDP program runs.

    Wherever a mode is expected, its value may be given as text: `"native"`.

    Attributes:
        AUTO: Native; generic if the driver does not support native XDP.
        NATIVE: In the driver, before a socket buffer is allocated.
        GENERIC: In the network stack, with any driver; slower.
        OFFLOAD: On the network card.
    """

    AUTO = "auto"
    NATIVE = "native"
    GENERIC = "generic"
    OFFLOAD = "offload"


class TargetKind(Enum):
    """What a hook belongs to: the kind of thing that a program is attached to.

    The place of a set is a device, a cgroup, or both: the value of such a kind is the argument of
    `deploy` that names it, with *placeholder* in its place in hints. A target with an *example* is
    one program's own: its section names it (`kprobe/do_exit`), or the user (`NAME:kprobe=do_exit`).
    Of the others there is nothing to name.
    """

    DEVICE = "device", "DEV"
    NETWORK_NAMESPACE = "network namespace"
    NETFILTER = "netfilter hook", "", "ipv4:input"
    ROUTE = "route", "", "10.1.0.0/24,dev=eth0"
    CGROUP = "cgroup", "PATH"
    FUNCTION = "function", "", "do_unlinkat"
    TRACEPOINT = "tracepoint", "", "syscalls/sys_enter_openat"
    USER_FUNCTION = "user function", "", "/usr/bin/bash:readline"
    PERF_EVENT = "perf event", "", "cpu-clock,freq=99"
    MAP = "map", "", "sockets"
    SOCKET = "socket"
    PROGRAM = "program", "", "id:42:xdp_pass"
    NOTHING = "nothing"

    _value_: str
    placeholder: str
    example: str

    def __new__(cls, word: str, placeholder: str = "", example: str = "") -> Self:
        """Make a member whose value is its *word*."""
        member = object.__new__(cls)
        member._value_ = word
        member.placeholder = placeholder
        member.example = example
        return member

    @property
    def is_named(self) -> bool:
        """Whether each program names its own target."""
        return bool(self.example)

    @property
    def is_in_netns(self) -> bool:
        """Whether it is a part of one network namespace."""
        kinds = TargetKind
        return self in (kinds.DEVICE, kinds.NETWORK_NAMESPACE, kinds.NETFILTER, kinds.ROUTE)


class HeldBy(Enum):
    """What keeps a program attached to its hook: the words that the manifest of a set stores.

    Perf events need no word of their own: since Linux 5.15 a link holds them, too.
    """

    LINK = "link"  # a BPF link, pinned in the set
    STUB = "stub"  # a BPF link whose program calls the set's through an array of programs
    NETLINK = "netlink"  # the device itself: an XDP program without a link, taken over
    FILTER = "filter"  # a filter of classic tc
    MAP = "map"  # a map of sockets, where the kernel has no links for these
    ROUTE = "route"  # a route with a lightweight tunnel

    @property
    def has_link(self) -> bool:
        """Whether it is a link, with a pin in `links~`."""
        return self in (HeldBy.LINK, HeldBy.STUB)

    @property
    def is_compared(self) -> bool:
        """Whether the kernel compares the program when another one takes its place."""
        return self in (HeldBy.LINK, HeldBy.NETLINK)


class PacketForm(Enum):
    """What BPF_PROG_TEST_RUN makes of a test packet for a type of program (net/bpf/test_run.c)."""

    FRAME = "xdp_md"  # the frame as it is, VLAN tags and all
    L2 = "__sk_buff"  # with an Ethernet header, on a device
    # bpf_prog_test_run_skb() reads an Ethernet header for them, too, and strips it.
    L3 = "__sk_buff without a device"  # from the IP header on


class PacketTraits(NamedTuple):
    """How programs of a hook see packets, and which of their answers let a packet go on."""

    is_incoming: bool
    form: PacketForm
    passes: Callable[[int], bool]
    answers: Mapping[int, str]
    """The names of answers; others are shown as numbers."""


class HookTraits(NamedTuple):
    """The facts of one hook."""

    program_types: tuple[ProgramType, ...]
    """The types of programs that it runs; the first one is meant where nothing says the type."""
    attach_type: AttachType | None
    """The attach type of BPF_LINK_CREATE; None if the hook is not reached by bpf(2)."""
    target: TargetKind
    code: str
    """The module of `bpfpin.attach` with its code."""
    since: str
    """The first Linux with the hook, held the way *held_by* says."""
    sections: tuple[str, ...] = ()
    """Section names (libbpf's) that mean the hook, beside those with its attach type."""
    held_by: HeldBy = HeldBy.LINK
    link_type: LinkType | None = None
    """The type that the kernel reports of its links."""
    updates_in_place: bool = True
    """Whether another program takes the place of the attached one in one step.

    Without that, the program is attached by a stub (`objects.stub`). Where that is impossible, a
    reload attaches the new program beside the old one, and detaches that last.
    """
    empty_answer: int | None = 0
    """What a stub there returns that calls no program, so that nothing is cut.

    None: the length of the packet.
    """
    checks_attach_type: bool = True
    """Whether it refuses programs loaded for another attach type (`expected_attach_type`)."""
    runs_one: bool = False
    """Whether it runs one program only; all others run several."""
    has_several_links: bool = False
    """Whether one target may take several links: `HookCode.targets` names the target of each."""
    at_return: bool = False
    """Whether a program runs when the function returns, and not when it is entered."""
    has_order: bool = False
    """Whether a new program is put before or after others (`--order`)."""
    has_mode: bool = False
    """Whether it has the modes of `XdpMode`."""
    has_actions: bool = False
    """Whether programs answer with an XDP action, which `bpfpin action` switches."""
    can_lock_out: bool = False
    """Whether a program there can stop the traffic that the user came in by."""
    packets: PacketTraits | None = None
    """How its programs run on test packets; None if the kernel has no test run for it."""


_XDP_ANSWERS = MappingProxyType({int(action): action.name for action in XdpAction})
# TC_ACT_* of include/uapi/linux/pkt_cls.h, as far as a program of cls_bpf stops a packet by them
# (cls_bpf_exec_opcode() of net/sched/cls_bpf.c). It lets a packet go on whose answer it does not
# know.
_TC_STOPS = MappingProxyType(
    {2: "TC_ACT_SHOT", 4: "TC_ACT_STOLEN", 7: "TC_ACT_REDIRECT", 8: "TC_ACT_TRAP"}
)


def _xdp_passes(answer: int) -> bool:
    return answer == XdpAction.XDP_PASS


def _tc_passes(answer: int) -> bool:
    return answer not in _TC_STOPS


def _tcx_passes(answer: int) -> bool:
    # tcx stops packets by TCX_DROP and TCX_REDIRECT only, and takes what it does not know,
    # TC_ACT_STOLEN and TC_ACT_TRAP included, for TCX_NEXT (tcx_action_code() of include/net/tcx.h).
    return answer not in (2, 7)


def _lwt_passes(answer: int) -> bool:
    # BPF_OK and BPF_LWT_REROUTE; what it does not know, it drops (run_lwt_bpf() of
    # net/core/lwt_bpf.c).
    return answer in (0, 128)


def _netkit_passes(answer: int) -> bool:
    # NETKIT_NEXT and NETKIT_PASS; what it does not know, netkit drops (drivers/net/netkit.c).
    return answer in (-1, 0)


def _cgroup_passes(answer: int) -> bool:
    # At egress, 2 and 3 tell of congestion besides (BPF_PROG_CGROUP_INET_EGRESS_RUN_ARRAY).
    return bool(answer & 1)


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
        packets=PacketTraits(True, PacketForm.FRAME, _xdp_passes, _XDP_ANSWERS),
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
            is_incoming, PacketForm.L2, _tcx_passes if is_tcx else _tc_passes, _TC_STOPS
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
        packets=PacketTraits(is_incoming, PacketForm.L2, _netkit_passes, _TC_STOPS),
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
        packets=PacketTraits(is_incoming, PacketForm.L3, _cgroup_passes, MappingProxyType({})),
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
        empty_answer=passes,
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
            is_incoming, PacketForm.L3, _lwt_passes, MappingProxyType({2: "BPF_DROP"})
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
        _network_namespace(AttachType.SK_LOOKUP, ProgramType.SK_LOOKUP, since="5.9"),
    )
    FLOW_DISSECTOR = (
        "flow-dissector",
        _network_namespace(AttachType.FLOW_DISSECTOR, ProgramType.FLOW_DISSECTOR, since="5.8"),
    )
    NETFILTER = "netfilter", _netfilter()
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
        ),
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


def hooks_at(target: TargetKind) -> list[Hook]:
    """Return the hooks that belong to targets of a kind, in the order of the registry."""
    return [hook for hook in Hook if hook.traits.target is target]


def hooks_with_code(code: str) -> tuple[Hook, ...]:
    """Return the hooks whose code is in the module *code* of `bpfpin.attach`."""
    return tuple(hook for hook in Hook if hook.traits.code == code)
