"""The layout of values without BTF, as the user gives it: members, or a structure of the object.

`u64 packets; u32 drops[4]` describes the side whose values have that size, the old or the new;
`struct datarec` is looked up on each side in the types of its programs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.layout import size_of
from bpfpin.btf.types import Array, Int, IntEncoding, Member, Modifier, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import UsageError

_MEMBER: Final = re.compile(
    r"(?P<type>(?:__)?[us](?:8|16|32|64)|u?int(?:8|16|32|64)_t|char)"
    r"\s+(?P<name>\w+)\s*(\[(?P<n>\d+)\])?"
)
_STRUCT: Final = re.compile(r"(?:struct|union)\s+(?P<name>\w+)|(?P<typedef>[A-Za-z_]\w*)")
STRUCTS_SHOWN: Final = 3

Sizes = tuple[int, int]
Types = tuple[TypeRef | None, TypeRef | None]
Libraries = tuple[Sequence[Btf], Sequence[Btf]]
"""The types that programs were compiled with, of the old and of the new ones."""


def layout_texts(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return the layouts that were given for one map."""
    return (given,) if isinstance(given, str) else tuple(given)


def given_types(
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
