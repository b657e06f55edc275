"""Linking: one copy of each function, and the distances between them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bpfpin.errors import UsageError
from bpfpin.fixup.calls import link
from bpfpin.insn import CALL, Instruction, call_helper, exit_, load_imm64, mov_imm
from bpfpin.objfile.reader import read_object
from bpfpin.spec import FunctionSpec, LineInfo, ProgramSpec, Reference, ReferenceKind
from bpfpin.uapi import ProgramType, PseudoCall, PseudoSource
from support.objects import COMPILERS, compiled

UNLINKED = Instruction(CALL, src=1, imm=-1)
RETURN = (mov_imm(0, 2), exit_())


def calling(name: str, *targets: str, type_id: int = 0, **fields: object) -> FunctionSpec:
    """Return a function that calls each of *targets*, then returns."""
    references = [Reference(i, ReferenceKind.CALL, each) for i, each in enumerate(targets)]
    return FunctionSpec(
        name,
        "xdp",
        (*(UNLINKED for _ in targets), *RETURN),
        tuple(references),
        type_id,
        (LineInfo(0, 10, 20, 3 << 10),) if fields.get("has_lines") else (),
    )


def program(*functions: FunctionSpec) -> ProgramSpec:
    return ProgramSpec("main", ProgramType.XDP, "xdp", functions)


def targets_of(instructions: Sequence[Instruction]) -> dict[int, int]:
    """Return where each call goes: slot of the call -> slot of the function."""
    return {
        at: at + 1 + slot.imm
        for at, slot in enumerate(instructions)
        if slot.is_call and slot.src == PseudoCall.CALL
    }


def test_a_program_without_calls_stays_as_it_is() -> None:
    linked = link(program(calling("main")))

    assert linked.instructions == RETURN
    assert linked.references == ()


def test_a_function_that_two_call_is_there_once() -> None:
    linked = link(
        program(calling("main", "a", "b"), calling("a", "shared"), calling("b"), calling("shared"))
    )

    # main 0..3, a 4..6, shared 7..8, b 9..10
    assert targets_of(linked.instructions) == {0: 4, 1: 9, 4: 7}
    assert len(linked.instructions) == 11


def test_functions_that_nothing_reaches_are_left_out() -> None:
    linked = link(program(calling("main", "a"), calling("unused"), calling("a")))

    assert len(linked.instructions) == 5


def test_a_function_may_call_one_that_stands_before_it() -> None:
    linked = link(program(calling("main", "a"), calling("a", "b"), calling("b", "a")))

    assert targets_of(linked.instructions) == {0: 3, 3: 6, 6: 3}


def test_the_address_of_a_function_is_a_distance_with_its_own_mark() -> None:
    main = FunctionSpec(
        "main",
        "xdp",
        (mov_imm(1, 0), *load_imm64(2, 64), call_helper(164), *RETURN),
        (Reference(1, ReferenceKind.FUNCTION, "callback"),),
    )
    linked = link(program(main, calling("callback")))
    load, upper_half = linked.instructions[1:3]

    assert (load.dst, load.src, 1 + load.imm + 1) == (2, PseudoSource.FUNC, 6)
    assert upper_half.imm == 0
    assert linked.instructions[3] == call_helper(164)


def test_references_to_maps_move_with_their_function() -> None:
    helper = FunctionSpec(
        "helper",
        ".text",
        (*load_imm64(1, 0), *RETURN),
        (Reference(0, ReferenceKind.MAP_VALUE, ".bss", 8),),
    )
    linked = link(program(calling("main", "helper"), helper))

    assert linked.references == (Reference(3, ReferenceKind.MAP_VALUE, ".bss", 8),)


def test_types_and_lines_count_over_the_whole_program() -> None:
    main = calling("main", "helper", type_id=5, has_lines=True)
    linked = link(program(main, calling("helper", type_id=6, has_lines=True)))

    assert linked.functions == ((0, 5), (3, 6))
    assert [line.index for line in linked.lines] == [0, 3]


def test_types_and_lines_are_left_out_when_one_function_has_none() -> None:
    """The kernel takes them for every function or not at all."""
    main = calling("main", "helper", type_id=5, has_lines=True)
    linked = link(program(main, calling("helper")))

    assert (linked.functions, linked.lines) == ((), ())


def test_a_function_that_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="calls gone, which is not among its functions"):
        link(program(calling("main", "gone")))


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", ["subprograms", "callbacks"])
def test_calls_of_compiled_programs_go_to_where_functions_begin(name: str, compiler: str) -> None:
    for spec in read_object(compiled(name, compiler)).programs.values():
        linked = link(spec)
        starts = {start for start, _ in linked.functions}

        assert set(targets_of(linked.instructions).values()) <= starts
        assert len(starts) == len(spec.functions)
        assert [line.index for line in linked.lines] == sorted(
            {line.index for line in linked.lines}
        )
