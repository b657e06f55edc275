"""Snapshots restored into maps of another definition: by name, as a fold would do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpfpin import restore_map, save_map
from bpfpin.btf.layout import Span
from bpfpin.codecs.record import KeyRecord
from bpfpin.errors import IncompatibleMapError, MapFullError, UsageError
from bpfpin.map import snapshot_file
from bpfpin.migration.first_values import apply_moves, join_values
from bpfpin.migration.fold import FoldPrograms
from bpfpin.migration.match import match_members
from bpfpin.migration.members import MemberMove, leaves
from bpfpin.migration.request import Migration, MigrationRules, Rule
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapType
from support.folding import pair
from support.here import run_here
from support.layouts import WORDS, Field, struct_of

PACKETS, BYTES, DROPS = Field("packets", "u64"), Field("bytes", "u64"), Field("drops", "u64")
OLD, NEW = (PACKETS, BYTES), (BYTES, PACKETS, DROPS)
COUNTED = {1: {"packets": 7, "bytes": 70}, 2: {"packets": 9, "bytes": 90}}
CARRIED = {key: {**value, "drops": 0} for key, value in COUNTED.items()}
SUMS = Migration(rules={"*": Rule.SUM})
ANY = Migration()


def spec(
    fields: tuple[Field, ...],
    kind: MapType = MapType.HASH,
    *,
    room: int = 10,
    key: tuple[Field, ...] = (),
) -> MapSpec:
    value, key_type = struct_of(fields), struct_of(key) if key else None
    key_size = key_type.size if key_type else 4
    return MapSpec("flows", kind, key_size, value.size, room, key=key_type, value=value)


def spread(entries: dict[Any, Any]) -> dict[Any, Any]:
    """Return entries of a per-CPU map in which every CPU counted the same."""
    return {key: [value] * possible_cpus() for key, value in entries.items()}


def carried_over(  # noqa: PLR0917  (from, to, what and how: a sentence)
    path: Path, old: MapSpec, new: MapSpec, entries: dict[Any, Any], how: Migration = ANY
) -> Any:
    """Save a map with *entries*, restore them into another, and return what is in that."""
    with Map.create(old) as source, Map.create(new) as target:
        source.update_batch({_key(source, key): value for key, value in entries.items()})
        save_map(source, path)
        restore_map(path, target, migrate=how)
        return {_number(key): value for key, value in target.to_dict().items()}


def _key(held: Map, key: Any) -> Any:
    return key if held.key_type or held.is_array else key.to_bytes(4, "little")


def _number(key: Any) -> Any:
    return int.from_bytes(key, "little") if isinstance(key, bytes) else key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flows.snapshot"


def test_members_go_over_by_name(path: Path) -> None:
    assert carried_over(path, spec(OLD), spec(NEW), COUNTED) == CARRIED


def test_new_members_start_as_asked_and_others_are_dropped_or_renamed(path: Path) -> None:
    started = carried_over(path, spec(OLD), spec(NEW), COUNTED, Migration(start={"drops": 5}))
    dropped = carried_over(path, spec(NEW), spec(OLD), CARRIED, Migration(dropped=["drops"]))
    seen = (Field("seen", "u64"), BYTES)
    renamed = carried_over(
        path, spec(OLD), spec(seen), COUNTED, Migration(renamed={"packets": "seen"})
    )

    assert {value["drops"] for value in started.values()} == {5}
    assert dropped == COUNTED
    assert renamed[1] == {"seen": 7, "bytes": 70}


def test_values_of_each_cpu_become_one_by_the_rule_and_one_becomes_those(path: Path) -> None:
    per_cpu, plain = MapType.PERCPU_HASH, MapType.HASH
    together = carried_over(path, spec(OLD, per_cpu), spec(OLD, plain), spread(COUNTED), SUMS)
    greatest = carried_over(
        path,
        spec(OLD, per_cpu),
        spec(OLD, plain),
        spread(COUNTED),
        Migration(rules={"packets": Rule.MAX, "bytes": Rule.MIN}),
    )
    apart = carried_over(path, spec(OLD, plain), spec(OLD, per_cpu), COUNTED)

    assert together[1] == {"packets": 7 * possible_cpus(), "bytes": 70 * possible_cpus()}
    assert greatest == COUNTED
    assert [sum(cpu["packets"] for cpu in apart[key]) for key in (1, 2)] == [7, 9]


def test_arrays_grow_and_shrink_where_there_is_nothing(path: Path) -> None:
    array = MapType.ARRAY
    grown = carried_over(path, spec(OLD, array, room=3), spec(OLD, array, room=5), COUNTED)
    shrunk = carried_over(path, spec(OLD, array, room=9), spec(OLD, array, room=3), COUNTED)

    assert (grown[2], len(grown), grown[4]) == (COUNTED[2], 5, {"packets": 0, "bytes": 0})
    assert (shrunk[1], shrunk[2], len(shrunk)) == (COUNTED[1], COUNTED[2], 3)
    with pytest.raises(IncompatibleMapError, match="the array has 2 elements"):
        carried_over(path, spec(OLD, array, room=9), spec(OLD, array, room=2), COUNTED)


def test_keys_that_become_one_have_their_counts_together(path: Path) -> None:
    source, port = Field("source", "u32"), Field("port", "u32")
    found = {}
    with (
        Map.create(spec(OLD, key=(source, port))) as old,
        Map.create(spec(OLD, key=(port,))) as new,
    ):
        for number in (1, 2):
            old[{"source": number, "port": 80}] = COUNTED[number]
        save_map(old, path)
        wishes = Migration(rules={"packets": Rule.SUM, "bytes": Rule.SUM}, dropped=["key.source"])
        restore_map(path, new, migrate=wishes)
        found = {key["port"]: value for key, value in new.to_dict().items()}

    assert found == {80: {"packets": 16, "bytes": 160}}


def test_what_is_there_is_replaced_and_not_added_to(path: Path) -> None:
    with Map.create(spec(OLD)) as old, Map.create(spec(NEW)) as new:
        old.update_batch({_key(old, key): value for key, value in COUNTED.items()})
        new[_key(new, 1)] = {"packets": 1000, "bytes": 1, "drops": 4}
        new[_key(new, 3)] = {"packets": 3, "bytes": 3, "drops": 3}
        save_map(old, path)
        merged = restore_map(path, new, migrate=SUMS)
        there = {_number(key): value for key, value in new.to_dict().items()}
        exactly = restore_map(path, new, migrate=SUMS, exact=True)
        left = {_number(key): value for key, value in new.to_dict().items()}

    assert there == CARRIED | {3: {"packets": 3, "bytes": 3, "drops": 3}}
    assert (merged.entries, merged.deleted, exactly.deleted) == (2, 0, 1)
    assert left == CARRIED


@pytest.mark.parametrize(
    ("new", "said", "words"),
    [
        (
            spec((PACKETS,)),
            "value bytes: u64 -> none",
            "to lose the counts of bytes: dropped=['bytes']",
        ),
        (
            spec((Field("packets", "u8"), Field("bytes", "u8"))),
            "u8 has no room",
            "clamp=True, or dropped=[MEMBER]",
        ),
        (spec(OLD, MapType.ARRAY), "type: percpu_hash -> array", ""),
        (spec(OLD), "value packets", "rules={'packets': Rule.SUM or "),
    ],
    ids=["dropped", "narrow", "kind", "rule"],
)
def test_what_no_rule_covers_is_refused_and_nothing_is_written(
    path: Path, new: MapSpec, said: str, words: str
) -> None:
    many = {1: {"packets": 300, "bytes": 1}}
    narrow = Migration(rules={"*": Rule.MAX}) if "u8" in said else ANY
    with Map.create(spec(OLD, MapType.PERCPU_HASH)) as old, Map.create(new) as target:
        old.update_batch({_key(old, key): value for key, value in spread(many).items()})
        save_map(old, path)
        before = target.to_dict()
        with pytest.raises(IncompatibleMapError) as caught:
            restore_map(path, target, migrate=narrow)

        assert said in str(caught.value)
        assert words in caught.value.hint
        assert "fresh" not in caught.value.hint
        assert target.to_dict() == before


def test_a_map_that_is_too_small_and_a_member_that_is_nowhere_are_told(path: Path) -> None:
    with pytest.raises(MapFullError, match="there is room for 1"):
        carried_over(path, spec(OLD), spec(NEW, room=1), COUNTED)
    with pytest.raises(UsageError, match="speed"):
        carried_over(path, spec(OLD), spec(NEW), COUNTED, Migration(dropped=["speed"]))


def test_it_is_typed_as_for_load(path: Path, bpffs: Path) -> None:
    key = (Field("port", "u32"),)
    with Map.create(spec(OLD, key=key)) as old, Map.create(spec(NEW, key=key)) as new:
        old[{"port": 2}] = COUNTED[2]
        old.pin(bpffs / "old")
        new.pin(bpffs / "new")
        run_here("map", "save", bpffs / "old", path)
        plainly = run_here("map", "restore", path, bpffs / "new")
        alone = run_here("map", "restore", path, bpffs / "new", "--start", "drops=5")
        done = run_here("map", "restore", path, bpffs / "new", "--migrate", "--start", "drops=5")
        value = new.to_dict()[KeyRecord(port=2)]

    assert (plainly.exit_code, alone.exit_code, done.exit_code) == (6, 2, 0), done.stderr
    assert "--migrate" in plainly.stderr
    assert done.stderr.startswith("restored 1 entries into ")
    assert value == {"packets": 9, "bytes": 90, "drops": 5}


# one value


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    both=st.tuples(*[st.lists(st.sampled_from("abcd"), min_size=1, unique=True)] * 2),
    rule=st.sampled_from(Rule),
)
def test_a_value_becomes_what_a_fold_into_an_empty_map_makes_of_it(
    data: st.DataObject, both: tuple[list[str], list[str]], rule: Rule
) -> None:
    words = st.sampled_from([*sorted(WORDS), "char"])
    old, new = (
        struct_of([Field(name, word, 4 if word == "char" else 0) for name in names])
        for names in both
        if (word := data.draw(words))
    )
    wishes = MigrationRules(rules={"*": rule}, dropped=frozenset("abcd"), clamp=True)
    moves = match_members(leaves(old, old.size), leaves(new, new.size), wishes).moves
    value = data.draw(st.binary(min_size=old.size, max_size=old.size))
    key = bytes(4)
    with pair(MapType.ARRAY, MapType.ARRAY, entries=1, value_sizes=(old.size, new.size)) as maps:
        maps.old.update_bytes(key, value)
        with FoldPrograms.load(maps.spec(moves), maps.old, maps.new) as folding:
            folding.move()

        assert apply_moves(moves, value, bytes(new.size)) == maps.new.lookup_bytes(key)


@pytest.mark.parametrize(
    ("rule", "is_signed", "numbers", "one"),
    [
        (Rule.SUM, False, (1, 2, 3), 6),
        (Rule.MAX, False, (1, 0, 3), 3),
        (Rule.MAX, True, (0, -5, -2), -2),
        (Rule.MIN, False, (0, 4, 3), 3),
        (Rule.KEEP_NEW, False, (0, 4, 3), 4),
        (Rule.KEEP_OLD, False, (0, 4, 3), 3),
    ],
)
def test_several_values_become_one_by_the_rule(
    rule: Rule, is_signed: bool, numbers: tuple[int, ...], one: int
) -> None:
    move = MemberMove("n", Span(0, 2, is_signed), Span(0, 2, is_signed), rule)
    values = [number.to_bytes(2, "little", signed=is_signed) for number in numbers]

    assert int.from_bytes(join_values([move], values), "little", signed=is_signed) == one


def test_a_sum_without_room_is_an_error_or_cut() -> None:
    move = MemberMove("n", Span(0, 1), Span(0, 1))
    cut = MemberMove("n", Span(0, 1), Span(0, 1), limits=(0, 255))

    assert join_values([cut], [b"\xff", b"\x02"]) == b"\xff"
    with pytest.raises(OverflowError, match="n: 257"):
        join_values([move], [b"\xff", b"\x02"])


def test_whole_blocks_of_an_array_may_lie_beyond_the_end_of_a_shorter_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an array of 600,000 elements, whose blocks have 4 MiB."""
    monkeypatch.setattr(snapshot_file, "BLOCK_BYTES", 40)
    old, new = (spec(OLD, MapType.ARRAY, room=room) for room in (20, 3))
    short = dict.fromkeys(range(3), COUNTED[1])

    assert carried_over(path, old, new, short) == short
    assert carried_over(path, old, old, short) == short | {
        key: {"packets": 0, "bytes": 0} for key in range(3, 20)
    }
