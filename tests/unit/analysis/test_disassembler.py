"""Every form of instruction as text, in the kernel's words (kernel/bpf/disasm.c)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.analysis.disassembler import Names, texts
from bpfpin.insn import Instruction, load_imm64


def text(insn: Instruction) -> str:
    """Return the text of one instruction without its opcode."""
    ((_, line),) = texts([insn], Names())
    assert line.startswith(f"({insn.opcode:02x}) ")
    return line[5:]


@pytest.mark.parametrize(
    ("insn", "expected"),
    [
        ((0x07, 1, 0, 0, -8), "r1 += -8"),
        ((0x04, 1, 0, 0, 4), "w1 += 4"),
        ((0x1F, 1, 2), "r1 -= r2"),
        ((0x3F, 1, 2), "r1 /= r2"),
        ((0x3F, 1, 2, 1), "r1 s/= r2"),
        ((0x97, 1, 0, 1, 3), "r1 s%= 3"),
        ((0xC7, 1, 0, 0, 32), "r1 s>>= 32"),
        ((0x87, 1), "r1 = -r1"),
        ((0x84, 1), "w1 = -w1"),
        ((0xBF, 1, 2, 8), "r1 = (s8)r2"),
        ((0xBC, 1, 2, 16), "w1 = (s16)w2"),
        ((0xBF, 1, 2, 1, 1), "r1 = addr_space_cast(r2, 0, 1)"),
        ((0xBF, 1, 2, -1), "r1 = &(void __percpu *)(r2)"),
        ((0xDC, 3, 0, 0, 16), "r3 = be16 r3"),
        ((0xD4, 3, 0, 0, 32), "r3 = le32 r3"),
        ((0xD7, 3, 0, 0, 64), "r3 = bswap64 r3"),
        ((0x79, 1, 6, 16), "r1 = *(u64 *)(r6 +16)"),
        ((0x71, 1, 6, -1), "r1 = *(u8 *)(r6 -1)"),
        ((0x81, 1, 6, 4), "r1 = *(s32 *)(r6 +4)"),
        ((0x30, 0, 0, 0, 12), "r0 = *(u8 *)skb[12]"),
        ((0x48, 0, 3, 0, 2), "r0 = *(u16 *)skb[r3 + 2]"),
        ((0x7B, 10, 1, -8), "*(u64 *)(r10 -8) = r1"),
        ((0x62, 10, 0, -4, 7), "*(u32 *)(r10 -4) = 7"),
        ((0xC2, 0), "nospec"),
        ((0xDB, 1, 2, 0, 0x00), "lock *(u64 *)(r1 +0) += r2"),
        ((0xC3, 1, 2, 4, 0xA0), "lock *(u32 *)(r1 +4) ^= r2"),
        ((0xDB, 1, 2, 0, 0x01), "r2 = atomic64_fetch_add((u64 *)(r1 +0), r2)"),
        ((0xC3, 1, 2, 0, 0x51), "r2 = atomic_fetch_and((u32 *)(r1 +0), r2)"),
        ((0xDB, 1, 2, 0, 0xE1), "r2 = atomic64_xchg((u64 *)(r1 +0), r2)"),
        ((0xC3, 1, 2, 0, 0xF1), "r0 = atomic_cmpxchg((u32 *)(r1 +0), r0, r2)"),
        ((0xDB, 1, 2, 0, 0x100), "r1 = load_acquire((u64 *)(r2 +0))"),
        ((0xDB, 1, 2, 0, 0x110), "store_release((u64 *)(r1 +0), r2)"),
        ((0x15, 1, 0, 3, -1), "if r1 == 0xffffffff goto pc+3"),
        ((0x6D, 1, 2, -3), "if r1 s> r2 goto pc-3"),
        ((0x46, 1, 0, 1, 4), "if w1 & 0x4 goto pc+1"),
        ((0x05, 0, 0, 7), "goto pc+7"),
        ((0x06, 0, 0, 0, -9), "gotol pc-9"),
        ((0x0D, 4), "gotox r4"),
        ((0xE5, 0, 0, 5), "may_goto pc+5"),
        ((0x85, 0, 0, 0, 5), "call #5"),
        ((0x85, 0, 1, 0, 9), "call pc+9"),
        ((0x85, 0, 1, 12, 2), "call pc+12"),
        ((0x95,), "exit"),
        ((0xF7, 1), "unknown f701000000000000"),
    ],
)
def test_an_instruction_is_written_as_the_kernel_does(insn: tuple[int, ...], expected: str) -> None:
    assert text(Instruction(*insn)) == expected


def test_a_wide_load_is_one_line_that_names_its_object() -> None:
    code = [
        *load_imm64(1, 0x1122334455667788),
        *load_imm64(2, 12, src=1),
        *load_imm64(3, 16 << 32 | 12, src=2),
        *load_imm64(4, 6, src=4),
    ]

    assert list(texts(code, Names(maps={2: "flows", 4: ".bss"}))) == [
        (0, "(18) r1 = 0x1122334455667788"),
        (2, "(18) r2 = map[id:12 flows]"),
        (4, "(18) r3 = map[id:12 .bss][0]+16"),
        (6, "(18) r4 = subprog[+6]"),
    ]


def test_calls_have_the_names_that_are_known() -> None:
    code = [Instruction(0x85, imm=77), Instruction(0x85, src=1, imm=3)]
    lines = [line for _, line in texts(code, Names(calls={0: "bpf_ktime_get_ns", 1: "twice"}))]

    assert lines == ["(85) call bpf_ktime_get_ns", "(85) call pc+3 <twice>"]


@given(st.binary(min_size=8, max_size=64))
def test_any_bytes_are_written_without_an_error(data: bytes) -> None:
    code = [Instruction.decode(data, at) for at in range(0, len(data) - 7, 8)]

    assert next(texts(code, Names()))[0] == 0
