"""The lock-out check: whether programs stop what the user's way to this host is made of.

A copy of the programs, with copies of their maps and what is in them, is run on test packets
(BPF_PROG_TEST_RUN). Nothing that counts is changed. A packet counts as stopped if it is stopped in
the sequence of all of them, and alone in a fresh copy as well: so a limit of packets a second, or a
state that the first packet makes, does not look like a cut.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from bpfpin.errors import BpfError, Portable, SyscallError
from bpfpin.map_traits import traits_of
from bpfpin.objects.load import collection
from bpfpin.objects.load.collection import Loaded, map_memory_limit
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.sets.lockout import map_copy
from bpfpin.sets.lockout.map_copy import Budget, InnerMaps
from bpfpin.sets.lockout.packets import Direction, Packet
from bpfpin.sets.lockout.ways import Danger
from bpfpin.spec import Hook, ObjectSpec
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.uapi import XdpAction

_XDP: Final = {int(action): action.name for action in XdpAction}
# include/uapi/linux/pkt_cls.h. What cls_bpf and tcx do not know lets the packet go on, netkit drops
# it (drivers/net/netkit.c).
_TC: Final = {2: "TC_ACT_SHOT", 4: "TC_ACT_STOLEN", 7: "TC_ACT_REDIRECT", 8: "TC_ACT_TRAP"}
_NETKIT_PASSES: Final = frozenset({-1, 0})
_IN: Final = frozenset(
    {
        Hook.XDP,
        Hook.TCX_INGRESS,
        Hook.TC_INGRESS,
        Hook.NETKIT_PEER,
        Hook.CGROUP_INET_INGRESS,
    }
)
_OUT: Final = frozenset(
    {Hook.TCX_EGRESS, Hook.TC_EGRESS, Hook.NETKIT_PRIMARY, Hook.CGROUP_INET_EGRESS}
)
_TCP: Final = "TCP"
_RECHECKED: Final = 8  # packets that are tried again in a fresh copy, of different kinds at best
_XDP_CONTEXT: Final = struct.Struct("=6I")  # xdp_md
_SKB_CONTEXT: Final = struct.Struct("=36xII")  # __sk_buff up to ingress_ifindex and ifindex


@dataclass(frozen=True, slots=True)
class Target:
    """A program at a hook, and what is in danger there; *ifindex* is 0 for a cgroup."""

    program: str
    hook: Hook
    place: str
    danger: Danger
    ifindex: int = 0

    def packets(self) -> list[Packet]:
        """Return the packets that have to pass; none at a hook that sees no packets."""
        direction = Direction.IN if self.hook in _IN else Direction.OUT
        return self.danger.packets(
            direction, has_tags=self.hook is Hook.XDP, has_ethernet=self.is_partial
        )

    @property
    def why_not(self) -> str:
        """Why the kernel cannot run it on test packets, "" if it can."""
        if self.hook not in _IN | _OUT:
            return f"the kernel runs no program of {self.hook.value} on test packets"
        return ""

    @property
    def is_partial(self) -> bool:
        """Whether it can only be told if it stops everything.

        Test packets have headers of Ethernet at all hooks but XDP (bpf_prog_test_run_skb of
        net/bpf/test_run.c), which the packets of this device have not.
        """
        is_skb = self.hook is not Hook.XDP and not self.hook.is_cgroup
        return is_skb and not self.danger.has_ethernet


@dataclass(frozen=True, slots=True)
class Cut:
    """A packet that a program stops, and what it answers; *more* others are stopped too."""

    target: Target
    packet: Packet
    answer: str
    more: int = 0

    def __str__(self) -> str:
        more = f", and stops {self.more} more of the test packets" if self.more else ""
        what = self.packet.what
        if _TCP in what:
            what = f"a packet of an ssh session ({what})"
        return f"{self.target.program} answers {self.answer} to {what}{more}"


@dataclass(frozen=True)
class Copying:
    """How a copy of programs is made: *real* are the maps to be copied, by name.

    *prepare* does something with the copies; *changes* are a real map and what changes its copy,
    which reads keys and values in the same way.
    """

    spec: ObjectSpec
    programs: Sequence[str]
    real: Mapping[str, Map] = field(default_factory=dict)
    prepare: Callable[[Loaded], None] | None = None
    changes: tuple[Map, Callable[[Map], object]] | None = None
    max_map_memory: int = field(default_factory=map_memory_limit)
    notes: dict[str, None] = field(default_factory=dict)
    """What was not copied, told once."""

    @contextmanager
    def made(self, packets: Iterable[Packet] = (), *, is_changed: bool = True) -> Iterator[Loaded]:
        """Load the copy; entries for *packets* are copied of maps that are too large."""
        budget, addresses = Budget(), list(_addresses(packets))
        spec, contents, given = self.spec.only_programs(*self.programs), {}, {}
        changed_id = self.changes[0].id if self.changes else 0
        with ExitStack() as opened:
            for name, bpf_map in self.real.items():
                if bpf_map.id != changed_id and map_copy.is_usable_itself(bpf_map):
                    given[name] = Map.of(bpf_map)  # closed with what is loaded
                    continue
                contents[name] = map_copy.contents_of(bpf_map, budget, addresses)
                if bpf_map.id != changed_id:
                    room = map_copy.room_for(spec.maps[name], contents[name])
                    spec = spec.with_map(name, max_entries=room)
            loaded = opened.enter_context(
                collection.load_checked(spec, maps=given, max_map_memory=self.max_map_memory)
            )
            inner = opened.enter_context(InnerMaps(budget))
            for name, there in contents.items():
                real, copy = self.real[name], loaded.maps[name]
                if traits_of(real.type).holds_maps:
                    inner.fill(copy, real)
                elif traits_of(real.type).holds_programs:
                    map_copy.fill_programs(copy, real, loaded.programs)
                else:
                    map_copy.fill(copy, there)
            if self.prepare is not None:
                self.prepare(loaded)
            if self.changes and is_changed:
                copies = {self.real[name].id: loaded.maps[name] for name in contents}
                _change((copies | inner.copies).get(changed_id), *self.changes)
            self.notes.update(dict.fromkeys(budget.notes))
            yield loaded


def _change(copy: Map | None, real: Map, change: Callable[[Map], object]) -> None:
    """Make the change; what does not fit the map is told when the real one is changed."""
    if copy is not None:
        with copy.read_as(real) as typed, suppress(BpfError, TypeError, ValueError):
            change(typed)


class UntriedError(Portable):
    """A program could not be run on test packets; the text says why."""


def cut_by(copying: Copying, target: Target, *, is_compared: bool = False) -> Cut | None:
    """Return what the program of *target* cuts, None if all that has to pass does.

    With *is_compared* only what passes without the change counts. Raises `UntriedError` where the
    kernel does not run it on test packets.
    """
    if target.why_not:
        raise UntriedError(target.why_not)
    packets = target.packets()
    with copying.made(packets) as copy:
        stopped = _stopped(copy.programs[target.program], target, packets)
    if target.is_partial and len(stopped) < len(packets):
        raise UntriedError(
            "it does not stop all, and the kernel's test packets have Ethernet headers, which that"
            " device has not"
        )
    stopped = _without_choices(packets, stopped)
    if stopped and is_compared:
        with copying.made(packets, is_changed=False) as copy:
            before = _stopped(copy.programs[target.program], target, packets)
        stopped = {one: answer for one, answer in stopped.items() if one not in before}
    for packet in _of_different_kinds(stopped)[:_RECHECKED]:
        with copying.made([packet]) as copy:
            alone = _stopped(copy.programs[target.program], target, [packet])
        if packet in alone:
            return Cut(target, packet, alone[packet], len(stopped) - 1)
    return None


def verdict_of(copying: Copying, program: str, packets: Sequence[Packet]) -> XdpAction | None:
    """Return what an XDP program answers to all *packets*, None if that is not one verdict."""
    with copying.made(packets) as copy:
        answers = {copy.programs[program].test_run(packet.data).return_value for packet in packets}
    is_one = len(answers) == 1 and answers <= set(_XDP)
    return XdpAction(answers.pop()) if is_one else None


def _stopped(program: Program, target: Target, packets: Sequence[Packet]) -> dict[Packet, str]:
    """Return the packets that the program stops, with its answers."""
    found: dict[Packet, str] = {}
    has_context = True
    is_tried = False
    for packet in packets:
        try:
            answer, has_context = _answer(program, target, packet, has_context=has_context)
        except SyscallError as error:
            if isinstance(error, InvalidArgumentError) and is_tried:
                continue  # larger than the kernel takes
            raise UntriedError(f"the kernel does not run it on test packets: {error}") from None
        is_tried = True
        if not passes(target.hook, answer):
            found[packet] = _word(target.hook, answer)
    return found


def _answer(
    program: Program, target: Target, packet: Packet, *, has_context: bool
) -> tuple[int, bool]:
    """Run it as on the device; where the kernel takes no context (no queue is set up), without."""
    if has_context and target.ifindex:
        size = len(packet.data)
        if target.hook is Hook.XDP:
            context = _XDP_CONTEXT.pack(0, size, 0, target.ifindex, 0, 0)
        else:
            context = _SKB_CONTEXT.pack(target.ifindex if target.hook in _IN else 0, target.ifindex)
        try:
            return _signed(program.test_run(packet.data, context=context).return_value), True
        except SyscallError:
            pass
    return _signed(program.test_run(packet.data).return_value), False


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


def passes(hook: Hook, answer: int) -> bool:
    """Whether a packet goes on that the program at *hook* gives that answer to."""
    if hook is Hook.XDP:
        return answer == XdpAction.XDP_PASS
    if hook.is_cgroup:
        return bool(answer & 1)  # of egress, 2 and 3 say congestion besides
    if hook in (Hook.NETKIT_PRIMARY, Hook.NETKIT_PEER):
        return answer in _NETKIT_PASSES
    return answer not in _TC


def _word(hook: Hook, answer: int) -> str:
    if hook is Hook.XDP:
        return _XDP.get(answer, str(answer))
    return str(answer) if hook.is_cgroup else _TC.get(answer, str(answer))


def _without_choices(packets: Iterable[Packet], stopped: Mapping[Packet, str]) -> dict[Packet, str]:
    """Leave out packets in whose place another one passes."""
    passing = {one.choice for one in packets if one.choice and one not in stopped}
    return {one: answer for one, answer in stopped.items() if one.choice not in passing}


def _of_different_kinds(packets: Iterable[Packet]) -> list[Packet]:
    """Return the packets, the first of each kind before all others, and TCP first of all."""
    kinds: dict[str, list[Packet]] = {}
    for packet in packets:
        kinds.setdefault(" ".join(packet.what.split()[:2]), []).append(packet)
    firsts = sorted((same[0] for same in kinds.values()), key=lambda one: _TCP not in one.what)
    return [*firsts, *(one for same in kinds.values() for one in same[1:])]


def _addresses(packets: Iterable[Packet]) -> Iterator[bytes]:
    for packet in packets:
        for address in packet.addresses:
            yield address.packed
