"""Decides whether a migration is exact, from what the programs do, the map types and the hooks.

Exact means that every count ends up in the new map, once. Why a fold achieves that is explained in
`fold_program`; here its conditions are checked. Whatever the analysis cannot see counts as a reason
against it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bpfpin.analysis.uses import ADDS, UsingProgram, WriteKind, write_kinds
from bpfpin.btf.layout import Span
from bpfpin.migration.fold_member import ATOMIC_SIZES, is_atomic
from bpfpin.migration.losses import MemberLoss
from bpfpin.migration.members import Leaf, LeafKind, MapShape, MemberMove
from bpfpin.migration.request import Rule
from bpfpin.program_traits import traits_of_program
from bpfpin.records import dataclass
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag

# An LRU hash evicts before it is full, since each CPU keeps free elements to itself: 1,000,000 keys
# in a map of 1,000,000 entries left 999,936 (measured). LOCAL_FREE_TARGET of
# kernel/bpf/bpf_lru_list.c is 128 elements for each CPU.
LRU_MARGIN: Final = 128

# Only kernels with the patches of PREEMPT_RT have the file; that of Linux names the option in its
# version (init/Makefile: UTS_VERSION).
_REALTIME: Final = Path("/sys/kernel/realtime")
_IN_VERSION: Final = "PREEMPT_RT"


@dataclass(frozen=True)
class Exactness:
    """The verdict on one migration.

    Attributes:
        reasons: Why not every count comes over; empty if it does.
        notes: Other facts for the user.
        losses: What the user gives up: dropped members, cut values, rules other than `sum`.
        conditions: Facts that must stay true until the hooks are switched.
    """

    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    losses: tuple[MemberLoss, ...] = ()
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExactnessCase:
    """The input of the verdict: both maps, the moves, the entries, and the programs of each map."""

    old: MapShape
    new: MapShape
    moves: Sequence[MemberMove]
    entries: int
    old_users: Sequence[UsingProgram]
    new_users: Sequence[UsingProgram]

    @property
    def sums(self) -> tuple[MemberMove, ...]:
        """The moves that add an old number to a new one.

        By the other rules the number of one of the two maps wins.
        """
        return tuple(move for move in self.moves if move.rule is Rule.SUM and not move.is_bytes)


def is_realtime() -> bool:
    """Whether this kernel was built with PREEMPT_RT, where tasks may interrupt softirqs."""
    if _IN_VERSION in os.uname().version.split():
        return True
    try:
        return _REALTIME.read_text().strip() == "1"
    except FileNotFoundError:
        return False


def judge(case: ExactnessCase, *, cpus: int = 0, realtime: bool | None = None) -> Exactness:
    """Decide whether a migration is exact; *cpus* and *realtime* default to this host's."""
    realtime = is_realtime() if realtime is None else realtime
    reasons: list[str] = []
    notes: list[str] = []
    # Only sums can be inexact. By the other rules one of two values wins, which `losses` reports.
    if case.sums:
        reasons += _of_programs(case, realtime=realtime)
        reasons += _of_numbers(case)
    # Evictions lose more than counts: the keys go, too, whatever the rules are.
    if case.new.is_lru and case.entries:
        room = _lru_room(case, cpus or possible_cpus())
        if room <= 0:
            reasons.append(f"the new map is an LRU hash: it may evict about {-room} entries")
        else:
            notes.append(f"the LRU hash evicts nothing while fewer than {room} new keys come")
    return Exactness(tuple(dict.fromkeys(reasons)), tuple(notes))


