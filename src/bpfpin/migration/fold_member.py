"""The instructions that move one member of a value, by its rule. Registers: 7 old, 9 new value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from bpfpin import assembler as a
from bpfpin.assembler import Assembler
from bpfpin.btf.layout import Span
from bpfpin.migration.members import MemberMove
from bpfpin.migration.request import Rule

ATOMIC_SIZES: Final = (4, 8)
TRIES: Final = 64  # of a compare-and-exchange that others disturb


def move_member(code: Assembler, move: MemberMove) -> None:
    """Move one member, as its rule says."""
    if move.is_bytes:
        _move_bytes(code, move)
    elif move.rule is Rule.SUM and is_atomic(move):
        _sum(code, move)
    else:
        _MOVERS[move.rule](code, move)


def is_atomic(move: MemberMove) -> bool:
    """Whether both sides of a number can be changed atomically: four or eight bytes, aligned."""
    return all(
        place.size in ATOMIC_SIZES and place.offset % place.size == 0
        for place in (move.old, move.new)
    )


def rebuild_key(code: Assembler, moves: Sequence[MemberMove], size: int, *, at: int) -> None:
    """Write the key of the new map to the stack, below *at*; register 6 points to the old one."""
    start = at - (size + 7) // 8 * 8
    code.set(a.R1, 0)
    for offset in range(start, at, 8):
        code.store(a.FP, offset, a.R1)
    for move in moves:
        if move.is_bytes:
            for offset, width in _pieces(move):
                code.load(a.R1, a.R6, move.old.offset + offset, width)
                code.store(a.FP, start + move.new.offset + offset, a.R1, size=width)
        else:
            _load(code, a.R6, move.old)
            _adjust(code, move)
            code.store(a.FP, start + move.new.offset, a.R1, size=move.new.size)


def _sum(code: Assembler, move: MemberMove) -> None:
    """Take the number, which leaves 0 behind, and add it."""
    done = code.new_label()
    code.set(a.R1, 0)
    code.atomic(a.ATOMIC_EXCHANGE, a.R7, move.old.offset, a.R1, size=move.old.size)
    _widen(code, move.old)
    code.jump(done, a.IF_EQUAL, a.R1, imm=0)
    _adjust(code, move)
    code.atomic(a.ATOMIC_ADD, a.R9, move.new.offset, a.R1, size=move.new.size)
    code.put(done)


def _add_plainly(code: Assembler, move: MemberMove) -> None:
    """Take and add where nothing is atomic: one or two bytes, or a place that is not aligned."""
    _load(code, a.R7, move.old)
    code.set(a.R2, 0)
    code.store(a.R7, move.old.offset, a.R2, size=move.old.size)
    _adjust(code, move)
    code.load(a.R2, a.R9, move.new.offset, move.new.size)
    code.emit(a.ADD_REG, a.R2, src=a.R1)
    code.store(a.R9, move.new.offset, a.R2, size=move.new.size)


def _keep_old(code: Assembler, move: MemberMove) -> None:
    _load(code, a.R7, move.old)
    _adjust(code, move)
    code.store(a.R9, move.new.offset, a.R1, size=move.new.size)


def _keep_new(code: Assembler, move: MemberMove) -> None:
    """Write the old number where there is still 0."""
    _load(code, a.R7, move.old)
    _adjust(code, move)
    _replace_zero(code, move.new)


def _replace_zero(code: Assembler, new: Span) -> None:
    if new.size in ATOMIC_SIZES and new.offset % new.size == 0:
        code.set(a.R0, 0)
        code.atomic(a.ATOMIC_COMPARE_EXCHANGE, a.R9, new.offset, a.R1, size=new.size)
        return
    taken = code.new_label()
    code.load(a.R2, a.R9, new.offset, new.size)
    code.jump(taken, a.IF_NOT_EQUAL, a.R2, imm=0)
    code.store(a.R9, new.offset, a.R1, size=new.size)
    code.put(taken)


def _keep_greater(code: Assembler, move: MemberMove) -> None:
    # Where numbers may be negative, the 0 of a new entry would else win over them.
    is_signed = move.new.is_signed
    _keep_best(code, move, a.IF_BELOW_REG[is_signed], zero_loses=is_signed)


def _keep_lesser(code: Assembler, move: MemberMove) -> None:
    _keep_best(code, move, a.IF_ABOVE_REG[move.new.is_signed], zero_loses=True)


def _keep_best(code: Assembler, move: MemberMove, better: int, *, zero_loses: bool) -> None:
    """Write the old number if the one that is there (register 2) is not as good.

    *better* is the jump that is taken if it is to be replaced; with *zero_loses* 0 is no number.
    """
    done, again, replace = code.new_label(), code.new_label(), code.new_label()
    _load(code, a.R7, move.old)
    _adjust(code, move)
    if zero_loses:
        code.jump(done, a.IF_EQUAL, a.R1, imm=0)
    code.set(a.R3, 0)
    code.put(again)
    code.load(a.R2, a.R9, move.new.offset, move.new.size)
    if move.new.is_signed:
        code.sign_extend(a.R2, move.new.size)
    if zero_loses:
        code.jump(replace, a.IF_EQUAL, a.R2, imm=0)
    code.jump(replace, better, a.R2, src=a.R1)
    code.jump(done)
    code.put(replace)
    _exchange(code, move.new, again, done)
    code.put(done)


def _exchange(code: Assembler, new: Span, again: str, done: str) -> None:
    """Replace register 2 by register 1 in the new value, unless others changed it meanwhile."""
    if new.size not in ATOMIC_SIZES or new.offset % new.size:
        code.store(a.R9, new.offset, a.R1, size=new.size)
        return
    code.move(a.R0, a.R2)
    code.move(a.R4, a.R1)  # the operation leaves its operand as it is, but of its size alone
    code.atomic(a.ATOMIC_COMPARE_EXCHANGE, a.R9, new.offset, a.R4, size=new.size)
    if new.is_signed:
        code.sign_extend(a.R0, new.size)
    code.jump(done, a.IF_EQUAL_REG, a.R0, src=a.R2)
    code.add(a.R3, 1)
    code.jump(again, a.IF_BELOW, a.R3, imm=TRIES)


def _move_bytes(code: Assembler, move: MemberMove) -> None:
    """Copy bytes; with any rule but `KEEP_OLD` only over zeros."""
    taken = code.new_label()
    if move.rule is not Rule.KEEP_OLD:
        code.set(a.R2, 0)
        for offset, width in _pieces(move):
            code.load(a.R1, a.R9, move.new.offset + offset, width)
            code.emit(a.OR_REG, a.R2, src=a.R1)
        code.jump(taken, a.IF_NOT_EQUAL, a.R2, imm=0)
    for offset, width in _pieces(move):
        code.load(a.R1, a.R7, move.old.offset + offset, width)
        code.store(a.R9, move.new.offset + offset, a.R1, size=width)
    code.put(taken)


def _pieces(move: MemberMove) -> Iterator[tuple[int, int]]:
    """Yield offset and width of the parts that one instruction each copies, all aligned."""
    at, end = 0, min(move.old.size, move.new.size)
    while at < end:
        width = next(
            size
            for size in (8, 4, 2, 1)
            if at + size <= end
            and (move.old.offset + at) % size == 0
            and (move.new.offset + at) % size == 0
        )
        yield at, width
        at += width


def _load(code: Assembler, base: int, place: Span) -> None:
    """Let register 1 be the number at *place*."""
    code.load(a.R1, base, place.offset, place.size)
    _widen(code, place)


def _widen(code: Assembler, place: Span) -> None:
    if place.is_signed:
        code.sign_extend(a.R1, place.size)


def _adjust(code: Assembler, move: MemberMove) -> None:
    """Give register 1 the number that it has in the new map."""
    if move.renumbered:
        _renumber(code, move.renumbered)
    if move.limits is not None:
        _limit(code, move)


def _renumber(code: Assembler, renumbered: Sequence[tuple[int, int]]) -> None:
    done = code.new_label()
    for old, new in renumbered:
        following = code.new_label()
        code.set(a.R2, old)
        code.jump(following, a.IF_NOT_EQUAL_REG, a.R1, src=a.R2)
        code.set(a.R1, new)
        code.jump(done)
        code.put(following)
    code.put(done)


def _limit(code: Assembler, move: MemberMove) -> None:
    """Bring the number between the limits; what is there is compared as the old side reads it."""
    assert move.limits is not None
    low, high = move.limits
    is_signed = move.old.is_signed
    above, done = code.new_label(), code.new_label()
    if is_signed:
        code.set(a.R2, low)
        code.jump(above, a.IF_NOT_BELOW_REG[is_signed], a.R1, src=a.R2)
        code.move(a.R1, a.R2)
        code.put(above)
    code.set(a.R2, high)
    code.jump(done, a.IF_NOT_BELOW_REG[is_signed], a.R2, src=a.R1)
    code.move(a.R1, a.R2)
    code.put(done)


_MOVERS: Final[dict[Rule, Callable[[Assembler, MemberMove], None]]] = {
    Rule.SUM: _add_plainly,
    Rule.KEEP_NEW: _keep_new,
    Rule.KEEP_OLD: _keep_old,
    Rule.MAX: _keep_greater,
    Rule.MIN: _keep_lesser,
}
