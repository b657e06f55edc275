"""Functions written instruction by instruction."""

from __future__ import annotations

import pytest

from bpfpin import assembler as a
from bpfpin import insn
from bpfpin.assembler import Assembler
from bpfpin.spec import Reference, ReferenceKind
from bpfpin.uapi_helpers import FuncId


def test_jumps_lead_to_their_labels_forward_and_back() -> None:
    code = Assembler("f")
    again, end = code.new_label(), code.new_label()
    code.put(again)
    code.add(a.R1, 1)
    code.jump(end, a.IF_EQUAL, a.R1, imm=5)
    code.jump(again)
    code.put(end)
    code.leave(7)
    made = code.finish(type_id=3)

    assert [one.offset for one in made.instructions] == [0, 1, -3, 0, 0]
    assert (made.name, made.type_id) == ("f", 3)
    assert made.instructions[-2:] == (insn.mov_imm(a.R0, 7), insn.exit_())


def test_a_jump_over_a_wide_number_counts_both_its_slots() -> None:
    code = Assembler("f")
    end = code.new_label()
    code.jump(end)
    code.set(a.R2, 1 << 40)
    code.put(end)
    code.leave()

    assert code.finish(3).instructions[0].offset == 2


@pytest.mark.parametrize(
    ("number", "slots"),
    [(0, 1), (-1, 1), (2**31 - 1, 1), (-(2**31), 1), (2**31, 2), (2**64 - 1, 2)],
)
def test_a_number_takes_two_slots_where_one_has_no_room(number: int, slots: int) -> None:
    code = Assembler("f")
    code.set(a.R1, number)

    assert len(code.finish(3).instructions) == slots


def test_maps_and_functions_are_referred_to_by_name() -> None:
    code = Assembler("f")
    code.map(a.R1, "old")
    code.function(a.R2, "each")
    code.call(FuncId.for_each_map_elem)
    made = code.finish(3)

    assert made.references == (
        Reference(0, ReferenceKind.MAP, "old"),
        Reference(2, ReferenceKind.FUNCTION, "each"),
    )
    assert len(made.instructions) == 5


def test_only_numbers_of_less_than_eight_bytes_are_extended() -> None:
    lengths = {}
    for size in (1, 2, 4, 8):
        code = Assembler("f")
        code.sign_extend(a.R1, size)
        lengths[size] = [one.imm for one in code.finish(3).instructions]

    assert lengths == {1: [56, 56], 2: [48, 48], 4: [32, 32], 8: []}
