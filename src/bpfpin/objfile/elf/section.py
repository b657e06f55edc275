"""Kinds of programs by section name (`xdp`, `kprobe/NAME`) or by a word of the user.

The names are those of the kernel's Documentation/bpf/libbpf/program_types.rst and of libbpf 1.7
(`section_defs` in its libbpf.c).
"""

from __future__ import annotations

import dataclasses
import re

from bpfpin.choices import similar
from bpfpin.errors import UsageError
from bpfpin.records import dataclass
from bpfpin.spec import Hook
from bpfpin.uapi import AttachType as At
from bpfpin.uapi import ProgramFlag, ProgramType
from bpfpin.uapi import ProgramType as Pt

NO_FLAGS = ProgramFlag(0)
__all__ = ["ProgramKind", "kind_by_word", "program_kind", "words"]
# Numbers of 32 bits: ten decimal or eight hexadecimal digits at most.
_TAIL_CALL = r"(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})/(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})"
_SHOWN_WORDS = "xdp, tc, classifier, action, tcx/ingress, tcx/egress, socket, cgroup/skb, syscall"


@dataclass(frozen=True, slots=True)
class ProgramKind:
    """The properties of a program that follow from the name of its section.

    Attributes:
        type: Program type.
        expected_attach_type: Attribute of BPF_PROG_LOAD.
        attach_type: Attribute of the attachment.
        hook: The hook, if bpfpin has one for the attach type.
        program_flags: Flags for BPF_PROG_LOAD.
        attach_to: The rest of a name such as `kprobe/NAME`.
        note: Says that the meaning of the name was guessed, and how.
        is_optional: The name starts with `?`: the program is loaded only if asked for.
        tail_call: iproute2's `ID/KEY`: the id of a program array and the index to fill.
    """

    type: Pt
    expected_attach_type: At | None = None
    attach_type: At | None = None
    hook: Hook | None = None
    program_flags: ProgramFlag = NO_FLAGS
    attach_to: str = ""
    note: str = ""
    is_optional: bool = False
    tail_call: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SectionRow:
    """One name of the table; *takes_rest* if `/` and a target may follow it."""

    name: str
    kind: ProgramKind
    takes_rest: bool


# BPF_F_SLEEPABLE: the program may call helpers that sleep. libbpf writes `.s` into such names.
_SLEEPS = ProgramFlag.SLEEPABLE

# BPF_F_XDP_HAS_FRAGS: the program handles packets in several buffers, such as jumbo frames.
_FRAGS = ProgramFlag.XDP_HAS_FRAGS

# A name that ends in `+` may be followed by `/` and the target that the program attaches to.
_Row = tuple[str, Pt] | tuple[str, Pt, At | None] | tuple[str, Pt, At | None, ProgramFlag]

