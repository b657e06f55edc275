"""Whether a type of the target is the local one, asked of whole types in two ways (libbpf's rules).

They *fit* if their kinds agree down to the first structure. They *match* if every local member and
enumerator is there with the same size and sign; behind a pointer names and kinds are enough.
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
    FunctionPrototype,
    Int,
    Modifier,
    Pointer,
    Struct,
    Union,
    Void,
)
from bpfpin.errors import ObjectFileError

_WHOLE = (Void, Struct, Union, Enum, Forward)  # fit whatever is in them
_STEP_LIMIT = 1 << 17  # comparisons of two types; task_struct with all it holds takes some 3,000


# When a member of the target stands for a local one of the same name: the loosest of the rules.
#
# What the two hold must be of one kind; sizes may differ, since a load is fitted to the target's.


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


class Comparison:
    """Compares types of one table with those of another; each pair once."""

    def __init__(self, local: Btf, target: Btf) -> None:
        self._local = local
        self._target = target
        self._matched: dict[tuple[int, int, bool], bool] = {}
        self._steps = 0

    def fits(self, local_id: int, target_id: int, *, depth: int = MAX_DEPTH) -> bool:
        """Whether the types are of one kind, through pointers, arrays and prototypes.

        `ObjectFileError` if they are nested more than 32 deep.
        """
        if not is_one_kind(self._local[local_id], self._target[target_id]):
            return False
        while depth > 0:
            depth -= 1
            self._count()
            one, other = self._stripped(local_id, target_id)
            if not is_one_kind(one, other):
                return False
            if not self._parameters_fit(one, other, depth):
                return False
            inner = _below(one, other)
            if inner is None:
                return isinstance(one, _WHOLE) or (isinstance(one, Int) and field_fits(one, other))
            local_id, target_id = inner
        raise _too_deep(local_id)

    def matches(
        self, local_id: int, target_id: int, *, is_behind: bool = False, depth: int = MAX_DEPTH
    ) -> bool:
        """Whether the target's type has all that the local one has.

        *is_behind* a pointer a structure is known by its name alone. Names are compared without
        flavour. `ObjectFileError` if the types are nested more than 32 deep.
        """
        while depth > 0:
            depth -= 1
            self._count()
            one, other = self._stripped(local_id, target_id)
            if not _one_name(one.name, other.name):
                return False
            inner = _below(one, other)
            if inner is None:
                return self._same(one, other, (local_id, target_id, is_behind), depth)
            if not self._outer_matches(one, other, is_behind=is_behind, depth=depth):
                return False
            is_behind = is_behind or isinstance(one, Pointer)
            local_id, target_id = inner
        raise _too_deep(local_id)

    def _outer_matches(self, one: BtfType, other: BtfType, *, is_behind: bool, depth: int) -> bool:
        """Compare what there is besides the type that comes next: lengths, parameters."""
        if isinstance(one, Array) and isinstance(other, Array):
            return one.length == other.length
        if isinstance(one, FunctionPrototype) and isinstance(other, FunctionPrototype):
            return len(one.parameters) == len(other.parameters) and all(
                self.matches(a.type_id, b.type_id, is_behind=is_behind, depth=depth)
                for a, b in zip(one.parameters, other.parameters, strict=True)
            )
        return True

    def _same(self, one: BtfType, other: BtfType, key: tuple[int, int, bool], depth: int) -> bool:
        if isinstance(one, Enum) and isinstance(other, Enum):
            return one.size == other.size and self._has_enumerators(one, other)
        if isinstance(one, Int) and isinstance(other, Int):
            return one.size == other.size and one.is_signed == other.is_signed
        if key[2] and isinstance(one, Struct | Union | Forward):
            return _is_union(one) == _is_union(other)
        if isinstance(one, Struct | Union) and type(one) is type(other):
            if key not in self._matched:
                self._matched[key] = self._has_members(one, other, depth)
            return self._matched[key]
        if isinstance(one, Forward) and isinstance(other, Forward):
            return one.is_union == other.is_union
        return isinstance(one, Void) and isinstance(other, Void)

    def _has_members(self, one: Struct | Union, other: BtfType, depth: int) -> bool:
        assert isinstance(other, Struct | Union)
        if len(one.members) > len(other.members):
            return False
        by_name: dict[str, list[int]] = {}
        for member in other.members:
            by_name.setdefault(essential_name(member.name), []).append(member.type_id)
        return all(
            any(
                self.matches(member.type_id, type_id, depth=depth)
                for type_id in by_name.get(essential_name(member.name), ())
            )
            for member in one.members
        )

    def _has_enumerators(self, one: Enum, other: Enum) -> bool:
        there = {essential_name(each.name) for each in other.values}
        return len(one.values) <= len(other.values) and all(
            essential_name(each.name) in there for each in one.values
        )

    def _parameters_fit(self, one: BtfType, other: BtfType, depth: int) -> bool:
        if not isinstance(one, FunctionPrototype) or not isinstance(other, FunctionPrototype):
            return True
        strip, strip_other = self._local.strip, self._target.strip
        return len(one.parameters) == len(other.parameters) and all(
            self.fits(strip(a.type_id), strip_other(b.type_id), depth=depth)
            for a, b in zip(one.parameters, other.parameters, strict=True)
        )

    def _stripped(self, local_id: int, target_id: int) -> tuple[BtfType, BtfType]:
        local, target = self._local, self._target
        return local[local.strip(local_id)], target[target.strip(target_id)]

    def _count(self) -> None:
        self._steps += 1
        if self._steps > _STEP_LIMIT:
            raise malformed(f"comparing the types takes more than {_STEP_LIMIT} steps")


def _below(one: BtfType, other: BtfType) -> tuple[int, int] | None:
    """Return the types that come next: pointed to, held in an array, returned."""
    if isinstance(one, Pointer) and isinstance(other, Pointer):
        return one.type_id, other.type_id
    if isinstance(one, Array) and isinstance(other, Array):
        return one.element_id, other.element_id
    if isinstance(one, FunctionPrototype) and isinstance(other, FunctionPrototype):
        return one.return_id, other.return_id
    return None


def _one_name(local: str, target: str) -> bool:
    return essential_name(local) == essential_name(target) if target else not local


def _is_union(kind: BtfType) -> bool | None:
    """Whether it is a union, or declared as one; None for what is neither union nor structure."""
    if isinstance(kind, Forward):
        return kind.is_union
    return isinstance(kind, Union) if isinstance(kind, Struct | Union) else None


def _too_deep(type_id: int) -> ObjectFileError:
    return malformed(f"type {type_id} is nested more than {MAX_DEPTH} deep")
