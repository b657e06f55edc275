"""A plan member by member: what was where, where it goes, and by which rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bpfpin.pins.migration.layout import PartMoves
from bpfpin.pins.migration.leaves import Leaf


@dataclass(frozen=True, slots=True)
class Row:
    """One member: its old and its new part, None where there is none, and what becomes of it."""

    old: Leaf | None
    new: Leaf | None
    becomes: str

    def text(self) -> str:
        """Return it as a line: `packets u64 at 0 -> u64 at 8: sum`."""
        path = self.old.path if self.old else ""
        later = self.new.path if self.new else ""
        name = path or later or "value"
        renamed = f"{later} " if path and later and later != path else ""
        return f"{name} {_place(self.old)} -> {renamed}{_place(self.new)}: {self.becomes}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {"old": _json(self.old), "new": _json(self.new), "rule": self.becomes}


def rows(moves: PartMoves) -> Iterator[Row]:
    """Yield the members: what is carried over, what is new, what is dropped."""
    for (old, new), move in zip(moves.carried, moves.moves, strict=True):
        yield Row(old, new, move.rule.value)
    for leaf in moves.added:
        yield Row(None, leaf, "new")
    for leaf in moves.dropped:
        yield Row(leaf, None, "dropped")


def _place(leaf: Leaf | None) -> str:
    return f"{leaf.type} at {leaf.place.offset}" if leaf else "none"


def _json(leaf: Leaf | None) -> dict[str, Any] | None:
    if leaf is None:
        return None
    return {
        "member": leaf.path,
        "type": leaf.type,
        "offset": leaf.place.offset,
        "size": leaf.place.size,
    }
