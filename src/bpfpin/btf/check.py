"""Whether a whole table of types can be believed: what the kernel checks, for files of anybody.

After it, values can be walked by the types without care: sizes are right, nothing lies outside its
structure, no type is inside itself. The kernel's own checks are in kernel/bpf/btf.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bpfpin.btf.btf import Btf
from bpfpin.btf.decode import malformed
from bpfpin.btf.layout import MAX_DEPTH, size_of, value_ids
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    DeclTag,
    Enum,
    Float,
    Function,
    FunctionPrototype,
    Int,
    Member,
    Modifier,
    Pointer,
    Struct,
    Union,
    Variable,
)

_SPARE_LEAVES = 1 << 16
_TOO_DEEP = f"is nested more than {MAX_DEPTH} deep"
_NESTING = (Array, Struct, Union)


def check(btf: Btf) -> None:
    """Decode every type and raise `ObjectFileError` for the first that cannot be right."""
    known: dict[int, _Nesting] = {}
    for type_id in btf.ids():
        kind = btf[type_id]
        rule = _RULES.get(type(kind))
        if rule:
            rule(btf, type_id, kind)
        if isinstance(kind, _NESTING):
            _measure(btf, type_id, known)


def _refuse(type_id: int, kind: BtfType, what: str) -> None:
    raise malformed(f"type {type_id} ({type(kind).__name__} {kind.name!r}): {what}")


def _check_int(_: Btf, type_id: int, kind: Int) -> None:
    if kind.size not in {1, 2, 4, 8, 16} or not 0 < kind.bits <= 8 * kind.size - kind.bit_offset:
        _refuse(type_id, kind, f"{kind.bits} bits at {kind.bit_offset} in {kind.size} bytes")


def _check_scalar_size(_: Btf, type_id: int, kind: Enum | Float) -> None:
    if kind.size not in {1, 2, 4, 8, 12, 16}:
        _refuse(type_id, kind, f"takes {kind.size} bytes")


def _check_ids(btf: Btf, type_id: int, kind: BtfType, *ids: int) -> None:
    for referred in ids:
        if referred >= len(btf):
            _refuse(type_id, kind, f"names type {referred} of {len(btf)}")


def _check_target(btf: Btf, type_id: int, kind: Pointer | Variable | DeclTag) -> None:
    _check_ids(btf, type_id, kind, kind.type_id)


def _check_array(btf: Btf, type_id: int, kind: Array) -> None:
    _check_ids(btf, type_id, kind, kind.element_id, kind.index_id)
    size_of(btf, type_id)


def _check_modifier(btf: Btf, type_id: int, kind: Modifier) -> None:
    _check_ids(btf, type_id, kind, btf.strip(type_id))


def _check_composite(btf: Btf, type_id: int, kind: Struct | Union) -> None:
    _check_ids(btf, type_id, kind, *(member.type_id for member in kind.members))
    for member in kind.members:
        if _end_bit(btf, type_id, member) > 8 * kind.size:
            _refuse(type_id, kind, f"member {member.name!r} passes its {kind.size} bytes")


def _end_bit(btf: Btf, type_id: int, member: Member) -> int:
    kind = btf[btf.strip(member.type_id)]
    size = size_of(btf, member.type_id)
    if not isinstance(kind, (Int, Enum)):
        if member.bit_offset % 8 or member.bitfield_size:
            _refuse(type_id, kind, f"member {member.name!r} does not start at a byte")
        return member.bit_offset + 8 * size
    if member.bitfield_size > 8 * size:
        _refuse(type_id, kind, f"member {member.name!r} has {member.bitfield_size} bits")
    own_bits = kind.bit_offset + kind.bits if isinstance(kind, Int) else 8 * size
    return member.bit_offset + (member.bitfield_size or own_bits)


def _check_function(btf: Btf, type_id: int, kind: Function) -> None:
    if not isinstance(btf[kind.type_id], FunctionPrototype):
        _refuse(type_id, kind, f"its type {kind.type_id} is no prototype")


def _check_prototype(btf: Btf, type_id: int, kind: FunctionPrototype) -> None:
    ids = [parameter.type_id for parameter in kind.parameters]
    _check_ids(btf, type_id, kind, kind.return_id, *ids)


def _check_section(btf: Btf, type_id: int, kind: DataSection) -> None:
    for variable in kind.variables:
        if not isinstance(btf[variable.type_id], (Variable, Function)):
            _refuse(type_id, kind, f"type {variable.type_id} in it is no variable")


_RULES: dict[type, Callable[[Btf, int, Any], None]] = {
    Int: _check_int,
    Float: _check_scalar_size,
    Enum: _check_scalar_size,
    Pointer: _check_target,
    Variable: _check_target,
    DeclTag: _check_target,
    Array: _check_array,
    Modifier: _check_modifier,
    Struct: _check_composite,
    Union: _check_composite,
    Function: _check_function,
    FunctionPrototype: _check_prototype,
    DataSection: _check_section,
}


@dataclass(frozen=True, slots=True)
class _Nesting:
    """How deep a value goes and how many scalars are in it."""

    depth: int = 0
    leaves: int = 1


_SCALAR = _Nesting()


def _measure(btf: Btf, root: int, known: dict[int, _Nesting]) -> None:
    """Measure *root* after all that is inside it; a stack of our own, as files can be deep."""
    stack, entered = [root], set[int]()
    while stack:
        type_id = stack[-1]
        if type_id in known:
            stack.pop()
            continue
        inner = [btf.strip(i) for i in value_ids(btf[type_id])]
        waiting = {i for i in inner if isinstance(btf[i], _NESTING) and i not in known}
        if waiting:
            if not entered.isdisjoint({type_id, *waiting}):
                _refuse(type_id, btf[type_id], "is inside itself")
            if len(entered) == MAX_DEPTH:
                _refuse(type_id, btf[type_id], _TOO_DEEP)
            entered.add(type_id)
            stack += waiting
            continue
        stack.pop()
        entered.discard(type_id)
        known[type_id] = _nesting(btf, type_id, [known.get(i, _SCALAR) for i in inner])


def _nesting(btf: Btf, type_id: int, inner: list[_Nesting]) -> _Nesting:
    kind = btf[type_id]
    depth = 1 + max((i.depth for i in inner), default=0)
    if depth > MAX_DEPTH:
        _refuse(type_id, kind, _TOO_DEEP)
    leaves = max(1, sum(i.leaves for i in inner))
    if isinstance(kind, Array):
        leaves = max(1, leaves * kind.length)
    if leaves > _SPARE_LEAVES + 8 * size_of(btf, type_id):
        _refuse(type_id, kind, f"has {leaves} values in {size_of(btf, type_id)} bytes")
    return _Nesting(depth, leaves)
