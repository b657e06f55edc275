"""Calls of helpers, as far as maps are concerned."""

from __future__ import annotations

from typing import Final

from bpfpin.pins.migration.analysis.facts import ANY, ANYTHING, Fact, Facts, Kind, State, joined
from bpfpin.pins.migration.analysis.notes import Notes
from bpfpin.uapi import UpdateFlag

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
_MAYBE_WRITTEN: Final = frozenset({Kind.NUMBER, Kind.LOADED, Kind.ADDED})


def call_helper(name: str, state: State, notes: Notes) -> None:
    """Follow the call of a helper, which `bpf_map_lookup_elem` or the like is the name of."""
    maps = {one.map for one in state.registers[1] if one.kind is Kind.MAP}
    answer = ANYTHING
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
        state.registers[register] = ANYTHING


def _look_up(name: str, maps: set[str], state: State) -> Facts:
    state.missed -= maps
    kind = Kind.ELEMENT if name == _LOOKUP_OF_HASH else Kind.VALUE
    is_all = all(one.kind is Kind.MAP for one in state.registers[1])
    return frozenset(Fact(kind, each) for each in maps) | (frozenset() if is_all else ANYTHING)


def _update(maps: set[str], state: State, notes: Notes) -> None:
    flags = {one.offset for one in state.registers[4] if one.kind is Kind.NUMBER}
    is_known = all(one.kind is Kind.NUMBER for one in state.registers[4])
    if_missing = is_known and flags == {UpdateFlag.NOEXIST}
    for each in maps:
        if if_missing or each in state.missed:
            notes.insert(each, may_replace=not if_missing)
        else:
            notes.overwrite(each)


def _tell_what_escapes(name: str, state: State, notes: Notes) -> None:
    reads = name.removeprefix("bpf_").endswith(_READERS) and not name.endswith(_LOOKUP_OF_CPU)
    for register in _ARGUMENTS:
        for fact in state.registers[register]:
            if fact.kind is Kind.MAP:
                notes.tell(fact.map, f"gives it to {name}")
            elif fact.kind in (Kind.VALUE, Kind.ELEMENT, Kind.SLOT) and not reads:
                notes.tell(fact.map, f"gives its value to {name}")
            elif fact.kind is Kind.STACK and not reads:
                _forget(fact, state)


def _forget(start: Fact, state: State) -> None:
    """Forget the numbers on the stack from *start* on: the helper may write there."""
    for (frame, offset), facts in list(state.stack.items()):
        if frame == start.frame and (start.offset is None or offset >= start.offset):
            kept = (ANY if one.kind in _MAYBE_WRITTEN else one for one in facts)
            state.stack[frame, offset] = joined(frozenset(kept), frozenset())
