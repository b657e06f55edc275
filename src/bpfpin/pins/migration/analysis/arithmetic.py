"""Moves between registers, sums and differences, as far as maps are concerned."""

from __future__ import annotations

from typing import Final

from bpfpin.insn import Instruction
from bpfpin.pins.migration.analysis.facts import (
    ANY,
    ANYTHING,
    FACTS_MAX,
    Fact,
    Facts,
    Kind,
    State,
    added,
    joined,
    number,
    subtracted,
)

_ADD, _SUBTRACT, _MOVE = 0x00, 0x10, 0xB0
_REGISTER: Final = 0x08
_WIDE: Final = 0x07
_SIGN_EXTENSIONS: Final = (8, 16, 32)  # in `offset`; others say which address space it is
_ADDRESSES: Final = frozenset(Kind) - {Kind.ANYTHING, Kind.NUMBER, Kind.LOADED, Kind.ADDED}


def follow(insn: Instruction, state: State, per_cpu: frozenset[str]) -> None:
    """Follow one instruction of the classes ALU and ALU64."""
    what = state.registers[insn.src] if insn.opcode & _REGISTER else number(insn.imm)
    found = _answer(insn, state.registers[insn.dst], what, per_cpu)
    is_wide = insn.opcode & 0x07 == _WIDE
    state.registers[insn.dst] = found if is_wide else frozenset(map(_narrowed, found))


def _answer(insn: Instruction, before: Facts, what: Facts, per_cpu: frozenset[str]) -> Facts:
    operation = insn.opcode & 0xF0
    if operation == _MOVE:
        is_signed = insn.opcode & _REGISTER and insn.offset in _SIGN_EXTENSIONS
        return ANYTHING if is_signed else what
    found: Facts = frozenset()
    if operation == _ADD:
        for left in before:
            for right in what:
                found |= added(left, right, per_cpu)
    elif operation == _SUBTRACT:
        found = frozenset(subtracted(left, right) for left in before for right in what)
    else:
        return ANYTHING
    return joined(found, frozenset()) if len(found) > FACTS_MAX else found


def _narrowed(fact: Fact) -> Fact:
    """Return what is left of 32 bits: no address."""
    return ANY if fact.kind in _ADDRESSES else fact
