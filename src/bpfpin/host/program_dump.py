"""Prints the code of a loaded program: its instructions or machine code, with lines of C and names.

Machine code is disassembled by `llvm-objdump` or `objdump`, if one is installed: the code goes into
a small ELF file, each function in a section at its address in the kernel.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from bpfpin.analysis.disassembler import Names, texts
from bpfpin.analysis.listing import call_targets, helper_names, symbol_names
from bpfpin.errors import BpfError, NotSupportedError, PermissionDeniedError
from bpfpin.host.named import open_program
from bpfpin.host.program_details import NamedFunction, named_functions, program_btf
from bpfpin.insn import Instruction
from bpfpin.objects.kernel.btf import vmlinux_btf
from bpfpin.objects.kernel.info import ProgramInfo
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.code import ProgramCode, read_code
from bpfpin.objects.verifier.report import SourceLine, SourceLines
from bpfpin.records import dataclass
from bpfpin.uapi import PseudoCall, PseudoSource
from bpfpin.uapi_helpers import FuncId

_TOOLS: Final = ("llvm-objdump", "objdump")
# `ffffffffc0a01000:  push %rbp`, by both tools.
_LINE: Final = re.compile(r"\s*([0-9a-f]+):\s+(\S.*)")
# An address in an operand, and what objdump makes of it: the nearest symbol of the file.
_ADDRESS: Final = re.compile(r"(?<![0-9a-zA-Z$])(?:0x)?([0-9a-f]{12,16})\b(?: <[^>]*>)?")
_MACHINES: Final = {"x86_64": 62, "aarch64": 183}  # EM_X86_64, EM_AARCH64 of linux/elf-em.h
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")


@dataclass(frozen=True, slots=True)
class DumpedInstruction:
    """One instruction.

    Attributes:
        at: Its position in slots of eight bytes, or for machine code its address.
        text: The instruction in words.
        line: The line of C that begins with it; None if it belongs to the line before.
        function: The name of the function that begins with it; None in the middle of one.
        code: The bytes of an instruction of BPF; empty for machine code.
        map_id: The map that it refers to; 0 for none.
        calls: The function that it calls; empty for none.
    """

    at: int
    text: str
    line: SourceLine | None = None
    function: str | None = None
    code: bytes = b""
    map_id: int = 0
    calls: str = ""


@dataclass(frozen=True, slots=True)
class ProgramDump:
    """The code of a program, and notes on the parts that are missing."""

    info: ProgramInfo
    instructions: tuple[DumpedInstruction, ...]
    notes: tuple[str, ...] = ()


def dump_xlated(target: str, *, pin_root: Path) -> ProgramDump:
    """Return the instructions of the program that *target* names, as the verifier left them.

    Raises:
        PermissionDeniedError: This user may not see instructions.
    """
    with open_program(target, pin_root) as program:
        info, code = program.info, read_code(program.fd)
    if not code.instructions:
        raise PermissionDeniedError(
            f"program {info.id}: the kernel shows instructions to callers with CAP_SYSLOG only",
            hint="or with sysctl kernel.kptr_restrict=0",
        )
    functions = named_functions(info, code)
    maps = _maps_of(code.instructions)
    calls = _calls(code.instructions, functions)
    map_names = _map_names(maps.values())
    names = Names({at: map_names.get(map_id, "") for at, map_id in maps.items()}, calls)
    starts = _starts(functions)
    lines = _lines(info, code)
    dumped = tuple(
        DumpedInstruction(
            at,
            text,
            lines.get(at),
            starts.get(at),
            _bytes(code.instructions, at),
            maps.get(at, 0),
            calls.get(at, ""),
        )
        for at, text in texts(code.instructions, names)
    )
    return ProgramDump(info, dumped, tuple(_notes(info, code)))


def _bytes(code: Sequence[Instruction], at: int) -> bytes:
    return b"".join(insn.encode() for insn in code[at : at + 1 + code[at].is_wide])


def _starts(functions: Iterable[NamedFunction]) -> dict[int, str]:
    return {function.code.first: function.name for function in functions}


def _lines(info: ProgramInfo, code: ProgramCode) -> dict[int, SourceLine]:
    """Return the line of C that begins at each position."""
    places = SourceLines(code.lines, program_btf(info))
    found = {line.index: places.at(line.index) for line in code.lines}
    return {at: line for at, line in found.items() if line is not None}


def _notes(info: ProgramInfo, code: ProgramCode) -> Iterator[str]:
    if not info.btf_id:
        yield "the program has no BTF: no lines of C, and no names of functions"
    elif not code.lines:
        yield "the program was loaded without lines of C"


def _maps_of(code: Sequence[Instruction]) -> dict[int, int]:
    """Return the ids of the maps that 64-bit loads refer to, by position."""
    # The kernel puts the map's id where the descriptor was (bpf_insn_prepare_dump() of
    # kernel/bpf/syscall.c).
    sources = (PseudoSource.MAP_FD, PseudoSource.MAP_VALUE)
    return {
        at: insn.imm & 0xFFFFFFFF
        for at, insn in enumerate(code)
        if insn.is_wide and insn.src in sources
    }


def _map_names(ids: Iterable[int]) -> dict[int, str]:
    names = {}
    for map_id in set(ids):
        with suppress(BpfError), Map.from_id(map_id, read_only=True) as bpf_map:
            names[map_id] = bpf_map.name
    return names


def _calls(code: Sequence[Instruction], functions: Sequence[NamedFunction]) -> dict[int, str]:
    """Return the names of the functions that calls reach, by position."""
    starts = _starts(functions)
    own = {at: starts.get(to, "") for at, to in call_targets(tuple(code)).items()}
    outside = {
        at: insn.imm for at, insn in enumerate(code) if insn.is_call and insn.src != PseudoCall.CALL
    }
    known = helper_names(outside.values())
    names = {}
    for at, number in outside.items():
        names[at] = known.get(number) or _function(code[at])
    return {at: name for at, name in (own | names).items() if name and code[at].is_call}


def _function(call: Instruction) -> str:
    """Return the name of a function that has no address: a tail call, or one known by its BTF."""
    if call.src == PseudoCall.KFUNC_CALL:
        # Where functions of modules may be far away the kernel keeps the type's id instead
        # (bpf_jit_supports_far_kfunc_call(): arm64, s390).
        with suppress(BpfError, IndexError):
            return getattr(vmlinux_btf()[call.imm], "name", "")
        return ""
    # The kernel shows a tail call by the helper's number (bpf_insn_prepare_dump()).
    known = FuncId._value2member_map_.get(call.imm) if call.imm else None
    return f"bpf_{known.name}" if isinstance(known, FuncId) else ""


def dump_jited(target: str, *, pin_root: Path) -> ProgramDump:
    """Return the machine code of the program that *target* names, disassembled.

    Raises:
        NotSupportedError: No disassembler is installed, or the program is interpreted.
        PermissionDeniedError: This user may not see machine code.
    """
    tool = next(filter(None, map(shutil.which, _TOOLS)), None)
    if tool is None:
        raise NotSupportedError(
            f"machine code is disassembled by {' or '.join(_TOOLS)}, and neither is installed",
            feature="a disassembler of machine code",
            hint="apt install binutils (objdump), or apt install llvm (llvm-objdump)",
        )
    with open_program(target, pin_root) as program:
        info, code = program.info, read_code(program.fd)
    if not info.jited_size:
        raise NotSupportedError(
            f"program {info.id} has no machine code: the kernel interprets it",
            feature="a JIT compiler",
            hint="sysctl net.core.bpf_jit_enable=1, before it is loaded",
        )
    if not code.jited:
        raise PermissionDeniedError(
            f"program {info.id}: the kernel shows machine code to callers with CAP_SYSLOG only",
            hint="or with sysctl kernel.kptr_restrict=0",
        )
    functions = named_functions(info, code)
    parts = list(_parts(functions, code.jited))
    dumped = _disassembled(tool, parts)
    lines = {}
    if code.jited_lines:
        by_position = _lines(info, code)
        lines = {
            address: by_position[line.index]
            for line, address in zip(code.lines, code.jited_lines, strict=False)
            if line.index in by_position
        }
    starts = {address: name for name, address, _ in parts}
    names = symbol_names(_addresses(dumped)) | {at: name for at, name in starts.items() if name}
    instructions = tuple(
        DumpedInstruction(at, _named(text, names), lines.get(at), starts.get(at))
        for at, text in dumped
    )
    return ProgramDump(info, instructions, tuple(_notes(info, code)))


def _parts(functions: Sequence[NamedFunction], jited: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, address and machine code of each function."""
    at = 0
    for function in functions:
        # An older kernel, or one that hides addresses, says nothing about the parts.
        size = function.code.jited_size or len(jited) - at
        yield function.name, function.code.address or at, jited[at : at + size]
        at += size


