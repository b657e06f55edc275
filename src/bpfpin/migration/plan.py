"""Plans the migration of one map whose definition changed, or says why it cannot be migrated.

`plan_migration` is the walk through steps 3 to 6 of the package's description; it only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from functools import partial
from typing import Any

from bpfpin.analysis.uses import ADDS, UsingProgram, write_kinds
from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.errors import Difference, UsageError
from bpfpin.migration import entries, exact
from bpfpin.migration.entries import EntrySurvey
from bpfpin.migration.exact import Exactness, ExactnessCase
from bpfpin.migration.first_values import FirstValues, start_value, zero_counters
from bpfpin.migration.fold import FoldSpec
from bpfpin.migration.fold_program import needs_insert_phase
from bpfpin.migration.losses import conditions, losses
from bpfpin.migration.match import PartMoves, match_members
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
from bpfpin.migration.report import MapDefinition, MemberPlace, MigratedMember, MigrationReport
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
from bpfpin.records import dataclass
from bpfpin.spec import Dialect, MapSpec

Types = tuple[TypeRef | None, TypeRef | None]


@dataclass(frozen=True)
class MigrationPlan:
    """The plan of migrating one map, made before anything is changed.

    Attributes:
        name: The map's name in the object.
        old_id: The id of the old map.
        shapes: Types, sizes and flags of the old and the new map.
        types: BTF types of old and new values; None without one.
        keys: The moves of key members; None if keys stay as they are.
        values: The moves of value members.
        entries: The entries of the old map when the plan was made.
        memory_bytes: About how much the new map takes while the old one still exists.
        exactness: The verdict.
        start: The first value of a new entry, for one CPU.
        first_values: What writes first values before programs use the new map.
        functions: The members whose values Python functions compute.
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
    first_values: FirstValues = field(repr=False, compare=False)
    functions: tuple[str, ...] = ()

    @property
    def fold(self) -> FoldSpec:
        """The description of the fold."""
        old, new = self.shapes
        key_moves = self.keys.moves if self.keys else None
        return FoldSpec(old, new, self.values.moves, self.start, key_moves, self.entries)

    def report(self) -> MigrationReport:
        """Return the plan as data for users."""
        old, new = (
            _definition(shape, type_) for shape, type_ in zip(self.shapes, self.types, strict=True)
        )
        return MigrationReport(
            name=self.name,
            old_id=self.old_id,
            old=old,
            new=new,
            key_members=tuple(_members(self.keys)) if self.keys else None,
            value_members=tuple(_members(self.values)),
            functions=self.functions,
            entries=self.entries,
            memory_bytes=self.memory_bytes,
            reasons=self.exactness.reasons,
            losses=self.exactness.losses,
            conditions=self.exactness.conditions,
            notes=self.exactness.notes,
            steps=tuple(self._steps()),
        )

    def _steps(self) -> Iterator[str]:
        """Yield the steps of the migration; whatever may be refused comes before the switch."""
        old, new = self.shapes
        is_inserting = needs_insert_phase(new)
        yield f"create {entries.shape_text(new)}, about {self.memory_bytes} bytes"
        if self.first_values.is_needed(new):
            yield f"write first values, of {', '.join(self.functions) or 'new members'}"
        yield "load the new programs and the program that folds the old map into the new one"
        yield "switch all hooks"
        yield "wait until no old program runs"
        if is_inserting:
            yield f"insert the keys of {self.entries} entries"
            yield "wait until no program runs that missed one of them"
        yield f"move {self.entries} entries"
        yield f"publish; the old map (id {self.old_id}, {entries.shape_text(old)}) goes"

    def fill(self, old: Map, new: Map) -> None:
        """Write first values into *new*, if any have to be written.

        Call it after *new* was created and before the hooks are switched.

        Args:
            old: The old map.
            new: The new map.
        """
        self.first_values.fill(old, new, self.shapes)


