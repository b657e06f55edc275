"""Validation of a whole type table, as the kernel does in kernel/bpf/btf.c, for untrusted files.

After it, code can walk values by their types without further checks: sizes are right, members lie
inside their structure, and no type contains itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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
    Var,
)

# Scalars that a value may have beyond eight for each byte (bit-fields). Members of size 0 and
# overlapping members make more; a few kilobytes of nested types could claim billions of them.
_SPARE_LEAVES = 1 << 16
_TOO_DEEP = f"is nested more than {MAX_DEPTH} deep"
_NESTING = (Array, Struct, Union)
_VALUELESS = {Var, DataSection, DeclTag}  # members, parameters and pointers cannot have these types


def check(btf: Btf) -> None:
    """Decode every type and raise `ObjectFileError` for the first one that is invalid."""
    table = _Table(btf)
    for type_id, kind in enumerate(table.kinds):
        rule = _RULES.get(type(kind))
        if rule:
            rule(table, type_id, kind)
        if isinstance(kind, _NESTING):
            _measure(table, type_id)


class _MemberSize(NamedTuple):
    """The size of a member of some type; *bits* is None unless the type is an integer."""

    kind: BtfType
    size: int
    bits: int | None


class _Stripped(dict[int, int]):
    """A cache of `Btf.strip`: the id under typedefs and qualifiers, by id."""

    def __init__(self, btf: Btf) -> None:
        super().__init__()
        self._btf = btf

    def __missing__(self, type_id: int) -> int:
        stripped = self[type_id] = self._btf.strip(type_id)
        return stripped


class _Table:
    """The table being checked, with the sizes and depths computed so far."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self.kinds = btf.types()
        self.valueless = {i for i, kind in enumerate(self.kinds) if type(kind) in _VALUELESS}
        self.stripped = _Stripped(btf)
        self.nestings: dict[int, _Nesting] = {}
        self._member_sizes: dict[int, _MemberSize] = {}

    def member_size(self, type_id: int) -> _MemberSize:
        """Return the size of a member of this type."""
        member_size = self._member_sizes.get(type_id)
        if member_size is None:
            kind = self.kinds[self.stripped[type_id]]
            size = size_of(self.btf, type_id)
            bits = 8 * size if isinstance(kind, Enum) else None
            if isinstance(kind, Int):
                bits = kind.bit_offset + kind.bits
            member_size = self._member_sizes[type_id] = _MemberSize(kind, size, bits)
        return member_size


def _refuse(type_id: int, kind: BtfType, what: str) -> None:
    raise malformed(f"type {type_id} ({type(kind).__name__} {kind.name!r}): {what}")


def _check_int(_: _Table, type_id: int, kind: Int) -> None:
    # btf_int_check_meta(): offset and bits together fit the size, which is at most 16 bytes.
    if kind.size not in {1, 2, 4, 8, 16} or not 0 < kind.bits <= 8 * kind.size - kind.bit_offset:
        _refuse(type_id, kind, f"{kind.bits} bits at {kind.bit_offset} in {kind.size} bytes")


def _check_scalar_size(_: _Table, type_id: int, kind: Enum | Float) -> None:
    # btf_enum_check_meta() allows powers of two up to 8; btf_float_check_meta() 2, 4, 8, 12, 16.
    if kind.size not in {1, 2, 4, 8, 12, 16}:
        _refuse(type_id, kind, f"takes {kind.size} bytes")


def _check_ids(table: _Table, type_id: int, kind: BtfType, *ids: int) -> None:
    count = len(table.kinds)
    for referred in ids:
        if referred >= count:
            _refuse(type_id, kind, f"refers to type {referred} of {count}")
        if referred in table.valueless:
            _refuse(type_id, kind, f"refers to type {referred}, which no value can have")


def _check_target(table: _Table, type_id: int, kind: Pointer | Var) -> None:
    _check_ids(table, type_id, kind, kind.type_id)


def _check_tag(table: _Table, type_id: int, kind: DeclTag) -> None:
    if kind.type_id >= len(table.kinds):
        _refuse(type_id, kind, f"refers to type {kind.type_id} of {len(table.kinds)}")


def _check_array(table: _Table, type_id: int, kind: Array) -> None:
    _check_ids(table, type_id, kind, kind.element_id, kind.index_id)
    size_of(table.btf, type_id)


def _check_modifier(table: _Table, type_id: int, kind: Modifier) -> None:
    _check_ids(table, type_id, kind, table.stripped[type_id])


