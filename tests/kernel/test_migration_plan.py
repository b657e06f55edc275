"""A migration planned on real maps: what it says, and all that stands against one at once."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from bpfpin import assembler as a
from bpfpin.analysis.follow import users_of_programs, users_of_specs
from bpfpin.analysis.uses import UsingProgram
from bpfpin.assembler import Assembler
from bpfpin.btf.types import Struct
from bpfpin.errors import IncompatibleMapError, UsageError
from bpfpin.migration.fold import FoldPrograms
from bpfpin.migration.plan import MigrationPlan, MigrationRequest, members_of, plan_migration
from bpfpin.migration.refusal import require_known
from bpfpin.migration.request import Migration, Rule
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.spec import Dialect, MapSpec, ProgramSpec
from bpfpin.uapi import MapType, ProgramType, UpdateFlag
from bpfpin.uapi_helpers import FuncId
from support.layouts import Field, struct_of
from support.map_types import ARRAYS

PACKETS, BYTES, DROPS = Field("packets", "u64"), Field("bytes", "u64"), Field("drops", "u64")
KEY = struct_of([Field("port", "u32")])
COUNTED = (
    MapType.HASH,
    MapType.ARRAY,
    MapType.PERCPU_HASH,
    MapType.PERCPU_ARRAY,
    MapType.LRU_HASH,
    MapType.LRU_PERCPU_HASH,
)
SUMS = Migration(rules={"*": Rule.SUM})


def spec_of(
    *fields: Field, kind: MapType = MapType.HASH, max_entries: int = 100, name: str = "flows"
) -> MapSpec:
    value = struct_of(fields)
    key = KEY if kind is MapType.HASH else None
    return MapSpec(name, kind, 4, value.size, max_entries, key=key, value=value)


def counter(*, is_atomic: bool = True) -> ProgramSpec:
    """A program that counts packets of one key, and inserts it if it is not there."""
    code = Assembler("count")
    there, done = code.new_label(), code.new_label()
    code.set(a.R1, 0)
    for offset in (-8, -16, -24, -32):
        code.store(a.FP, offset, a.R1)
    _call(code, FuncId.map_lookup_elem)
    code.jump(there, a.IF_NOT_EQUAL, a.R0, imm=0)
    code.set(a.R4, UpdateFlag.ANY)
    _call(code, FuncId.map_update_elem)
    code.jump(done)
    code.put(there)
    code.set(a.R1, 1)
    if is_atomic:
        code.atomic(a.ATOMIC_ADD, a.R0, 0, a.R1, size=8)
    else:
        code.load(a.R1, a.R0, 0, 8)
        code.add(a.R1, 1)
        code.store(a.R0, 0, a.R1)
    code.put(done)
    code.leave(2)
    return ProgramSpec("count", ProgramType.XDP, "xdp", (code.finish(0),), license="GPL")


def _call(code: Assembler, helper: FuncId) -> None:
    code.map(a.R1, "flows")
    code.move(a.R2, a.FP)
    code.add(a.R2, -8)
    code.move(a.R3, a.FP)
    code.add(a.R3, -32)
    code.call(helper)


def plan(
    old: Map, new: MapSpec, migration: Migration = SUMS, **users: list[UsingProgram]
) -> MigrationPlan:
    old_users, new_users = users.get("old_users", ()), users.get("new_users", ())
    request = MigrationRequest(new, old, old_users, new_users, migration)
    require_known(migration, {new.name: members_of(request)})
    return plan_migration(request)


@contextmanager
def holding(spec: MapSpec, *values: tuple[int, ...]) -> Iterator[Map]:
    """Make the map, with numbers of 64 bits in the values of its first keys."""
    with Map.create(spec) as made:
        for key, value in enumerate(values):
            made.update_bytes(key.to_bytes(4, "little"), struct.pack(f"<{len(value)}Q", *value))
        yield made


def moved(wanted: MigrationPlan, old: Map, spec: MapSpec) -> dict[int, tuple[int, ...]]:
    """Carry out what is planned, without programs; return the numbers of the new map."""
    with ExitStack() as opened:
        new = opened.enter_context(Map.create(spec))
        if spec.contents is not None:
            new.update_bytes(bytes(4), spec.contents)
        wanted.fill(old, new)
        folding = opened.enter_context(FoldPrograms.load(wanted.fold, old, new))
        folding.insert()
        folding.move()
        form = f"<{spec.value_size // 8}Q"
        return {
            int.from_bytes(key, "little"): struct.unpack(form, value)
            for key, value in new.items_bytes()
        }


@pytest.mark.parametrize("kind", COUNTED, ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize("is_atomic", [True, False], ids=["atomic", "plain"])
def test_what_the_kernel_made_of_a_program_is_followed_like_the_program_itself(
    kind: MapType, is_atomic: bool
) -> None:
    """Lookups are inlined there, and helpers have no numbers."""
    program = counter(is_atomic=is_atomic)
    with (
        Map.create(spec_of(PACKETS, BYTES, kind=kind)) as flows,
        Program.load(program, maps={"flows": flows}) as loaded,
    ):
        (seen,) = users_of_programs([loaded], {"flows": flows})["flows"]
    (read,) = users_of_specs([program])["flows"]

    assert seen.use.writes == read.use.writes
    assert not seen.use.unknown
    if kind not in ARRAYS:  # where a lookup misses nothing, and nothing is inserted
        assert seen.use == read.use


def test_a_plan_tells_each_member_its_rule_and_why_it_is_exact() -> None:
    new = spec_of(BYTES, PACKETS, DROPS)
    users = list(users_of_specs([counter()])["flows"])
    with holding(spec_of(PACKETS), (7,), (9,)) as old:
        wanted = plan(old, new, Migration(), old_users=users, new_users=users)
        numbers = moved(wanted, old, new)

    assert "  packets u64 at 0 -> u64 at 8: sum" in wanted.report().lines()
    assert "  exact: every count comes over" in wanted.report().lines()
    assert json.loads(json.dumps(wanted.report().to_json()))["entries"] == 2
    assert numbers == {0: (0, 7, 0), 1: (0, 9, 0)}


def test_all_that_stands_against_it_is_told_at_once_with_what_to_type() -> None:
    new = spec_of(Field("packets", "u8"), max_entries=1)
    users = list(users_of_specs([counter(is_atomic=False)])["flows"])
    with (
        holding(spec_of(PACKETS, BYTES), (1, 2), (300, 4)) as old,
        pytest.raises(IncompatibleMapError) as caught,
    ):
        plan(old, new, old_users=users)

    assert {one.field for one in caught.value.differences} == {
        "value bytes",
        "max_entries",
        "value packets",
        "exactness",
    }
    assert "300 at key {'port': 1}" in str(caught.value)
    for word in ("dropped=['bytes']", "clamp=True", "best_effort=True"):
        assert word in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new"),
    [(MapType.HASH, MapType.ARRAY), (MapType.ARRAY, MapType.HASH), (MapType.HASH, MapType.QUEUE)],
)
def test_a_type_that_cannot_take_the_entries_is_refused(old: MapType, new: MapType) -> None:
    with (
        Map.create(spec_of(PACKETS, kind=old)) as held,
        pytest.raises(IncompatibleMapError, match="cannot take it"),
    ):
        plan(held, spec_of(PACKETS, kind=new))


def test_an_array_gets_shorter_only_if_its_end_is_empty() -> None:
    with holding(spec_of(PACKETS, kind=MapType.ARRAY), (5,), (0,), (6,)) as old:
        shorter = spec_of(PACKETS, kind=MapType.ARRAY, max_entries=3)
        with pytest.raises(IncompatibleMapError, match="the new array has 2 elements"):
            plan(old, shorter.with_changes(max_entries=2))

        assert moved(plan(old, shorter), old, shorter) == {0: (5,), 1: (0,), 2: (6,)}


def test_new_members_start_as_asked() -> None:
    new = spec_of(PACKETS, DROPS)
    with holding(spec_of(PACKETS), (7,)) as old:
        wanted = plan(old, new, Migration(rules={"*": Rule.SUM}, start={"drops": "0x10"}))

        assert moved(wanted, old, new) == {0: (7, 16)}


def test_elements_of_an_array_start_as_asked_too() -> None:
    new = spec_of(PACKETS, DROPS, kind=MapType.ARRAY, max_entries=2)
    with holding(spec_of(PACKETS, kind=MapType.ARRAY, max_entries=2), (7,)) as old:
        wanted = plan(old, new, Migration(rules={"*": Rule.SUM}, start={"drops": 3}))

        assert moved(wanted, old, new) == {0: (7, 3), 1: (0, 3)}


def test_a_function_makes_a_member_and_is_never_exact() -> None:
    new = spec_of(PACKETS, BYTES)
    said = Migration(
        rules={"packets": Rule.SUM}, functions={"bytes": lambda value: value["packets"] * 100}
    )
    with holding(spec_of(PACKETS), (7,)) as old:
        with pytest.raises(IncompatibleMapError, match="before the switch"):
            plan(old, new, said)
        wanted = plan(
            old,
            new,
            Migration(rules=said.rules, functions=said.functions, best_effort=True),
        )

        assert moved(wanted, old, new) == {0: (7, 700)}


def test_keys_are_rebuilt_and_those_that_become_one_add_up() -> None:
    pair = struct_of([Field("port", "u32"), Field("queue", "u32")])
    before = spec_of(PACKETS).with_changes(key=pair, key_size=8)
    said = Migration(rules={"*": Rule.SUM}, dropped=["key.queue"])
    with Map.create(before) as old:
        for port, queue, packets in ((1, 0, 10), (1, 1, 20), (2, 0, 5)):
            old.update_bytes(struct.pack("<2I", port, queue), struct.pack("<Q", packets))

        assert moved(plan(old, spec_of(PACKETS), said), old, spec_of(PACKETS)) == {
            1: (30,),
            2: (5,),
        }


def test_the_sum_of_all_cpus_must_fit_where_there_is_one_value() -> None:
    narrow = spec_of(Field("packets", "u32"), kind=MapType.ARRAY, max_entries=1)
    before = spec_of(Field("packets", "u32"), kind=MapType.PERCPU_ARRAY, max_entries=1)
    with Map.create(before) as old:
        old.update_bytes(bytes(4), struct.pack("<Q", 1 << 31) * len(old[0]))
        with pytest.raises(IncompatibleMapError, match="sum of all CPUs"):
            plan(old, narrow)


def test_a_map_without_types_is_moved_by_a_given_layout() -> None:
    untyped = spec_of(PACKETS).with_changes(key=None, value=None)
    new = spec_of(DROPS, PACKETS)
    said = Migration(rules={"*": Rule.SUM}, layouts={"flows": "u64 packets"})
    with holding(untyped, (7,)) as old:
        assert moved(plan(old, new, said), old, new) == {0: (0, 7)}


def test_an_unknown_member_is_refused_with_those_that_there_are() -> None:
    with (
        Map.create(spec_of(PACKETS)) as old,
        pytest.raises(UsageError, match=r"members: drops, key\.port, packets"),
    ):
        plan(old, spec_of(PACKETS, DROPS), Migration(rules={"byts": Rule.SUM}))


def test_variables_are_carried_by_name_and_go_on() -> None:
    """What no program writes keeps its old value, whatever the object file says it starts with."""
    before = spec_of(PACKETS, name=".data", kind=MapType.ARRAY, max_entries=1)
    after = spec_of(DROPS, PACKETS, name=".data", kind=MapType.ARRAY, max_entries=1)
    contents = struct.pack("<2Q", 5, 100)
    with holding(before, (7,)) as old:
        new = after.with_changes(dialect=Dialect.DATA, contents=contents)
        wanted = plan(old, new, Migration())

        assert moved(wanted, old, new) == {0: (5, 7)}


def test_a_variable_that_is_summed_does_not_count_what_it_started_with_twice() -> None:
    value = spec_of(PACKETS, DROPS, name=".data", kind=MapType.ARRAY, max_entries=1)
    new = value.with_changes(dialect=Dialect.DATA, contents=struct.pack("<2Q", 100, 3))
    with holding(spec_of(PACKETS, name=".data", kind=MapType.ARRAY, max_entries=1), (107,)) as old:
        wanted = plan(old, new)

        assert moved(wanted, old, new) == {0: (107, 3)}


def test_a_lock_in_the_value_is_left_out_and_told() -> None:
    lock = Struct("bpf_spin_lock", 4, ())
    before = struct_of([PACKETS], ("lock", lock))
    held = spec_of(PACKETS).with_changes(value=before, value_size=16)
    with Map.create(held) as old:
        removed = plan(old, spec_of(PACKETS))
    with Map.create(spec_of(PACKETS)) as old:
        added = plan(old, held)

    assert removed.report().is_exact
    assert removed.exactness.notes == ("lock (struct bpf_spin_lock) goes with the old map",)
    assert added.report().is_exact
    assert added.exactness.notes == ("lock (struct bpf_spin_lock) starts empty",)
