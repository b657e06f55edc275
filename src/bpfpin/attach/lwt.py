"""Lightweight tunnels: programs on a route, like `ip route … encap bpf`.

A route has no link: it outlives every process, and the kernel replaces it without comparing
(RTM_NEWROUTE). It does not report the ids of the programs, only the names that they were attached
with; ours have the id in them. The messages are those of ip(8), sent without pyroute2: a route is
written as the kernel reported it, with every attribute, but for its programs.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, Self

from bpfpin.attach import interface as interfaces
from bpfpin.attach.devices import DeviceRow
from bpfpin.attach.order import require_type
from bpfpin.attach.registry import (
    AttachOptions,
    HookCode,
    HookTarget,
    NewAttachment,
    RememberedHook,
    RunningProgram,
)
from bpfpin.choices import similar
from bpfpin.errors import (
    AttachError,
    HookBusyError,
    IdNotFoundError,
    ProgramChangedError,
    TargetNotFoundError,
    UsageError,
)
from bpfpin.hooks import HeldBy, Hook
from bpfpin.objects.link import LinklessAttachment
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.syscall.rtnetlink import (
    RequestFlag,
    RouteCommand,
    attribute,
    attributes,
    request,
)

_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # rtmsg of linux/rtnetlink.h
_U16, _U32 = struct.Struct("=H"), struct.Struct("=I")
# RTA_* of linux/rtnetlink.h.
_DST, _OIF, _GATEWAY, _PRIORITY, _MULTIPATH, _CACHEINFO, _TABLE = 1, 4, 5, 6, 9, 12, 15
_ENCAP_TYPE, _ENCAP, _NH_ID = 21, 22, 30
_BPF: Final = 6  # LWTUNNEL_ENCAP_BPF of linux/lwtunnel.h
# LWT_BPF_* of the same header.
_PARTS: Final = {Hook.LWT_IN: 1, Hook.LWT_OUT: 2, Hook.LWT_XMIT: 3}
_PROGRAM_FD, _PROGRAM_NAME = 1, 2
_UNICAST: Final = 1  # RTN_UNICAST
_MAIN: Final = 254  # RT_TABLE_MAIN
_FROM_ROUTER: Final = 9  # RTPROT_RA: made of router advertisements
_CLONED: Final = 0x200  # RTM_F_CLONED: an entry of a cache
_ONLINK: Final = 4  # RTNH_F_ONLINK: the only flag that a user sets
_FAMILIES: Final = {4: 2, 6: 10}  # AF_INET, AF_INET6
_NESTED: Final = 0x8000  # NLA_F_NESTED
_WORDS: Final = ("dev", "via", "metric", "table")
_ID: Final = re.compile(r"id ([0-9]{1,10})")
# The program of a route that somebody else attached: its id is not known.
UNKNOWN_ID: Final = (1 << 32) - 1

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """The words that choose a route: its destination, and more if several have that.

    Attributes:
        network: The destination.
        device: The name of the device, "" for any.
        gateway: The next hop, None for any.
        metric: The metric, None for any.
        table: The number of the routing table.
    """

    network: Network
    device: str = ""
    gateway: Address | None = None
    metric: int | None = None
    table: int = _MAIN

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse *text*: `10.1.0.0/24`, or `default,dev=eth0`.

        Blanks are taken for commas, as in ip(8): `10.1.0.0/24 dev eth0`.
        """
        first, *others = re.split(r"[\s,=]+", text.strip())
        words = dict(zip(others[::2], others[1::2], strict=False))
        if len(others) % 2 or len(words) != len(others) // 2 or not set(words) <= set(_WORDS):
            raise UsageError(
                f"{text!r} is not a route: it is a destination, and after it"
                f" {', '.join(f'{word}=…' for word in _WORDS)} as far as needed"
            )
        try:
            gateway = ipaddress.ip_address(words["via"]) if "via" in words else None
            family = "::/0" if gateway is not None and gateway.version == 6 else "0.0.0.0/0"
            network = ipaddress.ip_network(family if first == "default" else first)
            metric = int(words["metric"]) if "metric" in words else None
            table = int(words.get("table", _MAIN))
        except ValueError as error:
            raise UsageError(f"{text!r} is not a route: {error}") from None
        return cls(network, words.get("dev", ""), gateway, metric, table)


