"""Memory layout of types: sizes, alignments, offsets of members.

Sizes are those of the 64-bit BPF machine: a pointer takes eight bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Protocol

from bpfpin.btf.decode import malformed
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Enum,
    Float,
    Int,
    Member,
    Pointer,
    Struct,
    Union,
    Var,
)
from bpfpin.records import dataclass

POINTER_SIZE = 8
MAX_DEPTH = 32  # the kernel's limit, MAX_RESOLVE_DEPTH in kernel/bpf/btf.c
MAX_SIZE = 0xFFFFFFFF  # sizes are u32 in BTF; btf_array_resolve() refuses larger arrays
MAX_MEMBERS = 1 << 16  # of one type, members of unnamed structures inside it included

_Sized = Int | Float | Enum | Struct | Union | DataSection


class TypeTable(Protocol):
    """The part of `Btf` that the functions here need."""

    def __getitem__(self, type_id: int, /) -> BtfType:
        """Return the type *type_id*."""

    def strip(self, type_id: int) -> int:
        """Return the id of the type under typedefs and qualifiers."""


@dataclass(frozen=True, slots=True)
class MemberLayout:
    """A member and its position in bits, counted from the start of the outermost structure."""

    name: str
    type_id: int
    bit_offset: int
    bitfield_size: int = 0


def size_of(btf: TypeTable, type_id: int) -> int:
    """Return the size of a value of the type in bytes.

    Raises:
        ObjectFileError: The type has no size (void, functions, forward declarations), or a size of
            4 GiB or more.
    """
    count = 1
    for _ in range(MAX_DEPTH):
        type_id = btf.strip(type_id)
        kind = btf[type_id]
        if isinstance(kind, Array):
            # Multiplied from the outside in, without recursion: damaged BTF may nest arrays deeply.
            count, type_id = count * kind.length, kind.element_id
        elif isinstance(kind, Var):
            type_id = kind.type_id
        else:
            return _product(count, _own_size(kind, type_id), type_id)
    raise malformed(f"type {type_id} is nested more than {MAX_DEPTH} deep")


def _own_size(kind: BtfType, type_id: int) -> int:
    if isinstance(kind, _Sized):
        return kind.size
    if isinstance(kind, Pointer):
        return POINTER_SIZE
    raise malformed(f"type {type_id} ({type(kind).__name__} {kind.name!r}) has no size")


def _product(count: int, size: int, type_id: int) -> int:
    if count * size > MAX_SIZE:
        raise malformed(
            f"{count} times type {type_id} of {size} bytes is more than BTF allows (4 GiB)"
        )
    return count * size


def align_of(btf: TypeTable, type_id: int) -> int:
    """Return the alignment of the type in C, in bytes; 1 for types without alignment.

    A structure whose size or offsets do not fit the alignment of its members is packed: 1.
    """
    # BTF does not store alignment; libbpf's btf__align_of() derives it in the same way.
    return _align_of(btf, type_id, MAX_DEPTH, {})


def _align_of(btf: TypeTable, type_id: int, depth: int, known: dict[int, int]) -> int:
    type_id = btf.strip(type_id)
    if depth == 0:
        raise malformed(f"type {type_id} is nested more than {MAX_DEPTH} deep")
    if type_id not in known:
        inner = {m: _align_of(btf, m, depth - 1, known) for m in value_ids(btf[type_id])}
        known[type_id] = _align_over(btf[type_id], inner)
    return known[type_id]


def value_ids(kind: BtfType) -> tuple[int, ...]:
    """Return the ids of the types that a value of *kind* contains: elements, members."""
    if isinstance(kind, Array):
        return (kind.element_id,)
    if isinstance(kind, Var):
        return (kind.type_id,)
    return tuple([m.type_id for m in kind.members]) if isinstance(kind, (Struct, Union)) else ()


def _align_over(kind: BtfType, inner: Mapping[int, int]) -> int:
    if isinstance(kind, (Struct, Union)):
        widest = max(inner.values(), default=1)
        # A bit-field may start at any bit, whatever the alignment of its type is.
        plain = [m for m in kind.members if not m.bitfield_size]
        fits = all(m.bit_offset % (8 * inner[m.type_id]) == 0 for m in plain)
        return widest if fits and kind.size % widest == 0 else 1
    if isinstance(kind, (Int, Enum, Float)):
        # At most that of a pointer, as in btf__align_of() of libbpf, also for 128 bits.
        return min(max(kind.size, 1), POINTER_SIZE)
    return POINTER_SIZE if isinstance(kind, Pointer) else max(inner.values(), default=1)


def members(btf: TypeTable, type_id: int, *, flatten: bool = False) -> list[MemberLayout]:
    """Return the members of a structure or union in their order.

    Args:
        btf: The type table.
        type_id: The structure or union, or a typedef of it.
        flatten: Replace unnamed structures and unions by their members, as C does.

    Returns:
        The members.

    Raises:
        ObjectFileError: The type has no members, nests deeper than 32, or has more than 65,536.
    """
    kind = btf[btf.strip(type_id)]
    if not isinstance(kind, (Struct, Union)):
        raise malformed(f"type {type_id} ({type(kind).__name__} {kind.name!r}) has no members")
    layouts = list(islice(_walk(btf, kind, 0, MAX_DEPTH if flatten else 0), MAX_MEMBERS + 1))
    if len(layouts) > MAX_MEMBERS:
        raise malformed(
            f"type {type_id} has more than {MAX_MEMBERS} members, those of unnamed ones included"
        )
    return layouts


def _walk(btf: TypeTable, kind: Struct | Union, base: int, depth: int) -> Iterator[MemberLayout]:
    for member in kind.members:
        inner = _unnamed(btf, member) if depth else None
        if inner is None:
            offset = base + member.bit_offset
            yield MemberLayout(member.name, member.type_id, offset, member.bitfield_size)
        elif depth == 1:
            raise malformed(
                f"unnamed members of {kind.name!r} are nested more than {MAX_DEPTH} deep"
            )
        else:
            yield from _walk(btf, inner, base + member.bit_offset, depth - 1)


def _unnamed(btf: TypeTable, member: Member) -> Struct | Union | None:
    kind = None if member.name else btf[btf.strip(member.type_id)]
    return kind if isinstance(kind, (Struct, Union)) else None


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a key or value: *size* bytes at byte *offset*.

    Attributes:
        offset: The first byte.
        size: The number of bytes.
        is_signed: Whether the number there may be negative.
    """

    offset: int
    size: int
    is_signed: bool = False
