"""How two types differ in memory: what was written with the one reads wrong with the other.

Names of types, typedefs and qualifiers do not count; names of members do. An enumerator that only
the new type has is no difference, as old values keep their meaning. Two compilers' BTF of one
enumeration is the same.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.btf.layout import members
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Enum,
    Int,
    Pointer,
    Struct,
    Union,
)

_REMEMBERED = 64  # comparisons: many maps of one object have the same types
Difference = tuple[str, str, str]
"""Path of a member (`stats.bytes`, `slots[]`; empty: the whole), what is old, what is new."""


@dataclass(frozen=True, slots=True)
class _Pair:
    path: str
    old: TypeRef
    new: TypeRef

    def inner(self, step: str, old_id: int, new_id: int) -> _Pair:
        dot = "." if self.path and not step.startswith("[") else ""
        return _Pair(f"{self.path}{dot}{step}", self.old.btf.ref(old_id), self.new.btf.ref(new_id))

    def differ(self, old: str = "", new: str = "") -> Difference:
        return (self.path, old or c_type(self.old), new or c_type(self.new))


@dataclass(frozen=True, slots=True)
class _Position:
    """A member or variable: where it is and what."""

    type_id: int
    bit_offset: int
    bitfield_size: int = 0

    def __str__(self) -> str:
        byte, bit = divmod(self.bit_offset, 8)
        width = f", {self.bitfield_size} bits" if self.bitfield_size else ""
        return f"at byte {byte}{f' bit {bit}' if bit else ''}{width}"


def differences(old: TypeRef | None, new: TypeRef | None) -> list[Difference]:
    """Return every difference in layout; none where a side has no type, as nothing is known.

    Members are compared by name wherever they are declared: offset, width, type (size, signedness,
    array length, enumerators). Pointers are equal whatever they point to.
    """
    return [] if old is None or new is None else list(_differences(old, new))


@functools.lru_cache(maxsize=_REMEMBERED)
def _differences(old: TypeRef, new: TypeRef) -> tuple[Difference, ...]:
    found: list[Difference] = []
    pending, seen = [_Pair("", old, new)], set[tuple[int, int]]()
    while pending:
        pair = pending.pop(0)
        if (pair.old.id, pair.new.id) not in seen:
            seen.add((pair.old.id, pair.new.id))
            own, inner = _compare(pair)
            found += own
            pending[:0] = inner  # members in order, each with all that is inside
    return tuple(found)


def whole(old: TypeRef | None, new: TypeRef | None) -> Difference | None:
    """Return both types, each in one line; None for data sections and where the lines are equal.

    A data section is no type that somebody wrote: its variables tell more.
    """
    if old is None or new is None or isinstance(new.stripped, DataSection):
        return None
    told = _Pair("", old, new).differ()
    return told if told[1] != told[2] else None


def _compare(pair: _Pair) -> tuple[list[Difference], list[_Pair]]:
    """Return the differences of the two types themselves, and what is left to compare."""
    old, new = pair.old.stripped, pair.new.stripped
    if isinstance(old, Array) and isinstance(new, Array):
        own = [] if old.length == new.length else [pair.differ()]
        return own, [pair.inner("[]", old.element_id, new.element_id)]
    if isinstance(old, (Struct, Union, DataSection)) and type(old) is type(new):
        return _compare_places(pair)
    if isinstance(old, Enum) and isinstance(new, Enum):
        return _compare_enums(pair, old, new), []
    return ([] if _scalar(old) == _scalar(new) else [pair.differ()]), []


def _scalar(kind: BtfType) -> tuple[object, ...]:
    """Return what decides how the bytes of a scalar read; an enumeration reads as an integer."""
    if isinstance(kind, Int):
        return (Int, kind.size, kind.is_signed, kind.bits, kind.bit_offset)
    if isinstance(kind, Enum):
        return (Int, kind.size, kind.is_signed, 8 * kind.size, 0)
    if isinstance(kind, Pointer):
        return (Pointer,)
    return (type(kind), getattr(kind, "size", 0))


def _compare_enums(pair: _Pair, old: Enum, new: Enum) -> list[Difference]:
    """Compare names with their bits: whether it is signed, only compilers from clang 15 on say.

    Older ones also store no more than the lower 32 bits of a value of 64.
    """
    bits = 32 if old.is_cut or new.is_cut else 8 * old.size
    before, after = ({(name, value % (1 << bits)) for name, value in e.values} for e in (old, new))
    return [] if old.size == new.size and before <= after else [pair.differ()]


def _compare_places(pair: _Pair) -> tuple[list[Difference], list[_Pair]]:
    old, new = _places(pair.old), _places(pair.new)
    found: list[Difference] = []
    shared: list[_Pair] = []
    for name in old | new:
        inner = pair.inner(name, *(s[name].type_id if name in s else 0 for s in (old, new)))
        if name in old and name in new:
            shared.append(inner)
        found += _compare_place(inner, old.get(name), new.get(name))
    if not found and pair.old.size != pair.new.size and not _all_differ(shared):
        found = [pair.differ(f"{pair.old.size} bytes", f"{pair.new.size} bytes")]
    return found, shared


def _all_differ(shared: list[_Pair]) -> bool:
    """Return whether a member's own size already tells why the whole has another one."""
    return any(pair.old.size != pair.new.size for pair in shared)


def _compare_place(inner: _Pair, old: _Position | None, new: _Position | None) -> list[Difference]:
    if old and new and str(old) == str(new):
        return []
    return [inner.differ(_told(inner.old, old, new), _told(inner.new, new, old))]


def _told(ref: TypeRef, place: _Position | None, other: _Position | None) -> str:
    if place is None:
        return "none"
    return str(place) if other else f"{c_type(ref)} {place}"


def _places(ref: TypeRef) -> dict[str, _Position]:
    """Return the members by name; those without a name (bit-field gaps) by their place."""
    kind = ref.stripped
    if isinstance(kind, DataSection):
        return {ref.btf[v.type_id].name: _Position(v.type_id, 8 * v.offset) for v in kind.variables}
    laid_out = members(ref.btf, ref.id, flatten=True)
    return {
        m.name or f"(bit {m.bit_offset})": _Position(m.type_id, m.bit_offset, m.bitfield_size)
        for m in laid_out
    }