_NETWORK: tuple[_Row, ...] = (
    ("socket", Pt.SOCKET_FILTER),
    ("sk_reuseport/migrate", Pt.SK_REUSEPORT, At.SK_REUSEPORT_SELECT_OR_MIGRATE),
    ("sk_reuseport", Pt.SK_REUSEPORT, At.SK_REUSEPORT_SELECT),
    # In libbpf `tc/ingress` and `tc/egress` are other names of the tcx hooks, too.
    ("tc/ingress", Pt.SCHED_CLS, At.TCX_INGRESS),
    ("tc/egress", Pt.SCHED_CLS, At.TCX_EGRESS),
    ("tcx/ingress", Pt.SCHED_CLS, At.TCX_INGRESS),
    ("tcx/egress", Pt.SCHED_CLS, At.TCX_EGRESS),
    # tc and classifier give no direction, and classic tc filters have no attach type.
    ("tc", Pt.SCHED_CLS),
    ("classifier", Pt.SCHED_CLS),
    ("action", Pt.SCHED_ACT),
    ("netkit/primary", Pt.SCHED_CLS, At.NETKIT_PRIMARY),
    ("netkit/peer", Pt.SCHED_CLS, At.NETKIT_PEER),
    ("xdp.frags/devmap", Pt.XDP, At.XDP_DEVMAP, _FRAGS),
    ("xdp/devmap", Pt.XDP, At.XDP_DEVMAP),
    ("xdp.frags/cpumap", Pt.XDP, At.XDP_CPUMAP, _FRAGS),
    ("xdp/cpumap", Pt.XDP, At.XDP_CPUMAP),
    ("xdp.frags", Pt.XDP, At.XDP, _FRAGS),
    ("xdp", Pt.XDP, At.XDP),
    ("lwt_in", Pt.LWT_IN),
    ("lwt_out", Pt.LWT_OUT),
    ("lwt_xmit", Pt.LWT_XMIT),
    ("lwt_seg6local", Pt.LWT_SEG6LOCAL),
    ("sockops", Pt.SOCK_OPS, At.CGROUP_SOCK_OPS),
    ("sk_skb/stream_parser", Pt.SK_SKB, At.SK_SKB_STREAM_PARSER),
    ("sk_skb/stream_verdict", Pt.SK_SKB, At.SK_SKB_STREAM_VERDICT),
    ("sk_skb/verdict", Pt.SK_SKB, At.SK_SKB_VERDICT),
    ("sk_skb", Pt.SK_SKB),
    ("sk_msg", Pt.SK_MSG, At.SK_MSG_VERDICT),
    ("sk_lookup", Pt.SK_LOOKUP, At.SK_LOOKUP),
    ("lirc_mode2", Pt.LIRC_MODE2, At.LIRC_MODE2),
    ("flow_dissector", Pt.FLOW_DISSECTOR, At.FLOW_DISSECTOR),
    ("netfilter", Pt.NETFILTER, At.NETFILTER),
)

_CGROUP: tuple[_Row, ...] = (
    ("cgroup_skb/ingress", Pt.CGROUP_SKB, At.CGROUP_INET_INGRESS),
    ("cgroup_skb/egress", Pt.CGROUP_SKB, At.CGROUP_INET_EGRESS),
    # Without a direction there is no expected attach type; the hook is chosen when it is attached.
    ("cgroup/skb", Pt.CGROUP_SKB),
    ("cgroup/sock_create", Pt.CGROUP_SOCK, At.CGROUP_INET_SOCK_CREATE),
    ("cgroup/sock_release", Pt.CGROUP_SOCK, At.CGROUP_INET_SOCK_RELEASE),
    ("cgroup/sock", Pt.CGROUP_SOCK, At.CGROUP_INET_SOCK_CREATE),
    ("cgroup/post_bind4", Pt.CGROUP_SOCK, At.CGROUP_INET4_POST_BIND),
    ("cgroup/post_bind6", Pt.CGROUP_SOCK, At.CGROUP_INET6_POST_BIND),
    ("cgroup/bind4", Pt.CGROUP_SOCK_ADDR, At.CGROUP_INET4_BIND),
    ("cgroup/bind6", Pt.CGROUP_SOCK_ADDR, At.CGROUP_INET6_BIND),
    ("cgroup/connect4", Pt.CGROUP_SOCK_ADDR, At.CGROUP_INET4_CONNECT),
    ("cgroup/connect6", Pt.CGROUP_SOCK_ADDR, At.CGROUP_INET6_CONNECT),
    ("cgroup/connect_unix", Pt.CGROUP_SOCK_ADDR, At.CGROUP_UNIX_CONNECT),
    ("cgroup/sendmsg4", Pt.CGROUP_SOCK_ADDR, At.CGROUP_UDP4_SENDMSG),
    ("cgroup/sendmsg6", Pt.CGROUP_SOCK_ADDR, At.CGROUP_UDP6_SENDMSG),
    ("cgroup/sendmsg_unix", Pt.CGROUP_SOCK_ADDR, At.CGROUP_UNIX_SENDMSG),
    ("cgroup/recvmsg4", Pt.CGROUP_SOCK_ADDR, At.CGROUP_UDP4_RECVMSG),
    ("cgroup/recvmsg6", Pt.CGROUP_SOCK_ADDR, At.CGROUP_UDP6_RECVMSG),
    ("cgroup/recvmsg_unix", Pt.CGROUP_SOCK_ADDR, At.CGROUP_UNIX_RECVMSG),
    ("cgroup/getpeername4", Pt.CGROUP_SOCK_ADDR, At.CGROUP_INET4_GETPEERNAME),
    ("cgroup/getpeername6", Pt.CGROUP_SOCK_ADDR, At.CGROUP_INET6_GETPEERNAME),
    ("cgroup/getpeername_unix", Pt.CGROUP_SOCK_ADDR, At.CGROUP_UNIX_GETPEERNAME),
    ("cgroup/getsockname4", Pt.CGROUP_SOCK_ADDR, At.CGROUP_INET4_GETSOCKNAME),
    ("cgroup/getsockname6", Pt.CGROUP_SOCK_ADDR, At.CGROUP_INET6_GETSOCKNAME),
    ("cgroup/getsockname_unix", Pt.CGROUP_SOCK_ADDR, At.CGROUP_UNIX_GETSOCKNAME),
    ("cgroup/sysctl", Pt.CGROUP_SYSCTL, At.CGROUP_SYSCTL),
    ("cgroup/getsockopt", Pt.CGROUP_SOCKOPT, At.CGROUP_GETSOCKOPT),
    ("cgroup/setsockopt", Pt.CGROUP_SOCKOPT, At.CGROUP_SETSOCKOPT),
    ("cgroup/dev", Pt.CGROUP_DEVICE, At.CGROUP_DEVICE),
)

