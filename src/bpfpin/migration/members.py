"""A type taken apart: every number in it by its path, and where it lies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import Final

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.btf.layout import MAX_DEPTH, MemberLayout, Span, members, size_of
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Int,
    IntEncoding,
    Member,
    Modifier,
    Pointer,
    Struct,
    Var,
)
from bpfpin.btf.types import Enum as EnumType
from bpfpin.btf.write import BtfBuilder
from bpfpin.codecs.kernel_owned import is_kernel_owned
from bpfpin.errors import LimitError, ObjectFileError, UsageError
from bpfpin.map_traits import traits_of
from bpfpin.migration.request import Rule
from bpfpin.uapi import MapType

LEAVES_MAX: Final = 8192  # of one value; the program that moves them has at most a million steps
_NUMBERS: Final = (1, 2, 4, 8)
_MEMBER: Final = re.compile(
    r"(?P<type>(?:__)?[us](?:8|16|32|64)|u?int(?:8|16|32|64)_t|char)"
    r"\s+(?P<name>\w+)\s*(\[(?P<n>\d+)\])?"
)
_STRUCT: Final = re.compile(r"(?:struct|union)\s+(?P<name>\w+)|(?P<typedef>[A-Za-z_]\w*)")
STRUCTS_SHOWN: Final = 3
Sizes = tuple[int, int]
Types = tuple[TypeRef | None, TypeRef | None]
Libraries = tuple[Sequence[Btf], Sequence[Btf]]


# Where each part of an old value goes in the new one, and how: what the fold is generated from.


@dataclass(frozen=True, slots=True)
class MapShape:
    """What a map is, its types aside; sizes in bytes, that of a value of one CPU."""

    type: MapType
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int = 0

    @property
    def is_per_cpu(self) -> bool:
        """Whether each CPU has values of its own."""
        return traits_of(self.type).is_percpu

    @property
    def is_array(self) -> bool:
        """Whether all keys are always there."""
        return traits_of(self.type).is_array

    @property
    def is_hash(self) -> bool:
        """Whether it is a hash, an LRU hash among them."""
        return traits_of(self.type).is_hash

    @property
    def is_lru(self) -> bool:
        """Whether it evicts entries instead of being full."""
        return traits_of(self.type).is_lru


@dataclass(frozen=True, slots=True)
class MemberMove:
    """A number, or with *is_bytes* bytes as they are, that goes from *old* to *new*.

    *renumbered* are values of an enumeration whose numbers changed, old and new. *limits* are what
    the number is brought into before it is written, if any.
    """

    path: str
    old: Span
    new: Span
    rule: Rule = Rule.SUM
    is_bytes: bool = False
    renumbered: tuple[tuple[int, int], ...] = ()
    limits: tuple[int, int] | None = None


class LeafKind(Enum):
    """What a part of a value is, as far as moving it goes."""

    NUMBER = "number"
    ENUM = "enum"
    POINTER = "pointer"
    TEXT = "text"  # characters: may grow
    OPAQUE = "opaque"  # unions, bit-fields, floats: bytes that must have the same type
    OWNED = "owned"  # the kernel's own: locks, timers, kernel pointers


@dataclass(frozen=True, slots=True)
class Leaf:
    """One part of a value; *path* is as in C (`flows[2].bytes`, empty for a plain value).

    *type* is its type in C, by which opaque parts are compared; *values* are an enumeration's, by
    name.
    """

    path: str
    place: Span
    kind: LeafKind
    type: str
    values: tuple[tuple[str, int], ...] = ()


def leaves(ref: TypeRef | None, size: int) -> tuple[Leaf, ...]:
    """Return the parts of a value of *size* bytes; without a type it is one, and opaque.

    What is the kernel's own (locks, timers) and padding is no part. `LimitError` for more than
    8,192 parts.
    """
    if ref is None:
        return (Leaf("", Span(0, size), LeafKind.OPAQUE, f"{size} bytes without BTF"),)
    return tuple(one for one in _all(ref) if one.kind is not LeafKind.OWNED)


def kernel_owned_leaves(ref: TypeRef | None) -> tuple[Leaf, ...]:
    """Return the parts of a value that are the kernel's own, which user space cannot move."""
    return tuple(one for one in _all(ref) if one.kind is LeafKind.OWNED) if ref else ()


def _all(ref: TypeRef) -> Iterator[Leaf]:
    for count, leaf in enumerate(_LeafWalk(ref.btf).of(ref.id, "", 0)):
        if count >= LEAVES_MAX:
            raise LimitError(
                f"{c_type(ref)} has more than {LEAVES_MAX} numbers, too many to move one by one",
                limit=LEAVES_MAX,
                asked=ref.size,
            )
        yield leaf


