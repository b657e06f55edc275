"""Generates the BPF program that folds an old map into a new one.

A program of type BPF_PROG_TYPE_SYSCALL walks the old map in the kernel (`bpf_for_each_map_elem`).
For each entry it looks the key up in the new map, or inserts it with first values, and moves the
members.

Why that is exact, for counters that programs only add to:

* *Conservation.* A counter is taken from the old map by an atomic exchange with 0 (`xchg`), and
  the old number is added to the new map by an atomic addition. The sum of both maps stays the same
  even if another fold runs at the same time, so a fold may run twice or be repeated after a crash:
  a counter that was taken already is 0.
* *No half move.* A run of a BPF program is not interrupted by a signal. SIGKILL in the middle of a
  run over 1,000,000 entries takes effect after it (measured on Linux 6.18).
* *Completeness.* The fold runs after the hooks were switched and every old program has ended
  (`fold.wait_for_programs`), so that nothing is added to the old map any more.
* *Shared maps.* The new programs add atomically too (`exact` checks that).
* *Per-CPU maps.* The new programs may add with a plain load, add and store, in a softirq. The fold
  is a task on the same CPU and adds to that CPU's value alone, with one instruction: a task cannot
  run in the middle of a softirq, so its addition comes before the load or after the store.
  Measured: 341,000,000 additions against 600,000 packets lost none; plain additions in the fold
  lost 27,634, and atomic ones to another CPU's value 823.
* *Insertions.* See `Phase`.

The other rules (keep-new, keep-old, max, min) give the same result when they are repeated.

The context of the program is four 64-bit numbers that it fills in: the entries visited, inserted
and failed (no room for them), and the numbers given up (`fold_member.GAVE_UP`). A program that
works on a chunk of keys reads the number of keys from the first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from enum import Enum
from typing import Final

import bpfpin.assembler as a
from bpfpin.assembler import Assembler
from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Function, FunctionPrototype, Int, IntEncoding, Linkage
from bpfpin.btf.write import BtfBuilder
from bpfpin.migration.fold_member import GAVE_UP, move_member, rebuild_key
from bpfpin.migration.members import MapShape, MemberMove
from bpfpin.migration.request import Rule
from bpfpin.records import dataclass
from bpfpin.spec import FunctionSpec, ProgramSpec
from bpfpin.uapi import ProgramFlag, ProgramType, UpdateFlag
from bpfpin.uapi_helpers import FuncId

OLD: Final = "old"
NEW: Final = "new"
START: Final = "start"  # an array of one element: the value that a new entry begins with
KEYS: Final = "keys"  # an array of keys of the old map, when it is folded in chunks

CONTEXT_SIZE: Final = GAVE_UP + 8
KEY_SIZE_MAX: Final = 400  # it is built on the stack, of 512 bytes (MAX_BPF_STACK)

_VISITED, _INSERTED, _FAILED = range(0, GAVE_UP, 8)
_LIMIT = CONTEXT_SIZE  # after the counters: the number of keys, on the stack alone
_STACK = CONTEXT_SIZE + 8
_EEXIST = -17  # bpf_map_update_elem with BPF_NOEXIST, if the key exists
# The callback's stack: at -8 the index of the start value (or the CPU), below -16 the new key.
_KEY = -16
_MAIN, _EACH = "fold", "fold_entry"
_TYPE_MAIN, _TYPE_EACH = 3, 4


class Phase(Enum):
    """What a fold program does to each entry.

    A hash that several CPUs share is folded in two phases. A new program that looked a key up just
    before the fold inserted it would store its own first value (BPF_ANY) over the moved counts: 512
    packets lost in 60 migrations with a slow program (measured), none with two phases. So the keys
    are inserted with first values alone, then every program that may have missed one is waited for,
    then the counts are moved.
    """

    INSERT = "insert"
    MOVE = "move"


class FoldWalk(Enum):
    """What a fold program walks: the old map itself, or an array with a chunk of its keys."""

    WHOLE = "whole"
    CHUNK = "chunk"


@dataclass(frozen=True)
class FoldProgram:
    """The description of one program to be generated.

    Attributes:
        old: Type, sizes and flags of the old map.
        new: Type, sizes and flags of the new map.
        moves: The moves of value members.
        key_moves: The moves of key members; None if the key stays as it is.
        phase: What the program does to each entry.
        walk: What it walks: the old map, or a chunk of its keys.
        cpus: The numbers of the CPUs whose values it takes from a per-CPU map, in order; none takes
            the value of the CPU that it runs on, or of a shared map.
    """

    old: MapShape
    new: MapShape
    moves: Sequence[MemberMove]
    key_moves: Sequence[MemberMove] | None = None
    phase: Phase = Phase.MOVE
    walk: FoldWalk = FoldWalk.WHOLE
    cpus: tuple[int, ...] = ()


def fold_types() -> Btf:
    """Return the BTF that the verifier requires of a program with a callback: its two functions."""
    types = BtfBuilder()
    number = types.add(Int("int", 4, 32, IntEncoding.SIGNED))
    prototype = types.add(FunctionPrototype(number, ()))
    # Static: a callback that is a global function is refused ("callback function not static").
    for name in (_MAIN, _EACH):
        types.add(Function(name, prototype, Linkage.STATIC))
    return Btf.parse(types.build())


def fold_program(fold: FoldProgram) -> ProgramSpec:
    """Return the program; its maps are called `old`, `new`, `start` and, for chunks, `keys`."""
    return ProgramSpec(
        _MAIN,
        ProgramType.SYSCALL,
        "syscall",
        (_main(fold), _each(fold)),
        license="GPL",
        # "Syscall programs can only be sleepable" (bpf_check() of kernel/bpf/verifier.c).
        program_flags=ProgramFlag.SLEEPABLE,
    )


def _main(fold: FoldProgram) -> FunctionSpec:
    """Generate the main function: it walks the map, and the callback counts on its stack.

    The verifier takes only the stack (or NULL) as a callback's context, so the counts are copied to
    the program's context at the end.
    """
    code = Assembler(_MAIN)
    code.move(a.R6, a.R1)
    # User space put the number of keys of this chunk into the place of the first counter. It moves
    # to the stack, where the callback can read it.
    code.load(a.R2, a.R6, 0, 8)
    code.store(a.FP, _LIMIT - _STACK, a.R2)
    code.set(a.R1, 0)
    for at in range(0, CONTEXT_SIZE, 8):
        code.store(a.FP, at - _STACK, a.R1)
    code.map(a.R1, OLD if fold.walk is FoldWalk.WHOLE else KEYS)
    code.function(a.R2, _EACH)
    code.move(a.R3, a.FP)
    code.add(a.R3, -_STACK)
    code.set(a.R4, 0)
    code.call(FuncId.for_each_map_elem)
    for at in range(0, CONTEXT_SIZE, 8):
        code.load(a.R1, a.FP, at - _STACK, 8)
        code.store(a.R6, at, a.R1)
    code.leave()
    return code.finish(_TYPE_MAIN)


def _each(fold: FoldProgram) -> FunctionSpec:
    """Generate the callback. Registers 6 to 9: old key, old value, counters, new value."""
    code = Assembler(_EACH)
    # Registers 6 to 9 survive the calls of helpers, the arguments in 1 to 5 do not.
    code.move(a.R6, a.R2)
    code.move(a.R7, a.R3)
    code.move(a.R8, a.R4)
    if fold.walk is FoldWalk.CHUNK:
        _enter_chunk(code, fold)
    _count(code, _VISITED)
    _leave_if_cut_off(code, fold)
    if fold.key_moves is not None:
        rebuild_key(code, fold.key_moves, fold.new.key_size, at=_KEY)
    if fold.phase is Phase.MOVE:
        _find_or_insert(code, fold)
        _move_all(code, fold)
    else:
        _insert_only(code, fold)
    code.leave()
    return code.finish(_TYPE_EACH)


def _enter_chunk(code: Assembler, fold: FoldProgram) -> None:
    """Read the key from the array, and look the old value up; end the walk after the last key."""
    # The keys travel in an array, not in the context: the verifier refuses to read the context at
    # a variable offset ("variable ctx access var_off ... disallowed").
    inside, exists = code.new_label(), code.new_label()
    code.load(a.R1, a.R6, 0, 4)
    code.load(a.R2, a.R8, _LIMIT, 8)
    code.jump(inside, a.IF_BELOW_REG[False], a.R1, src=a.R2)
    # 1 ends bpf_for_each_map_elem(), 0 goes on (include/uapi/linux/bpf.h). The rest of the array
    # has keys of an earlier chunk.
    code.leave(1)
    code.put(inside)
    code.move(a.R6, a.R7)
    if fold.phase is Phase.INSERT:
        return
    code.map(a.R1, OLD)
    code.move(a.R2, a.R6)
    code.call(FuncId.map_lookup_elem)
    code.jump(exists, a.IF_NOT_EQUAL, a.R0, imm=0)
    code.leave()
    code.put(exists)
    code.move(a.R7, a.R0)


def _count(code: Assembler, at: int) -> None:
    # Counted without atomic operations: the counters are on the stack of this run alone.
    code.load(a.R1, a.R8, at, 8)
    code.add(a.R1, 1)
    code.store(a.R8, at, a.R1)


def _leave_if_cut_off(code: Assembler, fold: FoldProgram) -> None:
    """Leave at an element beyond the end of a smaller array; count it as failed unless it is 0."""
    is_cut_off = fold.new.is_array and fold.new.max_entries < fold.old.max_entries
    if not is_cut_off or not fold.old.is_array or fold.key_moves is not None:
        return
    inside, empty = code.new_label(), code.new_label()
    code.load(a.R1, a.R6, 0, 4)
    code.jump(inside, a.IF_BELOW, a.R1, imm=fold.new.max_entries)
    counted = [move for move in fold.moves if move.rule is Rule.SUM and not move.is_bytes]
    code.set(a.R2, 0)
    for move in counted:
        code.load(a.R1, a.R7, move.old.offset, move.old.size)
        code.emit(a.OR_REG, a.R2, src=a.R1)
    code.jump(empty, a.IF_EQUAL, a.R2, imm=0)
    _count(code, _FAILED)
    code.put(empty)
    code.leave()
    code.put(inside)


def _find_or_insert(code: Assembler, fold: FoldProgram) -> None:
    """Let register 9 point to the new value; leave if there is no room, and keep the old counts."""
    exists, ready, full = code.new_label(), code.new_label(), code.new_label()
    _look_up_new(code, fold)
    code.jump(exists, a.IF_NOT_EQUAL, a.R0, imm=0)
    # EEXIST is as good as success: a new program was faster. The second lookup tells.
    _insert(code, fold, full)
    _look_up_new(code, fold)
    code.jump(full, a.IF_EQUAL, a.R0, imm=0)
    code.move(a.R9, a.R0)
    _count(code, _INSERTED)
    code.jump(ready)
    code.put(full)
    _count(code, _FAILED)
    code.leave()
    code.put(exists)
    code.move(a.R9, a.R0)
    code.put(ready)


def _insert_only(code: Assembler, fold: FoldProgram) -> None:
    """Insert the key if the new map lacks it."""
    done, full = code.new_label(), code.new_label()
    # The update itself tells whether the key exists, except in an LRU hash: it takes an element
    # first, and may evict another entry for it, before it finds the key (htab_lru_map_update_elem()
    # of kernel/bpf/hashtab.c).
    if fold.new.is_lru:
        _look_up_new(code, fold)
        code.jump(done, a.IF_NOT_EQUAL, a.R0, imm=0)
    _insert(code, fold, full)
    code.jump(done, a.IF_EQUAL, a.R0, imm=_EEXIST)
    code.jump(full, a.IF_NOT_EQUAL, a.R0, imm=0)
    _count(code, _INSERTED)
    code.jump(done)
    code.put(full)
    _count(code, _FAILED)
    code.put(done)


def _look_up_new(code: Assembler, fold: FoldProgram) -> None:
    code.map(a.R1, NEW)
    _key(code, fold)
    code.call(FuncId.map_lookup_elem)


def _insert(code: Assembler, fold: FoldProgram, full: str) -> None:
    """Insert the start value with BPF_NOEXIST; the helper's result is in register 0.

    The start value is an element of an array and not on the stack, which is too small for a value
    of more than some 400 bytes.
    """
    code.set(a.R1, 0)
    code.store(a.FP, -8, a.R1)
    code.map(a.R1, START)
    code.move(a.R2, a.FP)
    code.add(a.R2, -8)
    code.call(FuncId.map_lookup_elem)
    code.jump(full, a.IF_EQUAL, a.R0, imm=0)
    code.move(a.R3, a.R0)
    code.map(a.R1, NEW)
    _key(code, fold)
    code.set(a.R4, UpdateFlag.NOEXIST)
    code.call(FuncId.map_update_elem)


def _key(code: Assembler, fold: FoldProgram) -> None:
    """Let register 2 point to the key in the new map."""
    if fold.key_moves is None:
        code.move(a.R2, a.R6)
    else:
        code.move(a.R2, a.FP)
        code.add(a.R2, key_place(fold.new.key_size, _KEY))


def key_place(key_size: int, below: int) -> int:
    """Return the stack offset of a key of that size under *below*, in slots of eight bytes."""
    return below - (key_size + 7) // 8 * 8


def _move_all(code: Assembler, fold: FoldProgram) -> None:
    if not fold.cpus:
        for move in fold.moves:
            move_member(code, move)
        return
    _for_each_cpu(code, fold)


def _for_each_cpu(code: Assembler, fold: FoldProgram) -> None:
    """Move the old value of every CPU; the number of the CPU is kept on the stack.

    Numbers of CPUs that are not possible are left out: the helper compares with nr_cpu_ids alone
    (percpu_array_map_lookup_percpu_elem() of kernel/bpf/arraymap.c), and per_cpu_ptr() of another
    number is a wild pointer.

    The verifier unrolls the loop: 256 CPUs are 25,000 instructions to it, 1,024 are 98,000
    (measured), of the 1,000,000 that it takes.
    """
    again, end = code.new_label(), code.new_label()
    code.set(a.R7, fold.cpus[0])
    code.put(again)
    code.map(a.R1, OLD)
    code.move(a.R2, a.R6)
    code.move(a.R3, a.R7)
    code.call(FuncId.map_lookup_percpu_elem)
    # NULL: no entry (htab_percpu_map_lookup_percpu_elem() of kernel/bpf/hashtab.c). So no later CPU
    # can have a value.
    code.jump(end, a.IF_EQUAL, a.R0, imm=0)
    # `move_member` takes the old value from register 7, and all registers that survive calls are
    # taken.
    code.store(a.FP, -8, a.R7)
    code.move(a.R7, a.R0)
    for move in fold.moves:
        move_member(code, move)
    code.load(a.R7, a.FP, -8, 8)
    code.add(a.R7, 1)
    for last, following in itertools.pairwise(fold.cpus):
        if following != last + 1:
            possible = code.new_label()
            code.jump(possible, a.IF_NOT_EQUAL, a.R7, imm=last + 1)
            code.set(a.R7, following)
            code.put(possible)
    code.jump(again, a.IF_BELOW, a.R7, imm=fold.cpus[-1] + 1)
    code.put(end)


def needs_insert_phase(new: MapShape) -> bool:
    """Whether keys are inserted in a phase of their own: only in hashes that all CPUs share.

    In a per-CPU hash an update writes the value of its own CPU alone.
    """
    return new.is_hash and not new.is_per_cpu
