"""Folds one map into another: loads the generated programs and runs them.

The caller keeps this order: `FoldPrograms.load`, the switch of all hooks, `wait_for_programs`,
`insert`, `wait_for_programs` again if keys were inserted, `move`. An interrupted fold is run again
from the start; see `fold_program` for why that counts nothing twice.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from typing import Any, Final, Self

from bpfpin.errors import BpfError
from bpfpin.migration import fold_program
from bpfpin.migration.fold_program import FoldProgram, FoldWalk, Phase
from bpfpin.migration.members import MapShape, MemberMove
from bpfpin.migration.request import Rule
from bpfpin.objects.kernel.btf import BtfHandle
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import membarrier, possible_cpu_numbers, possible_cpus
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import MapFlag, MapType

CHUNK_KEYS: Final = 4096  # keys of one run; another task on that CPU waits some 5 ms for it
KEPT_BYTES_MAX: Final = 64 << 20  # keys that are remembered and not read twice
_WORDS: Final[dict[int, Any]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
# The most entries that one run folds. No other task gets that CPU meanwhile: 25 ms (a run over
# 1,000,000 entries delayed one by 523 ms, measured). Packets are processed all the same.
WHOLE_ENTRIES_MAX: Final = 50_000
FEW_MOVES: Final = 8  # moving so many members takes as long as finding the entry
_COUNTS: Final = struct.Struct("<QQQQ")
_INNER: Final = MapSpec("barrier_inner", MapType.ARRAY, 4, 4, 1)
_OUTER: Final = MapSpec("barrier", MapType.ARRAY_OF_MAPS, 4, 4, 1, inner=_INNER)


class KeyChunks:
    """Writes the keys of *old*, a chunk at a time, into the array *keys* that fold programs walk.

    It writes through the array's memory (mmap), without a system call for each key. The caller
    keeps both maps and closes them.
    """

    def __init__(self, old: Map, keys: Map) -> None:
        self._old = old
        self._keys = keys
        self._kept: list[bytes] = []

    def write_chunks(self, size: int, *, again: bool = False) -> Iterator[int]:
        """Write up to *size* keys at a time, and yield after each chunk how many they are.

        With *again* the keys of the walk before are used, if they were few enough to be remembered.
        """
        from bpfpin.objects.maps.mapped import MappedMemory  # noqa: PLC0415 - few maps need chunks

        key_size = self._keys.value_size
        with MappedMemory(self._keys) as memory:
            # The keys of the first walk still hold: no program that inserts into the old map runs
            # any more, and a key that user space deleted since is simply not found.
            for keys in (again and self._kept) or self._read():
                for at in range(0, len(keys), size * key_size):
                    chunk = memoryview(keys)[at : at + size * key_size]
                    scatter(chunk, key_size, memory.view, memory.stride)
                    yield len(chunk) // key_size

    def forget(self) -> None:
        """Drop the remembered keys."""
        self._kept = []

    def _read(self) -> Iterator[memoryview]:
        self.forget()
        kept, room = list[bytes](), KEPT_BYTES_MAX
        for batch in self._old.batches_bytes():
            # Keys beyond the limit end the remembering of all: a later walk reads the map from its
            # start again.
            room -= len(batch.keys)
            if room >= 0:
                kept.append(bytes(batch.keys))
            yield batch.keys
        if room >= 0:
            self._kept = kept


def create_keys(key_size: int) -> Map:
    """Create the array that the keys of a chunk are written to."""
    # Mapped into memory, the keys of a chunk are written by one copy; with BPF_MAP_UPDATE_ELEM each
    # would be a system call.
    spec = MapSpec("fold_keys", MapType.ARRAY, 4, key_size, CHUNK_KEYS, map_flags=MapFlag.MMAPABLE)
    return Map.create(spec)


def scatter(packed: memoryview, size: int, into: memoryview, stride: int) -> None:
    """Copy items of *size* bytes, which lie back to back, to every *stride* bytes of *into*.

    One slice assignment for each word of an item is much faster than one for each item.
    """
    count = len(packed) // size
    # Elements of an array are padded to eight bytes (array_map_alloc() of kernel/bpf/arraymap.c),
    # so their stride is a multiple of the word as well.
    width = math.gcd(size, 8)
    source = packed.cast(_WORDS[width])
    target = into[: count * stride].cast(_WORDS[width])
    for word in range(size // width):
        target[word :: stride // width] = source[word :: size // width]


class FoldStep(Enum):
    """The purpose of a fold program; the value is the name of its pin.

    `INSERT` inserts missing keys. `MOVE` moves a shared map's values, or on each CPU that CPU's
    own. `GATHER` moves the values of all CPUs in one run.
    """

    INSERT = "insert"
    MOVE = "move"
    GATHER = "gather"


@dataclass(frozen=True, slots=True)
class FoldCounts:
    """The counts of a fold: entries *visited*, *inserted*, and *failed* for want of room.

    *gave_up* counts numbers that the new programs changed at every try of a compare and exchange.
    What failed or was given up stays in the old map, and another run may move it.
    """

    visited: int = 0
    inserted: int = 0
    failed: int = 0
    gave_up: int = 0

    def __add__(self, other: FoldCounts) -> FoldCounts:
        return FoldCounts(
            self.visited + other.visited,
            self.inserted + other.inserted,
            self.failed + other.failed,
            self.gave_up + other.gave_up,
        )


@dataclass(frozen=True)
class FoldSpec:
    """The description of a fold: both maps, and the moves of members.

    Attributes:
        old: Type, sizes and flags of the old map.
        new: Type, sizes and flags of the new map.
        moves: The moves of value members.
        start: The first value of a new entry, for one CPU.
        key_moves: The moves of key members; None if keys stay as they are.
        entries: About how many entries the old map has; many are folded in chunks.
    """

    old: MapShape
    new: MapShape
    moves: Sequence[MemberMove]
    start: bytes
    key_moves: Sequence[MemberMove] | None = None
    entries: int = 0

    def programs(self) -> dict[FoldStep, FoldProgram]:
        """Return the programs that the fold needs."""
        from_cpus, to_cpus = self.old.is_per_cpu, self.new.is_per_cpu
        programs: dict[FoldStep, FoldProgram] = {}
        if fold_program.needs_insert_phase(self.new):
            programs[FoldStep.INSERT] = self._fold(self.moves, phase=Phase.INSERT)
        if to_cpus or not from_cpus:
            programs[FoldStep.MOVE] = self._fold(self.moves)
        if from_cpus:
            # From per-CPU to per-CPU each CPU moves its own values. GATHER then only takes counters
            # of the CPUs that this process may not run on (offline, or outside of its cpuset), and
            # adds them to the CPU that it runs on: sums stay exact, their attribution does not.
            sums = [move for move in self.moves if move.rule is Rule.SUM]
            moves = sums if to_cpus else self.moves
            programs[FoldStep.GATHER] = self._fold(moves, cpus=possible_cpu_numbers())
        return programs

    @property
    def walk(self) -> FoldWalk:
        """Whether one run folds all entries, or many runs a chunk each, to keep the runs short."""
        cpus = possible_cpus() if self.old.is_per_cpu else 1
        # In units of finding one entry. With FEW_MOVES moves an entry counts twice, hence the 2
        # below.
        work = self.entries * cpus * (1 + len(self.moves) / FEW_MOVES)
        return FoldWalk.CHUNK if work > 2 * WHOLE_ENTRIES_MAX else FoldWalk.WHOLE

    def _fold(
        self, moves: Sequence[MemberMove], *, phase: Phase = Phase.MOVE, cpus: tuple[int, ...] = ()
    ) -> FoldProgram:
        return FoldProgram(
            self.old,
            self.new,
            moves,
            key_moves=self.key_moves,
            phase=phase,
            walk=self.walk,
            cpus=cpus,
        )


class FoldPrograms(Closing):
    """The loaded programs that fold *old* into a new map; with *keys* they work on chunks.

    They may be run repeatedly, also by several processes at once unless those share *keys*: a
    counter is taken only once.
    """

    def __init__(
        self, old: Map, programs: Mapping[FoldStep, Program], *, keys: Map | None = None
    ) -> None:
        self.old = old
        self.programs = programs
        self.keys = keys
        self._chunks = KeyChunks(old, keys) if keys is not None else None

    @classmethod
    def load(cls, spec: FoldSpec, old: Map, new: Map) -> Self:
        """Generate, verify and load the programs; nothing is moved yet.

        The caller keeps *old* open while they run. Raises `VerifierError` if the kernel refuses a
        program, for example because programs may not write a map (BPF_F_RDONLY_PROG).
        """
        with ExitStack() as undo:
            start = undo.enter_context(_start(spec))
            maps = {fold_program.OLD: old, fold_program.NEW: new, fold_program.START: start}
            keys = None
            if spec.walk is FoldWalk.CHUNK:
                keys = undo.enter_context(create_keys(old.key_size))
                maps[fold_program.KEYS] = keys
            # The verifier takes a callback only from a program with BTF ("missing btf func_info").
            types = undo.enter_context(BtfHandle.load(fold_program.fold_types()))
            programs = {}
            for step, fold in spec.programs().items():
                programs[step] = Program.load(fold_program.fold_program(fold), maps=maps, btf=types)
                undo.callback(programs[step].close)
            undo.pop_all()
        start.close()  # the programs hold a reference to the map and to the BTF
        types.close()
        return cls(old, programs, keys=keys)

    def close(self) -> None:
        """Close the programs and the array of keys; both maps stay open."""
        for program in self.programs.values():
            program.close()
        # The map of keys belongs to the fold, unlike *old*, which the caller has opened.
        if self.keys is not None:
            self.keys.close()

    def insert(self) -> FoldCounts:
        """Insert the keys that the new map lacks, if that is a phase of its own; else do nothing.

        The programs that wrote the old map must have ended.
        """
        program = self.programs.get(FoldStep.INSERT)
        return self._run_all(program) if program else FoldCounts()

    def move(self) -> FoldCounts:
        """Move the values; the programs that wrote the old map must have ended.

        After a phase of insertion the new programs that missed a key before it must have ended too.
        """
        own, gather = self.programs.get(FoldStep.MOVE), self.programs.get(FoldStep.GATHER)
        is_again = FoldStep.INSERT in self.programs
        # The old map is shared: one run takes all of it. If the new map has a value for each CPU,
        # the run adds to that of its own CPU.
        if own is not None and gather is None:
            return self._run_all(own, again=is_again)
        counts, cpus = FoldCounts(), list[int]()
        if own is not None:
            # A run adds to the values of the CPU it is on, which must not change in between: the
            # kernel disables migration during BPF_PROG_TEST_RUN, and the affinity picks the CPU.
            cpus = sorted(os.sched_getaffinity(0))
            for cpu in cpus:
                with _running_on(cpu):
                    counts += self._run_all(own, again=is_again or cpu != cpus[0])
        if gather is not None and len(cpus) < possible_cpus():
            size = max(CHUNK_KEYS // possible_cpus(), 1)  # each entry is as much work as CPUs
            counts += self._run_all(gather, again=is_again or bool(cpus), size=size)
        return counts

    def _run_all(
        self, program: Program, *, again: bool = False, size: int = CHUNK_KEYS
    ) -> FoldCounts:
        if self._chunks is None:
            return _run(program)
        counts = FoldCounts()
        for keys in self._chunks.write_chunks(size, again=again):
            counts += _run(program, keys=keys)
        return counts


def _run(program: Program, *, keys: int = 0) -> FoldCounts:
    # For this type of program the kernel copies the context back to where it was read from
    # (bpf_prog_test_run_syscall() of net/bpf/test_run.c).
    context = program.test_run(context=_COUNTS.pack(keys, 0, 0, 0)).context
    return FoldCounts(*_COUNTS.unpack(context[: _COUNTS.size]))


def _start(spec: FoldSpec) -> Map:
    """Create the array that holds the first value of a new entry."""
    made = Map.create(MapSpec("fold_start", MapType.ARRAY, 4, spec.new.value_size, 1))
    made.update_bytes(bytes(4), spec.start)
    return made


@contextmanager
def _running_on(cpu: int) -> Iterator[None]:
    """Pin this thread to *cpu* for the block (sched_setaffinity(2))."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        with suppress(OSError):  # those CPUs may have gone offline meanwhile
            os.sched_setaffinity(0, before)


def wait_for_programs() -> None:
    """Wait until every program that is running now has ended: an RCU grace period, 8 to 30 ms.

    BPF_LINK_UPDATE alone does not wait: on x86-64 an XDP link seems to, as long as the old program
    runs nowhere else, since the XDP dispatcher is patched; a tcx link never does (measured).

    An update of a map of maps waits in the kernel (`maybe_wait_bpf_programs()` of
    kernel/bpf/syscall.c: synchronize_rcu()). If no such map can be created, membarrier(2) with
    MEMBARRIER_CMD_GLOBAL waits as long. Neither waits for sleepable programs; a migration with one
    of them is not called exact (`exact`).
    """
    # Not every caller may create maps, and memory may be short; membarrier(2) needs neither.
    with suppress(BpfError), Map.create(_INNER) as inner, Map.create(_OUTER, inner=inner) as outer:
        outer[0] = inner
        return
    membarrier()
