"""What an instruction held for the local type, and what it is to hold for the target's.

One function a family of kinds (fields, types, enumerators); little-endian only, as all of bpfpin.
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

    *is_sure* says that the local value must be what the compiler wrote there. *held* is the type
    that a load or store moves, where the number is its offset; *bytes_held* its size.
    """

    number: int
    is_sure: bool = True
    held: TypeRef | None = None
    bytes_held: int = 0


class _Span(NamedTuple):
    """The bits of a field, and the bytes to load for them."""

    first_bit: int
    bits: int
    first_byte: int
    size: int


def field_value(kind: Kind, field: CoreField) -> Value:
    """Return what is asked of *field*; `ObjectFileError` if it has no answer."""
    if kind is Kind.FIELD_EXISTS:
        return Value(1)
    if field.is_element and kind not in (Kind.FIELD_BYTE_OFFSET, Kind.FIELD_BYTE_SIZE):
        raise malformed_relocation(f"{kind.name} of an array element")
    span = _span(field)
    if kind is Kind.FIELD_BYTE_OFFSET:
        return _offset(field, span)
    return _MEASURES[kind](field, span)


def _span(field: CoreField) -> _Span:
    size = size_of(field.btf, field.type_id)
    first_bit = field.bit_offset
    if not field.bitfield_size:
        return _Span(first_bit, size * 8, first_bit // 8, size)
    end_bit = first_bit + field.bitfield_size
    while size:
        first_byte = first_bit // 8 // size * size
        if end_bit <= (first_byte + size) * 8:
            return _Span(first_bit, field.bitfield_size, first_byte, size)
        size *= 2
        if size > _WIDEST_BYTES:
            break
    raise malformed_relocation(f"no load of up to 8 bytes holds bits {first_bit} to {end_bit}")


def _offset(field: CoreField, span: _Span) -> Value:
    if field.bitfield_size:
        return Value(span.first_byte, is_sure=False)
    btf, held = field.btf, field.btf.strip(field.type_id)
    while isinstance(kind := btf[held], Array) and not field.is_element:
        held = btf.strip(kind.element_id)  # what a load of an array moves is one element
    return Value(span.first_byte, held=btf.ref(held), bytes_held=size_of(btf, held))


def _size(field: CoreField, span: _Span) -> Value:
    return Value(span.size, is_sure=not field.bitfield_size)


def _signed(field: CoreField, _: _Span) -> Value:
    kind = field.btf[field.btf.strip(field.type_id)]
    return Value(int(isinstance(kind, Int | Enum) and kind.is_signed))


def _left_shift(field: CoreField, span: _Span) -> Value:
    behind = span.first_bit + span.bits - span.first_byte * 8
    return Value(64 - behind, is_sure=not field.bitfield_size)


def _right_shift(_: CoreField, span: _Span) -> Value:
    return Value(64 - span.bits)


_MEASURES = {
    Kind.FIELD_BYTE_SIZE: _size,
    Kind.FIELD_SIGNED: _signed,
    Kind.FIELD_LSHIFT_U64: _left_shift,
    Kind.FIELD_RSHIFT_U64: _right_shift,
}


def type_value(kind: Kind, ref: TypeRef) -> Value:
    """Return what is asked of a type that is there: its id, its size, or that it is there."""
    if kind is Kind.TYPE_SIZE:
        return Value(ref.size)
    if kind in EXISTENCE:
        return Value(1)
    return Value(ref.id, is_sure=False)  # linkers renumber types, and leave the instruction


def enumerator_value(kind: Kind, btf: Btf, type_id: int, index: int) -> Value:
    """Return what is asked of enumerator *index* of an enumeration that is there."""
    if kind is Kind.ENUMVAL_EXISTS:
        return Value(1)
    enum = btf[type_id]
    assert isinstance(enum, Enum)
    return Value(enum.values[index].value)


def may_resize(local: Value, target: Value) -> bool:
    """Whether a load or store of the local size may become one of the target's.

    Pointers may, since eight bytes of BPF stand for four elsewhere, and unsigned integers.
    """
    if local.bytes_held == target.bytes_held or local.held is None or target.held is None:
        return True
    one, other = local.held.type, target.held.type
    if isinstance(one, Pointer) and isinstance(other, Pointer):
        return True
    both = isinstance(one, Int) and isinstance(other, Int)
    return both and not (_is_signed(one) or _is_signed(other))


def _is_signed(kind: object) -> bool:
    return isinstance(kind, Int) and kind.is_signed
