"""The report of a migration: which member moves how, what is lost, and whether it is exact.

It is plain data, made from a `MigrationPlan`, and stays valid when the maps are closed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from bpfpin.migration.losses import MemberLoss
from bpfpin.records import dataclass


@dataclass(frozen=True, slots=True)
class MemberPlace:
    """A member of a key or value, and its place.

    Attributes:
        member: The path as in C, such as `src.port`; empty if the key or value is one number.
        type: The type, as C spells it.
        offset: Bytes before it in the key or value.
        size: Bytes of the member.
    """

    member: str
    type: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.type} at {self.offset}"


@dataclass(frozen=True, slots=True)
class MigratedMember:
    """An old member and the new one that it becomes.

    Attributes:
        old: The old member; None for a new one.
        new: The new member; None for one that is dropped.
        rule: The name of a rule, such as `sum`; `new` or `dropped` for a member of one side.
    """

    old: MemberPlace | None
    new: MemberPlace | None
    rule: str

    @property
    def is_moved(self) -> bool:
        """Whether the old member comes over."""
        return self.old is not None and self.new is not None

    def text(self) -> str:
        """Return the member as a line: `packets u64 at 0 -> u64 at 8: sum`."""
        path = self.old.member if self.old else ""
        later = self.new.member if self.new else ""
        name = path or later or "value"
        new_name = f"{later} " if path and later and later != path else ""
        return f"{name} {self.old or 'none'} -> {new_name}{self.new or 'none'}: {self.rule}"

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class MapDefinition:
    """The definition of the old or the new map.

    Attributes:
        type: The map type, as the kernel spells it: `percpu_hash`.
        key_size: Bytes of a key.
        value_size: Bytes of a value, for a per-CPU map those of one CPU's value.
        max_entries: The number of entries that it can have.
        map_flags: Bits of `MapFlag`.
        value_type: The type of values as one line of C, or their size if it is not known.
    """

    type: str
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    value_type: str

    def __str__(self) -> str:
        return f"{self.type}, {self.max_entries} entries"


@dataclass(frozen=True)
class MigrationReport:
    """How the entries of a map come over to a new map with another definition.

    Attributes:
        name: The name of the map in its object.
        old_id: The id of the old map.
        old: The definition of the old map.
        new: The definition of the new map.
        key_members: The members of keys; None if keys stay as they are.
        value_members: The members of values.
        functions: The members whose values Python functions compute.
        entries: The number of entries in the old map when the migration was planned.
        memory_bytes: About how much the new map takes while the old one still exists.
        reasons: Why not every count comes over; empty if it does.
        losses: What is given up on request: dropped members, cut values, rules other than `sum`.
        conditions: Facts that must stay true until the hooks are switched.
        notes: Other remarks, such as locks that start empty.
        steps: The steps of the migration, in order.
    """

    name: str
    old_id: int
    old: MapDefinition
    new: MapDefinition
    key_members: tuple[MigratedMember, ...] | None
    value_members: tuple[MigratedMember, ...]
    functions: tuple[str, ...]
    entries: int
    memory_bytes: int
    reasons: tuple[str, ...]
    losses: tuple[MemberLoss, ...]
    conditions: tuple[str, ...]
    notes: tuple[str, ...]
    steps: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        """Whether every count ends up in the new map, once, and none is given up."""
        return not self.reasons and not self.losses

    def lines(self) -> tuple[str, ...]:
        """Return the report in lines for people: member by member, and the verdict."""
        return (
            f"{self.name}: {self.old} -> {self.new};"
            f" {self.entries} entries, about {self.memory_bytes} bytes more until the old map goes",
            *(f"  key {member.text()}" for member in self.key_members or ()),
            *(f"  {member.text()}" for member in self.value_members),
            *(f"  {name}: by a function" for name in self.functions),
            *(f"  {line}" for line in (*self.lost_lines(), *self._verdict())),
            *(f"  {note}" for note in self.notes),
        )

    def lost_lines(self) -> tuple[str, ...]:
        """Return a line for each loss, and one for each reason why the migration is not exact."""
        return (
            *(f"lost: {loss.text()}" for loss in self.losses),
            *(f"not exact: {reason}" for reason in self.reasons),
        )

    def _verdict(self) -> tuple[str, ...]:
        if not any(member.is_moved for member in self.value_members):
            return ("no count comes over, only the keys",)
        if self.reasons:
            return ()
        rest, every = "exact", "every count"
        if self.losses:
            rest, every = "exact for the rest", "every other count"
        until = f", if until the switch {'; '.join(self.conditions)}" if self.conditions else ""
        return (f"{rest}: {every} comes over{until}",)

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        keys = self.key_members
        return {
            "map": self.name,
            "old_id": self.old_id,
            "old": dataclasses.asdict(self.old),
            "new": dataclasses.asdict(self.new),
            "key_members": None if keys is None else [member.to_json() for member in keys],
            "value_members": [member.to_json() for member in self.value_members],
            "functions": list(self.functions),
            "entries": self.entries,
            "memory_bytes": self.memory_bytes,
            "is_exact": self.is_exact,
            "reasons": list(self.reasons),
            "losses": [loss.to_json() for loss in self.losses],
            "conditions": list(self.conditions),
            "notes": list(self.notes),
            "steps": list(self.steps),
        }
