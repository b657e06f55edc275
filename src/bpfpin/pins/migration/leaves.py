"""A type taken apart: every number in it by its path, and where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import Final

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.btf.layout import MAX_DEPTH, MemberLayout, members, size_of
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Int,
    IntEncoding,
    Pointer,
    Struct,
    Variable,
)
from bpfpin.btf.types import Enum as EnumType
from bpfpin.codecs.kernel_owned import is_kernel_owned
from bpfpin.errors import LimitError, ObjectFileError
from bpfpin.pins.migration.moves import Place

LEAVES_MAX: Final = 8192  # of one value; the program that moves them has at most a million steps
_NUMBERS: Final = (1, 2, 4, 8)


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
    place: Place
    kind: LeafKind
    type: str
    values: tuple[tuple[str, int], ...] = ()


def leaves(ref: TypeRef | None, size: int) -> tuple[Leaf, ...]:
    """Return the parts of a value of *size* bytes; without a type it is one, and opaque.

    What is the kernel's own (locks, timers) and padding is no part. `LimitError` for more than
    8,192 parts.
    """
    if ref is None:
        return (Leaf("", Place(0, size), LeafKind.OPAQUE, f"{size} bytes without BTF"),)
    return tuple(one for one in _all(ref) if one.kind is not LeafKind.OWNED)


def owned(ref: TypeRef | None) -> tuple[Leaf, ...]:
    """Return the parts of a value that are the kernel's own, which user space cannot move."""
    return tuple(one for one in _all(ref) if one.kind is LeafKind.OWNED) if ref else ()


def _all(ref: TypeRef) -> Iterator[Leaf]:
    for count, leaf in enumerate(_Walk(ref.btf).of(ref.id, "", 0)):
        if count >= LEAVES_MAX:
            raise LimitError(
                f"{c_type(ref)} has more than {LEAVES_MAX} numbers, too many to move one by one",
                limit=LEAVES_MAX,
                asked=ref.size,
            )
        yield leaf


@dataclass(frozen=True)
class _Walk:
    btf: Btf

    def of(self, type_id: int, path: str, offset: int, depth: int = 0) -> Iterator[Leaf]:
        if depth > MAX_DEPTH:
            raise ObjectFileError(f"{path}: nested more than {MAX_DEPTH} deep")
        kind = self.btf[self.btf.strip(type_id)]
        if is_kernel_owned(self.btf, type_id):
            place = Place(offset, size_of(self.btf, type_id))
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
        elif isinstance(kind, Variable):
            yield from self.of(kind.type_id, path, offset, depth + 1)
        else:
            yield self._scalar(kind, type_id, path, offset)

    def _array(self, type_id: int, path: str, offset: int, depth: int) -> Iterator[Leaf]:
        kind = self.btf[self.btf.strip(type_id)]
        assert isinstance(kind, Array)
        element = self.btf[self.btf.strip(kind.element_id)]
        if isinstance(element, Int) and element.size == 1 and _is_char(element):
            place = Place(offset, kind.length)
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
        return Leaf(_joined(path, name), Place(offset + first, end - first), LeafKind.OPAQUE, told)

    def _scalar(self, kind: BtfType, type_id: int, path: str, offset: int) -> Leaf:
        size, text = size_of(self.btf, type_id), self._text(type_id)
        if isinstance(kind, EnumType) and size in _NUMBERS:
            place = Place(offset, size, kind.is_signed)
            values = tuple((one.name, one.value) for one in kind.values)
            return Leaf(path, place, LeafKind.ENUM, text, values)
        if isinstance(kind, Int) and size in _NUMBERS and kind.bits == 8 * size:
            return Leaf(path, Place(offset, size, kind.is_signed), LeafKind.NUMBER, text)
        if isinstance(kind, Pointer):
            return Leaf(path, Place(offset, size), LeafKind.POINTER, text)
        return Leaf(path, Place(offset, size), LeafKind.OPAQUE, text)

    def _text(self, type_id: int) -> str:
        return c_type(self.btf.ref(type_id))


def _is_bits(one: MemberLayout) -> bool:
    return bool(one.bitfield_size or one.bit_offset % 8)


def _is_char(kind: Int) -> bool:
    return kind.name == "char" or bool(kind.encoding & IntEncoding.CHAR)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
