"""Folds that are wrong on purpose: what they lose shows that a loss would be seen."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from unittest import mock

from bpfpin import assembler as a
from bpfpin.assembler import Assembler
from bpfpin.btf.layout import Span
from bpfpin.migration import fold_member, fold_program
from bpfpin.migration.fold import FoldPrograms, FoldSpec
from bpfpin.migration.fold_program import FoldProgram
from bpfpin.migration.members import MemberMove
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from bpfpin.uapi_helpers import FuncId
from support.folding import shape_of

ENTRIES = 200_000
READINGS = 4  # of the clock between reading a counter and writing it, about 100 ns
OTHER_CPU = 1

Spoiled = Callable[[], contextlib.AbstractContextManager[object]]


def plain_add() -> contextlib.AbstractContextManager[object]:
    """Let folds read, add and write, so that a packet that comes between is lost."""
    return mock.patch.object(fold_member, "_sum", _add_plainly)


def other_slot() -> contextlib.AbstractContextManager[object]:
    """Let folds add to the values of another CPU, whose programs add plainly meanwhile."""
    return mock.patch.object(fold_program, "_look_up_new", _look_up_other)


def _add_plainly(writer: Assembler, move: MemberMove) -> None:
    writer.set(a.R1, 0)
    writer.atomic(a.ATOMIC_EXCHANGE, a.R7, move.old.offset, a.R1, size=8)
    writer.store(a.FP, -64, a.R1)
    writer.load(a.R2, a.R9, move.new.offset, 8)
    writer.store(a.FP, -72, a.R2)
    for _ in range(READINGS):
        writer.call(FuncId.ktime_get_ns)
    writer.load(a.R1, a.FP, -64, 8)
    writer.load(a.R2, a.FP, -72, 8)
    writer.emit(a.ADD_REG, a.R2, src=a.R1)
    writer.store(a.R9, move.new.offset, a.R2)


def _look_up_other(writer: Assembler, fold: FoldProgram) -> None:
    writer.map(a.R1, fold_program.NEW)
    fold_program._key(writer, fold)
    writer.set(a.R3, OTHER_CPU)
    writer.call(FuncId.map_lookup_percpu_elem)


@contextlib.contextmanager
def ones() -> Iterator[Map]:
    """Make a map of many counters, each of them 1."""
    with Map.create(MapSpec("ones", MapType.HASH, 4, 8, ENTRIES)) as made:
        fill(made)
        yield made


def fill(made: Map) -> None:
    """Let all counters be 1."""
    keys = b"".join(key.to_bytes(4, "little") for key in range(ENTRIES))
    made.update_arrays(keys, (1).to_bytes(8, "little") * ENTRIES)


def fold_into_one(source: Map, target: Map, offset: int) -> int:
    """Fold all counters into the first element of *target* on CPU 0; return what was added."""
    spec = FoldSpec(
        shape_of(source),
        shape_of(target),
        [MemberMove("packets", Span(0, 8), Span(offset, 8))],
        bytes(target.value_size),
        key_moves=[],
        entries=ENTRIES,
    )
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {0})
    try:
        with FoldPrograms.load(spec, source, target) as folding:
            fill(source)
            folding.move()
    finally:
        os.sched_setaffinity(0, before)
    return ENTRIES
