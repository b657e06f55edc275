"""Folding one map into another: the generated programs, loaded, kept by pins, and run."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

from bpfpin.objects.kernel_btf import BtfHandle
from bpfpin.objects.map import Map
from bpfpin.objects.program import Program
from bpfpin.pins.migration import code
from bpfpin.pins.migration.code import Fold, Phase, Sweep
from bpfpin.pins.migration.moves import Move, Shape
from bpfpin.pins.migration.parts import PART, Parts, create_keys
from bpfpin.pins.migration.rules import Rule
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import MapType

WHOLE_MAX: Final = 50_000  # entries of one run, during which no other task gets that CPU: 25 ms
FEW_MOVES: Final = 8  # that take no longer than finding the entry

_COUNTS: Final = struct.Struct("<QQQ")


class Step(Enum):
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

    old: Shape
    new: Shape
    moves: Sequence[Move]
    start: bytes
    key_moves: Sequence[Move] | None = None
    entries: int = 0

    def programs(self) -> dict[Step, Fold]:
        """Return the programs that it takes."""
        from_cpus, to_cpus = self.old.is_per_cpu, self.new.is_per_cpu
        found: dict[Step, Fold] = {}
        if code.needs_insert_phase(self.new):
            found[Step.INSERT] = self._fold(self.moves, phase=Phase.INSERT)
        if to_cpus or not from_cpus:
            found[Step.MOVE] = self._fold(self.moves)
        if from_cpus:
            # Where each CPU keeps its own, what is left is that of CPUs nobody could run on.
            sums = [move for move in self.moves if move.rule is Rule.SUM]
            moves = sums if to_cpus else self.moves
            found[Step.GATHER] = self._fold(moves, cpus=possible_cpus())
        return found

    @property
    def sweep(self) -> Sweep:
        """Whether one run takes all, or many a part each: no run may hold up a CPU for long."""
        cpus = possible_cpus() if self.old.is_per_cpu else 1
        work = self.entries * cpus * (1 + len(self.moves) / FEW_MOVES)
        return Sweep.PART if work > 2 * WHOLE_MAX else Sweep.WHOLE

    def _fold(self, moves: Sequence[Move], *, phase: Phase = Phase.MOVE, cpus: int = 0) -> Fold:
        return Fold(
            self.old,
            self.new,
            moves,
            key_moves=self.key_moves,
            phase=phase,
            sweep=self.sweep,
            cpus=cpus,
        )


class Folding(Closing):
    """The programs that fold *old* into a new map; with *keys* they work on parts.

    It may be run again and again, by several at once too unless they share *keys*: a counter is
    taken only once.
    """

    def __init__(
        self, old: Map, programs: Mapping[Step, Program], *, keys: Map | None = None
    ) -> None:
        self.old = old
        self.programs = programs
        self.keys = keys
        self._parts = Parts(old, keys) if keys is not None else None

    @classmethod
    def load(cls, spec: FoldSpec, old: Map, new: Map) -> Self:
        """Have the programs verified and loaded; nothing is moved yet.

        *old* stays the caller's and must be open while it runs. `VerifierError` if the kernel does
        not take a program, for one because a map may not be written.
        """
        with ExitStack() as undo:
            start = undo.enter_context(_start(spec))
            maps = {code.OLD: old, code.NEW: new, code.START: start}
            keys = None
            if spec.sweep is Sweep.PART:
                keys = undo.enter_context(create_keys(old.key_size))
                maps[code.KEYS] = keys
            types = undo.enter_context(BtfHandle.load(code.fold_types()))
            programs = {}
            for step, fold in spec.programs().items():
                programs[step] = Program.load(code.fold_program(fold), maps=maps, btf=types)
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
        program = self.programs.get(Step.INSERT)
        return self._sweep(program) if program else FoldCounts()

    def move(self) -> FoldCounts:
        """Move what the entries hold; the programs that wrote the old map must have ended.

        Where keys are inserted by a step of its own, so must those that had missed one before it.
        """
        own, gather = self.programs.get(Step.MOVE), self.programs.get(Step.GATHER)
        is_again = Step.INSERT in self.programs
        if own is not None and gather is None:
            return self._sweep(own, again=is_again)
        counts, cpus = FoldCounts(), list[int]()
        if own is not None:
            cpus = sorted(os.sched_getaffinity(0))
            for cpu in cpus:
                with _running_on(cpu):
                    counts += self._sweep(own, again=is_again or cpu != cpus[0])
        if gather is not None and len(cpus) < possible_cpus():
            size = max(PART // possible_cpus(), 1)
            counts += self._sweep(gather, again=is_again or bool(cpus), size=size)
        return counts

    def _sweep(self, program: Program, *, again: bool = False, size: int = PART) -> FoldCounts:
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
