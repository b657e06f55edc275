"""rtnetlink by pyroute2: devices, addresses, neighbours, and XDP programs without a link.

This is the only importer of pyroute2, which takes 125 ms: import this module where it is used, not
at the top of a file. Everything happens in the network namespace of the calling thread.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2 import netns as pyroute2_netns
from pyroute2.netlink.exceptions import NetlinkError

from bpfpin.attach.devices import queue_counts, xdp_refusal
from bpfpin.errors import (
    AttachError,
    BpfError,
    HookBusyError,
    InterfaceNotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    ProgramChangedError,
)
from bpfpin.records import dataclass
from bpfpin.spec import XdpMode
from bpfpin.syscall.capability import missing_capabilities
from bpfpin.syscall.fd import Closing, Descriptor
from bpfpin.syscall.netns import NAMED, path_of, unshare
from bpfpin.uapi import XdpFlag

Result = TypeVar("Result")

# Always given: without a mode dev_xdp_mode() of net/core/dev.c takes native mode wherever the
# driver has it, and a detach would look there for a generic program.
MODE_FLAGS = {
    XdpMode.NATIVE: XdpFlag.DRV_MODE,
    XdpMode.GENERIC: XdpFlag.SKB_MODE,
    XdpMode.OFFLOAD: XdpFlag.HW_MODE,
}

_PROGRAM_IDS = {
    XdpMode.NATIVE: "IFLA_XDP_DRV_PROG_ID",
    XdpMode.GENERIC: "IFLA_XDP_SKB_PROG_ID",
    XdpMode.OFFLOAD: "IFLA_XDP_HW_PROG_ID",
}
# The kernel's errors if the device has changed meanwhile (dev_xdp_attach of net/core/dev.c).
_REFUSALS: dict[int, type[BpfError]] = {
    errno.ENODEV: InterfaceNotFoundError,
    errno.EEXIST: ProgramChangedError,
    errno.EBUSY: HookBusyError,
    errno.ERANGE: NotSupportedError,
    errno.ENOSPC: NotSupportedError,
    errno.EOPNOTSUPP: NotSupportedError,
}
LOOPBACK = 1  # LOOPBACK_IFINDEX of net/net_namespace.h: the first device of each namespace
_ADDRESS_NODAD = 0x02  # IFA_F_NODAD of linux/if_addr.h: no duplicate address detection
_ADDRESS_MODE_NONE = 1  # IN6_ADDR_GEN_MODE_NONE of linux/if_link.h: no link-local address


@dataclass(frozen=True, slots=True)
class Device:
    """A network device; *peer_ifindex* is that of a veth's other end in its own namespace."""

    ifindex: int
    name: str
    kind: str
    alias: str
    hardware_address: str
    peer_ifindex: int
    is_up: bool


