"""Structures of numbers for tests of migration, and what moving their values comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Array, BtfType, Int, IntEncoding, Member, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.migration.request import Rule

WORDS = {
    f"{letter}{bits}": Int(
        f"{letter}{bits}", bits // 8, bits, IntEncoding.SIGNED if letter == "s" else IntEncoding(0)
    )
    for letter in "us"
    for bits in (8, 16, 32, 64)
}
CHAR = Int("char", 1, 8, IntEncoding.SIGNED | IntEncoding.CHAR)


@dataclass(frozen=True)
class Field:
    """One member: `Field("packets", "u64")`, with *length* an array."""

    name: str
    word: str
    length: int = 0

    @property
    def number(self) -> Int:
        """The type of the member, or of an element of it."""
        return WORDS.get(self.word, CHAR)

    def limits(self) -> tuple[int, int]:
        """Return the least and the greatest number that it can hold."""
        bits = self.number.bits
        is_signed = self.word.startswith("s")
        return (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)


def struct_of(fields: Sequence[Field], *extra: tuple[str, BtfType]) -> TypeRef:
    """Return the structure that a C compiler makes of *fields*; *extra* follow at the end."""
    types, members, end, widest = BtfBuilder(), [], 0, 1
    index = types.add(Int("unsigned int", 4, 32))
    for each in fields:
        kind = each.number
        type_id = types.add(kind)
        if each.length:
            type_id = types.add(Array(type_id, index, each.length))
        end = -(-end // kind.size) * kind.size
        members.append(Member(each.name, type_id, 8 * end))
        end, widest = end + kind.size * (each.length or 1), max(widest, kind.size)
    for name, made in extra:
        members.append(Member(name, types.add(made), 8 * end))
        end += getattr(made, "size", 0)
    size = -(-end // widest) * widest
    last = types.add(Struct("value", size, tuple(members)))
    return Btf.parse(types.build()).ref(last)


def folded(rule: Rule, old: int, new: int, *, out_of: Field, into: Field) -> int:
    """Return what becomes of the old number where *new* is already, by *rule* and clamped."""
    if rule is Rule.SUM:
        (lowest, highest), (low, high) = out_of.limits(), into.limits()
        # Counters of 64 bits never get as far as their limit.
        is_counter = high - low == (1 << 64) - 1 and low <= lowest and highest <= high
        return wrapped(old + new, into) if is_counter else cut(old + new, into)
    if rule is Rule.KEEP_OLD:
        return old
    if rule is Rule.KEEP_NEW:
        return new or old
    said = [one for one in (old, new) if one]  # a 0 of a new entry is no number yet
    return (max if rule is Rule.MAX else min)(said, default=0)


def cut(number: int, into: Field) -> int:
    """Return the number as it is kept where it is cut to what there is room for."""
    low, high = into.limits()
    return min(max(number, low), high)


def wrapped(number: int, into: Field) -> int:
    """Return the number as it is kept where there may be too little room for it."""
    low, high = into.limits()
    return (number - low) % (high - low + 1) + low
