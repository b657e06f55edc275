"""Building tables, and the part of a table that a few types need."""

from __future__ import annotations

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.check import check
from bpfpin.btf.types import (
    Array,
    Enum,
    Enumerator,
    Forward,
    FunctionPrototype,
    Int,
    Member,
    Modifier,
    ModifierKind,
    Pointer,
    Struct,
    Void,
)
from bpfpin.btf.write import BtfBuilder, subset
from support.btf_tables import U8, U32, U64, table


def test_a_string_is_kept_once() -> None:
    builder = BtfBuilder()

    assert builder.add_string("packets") == builder.add_string("packets") == 1
    assert builder.add_string("bytes") == 9
    assert builder.add_string("") == 0


def test_strings_to_start_with_keep_their_offsets() -> None:
    builder = BtfBuilder(strings=b"\0int x;\0main.c\0")
    builder.add(U32)
    built = Btf.parse(builder.build())

    assert (built.string(1), built.string(8)) == ("int x;", "main.c")
    assert builder.add_string("main.c") == 8


def test_void_is_not_stored() -> None:
    with pytest.raises(ValueError, match="void is type 0"):
        BtfBuilder().add(Void())


def test_numbers_without_room_are_refused() -> None:
    far = Struct("far", 1 << 24, (Member("bit", 1, 1 << 24, 1),))

    with pytest.raises(ValueError, match="too far for bit-fields"):
        BtfBuilder().add(far)
    with pytest.raises(ValueError, match="does not fit BTF"):
        BtfBuilder().add(Array(1, 1, 1 << 32))


def test_a_subset_has_only_what_the_types_need() -> None:
    whole = table(
        U8,
        Int("unneeded", 2, 16),
        U64,
        Modifier(ModifierKind.TYPEDEF, "__u64", 3),
        Array(1, 1, 6),
        Struct("flow", 16, (Member("address", 5, 0), Member("bytes", 4, 64))),
        Enum("colour", 4, False, (Enumerator("RED", 0),)),
    )
    data, ids = subset([whole.ref(6), whole.ref(7), whole.ref(6)])
    part = Btf.parse(data)

    assert ids == [1, 2, 1]
    assert part[1] == Struct("flow", 16, (Member("address", 3, 0), Member("bytes", 4, 64)))
    assert part[2] == whole[7]
    assert sorted(part[i].name for i in part.ids()[3:]) == [
        "",
        "__u64",
        "unsigned char",
        "unsigned long long",
    ]


def test_what_pointers_point_to_is_only_declared_in_a_subset() -> None:
    whole = table(
        Struct("node", 24, (Member("next", 2, 0), Member("call", 4, 64), Member("text", 7, 128))),
        Pointer(1),
        FunctionPrototype(0, ()),
        Pointer(3),
        U8,
        Modifier(ModifierKind.CONST, "", 5),
        Pointer(6),
    )
    data, _ = subset([whole.ref(1)])
    part = Btf.parse(data)
    check(part)

    assert [part[i] for i in part.ids()[2:]] == [
        Pointer(5),
        Pointer(0),
        Pointer(6),
        Forward("node"),
        U8,
    ]


def test_a_subset_takes_types_of_several_tables() -> None:
    data, ids = subset([table(U32).ref(1), table(U8, U64).ref(2)])
    part = Btf.parse(data)

    assert [part[i] for i in ids] == [U32, U64]
