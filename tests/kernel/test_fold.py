"""Maps folded into others by generated programs, run by the kernel."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from bpfpin.btf.layout import Span
from bpfpin.errors import BpfError, ReadOnlyMapError
from bpfpin.migration import fold_member, fold_program
from bpfpin.migration.fold import CHUNK_KEYS, FoldCounts, FoldPrograms, FoldStep, wait_for_programs
from bpfpin.migration.members import MemberMove
from bpfpin.migration.request import Rule
from bpfpin.objects.kernel.btf import BtfHandle
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.mapped import MappedMemory
from bpfpin.objects.programs.program import Program
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import membarrier
from bpfpin.uapi import MapFlag, MapType
from support.folding import (
    CPUS,
    MANY,
    Pair,
    counter,
    expected,
    numbers,
    one_cpu,
    pair,
    sums,
    write,
)
from support.map_types import ARRAYS, HASHES, LRU
from support.wait import wait_until

PAIRS = [*itertools.product(sorted(ARRAYS), repeat=2), *itertools.product(sorted(HASHES), repeat=2)]
ENTRIES = 40


@pytest.mark.parametrize("entries", [ENTRIES, MANY], ids=["whole", "in parts"])
@pytest.mark.parametrize(("old", "new"), PAIRS, ids=lambda kind: kind.name)
def test_every_shape_into_every_other_keeps_all_sums(
    old: MapType, new: MapType, entries: int
) -> None:
    room = 4096 if LRU & {old, new} else ENTRIES  # so that nothing is evicted
    with pair(old, new, entries=room) as maps:
        for key in range(ENTRIES):
            write(maps.old, key, key + 1)
        write(maps.new, 3, 1000)  # counted since
        wanted = sums(maps.old)
        per_cpu = CPUS if maps.new.is_per_cpu else 1
        with FoldPrograms.load(
            maps.spec([counter()], entries=entries), maps.old, maps.new
        ) as folding:
            folding.insert()
            first = folding.move()
            found = sums(maps.new)
            second = folding.move()

        assert found == wanted | {3: wanted[3] + 1000 * per_cpu}
        assert sums(maps.new) == found
        assert sums(maps.old) == {}
        assert (first.failed, second.failed, second.inserted) == (0, 0, 0)


def test_each_cpu_keeps_what_it_counted() -> None:
    with pair(MapType.PERCPU_HASH, MapType.PERCPU_HASH) as maps:
        for cpu in range(CPUS):
            write(maps.old, cpu, 100 + cpu, cpu=cpu)
        maps.fold([counter()])

        wanted = {
            cpu: [100 + cpu if each == cpu else 0 for each in range(CPUS)] for cpu in range(CPUS)
        }
        assert numbers(maps.new) == wanted


@pytest.mark.parametrize("entries", [ENTRIES, MANY], ids=["whole", "in parts"])
@pytest.mark.parametrize("kind", [MapType.PERCPU_ARRAY, MapType.PERCPU_HASH])
def test_counts_of_cpus_that_one_may_not_run_on_are_gathered(kind: MapType, entries: int) -> None:
    with pair(kind, kind) as maps:
        write(maps.old, 7, 5)
        with one_cpu() as cpu:
            maps.fold([counter()], entries=entries)

        assert numbers(maps.new) == {7: [5 * CPUS if each == cpu else 0 for each in range(CPUS)]}
        assert numbers(maps.old) == {}


SIZES = (1, 2, 4, 8)
SIGNED = [(0, 0), (0, 5), (5, 0), (-3, 0), (-3, 7), (7, -3), (100, 27), (-128, 0), (-2, -1)]
UNSIGNED = [(0, 0), (0, 5), (5, 0), (200, 7), (7, 200), (255, 0), (100, 27)]


def members(rule: Rule, *, is_signed: bool) -> list[MemberMove]:
    """Return the move of a number for each pair of sizes, each in eight bytes of its own."""
    found = []
    for index, (old, new) in enumerate(itertools.product(SIZES, repeat=2)):
        places = Span(8 * index, old, is_signed), Span(8 * (15 - index), new, is_signed)
        found.append(MemberMove(f"{old} to {new}", *places, rule))
    return found


def packed(places: Sequence[Span], number: int, size: int) -> bytes:
    """Return a value with *number* at each place."""
    data = bytearray(size)
    for place in places:
        at = slice(place.offset, place.offset + place.size)
        data[at] = number.to_bytes(place.size, "little", signed=place.is_signed)
    return bytes(data)


def unpacked(place: Span, data: bytes) -> int:
    """Return the number at a place."""
    part = data[place.offset : place.offset + place.size]
    return int.from_bytes(part, "little", signed=place.is_signed)


@pytest.mark.parametrize("is_signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.value)
def test_each_rule_holds_for_every_size(rule: Rule, *, is_signed: bool) -> None:
    moves, told = members(rule, is_signed=is_signed), SIGNED if is_signed else UNSIGNED
    with pair(value_sizes=(128, 128)) as maps:
        for key, (old, new) in enumerate(told):
            name = key.to_bytes(4, "little")
            maps.old.update_bytes(name, packed([move.old for move in moves], old, 128))
            maps.new.update_bytes(name, packed([move.new for move in moves], new, 128))
        maps.fold(moves)
        maps.fold(moves)  # again, which changes nothing

        for key, (old, new) in enumerate(told):
            value = maps.new.lookup_bytes(key.to_bytes(4, "little"))
            found = {move.path: unpacked(move.new, value) for move in moves}
            assert found == dict.fromkeys(found, expected(rule, old, new, is_signed=is_signed)), (
                old,
                new,
            )


def test_large_numbers_are_widened_and_summed() -> None:
    move = MemberMove("bytes", Span(0, 4), Span(8, 8))
    with pair(value_sizes=(8, 16)) as maps:
        maps.old.update_bytes(bytes(4), (4_000_000_000).to_bytes(8, "little"))
        maps.new.update_bytes(bytes(4), bytes(8) + (10**12).to_bytes(8, "little"))
        maps.fold([move])

        assert unpacked(move.new, maps.new.lookup_bytes(bytes(4))) == 1_004_000_000_000


@dataclass(frozen=True)
class Adjusted:
    """A number that is another one in the new map."""

    old: Span
    new: Span
    number: int
    wanted: int
    limits: tuple[int, int] | None = None
    renumbered: tuple[tuple[int, int], ...] = ()


U8, U16, U64 = Span(0, 1), Span(0, 2), Span(0, 8)
S8, S32, S64 = Span(0, 1, True), Span(0, 4, True), Span(0, 8, True)
ADJUSTED = {
    "too great for a byte": Adjusted(U64, U8, 300, 255, (0, 255)),
    "fits a byte": Adjusted(U64, U8, 254, 254, (0, 255)),
    "greater than any signed": Adjusted(U64, S64, 2**64 - 1, 2**63 - 1, (-(2**63), 2**63 - 1)),
    "too small for a byte": Adjusted(S64, S8, -300, -128, (-128, 127)),
    "negative for unsigned": Adjusted(S32, U16, -1, 0, (0, 65535)),
    "too great, from signed": Adjusted(S64, U16, 70_000, 65_535, (0, 65535)),
    "renumbered": Adjusted(U64, U64, 3, 300, renumbered=((1, 3), (3, 300))),
    "renumbered once": Adjusted(U64, U64, 1, 3, renumbered=((1, 3), (3, 300))),
    "not renumbered": Adjusted(U64, U64, 2, 2, renumbered=((1, 3), (3, 300))),
    "renumbered, negative": Adjusted(S32, S32, -7, 9, renumbered=((-7, 9),)),
    "renumbered, of 64 bits": Adjusted(U64, U64, 2**40, 1, renumbered=((2**40, 1),)),
}


@pytest.mark.parametrize("rule", [Rule.SUM, Rule.KEEP_OLD, Rule.KEEP_NEW, Rule.MAX])
@pytest.mark.parametrize("case", ADJUSTED.values(), ids=ADJUSTED.keys())
def test_numbers_are_clamped_and_renumbered(case: Adjusted, rule: Rule) -> None:
    move = MemberMove(
        "it", case.old, case.new, rule, limits=case.limits, renumbered=case.renumbered
    )
    with pair() as maps:
        maps.old.update_bytes(bytes(4), packed([case.old], case.number, 8))
        maps.fold([move])

        assert unpacked(case.new, maps.new.lookup_bytes(bytes(4))) == case.wanted


@dataclass(frozen=True)
class Sum:
    """Two numbers, one from the old map and one in the new one, whose sum has no room there."""

    old: Span
    new: Span
    numbers: tuple[int, int]
    wanted: int
    limits: tuple[int, int] | None = None


U32_ODD, S32 = Span(1, 4), Span(0, 4, True)
SUMS = {
    "4 bytes": Sum(U64, Span(0, 4), (3_000_000_000, 3_000_000_000), 2**32 - 1, (0, 2**32 - 1)),
    "4 bytes, fits": Sum(U64, Span(0, 4), (3, 4), 7, (0, 2**32 - 1)),
    "of one size": Sum(Span(0, 4), Span(0, 4), (2**32 - 1, 1), 2**32 - 1),
    "4 bytes, signed": Sum(S64, S32, (-(2**31), -5), -(2**31), (-(2**31), 2**31 - 1)),
    "4 bytes, signed, high": Sum(S64, S32, (2**31 - 1, 5), 2**31 - 1, (-(2**31), 2**31 - 1)),
    "4 bytes, signed, fits": Sum(S64, S32, (-7, 5), -2, (-(2**31), 2**31 - 1)),
    "2 bytes": Sum(U64, U16, (65_000, 65_000), 65_535, (0, 65_535)),
    "1 byte, signed": Sum(S64, S8, (-100, -100), -128, (-128, 127)),
    "not aligned": Sum(U64, U32_ODD, (2**32 - 2, 9), 2**32 - 1, (0, 2**32 - 1)),
    "8 bytes": Sum(S64, U64, (2**63 - 1, 2**64 - 5), 2**64 - 1, (0, 2**63 - 1)),
    "8 bytes, fits": Sum(S64, U64, (2**63 - 1, 5), 2**63 + 4, (0, 2**63 - 1)),
    "8 bytes, signed": Sum(U64, S64, (2**63 - 1, 5), 2**63 - 1, (0, 2**63 - 1)),
    "8 bytes, signed, fits": Sum(U64, S64, (2**63 - 1, -5), 2**63 - 6, (0, 2**63 - 1)),
}


@pytest.mark.parametrize("case", SUMS.values(), ids=SUMS.keys())
def test_a_sum_without_room_is_cut_and_does_not_wrap(case: Sum) -> None:
    move = MemberMove("it", case.old, case.new, limits=case.limits, saturates=True)
    with pair() as maps:
        maps.old.update_bytes(bytes(4), packed([case.old], case.numbers[0], 8))
        maps.new.update_bytes(bytes(4), packed([case.new], case.numbers[1], 8))
        maps.fold([move])
        maps.fold([move])  # again, which changes nothing

        assert unpacked(case.new, maps.new.lookup_bytes(bytes(4))) == case.wanted


def test_a_sum_of_all_cpus_without_room_is_cut() -> None:
    move = MemberMove("it", U64, Span(0, 4), limits=(0, 2**32 - 1), saturates=True)
    with pair(MapType.PERCPU_HASH, MapType.HASH, value_sizes=(8, 4)) as maps:
        write(maps.old, 1, 3_000_000_000)
        maps.fold([move])

        assert maps.new.lookup_bytes(b"\1\0\0\0") == b"\xff\xff\xff\xff"


def test_only_the_cpus_that_are_named_are_asked_for() -> None:
    """As where the numbers of possible CPUs have holes, which no machine of ours has."""
    with pair(MapType.PERCPU_HASH, MapType.HASH) as maps:
        write(maps.old, 1, 5)
        spec = maps.spec([counter()])
        last = dataclasses.replace(spec.programs()[FoldStep.GATHER], cpus=(CPUS - 1,))
        with (
            Map.create(MapSpec("fold_start", MapType.ARRAY, 4, 8, 1)) as start,
            BtfHandle.load(fold_program.fold_types()) as types,
            Program.load(
                fold_program.fold_program(last),
                maps={"old": maps.old, "new": maps.new, "start": start},
                btf=types,
            ) as program,
        ):
            FoldPrograms(maps.old, {FoldStep.GATHER: program}).move()

        assert sums(maps.new) == {1: 5}
        assert numbers(maps.old) == {1: [5] * (CPUS - 1) + [0]}


@pytest.mark.parametrize("is_signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.value)
def test_each_rule_holds_for_members_of_packed_values(rule: Rule, *, is_signed: bool) -> None:
    """No member is where its size would align it."""
    moves, told = [], SIGNED if is_signed else UNSIGNED
    for index, size in enumerate((2, 4, 8)):
        places = Span(1 + 8 * index, size, is_signed), Span(33 - 9 * index, size, is_signed)
        moves.append(MemberMove(f"number of {size}", *places, rule))
    moves.append(MemberMove("bytes", Span(25, 7), Span(3, 7), is_bytes=True))
    with pair(value_sizes=(41, 41)) as maps:
        for key, (old, new) in enumerate(told):
            name = key.to_bytes(4, "little")
            value = packed([move.old for move in moves[:3]], old, 41)
            maps.old.update_bytes(name, value[:25] + b"packed!" + value[32:])
            maps.new.update_bytes(name, packed([move.new for move in moves[:3]], new, 41))
        maps.fold(moves)

        for key, (old, new) in enumerate(told):
            value = maps.new.lookup_bytes(key.to_bytes(4, "little"))
            found = {move.path: unpacked(move.new, value) for move in moves[:3]}
            assert found == dict.fromkeys(found, expected(rule, old, new, is_signed=is_signed)), (
                old,
                new,
            )
            assert value[3:10] == b"packed!"


@pytest.mark.parametrize("entries", [ENTRIES, MANY], ids=["whole", "in parts"])
def test_a_key_is_built_at_offsets_that_no_store_of_its_size_takes(entries: int) -> None:
    """The verifier takes only aligned stores to the stack, where the key is built."""
    key = [
        MemberMove("kind", Span(0, 1), Span(0, 1)),
        MemberMove("address", Span(1, 4), Span(1, 4)),
        MemberMove("count", Span(5, 8, True), Span(5, 8, True)),
        MemberMove("port", Span(13, 2), Span(13, 4)),
        MemberMove("level", Span(15, 1, True), Span(17, 2, True)),
        MemberMove("name", Span(16, 5), Span(19, 5), is_bytes=True),
    ]
    with pair(key_sizes=(21, 24)) as maps:
        numbers_of_key = struct.pack("<BIqHb5s", 7, 0xC0A80001, -3, 443, -2, b"hello")
        maps.old.update_bytes(numbers_of_key, (9).to_bytes(8, "little"))
        maps.fold([counter()], key_moves=key, entries=entries)

        wanted = struct.pack("<BIqIh5s", 7, 0xC0A80001, -3, 443, -2, b"hello")
        assert maps.new.dump_bytes() == (wanted, (9).to_bytes(8, "little"))


def test_a_number_that_others_change_at_every_try_is_counted_and_moved_by_another_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fold_member, "TRIES", 1)
    move = counter(rule=Rule.MAX)
    entries = 20_000
    flags = MapFlag.MMAPABLE
    with (
        pair(MapType.HASH, MapType.ARRAY, entries=entries, room=1) as maps,
        Map.create(MapSpec("new", MapType.ARRAY, 4, 8, 1, map_flags=flags)) as new,
        MappedMemory(new) as memory,
    ):
        for key in range(entries):
            write(maps.old, key, 10**6 + key)
        both = Pair(maps.old, new)
        pid = os.fork()
        if not pid:
            number = memory.view.cast("Q")
            while True:  # until it is killed: each store undoes what the fold wrote
                number[0] = 0
        try:
            with FoldPrograms.load(both.spec([move], key_moves=[]), both.old, new) as folding:
                wait_until(lambda: folding.move().gave_up > 0)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                pid = 0
                last = folding.move()
        finally:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

        assert (last.gave_up, sums(new)) == (0, {0: 10**6 + entries - 1})


@pytest.mark.parametrize(
    ("rule", "wanted"), [(Rule.KEEP_OLD, b"old name 13b!"), (Rule.KEEP_NEW, b"new name 13b?")]
)
def test_bytes_are_copied_as_they_are(rule: Rule, wanted: bytes) -> None:
    move = MemberMove("name", Span(2, 13), Span(1, 13), rule, is_bytes=True)
    with pair(value_sizes=(16, 16)) as maps:
        maps.old.update_bytes(bytes(4), b"..old name 13b!.")
        maps.new.update_bytes(bytes(4), b".new name 13b?..")
        maps.old.update_bytes(b"new!", b"..old name 13b!.")
        maps.fold([move])

        assert maps.new.lookup_bytes(bytes(4)) == b"." + wanted + b".."
        assert maps.new.lookup_bytes(b"new!")[1:14] == b"old name 13b!"


def test_an_array_of_bytes_grows_and_shrinks() -> None:
    moves = [
        MemberMove("grown", Span(0, 4), Span(0, 6), Rule.KEEP_OLD, is_bytes=True),
        MemberMove("shrunk", Span(4, 4), Span(6, 2), Rule.KEEP_OLD, is_bytes=True),
    ]
    with pair() as maps:
        maps.old.update_bytes(bytes(4), b"abcdefgh")
        maps.fold(moves)

        assert maps.new.lookup_bytes(bytes(4)) == b"abcd\0\0ef"


def test_two_old_keys_that_become_one_add_up() -> None:
    key = [MemberMove("port", Span(0, 2), Span(0, 8))]
    with pair(key_sizes=(4, 8)) as maps:
        for old, number in (((80, 1), 5), ((80, 2), 7), ((443, 1), 11)):
            name = b"".join(part.to_bytes(2, "little") for part in old)
            maps.old.update_bytes(name, number.to_bytes(8, "little"))
        maps.fold([counter()], key_moves=key)

        assert sums(maps.new) == {80: 12, 443: 11}


def test_a_key_is_built_of_bytes_and_numbers() -> None:
    key = [
        MemberMove("address", Span(0, 6), Span(2, 6), is_bytes=True),
        MemberMove("kind", Span(6, 1), Span(0, 2), renumbered=((1, 257),)),
        MemberMove("level", Span(7, 1, True), Span(12, 4, True)),
    ]
    with pair(key_sizes=(8, 16)) as maps:
        maps.old.update_bytes(b"\1\2\3\4\5\6" + b"\1" + b"\xff", (9).to_bytes(8, "little"))
        maps.fold([counter()], key_moves=key)

        wanted = b"\1\1" + b"\1\2\3\4\5\6" + bytes(4) + b"\xff\xff\xff\xff"
        assert maps.new.dump_bytes() == (wanted, (9).to_bytes(8, "little"))


@pytest.mark.parametrize("old", [MapType.ARRAY, MapType.HASH])
def test_all_keys_may_become_one_of_an_array(old: MapType) -> None:
    with pair(old, MapType.PERCPU_ARRAY, entries=50, room=1) as maps:
        for key in range(50):
            write(maps.old, key, key + 1)
        counts = maps.fold([counter()], key_moves=[])

        assert (counts.failed, sums(maps.new)) == (0, {0: 1275})


def test_values_of_2000_bytes_are_moved_number_by_number() -> None:
    moves = [counter(8 * at, 8 * (249 - at)) for at in range(250)]
    data = b"".join(at.to_bytes(8, "little") for at in range(250))
    with pair(entries=2, value_sizes=(2000, 2000)) as maps:
        maps.old.update_bytes(bytes(4), data)
        maps.fold(moves)
        found = memoryview(maps.new.lookup_bytes(bytes(4))).cast("Q")

        assert list(found) == list(range(249, -1, -1))


def test_a_new_entry_begins_with_the_start_value() -> None:
    with pair(value_sizes=(8, 16)) as maps:
        write(maps.old, 1, 5)
        maps.new.update_bytes(bytes(4), bytes(16))  # the new program's own
        write(maps.old, 0, 6)
        maps.fold([counter()], start=bytes(8) + b"beginner")

        assert maps.new.lookup_bytes(b"\1\0\0\0")[8:] == b"beginner"
        assert maps.new.lookup_bytes(bytes(4))[8:] == bytes(8)


@pytest.mark.parametrize(
    "count", [1, CHUNK_KEYS - 1, CHUNK_KEYS, CHUNK_KEYS + 1, 2 * CHUNK_KEYS + 77]
)
@pytest.mark.parametrize("key_size", [4, 8, 13])
def test_parts_of_any_length_are_folded_whole(count: int, key_size: int) -> None:
    with pair(entries=count, key_sizes=(key_size, key_size)) as maps:
        keys = b"".join(key.to_bytes(key_size, "little") for key in range(count))
        values = b"".join(key.to_bytes(8, "little") for key in range(1, count + 1))
        maps.old.update_arrays(keys, values)
        counts = maps.fold([counter()], entries=MANY)

        assert counts == FoldCounts(visited=count)
        assert sums(maps.new) == {key: key + 1 for key in range(count)}
        assert sums(maps.old) == {}


@pytest.mark.parametrize("entries", [ENTRIES, MANY], ids=["whole", "in parts"])
def test_what_finds_no_room_stays_and_a_larger_map_takes_it(entries: int) -> None:
    with pair(entries=100, room=60) as maps, pair(entries=1, room=100) as others:
        for key in range(100):
            write(maps.old, key, key + 1)
        with FoldPrograms.load(
            maps.spec([counter()], entries=entries), maps.old, maps.new
        ) as folding:
            inserted = folding.insert()
            moved = folding.move()
        left = sums(maps.old)
        both = sum(left.values()) + sum(sums(maps.new).values())
        for source in (maps.old, maps.new):
            spec = type(maps)(source, others.new).spec([counter()], entries=entries)
            with FoldPrograms.load(spec, source, others.new) as folding:
                folding.insert()
                folding.move()

        assert (inserted.inserted, inserted.failed) == (60, 40)
        assert (moved.visited, moved.failed) == (100, 40)
        assert (len(left), both) == (40, 5050)
        assert sums(others.new) == {key: key + 1 for key in range(100)}


@pytest.mark.parametrize("entries", [ENTRIES, MANY], ids=["whole", "in parts"])
def test_an_array_is_cut_off_where_it_counted_nothing(entries: int) -> None:
    with pair(MapType.ARRAY, MapType.ARRAY, entries=10, room=6) as maps:
        for key in (0, 5, 6, 9):
            write(maps.old, key, key + 1)
        counts = maps.fold([counter()], entries=entries)

        assert counts.failed == 2
        assert sums(maps.new) == {0: 1, 5: 6}
        assert sums(maps.old) == {6: 7, 9: 10}


def test_a_map_that_programs_may_not_write_is_refused_before_anything_happens() -> None:
    spec = MapSpec("old", MapType.HASH, 4, 8, 4, map_flags=MapFlag.RDONLY_PROG)
    with Map.create(spec) as old, pair() as maps:
        write(old, 1, 5)
        with pytest.raises(BpfError):
            FoldPrograms.load(type(maps)(old, maps.new).spec([counter()]), old, maps.new)

        assert sums(old) == {1: 5}


def test_a_frozen_old_map_is_folded() -> None:
    with pair() as maps:
        write(maps.old, 1, 5)
        maps.old.freeze()
        with pytest.raises(ReadOnlyMapError):
            write(maps.old, 1, 6)
        maps.fold([counter()])

        assert (sums(maps.new), sums(maps.old)) == ({1: 5}, {})


@pytest.mark.parametrize("kind", [MapType.HASH, MapType.PERCPU_HASH])
@pytest.mark.parametrize("entries", [ENTRIES, MANY], ids=["whole", "in parts"])
def test_two_that_fold_at_once_count_nothing_twice(kind: MapType, entries: int) -> None:
    count = 20_000
    with pair(kind, kind, entries=count) as maps:
        keys = b"".join(key.to_bytes(4, "little") for key in range(count))
        values = b"".join((key + 1).to_bytes(8, "little") for key in range(count))
        per_cpu = CPUS if maps.old.is_per_cpu else 1
        if per_cpu > 1:
            values = b"".join(values[at : at + 8] * per_cpu for at in range(0, len(values), 8))
        maps.old.update_arrays(keys, values)
        folders = [
            threading.Thread(target=maps.fold, args=([counter()],), kwargs={"entries": entries})
            for _ in range(2)
        ]
        for folder in folders:
            folder.start()
        for folder in folders:
            folder.join()

        assert sums(maps.new) == {key: (key + 1) * per_cpu for key in range(count)}


def test_only_hashes_that_are_shared_are_filled_before_anything_is_moved() -> None:
    kinds = {}
    for _, new in PAIRS:
        old = MapType.ARRAY if new in ARRAYS else MapType.HASH
        with pair(old, new) as maps:
            kinds[new] = FoldStep.INSERT in maps.spec([counter()]).programs()

    assert {kind for kind, is_filled in kinds.items() if is_filled} == {
        MapType.HASH,
        MapType.LRU_HASH,
    }


def test_both_ways_to_wait_for_programs_return() -> None:
    wait_for_programs()
    membarrier()
