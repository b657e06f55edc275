"""What programs do to values, followed instruction by instruction, and what that decides."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bpfpin import assembler as a
from bpfpin.analysis.follow import program_uses
from bpfpin.analysis.listing import listing_of_spec
from bpfpin.analysis.uses import Use, UsingProgram, Write, WriteKind
from bpfpin.assembler import Assembler
from bpfpin.btf.layout import Span
from bpfpin.migration import exact
from bpfpin.migration.exact import ExactnessCase, default_rule, judge
from bpfpin.migration.members import Leaf, LeafKind, MapShape, MemberMove
from bpfpin.migration.request import Rule
from bpfpin.spec import ProgramSpec
from bpfpin.uapi import MapType, ProgramType, UpdateFlag
from bpfpin.uapi_helpers import FuncId

WRITE_TO_VALUE = 0x40  # an atomic or, which is no addition
COUNT, LAST = Span(0, 8), Span(8, 8)


def use_of(write: Callable[[Assembler], None]) -> Use:
    """Follow a program that looks a key up in `flows` and then does *write*; r0: the value."""
    code = Assembler("count")
    look_up(code)
    write(code)
    code.leave()
    program = ProgramSpec("count", ProgramType.XDP, "xdp", (code.finish(0),))
    return program_uses(listing_of_spec(program))["flows"]


def look_up(code: Assembler) -> None:
    code.map(a.R1, "flows")
    code.move(a.R2, a.FP)
    code.add(a.R2, -4)
    code.call(FuncId.map_lookup_elem)


def update(code: Assembler, flag: UpdateFlag) -> None:
    code.map(a.R1, "flows")
    code.move(a.R2, a.FP)
    code.add(a.R2, -4)
    code.move(a.R3, a.FP)
    code.add(a.R3, -16)
    code.set(a.R4, flag)
    code.call(FuncId.map_update_elem)


def add_plainly(code: Assembler) -> None:
    code.load(a.R1, a.R0, 0, 8)
    code.add(a.R1, 1)
    code.store(a.R0, 0, a.R1)


def add_atomically(code: Assembler) -> None:
    code.set(a.R1, 1)
    code.atomic(a.ATOMIC_ADD, a.R0, 0, a.R1, size=8)


def test_an_atomic_addition_is_seen() -> None:
    assert use_of(add_atomically) == Use(frozenset({Write(WriteKind.ATOMIC_ADD, 0, 8)}))


def test_loading_adding_and_storing_is_a_plain_addition() -> None:
    assert use_of(add_plainly) == Use(frozenset({Write(WriteKind.PLAIN_ADD, 0, 8)}))


def test_a_number_that_was_added_to_stays_one_over_the_stack() -> None:
    """The compiler puts aside what it has no register for, the address too."""

    def write(code: Assembler) -> None:
        code.store(a.FP, -24, a.R0)
        code.load(a.R1, a.R0, 8, 8)
        code.emit(a.ADD_REG, a.R1, src=a.R7)
        code.store(a.FP, -32, a.R1)
        code.load(a.R3, a.FP, -24, 8)
        code.load(a.R4, a.FP, -32, 8)
        code.store(a.R3, 8, a.R4)

    assert use_of(write) == Use(frozenset({Write(WriteKind.PLAIN_ADD, 8, 8)}))


def test_what_comes_from_elsewhere_is_a_store() -> None:
    def write(code: Assembler) -> None:
        code.store(a.R0, 8, a.R6)

    assert use_of(write) == Use(frozenset({Write(WriteKind.STORE, 8, 8)}))


def test_a_number_that_is_added_to_and_stored_elsewhere_is_a_store() -> None:
    def write(code: Assembler) -> None:
        code.load(a.R1, a.R0, 0, 8)
        code.add(a.R1, 1)
        code.store(a.R0, 8, a.R1)

    assert use_of(write) == Use(frozenset({Write(WriteKind.STORE, 8, 8)}))


def test_other_atomic_operations_are_no_additions() -> None:
    def write(code: Assembler) -> None:
        code.atomic(WRITE_TO_VALUE, a.R0, 0, a.R6, size=8)

    assert use_of(write).to(COUNT) == {WriteKind.ATOMIC_STORE}


def test_a_place_that_varies_may_be_any_number_of_that_size() -> None:
    def write(code: Assembler) -> None:
        code.emit(a.ADD_REG, a.R0, src=a.R7)
        add_plainly(code)

    use = use_of(write)

    assert use.writes == {Write(WriteKind.PLAIN_ADD, None, 8)}
    assert use.to(LAST) == {WriteKind.PLAIN_ADD}
    assert not use.to(Span(8, 4))


def test_both_ways_of_a_branch_are_followed() -> None:
    def write(code: Assembler) -> None:
        other = code.new_label()
        code.jump(other, a.IF_EQUAL, a.R7, imm=3)
        add_atomically(code)
        code.leave()
        code.put(other)
        code.store(a.R0, 8, a.R6)

    assert {write.kind for write in use_of(write).writes} == {WriteKind.ATOMIC_ADD, WriteKind.STORE}


def test_a_loop_ends_though_its_address_grows() -> None:
    def write(code: Assembler) -> None:
        again = code.new_label()
        code.put(again)
        add_plainly(code)
        code.add(a.R0, 8)
        code.add(a.R7, 1)
        code.jump(again, a.IF_BELOW, a.R7, imm=4)

    use = use_of(write)

    assert use.to(Span(64, 8)) == {WriteKind.PLAIN_ADD}
    assert {write.kind for write in use.writes} == {WriteKind.PLAIN_ADD}


def test_an_insertion_after_a_miss_is_no_overwriting() -> None:
    def write(code: Assembler) -> None:
        there = code.new_label()
        code.jump(there, a.IF_NOT_EQUAL, a.R0, imm=0)
        update(code, UpdateFlag.ANY)
        code.put(there)

    assert use_of(write) == Use(inserts=True, inserts_any=True)


def test_an_insertion_that_replaces_nothing_is_no_overwriting() -> None:
    use = use_of(lambda code: update(code, UpdateFlag.NOEXIST))

    assert use == Use(inserts=True)


def test_an_update_of_what_may_be_there_overwrites() -> None:
    assert use_of(lambda code: update(code, UpdateFlag.ANY)) == Use(overwrites=True)


def test_a_deletion_is_seen() -> None:
    def write(code: Assembler) -> None:
        code.map(a.R1, "flows")
        code.move(a.R2, a.FP)
        code.call(FuncId.map_delete_elem)

    assert use_of(write) == Use(deletes=True)


def test_a_value_given_to_a_helper_is_said_to_be_unknown() -> None:
    def write(code: Assembler) -> None:
        code.move(a.R1, a.R0)
        code.call(FuncId.spin_lock)

    assert use_of(write).unknown == ("gives its value to bpf_spin_lock",)


def test_a_value_that_a_helper_only_reads_is_no_matter() -> None:
    def write(code: Assembler) -> None:
        code.set(a.R1, 0)
        code.move(a.R2, a.R0)
        code.call(FuncId.ringbuf_output)

    assert use_of(write) == Use()


HASH = MapShape(MapType.HASH, 4, 16, 100)
PER_CPU = MapShape(MapType.PERCPU_HASH, 4, 16, 100)
LRU = MapShape(MapType.LRU_HASH, 4, 16, 10_000)
ATOMIC = Use(frozenset({Write(WriteKind.ATOMIC_ADD, 0, 8)}))
PLAIN = Use(frozenset({Write(WriteKind.PLAIN_ADD, 0, 8)}))


def reasons(
    use: Use, shape: MapShape = HASH, *, kind: ProgramType = ProgramType.XDP, **more: object
) -> str:
    """Return why counting in *shape* as *use* says is not exact; empty if it is."""
    move = MemberMove("packets", COUNT, COUNT)
    user = UsingProgram("count", kind, use, can_sleep=bool(more.get("can_sleep")))
    case = ExactnessCase(shape, shape, [move], 1000, [UsingProgram("old", kind, ATOMIC)], [user])
    return "; ".join(judge(case, cpus=2, realtime=bool(more.get("realtime"))).reasons)


def test_atomic_additions_are_exact_in_shared_maps_and_for_each_cpu() -> None:
    assert (reasons(ATOMIC), reasons(ATOMIC, PER_CPU)) == ("", "")


def test_plain_additions_are_exact_for_each_cpu_where_no_task_comes_between() -> None:
    assert reasons(PLAIN, PER_CPU) == ""
    assert "share" in reasons(PLAIN)
    assert "tasks may interrupt" in reasons(PLAIN, PER_CPU, kind=ProgramType.CGROUP_SKB)
    assert "PREEMPT_RT" in reasons(PLAIN, PER_CPU, realtime=True)


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (Use(frozenset({Write(WriteKind.STORE, 0, 8)})), "sets packets"),
        (Use(overwrites=True), "writes whole values"),
        (Use(deletes=True), "deletes entries"),
        (Use(unknown=("gives its value to f",)), "is not known"),
    ],
)
def test_what_a_new_program_does_beside_adding_is_not_exact(use: Use, told: str) -> None:
    assert told in reasons(use)


def test_a_program_that_may_sleep_is_not_waited_for() -> None:
    assert "may sleep" in reasons(ATOMIC, can_sleep=True)


def test_an_lru_hash_is_exact_with_room_only() -> None:
    tight = MapShape(MapType.LRU_HASH, 4, 16, 1100)

    assert reasons(ATOMIC, LRU) == ""
    assert "evict about 156 entries" in reasons(ATOMIC, tight)


def test_a_number_of_two_bytes_that_is_still_added_to_is_not_exact() -> None:
    use = Use(frozenset({Write(WriteKind.PLAIN_ADD, 0, 2)}))
    place = Span(0, 2)
    case = ExactnessCase(
        PER_CPU,
        PER_CPU,
        [MemberMove("n", place, place)],
        1,
        [],
        [UsingProgram("p", ProgramType.XDP, use)],
    )

    assert "four or eight" in judge(case, cpus=2, realtime=False).reasons[0]


def test_where_nothing_is_summed_stores_are_no_matter() -> None:
    move = MemberMove("last", LAST, LAST, Rule.KEEP_NEW)
    case = ExactnessCase(
        HASH, HASH, [move], 1, [], [UsingProgram("p", ProgramType.XDP, Use(overwrites=True))]
    )

    assert not judge(case, cpus=2, realtime=False).reasons


def rule_of(*each: Use, kind: LeafKind = LeafKind.NUMBER, is_data: bool = False) -> Rule | None:
    leaf = Leaf("packets", COUNT, kind, "u64")
    users = [UsingProgram("p", ProgramType.XDP, use) for use in each]
    return default_rule(users[:1], users[1:], leaf, leaf, is_data=is_data)


def test_a_number_that_programs_only_add_to_is_summed() -> None:
    assert rule_of(ATOMIC, PLAIN) is Rule.SUM


def test_a_number_that_a_program_also_sets_is_asked_for() -> None:
    assert rule_of(ATOMIC, Use(frozenset({Write(WriteKind.STORE, 0, 8)}))) is None


def test_a_number_that_no_program_writes_is_kept() -> None:
    assert rule_of(Use(), Use()) is Rule.KEEP_NEW
    assert rule_of(Use(), Use(), is_data=True) is Rule.KEEP_OLD


def test_where_a_program_cannot_be_followed_the_rule_is_asked_for() -> None:
    assert rule_of(ATOMIC, Use(ATOMIC.writes, unknown=("does something",))) is None


def test_without_programs_the_rule_is_asked_for() -> None:
    assert rule_of() is None


@pytest.mark.parametrize(
    ("file", "version", "is_realtime"),
    [
        ("1", "#1 SMP PREEMPT_RT Debian 6.12.1", True),
        (None, "#1 SMP PREEMPT_RT Debian 6.12.1", True),
        ("1", "#1 SMP", True),
        (None, "#1 SMP PREEMPT_DYNAMIC Debian 6.12.1", False),
        ("0", "#1 SMP PREEMPT", False),
    ],
)
def test_a_realtime_kernel_is_known_by_its_file_or_its_version(  # noqa: PLR0917  (a row)
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    file: str | None,
    version: str,
    is_realtime: bool,
) -> None:
    """Only the patches of PREEMPT_RT bring the file; Linux has the option in its version."""
    path = tmp_path / "realtime"
    if file is not None:
        path.write_text(file)
    names = os.uname_result(("Linux", "host", "6.12.1", version, "x86_64"))
    monkeypatch.setattr(exact, "_REALTIME", path)
    monkeypatch.setattr(os, "uname", lambda: names)

    assert exact.is_realtime() == is_realtime
