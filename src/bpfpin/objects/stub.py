"""Stubs: programs that call another one, for hooks whose links cannot change their program.

A perf event, a kprobe, a tracepoint or a function keeps the program that its link was made with. To
replace the program there, the link runs a stub: it jumps (bpf_tail_call) to the only program in an
array of programs, its *slot*. Writing the slot replaces the program in one step: each event is seen
by the old program or by the new one.

The kernel checks the stub when it is attached, and not the programs that come into its slot. So
`attach.stubs` checks what the kernel would have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from bpfpin import assembler as a
from bpfpin.assembler import Assembler
from bpfpin.errors import KeyNotFoundError, NotSupportedError, ProgramChangedError
from bpfpin.insn import EXIT
from bpfpin.objects.kernel.attach_target import AttachTarget
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.spec import MapSpec, ProgramSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import MapType
from bpfpin.uapi_helpers import FuncId

_SLOT: Final = "slot"
_FIRST: Final = bytes(4)


class StubAttachment(Closing):
    """A program attached by a stub: the stub's *link*, and the *slot* that holds the program."""

    def __init__(self, link: Link, slot: Map) -> None:
        self.link = link
        self.slot = slot

    @classmethod
    def from_pins(cls, link: Path, slot: Path) -> Self:
        """Open both by their pins."""
        opened = Link.from_pin(link)
        try:
            return cls(opened, Map.from_pin(slot))
        except BaseException:
            opened.close()
            raise

    def program_id(self) -> int:
        """Return the id of the program in the slot, 0 for none."""
        return program_in(self.slot)

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        """Replace the program in the slot.

        The kernel does not compare: the program that is there is read before. Raises
        `ProgramChangedError` if it is not *expected_old*.
        """
        running = self.program_id()
        if expected_old is not None and running != expected_old.id:
            raise ProgramChangedError(
                f"the slot of the stub holds program id {running}, not id {expected_old.id}",
                holder=f"program id {running}",
            )
        put_into(self.slot, program)

    def detach(self) -> None:
        """Detach the stub."""
        self.link.detach()

    def close(self) -> None:
        """Close both; pins keep the program attached."""
        self.link.close()
        self.slot.close()


def program_in(slot: Map) -> int:
    """Return the id of the program in a slot, 0 if it is empty."""
    try:
        # The kernel gives out the id of the program (prog_fd_array_sys_lookup_elem() of
        # kernel/bpf/arraymap.c).
        return int.from_bytes(slot.lookup_bytes(_FIRST), "little")
    except KeyNotFoundError:
        return 0


def put_into(slot: Map, program: Program) -> None:
    """Put a program into a slot; each run of the stub from here on calls it."""
    bpf.map_update_elem(slot.fd, _FIRST, program.fd.to_bytes(4, "little"), target="a stub's slot")


def make_slot(program: Program) -> Map:
    """Return a new slot with *program* in it.

    `NotSupportedError` if the kernel does not take the program into an array.
    """
    slot = Map.create(MapSpec(_SLOT, MapType.PROG_ARRAY, 4, 4, 1))
    try:
        put_into(slot, program)
    # The kernel answers so if the program does not fit (prog_fd_array_get_ptr() of
    # kernel/bpf/arraymap.c); of what may go better the next time, it says nothing here.
    except (InvalidArgumentError, NotSupportedError) as error:
        slot.close()
        raise NotSupportedError(
            f"no stub can call program {program.name}: {error}", feature="tail calls"
        ) from None
    except BaseException:
        slot.close()
        raise
    return slot


def load_stub(
    spec: ProgramSpec,
    slot: Map,
    *,
    empty_answer: int | None = 0,
    target: Program | AttachTarget | None = None,
) -> Program:
    """Load the stub that calls the program of *slot*, which was loaded from *spec*.

    While the slot is empty, it returns *empty_answer*; None: the length of the packet.
    """
    code = Assembler(spec.name)
    code.move(a.R6, a.R1)
    code.map(a.R2, _SLOT)
    code.set(a.R3, 0)
    code.call(FuncId.tail_call)
    if empty_answer is None:
        code.load(a.R0, a.R6, 0, 4)  # `len`, which __sk_buff begins with
        code.emit(EXIT)
    else:
        code.leave(empty_answer)
    stub = spec.with_changes(
        functions=(code.finish(0),), program_flags=0, exception_callback="", license="GPL"
    )
    return Program.load(stub, maps={_SLOT: slot}, target=target)
