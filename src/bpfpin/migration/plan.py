"""Decides what becomes of a map whose definition changed, or why it cannot be moved as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bpfpin.analysis.uses import ADDS, UsingProgram, write_kinds
from bpfpin.btf.btf import TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.errors import Difference
from bpfpin.migration import entries, exact
from bpfpin.migration.entries import EntrySurvey
from bpfpin.migration.exact import Exactness, ExactnessCase
from bpfpin.migration.first_values import FirstValues, start_value, zero_counters
from bpfpin.migration.fold import FoldSpec
from bpfpin.migration.fold_program import needs_insert_phase
from bpfpin.migration.losses import conditions, losses
from bpfpin.migration.match import PartMoves, match_members, member_rows
from bpfpin.migration.members import (
    Leaf,
    LeafKind,
    Libraries,
    MapShape,
    kernel_owned_leaves,
    layout_texts,
    leaves,
    types_with_layouts,
)
from bpfpin.migration.refusal import MemberNames, Refusals, names_of
from bpfpin.migration.request import (
    KEY,
    VALUE,
    Migration,
    MigrationRules,
    Rule,
    is_named,
    rules_of_part,
)
from bpfpin.objects.maps.map import Map
from bpfpin.spec import Dialect, MapSpec

Types = tuple[TypeRef | None, TypeRef | None]


# What a migration of one map will do: decided by looking, before anything is changed.


@dataclass(frozen=True)
class MigrationPlan:
    """What a migration does: member by member, how many entries, whether exactly, in which steps.

    *keys* is None where they stay as they are. *start* is what a new entry begins with, of one CPU,
    *memory_bytes* about what the new map takes while the old one is still there.
    """

    name: str
    old_id: int
    shapes: tuple[MapShape, MapShape]
    types: Types
    keys: PartMoves | None
    values: PartMoves
    entries: int
    memory_bytes: int
    exactness: Exactness
    start: bytes
    filling: FirstValues = field(repr=False, compare=False)
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
            f"create {entries.shape_text(new)}, about {self.memory_bytes} bytes": True,
            f"write first values, of {', '.join(self.functions) or 'new members'}": (
                self.filling.is_needed(new)
            ),
            "load the new programs and the program that folds the old map into the new one": True,
            "switch all hooks": True,
            "wait until no old program runs": True,
            f"insert the keys of {self.entries} entries": inserts,
            "wait until no program runs that missed one of them": inserts,
            f"move {self.entries} entries": True,
            f"publish; the old map (id {self.old_id}, {entries.shape_text(old)}) goes": True,
        }
        return tuple(step for step, is_done in found.items() if is_done)

    def lines(self) -> tuple[str, ...]:
        """Return the plan for people: what becomes what, member by member, and how exactly."""
        old, new = self.shapes
        judged = self.exactness
        return (
            f"{self.name}: {entries.shape_text(old)} -> {entries.shape_text(new)};"
            f" {self.entries} entries, about {self.memory_bytes} bytes more until the old map goes",
            *(f"  key {row.text()}" for row in member_rows(self.keys or PartMoves(()))),
            *(f"  {row.text()}" for row in member_rows(self.values)),
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
                    "type": entries.type_text(shape),
                    "key_size": shape.key_size,
                    "value_size": shape.value_size,
                    "max_entries": shape.max_entries,
                    "map_flags": shape.map_flags,
                    "value_type": type_text(type_, shape.value_size),
                }
                for side, shape, type_ in types
            },
            "key_members": [row.to_json() for row in member_rows(self.keys)] if self.keys else None,
            "value_members": [row.to_json() for row in member_rows(self.values)],
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


@dataclass(frozen=True)
class MigrationRequest:
    """One map to be migrated: what it is to be, what is there, and who uses the one and the other.

    *old_users* are the programs that have the map now, *new_users* those that are to have it.
    *libraries* are the types that these were compiled with: what a layout may name.
    """

    spec: MapSpec
    old: Map
    old_users: Sequence[UsingProgram] = ()
    new_users: Sequence[UsingProgram] = ()
    migration: Migration = field(default_factory=Migration)
    libraries: Libraries = ((), ())


def plan_migration(request: MigrationRequest) -> MigrationPlan:
    """Look at the old map and decide what becomes of it; nothing is changed.

    Every entry is read. `IncompatibleMapError` with all that stands against it, and what to type;
    `UsageError` for a first value or a layout that does not read.
    """
    spec, old, wishes = request.spec, request.old, request.migration.of(request.spec.name)
    refused = Refusals(spec.name)
    before, after = entries.shape_of_map(old), entries.shape_of_spec(spec)
    types = types_of(request)
    _require_possible(request, refused, before)
    assert before is not None
    functions = request.migration.functions_of(spec.name)
    keys = None if before.is_array else _keys(request, wishes)
    values = _values(request, types, wishes, frozenset(functions))
    refused.parts(KEY, keys)
    refused.parts(VALUE, values)
    refused.words(keys, values, (before, after), functions)
    found = entries.survey_entries(old, (before, after), keys, values)
    refused.contents(found, (old.key_type, types[0]), (before, after))
    exactness = _exactness(request, (before, after), (keys, values), found)
    refused.inexact(exactness, wishes)
    refused.stop_if_any()
    start, filling = _start(request, values, types, wishes)
    return MigrationPlan(
        name=spec.name,
        old_id=old.id,
        shapes=(before, after),
        types=types,
        keys=keys,
        values=values,
        entries=found.entries,
        memory_bytes=entries.memory_bytes(after, found.entries),
        exactness=exactness,
        start=start,
        filling=filling,
        functions=tuple(functions),
    )


def _require_possible(
    request: MigrationRequest, refused: Refusals, before: MapShape | None
) -> None:
    """Refuse what no word helps against: other kinds of maps."""
    spec, after = request.spec, entries.shape_of_spec(request.spec)
    if before is None:
        kind = str(request.old.type)
        refused.tell([Difference(spec.name, "type", kind, entries.type_text(after))])
    else:
        refused.tell(entries.shape_differences(spec.name, before, after))
    refused.stop_if_any()


def members_of(request: MigrationRequest) -> MemberNames:
    """Return how the members of old and new keys and values are typed."""
    (old, new), spec, held = types_of(request), request.spec, request.old
    keys = leaves(held.key_type, held.key_size), leaves(spec.key, spec.key_size)
    values = leaves(old, held.value_size), leaves(new, spec.value_size)
    return MemberNames(*(names_of(key, value) for key, value in zip(keys, values, strict=True)))


def types_of(request: MigrationRequest) -> Types:
    """Return the types of old and new values; the user's word for those that have none."""
    given = request.migration.layouts.get(request.spec.name)
    types = request.old.value_type, request.spec.value
    if given is None:
        return types
    sizes = request.old.value_size, request.spec.value_size
    about = f"--layout {request.spec.name}"
    return types_with_layouts(layout_texts(given), types, sizes, request.libraries, about=about)