@dataclass(frozen=True)
class _LeafWalk:
    btf: Btf

    def of(self, type_id: int, path: str, offset: int, depth: int = 0) -> Iterator[Leaf]:
        if depth > MAX_DEPTH:
            raise ObjectFileError(f"{path}: nested more than {MAX_DEPTH} deep")
        kind = self.btf[self.btf.strip(type_id)]
        if is_kernel_owned(self.btf, type_id):
            place = Span(offset, size_of(self.btf, type_id))
            yield Leaf(path, place, LeafKind.OWNED, self._text(type_id))
        elif isinstance(kind, Array):
            yield from self._array(type_id, path, offset, depth)
        elif isinstance(kind, Struct):
            yield from self._members(type_id, path, offset, depth)
        elif isinstance(kind, DataSection):
            for each in kind.variables:
                name = self.btf[each.type_id].name
                yield from self.of(
                    each.type_id, _joined(path, name), offset + each.offset, depth + 1
                )
        elif isinstance(kind, Var):
            yield from self.of(kind.type_id, path, offset, depth + 1)
        else:
            yield self._scalar(kind, type_id, path, offset)

    def _array(self, type_id: int, path: str, offset: int, depth: int) -> Iterator[Leaf]:
        kind = self.btf[self.btf.strip(type_id)]
        assert isinstance(kind, Array)
        element = self.btf[self.btf.strip(kind.element_id)]
        if isinstance(element, Int) and element.size == 1 and _is_char(element):
            place = Span(offset, kind.length)
            yield Leaf(path, place, LeafKind.TEXT, self._text(type_id))
            return
        size = size_of(self.btf, kind.element_id)
        for index in range(min(kind.length, LEAVES_MAX + 1) if size else 0):
            place_of = offset + index * size
            yield from self.of(kind.element_id, f"{path}[{index}]", place_of, depth + 1)

    def _members(self, type_id: int, path: str, offset: int, depth: int) -> Iterator[Leaf]:
        """Yield the parts of all members; bit-fields beside each other are one."""
        laid_out = members(self.btf, type_id, flatten=True)
        unions = self._overlapping(laid_out)
        for is_whole, group in groupby(
            laid_out, lambda one: not _is_bits(one) and one not in unions
        ):
            if not is_whole:
                yield self._together(list(group), path, offset)
                continue
            for one in group:
                place = offset + one.bit_offset // 8
                yield from self.of(one.type_id, _joined(path, one.name), place, depth + 1)

    def _overlapping(self, laid_out: list[MemberLayout]) -> frozenset[MemberLayout]:
        """Return the members that lie upon each other: those of unnamed unions."""
        found: set[MemberLayout] = set()
        reach, last = 0, None
        for one in laid_out:
            if last is not None and not _is_bits(one) and one.bit_offset < reach:
                found |= {one, last}
            if self._end(one) > reach:
                reach, last = self._end(one), one
        return frozenset(found)

    def _end(self, one: MemberLayout) -> int:
        return one.bit_offset + (one.bitfield_size or 8 * size_of(self.btf, one.type_id))

    def _together(self, group: list[MemberLayout], path: str, offset: int) -> Leaf:
        first = min(one.bit_offset for one in group) // 8
        end = -(-max(self._end(one) for one in group) // 8)
        told = ", ".join(
            f"{self._text(one.type_id)} {one.name} at bit {one.bit_offset - 8 * first}"
            f" of {one.bitfield_size or 8 * size_of(self.btf, one.type_id)}"
            for one in group
        )
        name = "|".join(one.name for one in group if one.name)
        return Leaf(_joined(path, name), Span(offset + first, end - first), LeafKind.OPAQUE, told)

    def _scalar(self, kind: BtfType, type_id: int, path: str, offset: int) -> Leaf:
        size, text = size_of(self.btf, type_id), self._text(type_id)
        if isinstance(kind, EnumType) and size in _NUMBERS:
            place = Span(offset, size, kind.is_signed)
            values = tuple((one.name, one.value) for one in kind.values)
            return Leaf(path, place, LeafKind.ENUM, text, values)
        if isinstance(kind, Int) and size in _NUMBERS and kind.bits == 8 * size:
            return Leaf(path, Span(offset, size, kind.is_signed), LeafKind.NUMBER, text)
        if isinstance(kind, Pointer):
            return Leaf(path, Span(offset, size), LeafKind.POINTER, text)
        return Leaf(path, Span(offset, size), LeafKind.OPAQUE, text)

    def _text(self, type_id: int) -> str:
        return c_type(self.btf.ref(type_id))


def _is_bits(one: MemberLayout) -> bool:
    return bool(one.bitfield_size or one.bit_offset % 8)


def _is_char(kind: Int) -> bool:
    return kind.name == "char" or bool(kind.encoding & IntEncoding.CHAR)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


# The layout of values without BTF, as the user gives it: members, or a structure of the object.
#
# `u64 packets; u32 drops[4]` describes the side whose values have that size, the old or the new;
# `struct datarec` is looked up on each side in the types of its programs.

"""The types that programs were compiled with, of the old and of the new ones."""


def layout_texts(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return the layouts that were given for one map."""
    return (given,) if isinstance(given, str) else tuple(given)


def types_with_layouts(
    texts: Sequence[str], types: Types, sizes: Sizes, libraries: Libraries, *, about: str
) -> Types:
    """Return the types of old and new values: *types*, and for those that have none the user's.

    Of two layouts for values of one size the first is that of the old ones. `UsageError` for one
    that describes neither side, or where both sides have types.
    """
    if not any(type_ is None for type_ in types):
        raise UsageError(f"{about}: the map has types of its own, by which its values are read")
    made = [_sides(text, sizes, libraries, about=about) for text in texts]
    found = list(types)
    for side in (0, 1):
        fitting = [both[side] for both in made if both[side] is not None]
        if found[side] is None and fitting:
            found[side] = fitting[-1] if side else fitting[0]
    return found[0], found[1]


def struct_names(library: Iterable[Btf], size: int) -> tuple[str, ...]:
    """Return the structures of that size that could be a map's values, by name."""
    names = (
        kind.name
        for btf in library
        for kind in btf.types()
        if isinstance(kind, Struct) and kind.name and kind.size == size and kind.members
    )
    return tuple(dict.fromkeys(names))


def _sides(text: str, sizes: Sizes, libraries: Libraries, *, about: str) -> Types:
    """Return the type that *text* gives to old and to new values; `UsageError` if to neither."""
    found = _STRUCT.fullmatch(text.strip())
    if found is None:
        made = _structure(text, about=about)
        if made.size not in sizes:
            raise UsageError(f"{about}: its members take {made.size} bytes, {_wanted(sizes)}")
        old, new = (made if made.size == size else None for size in sizes)
        return old, new
    name = found["name"] or found["typedef"]
    # A structure that did not change may be missing in programs that were loaded without types.
    candidates = [*libraries[0], *libraries[1]], [*libraries[1]]
    there = [[ref for btf in one if (ref := _named(btf, name)) is not None] for one in candidates]
    if not any(there):
        raise UsageError(
            f"{about}: neither the object nor the running programs have {text.strip()}",
            hint=f"write its members: {about}='u64 MEMBER;…'",
        )
    old, new = (
        next((ref for ref in refs if ref.size == size), None)
        for refs, size in zip(there, sizes, strict=True)
    )
    if old is None and new is None:
        takes = " and ".join(str(n) for n in dict.fromkeys(ref.size for ref in there[0]))
        raise UsageError(f"{about}: {text.strip()} takes {takes} bytes, {_wanted(sizes)}")
    return old, new


def _wanted(sizes: Sizes) -> str:
    old, new = sizes
    if old == new:
        return f"the map's values {old}"
    return f"the map's old values {old} and its new ones {new}"


def _named(btf: Btf, name: str) -> TypeRef | None:
    type_id = btf.find(name, Struct)
    if type_id is None:
        type_id = btf.find(name, Modifier)
    if type_id is None:
        return None
    with suppress(ValueError):
        size_of(btf, type_id)
        return btf.ref(type_id)
    return None


def layout_type(text: str, size: int, *, about: str = "the layout") -> TypeRef:
    """Return the structure that *text* describes, laid out as C does, *size* bytes of it.

    Its members are `u8` to `u64`, `s8` to `s64` and `char`, and arrays of them, divided by `;`.
    `UsageError` for anything else, or if the members do not take *size* bytes.
    """
    made = _structure(text, about=about)
    if made.size != size:
        raise UsageError(f"{about}: its members take {made.size} bytes, {_wanted((size, size))}")
    return made


def _structure(text: str, *, about: str) -> TypeRef:
    types, members, end, widest = BtfBuilder(), [], 0, 1
    index = types.add(Int("unsigned int", 4, 32))
    for word in filter(None, map(str.strip, text.split(";"))):
        found = _MEMBER.fullmatch(word)
        if found is None:
            raise UsageError(f"{about}: {word!r} is none of u8 … u64, s8 … s64, char and a name")
        kind = _number(found["type"])
        type_id, length = types.add(kind), int(found["n"] or 1)
        if found["n"]:
            type_id = types.add(Array(type_id, index, length))
        end = -(-end // kind.size) * kind.size
        members.append(Member(found["name"], type_id, 8 * end))
        end, widest = end + kind.size * length, max(widest, kind.size)
    whole = -(-end // widest) * widest
    last = types.add(Struct("", whole, tuple(members)))
    return Btf.parse(types.build()).ref(last)


def _number(word: str) -> Int:
    if word == "char":
        return Int("char", 1, 8, IntEncoding.SIGNED | IntEncoding.CHAR)
    is_signed = word.removeprefix("__")[0] in "si"
    bits = int("".join(filter(str.isdigit, word)))
    encoding = IntEncoding.SIGNED if is_signed else IntEncoding(0)
    return Int(f"{'s' if is_signed else 'u'}{bits}", bits // 8, bits, encoding)
