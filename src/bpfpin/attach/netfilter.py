"""netfilter: programs among the rules of iptables and nftables, held by links."""

from __future__ import annotations

import re
import socket
from typing import Final, Self

from bpfpin.attach.order import require_type
from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.choices import similar
from bpfpin.errors import (
    HookBusyError,
    IdNotFoundError,
    NotSupportedError,
    TargetNotFoundError,
    UsageError,
)
from bpfpin.hooks import Hook
from bpfpin.objects.link import Link, create_link
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.syscall import netns as namespaces
from bpfpin.syscall.attr import LinkDetails, NetfilterLink
from bpfpin.uapi import AttachType

# NFPROTO_IPV4 and NFPROTO_IPV6 of linux/netfilter.h have the numbers of the address families.
_FAMILIES: Final = {"ipv4": int(socket.AF_INET), "ipv6": int(socket.AF_INET6)}
# NF_INET_… of linux/netfilter.h, in nft's words.
_HOOKS: Final = ("prerouting", "input", "forward", "output", "postrouting")
_ETHER_TYPES: Final = {"ipv4": b"\x08\x00", "ipv6": b"\x86\xdd"}
_ETHER_SIZE: Final = 14
_STATE_SIZE: Final = 48  # struct nf_hook_state of linux/netfilter.h
_DEFRAG: Final = "defrag"
_IP_DEFRAG: Final = 1  # BPF_F_NETFILTER_IP_DEFRAG of linux/bpf.h
_BEFORE_DEFRAG: Final = -400  # NF_IP_PRI_CONNTRACK_DEFRAG of linux/netfilter_ipv4.h
_PRIORITY_END: Final = 1 << 31
_FORM: Final = re.compile(r"([^:,]*):([^:,]*)(?::([^:,]*))?(?:,(.*))?")


@dataclass(frozen=True, slots=True)
class NetfilterTarget:
    """A place among the hooks of netfilter; the lowest *priority* runs first.

    Attributes:
        family: `ipv4` or `ipv6`.
        hook: `prerouting`, `input`, `forward`, `output` or `postrouting`.
        priority: nftables and iptables filter at 0.
        is_defragmented: Whether fragments of packets are put together before.
    """

    family: str
    hook: str
    priority: int = 0
    is_defragmented: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `ipv4:input`, `ipv6:output:-100`, `ipv4:prerouting:-200,defrag`.

        Raises `UsageError` for another form, `TargetNotFoundError` for a hook that does not exist.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise UsageError(
                f"{text!r} is not a netfilter hook: it is a family and a hook, such as ipv4:input,"
                " with a priority (ipv4:input:-100) and `,defrag` if you want"
            )
        family, hook, priority, option = match.groups()
        for word, known in ((family, list(_FAMILIES)), (hook, list(_HOOKS))):
            if word not in known:
                near = similar(word, known) or known
                raise TargetNotFoundError(
                    f"netfilter has no {word!r} (in {text})", hint=f"near it: {', '.join(near)}"
                )
        if option not in (None, _DEFRAG):
            raise UsageError(
                f"{option!r} is not an option of a netfilter hook; there is: {_DEFRAG}"
            )
        return cls(family, hook, _priority(priority, text), option == _DEFRAG)._checked()

    def _checked(self) -> Self:
        # bpf_nf_check_pf_and_hooks() of net/netfilter/nf_bpf_link.c refuses these with ERANGE.
        if abs(self.priority) >= _PRIORITY_END - 1:
            raise UsageError(f"priority {self.priority} of {self} is the kernel's own, or beyond")
        if self.is_defragmented and self.priority <= _BEFORE_DEFRAG:
            raise UsageError(
                f"{self} is too early: packets are put together at priority {_BEFORE_DEFRAG}"
            )
        return self

    def __str__(self) -> str:
        priority = f":{self.priority}" if self.priority else ""
        return f"{self.family}:{self.hook}{priority}{',defrag' * self.is_defragmented}"


def _priority(text: str | None, whole: str) -> int:
    if text is None:
        return 0
    if not re.fullmatch(r"-?[0-9]{1,10}", text):
        raise UsageError(f"{text!r} (in {whole}) is not a priority, which is a whole number")
    return int(text)


