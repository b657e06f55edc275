"""Loads and stores, as far as maps are concerned."""

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

_SIZES: Final = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_PLAIN: Final = 0x60
_IMMEDIATE: Final = 0x02
_ATOMIC_ADDS: Final = (0x00, 0x01)  # without and with the old number as the answer
_LOAD_ACQUIRE: Final = 0x100
_STORE_RELEASE: Final = 0x110
_COMPARE_EXCHANGE: Final = 0xF1
_FETCH: Final = 0x01
_WORD: Final = 8
_ARGUMENTS: Final = range(1, 6)
# These read what they are given, and write nothing there. In a loaded program their names are those
# of what the kernel put in their place.
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
_LOOKUP_OF_HASH: Final = "__htab_map_lookup_elem"  # inlined: it answers with the element
_MAYBE_WRITTEN: Final = frozenset({FactKind.NUMBER, FactKind.LOADED, FactKind.ADDED})


def load(insn: Instruction, state: State) -> Facts:
    """Return what is known of a number that is loaded."""
    size = _size(insn)
    found: Facts = frozenset()
    for base in state.registers[insn.src]:
        found |= _loaded(base, insn.offset, size, state)
    return found


def store(insn: Instruction, state: State, notes: UseNotes) -> None:
    """Follow a store, plain or atomic, and note it where it goes into a value."""
    is_plain = insn.opcode & 0xE0 == _PLAIN
    is_known = insn.opcode & 0x07 == _IMMEDIATE
    what = constant(insn.imm) if is_known else state.registers[insn.src]
    bases = state.registers[insn.dst]
    for base in bases:
        place = _moved(base, insn.offset)
        if base.kind is FactKind.VALUE:
            for how in _ways(place, what, insn):
                notes.write(base.map, how, place.offset, _size(insn))
        elif base.kind is FactKind.STACK:
            _spill(place, what if is_plain else UNKNOWN, state, insn, is_only=len(bases) == 1)
    if not is_plain and insn.imm != _STORE_RELEASE:
        _fetch(insn, state)


def _ways(place: Fact, what: Facts, insn: Instruction) -> frozenset[WriteKind]:
    if insn.opcode & 0xE0 != _PLAIN:
        return _atomic_ways(insn.imm)
    size = _size(insn)
    same = {Fact(kind, place.map, place.offset, size) for kind in (FactKind.ADDED, FactKind.LOADED)}
    is_added = any(one in same for one in what)
    is_other = any(one.kind not in (FactKind.ADDED, FactKind.LOADED) for one in what)
    found = {WriteKind.PLAIN_ADD} if is_added else set()
    return frozenset(found | ({WriteKind.STORE} if is_other or not is_added else set()))


def _atomic_ways(operation: int) -> frozenset[WriteKind]:
    if operation in _ATOMIC_ADDS:
        return frozenset({WriteKind.ATOMIC_ADD})
    if operation == _LOAD_ACQUIRE:
        return frozenset()
    return frozenset({WriteKind.STORE if operation == _STORE_RELEASE else WriteKind.ATOMIC_STORE})


def _fetch(insn: Instruction, state: State) -> None:
    """Forget the register that an atomic operation answers in."""
    if insn.imm == _LOAD_ACQUIRE:
        state.registers[insn.dst] = UNKNOWN
    elif insn.imm == _COMPARE_EXCHANGE:
        state.registers[0] = UNKNOWN
    elif insn.imm & _FETCH:
        state.registers[insn.src] = UNKNOWN


def _loaded(base: Fact, offset: int, size: int, state: State) -> Facts:
    place = _moved(base, offset)
    if base.kind is FactKind.VALUE:
        return frozenset({Fact(FactKind.LOADED, place.map, place.offset, size)})
    if base.kind is FactKind.SLOT and size == _WORD:
        return frozenset({Fact(FactKind.VALUE, base.map)})
    if base.kind is FactKind.STACK and place.offset is not None and size == _WORD:
        return state.stack.get((base.frame, place.offset), UNKNOWN)
    return frozenset({UNKNOWN_FACT})


def _spill(place: Fact, what: Facts, state: State, insn: Instruction, *, is_only: bool) -> None:
    if place.offset is None:
        return
    size = _size(insn)
    for start in range(place.offset - _WORD + 1, place.offset + size):
        if start != place.offset and (place.frame, start) in state.stack:
            state.stack[place.frame, start] = UNKNOWN
    key = (place.frame, place.offset)
    told = what if size == _WORD else UNKNOWN
    before = state.stack.get(key, UNKNOWN)
    state.stack[key] = told if is_only else join_facts(told, before)


def _moved(base: Fact, by: int) -> Fact:
    return base if base.offset is None else base._replace(offset=base.offset + by)


def _size(insn: Instruction) -> int:
    return _SIZES[insn.opcode & 0x18]


# Calls of helpers, as far as maps are concerned.


def call_helper(name: str, state: State, notes: UseNotes) -> None:
    """Follow the call of a helper, which `bpf_map_lookup_elem` or the like is the name of."""
    maps = {one.map for one in state.registers[1] if one.kind is FactKind.MAP}
    answer = UNKNOWN
    if name.endswith(_LOOKUP):
        answer = _look_up(name, maps, state)
    elif name.endswith(_UPDATE):
        _update(maps, state, notes)
    elif name.endswith(_DELETE):
        for each in maps:
            notes.delete(each)
    else:
        _tell_what_escapes(name, state, notes)
    state.registers[0] = answer
    for register in _ARGUMENTS:
        state.registers[register] = UNKNOWN


def _look_up(name: str, maps: set[str], state: State) -> Facts:
    state.missed -= maps
    kind = FactKind.ELEMENT if name == _LOOKUP_OF_HASH else FactKind.VALUE
    is_all = all(one.kind is FactKind.MAP for one in state.registers[1])
    return frozenset(Fact(kind, each) for each in maps) | (frozenset() if is_all else UNKNOWN)


def _update(maps: set[str], state: State, notes: UseNotes) -> None:
    flags = {one.offset for one in state.registers[4] if one.kind is FactKind.NUMBER}
    is_known = all(one.kind is FactKind.NUMBER for one in state.registers[4])
    if_missing = is_known and flags == {UpdateFlag.NOEXIST}
    for each in maps:
        if if_missing or each in state.missed:
            notes.insert(each, may_replace=not if_missing)
        else:
            notes.overwrite(each)


def _tell_what_escapes(name: str, state: State, notes: UseNotes) -> None:
    reads = name.removeprefix("bpf_").endswith(_READERS) and not name.endswith(_LOOKUP_OF_CPU)
    for register in _ARGUMENTS:
        for fact in state.registers[register]:
            if fact.kind is FactKind.MAP:
                notes.tell(fact.map, f"gives it to {name}")
            elif fact.kind in (FactKind.VALUE, FactKind.ELEMENT, FactKind.SLOT) and not reads:
                notes.tell(fact.map, f"gives its value to {name}")
            elif fact.kind is FactKind.STACK and not reads:
                _forget(fact, state)


def _forget(start: Fact, state: State) -> None:
    """Forget the numbers on the stack from *start* on: the helper may write there."""
    for (frame, offset), facts in list(state.stack.items()):
        if frame == start.frame and (start.offset is None or offset >= start.offset):
            kept = (UNKNOWN_FACT if one.kind in _MAYBE_WRITTEN else one for one in facts)
            state.stack[frame, offset] = join_facts(frozenset(kept), frozenset())
