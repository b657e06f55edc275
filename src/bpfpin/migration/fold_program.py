"""The program that folds an old map into a new one, generated for the two maps at hand.

A program of type syscall walks the old map in the kernel. Of each entry it finds the key in the
new map, or inserts it with first values, and moves the members. A counter is *taken* from the old
map by an atomic exchange with 0 and then added atomically, so that it is counted exactly once
however often the fold runs and whoever else runs it; everything else may be repeated as it is.

The context that the program is run with is three numbers of 64 bits, which it fills in: entries
visited, inserted, and those there was no room for. A program that works on a part finds in the
first how many keys the part has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from bpfpin import assembler as a
from bpfpin.assembler import Assembler
from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Function, FunctionPrototype, Int, IntEncoding, Linkage
from bpfpin.btf.write import BtfBuilder
from bpfpin.migration.fold_member import move_member, rebuild_key
from bpfpin.migration.members import MapShape, MemberMove
from bpfpin.migration.request import Rule
from bpfpin.spec import FunctionSpec, ProgramSpec
from bpfpin.uapi import FuncId, ProgramFlag, ProgramType, UpdateFlag

OLD: Final = "old"
NEW: Final = "new"
START: Final = "start"  # an array of one element: the value that a new entry begins with
KEYS: Final = "keys"  # an array of keys of the old map, when it is folded in parts

CONTEXT_SIZE: Final = 3 * 8
KEY_SIZE_MAX: Final = 400  # the stack of a program is 512 bytes

_VISITED, _INSERTED, _FAILED = range(0, CONTEXT_SIZE, 8)
_LIMIT = CONTEXT_SIZE  # behind the counters, on the stack alone
_STACK = CONTEXT_SIZE + 8
_EEXIST = -17  # what a helper returns for a key that is there
_KEY = -16  # below it on the stack: the index of the start value, then the key
_MAIN, _EACH = "fold", "fold_entry"
_TYPE_MAIN, _TYPE_EACH = 3, 4


class Phase(Enum):
    """What a fold does to each entry.

    A hash that several CPUs share is filled with first values before anything is moved: a program
    that missed a key just now would else store its own first value over what was moved.
    """

    INSERT = "insert"
    MOVE = "move"


class FoldWalk(Enum):
    """What a fold goes through: the old map itself, or the keys of one part of it."""

    WHOLE = "whole"
    PART = "part"


@dataclass(frozen=True)
class FoldProgram:
    """One program to be generated.

    *key_moves* are None where the key stays as it is. *cpus*: take the values of so many CPUs of a
    per-CPU map and not only this one's; 0 is this one's, or those of a map that is shared.
    """

    old: MapShape
    new: MapShape
    moves: Sequence[MemberMove]
    key_moves: Sequence[MemberMove] | None = None
    phase: Phase = Phase.MOVE
    sweep: FoldWalk = FoldWalk.WHOLE
    cpus: int = 0


def fold_types() -> Btf:
    """Return the types that a program with a callback needs: two functions."""
    types = BtfBuilder()
    number = types.add(Int("int", 4, 32, IntEncoding.SIGNED))
    prototype = types.add(FunctionPrototype(number, ()))
    for name in (_MAIN, _EACH):
        types.add(Function(name, prototype, Linkage.STATIC))
    return Btf.parse(types.build())


def fold_program(fold: FoldProgram) -> ProgramSpec:
    """Return the program; its maps are called `old`, `new`, `start` and, for a part, `keys`."""
    return ProgramSpec(
        _MAIN,
        ProgramType.SYSCALL,
        "syscall",
        (_main(fold), _each(fold)),
        license="GPL",
        program_flags=ProgramFlag.SLEEPABLE,
    )


def _main(fold: FoldProgram) -> FunctionSpec:
    """Walk the map; the callback counts on this function's stack."""
    code = Assembler(_MAIN)
    code.move(a.R6, a.R1)
    code.load(a.R2, a.R6, 0, 8)
    code.store(a.FP, _LIMIT - _STACK, a.R2)
    code.set(a.R1, 0)
    for at in range(0, CONTEXT_SIZE, 8):
        code.store(a.FP, at - _STACK, a.R1)
    code.map(a.R1, OLD if fold.sweep is FoldWalk.WHOLE else KEYS)
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
    """Fold one entry; registers 6 to 9: the old key, the old value, the counters, the new value."""
    code = Assembler(_EACH)
    code.move(a.R6, a.R2)
    code.move(a.R7, a.R3)
    code.move(a.R8, a.R4)
    if fold.sweep is FoldWalk.PART:
        _enter_part(code, fold)
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


