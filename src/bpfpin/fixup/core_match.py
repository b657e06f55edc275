"""Comparison of a local type with a type of the target, by libbpf's rules (relo_core.c).

Types *fit* if their kinds agree down to the first structure (bpf_core_types_are_compat()). They
*match* if the target has every local member and enumerator with the same size and sign; behind a
pointer, names and kinds are enough (bpf_core_types_match()). Members *fit* by the loosest rules
(bpf_core_fields_are_compat()): kinds must agree, sizes may differ, because a load is adapted to the
size in the target.
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

_WHOLE = (Void, Struct, Union, Enum, Forward)  # fit whatever their members are
_STEP_LIMIT = 1 << 17  # comparisons of two types; task_struct and all types in it take some 3,000


def is_one_kind(local: BtfType, target: BtfType) -> bool:
    """Whether both have the same BTF kind; enumerations of 32 and 64 bits count as the same."""
    if isinstance(local, Modifier) and isinstance(target, Modifier):
        return local.kind == target.kind
    return type(local) is type(target)


def fields_fit(local: Btf, local_id: int, target: Btf, target_id: int) -> bool:
    """Whether a member of the target may stand for the local member of the same name."""
    for _ in range(MAX_DEPTH):
        local_type, target_type = local[local.strip(local_id)], target[target.strip(target_id)]
        if isinstance(local_type, Array) and isinstance(target_type, Array):
            local_id, target_id = local_type.element_id, target_type.element_id
            continue
        # Nested structures are not compared: the next step of the path looks into them.
        if isinstance(local_type, Struct | Union) and isinstance(target_type, Struct | Union):
            return True
        return is_one_kind(local_type, target_type) and field_fits(local_type, target_type)
    raise malformed(f"type {local_id} is nested more than {MAX_DEPTH} deep")


def field_fits(local: BtfType, target: BtfType) -> bool:
    """Whether two types of the same kind fit: named ones by name, integers unless shifted."""
    if isinstance(local, Enum | Forward):
        names = essential_name(local.name), essential_name(target.name)
        # An unnamed enumeration fits any other, as in libbpf.
        return not all(names) or names[0] == names[1]
    if isinstance(local, Int) and isinstance(target, Int):
        # Sizes and signs may differ: loads are adapted, and programs ask for the sign if they need
        # it.
        return local.bit_offset == 0 and target.bit_offset == 0
    return isinstance(local, Pointer | Float)


class Comparison:
    """Compares the types of one table with those of another; results are cached."""

    def __init__(self, local: Btf, target: Btf) -> None:
        self._local = local
        self._target = target
        self._matched: dict[tuple[int, int, bool], bool] = {}
        self._steps = 0

    def fits(self, local_id: int, target_id: int, *, depth: int = MAX_DEPTH) -> bool:
        """Whether the types have the same kind, through pointers, arrays and prototypes.

        Raises:
            ObjectFileError: They nest more than 32 deep.
        """
        if not is_one_kind(self._local[local_id], self._target[target_id]):
            return False
        while depth > 0:
            depth -= 1
            self._count()
            local, target = self._stripped(local_id, target_id)
            if not is_one_kind(local, target):
                return False
            if not self._parameters_fit(local, target, depth):
                return False
            inner = _below(local, target)
            if inner is None:
                return isinstance(local, _WHOLE) or (
                    isinstance(local, Int) and field_fits(local, target)
                )
            local_id, target_id = inner
        raise _too_deep(local_id)

    def matches(
        self, local_id: int, target_id: int, *, is_behind: bool = False, depth: int = MAX_DEPTH
    ) -> bool:
        """Whether the target's type has everything that the local type has.

        Names are compared without flavour. *is_behind* a pointer, structures are compared by name
        only.

        Raises:
            ObjectFileError: The types nest more than 32 deep.
        """
        while depth > 0:
            depth -= 1
            self._count()
            local, target = self._stripped(local_id, target_id)
            if not _one_name(local.name, target.name):
                return False
            inner = _below(local, target)
            if inner is None:
                return self._same(local, target, (local_id, target_id, is_behind), depth)
            if not self._outer_matches(local, target, is_behind=is_behind, depth=depth):
                return False
            is_behind = is_behind or isinstance(local, Pointer)
            local_id, target_id = inner
        raise _too_deep(local_id)

    def _outer_matches(
        self, local: BtfType, target: BtfType, *, is_behind: bool, depth: int
    ) -> bool:
        """Compare array lengths and parameters; the caller goes on with the type inside."""
        if isinstance(local, Array) and isinstance(target, Array):
            return local.length == target.length
        if isinstance(local, FunctionPrototype) and isinstance(target, FunctionPrototype):
            return len(local.parameters) == len(target.parameters) and all(
                self.matches(a.type_id, b.type_id, is_behind=is_behind, depth=depth)
                for a, b in zip(local.parameters, target.parameters, strict=True)
            )
        return True

    def _same(
        self, local: BtfType, target: BtfType, key: tuple[int, int, bool], depth: int
    ) -> bool:
        if isinstance(local, Enum) and isinstance(target, Enum):
            return local.size == target.size and self._has_enumerators(local, target)
        if isinstance(local, Int) and isinstance(target, Int):
            return local.size == target.size and local.is_signed == target.is_signed
        # Behind a pointer a declaration may stand for the definition.
        if key[2] and isinstance(local, Struct | Union | Forward):
            return _is_union(local) == _is_union(target)
        if isinstance(local, Struct | Union) and type(local) is type(target):
            # Structures refer to each other; without this table a pair would be compared again and
            # again.
            if key not in self._matched:
                self._matched[key] = self._has_members(local, target, depth)
            return self._matched[key]
        if isinstance(local, Forward) and isinstance(target, Forward):
            return local.is_union == target.is_union
        return isinstance(local, Void) and isinstance(target, Void)

    def _has_members(self, local: Struct | Union, target: BtfType, depth: int) -> bool:
        assert isinstance(target, Struct | Union)
        if len(local.members) > len(target.members):
            return False
        # Several unnamed members share the empty name, so a name has a list of types.
        by_name: dict[str, list[int]] = {}
        for member in target.members:
            by_name.setdefault(essential_name(member.name), []).append(member.type_id)
        return all(
            any(
                self.matches(member.type_id, type_id, depth=depth)
                for type_id in by_name.get(essential_name(member.name), ())
            )
            for member in local.members
        )

    def _has_enumerators(self, local: Enum, target: Enum) -> bool:
        names = {essential_name(value.name) for value in target.values}
        return len(local.values) <= len(target.values) and all(
            essential_name(value.name) in names for value in local.values
        )

    def _parameters_fit(self, local: BtfType, target: BtfType, depth: int) -> bool:
        if not isinstance(local, FunctionPrototype) or not isinstance(target, FunctionPrototype):
            return True
        strip, strip_other = self._local.strip, self._target.strip
        return len(local.parameters) == len(target.parameters) and all(
            self.fits(strip(a.type_id), strip_other(b.type_id), depth=depth)
            for a, b in zip(local.parameters, target.parameters, strict=True)
        )

    def _stripped(self, local_id: int, target_id: int) -> tuple[BtfType, BtfType]:
        local, target = self._local, self._target
        return local[local.strip(local_id)], target[target.strip(target_id)]

    def _count(self) -> None:
        self._steps += 1
        if self._steps > _STEP_LIMIT:
            raise malformed(f"comparing the types takes more than {_STEP_LIMIT} steps")


def _below(local: BtfType, target: BtfType) -> tuple[int, int] | None:
    """Return the types inside: the target of a pointer, the element of an array, a return type."""
    if isinstance(local, Pointer) and isinstance(target, Pointer):
        return local.type_id, target.type_id
    if isinstance(local, Array) and isinstance(target, Array):
        return local.element_id, target.element_id
    if isinstance(local, FunctionPrototype) and isinstance(target, FunctionPrototype):
        return local.return_id, target.return_id
    return None


def _one_name(local: str, target: str) -> bool:
    return essential_name(local) == essential_name(target) if target else not local


def _is_union(kind: BtfType) -> bool | None:
    """Whether it is a union or a declaration of one; None unless it is a union or structure."""
    if isinstance(kind, Forward):
        return kind.is_union
    return isinstance(kind, Union) if isinstance(kind, Struct | Union) else None


def _too_deep(type_id: int) -> ObjectFileError:
    return malformed(f"type {type_id} is nested more than {MAX_DEPTH} deep")
