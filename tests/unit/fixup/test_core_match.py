"""CO-RE: when a whole type of the target is the local one, loosely and strictly."""

from __future__ import annotations

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import (
    Array,
    BtfType,
    Enum,
    Enumerator,
    Float,
    Forward,
    Function,
    FunctionPrototype,
    Int,
    Member,
    Modifier,
    ModifierKind,
    Parameter,
    Pointer,
    Struct,
    Union,
)
from bpfpin.fixup.core_match import Comparison
from support.btf_tables import S32, U32, U64, table

A_B = (Enumerator("A", 1), Enumerator("B", 2))


def typedef(*types: BtfType) -> Btf:
    """Return a table that ends with a typedef `t` of the type before."""
    return table(*types, Modifier(ModifierKind.TYPEDEF, "t", len(types)))


def last(btf: Btf) -> int:
    return len(btf) - 1


def fits(local: Btf, target: Btf) -> bool:
    return Comparison(local, target).fits(last(local), last(target))


def matches(local: Btf, target: Btf) -> bool:
    return Comparison(local, target).matches(last(local), last(target))


def prototype(returned: int, *parameters: int) -> FunctionPrototype:
    return FunctionPrototype(returned, tuple(Parameter("", entry) for entry in parameters))


@pytest.mark.parametrize(
    ("local", "target", "expected"),
    [
        (table(Struct("s", 4, ())), table(Struct("s", 80, ())), True),
        (table(Struct("s", 4, ())), table(Union("s", 4, ())), False),
        (table(Struct("s", 4, ())), table(Forward("s")), False),
        (table(U32), table(U64), True),
        (table(Int("i", 4, 16, bit_offset=8)), table(U32), False),
        (table(Enum("e", 4, False, ())), table(Enum("e", 8, True, A_B, is_wide=True)), True),
        (typedef(U32), typedef(U64), True),
        (typedef(U32), typedef(Pointer(0)), False),
        (typedef(U32), table(U32), False),
        (typedef(U32, Pointer(1)), typedef(Struct("s", 1, ()), Pointer(1)), False),
        (typedef(U32, Array(1, 1, 4)), typedef(U64, Array(1, 1, 9)), True),
        (typedef(U32, prototype(1, 1)), typedef(U64, prototype(1, 1)), True),
        (typedef(U32, prototype(1, 1)), typedef(U64, prototype(1, 1, 1)), False),
        (typedef(U32, prototype(1, 0)), typedef(U32, prototype(1, 1)), False),
        (typedef(U32, prototype(0)), typedef(U32, prototype(1)), False),
        (table(Float("f", 4)), table(Float("f", 4)), False),  # libbpf has no rule for it
        (table(prototype(0), Function("f", 1)), table(prototype(0), Function("f", 1)), False),
    ],
)
def test_types_fit_by_kind_down_to_the_first_structure(
    local: Btf, target: Btf, expected: bool
) -> None:
    assert fits(local, target) is expected


def struct(*members: tuple[str, int], name: str = "s") -> Struct:
    return Struct(name, 64, tuple(Member(entry, type_id, 0) for entry, type_id in members))


@pytest.mark.parametrize(
    ("local", "target", "expected"),
    [
        (table(U32), table(U32), True),
        (table(U32), table(Int("unsigned int", 8, 64)), False),
        (table(U32), table(S32), False),
        (table(U32, struct(("a", 1))), table(U32, struct(("b", 1), ("a", 1))), True),
        (table(U32, struct(("a", 1), ("b", 1))), table(U32, struct(("a", 1))), False),
        (table(U32, struct(("a", 1))), table(U64, struct(("a", 1))), False),
        (table(U32, struct(("a___x", 1))), table(U32, struct(("a", 1), name="s___y")), True),
        (table(U32, struct(("a", 1))), table(U32, struct(("a", 1), name="other")), False),
        (table(Enum("e", 4, False, A_B[:1])), table(Enum("e", 4, False, A_B)), True),
        (table(Enum("e", 4, False, A_B)), table(Enum("e", 4, False, A_B[:1])), False),
        (table(Enum("e", 4, False, A_B)), table(Enum("e", 8, False, A_B, is_wide=True)), False),
        (table(U32, Array(1, 1, 4)), table(U32, Array(1, 1, 4)), True),
        (table(U32, Array(1, 1, 4)), table(U32, Array(1, 1, 5)), False),
        (table(Forward("s")), table(Forward("s")), True),
        (table(Forward("s")), table(Forward("s", is_union=True)), False),
        (table(Forward("s")), table(Struct("s", 4, ())), False),
        (table(Pointer(0)), table(Pointer(0)), True),
        (table(U32, Pointer(0)), table(U32, Pointer(1)), False),
        (table(U32, prototype(1, 1)), table(U32, prototype(1, 1)), True),
        (table(U32, prototype(1, 1)), table(U32, prototype(1)), False),
        (table(U32, prototype(0, 1)), table(U32, prototype(1, 1)), False),
        (table(Float("f", 4)), table(Float("f", 4)), False),  # libbpf has no rule for it
    ],
)
def test_types_match_if_all_that_is_local_is_there(local: Btf, target: Btf, expected: bool) -> None:
    assert matches(local, target) is expected


@pytest.mark.parametrize(
    ("behind", "there", "expected"),
    [
        (Struct("s", 8, (Member("a", 1, 0),)), Struct("s", 0, ()), True),
        (Struct("s", 8, ()), Forward("s"), True),
        (Struct("s", 8, ()), Forward("s", is_union=True), False),
        (Forward("s"), Struct("s", 8, ()), True),
        (Forward("s", is_union=True), Union("s", 8, ()), True),
        (Struct("s", 8, ()), Union("s", 8, ()), False),
        (Struct("s", 8, ()), Struct("other", 8, ()), False),
    ],
)
def test_behind_a_pointer_names_are_enough(behind: BtfType, there: BtfType, expected: bool) -> None:
    assert matches(table(U32, behind, Pointer(2)), table(U32, there, Pointer(2))) is expected


def test_structures_that_point_to_each_other_are_compared() -> None:
    members = (Member("next", 2, 0), Member("value", 3, 64))
    ring = table(Struct("node", 16, members), Pointer(1), U32)

    assert Comparison(ring, ring).matches(1, 1)