def _enter_part(code: Assembler, fold: FoldProgram) -> None:
    """Take the key from the walk's value, and look the old value up; end after the last key."""
    inside, found = code.new_label(), code.new_label()
    code.load(a.R1, a.R6, 0, 4)
    code.load(a.R2, a.R8, _LIMIT, 8)
    code.jump(inside, a.IF_BELOW_REG[False], a.R1, src=a.R2)
    code.leave(1)
    code.put(inside)
    code.move(a.R6, a.R7)
    if fold.phase is Phase.INSERT:
        return
    code.map(a.R1, OLD)
    code.move(a.R2, a.R6)
    code.call(FuncId.map_lookup_elem)
    code.jump(found, a.IF_NOT_EQUAL, a.R0, imm=0)
    code.leave()
    code.put(found)
    code.move(a.R7, a.R0)


def _count(code: Assembler, at: int) -> None:
    code.load(a.R1, a.R8, at, 8)
    code.add(a.R1, 1)
    code.store(a.R8, at, a.R1)


def _leave_if_cut_off(code: Assembler, fold: FoldProgram) -> None:
    """Elements beyond the end of a smaller array are lost unless they are 0: those are no loss."""
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
    """Let register 9 point to the new value; leave where there is no room for one."""
    there, ready, full = code.new_label(), code.new_label(), code.new_label()
    _look_up_new(code, fold)
    code.jump(there, a.IF_NOT_EQUAL, a.R0, imm=0)
    _insert(code, fold, full)
    _look_up_new(code, fold)
    code.jump(full, a.IF_EQUAL, a.R0, imm=0)
    code.move(a.R9, a.R0)
    _count(code, _INSERTED)
    code.jump(ready)
    code.put(full)
    _count(code, _FAILED)
    code.leave()
    code.put(there)
    code.move(a.R9, a.R0)
    code.put(ready)


def _insert_only(code: Assembler, fold: FoldProgram) -> None:
    """Insert the key if it is not there; one call does both, except where it may evict another."""
    done, full = code.new_label(), code.new_label()
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
    """Insert the start value unless the key is there; register 0 is what the helper returns."""
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
    """Return where on the stack a key of that size begins, *below* being taken already."""
    return below - (key_size + 7) // 8 * 8


def _move_all(code: Assembler, fold: FoldProgram) -> None:
    if not fold.cpus:
        for move in fold.moves:
            move_member(code, move)
        return
    _for_each_cpu(code, fold)


def _for_each_cpu(code: Assembler, fold: FoldProgram) -> None:
    """Move what every CPU has of the old value; the number of the CPU is kept on the stack.

    The verifier goes through the loop CPU by CPU: 256 of them are 25,000 instructions to it.
    """
    again, end = code.new_label(), code.new_label()
    code.set(a.R7, 0)
    code.put(again)
    code.map(a.R1, OLD)
    code.move(a.R2, a.R6)
    code.move(a.R3, a.R7)
    code.call(FuncId.map_lookup_percpu_elem)
    code.jump(end, a.IF_EQUAL, a.R0, imm=0)
    code.store(a.FP, -8, a.R7)
    code.move(a.R7, a.R0)
    for move in fold.moves:
        move_member(code, move)
    code.load(a.R7, a.FP, -8, 8)
    code.add(a.R7, 1)
    code.jump(again, a.IF_BELOW, a.R7, imm=fold.cpus)
    code.put(end)


def needs_insert_phase(new: MapShape) -> bool:
    """Whether first values must be inserted before anything is moved: in hashes that are shared."""
    return new.is_hash and not new.is_per_cpu