@dataclass(frozen=True, slots=True)
class HostRoute:
    """A route as the kernel reports it: the message's *header* and its *fields*."""

    header: tuple[int, ...]
    fields: Mapping[int, bytes]

    @property
    def network(self) -> Network:
        """The destination."""
        length = 4 if self.header[0] == _FAMILIES[4] else 16
        packed = self.fields.get(_DST, bytes(length))
        return ipaddress.ip_network((packed, self.header[1]))

    @property
    def table(self) -> int:
        """The routing table."""
        return _number(self.fields.get(_TABLE), self.header[4])

    @property
    def metric(self) -> int:
        """The metric: of routes to one destination, the lowest is taken."""
        return _number(self.fields.get(_PRIORITY))

    @property
    def device(self) -> str:
        """The name of the device that the packets leave by."""
        return interfaces.name_of(_number(self.fields.get(_OIF)))

    @property
    def ifindex(self) -> int:
        """The index of that device."""
        return _number(self.fields.get(_OIF))

    @property
    def gateway(self) -> Address | None:
        """The next hop."""
        packed = self.fields.get(_GATEWAY)
        return ipaddress.ip_address(packed) if packed else None

    @property
    def encapsulation(self) -> int:
        """The number of its kind of tunnel, 0 for none."""
        packed = self.fields.get(_ENCAP_TYPE)
        return int(_U16.unpack(packed)[0]) if packed else 0

    @property
    def programs(self) -> dict[Hook, str]:
        """The names that its programs were attached with."""
        if self.encapsulation != _BPF:
            return {}
        parts = attributes(self.fields.get(_ENCAP, b""))
        names = {hook: attributes(parts[part]) for hook, part in _PARTS.items() if part in parts}
        return {
            hook: fields.get(_PROGRAM_NAME, b"").rstrip(b"\0").decode(errors="replace")
            for hook, fields in names.items()
        }

    def program_id(self, hook: Hook) -> int:
        """Return the id of the program at *hook*, 0 for none."""
        name = self.programs.get(hook)
        if name is None:
            return 0
        known = _ID.search(name)
        return int(known[1]) if known else UNKNOWN_ID

    def is_chosen_by(self, target: RouteTarget) -> bool:
        """Whether the words of *target* choose this route."""
        return (
            self.network == target.network
            and self.table == target.table
            and target.device in ("", self.device)
            and target.gateway in (None, self.gateway)
            and target.metric in (None, self.metric)
        )

    def is_twin(self, other: HostRoute) -> bool:
        """Whether the kernel may take the one for the other when it replaces a route."""
        # fib_table_insert() of net/ipv4/fib_trie.c compares destination, TOS and metric;
        # fib6_add_rt2node() of net/ipv6/ip6_fib.c destination and metric.
        own, others = (
            (each.network, each.table, each.metric, each.header[3]) for each in (self, other)
        )
        return own == others

    def body(self, programs: Mapping[Hook, Program]) -> bytes:
        """Return the message that makes this route run *programs*, and no others."""
        family, length, *rest, flags = self.header
        message = _ROUTE.pack(family, length, *rest, flags & _ONLINK)
        left_out = (_CACHEINFO, _ENCAP, _ENCAP_TYPE)
        fields = {kind: each for kind, each in self.fields.items() if kind not in left_out}
        message += b"".join(attribute(kind, each) for kind, each in fields.items())
        if not programs:
            return message
        parts = (
            attribute(_PARTS[hook] | _NESTED, _program(programs[hook]))
            for hook in _PARTS
            if hook in programs
        )
        message += attribute(_ENCAP_TYPE, _U16.pack(_BPF))
        return message + attribute(_ENCAP | _NESTED, b"".join(parts))

    def __str__(self) -> str:
        words = [str(self.network) if self.header[1] else "default"]
        words += [f"via={self.gateway}"] if self.gateway else []
        words += [f"dev={self.device}"] if self.device else []
        words += [f"metric={self.metric}"] if self.metric else []
        words += [f"table={self.table}"] if self.table != _MAIN else []
        return ",".join(words)


