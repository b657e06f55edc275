"""Which answers of tc programs let a packet go on: the table of the hook against real packets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from bpfpin.attach.clsact import PRIORITY, attach_clsact
from bpfpin.attach.tcx import attach_tcx
from bpfpin.insn import exit_, mov_imm
from bpfpin.objects.programs.program import Program
from bpfpin.spec import FunctionSpec, Hook, ProgramSpec
from bpfpin.syscall import netns
from bpfpin.uapi import ProgramType
from support.hooks import Counting, counting
from support.kernel_needs import need_tcx
from support.lab import TestLab
from support.wait import HANG_S, wait_until

ANSWERS = [*range(-1, 10), 99]


@contextmanager
def answering(answer: int) -> Iterator[Program]:
    """Load a program that gives every packet this answer."""
    function = FunctionSpec("answers", "test", (mov_imm(0, answer), exit_()))
    spec = ProgramSpec("answers", ProgramType.SCHED_CLS, "test", (function,), license="GPL")
    with Program.load(spec) as program:
        yield program


def attached(
    program: Program, device: str, hook: Hook, *, priority: int = PRIORITY
) -> AbstractContextManager[object]:
    """Attach a program, which runs after those with a lower priority or attached before."""
    if hook.attach_type is None:
        return attach_clsact(program, device, hook, priority=priority)
    return attach_tcx(program, device, hook)


@contextmanager
def path(lab: TestLab, *, is_incoming: bool) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A sender and a receiver, on the sides of the lab that make the way go through its device."""
    with ExitStack() as opened:
        sockets = []
        for is_here in (not is_incoming, is_incoming):
            with ExitStack() as inside:
                if not is_here:
                    inside.enter_context(netns.enter(lab.lab.netns))
                made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sockets.append(opened.enter_context(made))
        sender, receiver = sockets
        receiver.bind((lab.host_address if is_incoming else lab.peer_address, 0))
        receiver.settimeout(HANG_S)
        sender.connect(receiver.getsockname())
        yield sender, receiver


def send_counted(sender: socket.socket, data: bytes, programs: Counting) -> None:
    """Send *data*, and wait until the counting program at the hook has seen a packet."""
    before = programs.counted(programs.tc)
    sender.send(data)
    wait_until(lambda: programs.counted(programs.tc) > before)


@pytest.mark.parametrize(
    "hook", [Hook.TCX_INGRESS, Hook.TCX_EGRESS, Hook.TC_INGRESS, Hook.TC_EGRESS]
)
def test_the_table_of_the_hook_is_right_for_every_answer(lab: TestLab, hook: Hook) -> None:
    if hook.attach_type is not None:
        need_tcx()
    packets = hook.traits.packets
    assert packets is not None
    came: dict[int, bool] = {}
    with (
        path(lab, is_incoming=packets.is_incoming) as (sender, receiver),
        counting() as programs,
        attached(programs.tc, lab.device, hook, priority=1),
    ):
        sender.send(b"first")  # with it the kernel finds the neighbour
        receiver.recv(64)
        for answer in ANSWERS:
            with answering(answer) as program, attached(program, lab.device, hook):
                send_counted(sender, b"tried", programs)
            # On one way no packet overtakes another: once this one is there, the other is, too.
            sender.send(b"after")
            came[answer] = receiver.recv(64) == b"tried"
            if came[answer]:
                receiver.recv(64)

    assert came == {answer: packets.passes(answer) for answer in ANSWERS}
