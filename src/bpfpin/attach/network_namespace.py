"""Programs of a network namespace: sk_lookup and the flow dissector, held by links."""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

from bpfpin.attach.order import require_type
from bpfpin.attach.query import netns_program
from bpfpin.attach.registry import (
    AttachOptions,
    HookCode,
    HookTarget,
    NewAttachment,
    RememberedHook,
)
from bpfpin.choices import choice_of
from bpfpin.errors import HookBusyError, PermissionDeniedError, WrongHookError
from bpfpin.hooks import Hook, XdpMode
from bpfpin.objects.kernel.info import links
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.syscall import netns as namespaces
from bpfpin.uapi import AttachType, LinkType

_ETHER_SIZE: Final = 14
_LOOKUP_HEAD: Final = struct.Struct("=QII")  # struct bpf_sk_lookup: cookie, family, protocol
_LOOKUP_TAIL: Final = struct.Struct("=II4x")  # local_port, ingress_ifindex


@dataclass(frozen=True, slots=True)
class DissectorHolder:
    """The flow dissector of a network namespace, which has one at most.

    Attributes:
        program_id: The id of the program.
        link_id: The id of the link that holds it; None without one.
        is_link_known: Whether this user can see which link holds it.
        mode: None of XDP's.
    """

    program_id: int
    link_id: int | None
    is_link_known: bool
    mode: XdpMode = XdpMode.AUTO

    def __str__(self) -> str:
        held = f"held by link id {self.link_id}" if self.link_id else "held without a link"
        return (
            f"program id {self.program_id}, {held}"
            if self.is_link_known
            else (f"program id {self.program_id}")
        )


def attach_netns(program: Program, hook: Hook | str, *, netns: str | None = None) -> Link:
    """Attach *program* to a network namespace; closing the link detaches it, unless it is pinned.

    Args:
        program: A program of type SK_LOOKUP or FLOW_DISSECTOR.
        hook: `Hook.SK_LOOKUP` or `Hook.FLOW_DISSECTOR`, or its word.
        netns: Name or path of the network namespace. Default: that of the caller.

    Returns:
        The link.

    Raises:
        HookBusyError: Another flow dissector is attached there, or there are too many programs.
        NamespaceNotFoundError: *netns* does not exist.
        WrongHookError: The program is of another type, or the hook is not of a network namespace.
        PermissionDeniedError: CAP_NET_ADMIN or CAP_BPF is missing.

    Kernel: BPF_LINK_CREATE with BPF_SK_LOOKUP (Linux 5.9) or BPF_FLOW_DISSECTOR (Linux 5.8).
    """
    hook = choice_of(Hook, hook, what="hook")
    if hook.traits.code != "network_namespace" or hook.attach_type is None:
        raise WrongHookError(f"a network namespace has no hook {hook.value}")
    require_type(program, hook)
    with namespaces.open_namespace(netns or namespaces.OWN) as namespace:
        try:
            return Link.create(program, namespace.fileno(), hook.attach_type)
        except HookBusyError as error:
            holder = dissector_holder(namespace.fileno()) if hook.traits.runs_one else None
            if holder is None:
                raise
            raise HookBusyError(
                f"the network namespace has a flow dissector already: {holder} ({error.message})",
                holder=str(holder),
            ) from None


def _lookup_of(frame: bytes) -> bytes | None:
    """Return the `struct bpf_sk_lookup` of a frame of TCP or UDP, None of any other."""
    packet = frame[_ETHER_SIZE:]
    if frame[12:14] == b"\x08\x00":
        family, protocol, header = socket.AF_INET, packet[9], (packet[0] & 15) * 4
        remote4, local4, remote6, local6 = packet[12:16], packet[16:20], bytes(16), bytes(16)
    elif frame[12:14] == b"\x86\xdd":
        family, protocol, header = socket.AF_INET6, packet[6], 40
        remote4, local4, remote6, local6 = bytes(4), bytes(4), packet[8:24], packet[24:40]
    else:
        return None
    ports = packet[header : header + 4]
    if protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP) or len(ports) < 4:
        return None
    # The remote port is in network order, the local one is not (include/uapi/linux/bpf.h).
    head = _LOOKUP_HEAD.pack(0, family, protocol)
    local_port = int.from_bytes(ports[2:], "big")
    remote = remote4 + remote6 + ports[:2] + bytes(2)
    return head + remote + local4 + local6 + _LOOKUP_TAIL.pack(local_port, 0)


def dissector_holder(netns_fd: int) -> DissectorHolder | None:
    """Return what holds the flow dissector of a network namespace, None if there is none."""
    program_id = netns_program(netns_fd, AttachType.FLOW_DISSECTOR)
    if not program_id:
        return None
    try:
        # An inode number identifies a namespace (nsfs).
        inode = os.fstat(netns_fd).st_ino
        own = (
            link.id
            for link in links()
            if link.type == LinkType.NETNS
            and (link.netns_inode, link.attach_type) == (inode, AttachType.FLOW_DISSECTOR)
        )
        return DissectorHolder(program_id, next(own, None), is_link_known=True)
    except PermissionDeniedError:  # links are listed with CAP_SYS_ADMIN alone
        return DissectorHolder(program_id, None, is_link_known=False)


class NetworkNamespaceCode(HookCode):
    """The code of the hooks of network namespaces."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link, in the current network namespace."""
        return NewAttachment(hook, attach_netns(program, hook))

    def test_input(self, hook: Hook, name: str, frame: bytes) -> tuple[bytes, bytes] | None:
        """Return the lookup of a socket that a packet of a new connection makes."""
        context = _lookup_of(frame)
        return None if context is None else (b"", context)

    def holder(self, target: HookTarget) -> DissectorHolder | None:
        """Return what holds the flow dissector: lookups of sockets may have several programs."""
        with namespaces.open_namespace(namespaces.OWN) as namespace:
            return dissector_holder(namespace.fileno())

    def detach_line(self, hook: Hook, device: str, remembered: RememberedHook) -> str:
        """Return the line of bpftool that detaches a flow dissector without a link."""
        holder = self.holder(HookTarget())
        return f"bpftool prog detach id {holder.program_id if holder else 0} flow_dissector"


CODE = NetworkNamespaceCode()
