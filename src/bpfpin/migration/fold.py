"""Folding one map into another: the generated programs, loaded, kept by pins, and run."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

from bpfpin.errors import BpfError
from bpfpin.migration import fold_program
from bpfpin.migration.fold_program import FoldProgram, FoldWalk, Phase
from bpfpin.migration.members import MapShape, MemberMove
from bpfpin.migration.request import Rule
from bpfpin.objects.kernel.btf import BtfHandle
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.mapped import MappedMemory
from bpfpin.objects.programs.program import Program
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import membarrier, possible_cpus
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import MapFlag, MapType

CHUNK_KEYS: Final = 4096
KEPT_BYTES_MAX: Final = 64 << 20  # of keys that are not read twice
_WORDS: Final[dict[int, Any]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
WHOLE_ENTRIES_MAX: Final = (
    50_000  # entries of one run, during which no other task gets that CPU: 25 ms
)
FEW_MOVES: Final = 8  # that take no longer than finding the entry
_COUNTS: Final = struct.Struct("<QQQ")
_INNER: Final = MapSpec("barrier_inner", MapType.ARRAY, 4, 4, 1)
_OUTER: Final = MapSpec("barrier", MapType.ARRAY_OF_MAPS, 4, 4, 1, inner=_INNER)


# The keys of an old map, a part at a time, in a map that the programs of a fold walk.


class KeyChunks:
    """Writes the keys of *old* to the map *keys*, through its memory; both stay the caller's."""

    def __init__(self, old: Map, keys: Map) -> None:
        self._old = old
        self._keys = keys
        self._kept: list[bytes] = []

    def each(self, size: int, *, again: bool = False) -> Iterator[int]:
        """Write up to *size* keys at a time, and yield how many there are.

        With *again* they are those of the walk before, if they were not too many to be kept.
        """
        key_size = self._keys.value_size
        with MappedMemory(self._keys) as memory:
            for keys in (again and self._kept) or self._read():
                for at in range(0, len(keys), size * key_size):
                    part = memoryview(keys)[at : at + size * key_size]
                    scatter(part, key_size, memory.view, memory.stride)
                    yield len(part) // key_size

    def forget(self) -> None:
        """Drop the keys of the walk before."""
        self._kept = []

    def _read(self) -> Iterator[memoryview]:
        self.forget()
        kept, room = list[bytes](), KEPT_BYTES_MAX
        for some in self._old.batches_bytes():
            room -= len(some.keys)
            if room >= 0:
                kept.append(bytes(some.keys))
            yield some.keys
        if room >= 0:
            self._kept = kept


def create_keys(key_size: int) -> Map:
    """Make the map that the keys of a part are written to."""
    spec = MapSpec("fold_keys", MapType.ARRAY, 4, key_size, CHUNK_KEYS, map_flags=MapFlag.MMAPABLE)
    return Map.create(spec)


