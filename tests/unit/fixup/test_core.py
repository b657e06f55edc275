"""CO-RE: what each kind of relocation answers, in tables that are written down here."""

from __future__ import annotations

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import (
    Array,
    BtfType,
    Enum,
    Enumerator,
    Float,
    Forward,
    Int,
    Member,
    Modifier,
    ModifierKind,
    Pointer,
    Struct,
    Union,
)
from bpfpin.errors import ObjectFileError
from bpfpin.fixup.core import relocate
from bpfpin.fixup.core_find import CoreTarget, Finder
from bpfpin.insn import mov_imm
from bpfpin.spec import CoreRelocation, ObjectSpec
from bpfpin.uapi import CoreRelocationKind as Kind
from support.btf_tables import S32, U8, U32, U64, table
from support.core import answer, code_of, found, object_of, target_of

FIELD_KINDS = (
    Kind.FIELD_BYTE_OFFSET,
    Kind.FIELD_BYTE_SIZE,
    Kind.FIELD_EXISTS,
    Kind.FIELD_SIGNED,
    Kind.FIELD_LSHIFT_U64,
    Kind.FIELD_RSHIFT_U64,
)
# struct task { int pid; unsigned long long start; unsigned char name[16]; }
LOCAL = table(
    S32,
    U64,
    U8,
    Array(3, 1, 16),
    Struct("task", 32, (Member("pid", 1, 0), Member("start", 2, 64), Member("name", 4, 128))),
)
TASK = 5


def struct_of(*members: Member, name: str = "task", size: int = 64) -> Btf:
    """Return a table of S32 (1), U64 (2), U8 (3), 16 U8 (4) and the structure (5)."""
    return table(S32, U64, U8, Array(3, 1, 16), Struct(name, size, members))


def answers(target: Btf, access: str) -> list[int | None]:
    """Return what all kinds for fields say."""
    return [answer(LOCAL, target, kind, access, type_id=TASK) for kind in FIELD_KINDS]


def test_a_field_is_found_by_name_wherever_it_lies() -> None:
    target = struct_of(Member("start", 2, 0), Member("pid", 1, 320))

    # offset, size, exists, signed, left shift, right shift
    assert answers(target, "0:0") == [40, 4, 1, 1, 32, 32]
    assert answers(target, "0:1") == [0, 8, 1, 0, 0, 0]


def test_a_field_that_is_missing_has_no_answer_but_that() -> None:
    assert answers(struct_of(Member("pid", 1, 0)), "0:1") == [None, None, 0, None, None, None]


def test_a_type_that_is_missing_has_no_field() -> None:
    assert answers(table(U32), "0:0") == [None, None, 0, None, None, None]


@pytest.mark.parametrize("name", ["task", "task___new", "task___x"])
def test_flavours_of_both_sides_do_not_count(name: str) -> None:
    target = struct_of(Member("pid", 1, 64), name=name)
    flavoured = table(S32, Struct("task___mine", 4, (Member("pid", 1, 0),)))

    assert answers(target, "0:0")[0] == 8
    assert answer(flavoured, target, Kind.FIELD_BYTE_OFFSET, "0:0", type_id=2) == 8


def test_members_of_unnamed_structures_are_found_and_left_out_locally() -> None:
    local = table(
        S32,
        Union("", 4, (Member("pid", 1, 0),)),
        Struct("task", 8, (Member("first", 1, 0), Member("", 2, 32))),
    )
    target = table(
        S32,
        Struct("", 8, (Member("other", 1, 0), Member("pid", 1, 32))),
        Union("", 8, (Member("word", 1, 0), Member("", 2, 0))),
        Modifier(ModifierKind.CONST, "", 3),
        Struct("task", 64, (Member("pad", 1, 0), Member("", 4, 128))),
    )

    assert answer(local, target, Kind.FIELD_BYTE_OFFSET, "0:1:0", type_id=3) == 20