_TRACING: tuple[_Row, ...] = (
    ("kprobe+", Pt.KPROBE),
    ("kretprobe+", Pt.KPROBE),
    ("uprobe+", Pt.KPROBE),
    ("uprobe.s+", Pt.KPROBE, None, _SLEEPS),
    ("uretprobe+", Pt.KPROBE),
    ("uretprobe.s+", Pt.KPROBE, None, _SLEEPS),
    ("kprobe.multi+", Pt.KPROBE, At.TRACE_KPROBE_MULTI),
    ("kretprobe.multi+", Pt.KPROBE, At.TRACE_KPROBE_MULTI),
    ("kprobe.session+", Pt.KPROBE, At.TRACE_KPROBE_SESSION),
    ("uprobe.multi+", Pt.KPROBE, At.TRACE_UPROBE_MULTI),
    ("uprobe.multi.s+", Pt.KPROBE, At.TRACE_UPROBE_MULTI, _SLEEPS),
    ("uretprobe.multi+", Pt.KPROBE, At.TRACE_UPROBE_MULTI),
    ("uretprobe.multi.s+", Pt.KPROBE, At.TRACE_UPROBE_MULTI, _SLEEPS),
    ("uprobe.session+", Pt.KPROBE, At.TRACE_UPROBE_SESSION),
    ("uprobe.session.s+", Pt.KPROBE, At.TRACE_UPROBE_SESSION, _SLEEPS),
    ("ksyscall+", Pt.KPROBE),
    ("kretsyscall+", Pt.KPROBE),
    # bpfpin describes programs of all types, also of those that it cannot attach.
    ("usdt+", Pt.KPROBE),
    ("usdt.s+", Pt.KPROBE, None, _SLEEPS),
    ("tracepoint+", Pt.TRACEPOINT),
    ("tracepoint.s+", Pt.TRACEPOINT, None, _SLEEPS),
    ("tp+", Pt.TRACEPOINT),
    ("tp.s+", Pt.TRACEPOINT, None, _SLEEPS),
    ("raw_tracepoint+", Pt.RAW_TRACEPOINT),
    ("raw_tracepoint.s+", Pt.RAW_TRACEPOINT, None, _SLEEPS),
    ("raw_tp+", Pt.RAW_TRACEPOINT),
    ("raw_tp.s+", Pt.RAW_TRACEPOINT, None, _SLEEPS),
    ("raw_tracepoint.w+", Pt.RAW_TRACEPOINT_WRITABLE),
    ("raw_tp.w+", Pt.RAW_TRACEPOINT_WRITABLE),
    ("tp_btf+", Pt.TRACING, At.TRACE_RAW_TP),
    ("tp_btf.s+", Pt.TRACING, At.TRACE_RAW_TP, _SLEEPS),
    ("fentry+", Pt.TRACING, At.TRACE_FENTRY),
    ("fentry.s+", Pt.TRACING, At.TRACE_FENTRY, _SLEEPS),
    ("fmod_ret+", Pt.TRACING, At.MODIFY_RETURN),
    ("fmod_ret.s+", Pt.TRACING, At.MODIFY_RETURN, _SLEEPS),
    ("fexit+", Pt.TRACING, At.TRACE_FEXIT),
    ("fexit.s+", Pt.TRACING, At.TRACE_FEXIT, _SLEEPS),
    ("fsession+", Pt.TRACING, At.TRACE_FSESSION),
    ("fsession.s+", Pt.TRACING, At.TRACE_FSESSION, _SLEEPS),
    ("fentry.multi+", Pt.TRACING, At.TRACE_FENTRY_MULTI),
    ("fentry.multi.s+", Pt.TRACING, At.TRACE_FENTRY_MULTI, _SLEEPS),
    ("fexit.multi+", Pt.TRACING, At.TRACE_FEXIT_MULTI),
    ("fexit.multi.s+", Pt.TRACING, At.TRACE_FEXIT_MULTI, _SLEEPS),
    ("fsession.multi+", Pt.TRACING, At.TRACE_FSESSION_MULTI),
    ("fsession.multi.s+", Pt.TRACING, At.TRACE_FSESSION_MULTI, _SLEEPS),
    ("freplace+", Pt.EXT),
    ("lsm+", Pt.LSM, At.LSM_MAC),
    ("lsm.s+", Pt.LSM, At.LSM_MAC, _SLEEPS),
    ("lsm_cgroup+", Pt.LSM, At.LSM_CGROUP),
    ("iter+", Pt.TRACING, At.TRACE_ITER),
    ("iter.s+", Pt.TRACING, At.TRACE_ITER, _SLEEPS),
    # Programs of this type are always sleepable (kernel/bpf/verifier.c requires the flag).
    ("syscall", Pt.SYSCALL, None, _SLEEPS),
    ("perf_event", Pt.PERF_EVENT),
    ("struct_ops+", Pt.STRUCT_OPS),
    ("struct_ops.s+", Pt.STRUCT_OPS, None, _SLEEPS),
)