def _definition(shape: MapShape, type_: TypeRef | None) -> MapDefinition:
    return MapDefinition(
        type=entries.type_text(shape),
        key_size=shape.key_size,
        value_size=shape.value_size,
        max_entries=shape.max_entries,
        map_flags=shape.map_flags,
        value_type=c_type(type_) if type_ else f"{shape.value_size} bytes",
    )


def _members(moves: PartMoves) -> Iterator[MigratedMember]:
    """Yield members that come over, new members, dropped members."""
    for (old, new), move in zip(moves.carried, moves.moves, strict=True):
        yield MigratedMember(_place(old), _place(new), move.rule.value)
    for leaf in moves.added:
        yield MigratedMember(None, _place(leaf), "new")
    for leaf in moves.dropped:
        yield MigratedMember(_place(leaf), None, "dropped")


def _place(leaf: Leaf) -> MemberPlace:
    return MemberPlace(leaf.path, leaf.type, leaf.place.offset, leaf.place.size)


@dataclass(frozen=True)
class MigrationRequest:
    """One map to be migrated.

    Attributes:
        spec: The new definition.
        old: The existing map.
        old_users: The programs that use the old map.
        new_users: The programs that will use the new map.
        migration: What the user asks for.
        libraries: The BTF of the old and of the new programs, whose structures a layout may name.
    """

    spec: MapSpec
    old: Map
    old_users: Sequence[UsingProgram] = ()
    new_users: Sequence[UsingProgram] = ()
    migration: Migration = field(default_factory=Migration)
    libraries: Libraries = ((), ())


def plan_migration(request: MigrationRequest) -> MigrationPlan:
    """Plan the migration of one map; read every entry of it, and change nothing.

    Raises `MigrationRefusedError` with everything that stands against the migration and what
    resolves it, and `UsageError` for a malformed first value or layout.
    """
    spec, old, rules = request.spec, request.old, request.migration.of(request.spec.name)
    # Refusals are collected, and raised once all are known: the user sees every decision that is
    # missing, and not one after each attempt.
    refused = Refusals(spec.name)
    before, after = entries.shape_of_map(old), entries.shape_of_spec(spec)
    types = types_of(request)
    _require_possible(request, refused, before)
    assert before is not None
    functions = request.migration.functions_of(spec.name)
    # The keys of an array are its indexes, which nothing renames.
    keys = None if before.is_array else _keys(request, rules)
    values = _values(request, types, rules, frozenset(functions))
    refused.add_unfit(KEY, keys)
    refused.add_unfit(VALUE, values)
    refused.add_contradictions(keys, values, (before, after), functions)
    survey = entries.survey_entries(old, (before, after), keys, values)
    refused.add_misfits(survey, (old.key_type, types[0]), (before, after))
    exactness = _exactness(request, (before, after), (keys, values), survey)
    refused.add_inexact(exactness, rules)
    refused.stop_if_any()
    # Last: a first value can only be encoded once the members of the new value are settled.
    start, first_values = _start(request, values, types, rules)
    return MigrationPlan(
        name=spec.name,
        old_id=old.id,
        shapes=(before, after),
        types=types,
        keys=keys,
        values=values,
        entries=survey.entries,
        memory_bytes=entries.memory_bytes(after, survey.entries),
        exactness=exactness,
        start=start,
        first_values=first_values,
        functions=tuple(functions),
    )


def _require_possible(
    request: MigrationRequest, refused: Refusals, before: MapShape | None
) -> None:
    """Refuse maps that cannot become each other whatever the rules are: other kinds of maps."""
    spec, after = request.spec, entries.shape_of_spec(request.spec)
    if before is None:
        kind = str(request.old.type)
        refused.add([Difference(spec.name, "type", kind, entries.type_text(after))])
    else:
        refused.add(entries.shape_differences(spec.name, before, after))
    refused.stop_if_any()


