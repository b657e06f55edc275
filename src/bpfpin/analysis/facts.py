"""What is known of a register or a place on the stack, at one instruction of a program.

A thing may be several: what two ways through the program bring together is all that either brought.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, Self

FACTS_MAX: Final = 8  # of one register; beyond that, numbers are forgotten
REGISTERS: Final = 11
FRAME_POINTER: Final = 10


class FactKind(Enum):
    """What a register may hold, as far as maps are concerned."""

    ANYTHING = "anything"
    NUMBER = "number"
    MAP = "map"
    BASE = "base"  # inlined lookups: where an array's elements begin
    ELEMENT = "element"  # … an element of a hash, of which the value is a part
    SLOT = "slot"  # … where the address of this CPU's value is
    VALUE = "value"  # an address in a value, or no address at all
    MISSED = "missed"  # what a lookup answered that found nothing
    LOADED = "loaded"  # a number as it was in a value
    ADDED = "added"  # … and what something was added to
    STACK = "stack"
    CODE = "code"


class Fact(NamedTuple):
    """One of the things that a register may be; *offset* None is an unknown one.

    *map* names the map, *offset* is where in its value, of a number the number, on the stack that
    of the function which *frame* numbers.
    """

    kind: FactKind
    map: str = ""
    offset: int | None = 0
    size: int = 0
    frame: int = 0


Facts = frozenset[Fact]
UNKNOWN_FACT: Final = Fact(FactKind.ANYTHING)
UNKNOWN: Final[Facts] = frozenset({UNKNOWN_FACT})
POINTERS: Final = frozenset({FactKind.VALUE, FactKind.ELEMENT})
_COUNTED: Final = frozenset({FactKind.LOADED, FactKind.ADDED})


def constant(value: int) -> Facts:
    """Return what is known of a constant."""
    return frozenset({Fact(FactKind.NUMBER, offset=value)})


def join_facts(one: Facts, other: Facts) -> Facts:
    """Return what a register is that is *one* or the *other*."""
    if one == other:
        return one
    both = one | other
    if len(both) > FACTS_MAX:
        return frozenset(_without_number(each) for each in both)
    return frozenset(one for one in both if not _is_covered(one, both))


def _without_number(fact: Fact) -> Fact:
    return UNKNOWN_FACT if fact.kind is FactKind.NUMBER else fact._replace(offset=None)


def _is_covered(fact: Fact, others: Facts) -> bool:
    """Whether another fact says less of the same; what was forgotten must not come back."""
    if fact.kind is FactKind.ANYTHING or fact.offset is None:
        return False
    return _without_number(fact) in others


def sum_facts(left: Fact, right: Fact, per_cpu: frozenset[str]) -> Facts:
    """Return what the sum of two things is."""
    if left.kind in _COUNTED and right.kind in _COUNTED:
        return frozenset({left._replace(kind=FactKind.ADDED), right._replace(kind=FactKind.ADDED)})
    if left.kind in (FactKind.ANYTHING, FactKind.NUMBER) and right.kind is not FactKind.ANYTHING:
        left, right = right, left
    return frozenset({_sum(left, right, per_cpu)})


def _sum(what: Fact, by: Fact, per_cpu: frozenset[str]) -> Fact:
    step = by.offset if by.kind is FactKind.NUMBER else None
    if what.kind in (FactKind.VALUE, FactKind.STACK, FactKind.NUMBER):
        is_known = step is not None and what.offset is not None
        moved = what._replace(offset=(what.offset or 0) + (step or 0) if is_known else None)
        return UNKNOWN_FACT if moved.kind is FactKind.NUMBER and not is_known else moved
    if what.kind in _COUNTED:
        return what._replace(kind=FactKind.ADDED)
    if what.kind is FactKind.MAP:
        return Fact(FactKind.BASE, what.map)
    if what.kind in (FactKind.BASE, FactKind.ELEMENT):
        return Fact(FactKind.SLOT if what.map in per_cpu else FactKind.VALUE, what.map)
    return UNKNOWN_FACT


def difference_fact(left: Fact, right: Fact) -> Fact:
    """Return what the difference of two things is."""
    if left.kind in _COUNTED:
        return left._replace(kind=FactKind.ADDED)
    if right.kind is FactKind.NUMBER and right.offset is not None:
        return _sum(left, right._replace(offset=-right.offset), frozenset())
    if left.kind in (FactKind.VALUE, FactKind.STACK) and right.kind is FactKind.ANYTHING:
        return left._replace(offset=None)
    return UNKNOWN_FACT


@dataclass
class State:
    """All that is known at one instruction; *missed* are maps that the last lookup found no key in.

    The *stack* is kept by function and offset, in pieces of eight bytes.
    """

    registers: list[Facts] = field(default_factory=lambda: [UNKNOWN] * REGISTERS)
    stack: dict[tuple[int, int], Facts] = field(default_factory=dict)
    missed: frozenset[str] = frozenset()

    @classmethod
    def at_start(cls, frame: int = 0) -> Self:
        """Return what is known where a function begins."""
        state = cls()
        state.registers[FRAME_POINTER] = frozenset({Fact(FactKind.STACK, frame=frame)})
        return state

    def copy(self) -> Self:
        """Return one that may be changed."""
        return type(self)(list(self.registers), dict(self.stack), self.missed)

    def join(self, other: State) -> bool:
        """Take in what is known on another way to here; whether that is anything new."""
        registers = list(map(join_facts, self.registers, other.registers))
        stack = dict(self.stack)
        for place in stack.keys() | other.stack.keys():
            here, there = (each.stack.get(place, UNKNOWN) for each in (self, other))
            stack[place] = join_facts(here, there)
        missed = self.missed & other.missed
        is_new = (registers, stack, missed) != (self.registers, self.stack, self.missed)
        self.registers, self.stack, self.missed = registers, stack, missed
        return is_new
