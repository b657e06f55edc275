"""Names of types: by flavour, by tail, in a table that goes on from another."""

from __future__ import annotations

import pytest

from bpfpin.btf.btf import Btf, blob
from bpfpin.btf.names import essential_name
from bpfpin.btf.types import Forward, Int, Modifier, ModifierKind, Struct
from bpfpin.btf.write import BtfBuilder, encode
from support.btf_tables import U32, table


@pytest.mark.parametrize(
    ("name", "essential"),
    [
        ("task_struct", "task_struct"),
        ("task_struct___old", "task_struct"),
        ("task_struct___old___x", "task_struct___old"),
        ("a____b", "a____b"),
        ("a___b", "a"),
        ("___a", "___a"),
        ("a___", "a___"),
        ("a__b", "a__b"),
        ("", ""),
    ],
)
def test_a_flavour_is_what_follows_three_underscores(name: str, essential: str) -> None:
    assert essential_name(name) == essential


def test_flavours_are_found_with_the_plain_name() -> None:
    btf = table(
        Struct("a___old", 0, ()), U32, Struct("a", 0, ()), Forward("ba"), Struct("a___b", 0, ())
    )

    assert btf.flavours("a") == [1, 3, 5]
    assert btf.flavours("ba") == [4]
    assert btf.flavours("nothing") == []
    assert btf.flavours("") == []


def test_types_of_one_name_are_all_found() -> None:
    btf = table(Struct("a", 0, ()), Modifier(ModifierKind.TYPEDEF, "a", 1), Struct("a", 4, ()))

    assert btf.flavours("a") == [1, 2, 3]


@pytest.mark.parametrize("searches", [1, 40])
def test_names_that_are_tails_of_others_are_found(searches: int) -> None:
    """A table whose second type is called by the end of the first one's name."""
    strings = b"\0longname\0"
    data = encode(Int("", 4, 32), lambda _: 1) + encode(Int("", 4, 32), lambda _: 5)
    btf = Btf.parse(blob(data, strings))
    ids = [btf.flavours(name) for name in ["name", "longname", "ongname"] * searches]

    assert ids == [[2], [1], []] * searches


@pytest.mark.parametrize("searches", [1, 40])
def test_many_searches_find_what_one_finds(searches: int) -> None:
    btf = table(*(Struct(f"s{number}", number, ()) for number in range(8)))
    ids = [btf.flavours(f"s{number}") for _ in range(searches) for number in range(9)]

    assert ids == [[1], [2], [3], [4], [5], [6], [7], [8], []] * searches


@pytest.mark.parametrize("searches", [1, 40])
def test_a_modules_type_may_be_called_by_a_string_of_the_kernels(searches: int) -> None:
    """`shared` stands in the base's strings, where no type has it, and `own` in the module's."""
    base = Btf.parse(BtfBuilder(strings=b"\0shared\0shared___x\0").build())
    places = iter([1, 8, 19])
    data = b"".join(encode(Struct("", 0, ()), lambda _: next(places)) for _ in range(3))
    module = Btf.parse(blob(data, b"own\0"), base=base)
    ids = [(module.flavours("shared"), module.flavours("own")) for _ in range(searches)]

    assert ids == [([1, 2], [3])] * searches
    assert module.find("shared") == 1
