"""The losses of a plan that the user asked for, member by member, and its conditions.

A migration is exact if every count ends up in the new map. A member that is dropped, cut, or moved
by a rule other than `sum` does not end up there, however exactly the rest is moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from bpfpin.analysis.uses import ADDS, UsingProgram, write_kinds
from bpfpin.btf.layout import Span
from bpfpin.migration.entries import EntrySurvey, range_of
from bpfpin.migration.match import EntryCheck, PartMoves
from bpfpin.migration.members import LeafKind, MemberMove
from bpfpin.migration.request import KEY, VALUE, Rule
from bpfpin.records import dataclass

_OF_RULES: Final = {
    Rule.KEEP_NEW: "where the new program has counted already, the old count is lost",
    Rule.KEEP_OLD: "what the new program counts until the move is lost",
    Rule.MAX: "one of the old and the new count stays, and not their sum",
    Rule.MIN: "one of the old and the new count stays, and not their sum",
}


@dataclass(frozen=True, slots=True)
class MemberLoss:
    """A member that is lost, entirely or in part.

    Attributes:
        part: `key` or `value`.
        member: The path as in C; empty if the key or value is one number.
        what: What happens to the member.
        entries: How many entries lose something; None if that cannot be counted.
    """

    part: str
    member: str
    what: str
    entries: int | None = None

    @property
    def name(self) -> str:
        """The member as it is typed: `key.port`, `value` where that is one number."""
        return _typed_name(self.part, self.member)

    def text(self) -> str:
        """Return the loss as a line: `drops: dropped, in 2 entries`."""
        entries = "1 entry" if self.entries == 1 else f"{self.entries} entries"
        counted = "" if self.entries is None else f", in {entries}"
        return f"{self.name}: {self.what}{counted}"

    def to_json(self) -> dict[str, Any]:
        """Return the loss as JSON takes it."""
        return {
            "part": self.part,
            "member": self.member,
            "what": self.what,
            "entries": self.entries,
        }


def _typed_name(part: str, member: str) -> str:
    return (f"{KEY}.{member}" if member and part == KEY else member) or part


def losses(
    keys: PartMoves | None,
    values: PartMoves,
    survey: EntrySurvey,
    users: tuple[Sequence[UsingProgram], Sequence[UsingProgram]],
) -> tuple[MemberLoss, ...]:
    """Return the losses, judged by the entries and by what the programs do.

    *users* are the programs of the old and of the new map.
    """
    old_users, new_users = users
    lost = [*_of_checks(KEY, keys, survey), *_of_checks(VALUE, values, survey)]
    lost += [
        MemberLoss(VALUE, path, f"cut, because {what}", entries)
        for (path, what), entries in survey.cut_sums.items()
        if entries
    ]
    for (old, new), move in zip(values.carried, values.moves, strict=True):
        is_counted = ADDS & (write_kinds(old_users, move.old) | write_kinds(new_users, move.new))
        if move.rule is Rule.SUM and not move.is_bytes:
            continue
        # Only counts can be lost in this way. A state, such as the time of the last packet, is
        # replaced by every rule, as programs replace it.
        if is_counted and LeafKind.ENUM not in (old.kind, new.kind):
            what = "moved as bytes" if move.is_bytes else f"{move.rule.value}"
            lost.append(MemberLoss(VALUE, old.path, f"{what}: {_OF_RULES.get(move.rule, '')}"))
    return tuple(dict.fromkeys(lost))


def _of_checks(part: str, moves: PartMoves | None, survey: EntrySurvey) -> Iterator[MemberLoss]:
    dropped = {leaf.path for leaf in moves.dropped} if moves else set()
    for check in moves.checks if moves else ():
        entries = survey.lost[part, check]
        # A dropped member is reported even if it is 0 in all entries now: old programs may count in
        # it until the switch.
        if not check.is_accepted or not (entries or check.path in dropped):
            continue
        if check.path not in dropped:
            yield MemberLoss(part, check.path, f"cut, because {check.what}", entries)
        # How many keys become one is not counted: it would take a second table of all keys in
        # memory.
        elif part == KEY:
            yield MemberLoss(
                part, check.path, "dropped, and keys that differ only in it become one"
            )
        else:
            yield MemberLoss(part, check.path, "dropped", entries)


def conditions(
    keys: PartMoves | None,
    values: PartMoves,
    old_users: Sequence[UsingProgram],
    sums: Sequence[MemberMove] = (),
) -> tuple[str, ...]:
    """Return the checks that all entries pass now and have to pass until the hooks are switched.

    Only members that the old programs write are named; they go on writing until the switch. All
    members of a key come with a new entry. *sums* are the moves that become the sum of all CPUs.
    """
    texts = [
        _condition(VALUE, check) for check in values.checks if _may_write(check.place, old_users)
    ]
    for move in sums:
        if not move.saturates and _may_write(move.old, old_users):
            low, high = range_of(move.new)
            texts.append(f"the sum of {move.path or VALUE} stays within {low} to {high}")
    if keys is not None and any(user.use.inserts or user.use.unknown for user in old_users):
        texts += [_condition(KEY, check) for check in keys.checks]
    return tuple(dict.fromkeys(filter(None, texts)))


def _condition(part: str, check: EntryCheck) -> str:
    name = _typed_name(part, check.path)
    # The user gave the option that accepts such entries, also those that come later.
    if check.is_accepted:
        return ""
    if check.must_be_zero:
        return f"{name} stays 0 where {check.what}"
    if check.limits is not None:
        low, high = check.limits
        return f"{name} stays within {low} to {high}"
    numbers = ", ".join(map(str, sorted(check.forbidden)))
    return f"{name} never is {numbers}: {check.what}"


def _may_write(place: Span, users: Sequence[UsingProgram]) -> bool:
    # A program that overwrites values or was not followed may write any member.
    return bool(write_kinds(users, place)) or any(
        user.use.overwrites or user.use.unknown for user in users
    )
