"""What is in the old map, as far as it decides whether it can be moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from bpfpin.btf.layout import Span
from bpfpin.errors import Difference
from bpfpin.migration.match import EntryCheck, PartMoves
from bpfpin.migration.members import MapShape, MemberMove
from bpfpin.migration.request import Rule
from bpfpin.objects.maps.codec import stride_of
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType

SHOWN: Final = 3  # entries that do not fit, of each kind
_ELEMENT_OF_HASH: Final = 48  # bytes before the key: struct htab_elem of kernel/bpf/hashtab.c
_WORD: Final = 8


@dataclass(frozen=True, slots=True)
class Misfit:
    """An entry that does not fit: which number of it, and why; keys and values are bytes."""

    part: str
    path: str
    key: bytes
    value: bytes
    number: int
    what: str


@dataclass
class EntrySurvey:
    """What a walk found: how many entries, and the first of those that do not fit, by kind.

    *lost* says of each wished check of keys or values how many entries give something up.
    """

    entries: int = 0
    misfits: list[Misfit] = field(default_factory=list)
    lost: Counter[tuple[str, EntryCheck]] = field(default_factory=Counter)

    def tell(self, misfit: Misfit) -> None:
        """Keep a misfit, unless enough of its kind are known."""
        same = (one for one in self.misfits if (one.path, one.what) == (misfit.path, misfit.what))
        if sum(1 for _ in same) < SHOWN:
            self.misfits.append(misfit)


class OldEntry(NamedTuple):
    """A key, and the values of all CPUs."""

    key: bytes
    values: list[bytes]


Examine = Callable[[OldEntry], Iterator[Misfit]]


def survey_entries(
    old: Map, shapes: tuple[MapShape, MapShape], keys: PartMoves | None, values: PartMoves
) -> EntrySurvey:
    """Count the entries of *old*, and hold each against the checks."""
    before, _ = shapes
    found = EntrySurvey()
    examiners = _examiners(shapes, keys, values, found)
    if before.is_array and not examiners:
        found.entries = before.max_entries
        return found
    stride = stride_of(before.value_size) if before.is_per_cpu else before.value_size
    copies = possible_cpus() if before.is_per_cpu else 1
    for batch in old.batches_bytes():
        found.entries += batch.count
        for index in range(batch.count if examiners else 0):
            key = bytes(batch.keys[index * before.key_size : (index + 1) * before.key_size])
            start = index * stride * copies
            each = [
                bytes(batch.values[at : at + before.value_size])
                for at in range(start, start + copies * stride, stride)
            ]
            for examine in examiners:
                for misfit in examine(OldEntry(key, each)):
                    found.tell(misfit)
    return found


def bits_in_use(old: Map, shape: MapShape) -> bytes:
    """Return all values of *old*, of all CPUs, laid upon each other: 0 where each has 0."""
    stride = stride_of(shape.value_size) if shape.is_per_cpu else shape.value_size
    found = 0
    for batch in old.batches_bytes():
        values = bytes(batch.values)
        for start in range(0, len(values), stride):
            found |= int.from_bytes(values[start : start + shape.value_size], "little")
    return found.to_bytes(shape.value_size, "little")


def _examiners(
    shapes: tuple[MapShape, MapShape],
    keys: PartMoves | None,
    values: PartMoves,
    contents: EntrySurvey,
) -> list[Examine]:
    old, new = shapes
    found: list[Examine] = []
    if keys is not None and keys.checks:
        found.append(lambda entry: _unfit("key", keys.checks, entry, [entry.key], contents))
    if values.checks:
        found.append(lambda entry: _unfit("value", values.checks, entry, entry.values, contents))
    totals = [move for move in values.moves if _may_overflow(move, old, new)]
    if totals:
        found.append(lambda entry: _too_great(totals, entry))
    if old.is_array and new.max_entries < old.max_entries:
        parts = [move.old for move in values.moves] + [leaf.place for leaf in values.dropped]
        found.append(lambda entry: _cut_off(new.max_entries, parts, entry))
    return found


def _unfit(  # noqa: PLR0917  (where it looks, and where it counts)
    part: str,
    checks: Sequence[EntryCheck],
    entry: OldEntry,
    where: list[bytes],
    contents: EntrySurvey,
) -> Iterator[Misfit]:
    for check in checks:
        unfit = [data for data in where if not check.fits(data)]
        if check.is_wished:
            contents.lost[part, check] += bool(unfit)
            continue
        for data in unfit:
            yield Misfit(part, check.path, *_first(entry), _number(data, check), check.what)


def _first(entry: OldEntry) -> tuple[bytes, bytes]:
    return entry.key, entry.values[0]


def _number(data: bytes, check: EntryCheck) -> int:
    place = check.place
    some = data[place.offset : place.offset + min(place.size, 8)]
    return int.from_bytes(some, "little", signed=place.is_signed)


def _may_overflow(move: MemberMove, old: MapShape, new: MapShape) -> bool:
    """Whether the numbers of all CPUs together may be too great for the one that they become."""
    is_one = old.is_per_cpu and not new.is_per_cpu
    is_sum = move.rule is Rule.SUM and not move.is_bytes and move.limits is None
    return is_one and is_sum and move.new.size < 8


def _too_great(moves: Sequence[MemberMove], entry: OldEntry) -> Iterator[Misfit]:
    for move in moves:
        total = sum(_read(move, value) for value in entry.values)
        bits = 8 * move.new.size - move.new.is_signed
        low = -(1 << bits) if move.new.is_signed else 0
        if not low <= total < 1 << bits:
            what = f"{8 * move.new.size} bits have no room for the sum of all CPUs"
            yield Misfit("value", move.path, *_first(entry), total, what)


def _read(move: MemberMove, value: bytes) -> int:
    place = move.old
    some = value[place.offset : place.offset + place.size]
    return int.from_bytes(some, "little", signed=place.is_signed)


def _cut_off(length: int, parts: Sequence[Span], entry: OldEntry) -> Iterator[Misfit]:
    """Yield an element beyond the end that has anything in it but what is the kernel's own."""
    index = int.from_bytes(entry.key, "little")
    if index >= length and any(
        any(value[part.offset : part.offset + part.size])
        for value in entry.values
        for part in parts
    ):
        what = f"the new array has {length} elements"
        yield Misfit("value", "", *_first(entry), index, what)