def test_elements_of_arrays_are_counted_in_the_targets_size() -> None:
    target = table(U32, Array(1, 1, 8), Struct("task", 64, (Member("name", 2, 256),)))
    offset = [
        answer(LOCAL, target, Kind.FIELD_BYTE_OFFSET, access, type_id=TASK)
        for access in ("0:2:0", "0:2:7", "0:2:8")
    ]

    assert offset == [32, 60, None]
    assert answer(LOCAL, target, Kind.FIELD_BYTE_SIZE, "0:2:7", type_id=TASK) == 4


def test_an_open_array_at_the_end_has_any_element() -> None:
    local = table(U8, Array(1, 1, 0), Struct("s", 0, (Member("data", 2, 0),)))
    target = table(U32, Array(1, 1, 0), Struct("s", 8, (Member("a", 1, 0), Member("data", 2, 64))))
    inner = table(U32, Array(1, 1, 0), Struct("s", 8, (Member("data", 2, 0), Member("a", 1, 32))))

    assert answer(local, target, Kind.FIELD_BYTE_OFFSET, "0:0:5", type_id=3) == 28
    assert answer(local, inner, Kind.FIELD_BYTE_OFFSET, "0:0:5", type_id=3) is None


def test_the_first_index_counts_whole_structures() -> None:
    target = struct_of(Member("pid", 1, 64), size=100)

    assert answer(LOCAL, target, Kind.FIELD_BYTE_OFFSET, "3:0", type_id=TASK) == 308


def test_typedefs_and_qualifiers_are_looked_through() -> None:
    local = table(
        S32,
        Modifier(ModifierKind.TYPEDEF, "pid_t", 1),
        Struct("inner", 4, (Member("pid", 2, 0),)),
        Modifier(ModifierKind.VOLATILE, "", 3),
        Struct("task", 4, (Member("inner", 4, 0),)),
    )
    target = table(
        U64,
        Modifier(ModifierKind.TYPE_TAG, "rcu", 1),
        Struct("elsewhere", 16, (Member("pid", 2, 64),)),
        Modifier(ModifierKind.TYPEDEF, "inner_t", 3),
        Struct("task", 32, (Member("inner", 4, 128),)),
    )

    assert answer(local, target, Kind.FIELD_BYTE_OFFSET, "0:0:0", type_id=5) == 24


def test_bit_fields_are_loaded_by_the_least_bytes_that_hold_them() -> None:
    """A field of 3 bits at bit 5 of a byte, and one of 6 bits over the edge of two."""
    local = table(U8, Struct("s", 2, (Member("flag", 1, 0, 1),)))
    inside = table(U8, Struct("s", 4, (Member("flag", 1, 13, 3),)))
    across = table(U8, Struct("s", 4, (Member("flag", 1, 13, 6),)))
    lines = [
        [answer(local, target, kind, "0:0", type_id=2) for kind in FIELD_KINDS]
        for target in (inside, across)
    ]

    assert lines[0] == [1, 1, 1, 0, 64 - 8, 64 - 3]
    # bits 13 to 18 need the four bytes from 0 on
    assert lines[1] == [0, 4, 1, 0, 64 - 19, 64 - 6]


def test_a_bit_field_that_no_load_holds_is_refused() -> None:
    local = table(U64, Struct("s", 8, (Member("flag", 1, 0, 1),)))
    target = table(U64, Struct("s", 16, (Member("flag", 1, 60, 8),)))
    with pytest.raises(ObjectFileError, match="no load of up to 8 bytes"):
        answer(local, target, Kind.FIELD_BYTE_OFFSET, "0:0", type_id=2)


@pytest.mark.parametrize(
    ("one", "other", "fits"),
    [
        (S32, U64, True),
        (Int("short", 4, 16, bit_offset=8), U32, False),
        (Pointer(1), Pointer(0), True),
        (S32, Pointer(0), False),
        (Float("float", 4), Float("double", 8), True),
        (Enum("e", 4, False, ()), Enum("e___new", 8, False, (), is_wide=True), True),
        (Enum("e", 4, False, ()), Enum("f", 4, False, ()), False),
        (Enum("e", 4, False, ()), Enum("", 4, False, ()), True),
        (Struct("a", 4, ()), Union("b", 8, ()), True),
        (Struct("a", 4, ()), S32, False),
    ],
)
def test_a_member_of_the_name_must_be_of_a_like_type(
    one: BtfType, other: BtfType, fits: bool
) -> None:
    local = table(one, Struct("s", 8, (Member("x", 1, 0),)))
    target = table(other, Struct("s", 8, (Member("x", 1, 0),)))

    assert answer(local, target, Kind.FIELD_EXISTS, "0:0", type_id=2) == int(fits)


