"""Reads the old map once: how many entries it has, and which of them cannot be moved.

Also the shapes of maps, and which of them can become which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from typing import Any, Final, NamedTuple

from bpfpin.btf.layout import Span
from bpfpin.errors import Difference
from bpfpin.map_traits import stride_of
from bpfpin.migration.match import EntryCheck, PartMoves
from bpfpin.migration.members import MapShape, MemberMove
from bpfpin.migration.request import Rule
from bpfpin.objects.maps.map import Map
from bpfpin.records import dataclass
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType

SHOWN: Final = 3  # examples of entries that do not fit, for each reason
_ELEMENT_OF_HASH: Final = 48  # bytes before the key: struct htab_elem of kernel/bpf/hashtab.c
_WORD: Final = 8


@dataclass(frozen=True, slots=True)
class Misfit:
    """An entry that does not fit into the new map, with the member at fault.

    *part* is `key` or `value`, *path* the member, *number* its number; *key* and *value* are the
    entry's bytes, *what* says why it does not fit. *may_be_cut*: the number is out of range.
    """

    part: str
    path: str
    key: bytes
    value: bytes
    number: int
    what: str
    may_be_cut: bool = False


@dataclass
class EntrySurvey:
    """The result of reading the old map: the number of entries, and examples of misfits.

    *lost* counts, for each check whose loss the user accepted, the entries that lose something, and
    *cut_sums*, by member and reason, those where only the sum of all CPUs is cut.
    """

    entries: int = 0
    misfits: list[Misfit] = field(default_factory=list)
    lost: Counter[tuple[str, EntryCheck]] = field(default_factory=Counter)
    cut_sums: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, misfit: Misfit) -> None:
        """Keep a misfit as an example, unless there are enough for its member and reason."""
        reasons = [(known.path, known.what) for known in self.misfits]
        if reasons.count((misfit.path, misfit.what)) < SHOWN:
            self.misfits.append(misfit)


class OldEntry(NamedTuple):
    """An entry of the old map: its key, and its values, one for each CPU of a per-CPU map."""

    key: bytes
    values: list[bytes]


Examine = Callable[[OldEntry], Iterator[Misfit]]


def survey_entries(
    old: Map, shapes: tuple[MapShape, MapShape], keys: PartMoves | None, values: PartMoves
) -> EntrySurvey:
    """Count the entries of *old* and check each; the programs go on writing meanwhile.

    Whatever holds now has to hold until the switch: see `losses.conditions`.
    """
    before, _ = shapes
    survey = EntrySurvey()
    examiners = _examiners(shapes, keys, values, survey)
    # All keys of an array exist, so without a check there is no reason to read it.
    if before.is_array and not examiners:
        survey.entries = before.max_entries
        return survey
    # The kernel returns the value of a per-CPU map once for each possible CPU, each padded to eight
    # bytes (bpf_map_value_size() of kernel/bpf/syscall.c).
    stride = stride_of(before.value_size) if before.is_per_cpu else before.value_size
    copies = possible_cpus() if before.is_per_cpu else 1
    for batch in old.batches_bytes():
        survey.entries += batch.count
        for index in range(batch.count if examiners else 0):
            # Copied, since the next batch overwrites the buffers and a misfit keeps its key.
            key = bytes(batch.keys[index * before.key_size : (index + 1) * before.key_size])
            start = index * stride * copies
            copies_of_entry = [
                bytes(batch.values[at : at + before.value_size])
                for at in range(start, start + copies * stride, stride)
            ]
            for examine in examiners:
                for misfit in examine(OldEntry(key, copies_of_entry)):
                    survey.add(misfit)
    return survey


def bits_in_use(old: Map, shape: MapShape) -> bytes:
    """Return the bitwise OR of all values of *old*, of all CPUs: 0 wherever every value is 0."""
    stride = stride_of(shape.value_size) if shape.is_per_cpu else shape.value_size
    bits = 0
    for batch in old.batches_bytes():
        values = bytes(batch.values)
        for start in range(0, len(values), stride):
            # One OR of large integers for each value: a loop over its bytes is slow in Python.
            bits |= int.from_bytes(values[start : start + shape.value_size], "little")
    return bits.to_bytes(shape.value_size, "little")


def _examiners(
    shapes: tuple[MapShape, MapShape],
    keys: PartMoves | None,
    values: PartMoves,
    survey: EntrySurvey,
) -> list[Examine]:
    old, new = shapes
    examiners: list[Examine] = []
    # A part without a check has no examiner: the walk calls every examiner for every entry.
    if keys is not None and keys.checks:
        examiners.append(lambda entry: _unfit("key", keys.checks, entry, [entry.key], survey))
    if values.checks:
        examiners.append(lambda entry: _unfit("value", values.checks, entry, entry.values, survey))
    totals = sums_of_cpus(values.moves, old, new)
    if totals:
        examiners.append(lambda entry: _too_great(totals, entry, survey))
    if old.is_array and new.max_entries < old.max_entries:
        # Padding does not count: only bytes of members can be lost.
        parts = [move.old for move in values.moves] + [leaf.place for leaf in values.dropped]
        examiners.append(lambda entry: _cut_off(new.max_entries, parts, entry))
    return examiners


def _unfit(  # noqa: PLR0917  (the checks, the bytes they read, and the survey they count in)
    part: str,
    checks: Sequence[EntryCheck],
    entry: OldEntry,
    where: list[bytes],
    survey: EntrySurvey,
) -> Iterator[Misfit]:
    for check in checks:
        unfit = [data for data in where if not check.fits(data)]
        if check.is_accepted:
            # An entry counts once, even if it loses the value of several CPUs.
            survey.lost[part, check] += bool(unfit)
            continue
        for data in unfit:
            number, is_range = _number(data, check), check.limits is not None
            yield Misfit(part, check.path, *_first(entry), number, check.what, is_range)


def _first(entry: OldEntry) -> tuple[bytes, bytes]:
    return entry.key, entry.values[0]


def _number(data: bytes, check: EntryCheck) -> int:
    place = check.place
    # A text has no number of its own: its first eight bytes identify it in a message.
    some = data[place.offset : place.offset + min(place.size, 8)]
    return int.from_bytes(some, "little", signed=place.is_signed)


def sums_of_cpus(moves: Sequence[MemberMove], old: MapShape, new: MapShape) -> list[MemberMove]:
    """Return the moves whose sum of all CPUs may exceed the shared number that it becomes."""
    if not old.is_per_cpu or new.is_per_cpu:
        return []
    sums = [move for move in moves if move.rule is Rule.SUM and not move.is_bytes]
    # Packets and bytes of all CPUs together stay below 2^64, so wide counters need no check.
    return [move for move in sums if move.new.size < _WORD]


def range_of(place: Span) -> tuple[int, int]:
    """Return the least and the greatest number that has room at *place*."""
    bits = 8 * place.size - place.is_signed
    return (-(1 << bits) if place.is_signed else 0), (1 << bits) - 1


def _too_great(
    moves: Sequence[MemberMove], entry: OldEntry, survey: EntrySurvey
) -> Iterator[Misfit]:
    for move in moves:
        numbers = [_read(move, value) for value in entry.values]
        total = sum(numbers)
        low, high = range_of(move.new)
        if not low <= total <= high:
            what = f"{8 * move.new.size} bits have no room for the sum of all CPUs"
            if move.saturates:
                # A number that is cut by itself is counted by its check.
                is_cut = any(not low <= number <= high for number in numbers)
                survey.cut_sums[move.path, what] += not is_cut
                continue
            yield Misfit("value", move.path, *_first(entry), total, what, may_be_cut=True)


def _read(move: MemberMove, value: bytes) -> int:
    place = move.old
    some = value[place.offset : place.offset + place.size]
    return int.from_bytes(some, "little", signed=place.is_signed)


def _cut_off(length: int, parts: Sequence[Span], entry: OldEntry) -> Iterator[Misfit]:
    """Yield the entry if its index is beyond the new end and any of its *parts* is not 0."""
    # The key of an array is a u32 in the machine's byte order.
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


def shape_of_spec(spec: MapSpec) -> MapShape:
    """Return the shape of the map that *spec* describes."""
    return MapShape(spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.map_flags)


def shape_of_map(bpf_map: Map) -> MapShape | None:
    """Return the shape of an existing map; None if this version does not know its type."""
    if not isinstance(bpf_map.type, MapType):
        return None
    flags = bpf_map.info.map_flags
    sizes = bpf_map.key_size, bpf_map.value_size, bpf_map.max_entries
    return MapShape(bpf_map.type, *sizes, flags)


def shape_differences(name: str, old: MapShape, new: MapShape) -> Iterator[Difference]:
    """Yield why the old map cannot become the new one, whatever its entries are.

    Arrays become arrays and hashes become hashes, per-CPU or shared, LRU or not.
    """
    if not ((old.is_array and new.is_array) or (old.is_hash and new.is_hash)):
        # An element of zeros in an array may never have been used. A hash has no such entries, so
        # neither can become the other without a guess.
        yield Difference(name, "type", type_text(old), f"{type_text(new)}, which cannot take it")
        return
    for shape, whose in ((old, "old"), (new, "new")):
        # The fold writes the old map, too, since it takes the counters out. The verifier refuses a
        # store into such a map ("write into map forbidden", measured).
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
    """Return about how many bytes a map takes with that many *entries*, without its buckets."""
    copies = possible_cpus() if shape.is_per_cpu else 1
    value = _rounded(shape.value_size) * copies
    if shape.is_array:
        return shape.max_entries * value
    # Without BPF_F_NO_PREALLOC a hash allocates all elements when it is created (prealloc_init() of
    # kernel/bpf/hashtab.c).
    is_filled = bool(shape.map_flags & MapFlag.NO_PREALLOC)
    element = _ELEMENT_OF_HASH + _rounded(shape.key_size) + value
    return (entries if is_filled else shape.max_entries) * element


def _rounded(size: int) -> int:
    return -(-size // _WORD) * _WORD
