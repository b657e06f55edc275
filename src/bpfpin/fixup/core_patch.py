"""Patches one instruction with the answer of a CO-RE relocation, or poisons it.

As in libbpf (bpf_core_poison_insn()), a relocation without an answer becomes a call of a helper
that does not exist. The verifier removes it if the program cannot reach it; otherwise its log shows
the number of the helper, which identifies the relocation.
"""

from __future__ import annotations

from bpfpin.errors import ObjectFileError
from bpfpin.fixup.core_access import malformed_relocation
from bpfpin.fixup.core_values import Value, may_resize
from bpfpin.insn import CALL, Instruction, signed32

POISON = 195896080  # 0xbad2310, libbpf's helper number; relocation N has this number plus N

# Instruction classes and sizes of Documentation/bpf/standardization/instruction-set.rst.
_CLASS_MASK = 0x07
_LD, _LDX, _ST, _STX, _ALU, _ALU64 = 0x00, 0x01, 0x02, 0x03, 0x04, 0x07
_MEMORY = (_LDX, _ST, _STX)
_REGISTER_SOURCE = 0x08
_SIZE_MASK = 0x18
_SIZES = {8: 0x18, 4: 0x00, 2: 0x08, 1: 0x10}
_BYTES = {bits: size for size, bits in _SIZES.items()}
_OFFSET_LIMIT = 1 << 15
_U64 = (1 << 64) - 1


def patch(
    code: list[Instruction], index: int, local: Value, target: Value | None, *, number: int
) -> bool:
    """Change instruction *index* of *code* from the *local* value to the *target*'s.

    The instruction is poisoned if there is no target, or if a load would have to change its size in
    an unsafe way.

    Args:
        code: The instructions of the function, changed in place.
        index: Slot of the instruction.
        local: The value that the compiler wrote.
        target: The value in the target; None if it has none.
        number: Number of the relocation, for the poisoned instruction.

    Returns:
        True; False if the instruction is poisoned.

    Raises:
        ObjectFileError: The instruction cannot have such a relocation, or no room for the value.
    """
    instruction = code[index]
    kind = instruction.opcode & _CLASS_MASK
    if target is None or (kind in _MEMORY and not may_resize(local, target)):
        _poison(code, index, number)
        return False
    if kind in _MEMORY:
        code[index] = _with_offset(instruction, local, target)
    elif kind in (_ALU, _ALU64):
        code[index] = _with_immediate(instruction, local, target)
    else:
        code[index : index + 2] = _with_wide_immediate(code[index : index + 2], local, target)
    return True


def poisoned_number(helper: int) -> int | None:
    """Return the number of the relocation that a call of *helper* marks; None if it marks none."""
    # The immediate of a call is an s32.
    return helper - POISON if POISON <= helper < 1 << 31 else None


def _poison(code: list[Instruction], index: int, number: int) -> None:
    # A wide load has two slots. The second one alone would be an invalid opcode.
    slots = code[index : index + (2 if code[index].is_wide else 1)]
    code[index : index + len(slots)] = [Instruction(CALL, imm=POISON + number)] * len(slots)


def _with_offset(instruction: Instruction, local: Value, target: Value) -> Instruction:
    _expect(local, instruction.offset, "offset")
    if not -_OFFSET_LIMIT <= target.number < _OFFSET_LIMIT:
        raise malformed_relocation(
            f"an offset of {target.number} bytes does not fit the instruction"
        )
    # A field may have another size in the target; the size is part of the opcode.
    opcode = instruction.opcode
    if target.access_size != local.access_size:
        opcode = _resized(opcode, local, target)
    return _changed(instruction, opcode=opcode, offset=target.number)


def _resized(opcode: int, local: Value, target: Value) -> int:
    moved = _BYTES[opcode & _SIZE_MASK]
    if moved != local.access_size:
        raise malformed_relocation(
            f"the instruction moves {moved} bytes of a field of {local.access_size}"
        )
    if target.access_size not in _SIZES:
        raise malformed_relocation(
            f"no instruction moves the {target.access_size} bytes of the field"
        )
    return opcode & ~_SIZE_MASK | _SIZES[target.access_size]


def _with_immediate(instruction: Instruction, local: Value, target: Value) -> Instruction:
    if instruction.opcode & _REGISTER_SOURCE:
        raise malformed_relocation("the instruction has a register as its source, not a number")
    # 32-bit arithmetic uses the immediate as unsigned, 64-bit arithmetic sign-extends it.
    _expect(local, instruction.imm, "number")
    highest = 1 << (32 if instruction.opcode & _CLASS_MASK == _ALU else 31)
    if not -(1 << 31) <= target.number < highest:
        raise malformed_relocation(f"{target.number} does not fit the 32 bits of the instruction")
    return _changed(instruction, imm=signed32(target.number))


def _with_wide_immediate(
    slots: list[Instruction], local: Value, target: Value
) -> tuple[Instruction, Instruction]:
    if len(slots) < 2 or not slots[0].is_wide or slots[0].src or slots[0].offset:
        raise malformed_relocation("the instruction has neither an offset nor a number to patch")
    low, high = slots
    if high.opcode or high.dst or high.src or high.offset:
        raise malformed_relocation("the second half of a 64-bit load is malformed")
    current = (low.imm & 0xFFFFFFFF) | (high.imm & 0xFFFFFFFF) << 32
    if local.is_sure and current != local.number & _U64:
        raise _unexpected("number", current, local)
    upper = signed32(target.number >> 32)
    return _changed(low, imm=signed32(target.number)), _changed(high, imm=upper)


def _expect(local: Value, current: int, what: str) -> None:
    # A different number means that something else has changed the instruction since compilation, or
    # that BTF and code do not belong together.
    if local.is_sure and current != local.number:
        raise _unexpected(what, current, local)


def _unexpected(what: str, current: int, local: Value) -> ObjectFileError:
    return malformed_relocation(
        f"the instruction has {what} {current}, and the object's types {local.number}"
    )


def _changed(
    instruction: Instruction,
    *,
    opcode: int | None = None,
    offset: int | None = None,
    imm: int | None = None,
) -> Instruction:
    """Return a changed copy; a third of the time of `_replace`."""
    return Instruction(
        instruction.opcode if opcode is None else opcode,
        instruction.dst,
        instruction.src,
        instruction.offset if offset is None else offset,
        instruction.imm if imm is None else imm,
    )
