"""The abstract interpreter: follows a program and notes what it may do to the values of maps.

Each instruction is executed on sets of facts instead of values (`facts`), on both sides of every
branch, until no state changes any more. What the model holds:

* registers and 8-byte stack slots, with pointers into maps, values and the stack, and with numbers
  that were read from a value;
* lookups and the facts known after their NULL check; updates, deletions, atomic operations;
* functions of the program and callbacks (`bpf_for_each_map_elem`, `bpf_loop`).

What it gives up: the path taken (both sides of a branch are followed whatever the condition),
values of numbers except constants, other memory than values and the stack, and which entry of a map
a pointer is in. A store through an address that may lie in a value is always noted, and a map that
is handed to code outside of the model is noted as unknown: no migration of it is "exact"
(`migration.exact`).

That this is enough rests on the verifier, which accepted the program or will before it runs: it
refuses stores through anything but a known pointer, arithmetic that could leave the value, reads of
clobbered registers, and recursion.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

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
from bpfpin.analysis.listing import Listing, listing_of_kernel, listing_of_spec, xlated
from bpfpin.analysis.memory import call_helper, load, store
from bpfpin.analysis.uses import UNUSED, Use, UseNotes, UsingProgram
from bpfpin.insn import CALL, EXIT, Instruction
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.spec import ProgramSpec

_ADD, _SUBTRACT, _MOVE = 0x00, 0x10, 0xB0
_REGISTER: Final = 0x08
# Numbers in `offset` of a move: its sign is extended from so many bits. Other numbers there are
# casts of address spaces (arena).
_SIGN_EXTENSIONS: Final = frozenset({8, 16, 32})
_ADDRESSES: Final = frozenset(FactKind) - {
    FactKind.ANYTHING,
    FactKind.NUMBER,
    FactKind.LOADED,
    FactKind.ADDED,
}
# Instructions followed before giving up; the verifier itself gives up after 1,000,000.
INSTRUCTIONS_MAX: Final = 400_000
# Classes of instructions: the lower bits of their codes (include/uapi/linux/bpf.h). Class LD,
# 64-bit loads aside, is the legacy packet access of classic BPF: it clobbers R0 to R5.
_CLASS: Final = 0x07
_LOADS, _LEGACY, _STORES, _ALU = (0x01,), (0x00,), (0x02, 0x03), (0x04, 0x07)
_JUMP_CLASSES: Final = (0x05, 0x06)
_ALU64: Final = 0x07
# Whole codes. JA is 0, so the code of an unconditional jump is its class: with a distance in
# `offset`, or in `imm` (the long one).
_JUMP, _LONG_JUMP = 0x05, 0x06
_IF_EQUAL, _IF_NOT_EQUAL = 0x15, 0x55
_SAVED: Final = range(6, 10)
Users = dict[str, tuple[UsingProgram, ...]]
_HIDDEN = "is not shown by the kernel (it takes CAP_SYSLOG, or kernel.kptr_restrict at 0)"
_UNSEEN = "has it, and what the kernel shows of it does not say what for"


def follow_arithmetic(insn: Instruction, state: State, per_cpu: frozenset[str]) -> None:
    """Follow one instruction of the classes ALU and ALU64: moves, sums and differences."""
    operand = state.registers[insn.src] if insn.opcode & _REGISTER else constant(insn.imm)
    facts = _result(insn, state.registers[insn.dst], operand, per_cpu)
    is_64_bits = insn.opcode & _CLASS == _ALU64
    state.registers[insn.dst] = facts if is_64_bits else frozenset(map(_lower_half, facts))


def _result(insn: Instruction, before: Facts, operand: Facts, per_cpu: frozenset[str]) -> Facts:
    operation = insn.opcode & 0xF0
    if operation == _MOVE:
        is_signed = insn.opcode & _REGISTER and insn.offset in _SIGN_EXTENSIONS
        return UNKNOWN if is_signed else operand
    facts: Facts = frozenset()
    if operation == _ADD:
        for left in before:
            for right in operand:
                facts |= sum_facts(left, right, per_cpu)
    elif operation == _SUBTRACT:
        facts = frozenset(difference_fact(left, right) for left in before for right in operand)
    else:
        # Multiplied, shifted or masked: no counter any more, and no address (the verifier refuses
        # such arithmetic on pointers).
        return UNKNOWN
    return join_facts(facts, frozenset()) if len(facts) > FACTS_MAX else facts


def _lower_half(fact: Fact) -> Fact:
    """Return the fact of the lower 32 bits: half an address is none."""
    return UNKNOWN_FACT if fact.kind in _ADDRESSES else fact


def program_uses(listing: Listing) -> Mapping[str, Use]:
    """Return what a program does to each map it refers to, by the map's name."""
    interpreter = _Interpreter(listing)
    interpreter.run()
    names = {reference.map for reference in listing.maps.values()}
    return {name: interpreter.notes.use(name) for name in names}


