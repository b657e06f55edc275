"""References of instructions to maps, data and functions, resolved from ELF relocations.

The relocations are those of the kernel's Documentation/bpf/llvm_reloc.rst: R_BPF_64_64 fills a
64-bit load with symbol + addend, R_BPF_64_32 a call with (symbol + addend) / 8 - 1; the addend is
in the instruction. A call within a section needs no relocation. The assembler of GCC (gas) writes
another form: the instruction contains symbol + addend in bytes, for a call minus one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Function, Var
from bpfpin.errors import ObjectFileError
from bpfpin.externs import KCONFIG, ExternKind, ExternSpec
from bpfpin.insn import CALL, INSN_SIZE, LD_IMM64, Code, Instruction
from bpfpin.objfile.dialects.data import DataAddresses
from bpfpin.objfile.elf.file import SHN_COMMON, SHN_LORESERVE, SHN_UNDEF, Elf, Relocation, Section
from bpfpin.objfile.functions import Functions, FunctionSpan
from bpfpin.spec import Dialect, MapSpec, Reference, ReferenceKind
from bpfpin.uapi import PseudoCall

NO_EXTERNS: Final[Mapping[str, ExternSpec]] = MappingProxyType({})
R_BPF_64_64 = 1
R_BPF_64_ABS64 = 2
R_BPF_64_32 = 10

KERNEL_VERSION = "LINUX_KERNEL_VERSION"
_CONSTANT = r"[A-Za-z_.$][A-Za-z0-9_.$]{0,254}"
_HALVES = struct.Struct("<4xI4xi")  # the immediates of both slots of a 64-bit load
_MAX_REGISTER = 0xF  # the destination is in the low four bits, the source above them
_FITTING = {LD_IMM64: (R_BPF_64_64, R_BPF_64_ABS64), CALL: (R_BPF_64_32,)}


class Resolver:
    """Converts the relocations of an object into references by name."""

    def __init__(
        self,
        elf: Elf,
        functions: Functions,
        maps: Sequence[MapSpec],
        externs: Mapping[str, ExternSpec] = NO_EXTERNS,
        *,
        declared: Btf | None = None,
    ) -> None:
        self._externs = externs
        self._declared = declared
        self._elf = elf
        self._functions = functions
        self._maps = {
            (spec.section_index, spec.offset): spec for spec in maps if spec.dialect != Dialect.DATA
        }
        self._data = {spec.section_index: spec for spec in maps if spec.dialect == Dialect.DATA}
        # Variables of an arena have a section, and are values of the arena's map.
        self._data |= {spec.data_section: spec for spec in maps if spec.data_section}
        self._relocations: dict[int, dict[int, Relocation]] = {}
        self._addresses: dict[int, DataAddresses] = {}  # in data sections
        # Compilers write their name there. It decides only if an instruction fits both forms.
        comment = elf.section(".comment")
        self._is_of_gcc = comment is not None and b"GCC:" in comment.data

    def references(self, function: FunctionSpan, code: Code) -> tuple[Reference, ...]:
        """Return the references of the function, in the order of its instructions."""
        relocations = self._relocations_of(function.section)
        # Most instructions refer to nothing. Opcode and registers are enough to see that, so only
        # the others are decoded.
        opcodes, registers = code.data[::INSN_SIZE], code.data[1::INSN_SIZE]
        start, references = function.start, []
        upper_half = -1
        for index, opcode in enumerate(opcodes):
            if index == upper_half:
                continue
            # The second slot of a 64-bit load is data and must not be read as an instruction.
            if opcode == LD_IMM64:
                upper_half = index + 1
                self._check_upper_half(function, upper_half, opcodes, relocations)
            relocation = relocations.get(start + index * INSN_SIZE)
            name = self._map_loaded(function, opcode, relocation) if relocation else None
            if name is not None:
                references.append(Reference(index, ReferenceKind.MAP, name))
            elif relocation or (registers[index] > _MAX_REGISTER and opcode in _FITTING):
                references.append(self._reference(function, index, code[index], relocation))
        return tuple(references)

    def _map_loaded(
        self, function: FunctionSpan, opcode: int, relocation: Relocation
    ) -> str | None:
        """Return the name of the map whose address is loaded; None if it is something else."""
        if opcode != LD_IMM64 or relocation.type not in _FITTING[LD_IMM64]:
            return None
        symbol = relocation.symbol
        # Code refers to the start of a map only, so the symbol is enough, without the addend.
        spec = self._maps.get((symbol.section_index, symbol.value)) if symbol.name else None
        if spec is None:
            address = symbol.value + _load_addend(function, relocation.offset, relocation)
            spec = self._maps.get((symbol.section_index, address))
        return spec.name if spec else None

    def _relocations_of(self, section: Section) -> dict[int, Relocation]:
        if section.index in self._relocations:
            return self._relocations[section.index]
        by_offset: dict[int, Relocation] = {}
        for relocation in self._elf.relocations(section):
            offset = relocation.offset
            if offset in by_offset or offset % INSN_SIZE:
                raise self._elf.error(
                    "a relocation inside an instruction, or a second one for it",
                    section=section,
                    symbol=relocation.symbol,
                    offset=offset,
                )
            by_offset[offset] = relocation
        self._relocations[section.index] = by_offset
        return by_offset

    def _check_upper_half(
        self,
        function: FunctionSpan,
        index: int,
        opcodes: bytes,
        relocations: dict[int, Relocation],
    ) -> None:
        offset = function.start + index * INSN_SIZE
        if index >= len(opcodes) or opcodes[index]:
            raise self._error(function, offset, "a 64-bit load without its upper half")
        if offset in relocations:
            raise self._error(function, offset, "a relocation in the middle of an instruction")

    def _reference(
        self,
        function: FunctionSpan,
        index: int,
        instruction: Instruction,
        relocation: Relocation | None,
    ) -> Reference:
        offset = function.start + index * INSN_SIZE
        if relocation is None:
            return self._unrelocated(function, index, instruction)
        if relocation.type not in _FITTING.get(instruction.opcode, ()):
            raise self._error(
                function,
                offset,
                f"relocation type {relocation.type} does not fit instruction "
                f"{instruction.opcode:#04x}",
                relocation,
            )
        if relocation.symbol.section_index == SHN_UNDEF and relocation.symbol.name in self._externs:
            return self._extern(function, index, instruction, relocation)
        if not instruction.is_call and self._is_constant(relocation):
            if _load_addend(function, offset, relocation) or instruction.src:
                text = f"{function.name} adds to {relocation.symbol.name}, a constant of the loader"
                raise self._error(function, offset, text, relocation)
            return Reference(index, ReferenceKind.CONSTANT, relocation.symbol.name)
        section = self._section_of(function, instruction, relocation)
        if instruction.is_call:
            address = self._called_address(instruction, section, relocation)
            target = self._function(function, offset, section, address)
            return Reference(index, ReferenceKind.CALL, target)
        address = self._loaded_address(function, section, relocation)
        if section.is_code:
            target = self._function(function, offset, section, address)
            return Reference(index, ReferenceKind.FUNCTION, target)
        return self._map_reference(function, index, section, address)

    def _is_constant(self, relocation: Relocation) -> bool:
        """Whether the instruction loads a number that the loader provides (cilium/ebpf, rakelimit).

        Its symbol is neither defined nor declared in the object. A name declared in C belongs to
        the programs or to the kernel.
        """
        symbol = relocation.symbol
        # The name becomes a key and part of messages, so odd ones are not taken for constants.
        if symbol.section_index != SHN_UNDEF or not re.fullmatch(_CONSTANT, symbol.name):
            return False
        if symbol.name == KERNEL_VERSION or symbol.name.startswith("CONFIG_"):
            return False  # an extern of the kernel, compiled without -g
        declared = self._declared
        return declared is None or declared.find(symbol.name, Var, Function) is None

    def _called_address(
        self, instruction: Instruction, section: Section, relocation: Relocation
    ) -> int:
        """Return the byte of *section* that is called, by the form (LLVM or GCC) that fits."""
        address = relocation.symbol.value + _call_addend(instruction, relocation)
        if relocation.addend is not None:
            return address
        # gas stores the target in bytes minus one, clang the distance in instructions minus one.
        of_gcc = instruction.imm + 1
        first, second = (of_gcc, address) if self._is_of_gcc else (address, of_gcc)
        return second if self._functions.at(section, first) is None else first

    def _loaded_address(
        self, function: FunctionSpan, section: Section, relocation: Relocation
    ) -> int:
        """Return the byte of *section* whose address is loaded, by the form that fits."""
        symbol = relocation.symbol
        addend = _load_addend(function, relocation.offset, relocation)
        address = symbol.value + addend
        if relocation.addend is not None or not symbol.name or not symbol.value:
            return address
        end = symbol.value + symbol.size if symbol.size else section.size
        # Within the symbol: a reference to an array element or member stays inside its variable.
        fits, fits_gcc = (symbol.value <= value < end for value in (address, addend))
        is_of_gcc = self._is_of_gcc if fits == fits_gcc else fits_gcc
        return addend if is_of_gcc else address

    def _extern(
        self, function: FunctionSpan, index: int, instruction: Instruction, relocation: Relocation
    ) -> Reference:
        """Return a reference to an extern; one of `.kconfig` is a value in that section's map."""
        extern, offset = self._externs[relocation.symbol.name], relocation.offset
        if instruction.is_call:
            addend = _call_addend(instruction, relocation)
            kind, is_right = ReferenceKind.EXTERN_CALL, extern.kind is ExternKind.KFUNC
        else:
            addend = _load_addend(function, offset, relocation)
            kind, is_right = ReferenceKind.EXTERN, True
        if extern.kind is ExternKind.KCONFIG and is_right and 0 <= addend < extern.size:
            kind, target = ReferenceKind.MAP_VALUE, KCONFIG
            return Reference(index, kind, target, extern.offset + addend)
        if not is_right or addend:
            what = f"byte {addend} of " if addend else ""
            message = f"{function.name} {'calls' if instruction.is_call else 'uses'} {what}"
            raise self._error(function, offset, f"{message}{extern.c_source}", relocation)
        return Reference(index, kind, extern.name)

    def _unrelocated(
        self, function: FunctionSpan, index: int, instruction: Instruction
    ) -> Reference:
        """Return the reference of a call within the section."""
        offset = function.start + index * INSN_SIZE
        # A source register other than 0 says that the immediate is a descriptor or id, which no
        # file can know.
        if not instruction.is_call or instruction.src != PseudoCall.CALL:
            raise self._error(
                function, offset, "refers to a map or kernel object without relocation"
            )
        # Calls count in instructions, relative to the next one.
        address = offset + (instruction.imm + 1) * INSN_SIZE
        target = self._function(function, offset, function.section, address)
        return Reference(index, ReferenceKind.CALL, target)

    def _section_of(
        self, function: FunctionSpan, instruction: Instruction, relocation: Relocation
    ) -> Section:
        """Return the section that defines the relocation's symbol."""
        index = relocation.symbol.section_index
        if SHN_UNDEF < index < SHN_LORESERVE:
            return self._elf.sections[index]
        name = relocation.symbol.name
        if index == SHN_COMMON:
            message, hint = f"{name} is in no section", "compile with -fno-common"
        elif index != SHN_UNDEF:
            message, hint = f"{name} is a fixed number, not an address", ""
        elif instruction.is_call:
            message = f"{function.name} calls {name}, which the object does not define"
            hint = "declare a function of the kernel with __ksym, and compile with -g"
        else:
            message = f"{function.name} uses {name}, which the object does not define"
            hint = "declare names of the kernel with __ksym or __kconfig, and compile with -g"
        raise self._error(function, relocation.offset, message, relocation, hint=hint)

    def _function(self, function: FunctionSpan, offset: int, section: Section, address: int) -> str:
        target = self._functions.at(section, address)
        if target is None:
            raise self._error(
                function,
                offset,
                f"{function.name} refers to byte {address} of section {section.name}, "
                "where no function begins",
            )
        return target.name

    def _map_reference(
        self, function: FunctionSpan, index: int, section: Section, address: int
    ) -> Reference:
        # Code may add an offset to a data section, but must refer to exactly the start of a map.
        exact = self._maps.get((section.index, address))
        if exact is not None:
            return Reference(index, ReferenceKind.MAP, exact.name)
        data = self._data.get(section.index)
        if data is not None:
            self._check_no_address(function, index, section, address)
        if data is not None and 0 <= address < (data.value_size or len(data.contents or b"")):
            return Reference(index, ReferenceKind.MAP_VALUE, data.name, address)
        raise self._error(
            function,
            function.start + index * INSN_SIZE,
            f"{function.name} refers to byte {address} of section {section.name}, "
            "which is neither a map nor data of a map",
        )

    def _check_no_address(
        self, function: FunctionSpan, index: int, section: Section, address: int
    ) -> None:
        """Refuse a reference to a variable that contains an address, which is 0 in the map."""
        # Made on first use: most objects have no addresses in their data.
        if section.index not in self._addresses:
            variables = self._data[section.index].variables
            self._addresses[section.index] = DataAddresses(self._elf, section, variables)
        addresses = self._addresses[section.index]
        if addresses.are_at(address):
            name = addresses.variable_at(address) or f"byte {address} of {section.name}"
            raise self._error(
                function,
                function.start + index * INSN_SIZE,
                f"{function.name} uses {name}, which contains an address; in a map that is 0",
                hint="keep no pointers in the global variables that programs use",
            )

    def _error(
        self,
        function: FunctionSpan,
        offset: int,
        message: str,
        relocation: Relocation | None = None,
        *,
        hint: str = "",
    ) -> ObjectFileError:
        symbol = relocation.symbol.name if relocation and relocation.symbol.name else function.name
        return self._elf.error(
            message, section=function.section, symbol=symbol, offset=offset, hint=hint
        )


def _call_addend(instruction: Instruction, relocation: Relocation) -> int:
    if relocation.addend is not None:
        return relocation.addend
    return (instruction.imm + 1) * INSN_SIZE


def _load_addend(function: FunctionSpan, offset: int, relocation: Relocation) -> int:
    """Return the addend; inside the instruction it is split over the immediates of both slots."""
    if relocation.addend is not None:
        return relocation.addend
    low, high = _HALVES.unpack_from(function.section.data, offset)
    return int(high << 32 | low)
