"""Gates: a beginning of programs that lets one generation run, for hooks where no stub can be.

Where the kernel refuses the tail call of a stub (`objects.stub`), the program of the next
generation is attached beside the old one. Both begin with a gate: they read the number in a map
that they share, and leave at once unless it is their own. Writing another number ends the turn of
one program and begins that of the other.

The map has one entry of two bytes: the number that the gates admit, and the last number that was
given to a program. One byte for each, since a byte is never seen half written, whatever the kernel
copies it with.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from bpfpin import assembler as a
from bpfpin.assembler import Assembler
from bpfpin.insn import Code, encode, load_imm64
from bpfpin.objects.maps.map import Map
from bpfpin.records import dataclass
from bpfpin.spec import FunctionSpec, LineInfo, MapSpec, ProgramSpec
from bpfpin.uapi import MapFlag, MapType, PseudoSource

NUMBER_MAX: Final = 255
_FIRST: Final = bytes(4)


@dataclass(frozen=True, slots=True)
class GateState:
    """The two numbers in the map of a gate: *admitted*, 0 for none, and the last one *given*."""

    admitted: int
    given: int

    @property
    def next(self) -> int:
        """The number for the next program: not the one admitted, nor one given lately."""
        # Links of a load that was undone may live on for a moment: with a number that was given
        # only just now, the program of such a link would run beside the next one.
        after = self.given % NUMBER_MAX + 1
        return after if after != self.admitted else after % NUMBER_MAX + 1


def make_gate() -> Map:
    """Return a new map of a gate, which admits no program yet; the caller closes it."""
    # Programs may only read it.
    return Map.create(
        MapSpec("gate", MapType.ARRAY, 4, 2, 1, map_flags=MapFlag.RDONLY_PROG),
    )


def state_of(gate: Map) -> GateState:
    """Return the numbers in the map of a gate."""
    return GateState(*gate.lookup_bytes(_FIRST))


def give(gate: Map, number: int) -> None:
    """Record that *number* was given to a program; the one that is admitted goes on."""
    _write(gate, GateState(state_of(gate).admitted, number))


def admit(gate: Map, number: int) -> None:
    """Let the program with *number* run from here on, and no other one."""
    state = state_of(gate)
    if state.admitted != number:
        _write(gate, GateState(number, state.given))


def _write(gate: Map, state: GateState) -> None:
    gate.update_bytes(_FIRST, bytes((state.admitted, state.given)))


def with_gate(spec: ProgramSpec, gate: Map, number: int, *, answer: int = 0) -> ProgramSpec:
    """Return *spec* with a gate that admits it by *number*, and otherwise answers with *answer*.

    *gate* has to be open when the program is loaded. Only register 0 is used, which holds nothing
    at the beginning of a program: the context stays in register 1. So the verifier accepts what it
    would accept without a gate.
    """
    code = Assembler("gate")
    admitted = code.new_label()
    address = load_imm64(a.R0, gate.fd, src=PseudoSource.MAP_VALUE)
    for each in address:
        code.emit(each.opcode, each.dst, src=each.src, imm=each.imm)
    code.load(a.R0, a.R0, 0, 1)
    code.jump(admitted, a.IF_EQUAL, a.R0, imm=number)
    code.leave(answer)
    code.put(admitted)
    entry, *others = spec.functions
    return spec.with_changes(functions=(_behind(code.finish(0), entry), *others))


def _behind(gate: FunctionSpec, function: FunctionSpec) -> FunctionSpec:
    """Return *function* with the instructions of *gate* before its own.

    Jumps are relative, so those of the function stay as they are: one to its first instruction does
    not come to the gate again.
    """
    size = len(gate.instructions)
    lines = [line._replace(index=line.index + size) for line in function.line_info]
    if lines and lines[0].index == size:
        # The kernel wants a line for the first instruction of a function (check_btf_line() of
        # kernel/bpf/verifier.c): that of the function itself.
        lines.insert(0, LineInfo(0, *lines[0][1:]))
    return dataclasses.replace(
        function,
        instructions=Code(encode(gate.instructions) + encode(function.instructions)),
        references=tuple(
            reference._replace(index=reference.index + size) for reference in function.references
        ),
        line_info=tuple(lines),
        relocations=tuple(
            dataclasses.replace(each, index=each.index + size) for each in function.relocations
        ),
        constants=tuple((index + size, name) for index, name in function.constants),
    )
