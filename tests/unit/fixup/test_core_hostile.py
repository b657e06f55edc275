"""CO-RE: malformed relocations and tables that would take for ever are refused at once."""

from __future__ import annotations

import struct
from random import Random

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.ext import BtfExt
from bpfpin.btf.types import (
    Array,
    BtfType,
    Enum,
    Enumerator,
    FunctionPrototype,
    Member,
    Modifier,
    ModifierKind,
    Parameter,
    Pointer,
    Struct,
)
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import ObjectFileError
from bpfpin.fixup.core import relocate
from bpfpin.insn import exit_, mov_imm
from bpfpin.objfile.reader import read_object
from bpfpin.spec import CoreRelocation
from bpfpin.uapi import CoreRelocationKind as Kind
from support.bombs import at_once
from support.btf_tables import U32, section_of, table
from support.core import answer, object_of, target_of
from support.elf_writer import ElfWriter
from support.objects import COMPILERS, compiled

LOCAL = table(
    U32,
    Array(1, 1, 4),
    Struct("s", 20, (Member("x", 1, 0), Member("data", 2, 32))),
    Enum("e", 4, False, (Enumerator("A", 1),)),
    Pointer(3),
)


@pytest.mark.parametrize(
    "access",
    [
        "",
        ":",
        "0:",
        ":0",
        "0::1",
        "-1",
        "0:-1",
        "0:x",
        "0 :1",
        "+0",
        "0:99999999",
        "0:1:4",
        "0:0:0",
        "0:1:0:0",
        "0:٣",
        "0:" + "9" * 5000,
        "0" + ":0" * 64,
        ":".join("0" * 100000),
    ],
)
@pytest.mark.parametrize("kind", [Kind.FIELD_BYTE_OFFSET, Kind.FIELD_EXISTS])
def test_paths_that_lead_nowhere_are_refused(access: str, kind: Kind) -> None:
    with pytest.raises(ObjectFileError) as caught:
        answer(LOCAL, LOCAL, kind, access, type_id=3)

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("kind", "access", "type_id", "message"),
    [
        (Kind.TYPE_EXISTS, "0:1", 3, "not the path of a whole type"),
        (Kind.TYPE_EXISTS, "0", 5, "no name"),
        (Kind.FIELD_EXISTS, "0:0", 4, "goes into a enum"),
        (Kind.FIELD_EXISTS, "0", 0, "has no size"),
        (Kind.FIELD_SIGNED, "0", 3, "FIELD_SIGNED of an array element"),
        (Kind.ENUMVAL_VALUE, "1", 4, "not an enumerator"),
        (Kind.ENUMVAL_VALUE, "0:0", 4, "not an enumerator"),
        (Kind.ENUMVAL_VALUE, "0", 3, "not an enumerator"),
        (Kind.FIELD_EXISTS, "0:0", 99, "no type 99"),
        (Kind.TYPE_EXISTS, "0", 99, "no type 99"),
        (Kind.ENUMVAL_EXISTS, "0", 99, "no type 99"),
    ],
)
def test_questions_that_do_not_fit_the_type_are_refused(
    kind: Kind, access: str, type_id: int, message: str
) -> None:
    with pytest.raises(ObjectFileError, match=message):
        answer(LOCAL, LOCAL, kind, access, type_id=type_id)


def test_an_offset_past_all_memory_is_refused() -> None:
    relocation = CoreRelocation(0, 3, "4294967295:0", Kind.FIELD_BYTE_OFFSET)
    with pytest.raises(ObjectFileError, match="the instruction has number 0"):
        relocate(object_of(LOCAL, [mov_imm(1, 0)], relocation), target_of(LOCAL))


def test_an_instruction_past_the_function_is_refused() -> None:
    relocation = CoreRelocation(2, 3, "0:0", Kind.FIELD_BYTE_OFFSET)
    with pytest.raises(ObjectFileError, match="there is no such instruction"):
        relocate(object_of(LOCAL, [mov_imm(1, 0)], relocation), target_of(LOCAL))


def refused_at_once(local: Btf, target: Btf, kind: Kind, access: str, *, type_id: int) -> str:
    """Return why it is refused, which must take no time."""
    with at_once(2.5), pytest.raises(ObjectFileError) as caught:
        answer(local, target, kind, access, type_id=type_id)

    return str(caught.value)


def test_a_cycle_of_unnamed_structures_is_refused() -> None:
    target = table(U32, Struct("s", 4, (Member("", 3, 0),)), Struct("", 4, (Member("", 2, 0),)))

    assert "nested over 32 deep" in refused_at_once(
        LOCAL, target, Kind.FIELD_EXISTS, "0:0", type_id=3
    )


def test_a_cycle_of_typedefs_is_refused() -> None:
    target = table(
        Modifier(ModifierKind.TYPEDEF, "a", 2),
        Modifier(ModifierKind.TYPEDEF, "b", 1),
        Struct("s", 4, (Member("x", 1, 0),)),
    )

    assert "or a cycle" in refused_at_once(LOCAL, target, Kind.FIELD_EXISTS, "0:0", type_id=3)


