"""Throw-away labs for tests: a network namespace with a pair of veth devices into it.

`NAME` is a device of the current namespace whose other end is `veth0` in the namespace NAME, with
addresses on both ends: the environment of the XDP tutorial. Neither end sends anything by itself
(no duplicate address detection, no router solicitation, permanent neighbours instead of ARP), so
counts are exact.

No files keep state: a lab is recognized by the alias of its device, and its namespace by the alias
of the loopback device in it. The namespace comes first and gets its name when it has the alias. The
device is created with its peer in that namespace, which marks it until it has its own alias. So a
`lab up` that is killed leaves nothing that `lab down` does not recognize.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from bpfpin.attach import interface
from bpfpin.attach.netlink import (
    LOOPBACK,
    Device,
    Netlink,
    create_namespace,
    remove_namespace,
)
from bpfpin.errors import AttachError, BusyError, InterfaceNotFoundError, UsageError
from bpfpin.hints import shell_line
from bpfpin.records import dataclass
from bpfpin.syscall import netns
from bpfpin.syscall.signals import signals_deferred

ALIAS = "bpfpin lab"
PEER = "veth0"
_NAME_LIMIT = 15  # IFNAMSIZ of linux/if.h, less the final NUL
_PREFIX_BITS = (24, 64)  # of the IPv4 and the IPv6 address
# The third byte of 10.11.N.0/24 and of the IPv6 network, as in the XDP tutorial.
_NETWORKS = range(1, 255)
PORT: Final = 9  # discard (RFC 863)
_PAYLOAD: Final = bytes(32)
# A burst is small beside the ring of a veth device (VETH_RING_SIZE of drivers/net/veth.c, 256), so
# that none of it is dropped: the demo counts every packet.
_BURST: Final = 10
_PAUSE_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class LabAddresses:
    """The addresses of both ends, IPv4 first, as `ping` takes them."""

    host: tuple[str, ...]
    peer: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab: *device* in the current namespace, *peer* in the namespace *netns*."""

    name: str
    device: str
    netns: str
    peer: str
    addresses: LabAddresses

    def to_json(self) -> dict[str, Any]:
        """Return the lab as `lab up -o json` shows it."""
        fields = dataclasses.asdict(self)
        return {"lab": fields.pop("name"), **fields}


def lab_up(name: str) -> Lab:
    """Create the lab *name*, like `ip netns add` and `ip link add`; a failure leaves nothing.

    Needs CAP_NET_ADMIN and CAP_SYS_ADMIN. `BusyError` if a lab, a device or a namespace of that
    name exists.
    """
    _check_name(name)
    with Netlink() as link, contextlib.ExitStack() as undo:
        _check_free(link, name)
        create_namespace(name, alias=ALIAS)
        undo.callback(remove_namespace, name)
        device = link.create_veth_into(name, name, PEER)
        undo.callback(_delete, link, device)
        link.set_alias(device.ifindex, ALIAS)
        _connect(link, device, name)
        undo.pop_all()
        return _lab(link, device)


def lab_down(name: str) -> None:
    """Delete the lab *name*, its namespace first, or the remains of it.

    A lab is incomplete if a process was killed while it made or deleted it, or if somebody deleted
    its device. `InterfaceNotFoundError` if nothing of that name exists.
    """
    with Netlink() as link:
        device = _find(link, name)
        has_namespace = name in netns.names()
        if device is None and not (has_namespace and _is_lab_namespace(name)):
            raise _no_lab(name, labs())
        # The namespace first: its end takes the peer and so the pair of devices with it.
        if has_namespace:
            remove_namespace(name)
        if device is not None:
            _delete(link, device)


def labs() -> list[Lab]:
    """Return the labs whose device is in the current namespace, sorted by name."""
    with Netlink() as link:
        all_labs = [_lab(link, device) for device in link.devices() if _is_lab(device)]
    return sorted(all_labs, key=lambda lab: lab.name)


def lab_exec(name: str, argv: Sequence[str]) -> int:
    """Run a command in the lab's namespace and return its exit status (128 + N for signal N).

    Only the network namespace changes; /sys and bpffs stay mounted, unlike with `ip netns exec`.
    """
    if name not in [lab.name for lab in labs()]:
        raise _no_lab(name, labs())
    process = None
    try:
        # A signal that arrives meanwhile is handled once there is a process to terminate.
        with signals_deferred(), netns.enter(name):
            process = subprocess.Popen(list(argv))
        status = process.wait()
    except FileNotFoundError:
        raise UsageError(f"no command {argv[0]!r} to run in the lab {name!r}") from None
    except BaseException:  # Ctrl-C, SIGTERM: the command must not outlive this process
        if process is not None:
            process.terminate()
            process.wait()
        raise
    return status if status >= 0 else 128 - status


def _delete(link: Netlink, device: Device) -> None:
    """Delete the device; it is gone already if the kernel has freed its peer's namespace."""
    try:
        link.delete_device(device.ifindex)
    except AttachError:
        # By index and name: the index may belong to a device of another name by now.
        if interface.name_of(device.ifindex) == device.name:
            raise


def _connect(link: Netlink, device: Device, name: str) -> None:
    """Give both ends addresses and permanent neighbours."""
    own, others = (_addresses(_free_number(link), host) for host in (1, 2))
    _configure(link, device.ifindex, own)
    with netns.enter(name), Netlink() as inside:
        inside.set_up(LOOPBACK)
        peer = _named(inside, PEER)
        _configure(inside, peer.ifindex, others)
        for address in own:
            inside.add_neighbour(peer.ifindex, address, device.hardware_address)
    for address in others:
        link.add_neighbour(device.ifindex, address, peer.hardware_address)