def _program(program: Program) -> bytes:
    # With the id in it: the kernel does not report ids. Without another name it would take the
    # route for the same and keep the old program (bpf_encap_cmp() of net/core/lwt_bpf.c).
    name = f"{program.name} id {program.id}".encode() + b"\0"
    return attribute(_PROGRAM_FD, _U32.pack(program.fd)) + attribute(_PROGRAM_NAME, name)


def _number(packed: bytes | None, default: int = 0) -> int:
    return int(_U32.unpack(packed)[0]) if packed else default


def routes(family: int = 0) -> list[HostRoute]:
    """Return the unicast routes of the current network namespace, of one address family or all."""
    body = _ROUTE.pack(family, *bytes(7), 0)
    answers = request(RouteCommand.GETROUTE, body, flags=RequestFlag.DUMP, target="routes")
    unpacked = [
        HostRoute(_ROUTE.unpack_from(answer), attributes(answer[_ROUTE.size :]))
        for answer in answers
    ]
    return [
        route
        for route in unpacked
        if route.header[0] in _FAMILIES.values()
        and route.header[7] == _UNICAST
        and not route.header[8] & _CLONED
    ]


class LwtRoute(LinklessAttachment):
    """A route that runs a program, at one of the three hooks of a lightweight tunnel.

    It stays when the process ends: `close` does nothing, `detach` or the end of `with` makes the
    route as it was before.
    """

    def __init__(
        self, hook: Hook, target: RouteTarget, *, expected_id: int = 0, ifindex: int = 0
    ) -> None:
        """Open the attachment at a route of the current network namespace.

        Args:
            hook: `Hook.LWT_IN`, `Hook.LWT_OUT` or `Hook.LWT_XMIT`.
            target: The words that choose the route.
            expected_id: The id of the program that `detach` removes. Default: any that is known.
            ifindex: The index of the route's device, which may have been renamed. Default: as
                *target* says.
        """
        self._hook = hook
        self._target = replace(target, device="") if ifindex else target
        self._ifindex = ifindex
        self._expected_id = expected_id

    @property
    def hook(self) -> Hook:
        """LWT_IN, LWT_OUT or LWT_XMIT."""
        return self._hook

    def program_id(self) -> int:
        """Return the id of the program that the route runs now.

        Returns:
            The id; 0 if there is none, or no such route; 2**32 - 1 for a program that somebody else
            attached, of which the kernel does not tell the id.

        Kernel: RTM_GETROUTE.
        """
        route = self._route()
        return route.program_id(self._hook) if route else 0

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        """Run another program from the next packet on.

        Args:
            program: The program to run, of the same type.
            expected_old: The program that has to run now; None for any.

        Raises:
            ProgramChangedError: Another program than *expected_old* runs, or the route is gone.

        Kernel: RTM_NEWROUTE with NLM_F_REPLACE, which does not compare: the program is read before
            and afterwards.
        """
        route = self._route()
        running = route.program_id(self._hook) if route else 0
        if route is None or (expected_old is not None and running != expected_old.id):
            raise self._changed(running)
        _replace(route, self._hook, program)
        self._expected_id = program.id
        if (after := self.program_id()) != program.id:
            raise self._changed(after)

    def detach(self) -> None:
        """Make the route run the program no more. Does nothing if the route is gone.

        Raises:
            ProgramChangedError: The route runs another program than ours.

        Kernel: RTM_NEWROUTE with NLM_F_REPLACE.
        """
        route = self._route()
        running = route.program_id(self._hook) if route else 0
        if route is None or not running:
            return
        if running == UNKNOWN_ID or self._expected_id not in (0, running):
            raise self._changed(running)
        _replace(route, self._hook, None)

    def _route(self) -> HostRoute | None:
        """Return the route that the words choose: of several, the one with a program here."""
        existing = routes(_FAMILIES[self._target.network.version])
        matching = [
            route
            for route in existing
            if route.is_chosen_by(self._target) and self._ifindex in (0, route.ifindex)
        ]
        running = [route for route in matching if route.program_id(self._hook)]
        route = next(iter(running or matching), None)
        if route and sum(route.is_twin(other) for other in existing) > 1:
            raise ProgramChangedError(
                f"somebody added a second route {route}, and the kernel cannot tell the two apart",
                holder=str(route),
                hint=f"give it another metric: ip route show {route.network}",
            )
        return route

    def _changed(self, running: int) -> ProgramChangedError:
        state = f"runs {_shown_id(running)}" if running else "runs none"
        return ProgramChangedError(
            f"{self._hook.value} of the route {self._target.network} {state};"
            f" program id {self._expected_id} was expected",
            holder=_shown_id(running) if running else "",
        )


