"""Follows a program's instructions, and notes what it does to the values of maps.

An abstract interpretation: every instruction is followed with all that its registers may hold, both
ways of each branch, until nothing new is learned. What cannot be followed is said, never guessed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from bpfpin.analysis import listing
from bpfpin.analysis.facts import (
    FACTS_MAX,
    FRAME_POINTER,
    POINTERS,
    UNKNOWN,
    UNKNOWN_FACT,
    Fact,
    FactKind,
    Facts,
    State,
    constant,
    difference_fact,
    join_facts,
    sum_facts,
)
from bpfpin.analysis.listing import Listing
from bpfpin.analysis.memory import call_helper, load, store
from bpfpin.analysis.uses import UNUSED, Use, UseNotes, UsingProgram
from bpfpin.insn import CALL, EXIT, Instruction
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objects.programs.xlated import xlated
from bpfpin.spec import ProgramSpec

_ADD, _SUBTRACT, _MOVE = 0x00, 0x10, 0xB0
_REGISTER: Final = 0x08
_WIDE: Final = 0x07
_SIGN_EXTENSIONS: Final = (8, 16, 32)  # in `offset`; others say which address space it is
_ADDRESSES: Final = frozenset(FactKind) - {
    FactKind.ANYTHING,
    FactKind.NUMBER,
    FactKind.LOADED,
    FactKind.ADDED,
}
INSTRUCTIONS_MAX: Final = 400_000
_JUMPS: Final = (0x05, 0x06)
_JUMP_ALWAYS: Final = (0x05, 0x06)
_IF_EQUAL, _IF_NOT_EQUAL = 0x15, 0x55
_LOADS, _LEGACY, _STORES, _ALU = (0x01,), (0x00,), (0x02, 0x03), (0x04, 0x07)
_LONG_JUMP: Final = 0x06
_SAVED: Final = range(6, 10)
Users = dict[str, tuple[UsingProgram, ...]]
_HIDDEN = "is not shown by the kernel (it takes CAP_SYSLOG, or kernel.kptr_restrict at 0)"
_UNSEEN = "has it, and what the kernel shows of it does not say what for"


# Moves between registers, sums and differences, as far as maps are concerned.
def follow_arithmetic(insn: Instruction, state: State, per_cpu: frozenset[str]) -> None:
    """Follow one instruction of the classes ALU and ALU64."""
    what = state.registers[insn.src] if insn.opcode & _REGISTER else constant(insn.imm)
    found = _answer(insn, state.registers[insn.dst], what, per_cpu)
    is_wide = insn.opcode & 0x07 == _WIDE
    state.registers[insn.dst] = found if is_wide else frozenset(map(_narrowed, found))


def _answer(insn: Instruction, before: Facts, what: Facts, per_cpu: frozenset[str]) -> Facts:
    operation = insn.opcode & 0xF0
    if operation == _MOVE:
        is_signed = insn.opcode & _REGISTER and insn.offset in _SIGN_EXTENSIONS
        return UNKNOWN if is_signed else what
    found: Facts = frozenset()
    if operation == _ADD:
        for left in before:
            for right in what:
                found |= sum_facts(left, right, per_cpu)
    elif operation == _SUBTRACT:
        found = frozenset(difference_fact(left, right) for left in before for right in what)
    else:
        return UNKNOWN
    return join_facts(found, frozenset()) if len(found) > FACTS_MAX else found


def _narrowed(fact: Fact) -> Fact:
    """Return what is left of 32 bits: no address."""
    return UNKNOWN_FACT if fact.kind in _ADDRESSES else fact


def program_uses(listing: Listing) -> Mapping[str, Use]:
    """Return what the program does to each map that it has, by the map's name."""
    walk = _Interpreter(listing)
    walk.run()
    names = {each.map for each in listing.maps.values()}
    return {name: walk.notes.use(name) for name in names}