def scatter(packed: memoryview, size: int, into: memoryview, stride: int) -> None:
    """Copy items of *size* bytes that lie back to back to every *stride* bytes of *into*."""
    count = len(packed) // size
    width = math.gcd(size, 8)
    source = packed.cast(_WORDS[width])
    target = into[: count * stride].cast(_WORDS[width])
    for word in range(size // width):
        target[word :: stride // width] = source[word :: size // width]


class FoldStep(Enum):
    """What a program of a fold is for, as its pin is called.

    `MOVE` runs on each CPU for its own values; `GATHER` takes those of all CPUs at once.
    """

    INSERT = "insert"
    MOVE = "move"
    GATHER = "gather"


@dataclass(frozen=True, slots=True)
class FoldCounts:
    """What a fold met: entries visited and inserted, and those that found no room (*failed*)."""

    visited: int = 0
    inserted: int = 0
    failed: int = 0

    def __add__(self, other: FoldCounts) -> FoldCounts:
        return FoldCounts(
            self.visited + other.visited,
            self.inserted + other.inserted,
            self.failed + other.failed,
        )


@dataclass(frozen=True)
class FoldSpec:
    """What is folded into what; *start* is the value that a new entry begins with, of one CPU.

    *entries* is about how many there are: many are folded in parts.
    """

    old: MapShape
    new: MapShape
    moves: Sequence[MemberMove]
    start: bytes
    key_moves: Sequence[MemberMove] | None = None
    entries: int = 0

    def programs(self) -> dict[FoldStep, FoldProgram]:
        """Return the programs that it takes."""
        from_cpus, to_cpus = self.old.is_per_cpu, self.new.is_per_cpu
        found: dict[FoldStep, FoldProgram] = {}
        if fold_program.needs_insert_phase(self.new):
            found[FoldStep.INSERT] = self._fold(self.moves, phase=Phase.INSERT)
        if to_cpus or not from_cpus:
            found[FoldStep.MOVE] = self._fold(self.moves)
        if from_cpus:
            # Where each CPU keeps its own, what is left is that of CPUs nobody could run on.
            sums = [move for move in self.moves if move.rule is Rule.SUM]
            moves = sums if to_cpus else self.moves
            found[FoldStep.GATHER] = self._fold(moves, cpus=possible_cpus())
        return found

    @property
    def sweep(self) -> FoldWalk:
        """Whether one run takes all, or many a part each: no run may hold up a CPU for long."""
        cpus = possible_cpus() if self.old.is_per_cpu else 1
        work = self.entries * cpus * (1 + len(self.moves) / FEW_MOVES)
        return FoldWalk.PART if work > 2 * WHOLE_ENTRIES_MAX else FoldWalk.WHOLE

    def _fold(
        self, moves: Sequence[MemberMove], *, phase: Phase = Phase.MOVE, cpus: int = 0
    ) -> FoldProgram:
        return FoldProgram(
            self.old,
            self.new,
            moves,
            key_moves=self.key_moves,
            phase=phase,
            sweep=self.sweep,
            cpus=cpus,
        )


class FoldPrograms(Closing):
    """The programs that fold *old* into a new map; with *keys* they work on parts.

    It may be run again and again, by several at once too unless they share *keys*: a counter is
    taken only once.
    """

    def __init__(
        self, old: Map, programs: Mapping[FoldStep, Program], *, keys: Map | None = None
    ) -> None:
        self.old = old
        self.programs = programs
        self.keys = keys
        self._parts = KeyChunks(old, keys) if keys is not None else None

    @classmethod
    def load(cls, spec: FoldSpec, old: Map, new: Map) -> Self:
        """Have the programs verified and loaded; nothing is moved yet.

        *old* stays the caller's and must be open while it runs. `VerifierError` if the kernel does
        not take a program, for one because a map may not be written.
        """
        with ExitStack() as undo:
            start = undo.enter_context(_start(spec))
            maps = {fold_program.OLD: old, fold_program.NEW: new, fold_program.START: start}
            keys = None
            if spec.sweep is FoldWalk.PART:
                keys = undo.enter_context(create_keys(old.key_size))
                maps[fold_program.KEYS] = keys
            types = undo.enter_context(BtfHandle.load(fold_program.fold_types()))
            programs = {}
            for step, fold in spec.programs().items():
                programs[step] = Program.load(fold_program.fold_program(fold), maps=maps, btf=types)
                undo.callback(programs[step].close)
            undo.pop_all()
        start.close()  # the programs hold it
        types.close()
        return cls(old, programs, keys=keys)

    def close(self) -> None:
        """Let go of the programs; the maps are not touched."""
        for program in self.programs.values():
            program.close()
        if self.keys is not None:
            self.keys.close()

    def insert(self) -> FoldCounts:
        """Insert the keys that the new map lacks; nothing where that needs no step of its own.

        The programs that wrote the old map must have ended.
        """
        program = self.programs.get(FoldStep.INSERT)
        return self._sweep(program) if program else FoldCounts()

    def move(self) -> FoldCounts:
        """Move what the entries hold; the programs that wrote the old map must have ended.

        Where keys are inserted by a step of its own, so must those that had missed one before it.
        """
        own, gather = self.programs.get(FoldStep.MOVE), self.programs.get(FoldStep.GATHER)
        is_again = FoldStep.INSERT in self.programs
        if own is not None and gather is None:
            return self._sweep(own, again=is_again)
        counts, cpus = FoldCounts(), list[int]()
        if own is not None:
            cpus = sorted(os.sched_getaffinity(0))
            for cpu in cpus:
                with _running_on(cpu):
                    counts += self._sweep(own, again=is_again or cpu != cpus[0])
        if gather is not None and len(cpus) < possible_cpus():
            size = max(CHUNK_KEYS // possible_cpus(), 1)
            counts += self._sweep(gather, again=is_again or bool(cpus), size=size)
        return counts

    def _sweep(
        self, program: Program, *, again: bool = False, size: int = CHUNK_KEYS
    ) -> FoldCounts:
        if self._parts is None:
            return _run(program)
        counts = FoldCounts()
        for keys in self._parts.each(size, again=again):
            counts += _run(program, keys=keys)
        return counts


def _run(program: Program, *, keys: int = 0) -> FoldCounts:
    context = program.test_run(context=_COUNTS.pack(keys, 0, 0)).context
    return FoldCounts(*_COUNTS.unpack(context[: _COUNTS.size]))


def _start(spec: FoldSpec) -> Map:
    """Make the map that holds what a new entry begins with."""
    made = Map.create(MapSpec("fold_start", MapType.ARRAY, 4, spec.new.value_size, 1))
    made.update_bytes(bytes(4), spec.start)
    return made


@contextmanager
def _running_on(cpu: int) -> Iterator[None]:
    """Let this thread run on *cpu* alone for a while (sched_setaffinity(2))."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        with suppress(OSError):  # the CPUs of before may be gone by now
            os.sched_setaffinity(0, before)


# Waiting until no program runs any more that started before.


def wait_for_programs() -> None:
    """Return when every program that runs now has ended; 8 to 30 ms.

    Whoever writes an element of a map of maps waits for that in the kernel
    (`maybe_wait_bpf_programs()` of kernel/bpf/syscall.c); where no such map can be made,
    membarrier(2) waits as long. Neither waits for programs that may sleep.
    """
    with suppress(BpfError), Map.create(_INNER) as inner, Map.create(_OUTER, inner=inner) as outer:
        outer[0] = inner
        return
    membarrier()