def members_of(request: MigrationRequest) -> MemberNames:
    """Return the names of the members of the old and the new map, as the user types them."""
    (old, new), spec, bpf_map = types_of(request), request.spec, request.old
    keys = leaves(bpf_map.key_type, bpf_map.key_size), leaves(spec.key, spec.key_size)
    values = leaves(old, bpf_map.value_size), leaves(new, spec.value_size)
    return MemberNames(*(names_of(key, value) for key, value in zip(keys, values, strict=True)))


def new_members(
    spec: MapSpec, migration: Migration, library: Sequence[Btf]
) -> frozenset[str] | None:
    """Return the names of the members of a new map; None if only the old map could tell them.

    That is so if its values have no types, and the layouts for them may be those of the old map.
    """
    value, layout = spec.value, migration.layouts.get(spec.name)
    if value is None and layout is not None:
        sizes, libraries = (spec.value_size, spec.value_size), (library, library)
        try:
            texts = layout_texts(layout)
            value = types_with_layouts(texts, (None, None), sizes, libraries, name=spec.name)[1]
        except UsageError:
            return None
    return names_of(leaves(spec.key, spec.key_size), leaves(value, spec.value_size))


def types_of(request: MigrationRequest) -> Types:
    """Return the types of old and new values, with the user's layouts for values without BTF."""
    layout = request.migration.layouts.get(request.spec.name)
    types = request.old.value_type, request.spec.value
    if layout is None:
        return types
    sizes = request.old.value_size, request.spec.value_size
    name, texts = request.spec.name, layout_texts(layout)
    return types_with_layouts(texts, types, sizes, request.libraries, name=name)


def _keys(request: MigrationRequest, rules: MigrationRules) -> PartMoves | None:
    """Return the moves of key members; None if keys are the same on both sides."""
    spec, old = request.spec, request.old
    before, after = leaves(old.key_type, old.key_size), leaves(spec.key, spec.key_size)
    # Without BTF on one side, keys of one size count as the same: nothing says that they differ.
    is_untyped = old.key_type is None or spec.key is None
    is_same = [(leaf.path, leaf.place, leaf.type) for leaf in before] == [
        (leaf.path, leaf.place, leaf.type) for leaf in after
    ]
    if old.key_size == spec.key_size and (is_same or is_untyped):
        return None
    own_rules = rules_of_part(rules, KEY, has_members=_has_members(before, after))
    return match_members(
        before,
        after,
        own_rules,
        # A key is built from the old one alone. No program writes into it meanwhile.
        default_rule=lambda old, new: Rule.KEEP_OLD,
        otherwise=Rule.KEEP_OLD,
    )


def _values(
    request: MigrationRequest, types: Types, rules: MigrationRules, functions: frozenset[str]
) -> PartMoves:
    spec = request.spec
    is_data = spec.dialect is Dialect.DATA
    before, after = leaves(types[0], request.old.value_size), leaves(types[1], spec.value_size)
    own_rules = rules_of_part(rules, VALUE, has_members=_has_members(before, after))
    match = partial(
        match_members,
        # The members of functions take no part: their values come from Python, before the switch.
        [leaf for leaf in before if not is_named(leaf.path, functions)],
        [leaf for leaf in after if not is_named(leaf.path, functions)],
        own_rules,
        default_rule=partial(
            exact.default_rule, request.old_users, request.new_users, is_data=is_data
        ),
        otherwise=Rule.KEEP_OLD if is_data else Rule.KEEP_NEW,
    )
    moves = match()
    # Reading all values for unused members is only worth it if some member needs a decision.
    return match(is_unused=_unused(request)) if moves.unfit else moves


