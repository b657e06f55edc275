"""A BTF blob from types: whole tables, or the few types that a map's key and value need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bpfpin.btf.btf import Btf, TypeRef, blob
from bpfpin.btf.encode import encode
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Enum,
    Float,
    Forward,
    FunctionPrototype,
    Int,
    Pointer,
    Struct,
    Union,
    Void,
)


class BtfBuilder:
    """Collects types and strings; ids count from 1 in the order of `add`.

    *strings* is a string section to start with: its offsets stay valid (those of line infos).
    """

    def __init__(self, *, strings: bytes = b"\0") -> None:
        self._strings = bytearray(strings)
        self._offsets: dict[bytes, int] = {}
        self._is_indexed = False
        self._types: list[bytes] = []

    def add(self, kind: BtfType) -> int:
        """Add a type and return its id; `ValueError` if the form has no room for its numbers."""
        self._types.append(encode(kind, self.add_string))
        return len(self._types)

    def add_encoded(self, data: bytes) -> None:
        """Add the bytes of types (`Btf.encoded`) whose names are in *strings*."""
        self._types.append(data)

    def add_string(self, text: str) -> int:
        """Return the offset of *text* in the string section, where each string is kept once."""
        data = text.encode()
        if not self._is_indexed:
            self._index()
        if data not in self._offsets:
            self._offsets[data] = len(self._strings)
            self._strings += data + b"\0"
        return self._offsets[data]

    def _index(self) -> None:
        """Note where the strings are that were there from the start."""
        self._is_indexed = True
        offset = 0
        for text in bytes(self._strings).split(b"\0")[:-1]:
            self._offsets.setdefault(text, offset)
            offset += len(text) + 1

    def build(self) -> bytes:
        """Return the blob."""
        return blob(b"".join(self._types), bytes(self._strings))


def subset(refs: Sequence[TypeRef]) -> tuple[bytes, list[int]]:
    """Return a BTF blob with only what *refs* need, and their ids in it.

    Sizes, offsets and names of values stay as they are. What pointers point to is no part of a
    value: a structure there becomes a declaration, a function becomes void.
    """
    selection = _Selection()
    ids = [selection.id_of(ref) for ref in refs]
    return selection.build(), ids


class _Selection:
    """Types in the order they are met; an id is given at once, so that cycles do no harm."""

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
        builder = BtfBuilder()
        for wanted in self._pending:  # grows while it is walked
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
        if isinstance(kind, (Struct, Union, Forward)) and kind.name:
            is_union = kind.is_union if isinstance(kind, Forward) else isinstance(kind, Union)
            return self.id_of(Forward(kind.name, is_union))
        return 0


def with_ids(kind: BtfType, new_id: Callable[[int], int]) -> BtfType:
    """Return *kind* with each type id in it replaced by *new_id* of it."""
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
