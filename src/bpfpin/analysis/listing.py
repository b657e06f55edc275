"""A program as a list of instructions, with the names of the maps and helpers they refer to.

It comes from an object file, or from the kernel (BPF_OBJ_GET_INFO_BY_FD). The kernel shows the
program as the verifier rewrote it: lookups are inlined, and a helper call holds the distance of the
kernel function from `__bpf_call_base` instead of the helper's number.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Final

from bpfpin.fixup.calls import link
from bpfpin.insn import CALL, Instruction, decode
from bpfpin.records import dataclass
from bpfpin.spec import ProgramSpec, ReferenceKind
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import ProgInfoAnswer
from bpfpin.uapi import PseudoCall, PseudoSource
from bpfpin.uapi_helpers import FuncId

SYMBOLS: Final = Path("/proc/kallsyms")
_BASE: Final = b" __bpf_call_base\n"
_WORD: Final = (1 << 64) - 1
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
    return Listing(code, maps, helpers, call_targets(code))


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
    return Listing(code, maps, helpers, call_targets(code), per_cpu)


def _helper(call: Instruction) -> str:
    if call.src:
        return _FUNCTION_OF_KERNEL
    known = FuncId._value2member_map_.get(call.imm)
    return f"bpf_{known.name}" if isinstance(known, FuncId) else f"helper {call.imm}"


def call_targets(code: tuple[Instruction, ...]) -> dict[int, int]:
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


def xlated(fd: int) -> tuple[Instruction, ...]:
    """Return the instructions of the program *fd* as the verifier left them.

    They refer to maps by id, and to helpers by their distance (`helper_names`). The result is empty
    if the kernel does not show them: that needs CAP_SYSLOG, or kernel.kptr_restrict at 0
    (`bpf_prog_get_info_by_fd()` of kernel/bpf/syscall.c).
    """
    # Two calls: the length is known only to the kernel.
    size = ProgInfoAnswer()
    bpf.obj_get_info_by_fd(fd, size)
    code = ctypes.create_string_buffer(size.xlated_prog_len or 1)
    answer = ProgInfoAnswer(
        xlated_prog_len=size.xlated_prog_len, xlated_prog_insns=ctypes.addressof(code)
    )
    bpf.obj_get_info_by_fd(fd, answer)
    # The kernel sets the address to 0 where it shows no instructions.
    if not answer.xlated_prog_insns:
        return ()
    return decode(code.raw[: min(answer.xlated_prog_len, size.xlated_prog_len)])


def helper_names(distances: Iterable[int]) -> dict[int, str]:
    """Return the names of kernel functions by their distance from `__bpf_call_base`.

    Names that /proc/kallsyms does not have are left out. Callers without CAP_SYSLOG see only zeros
    for addresses there, so that the result is empty.
    """
    wanted = set(distances)
    if not wanted:
        return {}
    symbols = SYMBOLS.read_bytes()
    end = symbols.find(_BASE)
    base = int(symbols[symbols.rfind(b"\n", 0, end) + 1 : end].split()[0], 16) if end > 0 else 0
    if not base:
        return {}
    # The distance is BPF_CALL_IMM of the kernel's include/linux/filter.h: address minus base.
    addresses = {base + distance & _WORD: distance for distance in wanted}
    return {addresses[at]: name for at, name in _symbols_at(addresses, symbols).items()}


def symbol_names(addresses: Collection[int]) -> dict[int, str]:
    """Return the names of the kernel functions at these addresses, as far as they begin there."""
    return _symbols_at(addresses, SYMBOLS.read_bytes()) if addresses else {}


def _symbols_at(addresses: Collection[int], symbols: bytes) -> dict[int, str]:
    # One search for all: the file has some 200,000 lines. A pattern that begins with the digits
    # that all addresses share is found ten times as fast as one without.
    digits = [f"{address:016x}" for address in addresses]
    equal = 16 - ((min(addresses) ^ max(addresses)).bit_length() + 3) // 4
    ends = "|".join(each[equal:] for each in digits)
    pattern = rf"\n({digits[0][:equal]}(?:{ends})) \w ([\w.]+)".encode()
    names: dict[int, str] = {}
    for match in re.finditer(pattern, b"\n" + symbols):
        names.setdefault(int(match[1], 16), match[2].decode())
    return names
