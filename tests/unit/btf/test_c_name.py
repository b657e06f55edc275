"""How types are named in C, and which ones have no name."""

from __future__ import annotations

from bpfpin.btf.btf import Btf
from bpfpin.btf.c_source import c_name
from bpfpin.btf.types import (
    Array,
    BtfType,
    Enum,
    Float,
    FunctionPrototype,
    Int,
    Modifier,
    ModifierKind,
    Pointer,
    Struct,
    Union,
)
from bpfpin.btf.write import BtfBuilder

VOID = 0


def name_of(*types: BtfType) -> str | None:
    """Return what the last of *types* is called; they are numbered from 1 on."""
    builder = BtfBuilder()
    for kind in types:
        builder.add(kind)
    return c_name(Btf.parse(builder.build()).ref(len(types)))


U32 = Int("unsigned int", 4, 32)
ALIAS = Modifier(ModifierKind.TYPEDEF, "__u32", 1)


def test_a_typedef_keeps_its_name_and_qualifiers_go() -> None:
    assert name_of(U32) == "unsigned int"
    assert name_of(U32, ALIAS) == "__u32"
    assert name_of(U32, ALIAS, Modifier(ModifierKind.CONST, "", 2)) == "__u32"
    assert name_of(Float("double", 8)) == "double"


def test_structures_are_named_and_not_spelled_out() -> None:
    assert name_of(Struct("datarec", 16, ())) == "struct datarec"
    assert name_of(Union("address", 16, ())) == "union address"
    assert name_of(Enum("verdict", 4, False, ())) == "enum verdict"


def test_the_first_of_two_brackets_is_the_outer_array() -> None:
    """In C, `u32 x[2][3]` are two arrays of three."""
    assert name_of(U32, Array(1, 1, 3), Array(2, 1, 2)) == "unsigned int[2][3]"


def test_pointers_are_those_that_c_writes_with_stars_alone() -> None:
    assert name_of(Pointer(VOID)) == "void *"
    assert name_of(U32, Pointer(1), Pointer(2)) == "unsigned int **"
    assert name_of(U32, Pointer(1), Array(2, 1, 4)) == "unsigned int *[4]"
    assert name_of(U32, Array(1, 1, 4), Pointer(2)) is None
    assert name_of(FunctionPrototype(VOID, ()), Pointer(1)) is None


def test_what_has_no_name_or_no_name_in_c_has_none() -> None:
    assert name_of(Struct("", 16, ())) is None
    assert name_of(Struct("", 4, ()), Array(1, 1, 4)) is None
    assert name_of(Struct("a; } evil", 4, ())) is None
    assert name_of(Int("int */", 4, 32)) is None