@pytest.mark.parametrize("kind", [Kind.TYPE_EXISTS, Kind.TYPE_MATCHES])
def test_pointers_without_end_are_refused(kind: Kind) -> None:
    ring = table(Modifier(ModifierKind.TYPEDEF, "t", 2), Pointer(2))

    assert "nested more than 32 deep" in refused_at_once(ring, ring, kind, "0", type_id=1)


def test_members_repeated_at_every_level_are_listed_once() -> None:
    """2^30 unnamed structures, of which each level has two of the next."""
    tower: list[BtfType] = [
        Struct("s" if level == 0 else "", 4, (Member("", level + 2, 0), Member("", level + 2, 0)))
        for level in range(30)
    ]
    target = table(*tower, Struct("", 4, (Member("x", 32, 0),)), U32)

    with at_once(2.5):
        assert answer(LOCAL, target, Kind.FIELD_EXISTS, "0:0", type_id=3) == 1


def test_structures_repeated_at_every_level_are_compared_once() -> None:
    tower: list[BtfType] = [
        Struct(f"s{level}", 4, (Member("a", level + 2, 0), Member("b", level + 2, 0)))
        for level in range(30)
    ]
    local = table(*tower, U32)

    with at_once(2.5):
        assert answer(local, local, Kind.TYPE_MATCHES, type_id=1) == 1


@pytest.mark.parametrize("kind", [Kind.TYPE_EXISTS, Kind.TYPE_MATCHES])
def test_prototypes_that_double_at_every_level_are_given_up(kind: Kind) -> None:
    tower: list[BtfType] = [
        FunctionPrototype(0, (Parameter("", level + 3), Parameter("", level + 3)))
        for level in range(28)
    ]
    local = table(Modifier(ModifierKind.TYPEDEF, "t", 2), *tower, U32)

    assert "more than" in refused_at_once(local, local, kind, "0", type_id=1)


STRINGS = b"\0xdp\0000:0\0"  # at 1 and 5


def file_with(*record: int) -> bytes:
    """Return an object whose one program has this relocation: offset, type, path, kind."""
    builder = BtfBuilder(strings=STRINGS)
    for kind in (U32, Struct("s", 4, (Member("x", 1, 0),))):
        builder.add(kind)
    part = struct.pack("<III", 16, 1, 1) + struct.pack("<4I", *record)
    head = struct.pack("<HBBI6I", 0xEB9F, 1, 0, 32, 0, 0, 0, 0, 0, len(part))
    elf = ElfWriter()
    elf.license("GPL")
    elf.function("xdp", "main", [mov_imm(0, 0), exit_()])
    elf.section(".BTF", builder.build())
    elf.section(".BTF.ext", head + part)
    return elf.build()


def test_relocations_are_read_from_the_file() -> None:
    (function,) = read_object(file_with(0, 2, 5, 0)).programs["main"].functions

    assert function.relocations == (CoreRelocation(0, 2, "0:0", Kind.FIELD_BYTE_OFFSET),)
    assert BtfExt().relocations == {}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ((4, 2, 5, 0), "is within an instruction"),
        ((8, 99, 5, 0), "refers to type 99"),
        ((8, 0, 5, 0), "refers to type 0"),
        ((8, 0xFFFFFFFF, 5, 0), "refers to type 4294967295"),
        ((8, 2, 5, 13), "is of kind 13, which is unknown"),
        ((8, 2, 5, 0xFFFFFFFF), "is of kind 4294967295"),
        ((8, 2, 0xFFFFFF, 0), "there is no string"),
    ],
)
def test_records_that_are_malformed_name_their_place(record: tuple[int, ...], message: str) -> None:
    with pytest.raises(ObjectFileError, match=message) as caught:
        read_object(file_with(*record))

    if "string" not in message:
        assert (caught.value.section, caught.value.offset) == ("xdp", record[0])


def test_relocations_behind_all_functions_are_left_alone() -> None:
    (function,) = read_object(file_with(16, 2, 5, 0)).programs["main"].functions

    assert function.relocations == ()


WORDS = (0, 1, 2, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def damaged(data: bytes, random: Random, start: int, end: int) -> bytes:
    """Return *data* with up to four bytes or words between *start* and *end* changed."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(start, end - 4)
        if random.random() < 0.5:
            changed[at] = random.randrange(256)
        else:
            changed[at & ~3 : (at & ~3) + 4] = struct.pack("<I", random.choice(WORDS))
    return bytes(changed)


def is_fitted(object_data: bytes, target_data: bytes) -> bool:
    """Return whether it goes well; every exception but the one allowed comes through."""
    try:
        relocate(read_object(object_data), target_of(Btf.parse(target_data)))
    except ObjectFileError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("compiler", COMPILERS)
def test_damaged_objects_and_damaged_targets_are_fitted_or_refused(compiler: str) -> None:
    """The target is the object's own table, in which one of two like names is another."""
    data = compiled("core_kinds", compiler).read_bytes()
    types = section_of(compiled("core_kinds", compiler), ".BTF")
    target = types.replace(b"task_struct___wide", b"task_struct_x_wide")
    start = data.index(types)
    random = Random(7)
    objects = [damaged(data, random, start, start + len(types) + 800) for _ in range(300)]
    targets = [damaged(target, random, 24, len(target)) for _ in range(300)]

    assert is_fitted(data, target)
    assert {is_fitted(each, target) for each in objects} == {True, False}
    assert {is_fitted(data, each) for each in targets} == {True, False}
