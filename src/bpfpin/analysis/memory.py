"""How loads, stores and helper calls change the facts, and what they do to maps.

A load from a value yields `LOADED`, with the place that it came from; arithmetic makes it `ADDED`;
a store of an `ADDED` number back to the same place is a plain (non-atomic) addition. Everything
else that reaches a value is a store. Memory that is not a value or the stack is not modelled:
a read from it may give anything, and a write to it is ignored.
"""

from __future__ import annotations

from typing import Final

from bpfpin.analysis.facts import (
    UNKNOWN,
    UNKNOWN_FACT,
    Fact,
    FactKind,
    Facts,
    State,
    constant,
    join_facts,
)
from bpfpin.analysis.uses import UseNotes, WriteKind
from bpfpin.insn import Instruction
from bpfpin.uapi import UpdateFlag

# Fields of the opcode and, for atomic operations, of `imm` (include/uapi/linux/bpf.h).
_SIZES: Final = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_PLAIN: Final = 0x60
_IMMEDIATE: Final = 0x02
_ATOMIC_ADDS: Final = (0x00, 0x01)  # without and with BPF_FETCH
_LOAD_ACQUIRE: Final = 0x100
_STORE_RELEASE: Final = 0x110
_COMPARE_EXCHANGE: Final = 0xF1
_FETCH: Final = 0x01
_WORD: Final = 8
_ARGUMENTS: Final = range(1, 6)
# Helpers that only read the memory they are given. In a loaded program a helper goes by the name of
# the kernel function that implements it, of which these are the endings.
_READERS: Final = (
    "trace_printk",
    "trace_vprintk",
    "perf_event_output",
    "xdp_event_output",
    "skb_event_output",
    "perf_event_output_tp",
    "ringbuf_output",
    "csum_diff",
    "skb_store_bytes",
    "xdp_store_bytes",
    "map_push_elem",
    "strncmp",
)
_LOOKUP, _UPDATE, _DELETE = "lookup_elem", "update_elem", "delete_elem"
_LOOKUP_OF_CPU: Final = "lookup_percpu_elem"
# The verifier replaces lookups in a hash by this function (htab_map_gen_lookup() of
# kernel/bpf/hashtab.c), which returns the element and not the value in it.
_LOOKUP_OF_HASH: Final = "__htab_map_lookup_elem"
# A helper that writes to the stack can replace numbers. It cannot forge a pointer: the verifier
# treats bytes that a helper wrote as a number, and refuses to dereference one.
_MAYBE_WRITTEN: Final = frozenset({FactKind.NUMBER, FactKind.LOADED, FactKind.ADDED})


def load(insn: Instruction, state: State) -> Facts:
    """Return the facts of the register that a load fills."""
    size = _size(insn)
    facts: Facts = frozenset()
    for base in state.registers[insn.src]:
        facts |= _loaded(base, insn.offset, size, state)
    return facts


def store(insn: Instruction, state: State, notes: UseNotes) -> None:
    """Follow a plain or atomic store; note it if it reaches a value."""
    is_plain = insn.opcode & 0xE0 == _PLAIN
    is_immediate = insn.opcode & 0x07 == _IMMEDIATE
    stored = constant(insn.imm) if is_immediate else state.registers[insn.src]
    bases = state.registers[insn.dst]
    for base in bases:
        target = _moved(base, insn.offset)
        if base.kind is FactKind.VALUE:
            for kind in _write_kinds(target, stored, insn):
                notes.write(base.map, kind, target.offset, _size(insn))
        elif base.kind is FactKind.STACK:
            spilled = stored if is_plain else UNKNOWN
            _spill(target, spilled, state, insn, is_only=len(bases) == 1)
    if not is_plain and insn.imm != _STORE_RELEASE:
        _forget_fetched(insn, state)


def _write_kinds(target: Fact, stored: Facts, insn: Instruction) -> frozenset[WriteKind]:
    """Return what kinds of write a store to *target* may be: one for each possible content."""
    if insn.opcode & 0xE0 != _PLAIN:
        return _atomic_kinds(insn.imm)
    size = _size(insn)
    # The number must come from the same bytes of a value of the same map, in the same width. Given
    # up: whether it is the same *entry*. A program that copies one entry's count plus something
    # into another entry is taken for one that counts.
    counter = {
        Fact(kind, target.map, target.offset, size) for kind in (FactKind.ADDED, FactKind.LOADED)
    }
    is_added = any(fact in counter for fact in stored)
    is_other = any(fact.kind not in (FactKind.ADDED, FactKind.LOADED) for fact in stored)
    kinds = {WriteKind.PLAIN_ADD} if is_added else set()
    return frozenset(kinds | ({WriteKind.STORE} if is_other or not is_added else set()))


def _atomic_kinds(operation: int) -> frozenset[WriteKind]:
    if operation in _ATOMIC_ADDS:
        return frozenset({WriteKind.ATOMIC_ADD})
    if operation == _LOAD_ACQUIRE:
        return frozenset()
    is_release = operation == _STORE_RELEASE
    return frozenset({WriteKind.STORE if is_release else WriteKind.ATOMIC_STORE})


