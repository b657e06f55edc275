"""What new entries begin with, and what is written into the new map before programs get it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bpfpin.btf.btf import TypeRef
from bpfpin.codecs.codec import Codec
from bpfpin.codecs.of_btf import codec
from bpfpin.errors import UsageError
from bpfpin.objects.map import Map
from bpfpin.objects.percpu import stride_of
from bpfpin.pins.migration.moves import Move, Shape
from bpfpin.pins.migration.rules import Rule
from bpfpin.pins.migration.wishes import MemberFunction
from bpfpin.syscall.cpu import possible_cpus

_STEP: Final = re.compile(r"[^.\[\]]+|\[\d+\]")


def start_value(
    name: str, type_: TypeRef | None, empty: bytes, start: Mapping[str, object]
) -> bytes:
    """Return *empty*, the bytes of a value, with the members *start* set; `UsageError`."""
    if not start:
        return empty
    try:
        return with_members(codec(type_, len(empty)), empty, start)
    except (ValueError, TypeError, LookupError) as error:
        raise UsageError(f"--start, map {name}: {error}") from None


def counted_from_zero(contents: bytes, moves: Iterable[Move]) -> bytes:
    """Return what global variables start with: those that the old value comes to, with 0.

    What the object file says of them was counted in when the old program started.
    """
    data = bytearray(contents)
    for move in moves:
        if move.rule is not Rule.KEEP_OLD:
            data[move.new.offset : move.new.offset + move.new.size] = bytes(move.new.size)
    return bytes(data)


def with_members(kind: Codec, data: bytes, members: Mapping[str, object]) -> bytes:
    """Return the value *data* with members, named by path, that are another."""
    whole = kind.decode(data)
    for path, value in members.items():
        whole = _put(whole, _STEP.findall(path), value)
    return kind.encode(whole)


def _put(whole: Any, steps: list[str], value: object) -> Any:
    if not steps:
        return _typed(value, whole)
    step: Any = int(steps[0][1:-1]) if steps[0].startswith("[") else steps[0]
    whole[step] = _put(whole[step], steps[1:], value)
    return whole


def _typed(value: object, there: object) -> object:
    """Return what a word of the command line stands for, where *there* is now."""
    if not isinstance(value, str):
        return value
    try:
        return int(value, 0)
    except ValueError:
        pass
    if isinstance(there, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # the codec says what it wants


class Filling:
    """Writes what cannot wait for the fold into a new map that no program has yet.

    Elements of an array are there from the start, and so get their first values; what Python
    functions make of old values is written with the entry. The fold adds the rest. *made* is what
    an element has when the map was created.
    """

    def __init__(
        self,
        types: tuple[TypeRef | None, TypeRef | None],
        start: bytes,
        functions: Mapping[str, MemberFunction],
        *,
        made: bytes,
    ) -> None:
        self._types = types
        self._is_other = start != made
        self._start = start
        self._functions = functions

    def is_needed(self, new: Shape) -> bool:
        """Whether there is anything to be written."""
        return bool(self._functions) or (new.is_array and self._is_other)

    def fill(self, old: Map, new: Map, shapes: tuple[Shape, Shape]) -> None:
        """Write the first values into *new*; both maps stay the caller's."""
        before, after = shapes
        if after.is_array and self._is_other:
            for index in range(after.max_entries):
                new.update_bytes(index.to_bytes(4, "little"), self._copies([self._start], after))
        if not self._functions:
            return
        kinds = tuple(
            codec(type_, shape.value_size) for type_, shape in zip(self._types, shapes, strict=True)
        )
        for key, value in old.items_bytes():
            if not (after.is_array and int.from_bytes(key, "little") >= after.max_entries):
                made = [self._made(kinds, one) for one in _values(value, before)]
                new.update_bytes(key, self._copies(made, after))

    def _made(self, kinds: tuple[Codec, ...], value: bytes) -> bytes:
        said = kinds[0].decode(value)
        members = {path: function(said) for path, function in self._functions.items()}
        return with_members(kinds[1], self._start, members)

    def _copies(self, values: list[bytes], shape: Shape) -> bytes:
        """Return a value as the map takes it: of a per-CPU map one for each CPU."""
        if not shape.is_per_cpu:
            return values[0]
        each = values if len(values) > 1 else values * possible_cpus()
        return b"".join(one.ljust(stride_of(shape.value_size), b"\0") for one in each)


def _values(value: bytes, shape: Shape) -> list[bytes]:
    stride = stride_of(shape.value_size) if shape.is_per_cpu else len(value)
    return [value[at : at + shape.value_size] for at in range(0, len(value), stride)]
