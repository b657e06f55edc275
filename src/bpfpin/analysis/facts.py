"""The abstract values of the interpreter: what a register or a stack slot may hold.

The analysis is a *may* analysis. A register holds a set of facts, and at run time one of them is
true; where two paths meet, the set is the union of both. So a write is reported if any path could
make it, and nothing is missed as long as every instruction keeps all facts that remain possible.

The sets stay finite, so that the interpreter ends: more than `FACTS_MAX` facts are widened.
Widening forgets constants and offsets and never brings them back (`_is_covered`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, Self

FACTS_MAX: Final = 8  # facts of one register; beyond that, offsets and constants are forgotten
REGISTERS: Final = 11
FRAME_POINTER: Final = 10


class FactKind(Enum):
    """What a register may hold, as far as maps are concerned."""

    ANYTHING = "anything"
    NUMBER = "number"  # a constant
    MAP = "map"  # the address of the map itself
    # In a loaded program the kernel has inlined the lookups (`map_gen_lookup` of each map type,
    # kernel/bpf/arraymap.c and hashtab.c), so these three steps towards a value show.
    BASE = "base"  # where the elements of an array begin
    ELEMENT = "element"  # an element of a hash, which contains the value
    SLOT = "slot"  # the memory that holds the address of this CPU's value
    VALUE = "value"  # an address in a value, or NULL
    MISSED = "missed"  # the NULL of a lookup that found no entry
    LOADED = "loaded"  # a number read from a value and not changed
    ADDED = "added"  # a number read from a value, after an addition or subtraction
    STACK = "stack"  # an address on the stack
    CODE = "code"  # the address of a function, for a callback


class Fact(NamedTuple):
    """One possible content of a register.

    *map* is the map's name. *offset* is the position in the value or on the stack, or the constant
    itself for a number; None if it is not known. *size* is the width in bytes of a loaded number.
    *frame* is the function that owns the stack, by the index of its first instruction.
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
_COUNTERS: Final = frozenset({FactKind.LOADED, FactKind.ADDED})


def constant(value: int) -> Facts:
    """Return the facts of a constant."""
    return frozenset({Fact(FactKind.NUMBER, offset=value)})


def join_facts(left: Facts, right: Facts) -> Facts:
    """Return the facts of a register where two paths meet: the union, widened if it is large."""
    if left == right:
        return left
    both = left | right
    if len(both) > FACTS_MAX:
        return frozenset(_widened(fact) for fact in both)
    return frozenset(fact for fact in both if not _is_covered(fact, both))


def _widened(fact: Fact) -> Fact:
    return UNKNOWN_FACT if fact.kind is FactKind.NUMBER else fact._replace(offset=None)


def _is_covered(fact: Fact, others: Facts) -> bool:
    """Whether another fact is the widened form of this one.

    Without this test a loop would add the exact fact again after each widening and never end.
    """
    if fact.kind is FactKind.ANYTHING or fact.offset is None:
        return False
    return _widened(fact) in others


def sum_facts(left: Fact, right: Fact, per_cpu: frozenset[str]) -> Facts:
    """Return the facts of a sum; *per_cpu* are the maps with a value for each CPU."""
    if left.kind in _COUNTERS and right.kind in _COUNTERS:
        # Either one may be the counter that the sum is stored to.
        return frozenset({left._replace(kind=FactKind.ADDED), right._replace(kind=FactKind.ADDED)})
    # An addition commutes: let the address or the counter be on the left.
    if left.kind in (FactKind.ANYTHING, FactKind.NUMBER) and right.kind is not FactKind.ANYTHING:
        left, right = right, left
    return frozenset({_sum(left, right, per_cpu)})


def _sum(base: Fact, addend: Fact, per_cpu: frozenset[str]) -> Fact:
    step = addend.offset if addend.kind is FactKind.NUMBER else None
    if base.kind in (FactKind.VALUE, FactKind.STACK, FactKind.NUMBER):
        is_known = step is not None and base.offset is not None
        moved = base._replace(offset=(base.offset or 0) + (step or 0) if is_known else None)
        return UNKNOWN_FACT if moved.kind is FactKind.NUMBER and not is_known else moved
    if base.kind in _COUNTERS:
        return base._replace(kind=FactKind.ADDED)
    # An inlined lookup of an array adds the offset of its elements to the map's address, then the
    # index times the element's size. In a per-CPU array that leads to a pointer, not to the value.
    if base.kind is FactKind.MAP:
        return Fact(FactKind.BASE, base.map)
    if base.kind in (FactKind.BASE, FactKind.ELEMENT):
        return Fact(FactKind.SLOT if base.map in per_cpu else FactKind.VALUE, base.map)
    return UNKNOWN_FACT


def difference_fact(left: Fact, right: Fact) -> Fact:
    """Return the fact of a difference."""
    if left.kind in _COUNTERS:
        return left._replace(kind=FactKind.ADDED)
    if right.kind is FactKind.NUMBER and right.offset is not None:
        return _sum(left, right._replace(offset=-right.offset), frozenset())
    if left.kind in (FactKind.VALUE, FactKind.STACK) and right.kind is FactKind.ANYTHING:
        return left._replace(offset=None)
    return UNKNOWN_FACT


@dataclass
class State:
    """The registers and the stack before one instruction.

    *stack* holds facts by function and offset, in slots of eight bytes. *missed* are the maps whose
    last lookup found no entry on every path to here.
    """

    registers: list[Facts] = field(default_factory=lambda: [UNKNOWN] * REGISTERS)
    stack: dict[tuple[int, int], Facts] = field(default_factory=dict)
    missed: frozenset[str] = frozenset()

    @classmethod
    def at_start(cls, frame: int = 0) -> Self:
        """Return the state at the first instruction of a function: only its stack is known."""
        state = cls()
        state.registers[FRAME_POINTER] = frozenset({Fact(FactKind.STACK, frame=frame)})
        return state

    def copy(self) -> Self:
        """Return a copy that may be changed."""
        return type(self)(list(self.registers), dict(self.stack), self.missed)

    def join(self, other: State) -> bool:
        """Merge the state of another path into this one; return whether that changed anything."""
        registers = list(map(join_facts, self.registers, other.registers))
        stack = dict(self.stack)
        # A slot that one side does not know may hold anything.
        for slot in stack.keys() | other.stack.keys():
            left, right = (state.stack.get(slot, UNKNOWN) for state in (self, other))
            stack[slot] = join_facts(left, right)
        # *missed* must hold on both paths: it excuses a write, so the smaller set is the safe one.
        missed = self.missed & other.missed
        is_new = (registers, stack, missed) != (self.registers, self.stack, self.missed)
        self.registers, self.stack, self.missed = registers, stack, missed
        return is_new
