"""A program as a list of instructions, with the names of what they refer to.

It comes from an object file, or from the kernel, which shows what the verifier made of a program:
lookups inlined, helpers by their distance from one function of the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bpfpin.fixup.calls import link
from bpfpin.insn import CALL, Instruction
from bpfpin.objects.programs.xlated import helper_names
from bpfpin.spec import ProgramSpec, ReferenceKind
from bpfpin.uapi import FuncId, PseudoCall, PseudoSource

UNNAMED: Final = "a function that the kernel does not name"
_FUNCTION_OF_KERNEL: Final = "a function of the kernel"


@dataclass(frozen=True, slots=True)
class MapReference:
    """What one 64-bit load refers to: the map *map* itself, or the byte *at* of its value."""

    map: str
    at: int | None = None


@dataclass(frozen=True)
class Listing:
    """One run of instructions; all numbers count its slots.

    *helpers* are the names of what is called (`bpf_map_lookup_elem`), *functions* where calls and
    addresses of functions lead. *per_cpu* are the maps that have values of each CPU.
    """

    instructions: tuple[Instruction, ...]
    maps: Mapping[int, MapReference]
    helpers: Mapping[int, str]
    functions: Mapping[int, int]
    per_cpu: frozenset[str] = field(default=frozenset())


def listing_of_spec(program: ProgramSpec) -> Listing:
    """Return the instructions of a program of an object file."""
    linked = link(program)
    code = tuple(linked.instructions)
    maps = {
        each.index: MapReference(
            each.target, each.addend if each.kind is ReferenceKind.MAP_VALUE else None
        )
        for each in linked.references
    }
    helpers = {
        index: _helper(each)
        for index, each in enumerate(code)
        if each.is_call and each.src != PseudoCall.CALL
    }
    return Listing(code, maps, helpers, _functions(code))


def listing_of_kernel(
    code: tuple[Instruction, ...], names: Mapping[int, str], per_cpu: frozenset[str]
) -> Listing:
    """Return the instructions *code* that the kernel shows of a program.

    *names* are those of the maps by id; others are called by their id.
    """
    maps: dict[int, MapReference] = {}
    for index, each in enumerate(code):
        if each.is_wide and each.src in (PseudoSource.MAP_FD, PseudoSource.MAP_VALUE):
            name = names.get(each.imm & 0xFFFFFFFF, f"map {each.imm & 0xFFFFFFFF}")
            is_value = each.src == PseudoSource.MAP_VALUE
            maps[index] = MapReference(name, code[index + 1].imm if is_value else None)
    calls = {i: each.imm for i, each in enumerate(code) if each.is_call and each.src == 0}
    known = helper_names(calls.values())
    helpers = {index: known.get(number, UNNAMED) for index, number in calls.items()}
    return Listing(code, maps, helpers, _functions(code), per_cpu)


def _helper(call: Instruction) -> str:
    if call.src:
        return _FUNCTION_OF_KERNEL
    known = FuncId._value2member_map_.get(call.imm)
    return f"bpf_{known.name}" if isinstance(known, FuncId) else f"helper {call.imm}"


def _functions(code: tuple[Instruction, ...]) -> dict[int, int]:
    """Return where calls of the program's own functions lead, and loads of their addresses.

    Of a compiled program the kernel shows the distance of a call in `offset`, and in `imm` the
    function's number (`jit_subprogs()` of kernel/bpf/verifier.c).
    """
    found: dict[int, int] = {}
    skip = -1
    for index, each in enumerate(code):
        if index == skip:
            continue
        if each.is_wide:
            skip = index + 1
            if each.src == PseudoSource.FUNC:
                found[index] = index + 1 + each.imm
        elif each.opcode == CALL and each.src == PseudoCall.CALL:
            found[index] = index + 1 + (each.offset or each.imm)
    return found
