"""The places that programs are attached to, in the words that users type."""

from __future__ import annotations

from enum import Enum

from bpfpin.uapi import AttachType


class XdpMode(Enum):
    """Where in the receive path an XDP program runs."""

    AUTO = "auto"  # native, and generic where the driver has none
    NATIVE = "native"
    GENERIC = "generic"
    OFFLOAD = "offload"


class Hook(Enum):
    """A place where a program is attached, as it is typed after `--hook`.

    Its words are the kernel's: those of its attach type, where it has one.
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
        """What BPF_LINK_CREATE is told; None for the hooks of classic tc, which have no links."""
        return AttachType.__members__.get(self.name)

    @property
    def is_cgroup(self) -> bool:
        """Whether it is a hook of a cgroup; all others are of a network device."""
        return self.name.startswith("CGROUP_")
