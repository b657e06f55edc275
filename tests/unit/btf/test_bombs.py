"""Types that once took a minute or all of the memory; each is read or refused at once."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.compare import differences
from bpfpin.btf.layout import align_of, members
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Enum,
    Enumerator,
    Int,
    Member,
    Modifier,
    ModifierKind,
    Pointer,
    SectionVariable,
    Struct,
    Var,
)
from bpfpin.btf.write import BtfBuilder
from bpfpin.codecs.of_btf import codec
from bpfpin.errors import ObjectFileError, ObjectLimitError
from bpfpin.objfile.reader import read_object
from support.bombs import at_once, map_of, with_types
from support.btf_tables import U32, blob
from support.elf_writer import ElfWriter


def test_arrays_over_towers_of_typedefs_are_measured_in_time() -> None:
    """Each of many arrays asked anew for what 31 levels of 32 qualifiers stand for."""
    builder = BtfBuilder()
    last = builder.add(U32)
    for _ in range(30):
        for _ in range(31):
            last = builder.add(Modifier(ModifierKind.CONST, "", last))
        last = builder.add(Array(last, 1, 1))
    builder.add_encoded(struct.pack("<6I", 0, 3 << 24, 0, last, 1, 1) * 50_000)

    with at_once():
        spec = read_object(with_types(builder.build()))
    assert spec.btf is not None
    assert len(spec.btf) == 1 + 1 + 30 * 32 + 50_000


def test_more_types_than_any_object_has_are_refused() -> None:
    data = with_types(blob(*[Pointer(0)]) + bytes(5 << 20))

    with at_once(0.2), pytest.raises(ObjectLimitError, match="bytes of BTF; at most 4194304"):
        read_object(data)


def doubling(name: str) -> list[BtfType]:
    """Return 29 structures, each twice inside the next: 2^29 bytes."""
    tower: list[BtfType] = [Int("char", 1, 8)]
    for level in range(29):
        size = 1 << level
        two = (Member(name and "a", level + 1, 0), Member(name and "b", level + 1, 8 * size))
        tower.append(Struct("", 2 * size, two))
    return tower


def test_unnamed_structures_that_double_at_every_level_have_no_values() -> None:
    """Their members stand beside each other: there would be 2^29 of them."""
    spec = read_object(map_of(*doubling("")))
    value = spec.maps["flows"].value
    assert value is not None

    with at_once(), pytest.raises(ObjectFileError, match="more than 65536 members"):
        members(value.btf, value.id, flatten=True)


def test_named_structures_that_double_at_every_level_have_a_codec() -> None:
    spec = read_object(map_of(*doubling("x")))
    map_spec = spec.maps["flows"]

    with at_once():
        assert codec(map_spec.value, map_spec.value_size).size == 1 << 29


@pytest.mark.parametrize(
    "types",
    [
        (Var("v", 1),),
        (U32, Struct("s", 4, (Member("v", 3, 0),)), Var("v", 2)),
        (U32, Array(3, 1, 1), Var("v", 1)),
        (U32, Pointer(3), Var("v", 1)),
        (U32, DataSection(".x", 4, ()), Modifier(ModifierKind.CONST, "", 2)),
    ],
    ids=["itself", "member", "element", "pointed to", "qualified"],
)
def test_a_variable_is_no_type_of_anything(types: tuple[BtfType, ...]) -> None:
    """One of its own type passed the check, and had no alignment."""
    with pytest.raises(ObjectFileError, match="which no value can have"):
        read_object(with_types(blob(*types)))


def test_what_is_believed_has_an_alignment() -> None:
    spec = read_object(with_types(blob(U32, Var("v", 1), DataSection(".data", 0, ()))))

    assert spec.btf is not None
    assert [align_of(spec.btf, i) for i in spec.btf.ids()] == [1, 4, 4, 1]


def place(value: int, size: int, *, section_size: int = 16) -> bytes:
    """Return an object whose one variable the BTF puts there."""
    elf = ElfWriter()
    elf.section(".data", bytes(section_size))
    variable = SectionVariable(2, value, size)
    elf.section(".BTF", blob(U32, Var("v", 1), DataSection(".data", section_size, (variable,))))
    return elf.build()


@pytest.mark.parametrize("offset", [13, 16, 0x7FFFFFFF, 0xFFFFFFFC, 0xFFFFFFFF])
def test_a_variable_outside_its_section_is_none(offset: int) -> None:
    """The sum of offset and size must not wrap."""
    assert read_object(place(offset, 4)).variables == {}


def test_a_variable_at_the_end_of_its_section_is_there() -> None:
    assert read_object(place(12, 4)).variables["v"].value == 0


BOMBS: dict[str, Callable[[], list[BtfType]]] = {
    "typedef of itself": lambda: [Modifier(ModifierKind.TYPEDEF, "t", 1)],
    "typedefs in a ring": lambda: [
        Modifier(ModifierKind.TYPEDEF, "a", 2),
        Modifier(ModifierKind.CONST, "", 1),
    ],
    "structure in itself": lambda: [Struct("s", 4, (Member("s", 1, 0),))],
    "structures in each other": lambda: [
        Struct("s", 4, (Member("t", 2, 0),)),
        Struct("t", 4, (Member("s", 1, 0),)),
    ],
    "array of itself": lambda: [Array(1, 1, 1)],
    "array in a structure in it": lambda: [Struct("s", 4, (Member("a", 2, 0),)), Array(1, 1, 1)],
    "arrays of 2^30 fold": lambda: [U32, *[Array(at, 1, 8) for at in range(1, 11)]],
    "array of 2^32 - 1 words": lambda: [U32, Array(1, 1, 0xFFFFFFFF)],
    "structures nested too deep": lambda: [
        U32,
        *[Struct(f"s{at}", 4, (Member("m", at, 0),)) for at in range(1, 40)],
    ],
    "empty structures of 2^30 fold": lambda: [
        Struct("", 0, ()),
        *[Struct("", 0, (Member("a", at, 0), Member("b", at, 0))) for at in range(1, 31)],
    ],
    "member of a type that is not there": lambda: [Struct("s", 4, (Member("m", 0xFFFFFFFF, 0),))],
    "member behind the end": lambda: [U32, Struct("s", 4, (Member("m", 1, 0xFFFFFFFF),))],
    "enumeration of 2^32 - 1 bytes": lambda: [Enum("e", 0xFFFFFFFF, False, (Enumerator("A", 1),))],
    "integer of 255 bits": lambda: [Int("i", 4, 255)],
}


@pytest.mark.parametrize("types", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_of_types_is_refused(types: Callable[[], list[BtfType]]) -> None:
    data = with_types(blob(*types()))

    with at_once(0.1), pytest.raises(ObjectFileError):
        read_object(data)


def test_an_enumeration_with_two_values_of_one_name_is_like_itself() -> None:
    twice = (Enumerator("A", 1), Enumerator("A", 2))
    spec = read_object(with_types(blob(Enum("e", 4, False, twice))))
    assert spec.btf is not None

    assert differences(spec.btf.ref(1), spec.btf.ref(1)) == []


def test_long_chains_of_pointers_are_read() -> None:
    builder = BtfBuilder()
    for target in range(100_000):
        builder.add(Pointer(target))
    with at_once():
        spec = read_object(with_types(builder.build()))

    assert isinstance(spec.btf, Btf)
