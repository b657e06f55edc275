"""Folds of small maps, and what they must come to: each rule as a line of Python."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bpfpin.btf.layout import Span
from bpfpin.migration.fold import FoldCounts, FoldPrograms, FoldSpec
from bpfpin.migration.members import MapShape, MemberMove
from bpfpin.migration.request import Rule
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapType

CPUS = possible_cpus()
MANY = 1_000_000  # so many entries, it is said, are folded in parts


@dataclass(frozen=True)
class Pair:
    """An old map and a new one; values are lists of one number list for each CPU, or for all."""

    old: Map
    new: Map

    def spec(self, moves: Sequence[MemberMove], **changes: Any) -> FoldSpec:
        """Describe the fold of one into the other."""
        sides = shape_of(self.old), shape_of(self.new)
        made: dict[str, Any] = {"start": bytes(self.new.value_size)} | changes
        return FoldSpec(*sides, moves, **made)

    def fold(self, moves: Sequence[MemberMove], **changes: Any) -> FoldCounts:
        """Fold once; return what the moving step met."""
        with FoldPrograms.load(self.spec(moves, **changes), self.old, self.new) as folding:
            folding.insert()
            return folding.move()


def shape_of(held: Map) -> MapShape:
    """Return the shape of a map."""
    kind = MapType(held.type)
    return MapShape(kind, held.key_size, held.value_size, held.max_entries)


@contextlib.contextmanager
def pair(
    old: MapType = MapType.HASH,
    new: MapType = MapType.HASH,
    *,
    entries: int = 64,
    room: int | None = None,
    key_sizes: tuple[int, int] = (4, 4),
    value_sizes: tuple[int, int] = (8, 8),
) -> Iterator[Pair]:
    """Make two maps; the new one has *room*, else as much as the old one."""
    specs = [
        MapSpec("old", old, key_sizes[0], value_sizes[0], entries),
        MapSpec("new", new, key_sizes[1], value_sizes[1], room or entries),
    ]
    with Map.create(specs[0]) as source, Map.create(specs[1]) as target:
        yield Pair(source, target)


def counter(old: int = 0, new: int = 0, size: int = 8, **changes: Any) -> MemberMove:
    """Return the move of a number of *size* bytes from one offset to another."""
    return MemberMove("counter", Span(old, size), Span(new, size), **changes)


def write(held: Map, key: int, number: int, *, cpu: int | None = None) -> None:
    """Write a value of 8 bytes; in a per-CPU map to all CPUs, or to one and 0 to the others."""
    data = number.to_bytes(8, "little")
    if held.is_per_cpu:
        data = b"".join(data if cpu in (None, each) else bytes(8) for each in range(CPUS))
    held.update_bytes(key.to_bytes(held.key_size, "little"), data)


def numbers(held: Map) -> dict[int, list[int]]:
    """Return the numbers of values of 8 bytes that are not all 0: one for each CPU, or one."""
    found = {}
    for key, value in held.items_bytes():
        each = list(memoryview(value).cast("Q"))
        if any(each):
            found[int.from_bytes(key, "little")] = each
    return found


def sums(held: Map) -> dict[int, int]:
    """Return the numbers of values of 8 bytes, all CPUs together."""
    return {key: sum(each) for key, each in numbers(held).items()}


@contextlib.contextmanager
def one_cpu() -> Iterator[int]:
    """Let this thread run on one CPU alone, and tell which."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield min(before)
    finally:
        os.sched_setaffinity(0, before)


def expected(rule: Rule, old: int, new: int, *, is_signed: bool) -> int:
    """Return what becomes of two numbers."""
    if rule is Rule.SUM:
        return old + new
    if rule is Rule.KEEP_OLD:
        return old
    if rule is Rule.KEEP_NEW:
        return new or old
    best = max if rule is Rule.MAX else min
    is_zero_a_number = rule is Rule.MAX and not is_signed
    return best(old, new) if is_zero_a_number or (old and new) else old or new
