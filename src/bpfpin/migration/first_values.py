"""First values of new entries, written before programs use the map; moves in user space."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.layout import Span
from bpfpin.codecs.codec import Codec, TextCodec
from bpfpin.codecs.of_btf import codec
from bpfpin.codecs.record import ArrayCodec, RecordCodec
from bpfpin.errors import UsageError
from bpfpin.map_traits import stride_of
from bpfpin.migration.members import MapShape, MemberMove
from bpfpin.migration.request import MemberFunction, Rule
from bpfpin.objects.maps.map import Map
from bpfpin.syscall.cpu import possible_cpus

_STEP: Final = re.compile(r"[^.\[\]]+|\[\d+\]")


def start_value(
    name: str, type_: TypeRef | None, empty: bytes, start: Mapping[str, object]
) -> bytes:
    """Return the value *empty* with the members in *start* set; `UsageError` if one is wrong."""
    if not start:
        return empty
    try:
        # The codec also knows texts, enumerations and nested members, so they are typed as for `map
        # set`.
        return with_members(codec(type_, len(empty)), empty, start)
    except (ValueError, TypeError, LookupError) as error:
        raise UsageError(f"first value for map {name}: {error}") from None


def zero_counters(contents: bytes, moves: Iterable[MemberMove]) -> bytes:
    """Return the initial values of global variables, 0 for those that old values are added to.

    The old value contains the initial value already: the old program started with it.
    """
    data = bytearray(contents)
    for move in moves:
        if move.rule is not Rule.KEEP_OLD:
            data[move.new.offset : move.new.offset + move.new.size] = bytes(move.new.size)
    return bytes(data)


def with_members(kind: Codec, data: bytes, members: Mapping[str, object]) -> bytes:
    """Return the value *data* with the members in *members*, by path, replaced."""
    # The whole value is decoded and encoded again: a codec encodes values, not members.
    whole = kind.decode(data)
    for path, value in members.items():
        whole = _with_value(whole, kind, _STEP.findall(path), value)
    return kind.encode(whole)


def _with_value(whole: Any, kind: Codec | None, steps: list[str], value: object) -> Any:
    if not steps:
        return _typed(value, whole, kind)
    step: Any = int(steps[0][1:-1]) if steps[0].startswith("[") else steps[0]
    whole[step] = _with_value(whole[step], _codec_at(kind, step), steps[1:], value)
    return whole


def _codec_at(kind: Codec | None, step: str | int) -> Codec | None:
    """Return the codec of a member or an element; None if *kind* has none for its parts."""
    if isinstance(kind, ArrayCodec):
        return kind.element
    for part in kind.parts if isinstance(kind, RecordCodec) else ():
        if step in part.names:
            # The members of an unnamed structure or union are named like those of the outer one.
            return part.codec if part.name else _codec_at(part.codec, step)
    return None


def _typed(value: object, current: object, kind: Codec | None) -> object:
    """Parse a word of the command line by the member's *kind* and *current* value."""
    # Digits are a text in a `char[]`. The value of an enumeration may be text, too, but is typed as
    # a number as well.
    if not isinstance(value, str) or isinstance(kind, TextCodec):
        return value
    try:
        # Base 0 takes the prefixes of C: 0x10 and 0b1.
        return int(value, 0)
    except ValueError:
        pass
    if isinstance(current, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # the codec raises an error that names what it takes


class FirstValues:
    """Writes first values into a new map before programs use it; the fold adds the rest.

    The elements of an array exist from the start, so the fold cannot insert them with first values.
    Python functions run in user space, so their results are written here, entry by entry. *made* is
    the value that the elements of an array have after creation.
    """

    def __init__(
        self,
        types: tuple[TypeRef | None, TypeRef | None],
        start: bytes,
        functions: Mapping[str, MemberFunction],
        *,
        made: bytes,
    ) -> None:
        """Prepare to compute the first values.

        Args:
            types: BTF types of old and new values; None without one.
            start: The first value of a new entry, for one CPU.
            functions: The Python functions that compute members, by the member's path.
            made: The value that the elements of an array have after creation.
        """
        self._types = types
        self._is_other = start != made
        self._start = start
        self._functions = functions

    def is_needed(self, new: MapShape) -> bool:
        """Whether anything has to be written.

        Args:
            new: Type, sizes and flags of the new map.
        """
        return bool(self._functions) or (new.is_array and self._is_other)

    def fill(self, old: Map, new: Map, shapes: tuple[MapShape, MapShape]) -> None:
        """Write the first values into *new*; the caller keeps both maps.

        Args:
            old: The old map, whose values the functions read.
            new: The new map.
            shapes: Types, sizes and flags of the old and the new map.
        """
        before, after = shapes
        # No program uses the new map before the switch, so plain updates overwrite nothing that was
        # counted.
        if after.is_array and self._is_other:
            for index in range(after.max_entries):
                new.update_bytes(index.to_bytes(4, "little"), self._copies([self._start], after))
        if not self._functions:
            return
        kinds = tuple(
            codec(type_, shape.value_size) for type_, shape in zip(self._types, shapes, strict=True)
        )
        # The old programs go on counting meanwhile, so a function may see a value that is outdated
        # at the switch.
        for key, value in old.items_bytes():
            # An update beyond the end of an array fails (E2BIG). The survey has refused such
            # elements unless they are 0.
            if not (after.is_array and int.from_bytes(key, "little") >= after.max_entries):
                made = [self._made(kinds, copy) for copy in _values(value, before)]
                new.update_bytes(key, self._copies(made, after))

    def _made(self, kinds: tuple[Codec, ...], value: bytes) -> bytes:
        decoded = kinds[0].decode(value)
        members = {path: function(decoded) for path, function in self._functions.items()}
        return with_members(kinds[1], self._start, members)

    def _copies(self, values: list[bytes], shape: MapShape) -> bytes:
        """Return *values* as the map takes them: for a per-CPU map one for each CPU, padded."""
        if not shape.is_per_cpu:
            return values[0]
        # BPF_MAP_UPDATE_ELEM takes a value for each possible CPU; the first value of a new entry is
        # the same on all of them.
        copies = values if len(values) > 1 else values * possible_cpus()
        return b"".join(copy.ljust(stride_of(shape.value_size), b"\0") for copy in copies)


def _values(value: bytes, shape: MapShape) -> list[bytes]:
    stride = stride_of(shape.value_size) if shape.is_per_cpu else len(value)
    return [value[at : at + shape.value_size] for at in range(0, len(value), stride)]


def apply_moves(moves: Sequence[MemberMove], old: bytes, start: bytes) -> bytes:
    """Return *start*, a new key or value, with the members of *old* moved into it.

    For the entries of a snapshot file, by the same moves that a fold is generated from. No program
    has written the new value, so every rule yields the old number; rules matter only to
    `join_values`.
    """
    new = bytearray(start)
    for move in moves:
        if move.is_bytes:
            size = min(move.old.size, move.new.size)
            new[move.new.offset : move.new.offset + size] = _part(old, move.old)[:size]
        else:
            _write(new, move.new, _adjusted(move, _read(old, move.old)))
    return bytes(new)


def join_values(moves: Sequence[MemberMove], values: Sequence[bytes]) -> bytes:
    """Join the values of several CPUs or keys by the rules; members without a move are the first's.

    Raises `OverflowError` for a sum that does not fit its member, unless the move cuts it.
    """
    new = bytearray(values[0])
    for move in moves if len(values) > 1 else ():
        if move.is_bytes:
            parts = [_part(value, move.new) for value in values]
            _write_bytes(new, move.new, _kept(move, parts))
        else:
            numbers = [_read(value, move.new) for value in values]
            _write(new, move.new, _within(move, _JOINS[move.rule](move, numbers)))
    return bytes(new)


def _kept(move: MemberMove, parts: Sequence[bytes]) -> bytes:
    if move.rule is Rule.KEEP_OLD:
        return parts[-1]
    # As a fold does: bytes that are all 0 count as "not written yet".
    return next(filter(any, parts), parts[0])


def _adjusted(move: MemberMove, number: int) -> int:
    number = dict(move.renumbered).get(number, number)
    if move.limits is None:
        return number
    low, high = move.limits
    return min(max(number, low), high)


def _within(move: MemberMove, number: int) -> int:
    bits = 8 * move.new.size - move.new.is_signed
    low, high = -(1 << bits) if move.new.is_signed else 0, (1 << bits) - 1
    if low <= number <= high:
        return number
    if move.limits is None and not move.saturates:
        raise OverflowError(
            f"{move.path or 'value'}: {number} does not fit into {move.new.size} bytes"
        )
    return min(max(number, low), high)


def _least(numbers: Sequence[int]) -> int:
    return min(filter(None, numbers), default=0)


def _greatest(move: MemberMove, numbers: Sequence[int]) -> int:
    # As in a fold: a 0 means "no number yet" if numbers may be negative.
    return max(filter(None, numbers), default=0) if move.new.is_signed else max(numbers)


_JOINS: Final[dict[Rule, Callable[[MemberMove, Sequence[int]], int]]] = {
    Rule.SUM: lambda _, numbers: sum(numbers),
    Rule.KEEP_NEW: lambda _, numbers: next(filter(None, numbers), 0),
    Rule.KEEP_OLD: lambda _, numbers: numbers[-1],
    Rule.MAX: _greatest,
    Rule.MIN: lambda _, numbers: _least(numbers),
}


def _part(data: bytes | bytearray, place: Span) -> bytes:
    return bytes(data[place.offset : place.offset + place.size])


def _read(data: bytes | bytearray, place: Span) -> int:
    return int.from_bytes(_part(data, place), "little", signed=place.is_signed)


def _write(data: bytearray, place: Span, number: int) -> None:
    # A number that is too wide is cut to the lower bytes, as the store of a fold cuts it.
    bits = 8 * place.size
    _write_bytes(data, place, (number & ((1 << bits) - 1)).to_bytes(place.size, "little"))


def _write_bytes(data: bytearray, place: Span, part: bytes) -> None:
    data[place.offset : place.offset + place.size] = part
