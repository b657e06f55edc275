"""Decoder of the type section: bytes to the records of `types`, one type at a time.

The format is that of the kernel's Documentation/bpf/btf.rst, "Type Encoding": each type has three
words (name offset, info, size or type id) and further words depending on its kind. The section is
read as a sequence of 32-bit words.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    DeclTag,
    Enum,
    Enumerator,
    Float,
    Forward,
    Function,
    FunctionPrototype,
    Int,
    IntEncoding,
    Linkage,
    Member,
    Modifier,
    ModifierKind,
    Parameter,
    Pointer,
    SectionVariable,
    Struct,
    Union,
    Var,
)
from bpfpin.errors import ObjectFileError
from bpfpin.uapi import BTF_MAX_TYPE, BTF_MAX_VLEN, BtfKind

Words = Sequence[int]  # of 32 bits
ReadString = Callable[[int], str]

# The kind is in bits 24 to 28 of the info word. The two unused bits above it are read with it, so
# that a set one makes an unknown kind.
_KIND_MASK = 0x7F
_HEADER_WORDS = 3
_LINKAGES = {linkage.value: linkage for linkage in Linkage}
_MODIFIERS = {kind.value: kind for kind in ModifierKind}
_ENCODINGS = {bits: IntEncoding(bits) for bits in range(8)}
_TAIL_WORDS = {  # words after the first three of a type: (always, for each of vlen entries)
    BtfKind.INT: (1, 0),
    BtfKind.PTR: (0, 0),
    BtfKind.ARRAY: (3, 0),
    BtfKind.STRUCT: (0, 3),
    BtfKind.UNION: (0, 3),
    BtfKind.ENUM: (0, 2),
    BtfKind.FWD: (0, 0),
    BtfKind.TYPEDEF: (0, 0),
    BtfKind.VOLATILE: (0, 0),
    BtfKind.CONST: (0, 0),
    BtfKind.RESTRICT: (0, 0),
    BtfKind.FUNC: (0, 0),  # its vlen is the linkage
    BtfKind.FUNC_PROTO: (0, 2),
    BtfKind.VAR: (1, 0),
    BtfKind.DATASEC: (0, 3),
    BtfKind.FLOAT: (0, 0),
    BtfKind.DECL_TAG: (1, 0),
    BtfKind.TYPE_TAG: (0, 0),
    BtfKind.ENUM64: (0, 3),
}
_TAILS = [_TAIL_WORDS.get(kind) for kind in range(_KIND_MASK + 1)]  # type: ignore[call-overload]  # plain int looks up as BtfKind


def malformed(message: str, *, offset: int | None = None) -> ObjectFileError:
    """Return the error for malformed BTF; *offset* is a byte of the blob."""
    return ObjectFileError(message, section=".BTF", offset=offset)


def scan(words: Words, *, first_id: int, first_byte: int) -> array[int]:
    """Return the index of the first word of each type.

    *first_byte* is the offset of the type section in the blob; errors add it to theirs.
    """
    starts = array("I")
    at, end = 0, len(words)
    while at + _HEADER_WORDS <= end:
        info = words[at + 1]
        tail = _TAILS[info >> 24 & _KIND_MASK]
        if tail is None:
            raise _unknown_kind(info, first_id + len(starts), first_byte + 4 * at)
        starts.append(at)
        at += _HEADER_WORDS + tail[0] + tail[1] * (info & BTF_MAX_VLEN)
    if at != end:
        raise malformed(
            f"type {first_id + len(starts) - 1} ends {abs(end - at) * 4} bytes "
            f"{'after' if at > end else 'before'} the type section does",
            offset=first_byte + 4 * (starts[-1] if starts else 0),
        )
    if first_id + len(starts) > BTF_MAX_TYPE:
        raise malformed(
            f"{first_id + len(starts)} types; BTF allows {BTF_MAX_TYPE}", offset=first_byte
        )
    return starts


def _unknown_kind(info: int, type_id: int, offset: int) -> ObjectFileError:
    kind = info >> 24 & _KIND_MASK
    # The length of an unknown kind is unknown as well, so the rest of the table cannot be read.
    return malformed(f"type {type_id} is of kind {kind}, which is unknown", offset=offset)


def decode(words: Words, at: int, string: ReadString) -> BtfType:
    """Return the type whose first word has index *at*; *string* returns a name by its offset."""
    return _DECODERS[words[at + 1] >> 24 & _KIND_MASK](words, at, string)


def _flag(words: Words, at: int) -> bool:
    return bool(words[at + 1] >> 31)


def _vlen(words: Words, at: int) -> int:
    return words[at + 1] & BTF_MAX_VLEN


def _tail(words: Words, at: int, step: int) -> range:
    start = at + _HEADER_WORDS
    return range(start, start + step * _vlen(words, at), step)


def _int(words: Words, at: int, string: ReadString) -> Int:
    # The fourth word: encoding << 24 | offset << 16 | bits (BTF_INT_* in include/uapi/linux/btf.h).
    name, data = string(words[at]), words[at + 3]
    encoding = _ENCODINGS.get(data >> 24)
    if encoding is None:
        raise malformed(f"integer {name!r} has the unknown encoding {data >> 24:#x}")
    return Int(name, words[at + 2], data & 0xFF, encoding, data >> 16 & 0xFF)


def _pointer(words: Words, at: int, string: ReadString) -> Pointer:
    return Pointer(words[at + 2], string(words[at]))


def _array(words: Words, at: int, string: ReadString) -> Array:
    return Array(words[at + 3], words[at + 4], words[at + 5], string(words[at]))


def _members(words: Words, at: int, string: ReadString) -> tuple[Member, ...]:
    # With the flag, the third word of a member is bitfield_size << 24 | bit_offset. The tuples are
    # made of lists here and below: that is faster than from a generator, and the kernel has 130,000
    # types.
    if not _flag(words, at):
        return tuple(
            [Member(string(words[i]), words[i + 1], words[i + 2]) for i in _tail(words, at, 3)]
        )
    return tuple(
        [
            Member(string(words[i]), words[i + 1], words[i + 2] & 0xFFFFFF, words[i + 2] >> 24)
            for i in _tail(words, at, 3)
        ]
    )


def _struct(words: Words, at: int, string: ReadString) -> Struct:
    return Struct(string(words[at]), words[at + 2], _members(words, at, string))


def _union(words: Words, at: int, string: ReadString) -> Union:
    return Union(string(words[at]), words[at + 2], _members(words, at, string))


def _signed(value: int, bits: int) -> int:
    # Two's complement: subtract 2**bits if the top bit is set.
    return value - (value >> bits - 1 << bits)


def _enum(words: Words, at: int, string: ReadString) -> Enum:
    is_signed = _flag(words, at)
    values = tuple(
        Enumerator(string(words[i]), _signed(words[i + 1], 32) if is_signed else words[i + 1])
        for i in _tail(words, at, 2)
    )
    return Enum(string(words[at]), words[at + 2], is_signed, values)


def _enum64(words: Words, at: int, string: ReadString) -> Enum:
    is_signed = _flag(words, at)
    # The lower half comes first (struct btf_enum64).
    wide = ((string(words[i]), words[i + 1] | words[i + 2] << 32) for i in _tail(words, at, 3))
    values = tuple(Enumerator(name, _signed(v, 64) if is_signed else v) for name, v in wide)
    return Enum(string(words[at]), words[at + 2], is_signed, values, is_wide=True)


def _forward(words: Words, at: int, string: ReadString) -> Forward:
    return Forward(string(words[at]), _flag(words, at))


def _modifier(words: Words, at: int, string: ReadString) -> Modifier:
    kind = _MODIFIERS[words[at + 1] >> 24 & _KIND_MASK]
    return Modifier(kind, string(words[at]), words[at + 2])


def _linkage(value: int, name: str) -> Linkage:
    if value not in _LINKAGES:
        raise malformed(f"{name!r} has the unknown linkage {value}")
    return _LINKAGES[value]


def _function(words: Words, at: int, string: ReadString) -> Function:
    name = string(words[at])
    return Function(name, words[at + 2], _linkage(_vlen(words, at), name))


def _prototype(words: Words, at: int, string: ReadString) -> FunctionPrototype:
    parameters = tuple([Parameter(string(words[i]), words[i + 1]) for i in _tail(words, at, 2)])
    return FunctionPrototype(words[at + 2], parameters, string(words[at]))


def _variable(words: Words, at: int, string: ReadString) -> Var:
    name = string(words[at])
    return Var(name, words[at + 2], _linkage(words[at + 3], name))


def _data_section(words: Words, at: int, string: ReadString) -> DataSection:
    variables = tuple(
        SectionVariable(words[i], words[i + 1], words[i + 2]) for i in _tail(words, at, 3)
    )
    return DataSection(string(words[at]), words[at + 2], variables)


def _float(words: Words, at: int, string: ReadString) -> Float:
    return Float(string(words[at]), words[at + 2])


def _decl_tag(words: Words, at: int, string: ReadString) -> DeclTag:
    return DeclTag(string(words[at]), words[at + 2], _signed(words[at + 3], 32))


_DECODERS: dict[int, Callable[[Words, int, ReadString], BtfType]] = {
    BtfKind.INT: _int,
    BtfKind.PTR: _pointer,
    BtfKind.ARRAY: _array,
    BtfKind.STRUCT: _struct,
    BtfKind.UNION: _union,
    BtfKind.ENUM: _enum,
    BtfKind.FWD: _forward,
    BtfKind.TYPEDEF: _modifier,
    BtfKind.VOLATILE: _modifier,
    BtfKind.CONST: _modifier,
    BtfKind.RESTRICT: _modifier,
    BtfKind.FUNC: _function,
    BtfKind.FUNC_PROTO: _prototype,
    BtfKind.VAR: _variable,
    BtfKind.DATASEC: _data_section,
    BtfKind.FLOAT: _float,
    BtfKind.DECL_TAG: _decl_tag,
    BtfKind.TYPE_TAG: _modifier,
    BtfKind.ENUM64: _enum64,
}
