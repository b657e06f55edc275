"""Bytes of anybody give `ObjectFileError` or a table that can be walked, and that in no time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.c_source import c_type
from bpfpin.btf.check import check
from bpfpin.btf.compare import differences
from bpfpin.btf.layout import align_of
from bpfpin.btf.sanitize import for_kernel
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Enum,
    Enumerator,
    Function,
    FunctionPrototype,
    Member,
    Modifier,
    ModifierKind,
    Parameter,
    Pointer,
    SectionVariable,
    Struct,
    Var,
)
from bpfpin.btf.write import BtfBuilder, subset
from bpfpin.errors import ObjectFileError
from support.bombs import at_once
from support.btf_tables import U32, U64, blob

SAMPLE = blob(
    U32,
    U64,
    Array(1, 1, 4),
    Struct("stats", 24, (Member("packets", 2, 0), Member("slots", 3, 64))),
    Struct("bits", 4, (Member("a", 1, 0, 7), Member("b", 1, 7, 25))),
    Enum("colour", 4, True, (Enumerator("RED", -1), Enumerator("BLUE", 1))),
    Pointer(4),
    Modifier(ModifierKind.TYPEDEF, "stats_t", 4),
    FunctionPrototype(1, (Parameter("context", 7),)),
    Function("main", 9),
    Var("total", 8),
    DataSection(".bss", 0, (SectionVariable(11, 0, 24),)),
)
CHAIN = 200_000


def use(data: bytes) -> bool:
    """Read and, if all is well, walk *data* in every way; return whether all was well."""
    try:
        read = Btf.parse(data)
        check(read)
        for_kernel(read, data_sections={".bss": (24, {})})
    except ObjectFileError:
        return False
    for ref in map(read.ref, read.ids()):
        c_type(ref)
        align_of(read, ref.id)
        differences(ref, ref)
    subset([read.ref(type_id) for type_id in read.ids()])
    return True


def without_a_blow_up() -> AbstractContextManager[None]:
    """Allow the processor time of work that grows with the input, a tenth of it on most machines.

    What grows with its square, or doubles at each step, takes minutes.
    """
    return at_once(5)


def test_the_sample_is_well() -> None:
    assert use(SAMPLE)


def test_a_blob_cut_anywhere_is_refused() -> None:
    assert [end for end in range(len(SAMPLE)) if use(SAMPLE[:end])] == []


@pytest.mark.parametrize("value", [0, 1, 0x7F, 0xFF])
def test_any_byte_may_be_anything(value: int) -> None:
    results = {use(SAMPLE[:at] + bytes([value]) + SAMPLE[at + 1 :]) for at in range(len(SAMPLE))}

    assert results == {True, False}


@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF])
def test_any_word_may_be_extreme(value: int) -> None:
    word = value.to_bytes(4, "little")
    results = {use(SAMPLE[:at] + word + SAMPLE[at + 4 :]) for at in range(0, len(SAMPLE) - 3, 4)}

    assert False in results


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"\xeb\x9f", "big-endian"),
        (0, b"\x7fE", "not BTF"),
        (2, b"\x02", "version 2"),
        (3, b"\x01", "flags 0x1"),
        (4, b"\xff\xff\xff\xff", "header claims"),
        (12, b"\xff\xff\xff\xff", "type section ends at"),
        (16, b"\xff\xff\xff\xff", "string section ends at"),
        (20, bytes(4), "zero byte"),
        (24 + 7, b"\x7f", "kind 127, which is unknown"),
        (24, b"\xff\xff\xff\xff", "no string at 0xffffffff"),
    ],
)
def test_the_error_tells_what_is_wrong(at: int, value: bytes, message: str) -> None:
    with pytest.raises(ObjectFileError, match=message):
        check(Btf.parse(SAMPLE[:at] + value + SAMPLE[at + len(value) :]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "link",
    [
        Pointer,
        lambda target: Modifier(ModifierKind.CONST, "", target),
        lambda target: Array(target, target, 1),
        lambda target: Struct("", 4, (Member("m", target, 0),)),
    ],
    ids=["pointers", "qualifiers", "arrays", "structures"],
)
@pytest.mark.parametrize("step", [-1, 1], ids=["backward", "forward"])
def test_long_chains_are_refused_or_read(link: Callable[[int], BtfType], step: int) -> None:
    builder = BtfBuilder()
    builder.add(U32)
    for type_id in range(2, CHAIN):
        builder.add(link(type_id + step))
    builder.add(U32)
    data = builder.build()

    with without_a_blow_up():
        try:
            read = Btf.parse(data)
            check(read)
        except ObjectFileError:
            assert link is not Pointer
            return
        assert len(c_type(read.ref(CHAIN - 1))) < 100


def test_names_that_all_share_one_long_string_are_refused() -> None:
    builder = BtfBuilder(strings=b"\0" + b"n" * 1_000_000 + b"\0")
    encoded = Btf.parse(blob(U32)).encoded(1)
    for offset in range(1, 100_000):
        builder.add_encoded(offset.to_bytes(4, "little") + encoded[4:])
    data = builder.build()

    with without_a_blow_up(), pytest.raises(ObjectFileError, match="overlap too much"):
        check(Btf.parse(data))


def test_more_types_than_btf_may_have_are_refused() -> None:
    builder = BtfBuilder()
    encoded = Btf.parse(blob(Pointer(1))).encoded(1)
    builder.add_encoded(encoded * 0x100000)

    with pytest.raises(ObjectFileError, match="1048577 types"):
        Btf.parse(builder.build())
