"""Members of the kernel's own are no part of a value."""

from __future__ import annotations

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
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
from bpfpin.codecs.codec import Codec
from bpfpin.codecs.of_btf import KERNEL_STRUCTURES, codec

U64 = Int("unsigned long long", 8, 64)
LOCK = Struct("bpf_spin_lock", 4, ())


def codec_of(*types: BtfType, raw: bool = False) -> Codec:
    """Return the codec of the last of *types*; they name each other by id, from 1 on."""
    builder = BtfBuilder()
    ids = [builder.add(kind) for kind in types]
    ref = Btf.parse(builder.build()).ref(ids[-1])
    return codec(ref, ref.size, raw=raw)


@pytest.mark.parametrize("name", sorted(KERNEL_STRUCTURES))
@pytest.mark.parametrize("raw", [False, True])
def test_such_structures_are_left_out(name: str, *, raw: bool) -> None:
    members = (Member("count", 1, 0), Member("own", 2, 64), Member("many", 3, 192))
    types = (U64, Struct(name, 16, ()), Array(2, 1, 2), Struct("value", 56, members))
    made = codec_of(*types, raw=raw)

    assert made.decode(b"\7" + bytes(7) + b"\xff" * 48) == {"count": 7}
    assert made.encode({"count": 7}) == b"\7" + bytes(55)
    with pytest.raises(ValueError, match="no member own; the members are count"):
        made.encode({"count": 7, "own": {}})


@pytest.mark.parametrize(
    ("tag", "is_left_out"),
    [("kptr", True), ("kptr_untrusted", True), ("percpu_kptr", True), ("uptr", False)],
)
def test_pointers_into_the_kernel_are_left_out(tag: str, *, is_left_out: bool) -> None:
    types = (
        Struct("task_struct", 0, ()),
        Modifier(ModifierKind.TYPE_TAG, tag, 1),
        Pointer(2),
        U64,
        Struct("value", 16, (Member("task", 3, 0), Member("count", 4, 64))),
    )

    assert ("task" not in codec_of(*types).decode(bytes(16))) is is_left_out


def test_a_value_with_nothing_else_is_an_empty_dict() -> None:
    made = codec_of(U64, Struct("bpf_timer", 16, ()), Struct("value", 16, (Member("t", 2, 0),)))

    assert made.decode(bytes(16)) == {}
    assert made.encode({}) == bytes(16)


def test_a_member_with_nothing_else_need_not_be_given() -> None:
    types = (U64, Struct("bpf_timer", 16, ()), Struct("timed", 16, (Member("timer", 2, 0),)))
    members = (Member("timed", 3, 0), Member("count", 1, 128))
    made = codec_of(*types, Struct("value", 24, members))

    assert made.encode({"count": 1}) == made.encode(made.decode(bytes(16) + b"\1" + bytes(7)))


def test_only_a_spin_lock_is_one_that_copies_can_take() -> None:
    types = (U64, LOCK, Struct("bpf_res_spin_lock", 8, ()))
    inner = Struct("inner", 4, (Member("lock", 2, 0),))

    assert codec_of(*types, Struct("v", 8, (Member("lock", 2, 0),))).has_lock
    assert codec_of(*types, inner, Struct("v", 16, (Member("inner", 4, 0),))).has_lock
    assert not codec_of(*types, Struct("v", 8, (Member("lock", 3, 0),))).has_lock


def test_variables_of_such_types_are_left_out_of_their_section() -> None:
    variables = (SectionVariable(3, 0, 4), SectionVariable(4, 8, 8))
    types = (U64, LOCK, Var("guard", 2), Var("count", 1))
    made = codec_of(*types, DataSection(".bss", 16, variables))

    assert made.decode(bytes(8) + b"\5" + bytes(7)) == {"count": 5}
