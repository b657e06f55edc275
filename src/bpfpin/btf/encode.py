"""The records of `types` to the bytes of a type section: the other direction of `decode`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    DeclTag,
    Enum,
    Float,
    Forward,
    Function,
    FunctionPrototype,
    Int,
    Modifier,
    Pointer,
    Struct,
    Union,
    Variable,
    Void,
)
from bpfpin.uapi import BtfKind

AddString = Callable[[str], int]

_WORD = 0xFFFFFFFF


def encode(kind: BtfType, add_string: AddString) -> bytes:
    """Return the bytes of one type; *add_string* gives the offset of a name.

    `ValueError` for `Void`, which is never stored, and for numbers that the form has no room for.
    """
    if isinstance(kind, Void):
        raise ValueError("void is type 0 of every BTF and is not stored")
    try:
        words = [add_string(kind.name), *_ENCODERS[type(kind)](kind, add_string)]
        return struct.pack(f"<{len(words)}I", *words)
    except struct.error as error:
        raise ValueError(f"{type(kind).__name__} {kind.name!r} does not fit BTF: {error}") from None


def _info(kind: int, vlen: int = 0, *, flag: bool = False) -> int:
    return flag << 31 | kind << 24 | vlen


def _int(kind: Int, _: AddString) -> list[int]:
    about = kind.encoding << 24 | kind.bit_offset << 16 | kind.bits
    return [_info(BtfKind.INT), kind.size, about]


def _array(kind: Array, _: AddString) -> list[int]:
    return [_info(BtfKind.ARRAY), 0, kind.element_id, kind.index_id, kind.length]


def _composite(kind: Struct | Union, add_string: AddString) -> list[int]:
    flag = any(member.bitfield_size for member in kind.members)
    number = BtfKind.STRUCT if isinstance(kind, Struct) else BtfKind.UNION
    words = [_info(number, len(kind.members), flag=flag), kind.size]
    for member in kind.members:
        if flag and member.bit_offset > 0xFFFFFF:
            raise ValueError(f"{kind.name!r}: bit {member.bit_offset} is too far for bit-fields")
        place = member.bitfield_size << 24 | member.bit_offset
        words += [add_string(member.name), member.type_id, place]
    return words


def _enum(kind: Enum, add_string: AddString) -> list[int]:
    number = BtfKind.ENUM64 if kind.is_wide else BtfKind.ENUM
    words = [_info(number, len(kind.values), flag=kind.is_signed), kind.size]
    for value in kind.values:
        words += [add_string(value.name), value.value & _WORD]
        words += [value.value >> 32 & _WORD] if kind.is_wide else []
    return words


def _prototype(kind: FunctionPrototype, add_string: AddString) -> list[int]:
    words = [_info(BtfKind.FUNC_PROTO, len(kind.parameters)), kind.return_id]
    for parameter in kind.parameters:
        words += [add_string(parameter.name), parameter.type_id]
    return words


def _data_section(kind: DataSection, _: AddString) -> list[int]:
    words = [_info(BtfKind.DATASEC, len(kind.variables)), kind.size]
    for variable in kind.variables:
        words += [variable.type_id, variable.offset, variable.size]
    return words


_ENCODERS: dict[type, Callable[[Any, AddString], list[int]]] = {
    Int: _int,
    Float: lambda kind, _: [_info(BtfKind.FLOAT), kind.size],
    Pointer: lambda kind, _: [_info(BtfKind.PTR), kind.type_id],
    Array: _array,
    Struct: _composite,
    Union: _composite,
    Enum: _enum,
    Forward: lambda kind, _: [_info(BtfKind.FWD, flag=kind.is_union), 0],
    Modifier: lambda kind, _: [_info(kind.kind), kind.type_id],
    Function: lambda kind, _: [_info(BtfKind.FUNC, kind.linkage), kind.type_id],
    FunctionPrototype: _prototype,
    Variable: lambda kind, _: [_info(BtfKind.VAR), kind.type_id, kind.linkage],
    DataSection: _data_section,
    DeclTag: lambda kind, _: [_info(BtfKind.DECL_TAG), kind.type_id, kind.component & _WORD],
}
