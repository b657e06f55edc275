"""Which tables can be believed."""

from __future__ import annotations

import pytest

from bpfpin.btf.check import check
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Enum,
    Float,
    Forward,
    Function,
    FunctionPrototype,
    Int,
    Linkage,
    Member,
    Modifier,
    ModifierKind,
    Parameter,
    Pointer,
    SectionVariable,
    Struct,
    Union,
    Var,
)
from bpfpin.errors import ObjectFileError
from support.btf_tables import S32, U8, U32, U64, table

TYPEDEF = ModifierKind.TYPEDEF


@pytest.mark.parametrize(
    "kinds",
    [
        (Struct("node", 8, (Member("next", 2, 0),)), Pointer(1)),
        (Pointer(1),),
        (U32, Struct("bits", 4, (Member("a", 1, 0, 31), Member("b", 1, 31, 1)))),
        (Int("old_bits", 4, 3), Struct("bits", 1, (Member("a", 1, 5),))),
        (U8, Struct("flexible", 0, (Member("tail", 3, 0),)), Array(1, 1, 0)),
        (Forward("elsewhere"), Var("extern", 1, Linkage.EXTERN)),
        (
            Var("untyped", 0, Linkage.EXTERN),
            DataSection(".ksyms", 0, (SectionVariable(1, 0, 0),)),
        ),
        (FunctionPrototype(0, (Parameter("", 0),)), Function("variadic", 1)),
        (U8, Array(1, 1, 0xFFFFFFFF)),
    ],
)
def test_what_c_can_say_is_believed(kinds: tuple[BtfType, ...]) -> None:
    check(table(*kinds))


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ((Pointer(2),), "refers to type 2 of 2"),
        ((FunctionPrototype(9, ()),), "refers to type 9 of 2"),
        ((FunctionPrototype(0, (Parameter("a", 9),)),), "refers to type 9 of 2"),
        ((Modifier(TYPEDEF, "loop", 1),), "or a cycle"),
        ((Modifier(TYPEDEF, "a", 2), Modifier(TYPEDEF, "b", 1)), "or a cycle"),
        ((Array(1, 1, 1),), "nested more than 32"),
        ((Struct("self", 8, (Member("again", 1, 0),)),), "'self'.* inside itself"),
        (
            (Struct("a", 8, (Member("b", 2, 0),)), Union("b", 8, (Member("a", 1, 0),))),
            "inside itself",
        ),
        ((U32, Struct("short", 4, (Member("late", 1, 1),))), "'late' exceeds its 4 bytes"),
        ((U32, Struct("short", 4, (Member("late", 1, 0xFFFFFFFF),))), "exceeds its 4 bytes"),
        ((U32, Struct("wide", 8, (Member("bits", 1, 0, 33),))), "'bits' has 33 bits"),
        ((Struct("", 0, ()), Struct("s", 8, (Member("m", 1, 3),))), "start at a byte"),
        ((Struct("s", 8, (Member("nothing", 0, 0),)),), "no size"),
        ((Array(0, 0, 5),), "no size"),
        ((U64, Array(1, 1, 1 << 29)), "4 GiB"),
        ((Int("odd", 3, 24),), "24 bits at 0 in 3 bytes"),
        ((Int("long", 4, 33),), "33 bits"),
        ((Enum("odd", 3, False, ()),), "takes 3 bytes"),
        ((Float("odd", 5),), "takes 5 bytes"),
        ((U32, Function("main", 1)), "not a prototype"),
        ((U32, DataSection(".data", 4, (SectionVariable(1, 0, 4),))), "not a variable"),
    ],
)
def test_what_cannot_be_is_refused(kinds: tuple[BtfType, ...], message: str) -> None:
    with pytest.raises(ObjectFileError, match=message) as caught:
        check(table(*kinds))

    assert caught.value.section == ".BTF"


def test_nesting_is_believed_up_to_the_depth_of_the_kernel() -> None:
    def nested(depth: int) -> list[BtfType]:
        return [Struct(f"s{i}", 4, (Member("m", i, 0),)) for i in range(1, depth + 1)]

    check(table(S32, *nested(32)))

    with pytest.raises(ObjectFileError, match="nested more than 32 deep"):
        check(table(S32, *nested(33)))


def test_a_value_of_more_parts_than_bytes_is_refused() -> None:
    doubling = [Union(f"level{i}", 4, (Member("a", i, 0), Member("b", i, 0))) for i in range(1, 31)]

    with pytest.raises(ObjectFileError, match=r"has \d+ values in 4 bytes"):
        check(table(U32, *doubling))
    with pytest.raises(ObjectFileError, match=r"has 4294967295 values in 0 bytes"):
        check(table(Struct("", 0, ()), Array(1, 1, 0xFFFFFFFF)))