HOOKS: dict[At, Hook] = {hook.attach_type: hook for hook in Hook if hook.attach_type is not None}


def kind_of(
    program_type: Pt, attach_type: At | None = None, flags: ProgramFlag = NO_FLAGS
) -> ProgramKind:
    """Return the kind of a program; its hook follows from *attach_type*."""
    hook = HOOKS.get(attach_type) if attach_type is not None else None
    return ProgramKind(program_type, attach_type, attach_type, hook, flags)


def section_rows() -> dict[str, SectionRow]:
    """Return the table of section names, each with the hook that has it in the registry."""
    hooks = {name: hook for hook in Hook for name in hook.traits.sections}
    table: dict[str, SectionRow] = {}
    for name, *what in (*_NETWORK, *_CGROUP, *_TRACING):
        plain = name.removesuffix("+")
        kind = kind_of(*what)
        if plain in hooks:
            kind = dataclasses.replace(kind, hook=hooks[plain])
        table[plain] = SectionRow(plain, kind, takes_rest=name != plain)
    return table


ROWS: dict[str, SectionRow] = section_rows()

# Names that libbpf before 1.0 matched as a prefix: all that take no rest. `tc` must be followed by
# a separator here, because a section `tcp_…` has nothing to do with tc.
OLD_PREFIXES: dict[str, ProgramKind] = {
    "xdp_devmap/": kind_of(Pt.XDP, At.XDP_DEVMAP),
    "xdp_cpumap/": kind_of(Pt.XDP, At.XDP_CPUMAP),
    "tc_": kind_of(Pt.SCHED_CLS),
    "tc-": kind_of(Pt.SCHED_CLS),
    "tc/": kind_of(Pt.SCHED_CLS),
} | {
    row.name: row.kind
    for row in ROWS.values()
    if not row.takes_rest and row.name not in ("tc", "syscall")
}

