"""An assembler for one function: instructions, jump labels, references to maps and functions."""

from __future__ import annotations

from bpfpin import insn
from bpfpin.insn import Instruction
from bpfpin.spec import FunctionSpec, Reference, ReferenceKind
from bpfpin.uapi_helpers import FuncId

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, FP = range(11)

LOAD = {1: 0x71, 2: 0x69, 4: 0x61, 8: 0x79}
STORE = {1: 0x73, 2: 0x6B, 4: 0x63, 8: 0x7B}
ATOMIC = {4: 0xC3, 8: 0xDB}
# The immediates of atomic instructions: BPF_ADD, BPF_XCHG and BPF_CMPXCHG of linux/bpf.h. The last
# two include BPF_FETCH: the old value comes back in a register.
ATOMIC_ADD, ATOMIC_EXCHANGE, ATOMIC_COMPARE_EXCHANGE = 0x00, 0xE1, 0xF1
ADD_IMM, ADD_REG, OR_REG = 0x07, 0x0F, 0x4F
SHIFT_LEFT, SHIFT_RIGHT, SHIFT_RIGHT_SIGNED = 0x67, 0x77, 0xC7
ALWAYS, IF_EQUAL, IF_NOT_EQUAL, IF_BELOW = 0x05, 0x15, 0x55, 0xA5
IF_EQUAL_REG, IF_NOT_EQUAL_REG = 0x1D, 0x5D
# By whether the numbers are signed: jump if dst > src, dst < src, dst >= src. The kernel has no
# register form of "below or equal"; swap the operands of "not below".
IF_ABOVE_REG = {False: 0x2D, True: 0x6D}
IF_BELOW_REG = {False: 0xAD, True: 0xCD}
IF_NOT_BELOW_REG = {False: 0x3D, True: 0x7D}


class Assembler:
    """A function under construction; `finish` returns it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._code: list[Instruction] = []
        self._references: list[Reference] = []
        # Labels may be used before they are defined, so jumps are resolved at the end.
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []
        self._next = 0

    def new_label(self) -> str:
        """Return a new label."""
        self._next += 1
        return f"label {self._next}"

    def put(self, label: str) -> None:
        """Define *label* as the position of the next instruction."""
        self._labels[label] = len(self._code)

    def emit(
        self, opcode: int, dst: int = 0, *, src: int = 0, offset: int = 0, imm: int = 0
    ) -> None:
        """Append one instruction."""
        self._code.append(Instruction(opcode, dst, src, offset, insn.signed32(imm)))

    def move(self, dst: int, src: int) -> None:
        """Append `dst = src`."""
        self._code.append(insn.mov_reg(dst, src))

    def set(self, dst: int, value: int) -> None:
        """Append `dst = value`, as a 64-bit load if the value needs it."""
        if -(1 << 31) <= value < 1 << 31:
            self._code.append(insn.mov_imm(dst, value))
        else:
            self._code += insn.load_imm64(dst, value & (1 << 64) - 1)

    def load(self, dst: int, src: int, offset: int, size: int) -> None:
        """Append `dst = *(src + offset)`, zero-extended."""
        self.emit(LOAD[size], dst, src=src, offset=offset)

    def store(self, dst: int, offset: int, src: int, *, size: int = 8) -> None:
        """Append `*(dst + offset) = src`."""
        self.emit(STORE[size], dst, src=src, offset=offset)

    def atomic(self, what: int, dst: int, offset: int, src: int, *, size: int) -> None:
        """Append an atomic operation on `*(dst + offset)`; the old value, if any, goes to *src*.

        The exception is ATOMIC_COMPARE_EXCHANGE, which compares with and fetches into register 0.
        """
        self.emit(ATOMIC[size], dst, src=src, offset=offset, imm=what)

    def add(self, dst: int, value: int) -> None:
        """Append `dst += value`."""
        self.emit(ADD_IMM, dst, imm=value)

    def sign_extend(self, dst: int, size: int) -> None:
        """Append the sign extension of *dst* from *size* bytes to eight."""
        # By shifts, because loads that extend the sign (BPF_MEMSX) need Linux 6.6.
        if size < 8:
            self.emit(SHIFT_LEFT, dst, imm=64 - 8 * size)
            self.emit(SHIFT_RIGHT_SIGNED, dst, imm=64 - 8 * size)

    def jump(self, label: str, opcode: int = ALWAYS, dst: int = 0, **operand: int) -> None:
        """Append a jump to *label*, on the condition *opcode* of *dst* and `imm=` or `src=`."""
        self._jumps.append((len(self._code), label))
        self.emit(opcode, dst, **operand)

    def map(self, dst: int, name: str) -> None:
        """Append `dst = map`, a reference to map *name*."""
        self._refer(ReferenceKind.MAP, name, dst)

    def function(self, dst: int, name: str) -> None:
        """Append `dst = function`, a reference to the address of function *name*."""
        self._refer(ReferenceKind.FUNCTION, name, dst)

    def call(self, helper: FuncId) -> None:
        """Append a call of a helper: arguments in registers 1 to 5, the result in register 0."""
        self._code.append(insn.call_helper(helper))

    def leave(self, value: int = 0) -> None:
        """Append `return value`."""
        self.set(R0, value)
        self._code.append(insn.exit_())

    def finish(self, type_id: int) -> FunctionSpec:
        """Return the function with all jumps resolved; *type_id* is its BTF_KIND_FUNC."""
        code = list(self._code)
        for index, label in self._jumps:
            distance = self._labels[label] - index - 1  # counted from the next instruction
            code[index] = code[index]._replace(offset=distance)
        return FunctionSpec(
            self._name, ".text", tuple(code), tuple(self._references), type_id=type_id
        )

    def _refer(self, kind: ReferenceKind, name: str, dst: int) -> None:
        # The number stays 0: linking fills in the descriptor or the distance (`fixup/calls.py`).
        self._references.append(Reference(len(self._code), kind, name))
        self._code += insn.load_imm64(dst, 0)