class Netlink(Closing):
    """A socket to rtnetlink that raises the errors of this package; `with` closes it."""

    def __init__(self) -> None:
        # With NETLINK_EXT_ACK the answer to a refusal has the driver's words, such as "Peer MTU is
        # too large to set XDP"; without it there is only an errno.
        self._route = IPRoute(ext_ack=True)

    def close(self) -> None:
        """Close the socket."""
        self._route.close()

    def devices(self) -> list[Device]:
        """Return all devices of the namespace."""
        with _errors("list the network devices"):
            return [_device(message) for message in self._route.get_links()]

    def device(self, ifindex: int) -> Device:
        """Return the device with *ifindex*."""
        return _device(self._message(ifindex))

    def xdp_program_ids(self, ifindex: int) -> dict[XdpMode, int]:
        """Return the id of the XDP program in each mode that has one, with a link or without."""
        xdp = self._message(ifindex).get_attr("IFLA_XDP")
        ids = {mode: xdp.get_attr(name) for mode, name in _PROGRAM_IDS.items()} if xdp else {}
        return {mode: int(program_id) for mode, program_id in ids.items() if program_id}

    def attach_xdp(self, program_fd: int, ifindex: int, mode: XdpMode) -> None:
        """Attach a program without a link, if the device has none."""
        with _errors(f"attach an XDP program to ifindex {ifindex}"):
            self._set_xdp(ifindex, program_fd, MODE_FLAGS[mode] | XdpFlag.UPDATE_IF_NOEXIST)

    def detach_xdp(self, ifindex: int, mode: XdpMode) -> None:
        """Detach the program that is attached without a link."""
        with _errors(f"detach the XDP program of ifindex {ifindex}"):
            self._set_xdp(ifindex, -1, MODE_FLAGS[mode])

    def replace_xdp(
        self, program_fd: int, ifindex: int, mode: XdpMode, *, expected_fd: int
    ) -> None:
        """Replace the program *expected_fd*, attached without a link, by another; -1 detaches it.

        `ProgramChangedError` if another program is attached: compare-and-swap by
        IFLA_XDP_EXPECTED_FD (Linux 5.7).
        """
        with _errors(f"replace the XDP program of ifindex {ifindex}", _REFUSALS):
            self._set_xdp(
                ifindex, program_fd, MODE_FLAGS[mode] | XdpFlag.REPLACE, expected_fd=expected_fd
            )

    def create_veth(self, name: str) -> Device:
        """Create a pair of virtual devices: one has the name *name*, the kernel names its peer."""
        return self._create_veth(name, {})

    def create_veth_into(self, namespace: str, name: str, peer: str) -> Device:
        """Create a pair: *name* in this network namespace, *peer* in the one called *namespace*."""
        with Descriptor(os.open(path_of(namespace), os.O_RDONLY | os.O_CLOEXEC)) as inside:
            return self._create_veth(name, {"ifname": peer, "net_ns_fd": inside.fileno()})

    def _create_veth(self, name: str, peer: dict[str, Any]) -> Device:
        with _errors(f"create the device {name!r}"):
            self._route.link("add", ifname=name, kind="veth", peer=peer)
            try:
                (ifindex,) = self._route.link_lookup(ifname=name)
                return self.device(ifindex)
            except BaseException:  # its caller has nothing yet that it could delete
                self._route.link("del", ifname=name)
                raise

    def create_veth_for(self, mtu: int, *, has_queues: bool) -> int:
        """Create a pair whose second device has that MTU; return the ifindex of the first.

        The second device sends on more queues than the first receives on, unless *has_queues*.
        """
        # Both numbers of both ends: if one of them is missing, the kernel makes a single queue.
        queues, more = (
            {"IFLA_NUM_RX_QUEUES": number, "IFLA_NUM_TX_QUEUES": number} for number in (1, 2)
        )
        peer = {"ifname": "peer", "mtu": mtu, **(queues if has_queues else more)}
        with _errors("create a pair of veth"):
            self._route.link("add", ifname="copy", kind="veth", peer=peer, **queues)
            (ifindex,) = self._route.link_lookup(ifname="copy")
        return int(ifindex)

    def veth_peer(self, ifindex: int) -> tuple[int, bool]:
        """Return the MTU of the peer of a veth, and whether the device has a queue for each of its.

        If the peer cannot be seen: the MTU of the device itself, and True.
        """
        # IFLA_LINK of a veth is the ifindex of its peer, in the namespace with the id
        # IFLA_LINK_NETNSID, or in this namespace without that attribute.
        own = self._message(ifindex)
        index, namespace = own.get_attr("IFLA_LINK"), own.get_attr("IFLA_LINK_NETNSID")
        try:
            if namespace is None:
                (peer,) = self._route.get_links(index)
            else:
                (peer,) = self._route.link("get", index=index, IFLA_IF_NETNSID=namespace)
        # The peer is in a namespace where this user has no rights, or it is gone.
        except (NetlinkError, OSError, ValueError):
            return int(own.get_attr("IFLA_MTU")), True
        receiving, sending = own.get_attr("IFLA_NUM_RX_QUEUES"), peer.get_attr("IFLA_NUM_TX_QUEUES")
        counts = [queue_counts(end.get_attr("IFLA_IFNAME")) for end in (own, peer)]
        # SIOCETHTOOL finds devices by name in this namespace alone, so a peer elsewhere is unknown.
        if namespace is None and counts[0] and counts[1]:  # those in use may be fewer
            receiving, sending = counts[0][0], counts[1][1]
        return int(peer.get_attr("IFLA_MTU")), receiving >= sending

    def delete_device(self, ifindex: int) -> None:
        """Delete a device, and with it the peer of a veth."""
        with _errors(f"delete the device with ifindex {ifindex}"):
            self._route.link("del", index=ifindex)

    def set_alias(self, ifindex: int, alias: str) -> None:
        """Set the device's free text, as `ip link set DEV alias TEXT`."""
        with _errors(f"set the alias of ifindex {ifindex}"):
            self._route.link("set", index=ifindex, ifalias=alias)

    def set_up(self, ifindex: int) -> None:
        """Bring a device up, as `ip link set DEV up`."""
        with _errors(f"bring ifindex {ifindex} up"):
            self._route.link("set", index=ifindex, state="up")

    def set_silent(self, ifindex: int) -> None:
        """Keep a device from sending packets by itself: `addrgenmode none` and `arp off`.

        Without a link-local IPv6 address the kernel does not solicit routers; without ARP it does
        not join the multicast groups of neighbour discovery, which MLD would report.
        """
        inet6 = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDRESS_MODE_NONE)]}
        with _errors(f"configure ifindex {ifindex}"):
            self._route.link("set", index=ifindex, IFLA_AF_SPEC={"attrs": [("AF_INET6", inet6)]})
            self._route.link("set", index=ifindex, arp=False)

    def add_address(self, ifindex: int, interface: str) -> None:
        """Give a device the address `ADDRESS/BITS` without duplicate address detection."""
        address = ipaddress.ip_interface(interface)
        # Duplicate address detection keeps an IPv6 address tentative for about a second, in which
        # the device cannot send from it.
        flags = _ADDRESS_NODAD if address.version == 6 else 0
        with _errors(f"add the address {interface} to ifindex {ifindex}"):
            self._route.addr(
                "add",
                index=ifindex,
                address=str(address.ip),
                prefixlen=address.network.prefixlen,
                flags=flags,
            )

    def addresses(self, ifindex: int) -> list[str]:
        """Return the addresses of a device, IPv4 first."""
        with _errors(f"list the addresses of ifindex {ifindex}"):
            messages = sorted(self._route.get_addr(index=ifindex), key=lambda item: item["family"])
        return [str(item.get_attr("IFA_ADDRESS")) for item in messages]

    def add_neighbour(self, ifindex: int, address: str, hardware_address: str) -> None:
        """Add a permanent neighbour, so that *address* needs no ARP or neighbour discovery."""
        with _errors(f"add the neighbour {address} to ifindex {ifindex}"):
            self._route.neigh(
                "add", ifindex=ifindex, dst=address, lladdr=hardware_address, state="permanent"
            )

    def _message(self, ifindex: int) -> Any:
        with _errors(f"look at ifindex {ifindex}"):
            return self._route.get_links(ifindex)[0]

    def _set_xdp(
        self, ifindex: int, program_fd: int, flags: int, *, expected_fd: int | None = None
    ) -> None:
        attributes = [("IFLA_XDP_FD", program_fd), ("IFLA_XDP_FLAGS", flags)]
        if expected_fd is not None:
            attributes.append(("IFLA_XDP_EXPECTED_FD", expected_fd))
        self._route.link("set", index=ifindex, xdp={"attrs": attributes})


