"""A type taken apart into numbers."""

from __future__ import annotations

import pytest

from bpfpin.btf.types import Enum, Enumerator, Int, Member, Struct, Union
from bpfpin.errors import LimitError
from bpfpin.migration.members import LEAVES_MAX, LeafKind, kernel_owned_leaves, leaves
from support.btf_tables import U32, U64, table
from support.layouts import Field, struct_of


def shape_of(*fields: Field) -> list[tuple[str, int, int]]:
    made = struct_of(fields)
    return [(one.path, one.place.offset, one.place.size) for one in leaves(made, made.size)]


def test_members_are_told_with_their_places_and_padding_is_none() -> None:
    fields = Field("kind", "u8"), Field("packets", "u64"), Field("port", "u16")

    assert shape_of(*fields) == [("kind", 0, 1), ("packets", 8, 8), ("port", 16, 2)]


def test_elements_of_arrays_are_parts_and_text_is_one() -> None:
    fields = Field("slots", "u32", 2), Field("name", "char", 6)

    assert shape_of(*fields) == [("slots[0]", 0, 4), ("slots[1]", 4, 4), ("name", 8, 6)]


def test_signs_are_known() -> None:
    made = struct_of([Field("delta", "s16"), Field("count", "u16")])

    assert [one.place.is_signed for one in leaves(made, 4)] == [True, False]


def test_nested_structures_are_named_as_in_c() -> None:
    inner = Struct("pair", 8, (Member("low", 1, 0), Member("high", 1, 32)))
    outer = Struct("value", 12, (Member("both", 2, 0), Member("last", 1, 64)))

    assert [one.path for one in leaves(table(U32, inner, outer).ref(3), 12)] == [
        "both.low",
        "both.high",
        "last",
    ]


def test_enumerations_are_known_by_name() -> None:
    kind = Enum("verdict", 4, False, (Enumerator("PASS", 0), Enumerator("DROP", 1)))
    (leaf,) = leaves(table(kind).ref(1), 4)

    assert (leaf.kind, leaf.values) == (LeafKind.ENUM, (("PASS", 0), ("DROP", 1)))


def test_members_of_an_unnamed_union_are_one_opaque_part() -> None:
    either = Union("", 8, (Member("address", 1, 0), Member("number", 2, 0)))
    made = table(U32, U64, either, Struct("value", 8, (Member("", 3, 0),)))
    (leaf,) = leaves(made.ref(4), 8)

    assert (leaf.kind, leaf.place.size) == (LeafKind.OPAQUE, 8)


def test_bit_fields_beside_each_other_are_one_opaque_part() -> None:
    bits = Struct(
        "value",
        4,
        (Member("low", 1, 0, 3), Member("high", 1, 3, 5)),
    )
    (leaf,) = leaves(table(U32, bits).ref(2), 4)

    assert (leaf.path, leaf.kind) == ("low|high", LeafKind.OPAQUE)


def test_a_lock_is_no_part_of_a_value() -> None:
    lock = Struct("bpf_spin_lock", 4, (Member("val", 1, 0),))
    value = Struct("value", 8, (Member("lock", 2, 0), Member("count", 1, 32)))
    made = table(U32, lock, value).ref(3)

    assert [one.path for one in leaves(made, 8)] == ["count"]
    assert [one.path for one in kernel_owned_leaves(made)] == ["lock"]


def test_a_timer_is_the_kernels_own_and_no_lock() -> None:
    timer = Struct("bpf_timer", 16, (Member("opaque", 1, 0), Member("more", 1, 64)))
    made = table(Int("u64", 8, 64), timer).ref(2)

    assert len(kernel_owned_leaves(made)) == 1


def test_a_value_without_a_type_is_one_opaque_part() -> None:
    (leaf,) = leaves(None, 24)

    assert (leaf.path, leaf.kind, leaf.place.size) == ("", LeafKind.OPAQUE, 24)


def test_too_many_numbers_are_refused() -> None:
    made = struct_of([Field("slots", "u8", LEAVES_MAX + 1)])

    with pytest.raises(LimitError, match="too many"):
        leaves(made, made.size)
