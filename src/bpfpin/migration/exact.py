"""Whether a migration is exact: decided from what the programs do, map types and hooks.

It is, if every count ends up in the new map once. The proof is in how a fold works (`code.py`);
here are the conditions that it stands on. What cannot be seen is not taken for granted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bpfpin.analysis.uses import ADDS, UsingProgram, WriteKind, write_kinds
from bpfpin.btf.layout import Span
from bpfpin.migration.fold_member import ATOMIC_SIZES, is_atomic
from bpfpin.migration.losses import Loss
from bpfpin.migration.members import Leaf, LeafKind, MapShape, MemberMove
from bpfpin.migration.request import Rule
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, ProgramType

# An LRU map evicts before it is full: each CPU keeps some free elements to itself.
LRU_MARGIN: Final = 128

_REALTIME: Final = Path("/sys/kernel/realtime")
# They run while softirqs are off, so that no task comes between a load and its store.
_UNDISTURBED: Final = frozenset({ProgramType.XDP, ProgramType.SCHED_CLS, ProgramType.SCHED_ACT})


@dataclass(frozen=True)
class Exactness:
    """The reasons why not all counts come over, none if they do; *notes* are good to know.

    *losses* are what the user gave up, *conditions* what must stay so until the hooks are switched.
    """

    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    losses: tuple[Loss, ...] = ()
    conditions: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether every count ends up in the new map, once; not if any is given up."""
        return not self.reasons and not self.losses


@dataclass(frozen=True)
class ExactnessCase:
    """What is to be judged: the maps, what moves, how many entries, and the programs of each."""

    old: MapShape
    new: MapShape
    moves: Sequence[MemberMove]
    entries: int
    old_users: Sequence[UsingProgram]
    new_users: Sequence[UsingProgram]

    @property
    def sums(self) -> tuple[MemberMove, ...]:
        """The numbers that are added up; by all other rules it is one value that wins."""
        return tuple(each for each in self.moves if each.rule is Rule.SUM and not each.is_bytes)


def is_realtime() -> bool:
    """Whether this kernel was built with PREEMPT_RT, where tasks may interrupt softirqs."""
    try:
        return _REALTIME.read_text().strip() == "1"
    except FileNotFoundError:
        return False


def judge(case: ExactnessCase, *, cpus: int = 0, realtime: bool | None = None) -> Exactness:
    """Decide whether a migration is exact; *cpus* and *realtime* are this host's if not given."""
    realtime = is_realtime() if realtime is None else realtime
    reasons: list[str] = []
    notes: list[str] = []
    if case.sums:
        reasons += _of_programs(case, realtime=realtime)
        reasons += _of_numbers(case)
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
    """Return the rule of a number that nobody said one of, None if the user is to be asked.

    A counter is an unsigned number of four or eight bytes that programs add to and do nothing else
    with. What no program writes, user space does: it keeps the old value where none is written yet.
    Global variables (*is_data*) start with what the object file says, and so go on with the old.
    """
    users = [*old_users, *new_users]
    is_followed = not any(user.use.unknown for user in users)
    hows = write_kinds(old_users, old.place) | write_kinds(new_users, new.place)
    is_set = any(user.use.overwrites for user in users)
    if is_followed and not is_set and hows and hows <= ADDS and _can_count(old, new):
        return Rule.SUM
    if is_data:
        return Rule.KEEP_OLD
    is_written = hows or is_set or any(user.use.inserts for user in users)
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
            yield f"{user.program} {text}: what it does there is not known"
        if user.can_sleep:
            yield f"{user.program} may sleep: nothing tells when its last run has ended"


def _of_adds(
    user: UsingProgram, shape: MapShape, place: Span, path: str, *, realtime: bool
) -> Iterator[str]:
    if WriteKind.PLAIN_ADD not in user.use.to(place):
        return
    name = path or "the value"
    if not shape.is_per_cpu:
        yield (
            f"{user.program} adds to {name} without an atomic operation, in a map that all CPUs"
            " share: it loses counts by itself"
        )
    elif realtime or user.type not in _UNDISTURBED:
        where = "on a PREEMPT_RT kernel" if realtime else "where tasks may interrupt it"
        yield f"{user.program} adds to {name} without an atomic operation, {where}"


def _of_new_program(user: UsingProgram, case: ExactnessCase) -> Iterator[str]:
    for move in case.sums:
        if user.use.to(move.new) - ADDS:
            yield f"{user.program} sets {move.path or 'the value'}, also over what was moved there"
    if user.use.overwrites:
        yield f"{user.program} writes whole values, also over what was moved there"
    if user.use.deletes and case.new.is_hash:
        yield f"{user.program} deletes entries, also while they are filled"


def _of_numbers(case: ExactnessCase) -> Iterator[str]:
    for move in case.sums:
        name = move.path or "the value"
        if not is_atomic(move) and write_kinds(case.new_users, move.new):
            yield f"{name} has no four or eight aligned bytes, so it cannot be added atomically"
        if move.limits is not None:
            yield f"{name} becomes narrower, and is cut to what fits"


def _lru_room(case: ExactnessCase, cpus: int) -> int:
    """Return how many keys may come before anything is evicted; below 0: some are already."""
    if case.new.map_flags & MapFlag.NO_COMMON_LRU:
        return case.new.max_entries // cpus - LRU_MARGIN - case.entries
    return case.new.max_entries - LRU_MARGIN * cpus - case.entries