def aside(work: Callable[[Netlink], Result]) -> Result:
    """Run *work* in a thread of its own, in the caller's network namespace; return its result.

    pyroute2 runs an event loop, which is impossible in a thread that runs one already (asyncio).
    """

    # A new thread starts in the network namespace of the thread that creates it (clone(2)).
    def run() -> Result:
        with Netlink() as netlink:
            return work(netlink)

    return _in_a_thread(run)


def _in_a_thread(work: Callable[[], Result]) -> Result:
    with ThreadPoolExecutor(max_workers=1) as threads:
        return threads.submit(work).result()


def on_a_copy_of_veth(program_fd: int, ifindex: int) -> str:
    """Return why a veth like *ifindex* refuses a program in native mode, "" if it accepts it.

    The copy is made in a network namespace that ends with this call: a pair whose peer has the MTU
    of the real peer, and more queues than the device receives on if the real peer has.
    """

    def run() -> str:
        with Netlink() as netlink:
            # Before unshare(2): a netlink socket stays in the namespace in which it was opened.
            mtu, has_queues = netlink.veth_peer(ifindex)
        # unshare(2) moves this thread alone. The namespace ends with the thread, and the pair with
        # it.
        unshare()
        with Netlink() as netlink:
            copy = netlink.create_veth_for(mtu, has_queues=has_queues)
            return xdp_refusal(program_fd, copy, MODE_FLAGS[XdpMode.NATIVE])

    return _in_a_thread(run)


def create_namespace(name: str, *, alias: str = "") -> None:
    """Create a network namespace, like `ip netns add`; a failure leaves no name.

    Its loopback device has that alias before the name exists.
    """

    def run() -> None:
        unshare()  # moves this thread alone
        if alias:
            with Netlink() as inside:
                inside.set_alias(LOOPBACK, alias)
        # `create` of pyroute2 does the same in a process of its own. If that is killed, the caller
        # waits for its answer for ever.
        pyroute2_netns.attach(str(NAMED / name), "thread-self")

    with _errors(f"create the network namespace {name!r}"):
        try:
            _in_a_thread(run)
        except FileExistsError:
            raise
        except BaseException:
            # The file is made first, then the namespace is mounted on it.
            with contextlib.suppress(OSError):
                pyroute2_netns.remove(str(NAMED / name))
            raise


def remove_namespace(name: str) -> None:
    """Remove a name, like `ip netns delete`; the namespace ends with its last process."""
    with _errors(f"remove the network namespace {name!r}"):
        pyroute2_netns.remove(str(NAMED / name))


def _device(message: Any) -> Device:
    return Device(
        ifindex=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
        alias=message.get_attr("IFLA_IFALIAS") or "",
        hardware_address=message.get_attr("IFLA_ADDRESS") or "",
        peer_ifindex=message.get_attr("IFLA_LINK") or 0,
        is_up=message["state"] == "up",
    )


@contextlib.contextmanager
def _errors(
    what: str, refusals: Mapping[int, type[BpfError]] = MappingProxyType({})
) -> Iterator[None]:
    """Turn errors of rtnetlink into ours, with its words; *refusals* has the classes by errno."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        code, words = error.args[:2]
        message = f"cannot {what}: {words}"
        # OSError knows which class an errno belongs to.
        if isinstance(OSError(code, words), PermissionError):
            missing = missing_capabilities("RTM_NEWLINK")  # the same for all requests
            raise PermissionDeniedError(message, missing=missing, errno=code) from None
        raise refusals.get(code, AttachError)(message) from None