def default_rule(
    old_users: Sequence[UsingProgram],
    new_users: Sequence[UsingProgram],
    old: Leaf,
    new: Leaf,
    *,
    is_data: bool,
) -> Rule | None:
    """Return the rule of a number that the user gave none for; None if the user has to decide.

    A counter is an unsigned number of four or eight bytes that programs only add to: `SUM`. A
    number that no program writes is written by user space: `KEEP_NEW`, the old value unless a new
    one has been written. Global variables (*is_data*) start with the initial value of the object
    file, so they keep the old value: `KEEP_OLD`.
    """
    users = [*old_users, *new_users]
    # A use that the analysis lost track of may set the number, so it does not prove a counter.
    is_followed = not any(user.use.unknown for user in users)
    kinds = write_kinds(old_users, old.place) | write_kinds(new_users, new.place)
    is_set = any(user.use.overwrites for user in users)
    if is_followed and not is_set and kinds and kinds <= ADDS and _can_count(old, new):
        return Rule.SUM
    if is_data:
        return Rule.KEEP_OLD
    is_written = kinds or is_set or any(user.use.inserts for user in users)
    # Without any program nothing is known about the number, so nothing is assumed.
    return Rule.KEEP_NEW if users and is_followed and not is_written else None


def _can_count(*leaves: Leaf) -> bool:
    return all(
        leaf.kind is LeafKind.NUMBER
        and not leaf.place.is_signed
        and leaf.place.size in ATOMIC_SIZES
        for leaf in leaves
    )


def _of_programs(case: ExactnessCase, *, realtime: bool) -> Iterator[str]:
    for user in case.old_users:
        for move in case.sums:
            yield from _of_adds(user, case.old, move.old, move.path, realtime=realtime)
    for user in case.new_users:
        for move in case.sums:
            yield from _of_adds(user, case.new, move.new, move.path, realtime=realtime)
        yield from _of_new_program(user, case)
    for user in (*case.old_users, *case.new_users):
        for text in user.use.unknown:
            yield f"{user.program} {text}: what it does to the map is not known"
        if user.can_sleep:
            yield f"{user.program} may sleep: the end of its last run cannot be waited for"


def _of_adds(
    user: UsingProgram, shape: MapShape, place: Span, path: str, *, realtime: bool
) -> Iterator[str]:
    # Atomic additions are exact everywhere: they commute with the exchange and the addition of the
    # fold, on any CPU.
    if WriteKind.PLAIN_ADD not in user.use.to(place):
        return
    name = path or "the value"
    if not shape.is_per_cpu:
        yield (
            f"{user.program} adds to {name} without an atomic operation, in a map that all CPUs"
            " share: it loses counts by itself"
        )
    # Otherwise no task, such as the fold, gets the CPU between the load and the store of a plain
    # addition.
    elif realtime or not traits_of_program(user.type).runs_undisturbed:
        where = "on a PREEMPT_RT kernel" if realtime else "where tasks may interrupt it"
        yield f"{user.program} adds to {name} without an atomic operation, {where}"


def _of_new_program(user: UsingProgram, case: ExactnessCase) -> Iterator[str]:
    for move in case.sums:
        if user.use.to(move.new) - ADDS:
            name = move.path or "the value"
            yield f"{user.program} sets {name}, which may overwrite moved counts"
    # The fold may add to a value between the lookup and the update of the program, which then puts
    # a value of its own over it.
    if user.use.overwrites:
        yield f"{user.program} writes whole values, which may overwrite moved counts"
    # An element that is deleted and reused between the fold's lookup and its addition would take
    # counts of another key.
    if user.use.deletes and case.new.is_hash:
        yield f"{user.program} deletes entries, also while the fold is filling them"


def _of_numbers(case: ExactnessCase) -> Iterator[str]:
    for move in case.sums:
        name = move.path or "the value"
        if not is_atomic(move) and write_kinds(case.new_users, move.new):
            yield f"{name} has no four or eight aligned bytes, so it cannot be added atomically"
        if move.limits is not None:
            yield f"{name} becomes narrower, and is cut to what fits"


def _lru_room(case: ExactnessCase, cpus: int) -> int:
    """Return how many new keys fit before an entry is evicted; negative: so many are evicted.

    With BPF_F_NO_COMMON_LRU each CPU has a list of its own with its share of the entries. All keys
    may be inserted by one CPU (as the fold does), so the share has to hold them.
    """
    if case.new.map_flags & MapFlag.NO_COMMON_LRU:
        # htab_map_alloc() of kernel/bpf/hashtab.c rounds max_entries up, so that all lists have the
        # same number of elements; this rounds down.
        return case.new.max_entries // cpus - LRU_MARGIN - case.entries
    return case.new.max_entries - LRU_MARGIN * cpus - case.entries
