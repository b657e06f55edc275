"""Writes one function of a program: instructions, labels to jump to, maps and functions by name."""

from __future__ import annotations

from bpfpin import insn
from bpfpin.insn import Instruction
from bpfpin.spec import FunctionSpec, Reference, ReferenceKind
from bpfpin.uapi import FuncId

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, FP = range(11)

LOAD = {1: 0x71, 2: 0x69, 4: 0x61, 8: 0x79}
STORE = {1: 0x73, 2: 0x6B, 4: 0x63, 8: 0x7B}
ATOMIC = {4: 0xC3, 8: 0xDB}
ATOMIC_ADD, ATOMIC_EXCHANGE, ATOMIC_COMPARE_EXCHANGE = 0x00, 0xE1, 0xF1
ADD_IMM, ADD_REG, OR_REG = 0x07, 0x0F, 0x4F
SHIFT_LEFT, SHIFT_RIGHT_SIGNED = 0x67, 0xC7
ALWAYS, IF_EQUAL, IF_NOT_EQUAL, IF_BELOW = 0x05, 0x15, 0x55, 0xA5
IF_EQUAL_REG, IF_NOT_EQUAL_REG = 0x1D, 0x5D
# By whether the numbers are signed: jump if dst > src, dst < src, dst >= src (registers).
IF_ABOVE_REG = {False: 0x2D, True: 0x6D}
IF_BELOW_REG = {False: 0xAD, True: 0xCD}
IF_NOT_BELOW_REG = {False: 0x3D, True: 0x7D}


class Assembler:
    """A function on its way; `finish` returns it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._code: list[Instruction] = []
        self._references: list[Reference] = []
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []
        self._next = 0

    def new_label(self) -> str:
        """Return a label that no other place has."""
        self._next += 1
        return f"label {self._next}"

    def put(self, label: str) -> None:
        """Let *label* stand for the place of the next instruction."""
        self._labels[label] = len(self._code)

    def emit(
        self, opcode: int, dst: int = 0, *, src: int = 0, offset: int = 0, imm: int = 0
    ) -> None:
        """Write one instruction."""
        self._code.append(Instruction(opcode, dst, src, offset, insn.signed32(imm)))

    def move(self, dst: int, src: int) -> None:
        """Write `dst = src`."""
        self._code.append(insn.mov_reg(dst, src))

    def set(self, dst: int, value: int) -> None:
        """Write `dst = value`, of 64 bits if it must be."""
        if -(1 << 31) <= value < 1 << 31:
            self._code.append(insn.mov_imm(dst, value))
        else:
            self._code += insn.load_imm64(dst, value & (1 << 64) - 1)

    def load(self, dst: int, src: int, offset: int, size: int) -> None:
        """Write `dst = *(src + offset)`, zero-extended."""
        self.emit(LOAD[size], dst, src=src, offset=offset)

    def store(self, dst: int, offset: int, src: int, *, size: int = 8) -> None:
        """Write `*(dst + offset) = src`."""
        self.emit(STORE[size], dst, src=src, offset=offset)

    def atomic(self, what: int, dst: int, offset: int, src: int, *, size: int) -> None:
        """Write an atomic operation on `*(dst + offset)`; those that fetch leave it in *src*."""
        self.emit(ATOMIC[size], dst, src=src, offset=offset, imm=what)

    def add(self, dst: int, value: int) -> None:
        """Write `dst += value`."""
        self.emit(ADD_IMM, dst, imm=value)

    def sign_extend(self, dst: int, size: int) -> None:
        """Make a number of *size* bytes one of eight."""
        if size < 8:
            self.emit(SHIFT_LEFT, dst, imm=64 - 8 * size)
            self.emit(SHIFT_RIGHT_SIGNED, dst, imm=64 - 8 * size)

    def jump(self, label: str, opcode: int = ALWAYS, dst: int = 0, **operand: int) -> None:
        """Write a jump to *label*, if `opcode` says so of *dst* and `imm=` or `src=`."""
        self._jumps.append((len(self._code), label))
        self.emit(opcode, dst, **operand)

    def map(self, dst: int, name: str) -> None:
        """Write `dst = the map name`."""
        self._refer(ReferenceKind.MAP, name, dst)

    def function(self, dst: int, name: str) -> None:
        """Write `dst = the address of the function name`."""
        self._refer(ReferenceKind.FUNCTION, name, dst)

    def call(self, helper: FuncId) -> None:
        """Call a helper: arguments in registers 1 to 5, the answer in 0."""
        self._code.append(insn.call_helper(helper))

    def leave(self, value: int = 0) -> None:
        """Return *value*."""
        self.set(R0, value)
        self._code.append(insn.exit_())

    def finish(self, type_id: int) -> FunctionSpec:
        """Return the function; *type_id* is its BTF_KIND_FUNC."""
        code = list(self._code)
        for index, label in self._jumps:
            distance = self._labels[label] - index - 1
            code[index] = code[index]._replace(offset=distance)
        return FunctionSpec(
            self._name, ".text", tuple(code), tuple(self._references), type_id=type_id
        )

    def _refer(self, kind: ReferenceKind, name: str, dst: int) -> None:
        self._references.append(Reference(len(self._code), kind, name))
        self._code += insn.load_imm64(dst, 0)
