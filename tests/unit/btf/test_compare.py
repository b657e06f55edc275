"""What counts as a difference between two layouts."""

from __future__ import annotations

import pytest

from bpfpin.btf.compare import differences
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Enum,
    Enumerator,
    Int,
    IntEncoding,
    Member,
    Modifier,
    ModifierKind,
    Pointer,
    SectionVariable,
    Struct,
    Union,
    Var,
)
from support.btf_tables import S32, U8, U32, U64, table

PAIR = Struct("pair", 16, (Member("packets", 1, 0), Member("bytes", 2, 64)))


NEGATIVE = Enum("e", 4, True, (Enumerator("ZERO", 0), Enumerator("LOW", -3)))
NEGATIVE_OF_CLANG_14 = Enum("e", 4, False, (Enumerator("ZERO", 0), Enumerator("LOW", 0xFFFFFFFD)))
WIDE = Enum(
    "wide", 8, True, (Enumerator("HIGH", 0x123456789ABC), Enumerator("LOW", -1)), is_wide=True
)
WIDE_OF_CLANG_14 = Enum(
    "wide", 8, False, (Enumerator("HIGH", 0x56789ABC), Enumerator("LOW", 0xFFFFFFFF))
)


def compared(old: BtfType, new: BtfType) -> list[tuple[str, str, str]]:
    """Compare two types that may refer to u64 by 1 and 2, to s32 by 3 and to u32 by 4."""
    common = (U64, Modifier(ModifierKind.TYPEDEF, "__u64", 1), S32, U32)
    return differences(table(*common, old).ref(5), table(*common, new).ref(5))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (PAIR, PAIR),
        (PAIR, Struct("other_name", 16, (Member("packets", 2, 0), Member("bytes", 1, 64)))),
        (U64, Modifier(ModifierKind.TYPEDEF, "__u64", 1)),
        (Int("unsigned long", 8, 64), U64),
        (U8, Int("_Bool", 1, 8, IntEncoding.BOOL)),
        (Pointer(1), Pointer(3)),
        (U32, Enum("colour", 4, False, (Enumerator("RED", 0),))),
        (
            Enum("colour", 4, False, (Enumerator("RED", 0),)),
            Enum("colour", 4, False, (Enumerator("RED", 0), Enumerator("BLUE", 1))),
        ),
        (NEGATIVE_OF_CLANG_14, NEGATIVE),
        (NEGATIVE, NEGATIVE_OF_CLANG_14),
        (WIDE_OF_CLANG_14, WIDE),
        (WIDE, WIDE_OF_CLANG_14),
        (NEGATIVE_OF_CLANG_14, Enum("e", 4, True, (*NEGATIVE.values, Enumerator("NEW", 7)))),
        (
            Enum("packed", 1, False, (Enumerator("LOW", 0xFFFFFFFF),)),
            Enum("packed", 1, True, (Enumerator("LOW", -1),)),
        ),
    ],
)
def test_what_reads_the_same_is_no_difference(old: BtfType, new: BtfType) -> None:
    assert compared(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (U64, S32, [("", "u64", "s32")]),
        (
            NEGATIVE,
            Enum("e", 4, True, (Enumerator("ZERO", 0), Enumerator("LOW", -2))),
            [("", "enum e { ZERO = 0, LOW = -3 }", "enum e { ZERO = 0, LOW = -2 }")],
        ),
        (
            WIDE,
            Enum("wide", 8, True, (Enumerator("HIGH", 1 << 40), WIDE.values[1]), is_wide=True),
            [
                (
                    "",
                    "enum wide { HIGH = 20015998343868, LOW = -1 }",
                    "enum wide { HIGH = 1099511627776, LOW = -1 }",
                )
            ],
        ),
        (S32, U32, [("", "s32", "u32")]),
        (Array(1, 1, 4), Array(1, 1, 5), [("", "u64[4]", "u64[5]")]),
        (Array(1, 1, 4), Array(3, 1, 4), [("[]", "u64", "s32")]),
        (Struct("a", 0, ()), Union("a", 0, ()), [("", "struct a { }", "union a { }")]),
        (
            PAIR,
            Struct("pair", 16, (Member("bytes", 2, 0), Member("packets", 1, 64))),
            [("packets", "at byte 0", "at byte 8"), ("bytes", "at byte 8", "at byte 0")],
        ),
        (
            PAIR,
            Struct("pair", 24, (Member("frames", 1, 0), Member("bytes", 2, 64))),
            [("packets", "u64 at byte 0", "none"), ("frames", "none", "u64 at byte 0")],
        ),
        (PAIR, Struct("pair", 24, PAIR.members), [("", "16 bytes", "24 bytes")]),
        (
            PAIR,
            Struct("pair", 16, (Member("packets", 1, 0), Member("bytes", 3, 64))),
            [("bytes", "u64", "s32")],
        ),
        (
            Struct("bits", 4, (Member("a", 4, 0, 3),)),
            Struct("bits", 4, (Member("a", 4, 1, 4),)),
            [("a", "at byte 0, 3 bits", "at byte 0 bit 1, 4 bits")],
        ),
        (
            Enum("colour", 4, False, (Enumerator("RED", 0),)),
            Enum("colour", 4, False, (Enumerator("RED", 1),)),
            [("", "enum colour { RED = 0 }", "enum colour { RED = 1 }")],
        ),
    ],
)
def test_what_reads_differently_is_told(
    old: BtfType, new: BtfType, found: list[tuple[str, str, str]]
) -> None:
    assert compared(old, new) == found


def test_a_difference_deep_inside_carries_its_path() -> None:
    outer = (
        Struct("inner", 8, (Member("count", 1, 0),)),
        Array(2, 1, 3),
        Struct("outer", 24, (Member("slots", 3, 0),)),
    )
    old, new = table(U64, *outer), table(Int("long", 8, 64, IntEncoding.SIGNED), *outer)

    assert differences(old.ref(4), new.ref(4)) == [("slots[].count", "u64", "s64")]


def test_unnamed_members_count_as_members_of_the_outer_one() -> None:
    flat = table(U32, Struct("s", 4, (Member("a", 1, 0),)))
    wrapped = table(U32, Union("", 4, (Member("a", 1, 0),)), Struct("s", 4, (Member("", 2, 0),)))

    assert differences(flat.ref(2), wrapped.ref(3)) == []


def test_variables_of_a_data_section_are_compared_by_name() -> None:
    def data(offset: int) -> DataSection:
        return DataSection(".data", 8, (SectionVariable(2, offset, 4),))

    old = table(U32, Var("limit", 1), data(0)).ref(3)
    new = table(U32, Var("limit", 1), data(4)).ref(3)

    assert differences(old, new) == [("limit", "at byte 0", "at byte 4")]


def test_nothing_is_known_without_a_type() -> None:
    assert differences(None, table(U32).ref(1)) == []
    assert differences(table(U32).ref(1), None) == []


def test_a_type_that_refers_to_itself_is_compared_once() -> None:
    node = table(Struct("node", 8, (Member("next", 2, 0),)), Pointer(1))
    endless = table(Struct("endless", 8, (Member("again", 1, 0),)))

    assert differences(node.ref(1), node.ref(1)) == []
    assert differences(endless.ref(1), endless.ref(1)) == []
