"""Takes the types of keys and values apart into members (`Leaf`), with their paths and places.

Also the layouts that the user gives for values without BTF (`--layout`): members of their own
(`u64 packets; u32 drops[4]`), or the name of a structure that the programs were compiled with. A
layout belongs to the side whose values have its size, the old or the new.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
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
from bpfpin.codecs.of_btf import is_kernel_owned
from bpfpin.errors import LimitError, ObjectFileError, UsageError
from bpfpin.hints import Argument, Fix
from bpfpin.map_traits import traits_of
from bpfpin.migration.request import Rule
from bpfpin.records import dataclass
from bpfpin.uapi import MapType

# Members of one value. The fold has some 10 instructions for each, times the CPUs, and the verifier
# takes 1,000,000.
LEAVES_MAX: Final = 8192
# Bytes that one load or store of BPF takes (BPF_B, BPF_H, BPF_W, BPF_DW of include/uapi/linux).
# Integers of 16 bytes are moved as bytes.
_NUMBERS: Final = (1, 2, 4, 8)
_MEMBER: Final = re.compile(
    r"(?P<type>(?:__)?[us](?:8|16|32|64)|u?int(?:8|16|32|64)_t|char)"
    r"\s+(?P<name>\w+)\s*(\[(?P<n>\d+)\])?"
)
_STRUCT: Final = re.compile(r"(?:struct|union)\s+(?P<name>\w+)|(?P<typedef>[A-Za-z_]\w*)")
Sizes = tuple[int, int]  # of old and new values
Types = tuple[TypeRef | None, TypeRef | None]
Libraries = tuple[Sequence[Btf], Sequence[Btf]]  # the BTF of the old and of the new programs


@dataclass(frozen=True, slots=True)
class MapShape:
    """The type, sizes and flags of a map.

    Attributes:
        type: The map type.
        key_size: Bytes of a key.
        value_size: Bytes of a value, for a per-CPU map those of one CPU's value.
        max_entries: The number of entries that it can have.
        map_flags: Bits of `MapFlag`.
    """

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
    """The move of one member from its place in the old key or value to its place in the new one.

    Attributes:
        path: The new member's path.
        old: The place in the old key or value.
        new: The place in the new one.
        rule: How the old number and the new one become one.
        is_bytes: The member is copied as bytes and is not a number.
        renumbered: Enumeration values whose numbers changed, as pairs of old and new.
        limits: The range that the number is cut to before it is written; None to leave it.
        saturates: A sum that is beyond the new member's range is cut to it, and does not wrap.
    """

    path: str
    old: Span
    new: Span
    rule: Rule = Rule.SUM
    is_bytes: bool = False
    renumbered: tuple[tuple[int, int], ...] = ()
    limits: tuple[int, int] | None = None
    saturates: bool = False


class LeafKind(Enum):
    """The kinds of members, by how they can be moved."""

    NUMBER = "number"
    ENUM = "enum"
    POINTER = "pointer"
    TEXT = "text"  # an array of char: it may grow
    OPAQUE = "opaque"  # unions, bit-fields, floats: copied if the type is the same
    OWNED = "owned"  # locks, timers, kernel pointers: only the kernel writes them


@dataclass(frozen=True, slots=True)
class Leaf:
    """A member without members of its own.

    Attributes:
        path: The path as in C; empty if the value is one number.
        place: Where it is in the key or value.
        kind: How it can be moved.
        type: The type as C has it, by which opaque members are compared.
        values: The names and numbers of an enumeration.
    """

    path: str
    place: Span
    kind: LeafKind
    type: str
    values: tuple[tuple[str, int], ...] = ()


def leaves(ref: TypeRef | None, size: int) -> tuple[Leaf, ...]:
    """Return the members of a key or value of *size* bytes; without a type one opaque member.

    Padding and members owned by the kernel (locks, timers) are left out. Raises `LimitError` for
    more than 8,192 members.
    """
    if ref is None:
        return (Leaf("", Span(0, size), LeafKind.OPAQUE, f"{size} bytes without BTF"),)
    # A copied lock or timer would be one that nobody holds or armed. The kernel leaves these fields
    # out as well when user space reads or writes a value.
    return tuple(leaf for leaf in _all(ref) if leaf.kind is not LeafKind.OWNED)


def kernel_owned_leaves(ref: TypeRef | None) -> tuple[Leaf, ...]:
    """Return the members that only the kernel writes; they cannot be moved."""
    return tuple(leaf for leaf in _all(ref) if leaf.kind is LeafKind.OWNED) if ref else ()


def _all(ref: TypeRef) -> Iterator[Leaf]:
    for count, leaf in enumerate(_LeafWalk(ref.btf).of(ref.id, "", 0)):
        # Counted during the walk: a type with 2^30 numbers is refused before all of them are in
        # memory.
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
        # Before the structures: `struct bpf_spin_lock` and `struct bpf_timer` have members of their
        # own, which would be moved as numbers.
        if is_kernel_owned(self.btf, type_id):
            place = Span(offset, size_of(self.btf, type_id))
            yield Leaf(path, place, LeafKind.OWNED, self._text(type_id))
        elif isinstance(kind, Array):
            yield from self._array(type_id, path, offset, depth)
        elif isinstance(kind, Struct):
            yield from self._members(type_id, path, offset, depth)
        # The value of `.data` and `.bss` is a BTF_KIND_DATASEC, whose variables have offsets but no
        # member names.
        elif isinstance(kind, DataSection):
            for variable in kind.variables:
                name = self.btf[variable.type_id].name
                yield from self.of(
                    variable.type_id, _joined(path, name), offset + variable.offset, depth + 1
                )
        elif isinstance(kind, Var):
            yield from self.of(kind.type_id, path, offset, depth + 1)
        else:
            yield self._scalar(kind, type_id, path, offset)

    def _array(self, type_id: int, path: str, offset: int, depth: int) -> Iterator[Leaf]:
        kind = self.btf[self.btf.strip(type_id)]
        assert isinstance(kind, Array)
        element = self.btf[self.btf.strip(kind.element_id)]
        # One leaf for the whole text: character by character, `keep-new` would fill the zeros
        # behind a short new text with the tail of the old one.
        if isinstance(element, Int) and element.size == 1 and _is_char(element):
            place = Span(offset, kind.length)
            yield Leaf(path, place, LeafKind.TEXT, self._text(type_id))
            return
        size = size_of(self.btf, kind.element_id)
        # One element more than the limit is enough for `_all` to refuse the type.
        for index in range(min(kind.length, LEAVES_MAX + 1) if size else 0):
            start = offset + index * size
            yield from self.of(kind.element_id, f"{path}[{index}]", start, depth + 1)

    def _members(self, type_id: int, path: str, offset: int, depth: int) -> Iterator[Leaf]:
        """Yield the leaves of a structure; adjacent bit-fields, or a union, are one opaque leaf."""
        laid_out = members(self.btf, type_id, flatten=True)
        unions = self._overlapping(laid_out)
        for is_whole, group in groupby(
            laid_out, lambda member: not _is_bits(member) and member not in unions
        ):
            if not is_whole:
                yield self._together(list(group), path, offset)
                continue
            for member in group:
                start = offset + member.bit_offset // 8
                yield from self.of(member.type_id, _joined(path, member.name), start, depth + 1)

    def _overlapping(self, laid_out: list[MemberLayout]) -> frozenset[MemberLayout]:
        """Return the members that overlap: those of unnamed unions."""
        # BTF lists the members of a structure by rising offsets (btf_struct_check_meta() of
        # kernel/bpf/btf.c). An offset below the end of a member before it can only come from an
        # unnamed union.
        overlapping: set[MemberLayout] = set()
        reach, last = 0, None
        for member in laid_out:
            if last is not None and not _is_bits(member) and member.bit_offset < reach:
                overlapping |= {member, last}
            if self._end(member) > reach:
                reach, last = self._end(member), member
        return frozenset(overlapping)

    def _end(self, member: MemberLayout) -> int:
        return member.bit_offset + (member.bitfield_size or 8 * size_of(self.btf, member.type_id))

    def _together(self, group: list[MemberLayout], path: str, offset: int) -> Leaf:
        first = min(member.bit_offset for member in group) // 8
        end = -(-max(self._end(member) for member in group) // 8)
        text = ", ".join(
            f"{self._text(member.type_id)} {member.name} at bit {member.bit_offset - 8 * first}"
            f" of {member.bitfield_size or 8 * size_of(self.btf, member.type_id)}"
            for member in group
        )
        name = "|".join(member.name for member in group if member.name)
        return Leaf(_joined(path, name), Span(offset + first, end - first), LeafKind.OPAQUE, text)

    def _scalar(self, kind: BtfType, type_id: int, path: str, offset: int) -> Leaf:
        size, text = size_of(self.btf, type_id), self._text(type_id)
        if isinstance(kind, EnumType) and size in _NUMBERS:
            place = Span(offset, size, kind.is_signed)
            values = tuple((value.name, value.value) for value in kind.values)
            return Leaf(path, place, LeafKind.ENUM, text, values)
        # An integer with fewer bits than its bytes hold is moved as bytes: its upper bits may hold
        # anything.
        if isinstance(kind, Int) and size in _NUMBERS and kind.bits == 8 * size:
            return Leaf(path, Span(offset, size, kind.is_signed), LeafKind.NUMBER, text)
        if isinstance(kind, Pointer):
            return Leaf(path, Span(offset, size), LeafKind.POINTER, text)
        return Leaf(path, Span(offset, size), LeafKind.OPAQUE, text)

    def _text(self, type_id: int) -> str:
        return c_type(self.btf.ref(type_id))


def _is_bits(member: MemberLayout) -> bool:
    return bool(member.bitfield_size or member.bit_offset % 8)


def _is_char(kind: Int) -> bool:
    return kind.name == "char" or bool(kind.encoding & IntEncoding.CHAR)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def layout_texts(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return the layouts given for one map, of which there may be one or several."""
    return (given,) if isinstance(given, str) else tuple(given)


