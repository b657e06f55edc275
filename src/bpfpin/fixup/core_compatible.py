"""When a member of the target stands for a local one of the same name: the loosest of the rules.

What the two hold must be of one kind; sizes may differ, since a load is fitted to the target's.
"""

from __future__ import annotations

from bpfpin.btf.btf import Btf
from bpfpin.btf.decode import malformed
from bpfpin.btf.layout import MAX_DEPTH
from bpfpin.btf.names import essential_name
from bpfpin.btf.types import (
    Array,
    BtfType,
    Enum,
    Float,
    Forward,
    Int,
    Modifier,
    Pointer,
    Struct,
    Union,
)


def is_one_kind(one: BtfType, other: BtfType) -> bool:
    """Whether both are of one BTF kind; enumerations of 32 and 64 bits are."""
    if isinstance(one, Modifier) and isinstance(other, Modifier):
        return one.kind == other.kind
    return type(one) is type(other)


def fields_fit(local: Btf, local_id: int, target: Btf, target_id: int) -> bool:
    """Whether a member of the target may be taken for the local one of the same name."""
    for _ in range(MAX_DEPTH):
        one, other = local[local.strip(local_id)], target[target.strip(target_id)]
        if isinstance(one, Array) and isinstance(other, Array):
            local_id, target_id = one.element_id, other.element_id
            continue
        if isinstance(one, Struct | Union) and isinstance(other, Struct | Union):
            return True
        return is_one_kind(one, other) and field_fits(one, other)
    raise malformed(f"type {local_id} is nested more than {MAX_DEPTH} deep")


def field_fits(one: BtfType, other: BtfType) -> bool:
    """Whether two of one kind fit: those that carry a name by the name, integers unless shifted."""
    if isinstance(one, Enum | Forward):
        names = essential_name(one.name), essential_name(other.name)
        return not all(names) or names[0] == names[1]
    if isinstance(one, Int) and isinstance(other, Int):
        return one.bit_offset == 0 and other.bit_offset == 0
    return isinstance(one, Pointer | Float)