def test_arrays_are_alike_by_what_they_hold() -> None:
    local = table(U8, Array(1, 1, 4), Struct("s", 8, (Member("x", 2, 0),)))
    of_numbers = table(U64, Array(1, 1, 1), Struct("s", 8, (Member("x", 2, 0),)))
    of_pointers = table(Pointer(0), Array(1, 1, 1), Struct("s", 8, (Member("x", 2, 0),)))

    assert answer(local, of_numbers, Kind.FIELD_EXISTS, "0:0", type_id=3) == 1
    assert answer(local, of_pointers, Kind.FIELD_EXISTS, "0:0", type_id=3) == 0


def test_signs_are_those_of_numbers_and_enumerations() -> None:
    local = table(S32, Struct("s", 4, (Member("x", 1, 0),)))
    signed_enum = Enum("e", 4, True, ())
    enum_local = table(signed_enum, Struct("s", 4, (Member("x", 1, 0),)))

    assert answer(local, local, Kind.FIELD_SIGNED, "0:0", type_id=2) == 1
    assert answer(enum_local, enum_local, Kind.FIELD_SIGNED, "0:0", type_id=2) == 1


def test_whole_types_are_found_sized_and_numbered() -> None:
    target = struct_of(name="task___there")
    kinds = (Kind.TYPE_EXISTS, Kind.TYPE_SIZE, Kind.TYPE_ID_TARGET, Kind.TYPE_ID_LOCAL)

    assert [answer(LOCAL, target, kind, type_id=TASK) for kind in kinds] == [1, 64, 5, TASK]
    assert [answer(LOCAL, table(U32), kind, type_id=TASK) for kind in kinds] == [0, 0, 0, TASK]


def test_only_types_of_the_kind_are_candidates() -> None:
    forward = table(Forward("task"), Modifier(ModifierKind.TYPEDEF, "task", 1))

    assert answer(LOCAL, forward, Kind.TYPE_EXISTS, type_id=TASK) == 0


def test_enumerators_are_found_by_name() -> None:
    values = (Enumerator("A", 1), Enumerator("B___new", 2), Enumerator("C", 3))
    local = table(Enum("e", 4, False, values))
    target = table(Enum("e", 4, False, (Enumerator("B", 20), Enumerator("A___x", 10))))

    assert [answer(local, target, Kind.ENUMVAL_VALUE, f"{i}", type_id=1) for i in range(3)] == [
        10,
        20,
        None,
    ]
    assert [answer(local, target, Kind.ENUMVAL_EXISTS, f"{i}", type_id=1) for i in range(3)] == [
        1,
        1,
        0,
    ]


def test_enumerators_of_64_bits_stand_for_those_of_32() -> None:
    local = table(Enum("e", 4, True, (Enumerator("A", -1),)))
    target = table(Enum("e", 8, False, (Enumerator("A", 1 << 40),), is_wide=True))

    assert answer(local, target, Kind.ENUMVAL_VALUE, type_id=1) == 1 << 40
    assert answer(target, local, Kind.ENUMVAL_VALUE, type_id=1) == -1


def two_of(first: int, second: int) -> Btf:
    """Return a table with two structures `task` whose `pid` lies at these bytes."""
    return table(
        S32,
        Struct("task", 64, (Member("pid", 1, first * 8), Member("a", 1, 0))),
        Struct("task", 64, (Member("pid", 1, second * 8), Member("b", 1, 32))),
    )


def test_two_types_that_answer_differently_are_refused() -> None:
    with pytest.raises(
        ObjectFileError, match=r"type 2 \(task\) says 8 and type 3 \(task\) says 12"
    ):
        answer(LOCAL, two_of(8, 12), Kind.FIELD_BYTE_OFFSET, "0:0", type_id=TASK)


