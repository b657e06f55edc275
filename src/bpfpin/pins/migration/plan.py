"""What a migration of one map will do: decided by looking, before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.objects.map import Map
from bpfpin.pins.migration import shapes
from bpfpin.pins.migration.code import needs_insert_phase
from bpfpin.pins.migration.exact import Exactness
from bpfpin.pins.migration.fold import FoldSpec
from bpfpin.pins.migration.layout import PartMoves
from bpfpin.pins.migration.moves import Shape
from bpfpin.pins.migration.rows import rows
from bpfpin.pins.migration.start import Filling

Types = tuple[TypeRef | None, TypeRef | None]


@dataclass(frozen=True)
class MigrationPlan:
    """What a migration does: member by member, how many entries, whether exactly, in which steps.

    *keys* is None where they stay as they are. *start* is what a new entry begins with, of one CPU,
    *memory_bytes* about what the new map takes while the old one is still there.
    """

    name: str
    old_id: int
    shapes: tuple[Shape, Shape]
    types: Types
    keys: PartMoves | None
    values: PartMoves
    entries: int
    memory_bytes: int
    exactness: Exactness
    start: bytes
    filling: Filling = field(repr=False, compare=False)
    functions: tuple[str, ...] = ()

    @property
    def fold(self) -> FoldSpec:
        """The fold to be generated."""
        old, new = self.shapes
        key_moves = self.keys.moves if self.keys else None
        return FoldSpec(old, new, self.values.moves, self.start, key_moves, self.entries)

    @property
    def steps(self) -> tuple[str, ...]:
        """What is done, in order; all that can be refused is before the switch."""
        old, new = self.shapes
        inserts = needs_insert_phase(new)
        found = {
            f"create {shapes.text(new)}, about {self.memory_bytes} bytes": True,
            f"write first values, of {', '.join(self.functions) or 'new members'}": (
                self.filling.is_needed(new)
            ),
            "load the new programs and the program that folds the old map into the new one": True,
            "switch all hooks": True,
            "wait until no old program runs": True,
            f"insert the keys of {self.entries} entries": inserts,
            "wait until no program runs that missed one of them": inserts,
            f"move {self.entries} entries": True,
            f"publish; the old map (id {self.old_id}, {shapes.text(old)}) goes": True,
        }
        return tuple(step for step, is_done in found.items() if is_done)

    def lines(self) -> tuple[str, ...]:
        """Return the plan for people: what becomes what, member by member, and how exactly."""
        old, new = self.shapes
        judged = self.exactness
        return (
            f"{self.name}: {shapes.text(old)} -> {shapes.text(new)}; {self.entries} entries,"
            f" about {self.memory_bytes} bytes more until the old map goes",
            *(f"  key {row.text()}" for row in rows(self.keys or PartMoves(()))),
            *(f"  {row.text()}" for row in rows(self.values)),
            *(f"  {name}: by a function" for name in self.functions),
            *(f"  {line}" for line in self.verdict()),
            *(f"  {note}" for note in judged.notes),
        )

    def verdict(self) -> tuple[str, ...]:
        """Return what comes over and what does not, in lines for people."""
        judged = self.exactness
        lines = [f"lost: {loss.text()}" for loss in judged.losses]
        lines += [f"not exact: {reason}" for reason in judged.reasons]
        if not self.values.moves:
            lines.append("nothing that was counted comes over, but the keys")
        elif not judged.reasons:
            until = f", if until the switch {'; '.join(judged.conditions)}"
            rest = "exact for the rest" if judged.losses else "exact"
            every = "every other count" if judged.losses else "every count"
            lines.append(f"{rest}: {every} comes over{until if judged.conditions else ''}")
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON takes it."""
        old, new = self.shapes
        types = zip(("old", "new"), (old, new), self.types, strict=True)
        return {
            "map": self.name,
            "old_id": self.old_id,
            **{
                side: {
                    "type": shapes.type_text(shape),
                    "key_size": shape.key_size,
                    "value_size": shape.value_size,
                    "max_entries": shape.max_entries,
                    "map_flags": shape.map_flags,
                    "value_type": type_text(type_, shape.value_size),
                }
                for side, shape, type_ in types
            },
            "key_members": [row.to_json() for row in rows(self.keys)] if self.keys else None,
            "value_members": [row.to_json() for row in rows(self.values)],
            "functions": list(self.functions),
            "entries": self.entries,
            "memory_bytes": self.memory_bytes,
            "is_exact": self.exactness.is_exact,
            "reasons": list(self.exactness.reasons),
            "losses": [loss.to_json() for loss in self.exactness.losses],
            "conditions": list(self.exactness.conditions),
            "notes": list(self.exactness.notes),
            "steps": list(self.steps),
        }

    def fill(self, old: Map, new: Map) -> None:
        """Write what must be in *new* before programs get it; does nothing where that is nothing.

        To be called after *new* was created, and before the hooks are switched.
        """
        self.filling.fill(old, new, self.shapes)


def type_text(type_: TypeRef | None, size: int) -> str:
    """Return a type as one line of C, or how many bytes it takes."""
    return c_type(type_) if type_ else f"{size} bytes"
