"""Converts the entries of a snapshot for a map of another definition, as `load --migrate` does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bpfpin.btf.btf import TypeRef
from bpfpin.errors import Difference, IncompatibleMapError
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.map.snapshot_file import Block, SavedDefinition, SnapshotReader
from bpfpin.map.snapshot_fit import are_interchangeable, definition_of
from bpfpin.map_traits import traits_of
from bpfpin.migration import entries
from bpfpin.migration.entries import SHOWN
from bpfpin.migration.first_values import apply_moves, join_values, start_value
from bpfpin.migration.match import EntryCheck, PartMoves, match_members
from bpfpin.migration.members import Leaf, MapShape, layout_texts, leaves, types_with_layouts
from bpfpin.migration.refusal import (
    MemberNames,
    MigrationRefusedError,
    Refusals,
    names_of,
    require_known,
)
from bpfpin.migration.request import KEY, VALUE, Migration, MigrationRules, Rule, rules_of_part
from bpfpin.objects.maps.map import Map
from bpfpin.records import dataclass

_Types = tuple[TypeRef | None, TypeRef | None]
_Leaves = tuple[tuple[Leaf, ...], tuple[Leaf, ...]]


@dataclass(frozen=True)
class ConvertedSnapshot:
    """A snapshot in the form of another map; entries are converted while they are read.

    *keys* is None if keys are the same. *start* is the value of a new entry, whose members the
    values are written into.
    """

    snapshot: SnapshotReader
    definition: SavedDefinition
    keys: PartMoves | None
    values: PartMoves
    start: bytes

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.snapshot.path

    @property
    def lost(self) -> tuple[str, ...]:
        """The members that lose something: dropped ones, and those that are cut to fit."""
        paths: dict[str, None] = {}
        for side, moves in ((KEY, self.keys), (VALUE, self.values)):
            for check in moves.checks if moves else ():
                if check.is_accepted and self._is_lost(side, check):
                    paths[f"{KEY}.{check.path}" if side == KEY else check.path or VALUE] = None
        return tuple(paths)

    def _is_lost(self, side: str, check: EntryCheck) -> bool:
        """Whether an entry of the file has a value that does not fit; reads the file."""
        return any(
            not check.fits(data)
            for key, values in self._old_entries()
            for data in ([key] if side == KEY else values)
        )

    def blocks(self) -> Iterator[Block]:
        """Yield keys and values, back to back, as `SnapshotReader.blocks` does."""
        if self.keys is None:
            for block in self.snapshot.blocks():
                # Keys stay different: each block is converted alone, and memory stays small. All of
                # it may be beyond the end of a shorter array.
                converted = list(self._entries(block))
                keys, values = (b"".join(entry[part] for entry in converted) for part in (0, 1))
                yield memoryview(keys), memoryview(values)
            return
        # Members of a key went away, so two old keys may become one: none is complete before the
        # end.
        together: dict[bytes, bytes] = {}
        for block in self.snapshot.blocks():
            for key, value in self._entries(block):
                earlier = together.get(key)
                together[key] = self._joined(earlier, value) if earlier is not None else value
        yield memoryview(b"".join(together)), memoryview(b"".join(together.values()))

    def require_fit(self) -> None:
        """Raise `IncompatibleMapError` with the first entries that do not fit; reads the file."""
        misfits: list[Difference] = []
        for key, values in self._old_entries():
            misfits += self._misfits(key, values)
            if len(misfits) >= SHOWN:
                break
        if misfits:
            hint = Fix.of(Argument("clamp"), ", or ", Argument("dropped", [Placeholder("MEMBER")]))
            raise _refusal(self.definition.name, self.path, misfits, hint=hint)

    def _misfits(self, key: bytes, values: list[bytes]) -> Iterator[Difference]:
        name, where = self.definition.name, f"at key hex:{key.hex()}"
        for side, moves, data in ((KEY, self.keys, [key]), (VALUE, self.values, values)):
            for check in moves.checks if moves else ():
                if not check.is_accepted and not all(map(check.fits, data)):
                    yield Difference(name, f"{side} {check.path}".rstrip(), where, check.what)
        # Elements beyond the end of a shorter array may go if they are zero, as if never used.
        if self._is_cut_off(key) and any(map(any, values)):
            length = self.definition.max_entries
            yield Difference(name, VALUE, where, f"the array has {length} elements")
        try:
            self._value(values)
        except OverflowError as error:
            yield Difference(name, VALUE, where, str(error))

    def _is_cut_off(self, key: bytes) -> bool:
        is_array = traits_of(self.definition.type).is_array
        return is_array and int.from_bytes(key, "little") >= self.definition.max_entries

    def _old_entries(self) -> Iterator[tuple[bytes, list[bytes]]]:
        for block in self.snapshot.blocks():
            yield from self._cut(block)

    def _cut(self, block: Block) -> Iterator[tuple[bytes, list[bytes]]]:
        """Yield each key with the values of all CPUs."""
        old = self.snapshot.definition
        stride = old.value_bytes // old.cpus
        keys, values = block
        for number in range(len(keys) // old.key_size):
            at = number * old.value_bytes
            by_cpu = [
                bytes(values[start : start + old.value_size])
                for start in range(at, at + old.value_bytes, stride)
            ]
            yield bytes(keys[number * old.key_size : (number + 1) * old.key_size]), by_cpu

    def _entries(self, block: Block) -> Iterator[tuple[bytes, bytes]]:
        for key, values in self._cut(block):
            if self._is_cut_off(key):
                continue
            size = self.definition.key_size
            new_key = apply_moves(self.keys.moves, key, bytes(size)) if self.keys else key
            yield new_key, self._value(values)

    def _value(self, values: list[bytes]) -> bytes:
        """Return a value as the kernel takes it; the first CPU gets the values of missing CPUs."""
        moves, new = self.values.moves, self.definition
        by_cpu = [apply_moves(moves, value, self.start) for value in values]
        if len(by_cpu) > new.cpus:
            surplus = by_cpu[new.cpus :]
            # The first CPU exists on every host; so the sum over all CPUs stays the same.
            by_cpu = [join_values(moves, [by_cpu[0], *surplus]), *by_cpu[1 : new.cpus]]
        by_cpu += [self.start] * (new.cpus - len(by_cpu))
        return b"".join(value.ljust(new.value_bytes // new.cpus, b"\0") for value in by_cpu)

    def _joined(self, earlier: bytes, value: bytes) -> bytes:
        """Return the joined value of two old keys that have become one key."""
        stride = self.definition.value_bytes // self.definition.cpus
        pairs = (
            (earlier[at : at + stride], value[at : at + stride])
            for at in range(0, len(value), stride)
        )
        return b"".join(join_values(self.values.moves, pair) for pair in pairs)


def convert_snapshot(
    snapshot: SnapshotReader, bpf_map: Map, migration: Migration
) -> ConvertedSnapshot:
    """Return the entries of *snapshot* converted for *bpf_map*.

    `IncompatibleMapError` with everything that does not fit; `UsageError` for members that
    *migration* names and neither map has.
    """
    old, new = snapshot.definition, definition_of(bpf_map)
    name, wishes = new.name, migration.of(new.name)
    refused = Refusals(name)
    before, after = _shape(old), _shape(new)
    refused.add(
        ()
        if are_interchangeable(old.type, new.type)
        else entries.shape_differences(name, before, after)
    )
    types = _types(snapshot, bpf_map, migration)
    key_leaves = leaves(snapshot.types[0], old.key_size), leaves(bpf_map.key_type, new.key_size)
    value_leaves = leaves(types[0], old.value_size), leaves(types[1], new.value_size)
    both = zip(key_leaves, value_leaves, strict=True)
    require_known(migration, {name: MemberNames(*(names_of(*leaf_pair) for leaf_pair in both))})
    keys = _keys(old, new, key_leaves, wishes)
    # Where values are joined, the user has to choose the rule of each number: a sum is right for
    # counters and wrong for times.
    is_joined = keys is not None or new.cpus < old.cpus
    value_rules = rules_of_part(wishes, VALUE, has_members=_have_members(value_leaves))
    values = match_members(
        *value_leaves,
        value_rules,
        default_rule=lambda _old, _new: None if is_joined else Rule.KEEP_NEW,
        otherwise=Rule.KEEP_NEW,
    )
    refused.add_unfit(KEY, keys)
    refused.add_unfit(VALUE, values)
    refused.add_contradictions(keys, values, (before, after), ())
    try:
        refused.stop_if_any()
    except MigrationRefusedError as error:
        raise _refusal(name, snapshot.path, error.differences, hint=error.fix) from None
    start = start_value(name, types[1], bytes(new.value_size), value_rules.start)
    converted = ConvertedSnapshot(snapshot, new, keys, values, start)
    converted.require_fit()
    return converted


def _refusal(
    name: str, path: Path, differences: Sequence[Difference], *, hint: Fix
) -> IncompatibleMapError:
    return IncompatibleMapError(
        f"the saved entries cannot be converted for map {name!r} as they are",
        path=str(path),
        differences=differences,
        hint=hint,
    )


def _shape(definition: SavedDefinition) -> MapShape:
    sizes = definition.key_size, definition.value_size, definition.max_entries
    return MapShape(definition.type, *sizes)


def _types(snapshot: SnapshotReader, bpf_map: Map, migration: Migration) -> _Types:
    old, new = snapshot.types[1], bpf_map.value_type
    given = migration.layouts.get(bpf_map.name)
    # A layout stands in for missing BTF; it does not override a type that is known.
    if given is None or not (old is None or new is None):
        return old, new
    sizes = snapshot.definition.value_size, bpf_map.value_size
    texts, name = layout_texts(given), bpf_map.name
    return types_with_layouts(texts, (old, new), sizes, ((), ()), name=name)


def _keys(
    old: SavedDefinition, new: SavedDefinition, both: _Leaves, wishes: MigrationRules
) -> PartMoves | None:
    """Return how old keys become new ones, None if they are the same."""
    before, after = ([(leaf.path, leaf.place, leaf.type) for leaf in side] for side in both)
    if before == after and old.key_size == new.key_size:
        return None
    rules = rules_of_part(wishes, KEY, has_members=_have_members(both))
    keep = Rule.KEEP_OLD
    return match_members(*both, rules, default_rule=lambda _old, _new: keep, otherwise=keep)


def _have_members(both: _Leaves) -> bool:
    return all(leaf.path for side in both for leaf in side)
