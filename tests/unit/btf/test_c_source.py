"""Types as one line of C."""

from __future__ import annotations

import pytest

from bpfpin.btf.c_source import c_type, declaration
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Enum,
    Enumerator,
    Float,
    Forward,
    FunctionPrototype,
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
from support.btf_tables import U8, U32, U64, table


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (U32, "u32 x"),
        (Int("long", 8, 64, IntEncoding.SIGNED), "s64 x"),
        (Int("_Bool", 1, 8, IntEncoding.BOOL), "bool x"),
        (Int("char", 1, 8, IntEncoding.SIGNED), "char x"),
        (Float("double", 8), "double x"),
        (Array(1, 1, 6), "u8 x[6]"),
        (Array(3, 1, 2), "u8 x[2][6]"),
        (Pointer(0), "void *x"),
        (Pointer(5), "struct datarec *x"),
        (Pointer(6), "struct datarec **x"),
        (Pointer(7), "function *x"),
        (Forward("elsewhere", is_union=True), "union elsewhere x"),
        (Modifier(ModifierKind.CONST, "", 2), "u64 x"),
        (
            Enum("colour", 4, True, (Enumerator("RED", -1), Enumerator("BLUE", 2))),
            "enum colour { RED = -1, BLUE = 2 } x",
        ),
        (Struct("", 0, ()), "struct { } x"),
        (
            Union("either", 8, (Member("flag", 1, 0, 3), Member("stats", 5, 0))),
            "union either { u8 flag : 3; "
            "struct datarec { u64 rx_packets; u64 rx_bytes; } stats; } x",
        ),
        (DataSection(".bss", 8, (SectionVariable(8, 0, 8),)), "section .bss { u64 total; } x"),
    ],
)
def test_a_declaration_tells_the_type_in_one_line(kind: BtfType, text: str) -> None:
    datarec = Struct("datarec", 16, (Member("rx_packets", 4, 0), Member("rx_bytes", 4, 64)))
    typedef = Modifier(ModifierKind.TYPEDEF, "__u64", 2)
    others = (FunctionPrototype(0, ()), Var("total", 2))
    read = table(U8, U64, Array(1, 1, 6), typedef, datarec, Pointer(5), *others, kind)

    assert declaration(read.ref(9), "x") == text


def test_a_type_has_no_name_of_a_variable() -> None:
    read = table(U8, Array(1, 1, 6), Pointer(1))

    assert [c_type(read.ref(i)) for i in (1, 2, 3)] == ["u8", "u8[6]", "u8 *"]


def test_a_type_that_doubles_at_each_level_is_cut() -> None:
    doubling = [Union(f"level{i}", 4, (Member("a", i, 0), Member("b", i, 0))) for i in range(1, 31)]
    text = c_type(table(U32, *doubling).ref(31))

    assert len(text) < 10_000
    assert "…" in text


def test_many_enumerators_are_cut() -> None:
    text = c_type(table(Enum("many", 4, False, (Enumerator("SAME", 1),) * 1000)).ref(1))

    assert text.endswith("SAME = 1, … }")
    assert text.count("SAME") == 256
