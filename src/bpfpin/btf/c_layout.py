"""Sizes and alignments of types as C, and the attributes and the padding that keep their offsets.

The rules are those of clang and gcc for BPF: an unnamed bit-field does not change the alignment
of a structure, and a bit-field does not cross a unit of its type unless the structure is packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from bpfpin.btf.btf import Btf
from bpfpin.btf.decode import malformed
from bpfpin.btf.types import Array, Enum, Float, Int, Modifier, Pointer, Struct, Union
from bpfpin.records import dataclass

T = TypeVar("T")
BYTE = 8
INTS = {1: "char", 2: "short", 4: "int", 8: "long", 16: "__int128"}  # by size in bytes
FLOATS = {4: "float", 8: "double"}
_POINTER = (64, 64, 0)  # size and alignment in bits; no bit-field


@dataclass(frozen=True, slots=True)
class CLayout:
    """How a structure or union is written so that C gives it the size and the offsets of the BTF.

    Attributes:
        align: The alignment of the structure as written, in bits.
        is_packed: Whether it has the attribute `packed`.
        is_aligned: Whether it has the attribute `aligned`, with *align*.
        is_opaque: Whether its members are left out, because C cannot express their offsets.
        is_plain: Whether a list of its members is enough: no padding, no bit-fields.
    """

    align: int
    is_packed: bool = False
    is_aligned: bool = False
    is_opaque: bool = False
    is_plain: bool = False


class CLayouts:
    """The layouts of the types of one table, each computed once.

    Attributes:
        sizes: For each type that was asked for: size and alignment of a value as it is written, in
            bits, and the bits of an integer type that is a bit-field by itself, otherwise 0.
    """

    def __init__(self, btf: Btf) -> None:
        """Begin without layouts."""
        self._btf = btf
        self.sizes: dict[int, tuple[int, int, int]] = {}
        self._layouts: dict[int, CLayout] = {}

    def with_table(self, btf: Btf) -> CLayouts:
        """Return the layouts for *btf*, another table on the same base, with those of the base."""
        other = CLayouts(btf)
        other.sizes = below(btf.first_id, self.sizes)
        other._layouts = below(btf.first_id, self._layouts)
        return other

    def _size(self, type_id: int) -> tuple[int, int, int]:
        """Return size and alignment of a value as it is written, in bits, and its `_own_bits`."""
        known = self.sizes.get(type_id)
        if known is None:
            known = self.sizes[type_id] = self._new_size(type_id)
        return known

    def _new_size(self, type_id: int) -> tuple[int, int, int]:
        kind = self._btf[type_id]
        if isinstance(kind, Modifier):
            return self._size(kind.type_id)
        if isinstance(kind, Pointer):
            return _POINTER
        if isinstance(kind, Array):
            size, align, _ = self._size(kind.element_id)
            return size * kind.length, align, 0
        if isinstance(kind, (Struct, Union)):
            return 8 * kind.size, self.of(type_id, kind).align, 0
        if isinstance(kind, (Int, Enum)):
            return 8 * kind.size, 8 * kind.size, _own_bits(kind)
        if isinstance(kind, Float):
            return 8 * kind.size, 8 * kind.size if kind.size in FLOATS else BYTE, 0
        raise malformed(f"type {type_id} ({type(kind).__name__} {kind.name!r}) has no size")

    def of(self, type_id: int, kind: Struct | Union) -> CLayout:
        """Return the layout of a structure or union."""
        known = self._layouts.get(type_id)
        if known is None:
            known = self._layouts[type_id] = self._new_layout(kind)
        return known

    def _new_layout(self, kind: Struct | Union) -> CLayout:
        if kind.size and not kind.members:
            return CLayout(BYTE, is_opaque=True)
        align, end, is_packed, is_plain = BYTE, 8 * kind.size, False, True
        known, is_struct = self.sizes, isinstance(kind, Struct)
        last = natural_end = 0  # the first bit behind the member before, and behind all
        for _, type_id, offset, bitfield_size in kind.members:
            size, own, own_bits = known.get(type_id) or self._size(type_id)
            align = max(align, own)
            if bits := bitfield_size or own_bits:
                # A bit-field lies within one unit of its type, except in packed structures.
                is_packed = is_packed or offset % own + bits > size
                size, is_plain = bits, False
            elif offset % own:
                is_packed = True
            if offset < last or offset + size > end or (not bits and offset % BYTE):
                return CLayout(BYTE, is_opaque=True)
            if is_struct:
                is_plain = is_plain and -(-last // own) * own == offset
                last = offset + size
            elif offset:
                return CLayout(BYTE, is_opaque=True)
            natural_end = max(natural_end, offset + size)
        is_packed = is_packed or bool(end % align)
        align = BYTE if is_packed else align
        if -(-natural_end // align) * align != end:
            is_plain = False
            if not is_struct:
                return _larger_union(natural_end, end, align, is_packed=is_packed)
        return CLayout(align, is_packed, is_plain=is_plain and not is_packed)


def below(first: int, by_id: dict[int, T]) -> dict[int, T]:
    """Return the items of *by_id* whose id is less than *first*."""
    return {type_id: value for type_id, value in by_id.items() if type_id < first}


def _larger_union(natural_end: int, end: int, align: int, *, is_packed: bool) -> CLayout:
    """Return the layout of a union that is larger than its members."""
    while align <= end and not is_packed:
        if -(-natural_end // align) * align == end:
            return CLayout(align, is_aligned=True)
        align *= 2
    return CLayout(BYTE, is_opaque=True)


def _own_bits(kind: Int | Enum) -> int:
    """Return the bits of an integer type that is a bit-field by itself; 0 if it is not."""
    # Before kind_flag (Linux 5.0) bit-fields were integer types of a few bits.
    return kind.bits if isinstance(kind, Int) and kind.bits != 8 * kind.size else 0


def padding(at: int, end: int, align: int, indent: str) -> Iterator[str]:
    """Yield unnamed bit-fields from bit *at* to bit *end*; they do not change the alignment."""
    unit = min(align, 64)
    word = INTS[unit // 8]
    while at < end:
        # Up to the end of a unit: a field that would cross it moves to the next unit.
        bits = min(unit - at % unit, end - at)
        yield f"{indent}{word} : {bits};"
        at += bits