def _keys(request: MigrationRequest, wishes: MigrationRules) -> PartMoves | None:
    """Return how keys become new ones, None if they are the same."""
    spec, old = request.spec, request.old
    before, after = leaves(old.key_type, old.key_size), leaves(spec.key, spec.key_size)
    is_untyped = old.key_type is None or spec.key is None
    is_same = [(one.path, one.place, one.type) for one in before] == [
        (one.path, one.place, one.type) for one in after
    ]
    if old.key_size == spec.key_size and (is_same or is_untyped):
        return None
    said = rules_of_part(wishes, KEY, has_members=_has_members(before, after))
    return match_members(
        before,
        after,
        said,
        default_rule=lambda old, new: Rule.KEEP_OLD,
        otherwise=Rule.KEEP_OLD,
    )


def _values(
    request: MigrationRequest, types: Types, wishes: MigrationRules, functions: frozenset[str]
) -> PartMoves:
    spec = request.spec
    is_data = spec.dialect is Dialect.DATA
    before, after = leaves(types[0], request.old.value_size), leaves(types[1], spec.value_size)
    said = rules_of_part(wishes, VALUE, has_members=_has_members(before, after))
    matched = partial(
        match_members,
        [one for one in before if not is_named(one.path, functions)],
        [one for one in after if not is_named(one.path, functions)],
        said,
        default_rule=partial(
            exact.default_rule, request.old_users, request.new_users, is_data=is_data
        ),
        otherwise=Rule.KEEP_OLD if is_data else Rule.KEEP_NEW,
    )
    found = matched()
    return matched(is_unused=_unused(request)) if found.unfit else found