@dataclass
class _Interpreter:
    """Runs a work list of positions to a fixed point.

    *states* holds the joined state before each entry of the list: jump targets, returns and entries
    of functions. Between them an instruction has one predecessor, and its state is not kept.
    """

    listing: Listing
    notes: UseNotes = field(default_factory=UseNotes)
    states: dict[int, State] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    # By a function's first instruction: the state at each call of it, and its joined state at exit.
    # A function is analysed once for all its callers (context-insensitive).
    callers: dict[int, dict[int, State]] = field(default_factory=lambda: defaultdict(dict))
    ends: dict[int, State] = field(default_factory=dict)
    steps: int = 0

    def run(self) -> None:
        targets = _jump_targets(self.listing.instructions)
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
                if at in targets and at is not None:
                    self.enter(at, state)
                    break

    def _give_up(self) -> None:
        for reference in self.listing.maps.values():
            self.notes.note_unknown(reference.map, "is too long to be followed")

    def enter(self, at: int, state: State) -> None:
        """Schedule the position *at*, if *state* adds a fact to those known at it."""
        if at not in self.states:
            self.states[at] = state.copy()
        # Nothing new: this ends loops, since facts only grow and are finite (`facts`).
        elif not self.states[at].join(state):
            return
        if at not in self.waiting:
            self.waiting.append(at)

    def step(self, at: int, state: State) -> int | None:
        """Follow one instruction; return the next position, None if this path ends here."""
        insn = self.listing.instructions[at]
        family = insn.opcode & _CLASS
        if insn.is_wide:
            state.registers[insn.dst] = self._load_immediate(at, insn)
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

    def _load_immediate(self, at: int, insn: Instruction) -> Facts:
        """Return the facts of a 64-bit constant, which takes two slots: a number or an address."""
        if at in self.listing.functions:
            return frozenset({Fact(FactKind.CODE, offset=self.listing.functions[at])})
        reference = self.listing.maps.get(at)
        if reference is None:
            return UNKNOWN if insn.src else constant(insn.imm)
        if reference.at is None:
            return frozenset({Fact(FactKind.MAP, reference.map)})
        return frozenset({Fact(FactKind.VALUE, reference.map, reference.at)})

    def _jump(self, at: int, insn: Instruction, state: State) -> int | None:
        if insn.opcode == EXIT:
            self._leave(state)
            return None
        if insn.opcode == CALL:
            return self._call(at, insn, state)
        target = at + 1 + (insn.imm if insn.opcode == _LONG_JUMP else insn.offset)
        if insn.opcode in (_JUMP, _LONG_JUMP):
            return target
        # Of all conditions only comparisons with NULL teach anything: they tell a lookup that found
        # an entry from one that did not.
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
        """Follow a callback of a helper; each of its arguments may be any argument of the helper.

        What a callback gets depends on the helper (an entry's key and value, a loop's index, the
        context). Over-approximating spares a table of helpers. The values that
        `bpf_for_each_map_elem` hands over are not among the arguments; that the map itself is
        handed to the helper is noted as unknown (`_note_escapes`).
        """
        inner = State.at_start(function)
        inner.registers[1:6] = [UNKNOWN.union(*arguments)] * 5
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
        # R6 to R9 and the frame pointer are the caller's again; R0 and the stack are as the
        # function left them.
        site, end = self.callers[function][at], self.ends[function]
        state = State(missed=end.missed, stack=dict(end.stack))
        state.registers[0] = end.registers[0]
        for register in (*_SAVED, FRAME_POINTER):
            state.registers[register] = site.registers[register]
        self.enter(at + 1, state)


def _jump_targets(code: tuple[Instruction, ...]) -> frozenset[int]:
    """Return the positions that jumps lead to, where states have to be joined."""
    targets: set[int] = set()
    for at, insn in enumerate(code):
        if insn.opcode & _CLASS in _JUMP_CLASSES and insn.opcode not in (CALL, EXIT):
            targets.add(at + 1 + (insn.imm if insn.opcode == _LONG_JUMP else insn.offset))
    return frozenset(targets)


def _learn_null(state: State, register: int, *, is_null: bool) -> None:
    """Refine *register* on one side of a comparison with NULL: *is_null* says which side."""
    facts = state.registers[register]
    if not is_null:
        remaining = (f for f in facts if f.kind not in (FactKind.MISSED, FactKind.NUMBER))
        state.registers[register] = frozenset(remaining) or UNKNOWN
        return
    # If the NULL can only come from a lookup in one map, it is certain which map lacks the key.
    maps = {fact.map for fact in facts if fact.kind in POINTERS or fact.kind is FactKind.MISSED}
    nulls = {*POINTERS, FactKind.MISSED}
    if len(maps) == 1 and all(fact.kind in nulls for fact in facts):
        state.missed |= maps
    state.registers[register] = frozenset(
        Fact(FactKind.MISSED, fact.map) if fact.kind in POINTERS else fact for fact in facts
    )


def users_of_specs(programs: Iterable[ProgramSpec]) -> Users:
    """Return what the programs of an object file do to each map, by the map's name."""
    users: dict[str, list[UsingProgram]] = defaultdict(list)
    for program in programs:
        for name, use in program_uses(listing_of_spec(program)).items():
            users[name].append(UsingProgram.of_spec(program, use))
    return {name: tuple(programs_of_map) for name, programs_of_map in users.items()}


def users_of_programs(programs: Iterable[Program], maps: Mapping[str, Map]) -> Users:
    """Return what loaded programs do to each of *maps*, by the name given there.

    If the kernel does not show a program's instructions, or they do not refer to the map, the use
    is unknown: a program can also reach a map through a map of maps.
    """
    # By id: the kernel keeps 15 bytes of a name, and two maps may have the same.
    names = {bpf_map.id: name for name, bpf_map in maps.items()}
    per_cpu = frozenset(name for name, bpf_map in maps.items() if bpf_map.is_per_cpu)
    users: dict[str, list[UsingProgram]] = defaultdict(list)
    for program in programs:
        info, code = program.info, xlated(program.fd)
        known = program_uses(listing_of_kernel(code, names, per_cpu)) if code else {}
        for name in (names[id_] for id_ in info.map_ids if id_ in names):
            unknown = replace(UNUSED, unknown=(_UNSEEN if code else _HIDDEN,))
            users[name].append(UsingProgram.of_info(info, known.get(name, unknown)))
    return {name: tuple(programs_of_map) for name, programs_of_map in users.items()}