_OLD_LONGEST_FIRST = sorted(OLD_PREFIXES, key=len, reverse=True)


def program_kind(section: str) -> ProgramKind | None:
    """Return the kind of the programs in *section*; None if the name says nothing about it.

    Known are libbpf's names (`tcx/ingress`, `kprobe/do_exit`), names that libbpf before 1.0 matched
    by their prefix (`xdp_stats1`), and `ID/KEY` of iproute2's tail calls, which leaves the type
    open. The last two have a `note`. As in libbpf, `?` before the name makes the program optional.
    """
    name = section.removeprefix("?")
    # From certain names to guesses: `xdp/devmap` is known, `xdp_stats1` begins with `xdp`.
    kind = _known(name) or _by_beginning(name) or _tail_call(name)
    if kind is None or name == section:
        return kind
    return dataclasses.replace(kind, is_optional=True)


def kind_by_word(word: str) -> ProgramKind:
    """Return the kind that the user's *word* (`xdp`, `sched_cls`, `cgroup/skb`) means.

    Words are section names, and the kernel's program types in lower case.

    Raises:
        UsageError: The word is unknown; the error lists similar ones.
    """
    known = words()
    if word in known:
        return known[word]
    near = similar(word, known)
    raise UsageError(
        f"{word!r} is not a program type; "
        + (f"near it: {', '.join(near)}" if near else f"some of them: {_SHOWN_WORDS}"),
        hint="a type is the name of a section, or a program type of the kernel in lower case",
    )


def words() -> dict[str, ProgramKind]:
    """Return all words that `kind_by_word` accepts, each with its kind."""
    types = {kind.name.lower(): kind_of(kind) for kind in ProgramType if kind != ProgramType.UNSPEC}
    return types | {name: row.kind for name, row in ROWS.items()}


def _known(name: str) -> ProgramKind | None:
    if name in ROWS:
        return ROWS[name].kind
    # A name with its own row, such as `xdp/devmap`, was found above, before the split at the slash.
    beginning, slash, rest = name.partition("/")
    row = ROWS.get(beginning)
    if row is None or not slash or not row.takes_rest:
        return None
    return dataclasses.replace(row.kind, attach_to=rest)


def _by_beginning(name: str) -> ProgramKind | None:
    # The longest prefix first: `xdp_devmap/` before `xdp`.
    for prefix in _OLD_LONGEST_FIRST:
        if name.startswith(prefix):
            note = f"section {name!r} is read as {prefix.rstrip('_-/')!r}, which it starts with"
            return dataclasses.replace(OLD_PREFIXES[prefix], note=note)
    return None


def _tail_call(name: str) -> ProgramKind | None:
    match = re.fullmatch(_TAIL_CALL, name) if "/" in name else None
    if match is None:
        return None
    array_id, index = (_number(text) for text in match.groups())
    if array_id is None or index is None:
        return None
    note = f"section {name!r} fills index {index} of the program array with id {array_id}"
    return ProgramKind(ProgramType.UNSPEC, note=note, tail_call=(array_id, index))


def _number(text: str) -> int | None:
    """Return the number *text*, read like scanf's %i, which iproute2 uses: `0x` hex, `0` octal."""
    # int(text, 0) refuses `010`, which %i reads as 8.
    is_octal = text.startswith("0") and text.isdigit()
    try:
        value = int(text, 8 if is_octal else 0)
    except ValueError:
        return None
    return value if value < 1 << 32 else None
