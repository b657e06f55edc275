"""Instructions as bytes and back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.insn import (
    Code,
    Instruction,
    call_helper,
    decode,
    encode,
    exit_,
    fill,
    load_imm64,
    mov_imm,
    mov_reg,
    signed32,
)

instructions = st.builds(
    Instruction,
    opcode=st.integers(0, 0xFF),
    dst=st.integers(0, 0xF),
    src=st.integers(0, 0xF),
    offset=st.integers(-0x8000, 0x7FFF),
    imm=st.integers(-0x80000000, 0x7FFFFFFF),
)


def test_a_small_program_has_the_bytes_that_the_kernel_documents() -> None:
    program = [mov_imm(0, 2), mov_reg(6, 1), call_helper(5), exit_()]

    code = encode(program)

    assert code.hex(" ", 8) == "b700000002000000 bf16000000000000 8500000005000000 9500000000000000"


@given(st.lists(instructions, max_size=8).map(tuple))
def test_what_is_encoded_decodes_to_the_same(program: tuple[Instruction, ...]) -> None:
    code = encode(program)

    assert decode(bytes(code)) == program


@pytest.mark.parametrize("value", [0, 1, 0xFFFFFFFF, 1 << 32, 0x8000_0000_8000_0000, (1 << 64) - 1])
def test_a_wide_load_carries_64_bits_in_two_slots(value: int) -> None:
    lower, upper = load_imm64(3, value, src=1)

    assert lower.is_wide
    assert (lower.dst, lower.src, upper.opcode) == (3, 1, 0)
    assert struct.pack("<ii", lower.imm, upper.imm) == value.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("value", "immediate"), [(0, 0), (0x7FFFFFFF, 0x7FFFFFFF), (0xFFFFFFFF, -1), (-1, -1)]
)
def test_an_immediate_is_signed(value: int, immediate: int) -> None:
    assert signed32(value) == immediate


def test_a_cut_instruction_is_refused() -> None:
    with pytest.raises(struct.error):
        Instruction.decode(bytes(7))


def test_calls_and_wide_loads_say_that_they_are() -> None:
    assert call_helper(1).is_call
    assert not call_helper(1).is_wide
    assert not exit_().is_call


def test_code_is_a_sequence_of_what_its_bytes_hold() -> None:
    program = (mov_imm(0, 2), *load_imm64(1, 1 << 40), exit_())
    code = Code(encode(program))

    assert (code == program, len(code), tuple(code)) == (True, 4, program)
    assert (code[0], code[-1], code[1:3]) == (program[0], program[-1], program[1:3])
    assert hash(code) == hash(program)
    assert encode(code) is code.data
    with pytest.raises(IndexError):
        code[4]


def test_code_is_of_whole_instructions() -> None:
    with pytest.raises(ValueError, match="9 bytes of code, not a multiple of 8"):
        Code(bytes(9))


def test_an_instruction_is_filled_without_its_neighbours() -> None:
    code = bytearray(encode((mov_imm(3, 7), mov_imm(4, 8))))
    fill(code, 1, imm=-1, src=2)

    assert decode(bytes(code)) == (mov_imm(3, 7), mov_imm(4, 8)._replace(src=2, imm=-1))
