"""CO-RE: how one instruction takes a value, and what becomes of one that cannot."""

from __future__ import annotations

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Enum, Enumerator, Int, IntEncoding, Member, Pointer, Struct
from bpfpin.errors import ObjectFileError
from bpfpin.fixup.core import relocate
from bpfpin.fixup.core_patch import POISON, poisoned_number
from bpfpin.insn import CALL, Instruction, call_helper, load_imm64, mov_imm, mov_reg
from bpfpin.spec import CoreRelocation
from bpfpin.uapi import CoreRelocationKind as Kind
from support.btf_tables import S32, U32, U64, table
from support.core import code_of, object_of, patched, target_of

LDX_W, LDX_H, LDX_B, LDX_DW = 0x61, 0x69, 0x71, 0x79
ST_W, STX_W, STX_DW = 0x62, 0x63, 0x7B
ADD32_IMM = 0x04
OFFSET = CoreRelocation(0, 2, "0:0", Kind.FIELD_BYTE_OFFSET)
VALUE = CoreRelocation(0, 1, "0", Kind.ENUMVAL_VALUE)


def holding(kind: Int | Pointer, *, at: int) -> Btf:
    """Return a table with `struct s { … x; }` (2), x at byte *at*."""
    return table(kind, Struct("s", 1 << 17, (Member("x", 1, at * 8),)))


def enum_of(value: int, *, is_signed: bool = False) -> Btf:
    return table(Enum("e", 8, is_signed, (Enumerator("A", value),), is_wide=True))


@pytest.mark.parametrize("opcode", [LDX_W, ST_W, STX_W])
def test_loads_and_stores_take_the_offset(opcode: int) -> None:
    before = Instruction(opcode, 1, 2, 4, 7)

    assert patched(holding(U32, at=4), holding(U32, at=260), [before], OFFSET) == (
        Instruction(opcode, 1, 2, 260, 7),
    )


def test_arithmetic_takes_the_number() -> None:
    assert patched(holding(U32, at=4), holding(U32, at=70000), [mov_imm(1, 4)], OFFSET) == (
        mov_imm(1, 70000),
    )


@pytest.mark.parametrize("value", [0, 5, 1 << 31, 1 << 40, (1 << 64) - 1])
def test_wide_loads_take_64_bits(value: int) -> None:
    before = load_imm64(3, 1 << 33)

    assert patched(enum_of(1 << 33), enum_of(value), before, VALUE) == load_imm64(3, value)


def test_negative_values_fill_both_halves() -> None:
    local, target = enum_of(-2, is_signed=True), enum_of(-3, is_signed=True)

    assert patched(local, target, load_imm64(3, -2), VALUE) == load_imm64(3, -3)
    assert patched(local, target, [mov_imm(3, -2)], VALUE) == (mov_imm(3, -3),)


@pytest.mark.parametrize(
    ("opcode", "local", "target", "fitted"),
    [
        (LDX_W, U32, U64, LDX_DW),
        (LDX_DW, U64, U32, LDX_W),
        (LDX_W, U32, Int("u16", 2, 16), LDX_H),
        (LDX_W, U32, Int("u8", 1, 8), LDX_B),
        (STX_W, U32, U64, STX_DW),
        (LDX_DW, Pointer(0), Pointer(0), LDX_DW),
        (LDX_W, S32, S32, LDX_W),
        # not the size of the field, which did not change either
        (LDX_B, U32, U32, LDX_B),
    ],
)
def test_unsigned_numbers_are_moved_in_the_targets_size(
    opcode: int, local: Int | Pointer, target: Int | Pointer, fitted: int
) -> None:
    before = Instruction(opcode, 1, 2, 4)

    assert patched(holding(local, at=4), holding(target, at=8), [before], OFFSET) == (
        Instruction(fitted, 1, 2, 8),
    )


