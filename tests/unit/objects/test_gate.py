"""The gate before a program: instructions, and all that counts them."""

from __future__ import annotations

import pytest

from bpfpin import assembler as a
from bpfpin.assembler import Assembler
from bpfpin.fixup.calls import link
from bpfpin.insn import EXIT, LD_IMM64, Code, encode
from bpfpin.objects.gate import NUMBER_MAX, GateState, with_gate
from bpfpin.objects.maps.map import Map
from bpfpin.spec import (
    CoreRelocation,
    FunctionSpec,
    LineInfo,
    ProgramSpec,
    Reference,
    ReferenceKind,
)
from bpfpin.uapi import CoreRelocationKind, ProgramType, PseudoSource

SIZE = 6  # instructions of a gate
FD = 5000  # no descriptor: nothing is called


class _Map:
    """What a gate needs of its map."""

    fd = FD


GATE: Map = _Map()  # type: ignore[assignment]


def function(name: str = "entry", *, lines: tuple[int, ...] = (0, 2)) -> FunctionSpec:
    """Return a function that reads a map, loops to its first instruction, and calls another."""
    code = Assembler(name)
    code.put("first")
    code.map(a.R1, "seen")
    code.jump("first", a.IF_BELOW, a.R1, imm=3)
    code.set(a.R0, 0)
    code.emit(EXIT)
    made = code.finish(type_id=7)
    references = (*made.references, Reference(2, ReferenceKind.CALL, "other"))
    return FunctionSpec(
        name,
        "uprobe.s",
        Code(encode(made.instructions)),
        references,
        type_id=7,
        line_info=tuple(LineInfo(at, 10, 20 + at, 30 + at) for at in lines),
        relocations=(CoreRelocation(2, 1, "0:1", CoreRelocationKind.FIELD_BYTE_OFFSET),),
        constants=((3, "HZ"),),
    )


def program(*functions: FunctionSpec) -> ProgramSpec:
    return ProgramSpec("entry", ProgramType.KPROBE, "uprobe.s", functions, license="GPL")


def test_a_gate_reads_a_byte_of_its_map_and_leaves_or_goes_on() -> None:
    gated = with_gate(program(function()), GATE, 200, answer=1).functions[0]
    begin = gated.instructions[:SIZE]

    assert (begin[0].opcode, begin[0].src, begin[0].imm) == (LD_IMM64, PseudoSource.MAP_VALUE, FD)
    assert begin[2].opcode == a.LOAD[1]
    assert begin[3].opcode == a.IF_EQUAL
    assert begin[3].imm == 200
    assert begin[3].offset == SIZE - 4  # to the instruction behind the exit
    assert [begin[4].imm, begin[5].opcode] == [1, EXIT]
    # Nothing but register 0 changes.
    assert {each.dst for each in begin} == {a.R0}


def test_the_instructions_of_the_program_stay_as_they_are() -> None:
    """A jump to the first instruction comes to it, and not to the gate."""
    before = function()
    gated = with_gate(program(before), GATE, 1).functions[0]

    assert gated.instructions[SIZE:] == before.instructions[:]
    (jump,) = [each for each in gated.instructions[SIZE:] if each.opcode == a.IF_BELOW]
    assert jump.offset == -3


def test_all_that_counts_instructions_moves() -> None:
    before = function()
    gated = with_gate(program(before), GATE, 1).functions[0]

    assert [each.index for each in gated.references] == [SIZE, SIZE + 2]
    assert [each.index for each in gated.relocations] == [SIZE + 2]
    assert gated.constants == ((SIZE + 3, "HZ"),)
    assert [line.index for line in gated.line_info] == [0, SIZE, SIZE + 2]
    # The first instruction of a function needs a line: that of the program's own.
    assert gated.line_info[0][1:] == gated.line_info[1][1:] == before.line_info[0][1:]


def test_only_the_entry_has_a_gate_and_the_others_are_linked_behind_it() -> None:
    other = FunctionSpec("other", ".text", function("other").instructions, type_id=8)
    linked = link(with_gate(program(function(), other), GATE, 1))
    size = SIZE + len(function().instructions)

    assert linked.functions == ((0, 7), (size, 8))
    # From the call, counted from the next instruction, to the first one of the other.
    assert linked.instructions[SIZE + 2].imm == size - (SIZE + 2) - 1


@pytest.mark.parametrize("lines", [(), (2,)])
def test_a_function_without_a_first_line_gets_none(lines: tuple[int, ...]) -> None:
    gated = with_gate(program(function(lines=lines)), GATE, 1).functions[0]

    assert [line.index for line in gated.line_info] == [SIZE + at for at in lines]


@pytest.mark.parametrize(
    ("admitted", "given", "number"),
    [(0, 0, 1), (1, 1, 2), (1, 3, 4), (255, 255, 1), (1, 255, 2), (4, 3, 5)],
)
def test_a_number_is_neither_the_admitted_one_nor_one_given_lately(
    admitted: int, given: int, number: int
) -> None:
    assert GateState(admitted, given).next == number


def test_numbers_come_again_after_all_others_only() -> None:
    state, numbers = GateState(9, 9), []
    for _ in range(NUMBER_MAX - 1):
        numbers.append(state.next)
        state = GateState(9, numbers[-1])

    assert sorted(numbers) == sorted({*range(1, NUMBER_MAX + 1)} - {9})