def target_of(family: int, hook: int, priority: int, flags: int) -> str:
    """Return the target with the kernel's numbers, as it is typed."""
    families = {number: word for word, number in _FAMILIES.items()}
    word = _HOOKS[hook] if hook < len(_HOOKS) else str(hook)
    is_defragmented = bool(flags & _IP_DEFRAG)
    return str(NetfilterTarget(families.get(family, f"{family}"), word, priority, is_defragmented))


def attach_netfilter(program: Program, target: str, *, netns: str | None = None) -> Link:
    """Attach *program* to a hook of netfilter; closing the link detaches it, unless it is pinned.

    The program runs among the chains of nftables and iptables, in the order of the priorities.

    Args:
        program: A program of type NETFILTER. It returns NF_DROP (0) or NF_ACCEPT (1).
        target: `FAMILY:HOOK`, with `:PRIORITY` and `,defrag` if wanted. FAMILY is `ipv4` or
            `ipv6`, HOOK is `prerouting`, `input`, `forward`, `output` or `postrouting`, and
            PRIORITY is 0 by default. With `,defrag` the program sees no fragments of packets.
        netns: Name or path of the network namespace. Default: that of the caller.

    Returns:
        The link. Its program cannot be replaced.

    Raises:
        HookBusyError: A program or chain has that priority already.
        TargetNotFoundError: There is no such family or hook.
        UsageError: *target* is of another form, or has a priority that the kernel refuses.
        NamespaceNotFoundError: *netns* does not exist.
        NotSupportedError: The kernel has no such links, or cannot put fragments together.
        WrongHookError: The program is of another type.
        PermissionDeniedError: CAP_NET_ADMIN or CAP_BPF is missing.

    Kernel: BPF_LINK_CREATE with BPF_NETFILTER (Linux 6.4; `,defrag` Linux 6.6).
    """
    require_type(program, Hook.NETFILTER)
    place = NetfilterTarget.parse(target)
    details = NetfilterLink(
        _FAMILIES[place.family],
        _HOOKS.index(place.hook),
        place.priority,
        _IP_DEFRAG if place.is_defragmented else 0,
    )
    with namespaces.enter(netns):
        try:
            return Link(
                create_link(
                    program,
                    0,
                    AttachType.NETFILTER,
                    LinkDetails(netfilter=details),
                    place=f"netfilter {place}",
                )
            )
        except HookBusyError as error:
            raise HookBusyError(
                f"{place.hook} of {place.family} has a program or chain of priority"
                f" {place.priority} already, and each BPF program needs its own ({error.message})",
                hint="see them: nft list hooks; take another priority:"
                f" {place.family}:{place.hook}:{place.priority + 1}",
            ) from None
        except IdNotFoundError:
            # get_proto_defrag_hook(): there is no module that puts packets together.
            module = f"nf_defrag_{place.family}"
            raise NotSupportedError(
                f"this kernel has no {module}, which puts fragments together",
                feature=module,
                hint=f"modprobe {module}",
            ) from None


class NetfilterCode(HookCode):
    """The code of the hooks of netfilter."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link, in the current network namespace."""
        return NewAttachment(hook, attach_netfilter(program, target.name))

    def is_incoming(self, hook: Hook, name: str) -> bool:
        """Whether packets come in at a hook of netfilter."""
        return NetfilterTarget.parse(name).hook in ("prerouting", "input")

    def test_input(self, hook: Hook, name: str, frame: bytes) -> tuple[bytes, bytes] | None:
        """Return the frame, and in a `struct nf_hook_state` the place where it is."""
        target = NetfilterTarget.parse(name)
        # Packets of the user's own connection are not forwarded.
        is_of_family = frame[12:14] == _ETHER_TYPES[target.family]
        if target.hook == "forward" or not is_of_family:
            return None
        # bpf_prog_test_run_nf() of net/bpf/test_run.c wants an Ethernet header at all hooks but
        # output, and zeros behind the first two members of the context.
        context = bytes((_HOOKS.index(target.hook), _FAMILIES[target.family]))
        data = frame[_ETHER_SIZE:] if target.hook == "output" else frame
        return data, context + bytes(_STATE_SIZE - len(context))

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Refuse a target that does not exist."""
        NetfilterTarget.parse(target.name)
        return ""


CODE = NetfilterCode()
