"""Reading a table of types and finding them in it."""

from __future__ import annotations

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    DeclTag,
    Enum,
    Enumerator,
    Float,
    Forward,
    Function,
    FunctionPrototype,
    Int,
    IntEncoding,
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
    Void,
)
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import ObjectFileError
from support.btf_tables import U32, U64, blob, table

ONE_OF_EACH: tuple[BtfType, ...] = (
    Int("flag", 1, 8, IntEncoding.BOOL),
    Int("part", 4, 3, IntEncoding.SIGNED, bit_offset=5),
    Float("double", 8),
    Pointer(1),
    Array(1, 2, 7),
    Struct("pair", 8, (Member("a", 1, 0), Member("", 2, 32))),
    Struct("bits", 4, (Member("low", 2, 0, 3), Member("high", 2, 3, 29))),
    Union("either", 8, (Member("a", 1, 0), Member("b", 3, 0))),
    Enum("colour", 4, False, (Enumerator("RED", 0), Enumerator("BLUE", 0xFFFFFFFF))),
    Enum("change", 4, True, (Enumerator("DOWN", -1),)),
    Enum("wide", 8, False, (Enumerator("ALL", 0xFFFFFFFFFFFFFFFF),), is_wide=True),
    Enum("far", 8, True, (Enumerator("LOW", -(1 << 40)),), is_wide=True),
    Forward("elsewhere"),
    Forward("either_elsewhere", is_union=True),
    *(Modifier(kind, f"n{kind}" if kind in {8, 18} else "", 1) for kind in ModifierKind),
    FunctionPrototype(1, (Parameter("first", 2), Parameter("", 0))),
    Function("main", 20, Linkage.GLOBAL),
    Var("counter", 1, Linkage.EXTERN),
    DataSection(".bss", 16, (SectionVariable(22, 8, 1),)),
    DeclTag("user", 6, 1),
    DeclTag("kernel", 6),
)


def test_every_kind_is_read_as_it_was_written() -> None:
    read = table(*ONE_OF_EACH)

    assert tuple(read[type_id] for type_id in read.ids()) == (Void(), *ONE_OF_EACH)
    assert len(read) == len(ONE_OF_EACH) + 1


def test_a_table_gives_back_its_bytes() -> None:
    data = blob(*ONE_OF_EACH)

    assert Btf.parse(data).to_bytes() == data


def test_a_longer_header_is_read_and_left_out_of_what_the_kernel_gets() -> None:
    data = blob(U32)
    longer = data[:4] + (32).to_bytes(4, "little") + data[8:24] + bytes(8) + data[24:]

    assert Btf.parse(longer).to_bytes() == data


def test_find_takes_the_first_of_the_kinds_asked_for() -> None:
    read = table(Modifier(ModifierKind.TYPEDEF, "size", 2), Int("size", 4, 32), Int("size", 8, 64))

    assert read.find("size") == 1
    assert read.find("size", Int, Float) == 2
    assert read.find("size", Struct) is None
    assert read.find("") is None


def test_find_knows_a_name_that_is_the_tail_of_a_longer_one() -> None:
    builder = BtfBuilder(strings=b"\0rx_packets\0")
    builder.add(U32)
    encoded = Btf.parse(builder.build()).encoded(1)
    tail = BtfBuilder(strings=b"\0rx_packets\0")
    tail.add_encoded((4).to_bytes(4, "little") + encoded[4:])

    assert Btf.parse(tail.build()).find("packets") == 1


def test_a_table_goes_on_where_its_base_ends() -> None:
    base = table(U32)
    builder = BtfBuilder(strings=b"")
    builder.add(Pointer(1))
    own = Btf.parse(builder.build(), base=base)

    assert own.ids() == range(3)
    assert (own[1], own[2]) == (U32, Pointer(1))
    assert own.find("unsigned int") == 1


def test_strip_goes_past_typedefs_and_qualifiers() -> None:
    read = table(
        U32, Modifier(ModifierKind.TYPEDEF, "__u32", 1), Modifier(ModifierKind.CONST, "", 2)
    )

    assert read.strip(3) == 1
    assert read.strip(0) == 0


def test_a_ref_tells_type_name_and_size() -> None:
    read = table(U64, Modifier(ModifierKind.TYPEDEF, "__u64", 1))
    ref = read.ref(2)

    assert (ref.name, ref.size, ref.stripped) == ("__u64", 8, U64)
    assert ref.type == Modifier(ModifierKind.TYPEDEF, "__u64", 1)
    assert ref == read.ref(2)
    assert ref != table(U64, Modifier(ModifierKind.TYPEDEF, "__u64", 1)).ref(2)
    assert repr(ref) == "TypeRef(id=2)"


@pytest.mark.parametrize("type_id", [-1, 2, 1 << 32])
def test_a_type_that_is_not_there_is_malformed(type_id: int) -> None:
    with pytest.raises(ObjectFileError, match=rf"no type {type_id}; there are 2"):
        table(U32)[type_id]


def test_a_name_that_is_not_utf_8_is_shown_escaped() -> None:
    data = blob(U32).replace(b"unsigned int", b"unsigned \xff\xfet")

    assert Btf.parse(data)[1].name == "unsigned \\xff\\xfet"


@pytest.mark.parametrize("strings", [b"\0size\0", b"\0size\0\xff\0", b"\0size\0" + bytes(1 << 17)])
def test_a_string_reads_the_same_whatever_else_the_section_holds(strings: bytes) -> None:
    read = Btf.parse(BtfBuilder(strings=strings).build())

    assert [read.string(offset) for offset in (0, 1, 3)] == ["", "size", "ze"]
    with pytest.raises(ObjectFileError, match="there is no string"):
        read.string(len(strings))
