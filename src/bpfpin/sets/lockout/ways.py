"""Ways that must not be cut: the default route and the user's SSH session, and their packets."""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Final, Self

from bpfpin.attach import interface, routes
from bpfpin.attach.routes import InterfaceAddress, NetDevice, Underlay
from bpfpin.hints import Argument, Fix
from bpfpin.records import dataclass
from bpfpin.sets.lockout import packets as probes
from bpfpin.sets.lockout.packets import (
    HIGH_PORT,
    SSH_PORT,
    Address,
    Direction,
    Flow,
    Packet,
    Segment,
    Tunnel,
)

PROC: Final = Path("/proc")
WAY_BACK: Final = Fix.of(
    "give a way back, which comes by itself unless you confirm: ",
    Argument("confirm_s", 30),
    "; or mean it: ",
    Argument("force"),
)
_VARIABLE = b"SSH_CONNECTION="
_WORDS: Final = 4  # client address and port, then ours
_DEPTH_MAX: Final = 64  # ancestors of a process
_SSHD: Final = "sshd"  # also sshd-session and sshd-auth, as OpenSSH 9.8 splits it
_ESTABLISHED: Final = "01"
# Hosts of both halves of the Internet; nothing is ever sent to them.
_OUTSIDE: Final = tuple(
    map(ip_address, ("8.8.8.8", "193.0.6.139", "2001:4860:4860::8888", "2a01:4f8:0:1::1"))
)
_INNER_PROTOCOLS: Final = {4: 4, 6: 41}  # IPv4 in IP, IPv6 in IP
# For a host that has no address of a family yet.
_OURS: Final = (IPv4Address("198.18.0.1"), IPv6Address("2001:2::1"))


@dataclass(frozen=True, slots=True)
class SshSession:
    """An SSH session as sshd reports it: the client, and the address of this host.

    *is_own* says that this process was started in it.
    """

    client: str
    address: Address
    client_port: int = field(default=HIGH_PORT, compare=False)
    port: int = field(default=SSH_PORT, compare=False)
    is_own: bool = True

    @property
    def peer(self) -> Address | None:
        """The client's address, None if sshd reports none of the same family."""
        with suppress(ValueError):
            peer = _unmapped(ip_address(self.client.partition("%")[0]))
            return peer if peer.version == self.address.version else None
        return None

    @property
    def zone(self) -> str:
        """The device of a link-local address, "" for any other address."""
        return self.client.partition("%")[2]

    @property
    def flow(self) -> Flow | None:
        """The connection, None if the client's address is not known."""
        peer = self.peer
        return Flow(self.address, self.port, peer, self.client_port) if peer else None

    def __str__(self) -> str:
        return f"{'your' if self.is_own else 'an'} ssh session from {self.client}"


@dataclass(frozen=True, slots=True)
class Way:
    """A use of a device: packets of a flow, of a tunnel, or of any host."""

    segment: Segment
    flow: Flow | None = None
    tunnel: Tunnel | None = None
    locals: tuple[Address, ...] = ()
    is_loop: bool = False

    def packets(
        self, direction: Direction, *, has_tags: bool = False, has_ethernet: bool = False
    ) -> list[Packet]:
        """Return test packets that have to pass; on a loopback device those of both directions.

        With *has_ethernet* they have Ethernet headers on any device.

        The kernel removes VLAN tags before any hook but XDP, and many drivers do so even before
        XDP: with *has_tags* the packets come with tags and without.
        """
        has_ethernet = has_ethernet or self.segment.has_ethernet
        plain = replace(self, segment=replace(self.segment, vlans=(), has_ethernet=has_ethernet))
        ways = (self, plain) if has_tags and self.segment.vlans else (plain,)
        directions = Direction if self.is_loop else (direction,)
        return [
            packet for way in ways for towards in directions for packet in way._packets(towards)
        ]

    def _packets(self, direction: Direction) -> list[Packet]:
        if self.tunnel is not None:
            return [
                *self._neighbours(self.tunnel.local, direction),
                *probes.of_tunnel(self.tunnel, self.segment, direction),
            ]
        if self.flow is not None:
            return [
                *self._neighbours(self.flow.local, direction),
                *probes.of_flow(self.flow, self.segment, direction),
            ]
        return probes.of_hosts(self.locals, self.segment, _OUTSIDE, direction)

    def _neighbours(self, local: Address, direction: Direction) -> list[Packet]:
        hops = [hop for hop in self.segment.next_hops if hop.version == local.version]
        return [
            packet
            for hop in hops
            for packet in probes.of_neighbours(local, hop, self.segment, direction)
        ]