@pytest.mark.parametrize(
    ("local", "target"),
    [(S32, Int("long", 8, 64, IntEncoding.SIGNED)), (U32, Int("long", 8, 64, IntEncoding.SIGNED))],
)
def test_signed_numbers_of_other_size_are_poisoned(local: Int, target: Int) -> None:
    """A longer load would not extend the sign."""
    before = Instruction(LDX_W, 1, 2, 4)

    assert patched(holding(local, at=4), holding(target, at=8), [before], OFFSET) == (
        call_helper(POISON),
    )
    assert patched(holding(local, at=4), holding(target, at=8), [mov_imm(1, 4)], OFFSET) == (
        mov_imm(1, 8),
    )


def test_what_is_missing_calls_a_helper_that_does_not_exist() -> None:
    before = [mov_imm(1, 4), Instruction(LDX_W, 1, 2, 4)]
    relocations = [CoreRelocation(i, 2, "0:0", Kind.FIELD_BYTE_OFFSET) for i in (0, 1)]
    done = relocate(object_of(holding(U32, at=4), before, *relocations), target_of(table(U32)))

    assert code_of(done)[:2] == (Instruction(CALL, imm=195896080), Instruction(CALL, imm=195896081))
    assert [poisoned_number(instruction.imm) for instruction in code_of(done)[:2]] == [0, 1]
    assert poisoned_number(6) is None


def test_both_slots_of_a_wide_load_are_poisoned() -> None:
    """A second slot that is left would be an unknown opcode, even in code that is not reached."""
    assert patched(enum_of(7), table(U32), load_imm64(3, 7), VALUE) == (call_helper(POISON),) * 2


@pytest.mark.parametrize(
    ("before", "at", "message"),
    [
        (mov_imm(1, 5), 8, "the instruction has number 5, and the object's types 4"),
        (Instruction(LDX_W, 1, 2, 5), 8, "has offset 5, and the object's types 4"),
        (Instruction(LDX_W, 1, 2, 4), 1 << 15, "an offset of 32768 bytes does not fit"),
        (mov_reg(1, 2), 8, "has a register as its source"),
        (call_helper(4), 8, "neither an offset nor a number to patch"),
        (Instruction(0x18, 1, imm=4), 8, "the second half"),
        (Instruction(0x18, 1, 1, imm=4), 8, "neither an offset"),
        (Instruction(0, imm=4), 8, "neither an offset"),
    ],
)
def test_instructions_that_compilers_do_not_mark_are_refused(
    before: Instruction, at: int, message: str
) -> None:
    with pytest.raises(ObjectFileError, match=message) as caught:
        patched(holding(U32, at=4), holding(U32, at=at), [before], OFFSET)

    assert "instruction 0 of main asks for the offset of struct s.x (0:0)" in str(caught.value)
    assert caught.value.symbol == "main"


def test_a_field_that_no_load_holds_is_refused() -> None:
    odd = Int("odd", 16, 64)
    with pytest.raises(ObjectFileError, match="no instruction moves the 16 bytes"):
        patched(holding(U32, at=4), holding(odd, at=4), [Instruction(LDX_W, 1, 2, 4)], OFFSET)


def test_a_load_of_part_of_a_field_does_not_change_its_size() -> None:
    with pytest.raises(ObjectFileError, match="moves 1 bytes of a field of 4"):
        patched(holding(U32, at=4), holding(U64, at=4), [Instruction(LDX_B, 1, 2, 4)], OFFSET)


@pytest.mark.parametrize(
    ("opcode", "value", "fits"),
    [(0xB7, 0x7FFFFFFF, True), (0xB7, 0x80000000, False), (ADD32_IMM, 0xFFFFFFFF, True)],
)
def test_numbers_must_fit_the_instruction(opcode: int, value: int, fits: bool) -> None:
    """The 64-bit instruction would extend the sign."""
    before = [Instruction(opcode, 1, imm=7)]
    if fits:
        imm = patched(enum_of(7), enum_of(value), before, VALUE)[0].imm

        assert imm & 0xFFFFFFFF == value
    else:
        with pytest.raises(ObjectFileError, match="does not fit the 32 bits"):
            patched(enum_of(7), enum_of(value), before, VALUE)


def test_the_number_in_a_wide_load_must_be_the_objects() -> None:
    with pytest.raises(ObjectFileError, match="has number 8, and the object's types 7"):
        patched(enum_of(7), enum_of(9), load_imm64(1, 8), VALUE)