def _unused(request: MigrationRequest) -> Callable[[Leaf], bool]:
    """Return what says of an old part that no program writes it, and that it is 0 everywhere."""
    shape = entries.shape_of_map(request.old)
    users = (*request.old_users, *request.new_users)
    if shape is None or not users or any(one.use.unknown or one.use.overwrites for one in users):
        return lambda leaf: False
    bits = entries.bits_in_use(request.old, shape)

    def is_unused(leaf: Leaf) -> bool:
        place = leaf.place
        is_zero = not any(bits[place.offset : place.offset + place.size])
        return is_zero and not write_kinds(request.old_users, place)

    return is_unused


def _has_members(before: Sequence[Leaf], after: Sequence[Leaf]) -> bool:
    return all(one.path for one in (*before, *after))


def _exactness(
    request: MigrationRequest,
    both: tuple[MapShape, MapShape],
    parts: tuple[PartMoves | None, PartMoves],
    found: EntrySurvey,
) -> Exactness:
    keys, values = parts
    old_users, new_users = request.old_users, request.new_users
    case = ExactnessCase(*both, values.moves, found.entries, old_users, new_users)
    judged = exact.judge(case)
    reasons = list(judged.reasons)
    if request.migration.functions_of(request.spec.name):
        reasons.append("a function sees old values as they are before the switch, and no later")
    reasons += _of_untyped(values, old_users, new_users)
    return Exactness(
        tuple(reasons),
        (*judged.notes, *_of_owned(request)),
        losses(keys, values, found, (old_users, new_users)),
        conditions(values, old_users),
    )


def _of_untyped(
    values: PartMoves, old_users: Sequence[UsingProgram], new_users: Sequence[UsingProgram]
) -> Iterator[str]:
    """Yield a reason if programs count in a value that is moved as a whole, without members."""
    for (old, _), move in zip(values.carried, values.moves, strict=True):
        is_counted = ADDS & (write_kinds(old_users, move.old) | write_kinds(new_users, move.new))
        if old.kind is LeafKind.OPAQUE and not old.path and is_counted:
            yield "programs count in values whose members are not known (--layout says them)"


def _of_owned(request: MigrationRequest) -> Iterator[str]:
    """Yield what becomes of locks, timers and kernel pointers: each new one is empty."""
    before, after = (
        {(one.path, one.type.partition(" {")[0]): one for one in kernel_owned_leaves(type_)}
        for type_ in (request.old.value_type, request.spec.value)
    )
    for path, type_ in after:
        yield f"{path} ({type_}) starts empty"
    for path, type_ in before:
        if (path, type_) not in after:
            yield f"{path} ({type_}) goes with the old map"


def _start(
    request: MigrationRequest, values: PartMoves, types: Types, wishes: MigrationRules
) -> tuple[bytes, FirstValues]:
    """Return what new entries begin with, and what has to write that where the fold does not."""
    spec = request.spec
    made = spec.contents if spec.contents is not None else bytes(spec.value_size)
    empty = zero_counters(made, values.moves)
    start = start_value(spec.name, types[1], empty, _starts(values, wishes, types[1]))
    functions = request.migration.functions_of(spec.name)
    return start, FirstValues(types, start, functions, made=made)


def _starts(values: PartMoves, wishes: MigrationRules, type_: TypeRef | None) -> dict[str, Any]:
    """Return the first values of those new members that this map has."""
    has_members = bool(type_) and all(one.path for one in values.added)
    said = rules_of_part(wishes, VALUE, has_members=has_members)
    return {
        name: value
        for name, value in said.start.items()
        if any(is_named(one.path, [name]) for one in values.added)
    }