def _shown_id(program_id: int) -> str:
    return "another program" if program_id == UNKNOWN_ID else f"program id {program_id}"


def _replace(route: HostRoute, hook: Hook, program: Program | None) -> None:
    """Make *route* run *program* at *hook*, or none there; its other programs stay."""
    with ExitStack() as opened:
        programs: dict[Hook, Program] = {}
        # The kernel takes all programs of a route at once.
        for other in set(route.programs) - {hook}:
            program_id = route.program_id(other)
            if program_id == UNKNOWN_ID:
                raise _foreign(route, other)
            programs[other] = opened.enter_context(Program.from_id(program_id))
        if program is not None:
            programs[hook] = program
        flags, target = RequestFlag.REPLACE, f"route {route}"
        try:
            # Without NLM_F_CREATE: a route that was removed stays removed.
            request(RouteCommand.NEWROUTE, route.body(programs), flags=flags, target=target)
        except IdNotFoundError:
            raise AttachError(f"the route {route} is gone") from None


def _foreign(route: HostRoute, hook: Hook) -> HookBusyError:
    name = route.programs[hook]
    return HookBusyError(
        f"{hook.value} of the route {route} runs {name or 'a program'}, which somebody else"
        " attached",
        holder=name,
        hint=f"see it: ip route show {route.network}",
    )


def find_route(text: str) -> HostRoute:
    """Return the route of the current network namespace that *text* chooses.

    Raises:
        TargetNotFoundError: There is none; the hint has those that are most like it.
        UsageError: There are several, or programs cannot be put on that route.
    """
    target = RouteTarget.parse(text)
    existing = routes(_FAMILIES[target.network.version])
    matching = [route for route in existing if route.is_chosen_by(target)]
    if not matching:
        words = [str(route) for route in existing if route.table == target.table]
        near = similar(text, words, cutoff=0.3) or words[:5]
        listed = "; ".join(near)
        raise TargetNotFoundError(
            f"there is no route {text!r} in this network namespace",
            hint=f"there are: {listed}" if listed else "see: ip route",
        )
    if len(matching) > 1:
        raise UsageError(
            f"{len(matching)} routes are {text!r}",
            hint=f"say which: {'; '.join(map(str, matching))}",
        )
    (route,) = matching
    twins = [other for other in existing if other.is_twin(route)]
    if reason := _refusal(route, is_alone=len(twins) == 1):
        raise UsageError(f"no program can be put on the route {route}: {reason}")
    return route


def _refusal(route: HostRoute, *, is_alone: bool) -> str:
    """Return why a route cannot be replaced by one with a program, "" if it can."""
    if _MULTIPATH in route.fields:
        return "it has several next hops"
    if _NH_ID in route.fields:
        return "its next hop is an object of its own (ip nexthop)"
    if route.header[5] == _FROM_ROUTER:
        return "router advertisements make it anew"
    if route.encapsulation not in (0, _BPF):
        return "it is a tunnel of another kind already"
    return "" if is_alone else "the kernel could not tell it from another one with this metric"