def _forget_fetched(insn: Instruction, state: State) -> None:
    """Forget the register that an atomic operation returns the old number in."""
    if insn.imm == _LOAD_ACQUIRE:
        state.registers[insn.dst] = UNKNOWN
    elif insn.imm == _COMPARE_EXCHANGE:
        state.registers[0] = UNKNOWN
    elif insn.imm & _FETCH:
        state.registers[insn.src] = UNKNOWN


def _loaded(base: Fact, offset: int, size: int, state: State) -> Facts:
    source = _moved(base, offset)
    if base.kind is FactKind.VALUE:
        return frozenset({Fact(FactKind.LOADED, source.map, source.offset, size)})
    if base.kind is FactKind.SLOT and size == _WORD:
        return frozenset({Fact(FactKind.VALUE, base.map)})
    if base.kind is FactKind.STACK and source.offset is not None and size == _WORD:
        return state.stack.get((base.frame, source.offset), UNKNOWN)
    return frozenset({UNKNOWN_FACT})


def _spill(target: Fact, stored: Facts, state: State, insn: Instruction, *, is_only: bool) -> None:
    """Write to a stack slot; *is_only* if the address is certain and the old content goes."""
    if target.offset is None:
        # Given up: a store at a variable offset does not change the facts about numbers there.
        # Pointers cannot go stale by it: the verifier erases the spilled ones in its reach
        # (check_stack_write_var_off() of kernel/bpf/verifier.c).
        return
    size = _size(insn)
    # A store across the slot's bounds leaves neighbours that are partly overwritten.
    for start in range(target.offset - _WORD + 1, target.offset + size):
        if start != target.offset and (target.frame, start) in state.stack:
            state.stack[target.frame, start] = UNKNOWN
    slot = (target.frame, target.offset)
    facts = stored if size == _WORD else UNKNOWN
    before = state.stack.get(slot, UNKNOWN)
    state.stack[slot] = facts if is_only else join_facts(facts, before)


def _moved(base: Fact, distance: int) -> Fact:
    return base if base.offset is None else base._replace(offset=base.offset + distance)


def _size(insn: Instruction) -> int:
    return _SIZES[insn.opcode & 0x18]


def call_helper(name: str, state: State, notes: UseNotes) -> None:
    """Follow the call of the helper *name* (`bpf_map_lookup_elem`): note what it does to maps.

    The names differ between object files and loaded programs, so their endings decide.
    """
    maps = {fact.map for fact in state.registers[1] if fact.kind is FactKind.MAP}
    result = UNKNOWN
    if name.endswith(_LOOKUP):
        result = _look_up(name, maps, state)
    elif name.endswith(_UPDATE):
        _update(maps, state, notes)
    elif name.endswith(_DELETE):
        for map_name in maps:
            notes.delete(map_name)
    else:
        _note_escapes(name, state, notes)
    state.registers[0] = result
    # A call clobbers R1 to R5; the verifier refuses to read them afterwards.
    for register in _ARGUMENTS:
        state.registers[register] = UNKNOWN


def _look_up(name: str, maps: set[str], state: State) -> Facts:
    state.missed -= maps
    kind = FactKind.ELEMENT if name == _LOOKUP_OF_HASH else FactKind.VALUE
    is_certain = all(fact.kind is FactKind.MAP for fact in state.registers[1])
    values = frozenset(Fact(kind, map_name) for map_name in maps)
    return values | (frozenset() if is_certain else UNKNOWN)


def _update(maps: set[str], state: State, notes: UseNotes) -> None:
    """Note an update: an insertion if the flags or a lookup before it say that there is no entry.

    With BPF_ANY after a failed lookup another CPU may have inserted the key meanwhile, so that the
    insertion replaces its value: `may_replace`. The fold inserts all keys first for that reason.
    """
    flags = {fact.offset for fact in state.registers[4] if fact.kind is FactKind.NUMBER}
    is_known = all(fact.kind is FactKind.NUMBER for fact in state.registers[4])
    if_missing = is_known and flags == {UpdateFlag.NOEXIST}
    for map_name in maps:
        if if_missing or map_name in state.missed:
            notes.insert(map_name, may_replace=not if_missing)
        else:
            notes.overwrite(map_name)


def _note_escapes(name: str, state: State, notes: UseNotes) -> None:
    """Note each map or value that is handed to a helper which may write it.

    From there on the analysis cannot say what happens to the map, and says so instead of guessing.
    """
    reads = name.removeprefix("bpf_").endswith(_READERS) and not name.endswith(_LOOKUP_OF_CPU)
    for register in _ARGUMENTS:
        for fact in state.registers[register]:
            if fact.kind is FactKind.MAP:
                notes.note_unknown(fact.map, f"gives it to {name}")
            elif fact.kind in (FactKind.VALUE, FactKind.ELEMENT, FactKind.SLOT) and not reads:
                notes.note_unknown(fact.map, f"gives its value to {name}")
            elif fact.kind is FactKind.STACK and not reads:
                _forget_numbers(fact, state)


def _forget_numbers(start: Fact, state: State) -> None:
    """Forget the numbers on the stack from *start* upwards: the helper may write there."""
    for (frame, offset), facts in list(state.stack.items()):
        if frame == start.frame and (start.offset is None or offset >= start.offset):
            remaining = (UNKNOWN_FACT if fact.kind in _MAYBE_WRITTEN else fact for fact in facts)
            state.stack[frame, offset] = join_facts(frozenset(remaining), frozenset())
