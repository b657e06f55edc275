"""The facts that a hook has: the columns of the hook registry (`bpfpin.hooks`).

Pure data, below every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple, Self

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
    ITERATOR = "iterator", "", "task"
    CGROUP = "cgroup", "PATH"
    FUNCTION = "function", "", "do_unlinkat"
    FUNCTIONS = "functions", "", "tcp_send*"
    SYSTEM_CALL = "system call", "", "openat"
    LSM_HOOK = "LSM hook", "", "file_open"
    TRACEPOINT = "tracepoint", "", "syscalls/sys_enter_openat"
    USER_FUNCTION = "user function", "", "/usr/bin/bash:readline"
    PROBE = "probe", "", "libstdc++:libstdcxx:throw"
    PERF_EVENT = "perf event", "", "cpu-clock,freq=99"
    MAP = "map", "", "sockets"
    TABLE = "table", "", "my_ops"
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

    @property
    def with_article(self) -> str:
        """The kind as it stands in a sentence: `a function`, `an LSM hook`, `functions`."""
        article = {"functions": "", "LSM hook": "an "}.get(self.value, "a ")
        return f"{article}{self.value}"


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
    OWN = "what the code of the hook makes of a frame"  # HookCode.test_input


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
    has_partial_update: bool = False
    """Whether its links take another program, but not for all that they serve.

    What is attached there without a stub is updated, and not attached beside the old program.
    """
    empty_answer: int | None = 0
    """What is returned there without running the program, so that nothing is cut.

    By a stub that calls none, and by a program whose gate is shut. None: the length of the packet.
    """
    takes_stub: bool = True
    """Whether a stub may be attached in the place of its programs."""
    checks_attach_type: bool = True
    """Whether it refuses programs loaded for another attach type (`expected_attach_type`)."""
    runs_one: bool = False
    """Whether it runs one program only; all others run several."""
    function: str = ""
    """An example of the function that each program names beside the target, "" if none does."""
    has_several_links: bool = False
    """Whether one target may take several links: `HookCode.targets` names the target of each."""
    map: str = ""
    """The map of the object that an attachment writes for its program; "" for none."""
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

    @property
    def needs_stub(self) -> bool:
        """Whether a program is attached by a stub, so that a reload replaces it in one step."""
        return self.takes_stub and not self.updates_in_place

    @property
    def example(self) -> str:
        """An example of what each program names for itself: a target or a function, "" if none."""
        return self.target.example or self.function


XDP_ANSWERS: Final = MappingProxyType({int(action): action.name for action in XdpAction})
SK_LOOKUP_STOPS: Final = MappingProxyType({0: "SK_DROP"})
NETFILTER_STOPS: Final = MappingProxyType({0: "NF_DROP"})
# TC_ACT_* of include/uapi/linux/pkt_cls.h, as far as a program of cls_bpf stops a packet by them
# (cls_bpf_exec_opcode() of net/sched/cls_bpf.c). It lets a packet go on whose answer it does not
# know.
TC_STOPS: Final = MappingProxyType(
    {2: "TC_ACT_SHOT", 4: "TC_ACT_STOLEN", 7: "TC_ACT_REDIRECT", 8: "TC_ACT_TRAP"}
)


def xdp_passes(answer: int) -> bool:
    """Whether a packet goes on after this answer of an XDP program."""
    return answer == XdpAction.XDP_PASS


def tc_passes(answer: int) -> bool:
    """Whether a packet goes on after this answer of a program of classic tc."""
    return answer not in TC_STOPS


def tcx_passes(answer: int) -> bool:
    """Whether a packet goes on after this answer of a program of tcx."""
    # tcx stops packets by TCX_DROP and TCX_REDIRECT only, and takes what it does not know,
    # TC_ACT_STOLEN and TC_ACT_TRAP included, for TCX_NEXT (tcx_action_code() of include/net/tcx.h).
    return answer not in (2, 7)


def accepts(answer: int) -> bool:
    """Whether a packet goes on after this answer: SK_PASS of a lookup, NF_ACCEPT of netfilter."""
    return answer == 1


def lwt_passes(answer: int) -> bool:
    """Whether a packet goes on after this answer of a program of a route."""
    # BPF_OK and BPF_LWT_REROUTE; what it does not know, it drops (run_lwt_bpf() of
    # net/core/lwt_bpf.c).
    return answer in (0, 128)


def netkit_passes(answer: int) -> bool:
    """Whether a packet goes on after this answer of a program of netkit."""
    # NETKIT_NEXT and NETKIT_PASS; what it does not know, netkit drops (drivers/net/netkit.c).
    return answer in (-1, 0)


def cgroup_passes(answer: int) -> bool:
    """Whether a packet goes on after this answer of a program of a cgroup."""
    # At egress, 2 and 3 tell of congestion besides (BPF_PROG_CGROUP_INET_EGRESS_RUN_ARRAY).
    return bool(answer & 1)
