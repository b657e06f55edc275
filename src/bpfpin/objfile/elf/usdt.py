"""Probes in user programs (USDT): the notes that the macros of <sys/sdt.h> leave in a file.

A note has the address of the probe, that of its semaphore, and a text that says where each argument
is: `-4@%eax 8@-16(%rbp) 4@$5`. The form is described in systemtap's wiki, "UserSpaceProbeImplement-
ation"; how the kernel stores the registers in arch/*/include/asm/ptrace.h.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import IntEnum
from typing import Final

from bpfpin.errors import ObjectFileError
from bpfpin.objfile.elf.executable import Executable
from bpfpin.records import dataclass

_SECTION, _OWNER, _KIND = ".note.stapsdt", b"stapsdt", 3
_BASE: Final = ".stapsdt.base"
_SIZES: Final = (1, 2, 4, 8)
X86, X86_64, ARM64 = 3, 62, 183  # EM_386, EM_X86_64, EM_AARCH64
# An argument has no blanks outside of brackets.
_ARGUMENT: Final = re.compile(r"(?:(-?[0-9]+)(f?)@)?(\[[^\]]*\]|[^\s(\[]*\([^)]*\)|[^\s(\[]+)")
# struct __bpf_usdt_arg_spec and the end of struct __bpf_usdt_spec of <bpf/usdt.bpf.h>.
_SPEC = struct.Struct("<QIhBb")
_END = struct.Struct("<Qh6x")


class ArgumentPlace(IntEnum):
    """Where an argument is: enum __bpf_usdt_arg_type of <bpf/usdt.bpf.h>."""

    CONSTANT = 0
    REGISTER = 1
    MEMORY = 2
    INDEXED = 3


@dataclass(frozen=True, slots=True)
class ProbeArgument:
    """One argument: *size* bytes at *place*.

    *value* is the constant, or what is added to the address; *register* and *index* are offsets in
    struct pt_regs, and the index is shifted by *scale_bits*. *symbol* is a variable of the file
    whose address is still to be added (`counter(%rip)`), see `with_address`.
    """

    size: int
    is_signed: bool
    place: ArgumentPlace
    value: int = 0
    register: int = 0
    index: int = 0
    scale_bits: int = 0
    symbol: str = ""

    def with_address(self, address: int, probe_address: int) -> ProbeArgument:
        """Return it with the address of its variable, counted from the instruction of the probe.

        There the program counter is, wherever the file is loaded.
        """
        return replace(self, value=self.value + address - probe_address, symbol="")

    def pack(self) -> bytes:
        """Return its struct __bpf_usdt_arg_spec."""
        bits = self.place | self.index << 8 | self.scale_bits << 20
        value = self.value & (1 << 64) - 1
        return _SPEC.pack(value, bits, self.register, self.is_signed, 64 - 8 * self.size)


@dataclass(frozen=True, slots=True)
class Probe:
    """One place of a probe; *semaphore* is the address of its counter, 0 for none."""

    provider: str
    name: str
    address: int
    semaphore: int
    arguments: str


def read_probes(executable: Executable) -> Iterator[Probe]:
    """Yield all places of probes in a file; `ObjectFileError` for a damaged note."""
    numbers = struct.Struct("<QQQ" if executable.is_wide else "<III")
    base_address = executable.section_address(_BASE)
    for note in executable.notes(_SECTION, _OWNER, _KIND):
        words = note[numbers.size :].split(b"\0")
        if len(note) < numbers.size or len(words) < 4:
            raise executable.error("a damaged note of a probe", section=_SECTION)
        address, base, semaphore = numbers.unpack_from(note)
        # prelink(8) moves a library after it was linked, and does not know these notes: the section
        # tells how far.
        moved = base_address - base if base_address is not None and base else 0
        provider, name, arguments = (word.decode(errors="replace") for word in words[:3])
        yield Probe(
            provider, name, address + moved, semaphore + moved if semaphore else 0, arguments
        )


def pack_spec(arguments: Sequence[ProbeArgument], size: int, *, cookie: int = 0) -> bytes:
    """Return a struct __bpf_usdt_spec of *size* bytes; `ValueError` if it has no room for all."""
    room = (size - _END.size) // _SPEC.size
    if len(arguments) > room:
        raise ValueError(f"{len(arguments)} arguments, and there is room for {room}")
    packed = b"".join(argument.pack() for argument in arguments)
    return packed.ljust(room * _SPEC.size, b"\0") + _END.pack(cookie, len(arguments))


def parse_arguments(text: str, machine: int) -> list[ProbeArgument]:
    """Parse the arguments of a probe in a file for *machine* (EM_*).

    `ObjectFileError` names an argument that no program could read.
    """
    parse = _PARSERS.get(machine)
    if parse is None:
        raise ObjectFileError(f"arguments of probes for machine {machine} are not known")
    if _ARGUMENT.sub("", text).strip():
        raise ObjectFileError(f"arguments of a probe in an unknown form: {text!r}")
    arguments = []
    for match in _ARGUMENT.finditer(text):
        size, is_float, operand = int(match[1] or 8), match[2], match[3]
        argument = None
        if abs(size) in _SIZES and not is_float:
            argument = parse(re.sub(r"\s", "", operand), abs(size), size < 0)
        if argument is None:
            raise ObjectFileError(
                f"argument {match[0]!r} of a probe is in a place that no program can read"
            )
        arguments.append(argument)
    return arguments


# Names of registers by their offset in struct pt_regs (arch/x86/include/asm/ptrace.h).


def _x86_registers() -> dict[str, int]:
    numbered = ("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx")
    order = (*numbered, "si", "di", None, "ip", None, None, "sp")
    registers: dict[str, int] = {}
    for number, name in enumerate(order):
        if name is None:
            continue
        if name[0] == "r":
            names = [name, f"{name}d", f"{name}w", f"{name}b"]
        else:
            names = [f"r{name}", f"e{name}", name]
            names += [f"{name[0]}l" if name[1] == "x" else f"{name}l"]
        registers |= dict.fromkeys(names, 8 * number)
        if name in ("ax", "bx", "cx", "dx"):
            registers[f"{name[0]}h"] = 8 * number + 1
    return registers


_X86: Final = _x86_registers()
_X86_CONSTANT: Final = re.compile(r"\$(-?[0-9]+|-?0x[0-9a-f]+)")
_X86_REGISTER: Final = re.compile(r"%([a-z0-9]+)")
_X86_VARIABLE: Final = re.compile(r"(?:(-?[0-9]+)\+)?([A-Za-z_.$][\w.$@]*)([+-][0-9]+)?\(%rip\)")
_X86_MEMORY: Final = re.compile(
    r"(-?[0-9]+|-?0x[0-9a-f]+)?\(%([a-z0-9]+)(?:,%([a-z0-9]+)(?:,([1248]))?)?\)"
)


def _parse_x86(operand: str, size: int, is_signed: bool) -> ProbeArgument | None:
    if match := _X86_CONSTANT.fullmatch(operand):
        return ProbeArgument(size, is_signed, ArgumentPlace.CONSTANT, int(match[1], 0))
    if match := _X86_REGISTER.fullmatch(operand):
        place = _X86.get(match[1])
        return (
            None
            if place is None
            else ProbeArgument(size, is_signed, ArgumentPlace.REGISTER, 0, place)
        )
    if match := _X86_VARIABLE.fullmatch(operand):
        distance = int(match[1] or "0") + int(match[3] or "0")
        register = _X86["rip"]
        return ProbeArgument(
            size, is_signed, ArgumentPlace.MEMORY, distance, register, symbol=match[2]
        )
    match = _X86_MEMORY.fullmatch(operand)
    if match is None or match[2] not in _X86 or (match[3] and match[3] not in _X86):
        return None
    if match[2] == "rip":  # counted from the next instruction, which only a disassembler finds
        return None
    distance, register = int(match[1] or "0", 0), _X86[match[2]]
    if not match[3]:
        return ProbeArgument(size, is_signed, ArgumentPlace.MEMORY, distance, register)
    scale_bits = int(match[4] or 1).bit_length() - 1
    index = _X86[match[3]]
    return ProbeArgument(
        size, is_signed, ArgumentPlace.INDEXED, distance, register, index, scale_bits
    )


_ARM64_CONSTANT: Final = re.compile(r"#?(-?[0-9]+|-?0x[0-9a-f]+)")
_ARM64_MEMORY: Final = re.compile(
    r"\[([a-z0-9]+)(?:,(?:#?(-?[0-9]+)|([a-z0-9]+)(?:,lsl#?([0-3]))?))?\]"
)


def _arm64_register(name: str) -> int | None:
    """Return the offset in struct pt_regs of arm64: regs[31], then sp."""
    if name == "sp":
        return 8 * 31
    match = re.fullmatch(r"[xw]([0-9]|[12][0-9]|30)", name)
    return 8 * int(match[1]) if match else None


def _parse_arm64(operand: str, size: int, is_signed: bool) -> ProbeArgument | None:
    if match := _ARM64_CONSTANT.fullmatch(operand):
        return ProbeArgument(size, is_signed, ArgumentPlace.CONSTANT, int(match[1], 0))
    if operand in ("xzr", "wzr"):
        return ProbeArgument(size, is_signed, ArgumentPlace.CONSTANT)
    register = _arm64_register(operand)
    if register is not None:
        return ProbeArgument(size, is_signed, ArgumentPlace.REGISTER, 0, register)
    match = _ARM64_MEMORY.fullmatch(operand)
    register = _arm64_register(match[1]) if match else None
    if match is None or register is None:
        return None
    if not match[3]:
        return ProbeArgument(size, is_signed, ArgumentPlace.MEMORY, int(match[2] or "0"), register)
    # A w register would be extended to 64 bits first, which the program cannot do.
    index = _arm64_register(match[3]) if match[3][0] == "x" else None
    if index is None:
        return None
    return ProbeArgument(
        size, is_signed, ArgumentPlace.INDEXED, 0, register, index, int(match[4] or "0")
    )


_PARSERS: Final[dict[int, Callable[[str, int, bool], ProbeArgument | None]]] = {
    X86: _parse_x86,
    X86_64: _parse_x86,
    ARM64: _parse_arm64,
}