def _configure(link: Netlink, ifindex: int, addresses: Sequence[str]) -> None:
    # Before it is up: with a link-local IPv6 address the kernel would solicit routers from that
    # moment on.
    link.set_silent(ifindex)
    link.set_up(ifindex)
    for address, bits in zip(addresses, _PREFIX_BITS, strict=True):
        link.add_address(ifindex, f"{address}/{bits}")


def _addresses(number: int, host: int) -> tuple[str, str]:
    return f"10.11.{number}.{host}", f"fc00:dead:cafe:{number}::{host}"


def _free_number(link: Netlink) -> int:
    """Return the first N for which no device of this namespace has 10.11.N.1."""
    taken = {address for device in link.devices() for address in link.addresses(device.ifindex)}
    for number in _NETWORKS:
        if _addresses(number, 1)[0] not in taken:
            return number
    raise BusyError("all networks from 10.11.1.0/24 to 10.11.254.0/24 are in use", holder="labs")


def _lab(link: Netlink, device: Device) -> Lab:
    return Lab(
        name=device.name,
        device=device.name,
        netns=device.name,
        peer=PEER,
        addresses=LabAddresses(
            host=tuple(link.addresses(device.ifindex)), peer=_peer_addresses(device.name)
        ),
    )


def _peer_addresses(name: str) -> tuple[str, ...]:
    """Return the addresses of the other end; none if the lab is incomplete."""
    if not netns.is_namespace(name):
        return ()
    with netns.enter(name), Netlink() as inside:
        peers = [device for device in inside.devices() if device.name == PEER]
        return tuple(inside.addresses(peers[0].ifindex)) if peers else ()


def _named(link: Netlink, name: str) -> Device:
    return next(device for device in link.devices() if device.name == name)


def _find(link: Netlink, name: str) -> Device | None:
    for device in link.devices():
        if device.name == name and _is_lab(device):
            return device
    return None


def _is_lab(device: Device) -> bool:
    """Whether the device has the mark of a lab, or its peer is in the lab's namespace."""
    if device.alias == ALIAS:
        return True
    if device.kind != "veth" or not netns.is_namespace(device.name):
        return False
    with netns.enter(device.name), Netlink() as inside:
        peers = [end for end in inside.devices() if end.peer_ifindex == device.ifindex]
        return inside.device(LOOPBACK).alias == ALIAS and PEER in [end.name for end in peers]


def _is_lab_namespace(name: str) -> bool:
    """Whether the namespace belongs to a lab, or is only the file that a killed process left."""
    # `ip netns add` makes a file and mounts the namespace on it. A file without a mount is left if
    # it was killed in between.
    if not netns.is_namespace(name):
        return True
    with netns.enter(name), Netlink() as inside:
        return inside.device(LOOPBACK).alias == ALIAS


def _no_lab(name: str, present: Sequence[Lab]) -> InterfaceNotFoundError:
    listed = ", ".join(lab.name for lab in present) or "none"
    return InterfaceNotFoundError(
        f"no lab {name!r}; labs that are up: {listed}", hint=shell_line("bpfpin lab up", name)
    )


def _check_name(name: str) -> None:
    # The kernel refuses `/`, `:` and spaces in names of devices (dev_valid_name() of
    # net/core/dev.c). `%` and `~` have a meaning in the names of sets.
    legal = name and len(os.fsencode(name)) <= _NAME_LIMIT and name not in {".", "..", "lo"}
    if not legal or any(not char.isprintable() or char in " /:%~" for char in name):
        raise UsageError(
            f"{name!r} cannot name a lab: it becomes a device and a namespace, so 1 to"
            f" {_NAME_LIMIT} bytes without space, slash, colon, tilde and per cent"
        )


def _down_line(name: str) -> str:
    return shell_line("bpfpin lab down", name)


def _check_free(link: Netlink, name: str) -> None:
    for device in link.devices():
        if device.name == name:
            is_ours = _is_lab(device)
            what = "a lab" if is_ours else f"a device ({device.kind or 'hardware'})"
            down = _down_line(name) if is_ours else "choose another name"
            raise BusyError(f"there is {what} {name!r} already", holder=what, hint=down)
    if name in netns.names():
        is_ours = _is_lab_namespace(name)
        what = "what is left of a lab" if is_ours else "a network namespace"
        raise BusyError(
            f"there is {what} {name!r} already",
            holder=what,
            hint=_down_line(name) if is_ours else "choose another name",
        )


@dataclass(slots=True)
class Traffic:
    """The number of packets sent so far."""

    sent: int = 0


@contextmanager
def traffic(lab: Lab) -> Iterator[Traffic]:
    """Send some thousand UDP packets a second to the lab's device while the block runs."""
    counter, done = Traffic(), threading.Event()
    with netns.enter(lab.netns):
        # Created inside; the thread below sends from there without entering the namespace.
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        arguments = (sender, lab.addresses.host[0], counter, done)
        thread = threading.Thread(target=_send, args=arguments)
        thread.start()
        try:
            yield counter
        finally:
            done.set()
            thread.join()


def _send(sender: socket.socket, address: str, counter: Traffic, done: threading.Event) -> None:
    while not done.wait(_PAUSE_S):
        for _ in range(_BURST):
            sender.sendto(_PAYLOAD, (address, PORT))
            counter.sent += 1
