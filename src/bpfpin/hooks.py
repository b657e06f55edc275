"""Hooks that programs attach to, and XDP modes, by the names that users type."""

from __future__ import annotations

from enum import Enum

from bpfpin.uapi import AttachType


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

    XDP = "xdp"
    TCX_INGRESS = "tcx-ingress"
    TCX_EGRESS = "tcx-egress"
    TC_INGRESS = "tc-ingress"
    TC_EGRESS = "tc-egress"
    NETKIT_PRIMARY = "netkit-primary"
    NETKIT_PEER = "netkit-peer"
    CGROUP_INET_INGRESS = "cgroup-inet-ingress"
    CGROUP_INET_EGRESS = "cgroup-inet-egress"
    CGROUP_INET_SOCK_CREATE = "cgroup-inet-sock-create"
    CGROUP_INET_SOCK_RELEASE = "cgroup-inet-sock-release"
    CGROUP_SOCK_OPS = "cgroup-sock-ops"
    CGROUP_DEVICE = "cgroup-device"
    CGROUP_INET4_BIND = "cgroup-inet4-bind"
    CGROUP_INET6_BIND = "cgroup-inet6-bind"
    CGROUP_INET4_POST_BIND = "cgroup-inet4-post-bind"
    CGROUP_INET6_POST_BIND = "cgroup-inet6-post-bind"
    CGROUP_INET4_CONNECT = "cgroup-inet4-connect"
    CGROUP_INET6_CONNECT = "cgroup-inet6-connect"
    CGROUP_UNIX_CONNECT = "cgroup-unix-connect"
    CGROUP_UDP4_SENDMSG = "cgroup-udp4-sendmsg"
    CGROUP_UDP6_SENDMSG = "cgroup-udp6-sendmsg"
    CGROUP_UNIX_SENDMSG = "cgroup-unix-sendmsg"
    CGROUP_UDP4_RECVMSG = "cgroup-udp4-recvmsg"
    CGROUP_UDP6_RECVMSG = "cgroup-udp6-recvmsg"
    CGROUP_UNIX_RECVMSG = "cgroup-unix-recvmsg"
    CGROUP_INET4_GETPEERNAME = "cgroup-inet4-getpeername"
    CGROUP_INET6_GETPEERNAME = "cgroup-inet6-getpeername"
    CGROUP_UNIX_GETPEERNAME = "cgroup-unix-getpeername"
    CGROUP_INET4_GETSOCKNAME = "cgroup-inet4-getsockname"
    CGROUP_INET6_GETSOCKNAME = "cgroup-inet6-getsockname"
    CGROUP_UNIX_GETSOCKNAME = "cgroup-unix-getsockname"
    CGROUP_SYSCTL = "cgroup-sysctl"
    CGROUP_GETSOCKOPT = "cgroup-getsockopt"
    CGROUP_SETSOCKOPT = "cgroup-setsockopt"

    @property
    def attach_type(self) -> AttachType | None:
        """The attach type for BPF_LINK_CREATE; None for hooks of classic tc, which has no links."""
        # The members have the names of the attach types on purpose, so no second table is needed.
        return AttachType.__members__.get(self.name)

    @property
    def is_cgroup(self) -> bool:
        """Whether it is a hook of a cgroup; all other hooks belong to a network device."""
        return self.name.startswith("CGROUP_")
