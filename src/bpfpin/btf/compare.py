"""Comparison of two types by memory layout, as to whether old bytes can be read as the new type.

Names of members are compared; names of types, typedefs and qualifiers are not. An enumerator that
was added is not a difference, because old values keep their meaning. Compilers encode the same
enumeration in different ways; such differences do not count either.
"""

from __future__ import annotations

import functools

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.layout import members
from bpfpin.btf.types import Array, BtfType, DataSection, Enum, Int, Pointer, Struct, Union
from bpfpin.records import dataclass

_REMEMBERED = 64  # results cached, because many maps of one object have the same types
Difference = tuple[str, str, str]
"""Path of a member (`stats.bytes`, `slots[]`; empty: the whole type), old text, new text."""


@dataclass(frozen=True, slots=True)
class _Pair:
    path: str
    old: TypeRef
    new: TypeRef

    def inner(self, step: str, old_id: int, new_id: int) -> _Pair:
        dot = "." if self.path and not step.startswith("[") else ""
        return _Pair(f"{self.path}{dot}{step}", self.old.btf.ref(old_id), self.new.btf.ref(new_id))

    def differ(self, old: str = "", new: str = "") -> Difference:
        from bpfpin.btf.c_source import c_type  # noqa: PLC0415  (only for messages)

        return (self.path, old or c_type(self.old), new or c_type(self.new))


@dataclass(frozen=True, slots=True)
class _Position:
    """Type and position of a member or variable."""

    type_id: int
    bit_offset: int
    bitfield_size: int = 0

    def __str__(self) -> str:
        byte, bit = divmod(self.bit_offset, 8)
        width = f", {self.bitfield_size} bits" if self.bitfield_size else ""
        return f"at byte {byte}{f' bit {bit}' if bit else ''}{width}"


def differences(old: TypeRef | None, new: TypeRef | None) -> list[Difference]:
    """Return every difference in layout; none if a side has no type, because nothing is known then.

    Members are matched by name, those of unnamed structures included, and compared by offset, width
    and type (size, signedness, array length, enumerators). All pointers are equal.
    """
    return [] if old is None or new is None else list(_differences(old, new))


@functools.lru_cache(maxsize=_REMEMBERED)
def _differences(old: TypeRef, new: TypeRef) -> tuple[Difference, ...]:
    found_differences: list[Difference] = []
    # Types may contain themselves through pointers only, which end the comparison; *seen* saves the
    # repeated work for a structure that is a member many times.
    pending, seen = [_Pair("", old, new)], set[tuple[int, int]]()
    while pending:
        pair = pending.pop(0)
        if (pair.old.id, pair.new.id) not in seen:
            seen.add((pair.old.id, pair.new.id))
            own, inner = _compare(pair)
            found_differences += own
            pending[:0] = inner  # depth first, so that the members are reported in their order
    return tuple(found_differences)


def whole(old: TypeRef | None, new: TypeRef | None) -> Difference | None:
    """Return a difference that shows both types, each in one line; None if the lines are equal.

    None also for data sections: nobody wrote such a type, and its variables are shown instead.
    """
    if old is None or new is None or isinstance(new.stripped, DataSection):
        return None
    difference = _Pair("", old, new).differ()
    return difference if difference[1] != difference[2] else None


def _compare(pair: _Pair) -> tuple[list[Difference], list[_Pair]]:
    """Return the differences of the two types themselves, and the pairs inside to compare next."""
    old, new = pair.old.stripped, pair.new.stripped
    if isinstance(old, Array) and isinstance(new, Array):
        own = [] if old.length == new.length else [pair.differ()]
        return own, [pair.inner("[]", old.element_id, new.element_id)]
    if isinstance(old, (Struct, Union, DataSection)) and type(old) is type(new):
        return _compare_members(pair)
    if isinstance(old, Enum) and isinstance(new, Enum):
        return _compare_enums(pair, old, new), []
    return ([] if _scalar(old) == _scalar(new) else [pair.differ()]), []


def _scalar(kind: BtfType) -> tuple[object, ...]:
    """Return what determines the meaning of a scalar's bytes; an enumeration equals an integer."""
    if isinstance(kind, Int):
        return (Int, kind.size, kind.is_signed, kind.bits, kind.bit_offset)
    if isinstance(kind, Enum):
        return (Int, kind.size, kind.is_signed, 8 * kind.size, 0)
    # A pointer in a map is an address of the kernel or of a process: no other program may follow
    # it, so its target does not matter.
    if isinstance(kind, Pointer):
        return (Pointer,)
    return (type(kind), getattr(kind, "size", 0))


def _compare_enums(pair: _Pair, old: Enum, new: Enum) -> list[Difference]:
    """Compare names and values of two enumerations; *new* may have more."""
    # Values are compared as bits, without sign: only compilers from clang 15 on store whether an
    # enumeration is signed. Older ones store the lower 32 bits of a 64-bit value only.
    bits = 32 if old.is_cut or new.is_cut else 8 * old.size
    before, after = ({(name, value % (1 << bits)) for name, value in e.values} for e in (old, new))
    return [] if old.size == new.size and before <= after else [pair.differ()]


def _compare_members(pair: _Pair) -> tuple[list[Difference], list[_Pair]]:
    old, new = _positions(pair.old), _positions(pair.new)
    own: list[Difference] = []
    shared: list[_Pair] = []
    for name in old | new:
        inner = pair.inner(name, *(s[name].type_id if name in s else 0 for s in (old, new)))
        if name in old and name in new:
            shared.append(inner)
        own += _compare_position(inner, old.get(name), new.get(name))
    # A member of another size explains the size of the whole, and is reported itself.
    if not own and pair.old.size != pair.new.size and not _any_resized(shared):
        own = [pair.differ(f"{pair.old.size} bytes", f"{pair.new.size} bytes")]
    return own, shared


def _any_resized(shared: list[_Pair]) -> bool:
    return any(pair.old.size != pair.new.size for pair in shared)


def _compare_position(
    inner: _Pair, old: _Position | None, new: _Position | None
) -> list[Difference]:
    if old and new and str(old) == str(new):
        return []
    return [inner.differ(_text(inner.old, old, new), _text(inner.new, new, old))]


def _text(ref: TypeRef, position: _Position | None, other: _Position | None) -> str:
    from bpfpin.btf.c_source import c_type  # noqa: PLC0415  (only for messages)

    if position is None:
        return "none"
    return str(position) if other else f"{c_type(ref)} {position}"


def _positions(ref: TypeRef) -> dict[str, _Position]:
    """Return the members by name; those without a name (bit-field gaps) by their position."""
    kind = ref.stripped
    if isinstance(kind, DataSection):
        return {ref.btf[v.type_id].name: _Position(v.type_id, 8 * v.offset) for v in kind.variables}
    laid_out = members(ref.btf, ref.id, flatten=True)
    return {
        m.name or f"(bit {m.bit_offset})": _Position(m.type_id, m.bit_offset, m.bitfield_size)
        for m in laid_out
    }
