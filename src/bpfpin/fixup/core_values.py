"""Values of CO-RE relocations: the number for an instruction, from a local or a target type.

There is one function for each family of kinds (fields, types, enumerators). The rules are those of
bpf_core_calc_relo() in libbpf's relo_core.c, for little-endian machines.
"""

from __future__ import annotations

from typing import NamedTuple

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.layout import size_of
from bpfpin.btf.types import Array, Enum, Int, Pointer
from bpfpin.fixup.core_access import CoreField, malformed_relocation
from bpfpin.uapi import CoreRelocationKind as Kind

_WIDEST_BYTES = 8
FIELDS = frozenset(
    {
        Kind.FIELD_BYTE_OFFSET,
        Kind.FIELD_BYTE_SIZE,
        Kind.FIELD_EXISTS,
        Kind.FIELD_SIGNED,
        Kind.FIELD_LSHIFT_U64,
        Kind.FIELD_RSHIFT_U64,
    }
)
ENUMERATORS = frozenset({Kind.ENUMVAL_EXISTS, Kind.ENUMVAL_VALUE})
EXISTENCE = frozenset({Kind.FIELD_EXISTS, Kind.TYPE_EXISTS, Kind.TYPE_MATCHES, Kind.ENUMVAL_EXISTS})


class Value(NamedTuple):
    """A number for an instruction.

    Attributes:
        number: The number.
        is_sure: The compiler must have written this number for the local type.
        access_type: The type that a load or store moves, if the number is its offset.
        access_size: The size of that type in bytes.
    """

    number: int
    is_sure: bool = True
    access_type: TypeRef | None = None
    access_size: int = 0


class _BitSpan(NamedTuple):
    """The bits of a field, and the bytes to load for them."""

    first_bit: int
    bits: int
    first_byte: int
    size: int


def field_value(kind: Kind, field: CoreField) -> Value:
    """Return the value of *kind* for *field*; `ObjectFileError` if it has none."""
    if kind is Kind.FIELD_EXISTS:
        return Value(1)
    if field.is_element and kind not in (Kind.FIELD_BYTE_OFFSET, Kind.FIELD_BYTE_SIZE):
        raise malformed_relocation(f"{kind.name} of an array element")
    span = _span(field)
    if kind is Kind.FIELD_BYTE_OFFSET:
        return _offset(field, span)
    return _MEASURES[kind](field, span)


def _span(field: CoreField) -> _BitSpan:
    size = size_of(field.btf, field.type_id)
    first_bit = field.bit_offset
    if not field.bitfield_size:
        return _BitSpan(first_bit, size * 8, first_bit // 8, size)
    # A bit-field is loaded in units of its type; one that crosses a unit needs a wider load.
    end_bit = first_bit + field.bitfield_size
    while size:
        first_byte = first_bit // 8 // size * size
        if end_bit <= (first_byte + size) * 8:
            return _BitSpan(first_bit, field.bitfield_size, first_byte, size)
        size *= 2
        if size > _WIDEST_BYTES:
            break
    raise malformed_relocation(f"no load of up to 8 bytes covers bits {first_bit} to {end_bit}")


def _offset(field: CoreField, span: _BitSpan) -> Value:
    if field.bitfield_size:
        return Value(span.first_byte, is_sure=False)
    btf, type_id = field.btf, field.btf.strip(field.type_id)
    while isinstance(kind := btf[type_id], Array) and not field.is_element:
        type_id = btf.strip(kind.element_id)  # a load of an array moves one element
    return Value(span.first_byte, access_type=btf.ref(type_id), access_size=size_of(btf, type_id))


def _size(field: CoreField, span: _BitSpan) -> Value:
    return Value(span.size, is_sure=not field.bitfield_size)


def _signed(field: CoreField, _: _BitSpan) -> Value:
    kind = field.btf[field.btf.strip(field.type_id)]
    # Compilers before clang 15 mark no enumeration as signed.
    return Value(int(isinstance(kind, Int | Enum) and kind.is_signed))


# A bit-field is read as `(load << left) >> right` in 64 bits: the left shift removes the bits above
# it, the right shift (arithmetic if it is signed) those below.
def _left_shift(field: CoreField, span: _BitSpan) -> Value:
    end_bit = span.first_bit + span.bits - span.first_byte * 8
    return Value(64 - end_bit, is_sure=not field.bitfield_size)


def _right_shift(_: CoreField, span: _BitSpan) -> Value:
    return Value(64 - span.bits)


_MEASURES = {
    Kind.FIELD_BYTE_SIZE: _size,
    Kind.FIELD_SIGNED: _signed,
    Kind.FIELD_LSHIFT_U64: _left_shift,
    Kind.FIELD_RSHIFT_U64: _right_shift,
}


def type_value(kind: Kind, ref: TypeRef) -> Value:
    """Return the value of *kind* for an existing type: its id, its size, or 1."""
    if kind is Kind.TYPE_SIZE:
        return Value(ref.size)
    if kind in EXISTENCE:
        return Value(1)
    return Value(ref.id, is_sure=False)  # linkers renumber types without changing instructions


def enumerator_value(kind: Kind, btf: Btf, type_id: int, index: int) -> Value:
    """Return the value of *kind* for enumerator *index* of an existing enumeration."""
    if kind is Kind.ENUMVAL_EXISTS:
        return Value(1)
    enum = btf[type_id]
    assert isinstance(enum, Enum)
    return Value(enum.values[index].value)


def may_resize(local: Value, target: Value) -> bool:
    """Whether a load or store of the local size may become one of the target's size.

    This is allowed for unsigned integers, because loads zero-extend, and for pointers, which have
    eight bytes in BPF and four on 32-bit machines.
    """
    own_type, other_type = local.access_type, target.access_type
    if local.access_size == target.access_size or own_type is None or other_type is None:
        return True
    own, other = own_type.type, other_type.type
    if isinstance(own, Pointer) and isinstance(other, Pointer):
        return True
    both = isinstance(own, Int) and isinstance(other, Int)
    return both and not (_is_signed(own) or _is_signed(other))


def _is_signed(kind: object) -> bool:
    return isinstance(kind, Int) and kind.is_signed
