"""Encoder of BTF: whole tables, or the few types that a map's key and value need."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from bpfpin.btf.btf import Btf, TypeRef, blob
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
    Var,
    Void,
)
from bpfpin.uapi import BtfKind

AddString = Callable[[str], int]
_WORD = 0xFFFFFFFF


def encode(kind: BtfType, add_string: AddString) -> bytes:
    """Return the bytes of one type in a type section, the inverse of `decode.decode`.

    Args:
        kind: The type.
        add_string: Adds a name to the string section and returns its offset.

    Returns:
        The encoded type.

    Raises:
        ValueError: The type is `Void`, which is never stored, or a number does not fit its field.
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
    data = kind.encoding << 24 | kind.bit_offset << 16 | kind.bits
    return [_info(BtfKind.INT), kind.size, data]


def _array(kind: Array, _: AddString) -> list[int]:
    return [_info(BtfKind.ARRAY), 0, kind.element_id, kind.index_id, kind.length]


def _composite(kind: Struct | Union, add_string: AddString) -> list[int]:
    # The flag changes the meaning of every member's third word (see `decode._members`).
    flag = any(member.bitfield_size for member in kind.members)
    number = BtfKind.STRUCT if isinstance(kind, Struct) else BtfKind.UNION
    words = [_info(number, len(kind.members), flag=flag), kind.size]
    for member in kind.members:
        if flag and member.bit_offset > 0xFFFFFF:
            raise ValueError(f"{kind.name!r}: bit {member.bit_offset} is too far for bit-fields")
        position = member.bitfield_size << 24 | member.bit_offset
        words += [add_string(member.name), member.type_id, position]
    return words


def _enum(kind: Enum, add_string: AddString) -> list[int]:
    # The flag says that the values are signed, since Linux commit 6089fb325cf7 ("bpf: Add btf
    # enum64 support") (v6.0).
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
    # Unlike members, entries have no name of their own: it is that of the variable.
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
    Var: lambda kind, _: [_info(BtfKind.VAR), kind.type_id, kind.linkage],
    DataSection: _data_section,
    DeclTag: lambda kind, _: [_info(BtfKind.DECL_TAG), kind.type_id, kind.component & _WORD],
}


class BtfBuilder:
    """Collects types and strings; ids count from 1 in the order of `add`.

    *strings* is an existing string section to start with. Its offsets stay valid, because line
    infos refer to them.
    """

    def __init__(self, *, strings: bytes = b"\0") -> None:
        self._strings = bytearray(strings)
        # Filled on first use: a copy with changed types often adds no string at all.
        self._offsets: dict[bytes, int] = {}
        self._is_indexed = False
        self._types: list[bytes] = []

    def add(self, kind: BtfType) -> int:
        """Add a type and return its id; `ValueError` if a number does not fit its field."""
        self._types.append(encode(kind, self.add_string))
        return len(self._types)

    def add_encoded(self, data: bytes) -> None:
        """Add the bytes of types (`Btf.encoded`) whose names are in *strings*."""
        self._types.append(data)

    def add_string(self, text: str) -> int:
        """Return the offset of *text* in the string section; each string is stored once."""
        data = text.encode()
        if not self._is_indexed:
            self._index()
        if data not in self._offsets:
            self._offsets[data] = len(self._strings)
            self._strings += data + b"\0"
        return self._offsets[data]

    def _index(self) -> None:
        """Index the strings that the section started with."""
        self._is_indexed = True
        offset = 0
        for text in bytes(self._strings).split(b"\0")[:-1]:
            self._offsets.setdefault(text, offset)
            offset += len(text) + 1

    def build(self) -> bytes:
        """Return the blob."""
        return blob(b"".join(self._types), bytes(self._strings))


def subset(refs: Sequence[TypeRef]) -> tuple[bytes, list[int]]:
    """Return a BTF blob with the types that *refs* need, and the ids of *refs* in it.

    Sizes, offsets and names stay. The target of a pointer is not part of a value: a structure there
    becomes a forward declaration, a function becomes void.
    """
    selection = _Selection()
    ids = [selection.id_of(ref) for ref in refs]
    return selection.build(), ids


class _Selection:
    """Types in the order of discovery; each gets its id at once, so that cycles end."""

    def __init__(self) -> None:
        self._ids: dict[tuple[Btf, int] | Forward, int] = {}
        self._pending: list[TypeRef | Forward] = []

    def id_of(self, wanted: TypeRef | Forward) -> int:
        key = wanted if isinstance(wanted, Forward) else (wanted.btf, wanted.id)
        if isinstance(wanted, TypeRef) and wanted.id == 0:
            return 0
        if key not in self._ids:
            self._ids[key] = len(self._ids) + 1
            self._pending.append(wanted)
        return self._ids[key]

    def build(self) -> bytes:
        # The kernel gets these types with BPF_BTF_LOAD before BPF_MAP_CREATE, which refers to them
        # by id. A small table is enough, and it does not keep the object's whole BTF in kernel
        # memory.
        builder = BtfBuilder()
        for wanted in self._pending:  # `_renumbered` appends to it during the loop
            builder.add(wanted if isinstance(wanted, Forward) else self._renumbered(wanted))
        return builder.build()

    def _renumbered(self, ref: TypeRef) -> BtfType:
        kind = ref.type
        if isinstance(kind, Pointer):
            return replace(kind, type_id=self._target(ref.btf.ref(kind.type_id)))
        return with_ids(kind, lambda type_id: self.id_of(ref.btf.ref(type_id)))

    def _target(self, ref: TypeRef) -> int:
        kind = ref.stripped
        if isinstance(kind, (Int, Enum, Float)):
            return self.id_of(ref.btf.ref(ref.btf.strip(ref.id)))
        # A declaration keeps the name for readers (bpftool), and breaks cycles such as linked
        # lists.
        if isinstance(kind, (Struct, Union, Forward)) and kind.name:
            is_union = kind.is_union if isinstance(kind, Forward) else isinstance(kind, Union)
            return self.id_of(Forward(kind.name, is_union))
        return 0


def with_ids(kind: BtfType, new_id: Callable[[int], int]) -> BtfType:
    """Return *kind* with every type id replaced by the result of *new_id*."""
    if isinstance(kind, (Int, Enum, Float, Forward)):
        return kind
    if isinstance(kind, Array):
        return replace(kind, element_id=new_id(kind.element_id), index_id=new_id(kind.index_id))
    if isinstance(kind, (Struct, Union)):
        members = tuple(m._replace(type_id=new_id(m.type_id)) for m in kind.members)
        return replace(kind, members=members)
    if isinstance(kind, FunctionPrototype):
        parameters = tuple(p._replace(type_id=new_id(p.type_id)) for p in kind.parameters)
        return replace(kind, return_id=new_id(kind.return_id), parameters=parameters)
    if isinstance(kind, DataSection):
        variables = tuple(v._replace(type_id=new_id(v.type_id)) for v in kind.variables)
        return replace(kind, variables=variables)
    return kind if isinstance(kind, Void) else replace(kind, type_id=new_id(kind.type_id))