def types_with_layouts(
    texts: Sequence[str], types: Types, sizes: Sizes, libraries: Libraries, *, name: str
) -> Types:
    """Return the types of old and new values of map *name*, with the user's layouts if it has none.

    If both values have the same size, the first layout is that of the old ones and the last that of
    the new ones. Raises `UsageError` for a layout that fits neither side, or if both sides have
    types already.
    """
    if not any(type_ is None for type_ in types):
        raise UsageError(
            f"a layout for map {name}: the map has types of its own, by which its values are read"
        )
    layouts = [_sides(text, sizes, libraries, name=name) for text in texts]
    chosen = list(types)
    for side in (0, 1):
        # A layout that fits both sides by its size counts for both: then only names changed.
        fitting = [both[side] for both in layouts if both[side] is not None]
        if chosen[side] is None and fitting:
            chosen[side] = fitting[-1] if side else fitting[0]
    return chosen[0], chosen[1]


def struct_names(library: Iterable[Btf], size: int) -> tuple[str, ...]:
    """Return the names of the structures of *size* bytes, which could be the type of values."""
    names = (
        kind.name
        for btf in library
        for kind in btf.types()
        if isinstance(kind, Struct) and kind.name and kind.size == size and kind.members
    )
    return tuple(dict.fromkeys(names))


