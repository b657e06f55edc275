"""The programs that are generated, as far as that shows without a kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from bpfpin import assembler as a
from bpfpin.btf.layout import Span
from bpfpin.btf.types import Function
from bpfpin.migration import fold_program
from bpfpin.migration.fold import FoldSpec, FoldStep
from bpfpin.migration.fold_program import FoldProgram, FoldWalk, Phase
from bpfpin.migration.members import MapShape, MemberMove
from bpfpin.migration.request import Rule
from bpfpin.spec import FunctionSpec
from bpfpin.syscall.cpu import possible_cpu_numbers
from bpfpin.uapi import MapType, ProgramFlag, ProgramType
from bpfpin.uapi_helpers import FuncId

HASH = MapShape(MapType.HASH, 4, 16, 100)
PER_CPU = MapShape(MapType.PERCPU_HASH, 4, 16, 100)
MOVES = [
    MemberMove("packets", Span(0, 8), Span(8, 8)),
    MemberMove("bytes", Span(8, 4), Span(0, 4)),
]
FOLD = FoldProgram(HASH, HASH, MOVES)


def each_of(fold: FoldProgram) -> FunctionSpec:
    """Return the function that is called for each entry."""
    _, each = fold_program.fold_program(fold).functions
    return each


def maps_of(fold: FoldProgram) -> set[str]:
    """Return the maps that the program names."""
    functions = fold_program.fold_program(fold).functions
    return {one.target for function in functions for one in function.references} - {"fold_entry"}


def helpers_of(fold: FoldProgram) -> set[FuncId]:
    """Return the helpers that the program calls."""
    functions = fold_program.fold_program(fold).functions
    calls = (one for function in functions for one in function.instructions if one.opcode == 0x85)
    return {FuncId(one.imm) for one in calls}


def atomics_of(fold: FoldProgram) -> list[int]:
    """Return the atomic operations, as their `imm` says."""
    codes = a.ATOMIC.values()
    return [one.imm for one in each_of(fold).instructions if one.opcode in codes]


def test_a_fold_is_a_program_that_user_space_runs() -> None:
    program = fold_program.fold_program(FOLD)

    assert program.type is ProgramType.SYSCALL
    assert program.program_flags == ProgramFlag.SLEEPABLE
    assert [function.type_id for function in program.functions] == [3, 4]


def test_its_types_are_two_functions() -> None:
    types = fold_program.fold_types()

    assert [types.ref(number).name for number in (3, 4)] == ["fold", "fold_entry"]
    assert all(isinstance(types[number], Function) for number in (3, 4))


def test_each_counter_is_taken_once_and_added_once() -> None:
    taken_and_added = [a.ATOMIC_EXCHANGE, a.ATOMIC_ADD]

    assert atomics_of(FOLD) == 2 * taken_and_added


@pytest.mark.parametrize(
    ("rule", "operations"),
    [
        (Rule.KEEP_OLD, []),
        (Rule.KEEP_NEW, [a.ATOMIC_COMPARE_EXCHANGE]),
        (Rule.MAX, [a.ATOMIC_COMPARE_EXCHANGE]),
        (Rule.MIN, [a.ATOMIC_COMPARE_EXCHANGE]),
    ],
)
def test_other_rules_leave_the_old_number_where_it_is(rule: Rule, operations: list[int]) -> None:
    moves = [dataclasses.replace(MOVES[0], rule=rule)]

    assert atomics_of(dataclasses.replace(FOLD, moves=moves)) == operations


def test_inserting_moves_nothing() -> None:
    fold = dataclasses.replace(FOLD, phase=Phase.INSERT)

    assert atomics_of(fold) == []
    assert FuncId.map_update_elem in helpers_of(fold)


def test_a_key_is_looked_for_first_only_where_inserting_may_evict_another() -> None:
    lru = dataclasses.replace(HASH, type=MapType.LRU_HASH)
    looked_up = [
        sum(ref.target == fold_program.NEW for ref in each_of(fold).references)
        for fold in (FoldProgram(HASH, new, MOVES, phase=Phase.INSERT) for new in (HASH, lru))
    ]

    assert looked_up == [1, 2]


def test_a_part_is_walked_by_its_keys() -> None:
    assert maps_of(FOLD) == {"old", "new", "start"}
    assert maps_of(dataclasses.replace(FOLD, walk=FoldWalk.CHUNK)) == {
        "old",
        "new",
        "start",
        "keys",
    }


def test_the_values_of_all_cpus_are_asked_for_one_by_one() -> None:
    assert FuncId.map_lookup_percpu_elem in helpers_of(
        FoldProgram(PER_CPU, HASH, MOVES, cpus=(0, 1, 2, 3))
    )
    assert FuncId.map_lookup_percpu_elem not in helpers_of(FoldProgram(PER_CPU, PER_CPU, MOVES))


@pytest.mark.parametrize(
    ("old", "new", "steps"),
    [
        (HASH, HASH, {FoldStep.INSERT, FoldStep.MOVE}),
        (HASH, PER_CPU, {FoldStep.MOVE}),
        (PER_CPU, HASH, {FoldStep.INSERT, FoldStep.GATHER}),
        (PER_CPU, PER_CPU, {FoldStep.MOVE, FoldStep.GATHER}),
    ],
)
def test_each_pair_of_shapes_takes_the_steps_it_needs(
    old: MapShape, new: MapShape, steps: set[FoldStep]
) -> None:
    programs = FoldSpec(old, new, MOVES, bytes(16)).programs()

    assert set(programs) == steps
    assert all(
        fold.cpus == (possible_cpu_numbers() if step is FoldStep.GATHER else ())
        for step, fold in programs.items()
    )


def test_where_each_cpu_keeps_its_own_only_counters_are_gathered() -> None:
    moves = [*MOVES, MemberMove("last", Span(12, 4), Span(4, 4), Rule.KEEP_NEW)]
    programs = FoldSpec(PER_CPU, PER_CPU, moves, bytes(16)).programs()

    assert programs[FoldStep.MOVE].moves == moves
    assert programs[FoldStep.GATHER].moves == MOVES


@pytest.mark.parametrize(
    ("entries", "members", "walk"),
    [
        (1000, 2, FoldWalk.WHOLE),
        (50_000, 2, FoldWalk.WHOLE),
        (100_000, 2, FoldWalk.CHUNK),
        (10_000, 250, FoldWalk.CHUNK),
        (0, 250, FoldWalk.WHOLE),
    ],
)
def test_what_takes_long_is_done_in_parts(entries: int, members: int, walk: FoldWalk) -> None:
    moves = [MOVES[0]] * members

    assert FoldSpec(HASH, HASH, moves, bytes(16), entries=entries).walk is walk


@pytest.mark.parametrize(
    ("cpus", "asked"),
    [
        ((0, 1, 2, 3), [0, 1, 2, 3]),
        ((0, 1, 2, 3, 8), [0, 1, 2, 3, 8]),
        ((2, 3, 6, 9), [2, 3, 6, 9]),
        ((5,), [5]),
    ],
)
def test_numbers_that_are_no_possible_cpu_are_never_asked_for(
    cpus: tuple[int, ...], asked: list[int]
) -> None:
    """For such a number the helper returns a wild pointer, and not NULL."""
    fold = FoldProgram(PER_CPU, HASH, [], cpus=cpus)

    assert list(cpus_asked_for(each_of(fold))) == asked


def cpus_asked_for(function: FunctionSpec) -> Iterator[int]:
    """Run the loop over the CPUs, of which only register 7 counts, and yield those looked up."""
    code = list(function.instructions)
    at = next(n for n, one in enumerate(code) if (one.opcode, one.dst) == (0xB7, a.R7))
    cpu, kept = 0, 0
    while code[at].opcode != 0x95:
        one = code[at]
        if (one.opcode, one.dst) == (0xB7, a.R7):
            cpu = one.imm
        elif one.opcode == a.ADD_IMM and one.dst == a.R7:
            cpu += one.imm
        elif one.opcode == a.STORE[8] and one.src == a.R7:
            kept = cpu
        elif one.opcode == a.LOAD[8] and one.dst == a.R7:
            cpu = kept
        elif (one.opcode, one.imm) == (0x85, FuncId.map_lookup_percpu_elem):
            yield cpu
        elif one.dst == a.R7 and one.opcode in (a.IF_NOT_EQUAL, a.IF_BELOW):
            is_taken = cpu != one.imm if one.opcode == a.IF_NOT_EQUAL else cpu < one.imm
            at += one.offset * is_taken
        at += 1
