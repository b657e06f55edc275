"""The lock-out check: whether programs stop packets of the user's own way to this host.

A copy of the programs, with copies of their maps, is run on test packets (BPF_PROG_TEST_RUN). No
real map is changed. A packet counts as stopped if it is stopped in the sequence of all packets, and
also alone in a fresh copy. So a limit of packets a second, or state that the first packet creates,
does not look like a cut.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import field
from typing import Final

from bpfpin.attach.registry import code_of
from bpfpin.errors import BpfError, Portable, SyscallError
from bpfpin.hooks import Hook, PacketForm, PacketTraits
from bpfpin.loading import collection
from bpfpin.loading.collection import Loaded
from bpfpin.map_traits import traits_of
from bpfpin.objects.maps.create import map_memory_limit
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.sets.lockout import map_copy
from bpfpin.sets.lockout.map_copy import Budget, InnerMaps
from bpfpin.sets.lockout.packets import Direction, Packet
from bpfpin.sets.lockout.ways import Danger
from bpfpin.spec import ObjectSpec
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.uapi import XdpAction

_TCP: Final = "TCP"
_RECHECKED: Final = 8  # packets that are tried again in a fresh copy, of different kinds first
_XDP_CONTEXT: Final = struct.Struct("=6I")  # xdp_md
_SKB_CONTEXT: Final = struct.Struct("=36xII")  # __sk_buff up to ingress_ifindex and ifindex


@dataclass(frozen=True, slots=True)
class TrialTarget:
    """A program to be tried at its hook, and the danger that *place* is cut.

    *ifindex* is 0 for a cgroup.
    """

    program: str
    hook: Hook
    place: str
    danger: Danger
    ifindex: int = 0
    name: str = ""
    """What the program names as its target."""

    def packets(self) -> list[Packet]:
        """Return the packets that have to pass."""
        form = self.seen.form
        is_incoming = code_of(self.hook).is_incoming(self.hook, self.name)
        return self.danger.packets(
            Direction.IN if is_incoming else Direction.OUT,
            has_tags=form is PacketForm.FRAME,
            has_ethernet=self.is_partial or form is PacketForm.OWN,
        )

    @property
    def seen(self) -> PacketTraits:
        """How programs of the hook see packets."""
        traits = self.hook.traits.packets
        assert traits is not None
        return traits

    @property
    def why_not(self) -> str:
        """The reason why the kernel cannot run the program on test packets, "" if it can."""
        if self.hook.traits.packets is None:
            return f"the kernel runs no program of {self.hook.value} on test packets"
        return ""

    @property
    def is_partial(self) -> bool:
        """Whether only a program that stops every packet can be recognized.

        Test packets have Ethernet headers at all hooks but XDP (bpf_prog_test_run_skb() in
        net/bpf/test_run.c), and the packets of this device do not.
        """
        return self.seen.form is PacketForm.L2 and not self.danger.has_ethernet


@dataclass(frozen=True, slots=True)
class Cut:
    """A packet that a program stops, and its answer; it stops *more* other packets too."""

    target: TrialTarget
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
    """Makes copies of programs: *real* are the maps to copy, by name.

    *prepare* is called with the copies; *change* is a real map and the function that changes its
    copy, which decodes keys and values as the real map does.
    """

    spec: ObjectSpec
    programs: Sequence[str]
    real: Mapping[str, Map] = field(default_factory=dict)
    prepare: Callable[[Loaded], None] | None = None
    change: tuple[Map, Callable[[Map], object]] | None = None
    max_map_memory: int = field(default_factory=map_memory_limit)
    notes: dict[str, None] = field(default_factory=dict)
    """Notes on entries that were not copied, each once."""

    @contextmanager
    def made(self, packets: Iterable[Packet] = (), *, is_changed: bool = True) -> Iterator[Loaded]:
        """Load the copy; of maps that are too large, the entries for *packets* are copied."""
        budget, addresses = Budget(), list(_addresses(packets))
        spec, contents, given = self.spec.only_programs(*self.programs), {}, {}
        changed_id = self.change[0].id if self.change else 0
        with ExitStack() as opened:
            for name, bpf_map in self.real.items():
                if bpf_map.id != changed_id and map_copy.is_usable_itself(bpf_map):
                    given[name] = Map.of(bpf_map)  # closed with the loaded object
                    continue
                contents[name] = map_copy.contents_of(bpf_map, budget, addresses)
                if bpf_map.id != changed_id:
                    # The changed map keeps its size: whether an entry still finds room is part of
                    # the answer.
                    room = map_copy.room_for(spec.maps[name], contents[name])
                    spec = spec.with_map(name, max_entries=room)
            loaded = opened.enter_context(
                collection.load_checked(spec, maps=given, max_map_memory=self.max_map_memory)
            )
            inner = opened.enter_context(InnerMaps(budget))
            for name, entries in contents.items():
                real, copy = self.real[name], loaded.maps[name]
                if traits_of(real.type).holds_maps:
                    inner.fill(copy, real)
                elif traits_of(real.type).holds_programs:
                    map_copy.fill_programs(copy, real, loaded.programs)
                else:
                    map_copy.fill(copy, entries)
            if self.prepare is not None:
                self.prepare(loaded)
            # After `prepare`, which does what the load does; the change comes on top of that.
            if self.change and is_changed:
                copies = {self.real[name].id: loaded.maps[name] for name in contents}
                _change((copies | inner.copies).get(changed_id), *self.change)
            self.notes.update(dict.fromkeys(budget.notes))
            yield loaded


def _change(copy: Map | None, real: Map, change: Callable[[Map], object]) -> None:
    """Make the change; an error is ignored, for the change of the real map raises it again."""
    if copy is not None:
        with copy.read_as(real) as typed, suppress(BpfError, TypeError, ValueError):
            change(typed)


class UntriedError(Portable):
    """A program could not be run on test packets; the text says why."""


def cut_by(copying: Copying, target: TrialTarget, *, is_compared: bool = False) -> Cut | None:
    """Return the cut that the program of *target* makes, None if all packets pass.

    With *is_compared* only packets that pass without the change count. Raises `UntriedError` if the
    kernel does not run the program on test packets.
    """
    if target.why_not:
        raise UntriedError(target.why_not)
    packets = target.packets()
    # One copy for all packets, in order: a program that follows connections has to see the SYN
    # first.
    with copying.made(packets) as copy:
        stopped = _stopped(copy.programs[target.program], target, packets)
    if target.is_partial and len(stopped) < len(packets):
        raise UntriedError(
            "it does not stop all, and the kernel's test packets have Ethernet headers, which"
            " packets of that device do not have"
        )
    stopped = _without_choices(packets, stopped)
    # Only now, since it takes a second copy, and most changes stop nothing.
    if stopped and is_compared:
        with copying.made(packets, is_changed=False) as copy:
            before = _stopped(copy.programs[target.program], target, packets)
        stopped = {packet: word for packet, word in stopped.items() if packet not in before}
    # Each again with copies of its own: a program with state, such as a rate limit, may have
    # stopped it only because of the test packets before.
    for packet in _of_different_kinds(stopped)[:_RECHECKED]:
        with copying.made([packet]) as copy:
            alone = _stopped(copy.programs[target.program], target, [packet])
        if packet in alone:
            return Cut(target, packet, alone[packet], len(stopped) - 1)
    return None


def verdict_of(copying: Copying, program: str, packets: Sequence[Packet]) -> XdpAction | None:
    """Return the verdict of an XDP program on all *packets*, None if the verdicts differ."""
    with copying.made(packets) as copy:
        answers = {copy.programs[program].test_run(packet.data).return_value for packet in packets}
    is_one = len(answers) == 1 and answers <= set(XdpAction)
    return XdpAction(answers.pop()) if is_one else None


def _stopped(program: Program, target: TrialTarget, packets: Sequence[Packet]) -> dict[Packet, str]:
    """Return the packets that the program stops, with its answers."""
    stopped: dict[Packet, str] = {}
    has_context = True
    is_tried = False
    for packet in packets:
        try:
            answer, has_context = _answer(program, target, packet, has_context=has_context)
        except SyscallError as error:
            if isinstance(error, InvalidArgumentError) and is_tried:
                continue  # larger than test runs of this kernel allow
            raise UntriedError(f"the kernel does not run it on test packets: {error}") from None
        is_tried = True
        if answer is not None and not target.seen.passes(answer):
            stopped[packet] = target.seen.answers.get(answer, str(answer))
    return stopped


def _answer(
    program: Program, target: TrialTarget, packet: Packet, *, has_context: bool
) -> tuple[int | None, bool]:
    """Run the program as on the device; without a context if the kernel refuses the context.

    The kernel refuses it for a device that has no receive queue set up. The answer is None for a
    packet that does not pass there.
    """
    if target.seen.form is PacketForm.OWN:
        given = code_of(target.hook).test_input(target.hook, target.name, packet.data)
        if given is None:
            return None, has_context
        data, context = given
        return _signed(program.test_run(data, context=context).return_value), has_context
    if has_context and target.ifindex:
        size = len(packet.data)
        if target.seen.form is PacketForm.FRAME:
            # data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex. data_end
            # must be the size of the packet, and egress_ifindex 0 (bpf_prog_test_run_xdp() of
            # net/bpf/test_run.c).
            context = _XDP_CONTEXT.pack(0, size, 0, target.ifindex, 0, 0)
        else:
            # A program on the way out sees no ingress_ifindex for packets of this host.
            ingress_ifindex = target.ifindex if target.seen.is_incoming else 0
            context = _SKB_CONTEXT.pack(ingress_ifindex, target.ifindex)
        try:
            return _signed(program.test_run(packet.data, context=context).return_value), True
        # EINVAL if the receive queue is not registered (xdp_convert_md_to_buff() of
        # net/bpf/test_run.c).
        except SyscallError:
            pass
    return _signed(program.test_run(packet.data).return_value), False


def _signed(value: int) -> int:
    # `retval` of BPF_PROG_TEST_RUN is unsigned, and TC_ACT_UNSPEC is -1.
    return value - (1 << 32) if value >> 31 else value


def _without_choices(packets: Iterable[Packet], stopped: Mapping[Packet, str]) -> dict[Packet, str]:
    """Leave out stopped packets of which an alternative passes."""
    passing = {packet.choice for packet in packets if packet.choice and packet not in stopped}
    return {packet: word for packet, word in stopped.items() if packet.choice not in passing}


def _of_different_kinds(packets: Iterable[Packet]) -> list[Packet]:
    """Return the packets, the first of each kind before all others, and TCP first of all."""
    kinds: dict[str, list[Packet]] = {}
    for packet in packets:
        kinds.setdefault(" ".join(packet.what.split()[:2]), []).append(packet)
    firsts = [same[0] for same in kinds.values()]
    firsts.sort(key=lambda packet: _TCP not in packet.what)
    return [*firsts, *(packet for same in kinds.values() for packet in same[1:])]


def _addresses(packets: Iterable[Packet]) -> Iterator[bytes]:
    for packet in packets:
        for address in packet.addresses:
            yield address.packed