def _sides(text: str, sizes: Sizes, libraries: Libraries, *, name: str) -> Types:
    """Return the types that *text* gives to old and new values; `UsageError` if to neither."""
    about = f"the layout of map {name}"
    struct = _STRUCT.fullmatch(text.strip())
    if struct is None:
        made = _structure(text, about=about)
        if made.size not in sizes:
            raise UsageError(f"{about}: its members take {made.size} bytes, {_wanted(sizes)}")
        old, new = (made if made.size == size else None for size in sizes)
        return old, new
    type_name = struct["name"] or struct["typedef"]
    # Old programs may have been loaded without BTF. If the structure did not change, the new
    # programs have it too.
    candidates = [*libraries[0], *libraries[1]], [*libraries[1]]
    structs = [
        [ref for btf in library if (ref := _named(btf, type_name)) is not None]
        for library in candidates
    ]
    if not any(structs):
        raise UsageError(
            f"{about}: neither the object nor the running programs have {text.strip()}",
            hint=Fix.of("write its members: ", Argument("layouts", {name: "u64 MEMBER;…"})),
        )
    old, new = (
        next((ref for ref in refs if ref.size == size), None)
        for refs, size in zip(structs, sizes, strict=True)
    )
    if old is None and new is None:
        takes = " and ".join(str(n) for n in dict.fromkeys(ref.size for ref in structs[0]))
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
    # A typedef can end at a type without a size, such as a structure that is only declared.
    with suppress(ValueError):
        size_of(btf, type_id)
        return btf.ref(type_id)
    return None


def layout_type(text: str, size: int, *, about: str = "the layout") -> TypeRef:
    """Return the structure of *size* bytes that *text* describes, with C's alignment.

    Members are `u8` to `u64`, `s8` to `s64` and `char`, and arrays of them, separated by `;`.
    Raises `UsageError` for anything else, or if the members do not take *size* bytes.
    """
    made = _structure(text, about=about)
    if made.size != size:
        raise UsageError(f"{about}: its members take {made.size} bytes, {_wanted((size, size))}")
    return made


def _structure(text: str, *, about: str) -> TypeRef:
    types, members, end, widest = BtfBuilder(), [], 0, 1
    # BTF_KIND_ARRAY names the type of its index, too.
    index = types.add(Int("unsigned int", 4, 32))
    for word in filter(None, map(str.strip, text.split(";"))):
        member = _MEMBER.fullmatch(word)
        if member is None:
            raise UsageError(
                f"{about}: {word!r} is not a member: a type (u8 … u64, s8 … s64, char) and a name"
            )
        kind = _number(member["type"])
        type_id, length = types.add(kind), int(member["n"] or 1)
        if member["n"]:
            type_id = types.add(Array(type_id, index, length))
        # As C aligns them: each member to its own size, the whole structure to its widest member.
        end = -(-end // kind.size) * kind.size
        members.append(Member(member["name"], type_id, 8 * end))
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