def _check_composite(table: _Table, type_id: int, kind: Struct | Union) -> None:
    _check_ids(table, type_id, kind, *(member.type_id for member in kind.members))
    last_bit = 8 * kind.size
    for member in kind.members:
        if _end_bit(table, type_id, member) > last_bit:
            _refuse(type_id, kind, f"member {member.name!r} exceeds its {kind.size} bytes")


def _end_bit(table: _Table, type_id: int, member: Member) -> int:
    name, member_type, bit_offset, bitfield_size = member
    kind, size, own_bits = table.member_size(member_type)
    # Only integers and enumerations can be bit-fields (btf_generic_check_kflag_member()).
    if own_bits is None:
        if bit_offset % 8 or bitfield_size:
            _refuse(type_id, kind, f"member {name!r} does not start at a byte boundary")
        return bit_offset + 8 * size
    if bitfield_size > 8 * size:
        _refuse(type_id, kind, f"member {name!r} has {bitfield_size} bits")
    return bit_offset + (bitfield_size or own_bits)


def _check_function(table: _Table, type_id: int, kind: Function) -> None:
    # btf_func_check() requires the same.
    if not isinstance(table.btf[kind.type_id], FunctionPrototype):
        _refuse(type_id, kind, f"its type {kind.type_id} is not a prototype")


def _check_prototype(table: _Table, type_id: int, kind: FunctionPrototype) -> None:
    ids = [parameter.type_id for parameter in kind.parameters]
    _check_ids(table, type_id, kind, kind.return_id, *ids)


def _check_section(table: _Table, type_id: int, kind: DataSection) -> None:
    for variable in kind.variables:
        # `.ksyms` has functions beside variables; the loader removes that section for the kernel.
        if not isinstance(table.btf[variable.type_id], (Var, Function)):
            _refuse(type_id, kind, f"its entry, type {variable.type_id}, is not a variable")


_RULES: dict[type, Callable[[_Table, int, Any], None]] = {
    Int: _check_int,
    Float: _check_scalar_size,
    Enum: _check_scalar_size,
    Pointer: _check_target,
    Var: _check_target,
    DeclTag: _check_tag,
    Array: _check_array,
    Modifier: _check_modifier,
    Struct: _check_composite,
    Union: _check_composite,
    Function: _check_function,
    FunctionPrototype: _check_prototype,
    DataSection: _check_section,
}


class _Nesting(NamedTuple):
    """The nesting depth of a value and the number of scalars in it."""

    depth: int = 0
    leaves: int = 1


_SCALAR = _Nesting()


def _measure(table: _Table, root: int) -> None:
    """Record the nesting of *root* and of every type inside it.

    The walk uses an explicit stack: a damaged file can nest deeper than Python recurses.
    """
    kinds, known = table.kinds, table.nestings
    # Most structures hold scalars only and need no walk.
    inside = [kinds[table.stripped[i]] for i in value_ids(kinds[root])]
    if not any(isinstance(kind, _NESTING) for kind in inside):
        known[root] = _nesting(table, root, [_SCALAR] * len(inside))
        return
    stack, entered = [root], set[int]()
    while stack:
        type_id = stack[-1]
        if type_id in known:
            stack.pop()
            continue
        inner = [table.stripped[i] for i in value_ids(kinds[type_id])]
        waiting = {i for i in inner if i not in known and isinstance(kinds[i], _NESTING)}
        if waiting:
            # A type on the stack that is reached again, from itself or from inside, is a cycle.
            if not entered.isdisjoint({type_id, *waiting}):
                _refuse(type_id, kinds[type_id], "is inside itself")
            if len(entered) == MAX_DEPTH:
                _refuse(type_id, kinds[type_id], _TOO_DEEP)
            entered.add(type_id)
            stack += waiting
            continue
        stack.pop()
        entered.discard(type_id)
        known[type_id] = _nesting(table, type_id, [known.get(i, _SCALAR) for i in inner])


def _nesting(table: _Table, type_id: int, inner: list[_Nesting]) -> _Nesting:
    kind = table.kinds[type_id]
    depth, leaves = 1, 0
    for inner_depth, inner_leaves in inner:
        leaves += inner_leaves
        if inner_depth >= depth:
            depth = inner_depth + 1
    if depth > MAX_DEPTH:
        _refuse(type_id, kind, _TOO_DEEP)
    if isinstance(kind, Array):
        leaves *= kind.length
    # A structure without members, or an array of length 0, still costs one step to walk.
    leaves = leaves or 1
    if leaves > _SPARE_LEAVES:
        size = size_of(table.btf, type_id)
        if leaves > _SPARE_LEAVES + 8 * size:
            _refuse(type_id, kind, f"has {leaves} values in {size} bytes")
    return _Nesting(depth, leaves)
