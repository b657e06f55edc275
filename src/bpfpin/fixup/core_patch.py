"""Writes what CO-RE found into one instruction, or makes it one that the verifier refuses.

A relocation without an answer becomes the call of a helper that does not exist, as libbpf has it:
where the program never gets there the verifier takes it out, else it names the number, and the
number names the relocation.
"""

from __future__ import annotations

from bpfpin.errors import ObjectFileError
from bpfpin.fixup.core_access import malformed_relocation
from bpfpin.fixup.core_values import Value, may_resize
from bpfpin.insn import CALL, Instruction, signed32

POISON = 195896080  # 0xbad2310: helper that marks relocation 0; the others count from here

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

    Without *target*, or where a load would have to change in a way that is not safe, the
    instruction is poisoned with *number*; returns False then. `ObjectFileError` if it is not what
    compilers mark, or has no room for the value.
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
    """Return the number of the relocation that the call of *helper* stands for, if it does."""
    return helper - POISON if POISON <= helper < 1 << 31 else None


def _poison(code: list[Instruction], index: int, number: int) -> None:
    # The second slot of a wide load too: left alone it would be an unknown opcode.
    slots = code[index : index + (2 if code[index].is_wide else 1)]
    code[index : index + len(slots)] = [Instruction(CALL, imm=POISON + number)] * len(slots)


def _with_offset(instruction: Instruction, local: Value, target: Value) -> Instruction:
    _expect(local, instruction.offset, "offset")
    if not -_OFFSET_LIMIT <= target.number < _OFFSET_LIMIT:
        raise malformed_relocation(
            f"an offset of {target.number} bytes does not fit the instruction"
        )
    opcode = instruction.opcode
    if target.bytes_held != local.bytes_held:
        opcode = _resized(opcode, local, target)
    return _changed(instruction, opcode=opcode, offset=target.number)


def _resized(opcode: int, local: Value, target: Value) -> int:
    moved = _BYTES[opcode & _SIZE_MASK]
    if moved != local.bytes_held:
        raise malformed_relocation(
            f"the instruction moves {moved} bytes of a field of {local.bytes_held}"
        )
    if target.bytes_held not in _SIZES:
        raise malformed_relocation(
            f"no instruction moves the {target.bytes_held} bytes of the field"
        )
    return opcode & ~_SIZE_MASK | _SIZES[target.bytes_held]


def _with_immediate(instruction: Instruction, local: Value, target: Value) -> Instruction:
    if instruction.opcode & _REGISTER_SOURCE:
        raise malformed_relocation("the instruction takes a register, and no number")
    _expect(local, instruction.imm, "number")
    highest = 1 << (32 if instruction.opcode & _CLASS_MASK == _ALU else 31)
    if not -(1 << 31) <= target.number < highest:
        raise malformed_relocation(f"{target.number} does not fit the 32 bits of the instruction")
    return _changed(instruction, imm=signed32(target.number))


def _with_wide_immediate(
    slots: list[Instruction], local: Value, target: Value
) -> tuple[Instruction, Instruction]:
    if len(slots) < 2 or not slots[0].is_wide or slots[0].src or slots[0].offset:
        raise malformed_relocation("the instruction is neither a load or store nor takes a number")
    low, high = slots
    if high.opcode or high.dst or high.src or high.offset:
        raise malformed_relocation("the second half of the load of a number is not one")
    held = (low.imm & 0xFFFFFFFF) | (high.imm & 0xFFFFFFFF) << 32
    if local.is_sure and held != local.number & _U64:
        raise _unexpected("number", held, local)
    upper = signed32(target.number >> 32)
    return _changed(low, imm=signed32(target.number)), _changed(high, imm=upper)


def _expect(local: Value, there: int, what: str) -> None:
    if local.is_sure and there != local.number:
        raise _unexpected(what, there, local)


def _unexpected(what: str, there: int, local: Value) -> ObjectFileError:
    return malformed_relocation(
        f"the instruction has {what} {there}, and the object's types {local.number}"
    )


def _changed(
    instruction: Instruction,
    *,
    opcode: int | None = None,
    offset: int | None = None,
    imm: int | None = None,
) -> Instruction:
    """Do what `dataclasses.replace` does, in a third of the time."""
    return Instruction(
        instruction.opcode if opcode is None else opcode,
        instruction.dst,
        instruction.src,
        instruction.offset if offset is None else offset,
        instruction.imm if imm is None else imm,
    )
