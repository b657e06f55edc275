"""The codec of a BTF type, made once a map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.layout import MAX_DEPTH, size_of
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Enum,
    Float,
    Int,
    IntEncoding,
    Member,
    Pointer,
    Struct,
    Union,
    Variable,
)
from bpfpin.errors import ObjectFileError
from bpfpin.objects.codec import BitsCodec, BytesCodec, Codec, ScalarCodec, TextCodec
from bpfpin.objects.codec_record import (
    ArrayCodec,
    FlatStructCodec,
    Part,
    Record,
    RecordCodec,
    StructCodec,
    UnionCodec,
)

LETTERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
FLOAT_LETTERS = {4: "f", 8: "d"}


def codec(ref: TypeRef | None, size: int, *, is_key: bool = False) -> Codec:
    """Return the codec for values of *size* bytes and type *ref*, bytes for None.

    With *is_key* its values can be hashed. A type of another size than the map's, or one that has
    no values (a function), raises `ObjectFileError`.
    """
    if ref is None:
        return BytesCodec(size)
    made = _Maker(ref.btf, is_key=is_key).make(ref.id)
    if made.size != size:
        raise ObjectFileError(f"type {ref.name} takes {made.size} bytes, the map's {size}")
    return made


@dataclass(frozen=True)
class _Maker:
    btf: Btf
    is_key: bool
    made: dict[int, Codec] = field(default_factory=dict)

    def make(self, type_id: int, depth: int = 0) -> Codec:
        if depth > MAX_DEPTH:
            raise ObjectFileError(f"type {type_id} is nested more than {MAX_DEPTH} deep")
        type_id = self.btf.strip(type_id)
        if type_id not in self.made:
            kind = self.btf[type_id]
            maker = MAKERS.get(type(kind))
            if maker is None:
                raise ObjectFileError(f"a {type(kind).__name__} has no values")
            self.made[type_id] = maker(self, kind, depth)
        return self.made[type_id]

    def integer(self, kind: Int, _depth: int) -> Codec:
        if kind.encoding & IntEncoding.BOOL and kind.size == 1:
            return ScalarCodec("?")
        letter = LETTERS.get(kind.size)
        if letter is None or kind.bits != 8 * kind.size or kind.bit_offset:
            return _Widened(kind)
        return ScalarCodec(letter.lower() if kind.is_signed else letter)

    def enumeration(self, kind: Enum, _depth: int) -> Codec:
        letter = LETTERS.get(kind.size)
        if letter is None:
            return BytesCodec(kind.size)
        return ScalarCodec(letter.lower() if kind.is_signed else letter)

    def floating(self, kind: Float, _depth: int) -> Codec:
        letter = FLOAT_LETTERS.get(kind.size)
        return ScalarCodec(letter) if letter else BytesCodec(kind.size)

    def pointer(self, _kind: Pointer, _depth: int) -> Codec:
        return ScalarCodec("Q")

    def array(self, kind: Array, depth: int) -> Codec:
        element = self.btf[self.btf.strip(kind.element_id)]
        if isinstance(element, Int) and _is_char(element):
            return TextCodec(kind.length)
        factory = tuple if self.is_key else list
        return ArrayCodec(self.make(kind.element_id, depth + 1), kind.length, factory=factory)

    def structure(self, kind: Struct, depth: int) -> Codec:
        # Nothing of no size is looked into: it could be nested without end in a few bytes.
        parts = [self._part(member, depth) for member in kind.members if kind.size]
        return self._record(parts, kind.size)

    def union(self, kind: Union, depth: int) -> Codec:
        parts = [self._part(member, depth) for member in kind.members if kind.size]
        self._check_ends(parts, kind.size)
        return UnionCodec(parts, kind.size, factory=self._factory())

    def section(self, kind: DataSection, depth: int) -> Codec:
        parts = [
            Part(self.btf[variable.type_id].name, variable.offset, self._variable(variable, depth))
            for variable in kind.variables
        ]
        return self._record(parts, kind.size)

    def _variable(self, variable: Any, depth: int) -> Codec:
        kind = self.btf[variable.type_id]
        if not isinstance(kind, Variable):
            raise ObjectFileError(f"type {variable.type_id} in a data section is no variable")
        return self.make(kind.type_id, depth + 1)

    def _record(self, parts: list[Part], size: int) -> RecordCodec:
        self._check_ends(parts, size)
        flat = all(part.name and isinstance(part.codec, ScalarCodec) for part in parts)
        ends = [0, *(part.offset + part.codec.size for part in parts)]
        in_order = all(end <= part.offset for end, part in zip(ends, parts, strict=False))
        kind = FlatStructCodec if flat and in_order and parts else StructCodec
        return kind(parts, size, factory=self._factory())

    def _check_ends(self, parts: list[Part], size: int) -> None:
        for part in parts:
            if part.offset + part.codec.size > size:
                raise ObjectFileError(f"member {part.name} ends beyond the {size} bytes around it")

    def _part(self, member: Member, depth: int) -> Part:
        offset, bit = divmod(member.bit_offset, 8)
        if not member.bitfield_size and not bit:
            return Part(member.name, offset, self.make(member.type_id, depth + 1))
        kind = self.btf[self.btf.strip(member.type_id)]
        bits = member.bitfield_size or 8 * size_of(self.btf, member.type_id)
        is_signed = isinstance(kind, Int | Enum) and kind.is_signed
        return Part(member.name, offset, BitsCodec(bits, bit_offset=bit, is_signed=is_signed))

    def _factory(self) -> Callable[[Any], dict[str, Any]]:
        return Record if self.is_key else dict


class _Widened(BitsCodec):
    """An integer of odd width, or one that does not fill its bytes."""

    def __init__(self, kind: Int) -> None:
        super().__init__(kind.bits, bit_offset=kind.bit_offset, is_signed=kind.is_signed)
        self.size = kind.size


def _is_char(kind: Int) -> bool:
    return kind.size == 1 and (kind.name == "char" or bool(kind.encoding & IntEncoding.CHAR))


MAKERS: dict[type[BtfType], Callable[[_Maker, Any, int], Codec]] = {
    Int: _Maker.integer,
    Enum: _Maker.enumeration,
    Float: _Maker.floating,
    Pointer: _Maker.pointer,
    Array: _Maker.array,
    Struct: _Maker.structure,
    Union: _Maker.union,
    DataSection: _Maker.section,
}
