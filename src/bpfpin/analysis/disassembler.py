"""Instructions as text, in the words of the kernel's verifier log and of bpftool.

The forms are those of print_bpf_insn() of kernel/bpf/disasm.c. Names that only the caller knows, of
maps and functions, come from a `Names`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Final

from bpfpin.insn import Instruction
from bpfpin.records import dataclass
from bpfpin.uapi import PseudoCall, PseudoSource

# The fields of an opcode: enum values of linux/bpf_common.h and linux/bpf.h.
_LD, _LDX, _ST, _STX, _ALU, _JMP, _JMP32, _ALU64 = range(8)
_IMM, _ABS, _IND, _MEM, _MEMSX, _ATOMIC, _NOSPEC = 0x00, 0x20, 0x40, 0x60, 0x80, 0xC0, 0xC0
_FROM_REGISTER: Final = 0x08
_DOUBLE_WORD: Final = 0x18
_SIZES: Final = {0x00: "32", 0x08: "16", 0x10: "8", _DOUBLE_WORD: "64"}
_MOV, _NEG, _END, _DIV, _MOD = 0xB0, 0x80, 0xD0, 0x30, 0x90
_ALU_WORDS: Final = {
    0x00: "+=",
    0x10: "-=",
    0x20: "*=",
    _DIV: "/=",
    0x40: "|=",
    0x50: "&=",
    0x60: "<<=",
    0x70: ">>=",
    _MOD: "%=",
    0xA0: "^=",
    _MOV: "=",
    0xC0: "s>>=",
}
_JA, _CALL, _EXIT, _JCOND = 0x00, 0x80, 0x90, 0xE0
_JMP_WORDS: Final = {
    0x10: "==",
    0x20: ">",
    0x30: ">=",
    0x40: "&",
    0x50: "!=",
    0x60: "s>",
    0x70: "s>=",
    0xA0: "<",
    0xB0: "<=",
    0xC0: "s<",
    0xD0: "s<=",
}
_FETCH: Final = 0x01
_FETCHES: Final = {0x00: "add", 0x50: "and", 0x40: "or", 0xA0: "xor"}
_XCHG, _CMPXCHG, _LOAD_ACQUIRE, _STORE_RELEASE = 0xE1, 0xF1, 0x100, 0x110
_CAST, _PER_CPU = 1, -1  # BPF_ADDR_SPACE_CAST, BPF_ADDR_PERCPU


@dataclass(frozen=True, slots=True)
class Names:
    """Names for the text of a program, by the position of the instruction that refers to them.

    Attributes:
        maps: The name of the map that a 64-bit load refers to.
        calls: The function that a call reaches.
    """

    maps: Mapping[int, str] = field(default_factory=dict)
    calls: Mapping[int, str] = field(default_factory=dict)


def texts(code: Sequence[Instruction], names: Names) -> Iterator[tuple[int, str]]:
    """Yield position and text of each instruction; a 64-bit load has two positions, one text."""
    position = 0
    while position < len(code):
        insn = code[position]
        if insn.is_wide and position + 1 < len(code):
            yield position, _wide(insn, code[position + 1], names.maps.get(position, ""))
            position += 2
            continue
        yield position, _text(insn, names.calls.get(position, ""))
        position += 1


def _text(insn: Instruction, callee: str) -> str:
    kind = insn.opcode & 7
    if kind in (_ALU, _ALU64):
        text = _arithmetic(insn, "w" if kind == _ALU else "r")
    elif kind in (_JMP, _JMP32):
        text = _jump(insn, "w" if kind == _JMP32 else "r", callee)
    else:
        text = _MEMORY[kind](insn)
    return f"({insn.opcode:02x}) {text or f'unknown {insn.encode().hex()}'}"


def _arithmetic(insn: Instruction, register: str) -> str:
    operation, dst = insn.opcode & 0xF0, f"{register}{insn.dst}"
    if operation == _END:
        return _byte_order(insn)
    if operation == _NEG:
        return f"{dst} = -{dst}"
    if operation not in _ALU_WORDS:
        return ""
    # In a division by the signed rule the offset is 1, in a move with a sign it is the bits.
    is_signed = operation in (_DIV, _MOD) and insn.offset == 1
    word = ("s" if is_signed else "") + _ALU_WORDS[operation]
    if not insn.opcode & _FROM_REGISTER:
        return f"{dst} {word} {insn.imm}"
    if operation == _MOV and register == "r" and insn.offset == _CAST:
        spaces = f"{(insn.imm & 0xFFFFFFFF) >> 16}, {insn.imm & 0xFFFF}"
        return f"{dst} = addr_space_cast(r{insn.src}, {spaces})"
    if operation == _MOV and register == "r" and insn.offset == _PER_CPU:
        return f"{dst} = &(void __percpu *)(r{insn.src})"
    has_sign = operation == _MOV and insn.offset in (8, 16, 32)
    sign = f"(s{insn.offset})" if has_sign else ""
    return f"{dst} {word} {sign}{register}{insn.src}"


def _byte_order(insn: Instruction) -> str:
    order = "be" if insn.opcode & _FROM_REGISTER else "le"
    word = "bswap" if insn.opcode & 7 == _ALU64 else order
    return f"r{insn.dst} = {word}{insn.imm} r{insn.dst}"


def _jump(insn: Instruction, register: str, callee: str) -> str:
    operation = insn.opcode & 0xF0
    if operation == _CALL:
        return _call(insn, callee)
    if operation == _EXIT and register == "r":
        return "exit"
    if operation == _JCOND and register == "r":
        return f"may_goto pc{insn.offset:+d}"
    if operation == _JA:
        if insn.opcode & _FROM_REGISTER:
            return f"gotox r{insn.dst}"
        return f"goto pc{insn.offset:+d}" if register == "r" else f"gotol pc{insn.imm:+d}"
    if operation not in _JMP_WORDS:
        return ""
    from_register = insn.opcode & _FROM_REGISTER
    other = f"{register}{insn.src}" if from_register else f"{insn.imm & 0xFFFFFFFF:#x}"
    return f"if {register}{insn.dst} {_JMP_WORDS[operation]} {other} goto pc{insn.offset:+d}"


def _call(insn: Instruction, callee: str) -> str:
    if insn.src != PseudoCall.CALL:
        return f"call {callee or f'#{insn.imm}'}"
    # The kernel shows the distance of a JIT-compiled program in `offset` (`jit_subprogs()` of
    # kernel/bpf/verifier.c).
    distance = insn.offset or insn.imm
    return f"call pc{distance:+d}" + (f" <{callee}>" if callee else "")


def _wide(insn: Instruction, upper: Instruction, name: str) -> str:
    dst, number = f"({insn.opcode:02x}) r{insn.dst}", insn.imm & 0xFFFFFFFF
    if insn.src == PseudoSource.FUNC:
        return f"{dst} = subprog[{insn.imm:+d}]"
    if insn.src in (PseudoSource.MAP_FD, PseudoSource.MAP_VALUE):
        place = f"[0]+{upper.imm & 0xFFFFFFFF}" if insn.src == PseudoSource.MAP_VALUE else ""
        return f"{dst} = map[id:{number}{f' {name}' if name else ''}]{place}"
    return f"{dst} = {(upper.imm & 0xFFFFFFFF) << 32 | number:#x}"


def _load(insn: Instruction) -> str:
    size, mode = f"u{_SIZES[insn.opcode & 0x18]}", insn.opcode & 0xE0
    if mode == _ABS:
        return f"r0 = *({size} *)skb[{insn.imm}]"
    if mode == _IND:
        return f"r0 = *({size} *)skb[r{insn.src} + {insn.imm}]"
    return ""


def _load_memory(insn: Instruction) -> str:
    mode = insn.opcode & 0xE0
    if mode not in (_MEM, _MEMSX):
        return ""
    size = f"{'s' if mode == _MEMSX else 'u'}{_SIZES[insn.opcode & 0x18]}"
    return f"r{insn.dst} = *({size} *)(r{insn.src} {insn.offset:+d})"


def _store_immediate(insn: Instruction) -> str:
    if insn.opcode & 0xE0 == _NOSPEC:
        return "nospec"
    if insn.opcode & 0xE0 != _MEM:
        return ""
    return f"{_place(insn)} = {insn.imm}"


def _place(insn: Instruction) -> str:
    return f"*(u{_SIZES[insn.opcode & 0x18]} *)(r{insn.dst} {insn.offset:+d})"


def _store(insn: Instruction) -> str:
    mode = insn.opcode & 0xE0
    if mode == _MEM:
        return f"{_place(insn)} = r{insn.src}"
    return _atomic(insn) if mode == _ATOMIC else ""


def _atomic(insn: Instruction) -> str:
    size = insn.opcode & 0x18
    word, pointer = "64" if size == _DOUBLE_WORD else "", f"(u{_SIZES[size]} *)"
    place = f"{pointer}(r{insn.dst} {insn.offset:+d})"
    if insn.imm in _FETCHES:
        return f"lock {_place(insn)} {_ALU_WORDS[insn.imm]} r{insn.src}"
    if insn.imm & ~_FETCH in _FETCHES and insn.imm & _FETCH:
        operation = _FETCHES[insn.imm & ~_FETCH]
        return f"r{insn.src} = atomic{word}_fetch_{operation}({place}, r{insn.src})"
    if insn.imm == _CMPXCHG:
        return f"r0 = atomic{word}_cmpxchg({place}, r0, r{insn.src})"
    if insn.imm == _XCHG:
        return f"r{insn.src} = atomic{word}_xchg({place}, r{insn.src})"
    if insn.imm == _LOAD_ACQUIRE:
        return f"r{insn.dst} = load_acquire({pointer}(r{insn.src} {insn.offset:+d}))"
    if insn.imm == _STORE_RELEASE:
        return f"store_release({place}, r{insn.src})"
    return ""


_MEMORY: Final = {_LD: _load, _LDX: _load_memory, _ST: _store_immediate, _STX: _store}