@dataclass
class _Interpreter:
    listing: Listing
    notes: UseNotes = field(default_factory=UseNotes)
    states: dict[int, State] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    # Of each function by its first instruction: who calls it, and what it leaves behind.
    callers: dict[int, dict[int, State]] = field(default_factory=lambda: defaultdict(dict))
    ends: dict[int, State] = field(default_factory=dict)
    steps: int = 0

    def run(self) -> None:
        joints = _jump_targets(self.listing.instructions)
        self.enter(0, State.at_start())
        while self.waiting:
            at: int | None = self.waiting.pop()
            assert at is not None
            state = self.states[at].copy()
            while at is not None:
                self.steps += 1
                if self.steps > INSTRUCTIONS_MAX or at >= len(self.listing.instructions):
                    self._give_up()
                    return
                at = self.step(at, state)
                if at in joints and at is not None:
                    self.enter(at, state)
                    break

    def _give_up(self) -> None:
        for each in self.listing.maps.values():
            self.notes.tell(each.map, "is too long to be followed")

    def enter(self, at: int, state: State) -> None:
        """Go on at *at* later, if *state* brings anything new there."""
        if at not in self.states:
            self.states[at] = state.copy()
        elif not self.states[at].join(state):
            return
        if at not in self.waiting:
            self.waiting.append(at)

    def step(self, at: int, state: State) -> int | None:
        """Follow one instruction; return the next one, None where it does not go on."""
        insn = self.listing.instructions[at]
        family = insn.opcode & 0x07
        if insn.is_wide:
            state.registers[insn.dst] = self._wide(at, insn)
            return at + 2
        if family in _ALU:
            follow_arithmetic(insn, state, self.listing.per_cpu)
        elif family in _STORES:
            store(insn, state, self.notes)
        elif family in _LOADS:
            state.registers[insn.dst] = load(insn, state)
        elif family in _LEGACY:
            state.registers[:6] = [UNKNOWN] * 6
        else:
            return self._jump(at, insn, state)
        return at + 1

    def _wide(self, at: int, insn: Instruction) -> Facts:
        if at in self.listing.functions:
            return frozenset({Fact(FactKind.CODE, offset=self.listing.functions[at])})
        used = self.listing.maps.get(at)
        if used is None:
            return UNKNOWN if insn.src else constant(insn.imm)
        if used.at is None:
            return frozenset({Fact(FactKind.MAP, used.map)})
        return frozenset({Fact(FactKind.VALUE, used.map, used.at)})

    def _jump(self, at: int, insn: Instruction, state: State) -> int | None:
        if insn.opcode == EXIT:
            self._leave(state)
            return None
        if insn.opcode == CALL:
            return self._call(at, insn, state)
        target = at + 1 + (insn.imm if insn.opcode == _LONG_JUMP else insn.offset)
        if insn.opcode in _JUMP_ALWAYS:
            return target
        taken = state.copy()
        if insn.opcode in (_IF_EQUAL, _IF_NOT_EQUAL) and insn.imm == 0:
            _learn_null(taken, insn.dst, is_null=insn.opcode == _IF_EQUAL)
            _learn_null(state, insn.dst, is_null=insn.opcode != _IF_EQUAL)
        self.enter(target, taken)
        return at + 1

    def _call(self, at: int, insn: Instruction, state: State) -> int | None:
        if at in self.listing.functions:
            self._enter_function(at, self.listing.functions[at], state)
            return None
        arguments = state.registers[1:6]
        for fact in frozenset().union(*arguments):
            if fact.kind is FactKind.CODE and fact.offset is not None:
                self._enter_callback(fact.offset, arguments, state)
        call_helper(self.listing.helpers.get(at, "a function of the kernel"), state, self.notes)
        return at + 1

    def _enter_function(self, at: int, function: int, state: State) -> None:
        site = self.callers[function].get(at)
        if site is None:
            self.callers[function][at] = state.copy()
        else:
            site.join(state)
        inner = State.at_start(function)
        inner.registers[1:6] = state.registers[1:6]
        inner.stack, inner.missed = dict(state.stack), state.missed
        self.enter(function, inner)
        if function in self.ends:
            self._return(at, function)

    def _enter_callback(self, function: int, arguments: Iterable[Facts], state: State) -> None:
        """Enter what a helper calls: any of its arguments may be any of the helper's."""
        inner = State.at_start(function)
        given = UNKNOWN.union(*arguments)
        inner.registers[1:6] = [given] * 5
        inner.stack = dict(state.stack)
        self.enter(function, inner)

    def _leave(self, state: State) -> None:
        function = next(iter(state.registers[FRAME_POINTER])).frame
        if function not in self.ends:
            self.ends[function] = state.copy()
        elif not self.ends[function].join(state):
            return
        for at in self.callers[function]:
            self._return(at, function)

    def _return(self, at: int, function: int) -> None:
        site, end = self.callers[function][at], self.ends[function]
        state = State(missed=end.missed, stack=dict(end.stack))
        state.registers[0] = end.registers[0]
        for register in (*_SAVED, FRAME_POINTER):
            state.registers[register] = site.registers[register]
        self.enter(at + 1, state)


def _jump_targets(code: tuple[Instruction, ...]) -> frozenset[int]:
    """Return the instructions that several ways lead to."""
    found: set[int] = set()
    for at, insn in enumerate(code):
        if insn.opcode & 0x07 in _JUMPS and insn.opcode not in (CALL, EXIT):
            found.add(at + 1 + (insn.imm if insn.opcode == _LONG_JUMP else insn.offset))
    return frozenset(found)


def _learn_null(state: State, register: int, *, is_null: bool) -> None:
    """Take in that an address is null, or is not: what a lookup answered."""
    facts = state.registers[register]
    if not is_null:
        kept = (one for one in facts if one.kind not in (FactKind.MISSED, FactKind.NUMBER))
        state.registers[register] = frozenset(kept) or UNKNOWN
        return
    maps = {one.map for one in facts if one.kind in POINTERS or one.kind is FactKind.MISSED}
    if len(maps) == 1 and all(one.kind in POINTERS or one.kind is FactKind.MISSED for one in facts):
        state.missed |= maps
    state.registers[register] = frozenset(
        Fact(FactKind.MISSED, one.map) if one.kind in POINTERS else one for one in facts
    )


# The programs that use maps, by map: those of an object file, and those that are loaded.


def users_of_specs(programs: Iterable[ProgramSpec]) -> Users:
    """Return what programs of an object file do to each map, by the map's name."""
    found: dict[str, list[UsingProgram]] = defaultdict(list)
    for program in programs:
        for name, use in program_uses(listing.listing_of_spec(program)).items():
            found[name].append(UsingProgram.of_spec(program, use))
    return {name: tuple(users) for name, users in found.items()}


def users_of_programs(programs: Iterable[Program], maps: Mapping[str, Map]) -> Users:
    """Return what loaded programs do to each of *maps*, by the name that it has there."""
    names = {held.id: name for name, held in maps.items()}
    per_cpu = frozenset(name for name, held in maps.items() if held.is_per_cpu)
    found: dict[str, list[UsingProgram]] = defaultdict(list)
    for program in programs:
        info, code = program.info, xlated(program.fd)
        used = program_uses(listing.listing_of_kernel(code, names, per_cpu)) if code else {}
        for name in (names[id_] for id_ in info.map_ids if id_ in names):
            unknown = replace(UNUSED, unknown=(_UNSEEN if code else _HIDDEN,))
            found[name].append(UsingProgram.of_info(info, used.get(name, unknown)))
    return {name: tuple(users) for name, users in found.items()}
