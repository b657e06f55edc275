"""Devices of the kinds that ip(8) makes, each with a way for packets from a lab's peer."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bpfpin.attach.clsact import attach_clsact
from bpfpin.insn import call_helper, exit_, mov_imm
from bpfpin.objects.programs.program import Program
from bpfpin.spec import FunctionSpec, Hook, ProgramSpec
from bpfpin.syscall import netns
from bpfpin.uapi import ProgramType
from support.lab import TestLab

PORT = 9999
_REDIRECT, _INGRESS = 23, 1  # bpf_redirect(), BPF_F_INGRESS (linux/bpf.h)


@dataclass(frozen=True)
class Wire:
    """A device here, and the address in the lab's namespace from which packets come to it."""

    device: str
    lab: TestLab
    address: str  # where the peer sends to

    def send(self, packets: int) -> None:
        """Send *packets* UDP datagrams from the peer; the device receives each of them."""
        with netns.enter(self.lab.lab.netns):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            for _ in range(packets):
                sender.sendto(bytes(32), (self.address, PORT))


def ip(*words: object) -> str:
    """Run a line of iproute2 that must succeed, and return what it writes."""
    command = ["ip", *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result.stdout


def xdp_of(device: str) -> tuple[str, int] | None:
    """Return mode and program id of the device's XDP program, as ip(8) sees them."""
    shown = json.loads(ip("-json", "-details", "link", "show", "dev", device))[0].get("xdp")
    return ({1: "native", 2: "generic"}[shown["mode"]], shown["prog"]["id"]) if shown else None


@contextlib.contextmanager
def link(name: str, kind: str, *options: str, parent: str = "") -> Iterator[str]:
    """Make a device; the test is skipped where the kernel has no such kind."""
    words = ["link", "add", *(("link", parent) if parent else ()), "name", name]
    command = ["ip", *words, "type", kind, *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Unknown device type" in result.stderr:
        pytest.skip(f"this kernel has no {kind} devices")
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    try:
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


@contextlib.contextmanager
def bond(lab: TestLab) -> Iterator[Wire]:
    """A bond over the lab's device, which takes its address."""
    with link("bond7", "bond", "mode", "active-backup") as device:
        ip("link", "set", lab.device, "down")
        ip("link", "set", lab.device, "master", device)
        yield _with_address_of(lab, device)


@contextlib.contextmanager
def bridge(lab: TestLab) -> Iterator[Wire]:
    """A bridge with the lab's device as its port, which takes its address."""
    with link("br7", "bridge") as device:
        ip("link", "set", lab.device, "master", device)
        yield _with_address_of(lab, device)


@contextlib.contextmanager
def vlan(lab: TestLab) -> Iterator[Wire]:
    """VLAN 7 at both ends of the lab."""
    with link("vlan7", "vlan", "id", "7", parent=lab.device) as device:
        ip("address", "add", "10.77.0.1/24", "dev", device)
        ip("link", "set", device, "up")
        there = ("-netns", lab.lab.netns)
        ip(*there, "link", "add", "link", lab.lab.peer, "name", "vlan7", "type", "vlan", "id", "7")
        ip(*there, "address", "add", "10.77.0.2/24", "dev", "vlan7")
        ip(*there, "link", "set", "vlan7", "up")
        yield Wire(device, lab, "10.77.0.1")


@contextlib.contextmanager
def dummy(lab: TestLab) -> Iterator[Wire]:
    """A dummy device: a program at the lab's device hands it all that comes in there.

    It receives nothing by itself, and what act_mirred redirects runs no generic XDP
    (netif_receive_generic_xdp() of net/core/dev.c).
    """
    with link("dummy7", "dummy") as device:
        ip("link", "set", device, "up")
        redirect = (mov_imm(1, socket.if_nametoindex(device)), mov_imm(2, _INGRESS))
        function = FunctionSpec("to_dummy", "tc", (*redirect, call_helper(_REDIRECT), exit_()))
        spec = ProgramSpec("to_dummy", ProgramType.SCHED_CLS, "tc", (function,), license="GPL")
        with (
            Program.load(spec) as program,
            attach_clsact(program, lab.device, Hook.TC_INGRESS),
        ):
            yield Wire(device, lab, lab.host_address)


@contextlib.contextmanager
def wireguard(lab: TestLab) -> Iterator[Wire]:
    """A tunnel through the lab, with an end here and one in its namespace."""
    from pyroute2 import WireGuard  # noqa: PLC0415  (125 ms)

    with link("wg7", "wireguard") as device:
        ip("address", "add", "10.78.0.1/24", "dev", device)
        ip("link", "set", device, "up")
        there = ("-netns", lab.lab.netns)
        ip(*there, "link", "add", "name", "wg7", "type", "wireguard")
        ip(*there, "address", "add", "10.78.0.2/24", "dev", "wg7")
        ip(*there, "link", "set", "wg7", "up")
        with WireGuard() as here:
            with netns.enter(lab.lab.netns):
                peer = WireGuard()
            with peer:
                _join(here, peer, lab)
        yield Wire(device, lab, "10.78.0.1")


def _join(here, peer, lab: TestLab) -> None:  # type: ignore[no-untyped-def]  # pyroute2 has no types
    ports = (51820, 51821)
    for one, port, byte in ((here, ports[0], b"\x11"), (peer, ports[1], b"\x22")):
        one.set("wg7", private_key=_base64(byte * 32), listen_port=port)
    for one, other, address, port, allowed in (
        (here, peer, lab.peer_address, ports[1], "10.78.0.2/32"),
        (peer, here, lab.host_address, ports[0], "10.78.0.1/32"),
    ):
        # The kernel computes the public key of a private one.
        key = other.info("wg7")[0].get_attr("WGDEVICE_A_PUBLIC_KEY")
        one.set(
            "wg7",
            peer={
                "public_key": key.decode() if isinstance(key, bytes) else key,
                "endpoint_addr": address,
                "endpoint_port": port,
                "allowed_ips": [allowed],
            },
        )


def _base64(data: bytes) -> str:
    import base64  # noqa: PLC0415

    return base64.b64encode(data).decode()


def _with_address_of(lab: TestLab, device: str) -> Wire:
    ip("address", "flush", "dev", lab.device)
    ip("address", "add", f"{lab.host_address}/24", "dev", device)
    # The peer has a permanent neighbour: packets for the lab's device are for this one now.
    (shown,) = json.loads(ip("-json", "link", "show", "dev", lab.device))
    ip("link", "set", device, "address", shown["address"])
    ip("link", "set", lab.device, "up")
    ip("link", "set", device, "up")
    return Wire(device, lab, lab.host_address)


@dataclass(frozen=True)
class NetkitPair:
    """A pair of netkit devices: the primary here, its peer in the lab's namespace."""

    primary: str
    peer: str
    lab: TestLab

    def send(self, packets: int) -> None:
        """Send *packets* UDP datagrams from the primary device."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            self._send(sender, packets, "10.79.0.2")

    def send_from_peer(self, packets: int) -> None:
        """Send *packets* UDP datagrams from the peer."""
        with netns.enter(self.lab.lab.netns):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            self._send(sender, packets, "10.79.0.1")

    def _send(self, sender: socket.socket, packets: int, address: str) -> None:
        for _ in range(packets):
            sender.sendto(bytes(32), (address, PORT))


@contextlib.contextmanager
def netkit(lab: TestLab) -> Iterator[NetkitPair]:
    """Make a pair of netkit devices of layer 3, which need no neighbours."""
    with link("primary7", "netkit") as primary:
        (shown,) = json.loads(ip("-json", "link", "show", "dev", primary))
        peer = shown["link"]
        there = ("-netns", lab.lab.netns)
        ip("link", "set", peer, "netns", lab.lab.netns)
        ip("address", "add", "10.79.0.1/24", "dev", primary)
        ip(*there, "address", "add", "10.79.0.2/24", "dev", peer)
        ip("link", "set", primary, "up")
        ip(*there, "link", "set", peer, "up")
        yield NetkitPair(primary, peer, lab)
