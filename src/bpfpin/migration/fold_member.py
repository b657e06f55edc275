"""Generates the instructions that move one member of a value, by its rule.

Register 7 points to the old value and register 9 to the new one; register 8 points to the counters
of the run. Registers 0 to 5 are scratch.

Exact is `sum`, of 4 or 8 aligned bytes on both sides (see `fold_program`). The kernel has no
other atomic operations: "invalid atomic operand size" for 1 and 2 bytes, "misaligned" otherwise
(check_atomic() of kernel/bpf/verifier.c). Smaller counters are added plainly; `exact` then says
that the result is not exact if programs write them.

Members of packed types may be at any offset. The verifier takes misaligned loads and stores of map
keys and values where the machine can do them, as x86-64 and arm64 can (check_ptr_alignment()), but
none of the stack, where new keys are built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import bpfpin.assembler as a
from bpfpin.assembler import Assembler
from bpfpin.btf.layout import Span
from bpfpin.migration.members import MemberMove
from bpfpin.migration.request import Rule

ATOMIC_SIZES: Final = (4, 8)
# The counter, below register 8, of numbers that stayed because the new programs changed them at
# every try.
GAVE_UP: Final = 24
# Tries of a compare-and-exchange loop. The verifier needs a bound; a failed try means that another
# CPU changed the number in between.
TRIES: Final = 64


def move_member(code: Assembler, move: MemberMove) -> None:
    """Generate the move of one member, by its rule."""
    if move.is_bytes:
        _move_bytes(code, move)
    elif move.rule is Rule.SUM and is_atomic(move):
        _sum(code, move)
    else:
        _MOVERS[move.rule](code, move)


def is_atomic(move: MemberMove) -> bool:
    """Whether both the old and the new number can be changed atomically: 4 or 8 bytes, aligned."""
    return all(
        place.size in ATOMIC_SIZES and place.offset % place.size == 0
        for place in (move.old, move.new)
    )


def rebuild_key(code: Assembler, moves: Sequence[MemberMove], size: int, *, at: int) -> None:
    """Generate the new key, on the stack below *at*; register 6 points to the old key."""
    start = at - (size + 7) // 8 * 8
    # Zeros first, padding too: a hash compares keys by all their bytes.
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
            _store_on_stack(code, start + move.new.offset, move.new.size)


def _store_on_stack(code: Assembler, offset: int, size: int) -> None:
    """Store the number in register 1, byte by byte where it is not aligned."""
    if offset % size == 0:
        code.store(a.FP, offset, a.R1, size=size)
        return
    for index in range(size):
        code.store(a.FP, offset + index, a.R1, size=1)
        code.emit(a.SHIFT_RIGHT, a.R1, imm=8)


def _sum(code: Assembler, move: MemberMove) -> None:
    """Take the number by an exchange with 0, and add it atomically; a 0 needs no addition."""
    done = code.new_label()
    code.set(a.R1, 0)
    # Taken before it is added: a second fold, at the same time or after a crash, finds 0 here. No
    # signal ends a run between the two.
    code.atomic(a.ATOMIC_EXCHANGE, a.R7, move.old.offset, a.R1, size=move.old.size)
    _widen(code, move.old)
    code.jump(done, a.IF_EQUAL, a.R1, imm=0)
    _adjust(code, move)
    if move.saturates:
        _add_saturating(code, move.new, done)
    code.atomic(a.ATOMIC_ADD, a.R9, move.new.offset, a.R1, size=move.new.size)
    code.put(done)


def _add_saturating(code: Assembler, new: Span, done: str) -> None:
    """Add register 1 by compare and exchange, cut to the range; jump to *done* unless that fails.

    The number was taken from the old map already. So after the last try it is added as usual: it
    must not be lost, and a sum that wraps needs a number that changes all the time as well.
    """
    again = code.new_label()
    code.set(a.R3, 0)
    code.put(again)
    _load_sum(code, new)
    _compare_exchange(code, new, again, done)


def _load_sum(code: Assembler, new: Span) -> None:
    """Load the new number into register 2, and its sum with register 1, cut, into register 4."""
    code.load(a.R2, a.R9, new.offset, new.size)
    if new.is_signed:
        code.sign_extend(a.R2, new.size)
    code.move(a.R4, a.R2)
    code.emit(a.ADD_REG, a.R4, src=a.R1)
    bits = 8 * new.size - new.is_signed
    is_not_below = a.IF_NOT_BELOW_REG[new.is_signed]
    inside = code.new_label()
    if new.size == 8:
        # Only numbers of another signedness are limited to eight bytes, and to what both can hold:
        # register 1 is not negative. A sum that is below the number has wrapped.
        code.jump(inside, is_not_below, a.R4, src=a.R2)
        code.set(a.R4, (1 << bits) - 1)
        code.put(inside)
        return
    # The sum of two shorter numbers fits into the register.
    if new.is_signed:
        above = code.new_label()
        code.set(a.R5, -(1 << bits))
        code.jump(above, is_not_below, a.R4, src=a.R5)
        code.move(a.R4, a.R5)
        code.put(above)
    code.set(a.R5, (1 << bits) - 1)
    code.jump(inside, is_not_below, a.R5, src=a.R4)
    code.move(a.R4, a.R5)
    code.put(inside)


def _add_plainly(code: Assembler, move: MemberMove) -> None:
    """Take and add without atomic operations: one or two bytes, or not aligned.

    Taking is safe, since nothing else writes the old map any more. Adding is not, if new programs
    write the number at the same time.
    """
    _load(code, a.R7, move.old)
    code.set(a.R2, 0)
    # 0 is written before the addition, so that a fold that runs again adds nothing.
    code.store(a.R7, move.old.offset, a.R2, size=move.old.size)
    _adjust(code, move)
    if move.saturates:
        _load_sum(code, move.new)
        code.store(a.R9, move.new.offset, a.R4, size=move.new.size)
        return
    code.load(a.R2, a.R9, move.new.offset, move.new.size)
    code.emit(a.ADD_REG, a.R2, src=a.R1)
    code.store(a.R9, move.new.offset, a.R2, size=move.new.size)


def _keep_old(code: Assembler, move: MemberMove) -> None:
    _load(code, a.R7, move.old)
    _adjust(code, move)
    code.store(a.R9, move.new.offset, a.R1, size=move.new.size)


def _keep_new(code: Assembler, move: MemberMove) -> None:
    """Write the old number if the new one is still 0."""
    _load(code, a.R7, move.old)
    _adjust(code, move)
    _replace_zero(code, move.new)


def _replace_zero(code: Assembler, new: Span) -> None:
    if new.size in ATOMIC_SIZES and new.offset % new.size == 0:
        code.set(a.R0, 0)
        # The operation compares with register 0: only a number that is still 0 is replaced.
        code.atomic(a.ATOMIC_COMPARE_EXCHANGE, a.R9, new.offset, a.R1, size=new.size)
        return
    taken = code.new_label()
    code.load(a.R2, a.R9, new.offset, new.size)
    code.jump(taken, a.IF_NOT_EQUAL, a.R2, imm=0)
    code.store(a.R9, new.offset, a.R1, size=new.size)
    code.put(taken)


def _keep_greater(code: Assembler, move: MemberMove) -> None:
    # A new entry starts at 0, which would win over every negative old number.
    is_signed = move.new.is_signed
    _keep_best(code, move, a.IF_BELOW_REG[is_signed], zero_loses=is_signed)


def _keep_lesser(code: Assembler, move: MemberMove) -> None:
    _keep_best(code, move, a.IF_ABOVE_REG[move.new.is_signed], zero_loses=True)


def _keep_best(code: Assembler, move: MemberMove, better: int, *, zero_loses: bool) -> None:
    """Write the old number if it is better than the new one (register 2).

    *better* is the jump that is taken if the new number is to be replaced. With *zero_loses* a 0
    stands for "no number yet" on both sides.
    """
    done, again, replace = code.new_label(), code.new_label(), code.new_label()
    _load(code, a.R7, move.old)
    _adjust(code, move)
    if zero_loses:
        code.jump(done, a.IF_EQUAL, a.R1, imm=0)
    # Register 3 counts the tries.
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


def _compare_exchange(code: Assembler, new: Span, again: str, done: str) -> None:
    """Put register 4 in the place of the number in register 2, and go to *done*.

    If another program changed the number meanwhile, go to *again*, at most TRIES times in all
    (register 3 counts).
    """
    code.move(a.R0, a.R2)
    code.atomic(a.ATOMIC_COMPARE_EXCHANGE, a.R9, new.offset, a.R4, size=new.size)
    if new.is_signed:
        code.sign_extend(a.R0, new.size)
    code.jump(done, a.IF_EQUAL_REG, a.R0, src=a.R2)
    code.add(a.R3, 1)
    code.jump(again, a.IF_BELOW, a.R3, imm=TRIES)


def _exchange(code: Assembler, new: Span, again: str, done: str) -> None:
    """Replace the number in register 2 by that in register 1, if no one changed it meanwhile."""
    if new.size not in ATOMIC_SIZES or new.offset % new.size:
        code.store(a.R9, new.offset, a.R1, size=new.size)
        return
    code.move(a.R4, a.R1)  # a copy, since the operation keeps only its own size of it
    _compare_exchange(code, new, again, done)
    # After the last try the number of the new programs stays: they changed it at every try. The old
    # number stays, too, so that another run can move it.
    code.load(a.R1, a.R8, GAVE_UP, 8)
    code.add(a.R1, 1)
    code.store(a.R8, GAVE_UP, a.R1)


def _move_bytes(code: Assembler, move: MemberMove) -> None:
    """Copy bytes; by any rule but `KEEP_OLD` only over zeros, which the new program has not set."""
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
    """Yield offset and width of the pieces that one aligned load and store can copy."""
    at, end = 0, min(move.old.size, move.new.size)
    while at < end:
        # The verifier refuses misaligned access to the stack, where new keys are built, and on
        # machines without unaligned access to values, too.
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
    """Load the number at *place* into register 1, extended to 64 bits by its sign."""
    code.load(a.R1, base, place.offset, place.size)
    _widen(code, place)


def _widen(code: Assembler, place: Span) -> None:
    if place.is_signed:
        code.sign_extend(a.R1, place.size)


def _adjust(code: Assembler, move: MemberMove) -> None:
    """Convert the number in register 1 to the new map: renumbered, then brought into limits."""
    if move.renumbered:
        _renumber(code, move.renumbered)
    if move.limits is not None:
        _limit(code, move)


def _renumber(code: Assembler, renumbered: Sequence[tuple[int, int]]) -> None:
    done = code.new_label()
    for old, new in renumbered:
        following = code.new_label()
        # A constant of 64 bits, for enumerators of eight bytes and for negative ones.
        code.set(a.R2, old)
        code.jump(following, a.IF_NOT_EQUAL_REG, a.R1, src=a.R2)
        code.set(a.R1, new)
        code.jump(done)
        code.put(following)
    code.put(done)


def _limit(code: Assembler, move: MemberMove) -> None:
    """Bring the number in register 1 into the limits, compared with the old member's signedness."""
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