def _unused(request: MigrationRequest) -> Callable[[Leaf], bool]:
    """Return a test for unused old members: no program writes them, and they are 0 everywhere."""
    shape = entries.shape_of_map(request.old)
    users = (*request.old_users, *request.new_users)
    # A program that cannot be followed, or that writes whole values, may use any byte later.
    # Without a program nothing is known at all.
    if shape is None or not users or any(user.use.unknown or user.use.overwrites for user in users):
        return lambda leaf: False
    # One walk over the map answers the question for all members.
    bits = entries.bits_in_use(request.old, shape)

    def is_unused(leaf: Leaf) -> bool:
        place = leaf.place
        is_zero = not any(bits[place.offset : place.offset + place.size])
        return is_zero and not write_kinds(request.old_users, place)

    return is_unused


def _has_members(before: Sequence[Leaf], after: Sequence[Leaf]) -> bool:
    return all(leaf.path for leaf in (*before, *after))


def _exactness(
    request: MigrationRequest,
    both: tuple[MapShape, MapShape],
    parts: tuple[PartMoves | None, PartMoves],
    survey: EntrySurvey,
) -> Exactness:
    keys, values = parts
    old_users, new_users = request.old_users, request.new_users
    case = ExactnessCase(*both, values.moves, survey.entries, old_users, new_users)
    judged = exact.judge(case)
    reasons = list(judged.reasons)
    if request.migration.functions_of(request.spec.name):
        reasons.append(
            "functions are called before the switch: later changes of old values are not seen"
        )
    reasons += _of_untyped(values, old_users, new_users)
    return Exactness(
        tuple(reasons),
        (*judged.notes, *_of_owned(request)),
        losses(keys, values, survey, (old_users, new_users)),
        conditions(keys, values, old_users, entries.sums_of_cpus(values.moves, *both)),
    )


def _of_untyped(
    values: PartMoves, old_users: Sequence[UsingProgram], new_users: Sequence[UsingProgram]
) -> Iterator[str]:
    """Yield a reason if programs count in a value that is moved as one opaque member."""
    for (old, _), move in zip(values.carried, values.moves, strict=True):
        # A value without BTF is one opaque leaf and is copied, not added: counts of both sides
        # would not add up.
        is_counted = ADDS & (write_kinds(old_users, move.old) | write_kinds(new_users, move.new))
        if old.kind is LeafKind.OPAQUE and not old.path and is_counted:
            yield "programs count in values whose members are not known (a layout names them)"


def _of_owned(request: MigrationRequest) -> Iterator[str]:
    """Yield notes about locks, timers and kernel pointers: new ones are empty, old ones go."""
    before, after = (
        {(leaf.path, leaf.type.partition(" {")[0]): leaf for leaf in kernel_owned_leaves(type_)}
        for type_ in (request.old.value_type, request.spec.value)
    )
    for path, type_ in after:
        yield f"{path} ({type_}) starts empty"
    for path, type_ in before:
        if (path, type_) not in after:
            yield f"{path} ({type_}) goes with the old map"


def _start(
    request: MigrationRequest, values: PartMoves, types: Types, rules: MigrationRules
) -> tuple[bytes, FirstValues]:
    """Return the first value of a new entry, and what writes it where the fold does not."""
    spec = request.spec
    # The kernel zeroes new elements; a load writes the contents of data sections right after it has
    # created their maps.
    made = spec.contents if spec.contents is not None else bytes(spec.value_size)
    empty = zero_counters(made, values.moves)
    start = start_value(spec.name, types[1], empty, _starts(values, rules, types[1]))
    functions = request.migration.functions_of(spec.name)
    return start, FirstValues(types, start, functions, made=made)


def _starts(values: PartMoves, rules: MigrationRules, type_: TypeRef | None) -> dict[str, Any]:
    """Return the first values that the user gave for new members of this map."""
    has_members = bool(type_) and all(leaf.path for leaf in values.added)
    own_rules = rules_of_part(rules, VALUE, has_members=has_members)
    return {
        name: value
        for name, value in own_rules.start.items()
        if any(is_named(leaf.path, [name]) for leaf in values.added)
    }
