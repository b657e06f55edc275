"""BPF instructions: eight bytes each, or sixteen for a load of a 64-bit immediate.

The format is that of the kernel's Documentation/bpf/standardization/instruction-set.rst: opcode u8,
registers u8 (source in the high nibble), offset s16, immediate s32, little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self, overload

INSN_SIZE = 8
LD_IMM64 = 0x18
CALL = 0x85
EXIT = 0x95
JA = 0x05
MOV64_IMM = 0xB7
MOV64_REG = 0xBF
LDX = 0x01  # the class of loads from memory, in the lowest three bits of an opcode
CLASS_MASK = 0x07
# How many bytes a load or store moves, by these bits of its opcode.
SIZE_MASK = 0x18
SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}

_FORM = struct.Struct("<BBhi")
_IMMEDIATE = struct.Struct("<I")


# A named tuple is created several times faster than a frozen dataclass; CO-RE decodes every
# instruction of a function.
class Instruction(NamedTuple):
    """One eight-byte slot of a program; a 64-bit load consists of two of them.

    Attributes:
        opcode: What it does, as in struct bpf_insn.
        dst: The number of the destination register.
        src: The number of the source register, or the kind of a call or load.
        offset: Signed 16-bit offset of a jump or a memory access.
        imm: Signed 32-bit immediate.
    """

    opcode: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    imm: int = 0

    @classmethod
    def decode(cls, data: bytes, at: int = 0) -> Self:
        """Return the instruction at byte *at* of *data*; `struct.error` if *data* is too short."""
        opcode, registers, offset, imm = _FORM.unpack_from(data, at)
        return cls(opcode, registers & 0xF, registers >> 4, offset, imm)

    def encode(self) -> bytes:
        """Return the eight bytes of the instruction."""
        return _FORM.pack(self.opcode, self.src << 4 | self.dst, self.offset, signed32(self.imm))

    @property
    def is_wide(self) -> bool:
        """Whether the next slot holds the upper half of this one's immediate."""
        return self.opcode == LD_IMM64

    @property
    def is_call(self) -> bool:
        """Whether it calls a helper, a kernel function or a subprogram (`src` says which)."""
        return self.opcode == CALL


def signed32(value: int) -> int:
    """Return the low 32 bits of *value* as a signed immediate."""
    # The immediate field is an s32; values such as the lower half of an address may be unsigned.
    return (value & 0xFFFFFFFF) - ((value & 0x80000000) << 1)


class Code(Sequence[Instruction]):
    """A sequence of instructions, kept as the code for the kernel (*data*) and decoded on access.

    It is equal to any sequence of the same instructions. Most programs are linked and loaded
    without decoding an instruction.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        if len(data) % INSN_SIZE:
            raise ValueError(f"{len(data)} bytes of code, not a multiple of {INSN_SIZE}")
        self.data = data

    def __len__(self) -> int:
        return len(self.data) // INSN_SIZE

    @overload
    def __getitem__(self, index: int) -> Instruction: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Instruction, ...]: ...
    def __getitem__(self, index: int | slice) -> Instruction | tuple[Instruction, ...]:
        if isinstance(index, slice):
            return tuple([self[at] for at in range(*index.indices(len(self)))])
        return Instruction.decode(self.data, range(len(self))[index] * INSN_SIZE)

    def __iter__(self) -> Iterator[Instruction]:
        # Faster than decoding slot by slot.
        for opcode, registers, offset, imm in _FORM.iter_unpack(self.data):
            yield Instruction(opcode, registers & 0xF, registers >> 4, offset, imm)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Code):
            return self.data == other.data
        # Specs made by hand have tuples of instructions.
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"<Code of {len(self)} instructions>"


def encode(instructions: Iterable[Instruction]) -> bytes:
    """Return the code for BPF_PROG_LOAD."""
    # The bytes are already the kernel's format.
    if isinstance(instructions, Code):
        return instructions.data
    return b"".join([instruction.encode() for instruction in instructions])


def decode(code: bytes) -> tuple[Instruction, ...]:
    """Return the slots of *code*, whose length must be a multiple of eight."""
    return tuple(Code(code))


def fill(code: bytearray, index: int, *, imm: int, src: int | None = None) -> None:
    """Set the immediate, and the source register if it is given, of instruction *index*."""
    at = index * INSN_SIZE
    _IMMEDIATE.pack_into(code, at + 4, imm & 0xFFFFFFFF)
    if src is not None:
        code[at + 1] = code[at + 1] & 0xF | src << 4


def load_imm64(dst: int, value: int, *, src: int = 0) -> tuple[Instruction, Instruction]:
    """Assemble `dst = value ll`; *src* is a `PseudoSource` when *value* is a descriptor."""
    # All fields of the second slot but the immediate must be 0 (resolve_pseudo_ldimm64()
    # in kernel/bpf/verifier.c).
    upper = Instruction(0, imm=signed32(value >> 32))
    return Instruction(LD_IMM64, dst, src, imm=signed32(value)), upper


def mov_imm(dst: int, value: int) -> Instruction:
    """Assemble `dst = value`, sign-extended from 32 bits."""
    return Instruction(MOV64_IMM, dst, imm=value)


def mov_reg(dst: int, src: int) -> Instruction:
    """Assemble `dst = src`."""
    return Instruction(MOV64_REG, dst, src)


def call_helper(number: int) -> Instruction:
    """Assemble a call of the helper with that number (`FuncId`)."""
    return Instruction(CALL, imm=number)


def exit_() -> Instruction:
    """Assemble a return to the caller; the result is in register 0."""
    return Instruction(EXIT)