def _disassembled(tool: str, parts: Sequence[tuple[str, int, bytes]]) -> list[tuple[int, str]]:
    """Return address and text of each instruction."""
    with tempfile.NamedTemporaryFile(prefix="bpfpin-", suffix=".elf") as file:
        file.write(_elf(parts))
        file.flush()
        command = [tool, "-d", "--no-show-raw-insn", file.name]
        environment = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, errors="replace"
        )
    if done.returncode:
        raise BpfError(f"{tool} failed with status {done.returncode}: {done.stderr.strip()}")
    matches = map(_LINE.fullmatch, done.stdout.splitlines())
    return [(int(match[1], 16), " ".join(match[2].split())) for match in matches if match]


def _addresses(dumped: Iterable[tuple[int, str]]) -> set[int]:
    return {int(match[1], 16) for _, text in dumped for match in _ADDRESS.finditer(text)}


def _named(text: str, names: Mapping[int, str]) -> str:
    """Return *text* with the names of the functions at its addresses."""

    def replaced(match: re.Match[str]) -> str:
        name = names.get(int(match[1], 16), "")
        return f"0x{match[1]}" + (f" <{name}>" if name else "")

    return _ADDRESS.sub(replaced, text)


def _elf(parts: Sequence[tuple[str, int, bytes]]) -> bytes:
    """Return an ELF file with each function in a section of its own, at its address."""
    strings, symbols = bytearray(b"\0"), bytearray(_SYMBOL.size)
    body, sections = bytearray(), [(0,) * 10]
    for number, (name, address, code) in enumerate(parts, start=1):
        at = len(strings)
        strings += (name or f"function_{number}").encode() + b"\0"
        # A global function (STB_GLOBAL, STT_FUNC).
        symbols += _SYMBOL.pack(at, 0x12, 0, number, address, len(code))
        # SHT_PROGBITS with SHF_ALLOC and SHF_EXECINSTR.
        sections.append((at, 1, 6, address, _HEADER.size + len(body), len(code), 0, 0, 1, 0))
        body += code
    start = _HEADER.size + len(body)
    count = len(sections)
    # SHT_SYMTAB (whose first global symbol is number 1) and SHT_STRTAB.
    sections.append((0, 2, 0, 0, start, len(symbols), count + 1, 1, 8, _SYMBOL.size))
    sections.append((0, 3, 0, 0, start + len(symbols), len(strings), 0, 0, 1, 0))
    table = start + len(symbols) + len(strings)
    machine = _MACHINES.get(os.uname().machine, 0)
    header = _HEADER.pack(
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0"),
        2,  # ET_EXEC: symbols and sections have addresses
        machine,
        1,
        0,
        0,
        table,
        0,
        _HEADER.size,
        0,
        0,
        _SECTION.size,
        len(sections),
        count + 1,
    )
    rows = b"".join(_SECTION.pack(*section) for section in sections)
    return header + bytes(body) + bytes(symbols) + bytes(strings) + rows