@dataclass(frozen=True, slots=True)
class Danger:
    """The connections that a device or a cgroup carries, in words; false if there are none."""

    reasons: tuple[str, ...] = ()
    ways: tuple[Way, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def __str__(self) -> str:
        return " and ".join(self.reasons)

    def within(self, network: IPv4Network | IPv6Network) -> Self:
        """Return the ways that are left if only packets to *network* can be cut."""
        # Ways without a flow are those of the default route, to any host.
        ways = tuple(
            way
            for way in self.ways
            if (way.flow.peer in network if way.flow else not network.prefixlen)
        )
        return type(self)(self.reasons, ways) if ways else type(self)()

    @property
    def has_ethernet(self) -> bool:
        """Whether packets have Ethernet headers there."""
        return all(way.segment.has_ethernet for way in self.ways)

    def packets(
        self, direction: Direction, *, has_tags: bool = False, has_ethernet: bool = False
    ) -> list[Packet]:
        """Return test packets of all ways, as a hook of that direction sees them."""
        packets = (
            packet
            for way in self.ways
            for packet in way.packets(direction, has_tags=has_tags, has_ethernet=has_ethernet)
        )
        return list(probes.once(packets))


def danger_of(device: str | int) -> Danger:
    """Return the danger of cutting *device* (name or ifindex) in the current network namespace.

    A device may carry the default route, and the SSH session in which this process was started, or
    without such a session any connection of an sshd. `sudo` hides the session, so the environment
    of every ancestor is read. The devices below a VLAN, bond, bridge or tunnel carry its packets,
    too. `InterfaceNotFoundError` if the device does not exist.
    """
    view = _View.now()
    carried = list(view.carried_by(interface.ifindex(device)))
    defaults = {way.ifindex for way in view.defaults}
    reasons, ways = [], []
    if any(upper.device.ifindex in defaults for upper in carried):
        reasons.append("the default route")
    for session in _sessions():
        indexes = view.devices_of(session)
        fitting = [upper for upper in carried if upper.device.ifindex in indexes]
        if fitting:
            reasons.append(str(session))
            ways += [view.way(upper, session) for upper in fitting]
    if not ways:  # otherwise the packets of the session are enough
        ways = [view.way(upper) for upper in carried if upper.device.ifindex in defaults]
    return Danger(tuple(dict.fromkeys(reasons)), tuple(dict.fromkeys(ways)))


def danger_of_cgroup(path: str) -> Danger:
    """Return the danger of cutting the sockets of cgroup *path* (`/web`).

    A cgroup may have the processes of an SSH session; the root of all cgroups carries the default
    route as well.
    """
    view = _View.now()
    sessions = [session for session in _sessions() if view.devices_of(session)]
    pids = [*_ancestors(PROC), *(pid for pid, _ in _sshd_processes(PROC))]
    # Not init: it is an ancestor of everything, and its cgroup tells nothing about a session.
    is_inside = any(_is_in_cgroup(PROC / str(pid), path) for pid in pids if pid > 1)
    is_root = path.strip("/") == ""
    reasons = [str(session) for session in sessions] if is_inside or is_root else []
    if is_root and view.defaults:
        reasons.insert(0, "the default route")
    segment = Segment(has_neighbours=False)
    if not reasons:
        return Danger()
    flows = [Way(segment, session.flow) for session in sessions if session.flow]
    return Danger(tuple(dict.fromkeys(reasons)), tuple(flows) or (view.anybody(segment, None),))


def anybody() -> list[Packet]:
    """Return incoming packets of arbitrary hosts, of both families."""
    hops = tuple(_beside(address) for address in _OURS)
    return probes.of_hosts(_OURS, Segment(next_hops=hops), _OUTSIDE, Direction.IN)


@dataclass(frozen=True, slots=True)
class _Carried:
    """A device whose packets go through *lower*: directly, in VLANs, or in a tunnel."""

    device: NetDevice
    lower: NetDevice
    vlans: tuple[int, ...] = ()
    underlay: Underlay | None = None


@dataclass(frozen=True)
class _View:
    """The devices, addresses and default routes of the current network namespace."""

    devices: Mapping[int, NetDevice]
    addresses: tuple[InterfaceAddress, ...]
    defaults: tuple[routes.Route, ...]

    @classmethod
    def now(cls) -> _View:
        return cls(routes.devices(), tuple(routes.addresses()), tuple(routes.default_routes()))

    def carried_by(self, ifindex: int) -> Iterator[_Carried]:
        """Yield the device itself and all devices above it; it is the *lower* of each."""
        above: defaultdict[int, list[tuple[int, Underlay | None]]] = defaultdict(list)
        # A device can be below several (VLANs) and above several (a bond), so this is a graph and
        # not a chain.
        for below, stacked in routes.stacked(self.devices):
            above[below].append((stacked, None))
        for device in self.devices.values():
            for underlay in routes.underlays(device, self.devices):
                above[underlay.ifindex].append((device.ifindex, underlay))
        bottom = self.devices.get(ifindex)
        queue = [_Carried(bottom, bottom)] if bottom else []
        visited = {ifindex}
        while queue:
            here = queue.pop(0)
            yield here
            for index, tunnel in above[here.device.ifindex]:
                if index in visited or index not in self.devices:
                    continue
                visited.add(index)
                upper = self.devices[index]
                # Inside of a tunnel, tags are part of the payload, which the device below does not
                # look at.
                vlan = routes.vlan_of(upper) if here.underlay is None else None
                vlans = (*here.vlans, vlan) if vlan is not None else here.vlans
                queue.append(_Carried(upper, here.lower, vlans, here.underlay or tunnel))

    def devices_of(self, session: SshSession) -> set[int]:
        """Return the ifindexes of the devices that the packets of a session pass.

        Empty if its address is not in this namespace.
        """
        at = {own.ifindex for own in self.addresses if own.address == session.address}
        if not at:
            return set()
        if session.zone:
            zone = session.zone
            return {device.ifindex for device in self.devices.values() if device.name == zone}
        # Asked of the kernel with both addresses, since rules may route by the source address.
        way = routes.route_to(session.peer, session.address) if session.peer else None
        if way is not None and self._is_loop(way.ifindex):
            return {way.ifindex}  # from this host to itself: whichever device has the address
        out = {way.ifindex} if way else set()
        # Packets may come in at another device than they leave by; the address need not be on
        # either of them.
        return (out | {ifindex for ifindex in at if not self._is_loop(ifindex)}) or at

    def way(self, carried: _Carried, session: SshSession | None = None) -> Way:
        """Return the way of *session* through the lower device; without one, of any host."""
        lower, underlay = carried.lower, carried.underlay
        segment = Segment(
            (carried.device if underlay is None else lower).mac,
            carried.vlans,
            lower.mtu or 1500,
            has_ethernet=lower.has_ethernet,
            has_neighbours=lower.has_neighbours,
            next_hops=self._hops(carried, session),
        )
        if underlay is not None:
            if underlay.peer is None:
                return self.anybody(segment, carried)
            local = underlay.local or self._local(underlay.peer.version, lower.ifindex)
            ports = underlay.local_port, underlay.peer_port
            protocols, has_limit = underlay.protocols, underlay.has_limit
            if session is not None:
                # A tunnel in mode `any` carries one session by one of its protocols.
                inner = _INNER_PROTOCOLS[session.address.version]
                protocols = (inner,) if inner in protocols else protocols
            tunnel = Tunnel(local, underlay.peer, protocols, *ports, has_limit=has_limit)
            return Way(segment, tunnel=tunnel)
        if session is None or session.flow is None:
            return self.anybody(segment, carried)
        return Way(segment, session.flow, is_loop=lower.is_loopback)

    def anybody(self, segment: Segment, carried: _Carried | None) -> Way:
        """Return the way of arbitrary hosts, in both families."""
        upper = 0
        if carried is not None:
            upper = (carried.lower if carried.underlay else carried.device).ifindex
        families = (4, 6) if _has_ipv6() else (4,)
        return Way(segment, locals=tuple(self._local(family, upper) for family in families))

    def _hops(self, carried: _Carried, session: SshSession | None) -> tuple[Address, ...]:
        """Return the neighbours of the lowest device that packets go through."""
        upper = (carried.lower if carried.underlay else carried.device).ifindex
        target = carried.underlay.peer if carried.underlay else session.peer if session else None
        if target is not None:
            way = routes.route_to(target)
            # Without a gateway the target is on the link, and its own address is asked for by ARP.
            return ((way.gateway if way else None) or target,)
        gateways = [way.gateway for way in self.defaults if way.ifindex == upper and way.gateway]
        missing = {4, 6} - {gateway.version for gateway in gateways}
        if not _has_ipv6():
            missing -= {6}
        return (*gateways, *(_beside(self._local(family, upper)) for family in sorted(missing)))

    def _local(self, family: int, ifindex: int) -> Address:
        """Return an address of this host: preferably of the device, and not link-local."""
        usable = [
            own
            for own in self.addresses
            if own.address.version == family and not own.address.is_loopback
        ]
        usable.sort(key=lambda own: (own.ifindex != ifindex, own.address.is_link_local))
        return usable[0].address if usable else _OURS[family == 6]

    def _is_loop(self, ifindex: int) -> bool:
        device = self.devices.get(ifindex)
        return device is not None and device.is_loopback


def _sessions() -> list[SshSession]:
    """Return the user's own sessions; the sessions of all users if none of these is still open.

    A process that was started in a session, such as tmux, keeps its environment after its end.
    """
    own, established = ssh_sessions(), sshd_connections()

    def ends(session: SshSession) -> tuple[object, ...]:
        return session.client, session.client_port, session.address, session.port

    if set(map(ends, own)) & set(map(ends, established)):
        return own
    return [*own, *established]


def ssh_sessions(proc: Path = PROC) -> list[SshSession]:
    """Return the SSH sessions in the environments of this process and its ancestors."""
    texts = (text for pid in _ancestors(proc) for text in _variables(proc / str(pid)))
    return list(dict.fromkeys(session for session in map(_session, texts) if session is not None))


def sshd_connections(proc: Path = PROC) -> list[SshSession]:
    """Return the established connections of all sshd, in the current network namespace.

    They are used for a process without a session in its environment: in tmux or screen, or started
    by a service.
    """
    sockets = {inode for _, process in _sshd_processes(proc) for inode in _sockets(process)}
    if not sockets:
        return []
    sessions = []
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            # setns() moves the calling thread alone, while /proc/self shows the main thread.
            for line in (proc / "thread-self" / "net" / table).read_text().splitlines()[1:]:
                words = line.split()
                # The fourth field is the state, the tenth the inode (get_tcp4_sock() of
                # net/ipv4/tcp_ipv4.c).
                if words[3] == _ESTABLISHED and words[9] in sockets:
                    local, peer = (_socket_address(words[index]) for index in (1, 2))
                    client, port = str(peer[0]), local[1]
                    sessions.append(SshSession(client, local[0], peer[1], port, is_own=False))
    return list(dict.fromkeys(sessions))


def _sshd_processes(proc: Path) -> Iterator[tuple[int, Path]]:
    for name in sorted(os.listdir(proc)):  # noqa: PTH208  (names, not paths)
        if name.isdigit():
            with suppress(OSError):
                if (proc / name / "comm").read_text().startswith(_SSHD):
                    yield int(name), proc / name


def _sockets(process: Path) -> Iterator[str]:
    """Yield the inodes of the sockets that a process has open."""
    with suppress(OSError):
        for fd in os.listdir(process / "fd"):  # noqa: PTH208  (names, not paths)
            with suppress(OSError):
                target = os.readlink(process / "fd" / fd)  # noqa: PTH115  (no path)
                if target.startswith("socket:["):
                    yield target[len("socket:[") : -1]


def _socket_address(text: str) -> tuple[Address, int]:
    """Parse `0100007F:0016` of /proc/net/tcp: words of 32 bits in the host's byte order."""
    address, _, port = text.partition(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    return _unmapped(ip_address(struct.pack(f"={len(words)}I", *words))), int(port, 16)


def _unmapped(address: Address) -> Address:
    # A socket that listens on `::` has IPv4 clients as `::ffff:192.0.2.1` (RFC 4291, 2.5.5.2).
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _ancestors(proc: Path) -> Iterator[int]:
    pid = os.getpid()
    # Processes may end and start while this reads, so the chain of parents need not end by itself.
    for _ in range(_DEPTH_MAX):
        if pid <= 0:
            return
        yield pid
        try:
            # The name, in parentheses, may have anything in it, spaces and parentheses too.
            pid = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return


def _variables(process: Path) -> Iterator[str]:
    # The kernel shows the environment at exec(); that of this process may have changed since.
    if process.name == str(os.getpid()) and "SSH_CONNECTION" in os.environ:
        yield os.environ["SSH_CONNECTION"]
    with suppress(OSError):
        for variable in (process / "environ").read_bytes().split(b"\0"):
            if variable.startswith(_VARIABLE):
                yield os.fsdecode(variable.removeprefix(_VARIABLE))


def _session(text: str) -> SshSession | None:
    """Parse `CLIENT PORT ADDRESS PORT`, as sshd writes it; None for anything else."""
    words = text.split()
    if len(words) != _WORDS:
        return None
    with suppress(ValueError):
        address = _unmapped(ip_address(words[2].partition("%")[0]))
        client_port, port = int(words[1]), int(words[3])
        if {client_port, port} <= set(range(1 << 16)):
            return SshSession(words[0], address, client_port, port)
    return None


def _is_in_cgroup(process: Path, path: str) -> bool:
    """Whether a process is in the cgroup *path*, or in one below it."""
    with suppress(OSError):
        for line in (process / "cgroup").read_text().splitlines():
            # The line of cgroup v2; those of v1 begin with another number (cgroups(7)).
            if line.startswith("0::"):
                own = line.removeprefix("0::").rstrip("/")
                return f"{own}/".startswith(f"{path.rstrip('/')}/")
    return False


def _beside(address: Address) -> Address:
    """Return the address of a neighbour."""
    return ip_address((int(address) ^ 1).to_bytes(len(address.packed), "big"))


def _has_ipv6() -> bool:
    return (PROC / "thread-self" / "net" / "if_inet6").exists()
