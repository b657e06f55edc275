"""Moving the parts of one value in user space, by the same moves that a fold is generated from.

For values that nobody counts in: those of a file. Where a fold adds to what programs have counted
since, here nothing was: every rule gives what the old value says. Rules decide where several old
values become one, of several CPUs or keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from bpfpin.pins.migration.moves import Move, Place
from bpfpin.pins.migration.rules import Rule


def apply(moves: Sequence[Move], old: bytes, start: bytes) -> bytes:
    """Return *start*, a new key or value, with the parts of *old* that come over."""
    new = bytearray(start)
    for move in moves:
        if move.is_bytes:
            size = min(move.old.size, move.new.size)
            new[move.new.offset : move.new.offset + size] = _part(old, move.old)[:size]
        else:
            _write(new, move.new, _adjusted(move, _read(old, move.old)))
    return bytes(new)


def joined(moves: Sequence[Move], values: Sequence[bytes]) -> bytes:
    """Return the one value that several new ones become, by the rules; of the rest the first one's.

    `OverflowError` names a sum that has no room; with limits it becomes what has.
    """
    new = bytearray(values[0])
    for move in moves if len(values) > 1 else ():
        if move.is_bytes:
            parts = [_part(value, move.new) for value in values]
            _put(new, move.new, _kept(move, parts))
        else:
            numbers = [_read(value, move.new) for value in values]
            _write(new, move.new, _within(move, _JOINS[move.rule](move, numbers)))
    return bytes(new)


def _kept(move: Move, parts: Sequence[bytes]) -> bytes:
    if move.rule is Rule.KEEP_OLD:
        return parts[-1]
    return next(filter(any, parts), parts[0])


def _adjusted(move: Move, number: int) -> int:
    number = dict(move.renumbered).get(number, number)
    if move.limits is None:
        return number
    low, high = move.limits
    return min(max(number, low), high)


def _within(move: Move, number: int) -> int:
    bits = 8 * move.new.size - move.new.is_signed
    low, high = -(1 << bits) if move.new.is_signed else 0, (1 << bits) - 1
    if low <= number <= high:
        return number
    if move.limits is None:
        raise OverflowError(f"{move.path or 'value'}: {number} is more than it has room for")
    return min(max(number, low), high)


def _least(numbers: Sequence[int]) -> int:
    return min(filter(None, numbers), default=0)


def _greatest(move: Move, numbers: Sequence[int]) -> int:
    # As in a fold: where numbers may be negative, 0 is no number yet.
    return max(filter(None, numbers), default=0) if move.new.is_signed else max(numbers)


_JOINS: Final[dict[Rule, Callable[[Move, Sequence[int]], int]]] = {
    Rule.SUM: lambda _, numbers: sum(numbers),
    Rule.KEEP_NEW: lambda _, numbers: next(filter(None, numbers), 0),
    Rule.KEEP_OLD: lambda _, numbers: numbers[-1],
    Rule.MAX: _greatest,
    Rule.MIN: lambda _, numbers: _least(numbers),
}


def _part(data: bytes | bytearray, place: Place) -> bytes:
    return bytes(data[place.offset : place.offset + place.size])


def _read(data: bytes | bytearray, place: Place) -> int:
    return int.from_bytes(_part(data, place), "little", signed=place.is_signed)


def _write(data: bytearray, place: Place, number: int) -> None:
    bits = 8 * place.size
    _put(data, place, (number & ((1 << bits) - 1)).to_bytes(place.size, "little"))


def _put(data: bytearray, place: Place, part: bytes) -> None:
    data[place.offset : place.offset + place.size] = part