def shown(codec: Any, data: bytes) -> str:
    """Return a key or a value as text."""
    return str(codec.decode(data))


# Which maps can become which: types, sizes and flags.


def shape_of_spec(spec: MapSpec) -> MapShape:
    """Return the shape of a map that is wanted."""
    return MapShape(spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.map_flags)


def shape_of_map(held: Map) -> MapShape | None:
    """Return the shape of a map that exists, None if its type is newer than this version."""
    if not isinstance(held.type, MapType):
        return None
    flags = held.info.map_flags
    return MapShape(held.type, held.key_size, held.value_size, held.max_entries, flags)


def shape_differences(name: str, old: MapShape, new: MapShape) -> Iterator[Difference]:
    """Yield why a map cannot become the other, whatever is in it."""
    if not ((old.is_array and new.is_array) or (old.is_hash and new.is_hash)):
        yield Difference(name, "type", type_text(old), f"{type_text(new)}, which cannot take it")
        return
    for shape, whose in ((old, "old"), (new, "new")):
        if shape.map_flags & MapFlag.RDONLY_PROG:
            yield Difference(
                name, "map_flags", "rdonly_prog", f"programs may not write the {whose} map"
            )
    if old.is_array and old.key_size != new.key_size:
        yield Difference(name, "key_size", str(old.key_size), str(new.key_size))


def shape_text(shape: MapShape) -> str:
    """Return the shape in words: `percpu_hash, 1024 entries`."""
    return f"{type_text(shape)}, {shape.max_entries} entries"


def type_text(shape: MapShape) -> str:
    """Return the type as the kernel spells it."""
    return shape.type.name.lower()


def memory_bytes(shape: MapShape, entries: int) -> int:
    """Return about how much memory a map takes with so many entries, without its buckets."""
    copies = possible_cpus() if shape.is_per_cpu else 1
    value = _rounded(shape.value_size) * copies
    if shape.is_array:
        return shape.max_entries * value
    is_filled = bool(shape.map_flags & MapFlag.NO_PREALLOC)
    element = _ELEMENT_OF_HASH + _rounded(shape.key_size) + value
    return (entries if is_filled else shape.max_entries) * element


def _rounded(size: int) -> int:
    return -(-size // _WORD) * _WORD
