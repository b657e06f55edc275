"""A program as a list of instructions, with the names of the maps and helpers they refer to.

It comes from an object file, or from the kernel (BPF_OBJ_GET_INFO_BY_FD). The kernel shows the
program as the verifier rewrote it: lookups are inlined, and a helper call holds the distance of the
kernel function from `__bpf_call_base` instead of the helper's number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Final

from bpfpin.fixup.calls import link
from bpfpin.insn import CALL, Instruction
from bpfpin.objects.programs.xlated import helper_names
from bpfpin.records import dataclass
from bpfpin.spec import ProgramSpec, ReferenceKind
from bpfpin.uapi import FuncId, PseudoCall, PseudoSource

UNNAMED: Final = "a function that the kernel does not name"
_FUNCTION_OF_KERNEL: Final = "a function of the kernel"


@dataclass(frozen=True, slots=True)
class MapReference:
    """The target of a 64-bit load: the map *map*, or the byte *at* of its only value."""

    map: str
    at: int | None = None


@dataclass(frozen=True)
class Listing:
    """The instructions of one program; positions count slots of eight bytes.

    Attributes:
        instructions: One for each slot; a 64-bit load has two.
        maps: The map that a 64-bit load refers to, by position.
        helpers: The name of the helper that a call reaches (`bpf_map_lookup_elem`), by position.
        functions: The position of the function that a call, or a load of a function's address,
            leads to.
        per_cpu: The names of the maps that have a value for each CPU. Only needed for loaded
            programs, whose lookups are inlined.
    """

    instructions: tuple[Instruction, ...]
    maps: Mapping[int, MapReference]
    helpers: Mapping[int, str]
    functions: Mapping[int, int]
    per_cpu: frozenset[str] = field(default=frozenset())


def listing_of_spec(program: ProgramSpec) -> Listing:
    """Return the listing of a program of an object file, its functions linked into one."""
    linked = link(program)
    # Linked as for the kernel, so that positions are those of one program and calls have targets.
    code = tuple(linked.instructions)
    maps = {
        reference.index: MapReference(
            reference.target,
            reference.addend if reference.kind is ReferenceKind.MAP_VALUE else None,
        )
        for reference in linked.references
    }
    helpers = {
        index: _helper(insn)
        for index, insn in enumerate(code)
        if insn.is_call and insn.src != PseudoCall.CALL
    }
    return Listing(code, maps, helpers, _functions(code))


def listing_of_kernel(
    code: tuple[Instruction, ...], names: Mapping[int, str], per_cpu: frozenset[str]
) -> Listing:
    """Return the listing of a loaded program, from the instructions *code* that the kernel shows.

    *names* are the names of maps by id; a map without one is called `map ID`.
    """
    maps: dict[int, MapReference] = {}
    for index, insn in enumerate(code):
        if insn.is_wide and insn.src in (PseudoSource.MAP_FD, PseudoSource.MAP_VALUE):
            # The kernel puts the map's id where the descriptor was (bpf_insn_prepare_dump() of
            # kernel/bpf/syscall.c).
            name = names.get(insn.imm & 0xFFFFFFFF, f"map {insn.imm & 0xFFFFFFFF}")
            is_value = insn.src == PseudoSource.MAP_VALUE
            maps[index] = MapReference(name, code[index + 1].imm if is_value else None)
    calls = {index: insn.imm for index, insn in enumerate(code) if insn.is_call and insn.src == 0}
    known = helper_names(calls.values())
    helpers = {index: known.get(number, UNNAMED) for index, number in calls.items()}
    return Listing(code, maps, helpers, _functions(code), per_cpu)


def _helper(call: Instruction) -> str:
    if call.src:
        return _FUNCTION_OF_KERNEL
    known = FuncId._value2member_map_.get(call.imm)
    return f"bpf_{known.name}" if isinstance(known, FuncId) else f"helper {call.imm}"


def _functions(code: tuple[Instruction, ...]) -> dict[int, int]:
    """Return the targets of calls of the program's own functions, and of loads of their addresses.

    For a JIT-compiled program the kernel shows the distance of a call in `offset`, and the
    function's number in `imm` (`jit_subprogs()` of kernel/bpf/verifier.c).
    """
    targets: dict[int, int] = {}
    skip = -1
    for index, insn in enumerate(code):
        # The second slot of a 64-bit load holds the upper half of its number, and would look like
        # any instruction.
        if index == skip:
            continue
        if insn.is_wide:
            skip = index + 1
            if insn.src == PseudoSource.FUNC:
                targets[index] = index + 1 + insn.imm
        elif insn.opcode == CALL and insn.src == PseudoCall.CALL:
            targets[index] = index + 1 + (insn.offset or insn.imm)
    return targets
