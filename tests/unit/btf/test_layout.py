"""Sizes, alignments and places of members."""

from __future__ import annotations

import pytest

from bpfpin.btf.layout import MemberLayout, align_of, members, size_of
from bpfpin.btf.types import (
    Array,
    BtfType,
    Enum,
    Float,
    Forward,
    Member,
    Modifier,
    ModifierKind,
    Pointer,
    Struct,
    Union,
    Var,
)
from bpfpin.errors import ObjectFileError
from support.btf_tables import U8, U32, U64, table


@pytest.mark.parametrize(
    ("kind", "size", "alignment"),
    [
        (U32, 4, 4),
        (U64, 8, 8),
        (Pointer(1), 8, 8),
        (Float("double", 8), 8, 8),
        (Enum("colour", 4, False, ()), 4, 4),
        (Array(1, 1, 6), 6, 1),
        (Array(2, 1, 6), 48, 8),
        (Array(2, 1, 0), 0, 8),
        (Struct("aligned", 16, (Member("a", 1, 0), Member("b", 2, 64))), 16, 8),
        (Struct("packed", 9, (Member("a", 1, 0), Member("b", 2, 8))), 9, 1),
        (Struct("empty", 0, ()), 0, 1),
        (Modifier(ModifierKind.CONST, "", 2), 8, 8),
        (Var("counter", 2), 8, 8),
    ],
)
def test_size_and_alignment_are_those_of_c(kind: BtfType, size: int, alignment: int) -> None:
    read = table(U8, U64, kind)

    assert (size_of(read, 3), align_of(read, 3)) == (size, alignment)


def test_an_array_of_arrays_takes_the_product() -> None:
    assert size_of(table(U32, Array(1, 1, 5), Array(2, 1, 3)), 3) == 60


@pytest.mark.parametrize("type_id", [0, 1])
def test_void_and_declarations_have_no_size(type_id: int) -> None:
    with pytest.raises(ObjectFileError, match="has no size"):
        size_of(table(Forward("elsewhere")), type_id)


def test_an_array_of_four_gigabytes_is_malformed() -> None:
    with pytest.raises(ObjectFileError, match="4 GiB"):
        size_of(table(U32, Array(1, 1, 1 << 30)), 2)


def test_members_of_unnamed_members_are_put_in_their_place() -> None:
    read = table(
        U32,
        Struct("", 8, (Member("a", 1, 0), Member("b", 1, 32, 7))),
        Union("", 8, (Member("", 2, 0), Member("c", 1, 0))),
        Struct("outer", 12, (Member("first", 1, 0), Member("", 3, 32))),
    )

    assert members(read, 4, flatten=True) == [
        MemberLayout("first", 1, 0),
        MemberLayout("a", 1, 32),
        MemberLayout("b", 1, 64, 7),
        MemberLayout("c", 1, 32),
    ]
    assert members(read, 4) == [MemberLayout("first", 1, 0), MemberLayout("", 3, 32)]


def test_an_integer_has_no_members() -> None:
    with pytest.raises(ObjectFileError, match="has no members"):
        members(table(U32), 1)