def test_two_types_that_answer_alike_are_one_answer() -> None:
    assert answer(LOCAL, two_of(8, 8), Kind.FIELD_BYTE_OFFSET, "0:0", type_id=TASK) == 8


def test_what_one_of_two_types_has_decides_for_the_next() -> None:
    local = table(S32, Struct("task", 8, (Member("b", 1, 0), Member("pid", 1, 32))))
    finder = Finder(local, target_of(two_of(8, 12)))
    finder.find(2, "0:0", Kind.FIELD_EXISTS)
    found_then = finder.find(2, "0:1", Kind.FIELD_BYTE_OFFSET)

    assert found_then.target is not None
    assert found_then.target.number == 12


def test_modules_are_asked_only_for_what_the_kernel_lacks() -> None:
    kernel = struct_of(Member("pid", 1, 64))
    asked: list[str] = []

    def modules() -> list[Btf]:
        asked.append("modules")
        return [table(S32, Struct("driver", 4, (Member("pid", 1, 0),)))]

    local = table(S32, *(Struct(n, 4, (Member("pid", 1, 0),)) for n in ("task", "driver")))
    finder = Finder(local, CoreTarget(lambda: kernel, modules))
    offsets = []
    for type_id, asks in ((2, []), (3, ["modules"])):
        target = finder.find(type_id, "0:0", Kind.FIELD_BYTE_OFFSET).target
        offsets.append(target.number if target else None)
        assert asked == asks

    assert offsets == [8, 0]


def test_the_objects_own_ids_need_no_target() -> None:
    def never() -> Btf:
        raise AssertionError("the target was asked")

    finder = Finder(LOCAL, CoreTarget(never))

    assert finder.find(TASK, "0", Kind.TYPE_ID_LOCAL).local.number == TASK


def test_relocations_are_reported_in_words() -> None:
    relocations = [
        CoreRelocation(0, TASK, "0:2:3", Kind.FIELD_BYTE_OFFSET),
        CoreRelocation(1, TASK, "0:1", Kind.FIELD_EXISTS),
        CoreRelocation(2, TASK, "0:1", Kind.FIELD_BYTE_SIZE),
    ]
    code = [mov_imm(1, 16 + 3), mov_imm(1, 1), mov_imm(1, 8)]
    done = relocate(
        object_of(LOCAL, code, *relocations), target_of(struct_of(Member("name", 4, 8)))
    )

    assert [
        (resolution.question, resolution.value, resolution.is_poisoned)
        for resolution in done.resolutions
    ] == [
        ("the offset of struct task.name[3] (0:2:3)", 4, False),
        ("whether there is struct task.start (0:1)", 0, False),
        ("the size of struct task.start (0:1)", None, True),
    ]
    assert code_of(done)[:2] == (mov_imm(1, 4), mov_imm(1, 0))


def test_an_object_without_relocations_stays_as_it_is() -> None:
    spec = object_of(LOCAL, [mov_imm(0, 2)])

    assert relocate(spec, CoreTarget(lambda: pytest.fail("asked"))).spec is spec


def test_each_function_is_fitted_once() -> None:
    spec = object_of(LOCAL, [mov_imm(1, 8)], CoreRelocation(0, TASK, "0:1", Kind.FIELD_BYTE_SIZE))
    twice = spec.programs["main"].with_changes(name="again")
    both = ObjectSpec({}, {"main": spec.programs["main"], "again": twice}, btf=LOCAL)
    done = relocate(both, target_of(LOCAL))

    assert len(done.resolutions) == 1
    assert done.spec.programs["again"].functions[0] is done.spec.programs["main"].functions[0]


def test_values_of_bit_fields_are_not_held_against_the_instruction() -> None:
    local = table(U32, Struct("s", 4, (Member("bits", 1, 3, 5),)))
    sure = {kind: found(local, local, kind, "0:0", type_id=2).local.is_sure for kind in FIELD_KINDS}

    assert [kind.name for kind, is_sure in sure.items() if is_sure] == [
        "FIELD_EXISTS",
        "FIELD_SIGNED",
        "FIELD_RSHIFT_U64",
    ]