def attach_lwt(program: Program, route: str) -> LwtRoute:
    """Put *program* on a route, like `ip route replace … encap bpf`.

    The route has to exist. It keeps the program when the process ends, until `detach` or the end of
    a `with` makes the route as it was, or somebody removes the route.

    Args:
        program: A program of type LWT_IN (packets that arrive by the route), LWT_OUT or LWT_XMIT
            (packets that leave by it).
        route: Its destination, with `dev=`, `via=`, `metric=` and `table=` as far as needed:
            `10.1.0.0/24`, `default,dev=eth0`; or in the words of ip(8), `10.1.0.0/24 dev eth0`. It
            is a route of the current network namespace.

    Returns:
        The attachment.

    Raises:
        TargetNotFoundError: There is no such route.
        HookBusyError: The route has such a program already.
        UsageError: Several routes fit, or the kernel cannot replace the route by one with a
            program: it has several next hops, or another kind of tunnel.
        WrongHookError: The program is of another type.
        NotSupportedError: The kernel has no such tunnels.
        PermissionDeniedError: CAP_NET_ADMIN is missing.

    Kernel: RTM_NEWROUTE with LWTUNNEL_ENCAP_BPF (Linux 4.10).
    """
    hook = next(
        (hook for hook in _PARTS if program.type in hook.traits.program_types), Hook.LWT_XMIT
    )
    require_type(program, hook)
    found = _free_route(hook, route)
    _replace(found, hook, program)
    target = RouteTarget.parse(route)
    return LwtRoute(hook, target, expected_id=program.id, ifindex=found.ifindex)


def _free_route(hook: Hook, text: str) -> HostRoute:
    """Return the route that *text* chooses; `HookBusyError` if it has a program at *hook*."""
    route = find_route(text)
    running = route.program_id(hook)
    if running == UNKNOWN_ID:
        raise _foreign(route, hook)
    if running:
        holder = _shown_id(running)
        raise HookBusyError(
            f"{hook.value} of the route {route} runs {holder} already", holder=holder
        )
    return route


class LwtCode(HookCode):
    """The code of the hooks of lightweight tunnels."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Prepare the route."""
        route = _free_route(hook, target.name)
        return NewAttachment(hook, held_by=HeldBy.ROUTE, handle=route.ifindex)

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Refuse a route that does not exist, or has a program there."""
        _free_route(hook, target.name)
        return ""

    def network(self, target: HookTarget) -> Network:
        """Return the destination of the route."""
        return RouteTarget.parse(target.name).network

    def complete(
        self, program: Program, hook: Hook, target: HookTarget, prepared: RememberedHook
    ) -> None:
        """Put the program on the route."""
        attach_lwt(program, target.name)

    def reopen(self, hook: Hook, target: HookTarget, remembered: RememberedHook) -> LwtRoute:
        """Return the route with the program that it runs now: the caller has compared it."""
        return LwtRoute(hook, RouteTarget.parse(target.name), ifindex=remembered.handle)

    def detach_line(self, hook: Hook, device: str, remembered: RememberedHook) -> str:
        """Return the line of ip(8) that makes the route anew, without its programs."""
        words = str(find_route(remembered.target)).replace(",", " ").replace("=", " ")
        return f"ip route replace {words}"

    def running_on(self, devices: Iterable[DeviceRow]) -> Iterator[RunningProgram]:
        """Yield the programs of routes by the device that the packets leave by."""
        indexes = {device.ifindex for device in devices}
        for route in routes():
            if route.ifindex in indexes:
                for hook in route.programs:
                    program_id = route.program_id(hook)
                    if program_id != UNKNOWN_ID:
                        where = str(route)
                        yield RunningProgram(hook, program_id, route.ifindex, where, link_id=0)


CODE = LwtCode()
