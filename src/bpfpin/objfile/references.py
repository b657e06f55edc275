"""What the instructions of a function refer to by ELF relocations: maps, data, functions.

The relocations are those of the kernel's Documentation/bpf/llvm_reloc.rst: R_BPF_64_64 fills a
64-bit load with symbol + addend, R_BPF_64_32 a call with (symbol + addend) / 8 - 1; the addend
stands in the instruction. A call within a section needs no relocation. The assembler of GCC has
another form: symbol + addend in bytes stand in the instruction, a call's less one.
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
from bpfpin.objfile.elf.file import (
    SHN_COMMON,
    SHN_LORESERVE,
    SHN_UNDEF,
    Elf,
    Relocation,
    Section,
)
from bpfpin.objfile.functions import Functions, FunctionSpan
from bpfpin.spec import Dialect, MapSpec, Reference, ReferenceKind
from bpfpin.uapi import PseudoCall

NO_EXTERNS: Final[Mapping[str, ExternSpec]] = MappingProxyType({})
R_BPF_64_64 = 1
R_BPF_64_ABS64 = 2
R_BPF_64_32 = 10

KERNEL_VERSION = "LINUX_KERNEL_VERSION"
_CONSTANT = re.compile(r"[A-Za-z_.$][A-Za-z0-9_.$]{0,254}", re.ASCII)
_HALVES = struct.Struct("<4xI4xi")  # the immediates of both slots
_MAX_REGISTER = 0xF  # as the destination; above it stands the source
_FITTING = {LD_IMM64: (R_BPF_64_64, R_BPF_64_ABS64), CALL: (R_BPF_64_32,)}


class Resolver:
    """Turns the relocations of an object into references by name."""

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
        self._data |= {spec.data_section: spec for spec in maps if spec.data_section}
        self._relocations: dict[int, dict[int, Relocation]] = {}
        self._addresses: dict[int, DataAddresses] = {}  # in data sections
        comment = elf.section(".comment")
        self._is_of_gcc = comment is not None and b"GCC:" in comment.data

    def references(self, place: FunctionSpan, code: Code) -> tuple[Reference, ...]:
        """Return what the function at *place* refers to, in the order of its instructions."""
        relocations = self._relocations_of(place.section)
        # Most instructions refer to nothing; these two bytes of each tell so.
        opcodes, registers = code.data[::INSN_SIZE], code.data[1::INSN_SIZE]
        start, found = place.start, []
        upper_half = -1
        for index, opcode in enumerate(opcodes):
            if index == upper_half:
                continue
            if opcode == LD_IMM64:
                upper_half = index + 1
                self._check_upper_half(place, upper_half, opcodes, relocations)
            relocation = relocations.get(start + index * INSN_SIZE)
            name = self._map_loaded(place, opcode, relocation) if relocation else None
            if name is not None:
                found.append(Reference(index, ReferenceKind.MAP, name))
            elif relocation or (registers[index] > _MAX_REGISTER and opcode in _FITTING):
                found.append(self._reference(place, index, code[index], relocation))
        return tuple(found)

    def _map_loaded(self, place: FunctionSpan, opcode: int, relocation: Relocation) -> str | None:
        """Return the map whose address is loaded, which is usual; None: it is something else."""
        if opcode != LD_IMM64 or relocation.type not in _FITTING[LD_IMM64]:
            return None
        symbol = relocation.symbol
        # A map is never referred to but at its beginning: its symbol alone says which one it is.
        found = self._maps.get((symbol.section_index, symbol.value)) if symbol.name else None
        if found is None:
            address = symbol.value + _load_addend(place, relocation.offset, relocation)
            found = self._maps.get((symbol.section_index, address))
        return found.name if found else None

    def _relocations_of(self, section: Section) -> dict[int, Relocation]:
        if section.index in self._relocations:
            return self._relocations[section.index]
        found: dict[int, Relocation] = {}
        for relocation in self._elf.relocations(section):
            offset = relocation.offset
            if offset in found or offset % INSN_SIZE:
                raise self._elf.error(
                    "a relocation within or a second one at an instruction",
                    section=section,
                    symbol=relocation.symbol,
                    offset=offset,
                )
            found[offset] = relocation
        self._relocations[section.index] = found
        return found

    def _check_upper_half(
        self,
        place: FunctionSpan,
        index: int,
        opcodes: bytes,
        relocations: dict[int, Relocation],
    ) -> None:
        offset = place.start + index * INSN_SIZE
        if index >= len(opcodes) or opcodes[index]:
            raise self._error(place, offset, "a 64-bit load without its upper half")
        if offset in relocations:
            raise self._error(place, offset, "a relocation in the middle of an instruction")

    def _reference(
        self,
        place: FunctionSpan,
        index: int,
        instruction: Instruction,
        relocation: Relocation | None,
    ) -> Reference:
        offset = place.start + index * INSN_SIZE
        if relocation is None:
            return self._unrelocated(place, index, instruction)
        if relocation.type not in _FITTING.get(instruction.opcode, ()):
            raise self._error(
                place,
                offset,
                f"relocation type {relocation.type} does not fit instruction "
                f"{instruction.opcode:#04x}",
                relocation,
            )
        if relocation.symbol.section_index == SHN_UNDEF and relocation.symbol.name in self._externs:
            return self._extern(place, index, instruction, relocation)
        if not instruction.is_call and self._is_constant(relocation):
            if _load_addend(place, offset, relocation) or instruction.src:
                text = f"{place.name} adds to {relocation.symbol.name}, a number of the loader's"
                raise self._error(place, offset, text, relocation)
            return Reference(index, ReferenceKind.CONSTANT, relocation.symbol.name)
        section = self._section_of(place, instruction, relocation)
        if instruction.is_call:
            address = self._called_address(instruction, section, relocation)
            target = self._function(place, offset, section, address)
            return Reference(index, ReferenceKind.CALL, target)
        address = self._loaded_address(place, section, relocation)
        if section.is_code:
            target = self._function(place, offset, section, address)
            return Reference(index, ReferenceKind.FUNCTION, target)
        return self._map_reference(place, index, section, address)

    def _is_constant(self, relocation: Relocation) -> bool:
        """Whether a number is loaded that the loader is to put there (cilium/ebpf, rakelimit).

        That is a symbol that the object neither defines nor declares: what is declared in C is
        something that the programs have, or the kernel.
        """
        symbol = relocation.symbol
        if symbol.section_index != SHN_UNDEF or not _CONSTANT.fullmatch(symbol.name):
            return False
        if symbol.name == KERNEL_VERSION or symbol.name.startswith("CONFIG_"):
            return False  # of the kernel, compiled without -g
        declared = self._declared
        return declared is None or declared.find(symbol.name, Var, Function) is None

    def _called_address(
        self, instruction: Instruction, section: Section, relocation: Relocation
    ) -> int:
        """Return the byte of *section* that is called, of the two forms the one that fits."""
        address = relocation.symbol.value + _call_addend(instruction, relocation)
        if relocation.addend is not None:
            return address
        of_gcc = instruction.imm + 1
        first, second = (of_gcc, address) if self._is_of_gcc else (address, of_gcc)
        return second if self._functions.at(section, first) is None else first

    def _loaded_address(self, place: FunctionSpan, section: Section, relocation: Relocation) -> int:
        """Return the byte of *section* whose address is loaded, of the two forms what fits."""
        symbol = relocation.symbol
        addend = _load_addend(place, relocation.offset, relocation)
        address = symbol.value + addend
        if relocation.addend is not None or not symbol.name or not symbol.value:
            return address
        end = symbol.value + symbol.size if symbol.size else section.size
        fits, fits_gcc = (symbol.value <= each < end for each in (address, addend))
        is_of_gcc = self._is_of_gcc if fits == fits_gcc else fits_gcc
        return addend if is_of_gcc else address

    def _extern(
        self, place: FunctionSpan, index: int, instruction: Instruction, relocation: Relocation
    ) -> Reference:
        """Return what the kernel is to fill in; its configuration lies in a map of the object."""
        extern, offset = self._externs[relocation.symbol.name], relocation.offset
        if instruction.is_call:
            addend = _call_addend(instruction, relocation)
            kind, is_right = ReferenceKind.EXTERN_CALL, extern.kind is ExternKind.KFUNC
        else:
            addend = _load_addend(place, offset, relocation)
            kind, is_right = ReferenceKind.EXTERN, True
        if extern.kind is ExternKind.KCONFIG and is_right and 0 <= addend < extern.size:
            kind, target = ReferenceKind.MAP_VALUE, KCONFIG
            return Reference(index, kind, target, extern.offset + addend)
        if not is_right or addend:
            what = f"byte {addend} of " if addend else ""
            message = f"{place.name} {'calls' if instruction.is_call else 'uses'} {what}"
            raise self._error(place, offset, f"{message}{extern.c_source}", relocation)
        return Reference(index, kind, extern.name)

    def _unrelocated(self, place: FunctionSpan, index: int, instruction: Instruction) -> Reference:
        """Return the function that a call within the section goes to."""
        offset = place.start + index * INSN_SIZE
        if not instruction.is_call or instruction.src != PseudoCall.CALL:
            raise self._error(place, offset, "refers to the kernel, but no relocation says to what")
        address = offset + (instruction.imm + 1) * INSN_SIZE
        target = self._function(place, offset, place.section, address)
        return Reference(index, ReferenceKind.CALL, target)

    def _section_of(
        self, place: FunctionSpan, instruction: Instruction, relocation: Relocation
    ) -> Section:
        """Return the section that the relocation's symbol is in."""
        index = relocation.symbol.section_index
        if SHN_UNDEF < index < SHN_LORESERVE:
            return self._elf.sections[index]
        name = relocation.symbol.name
        if index == SHN_COMMON:
            message, hint = f"{name} is in no section", "compile with -fno-common"
        elif index != SHN_UNDEF:
            message, hint = f"{name} is a fixed number, no address", ""
        elif instruction.is_call:
            message = f"{place.name} calls {name}, which the object does not define"
            hint = "declare a function of the kernel with __ksym, and compile with -g"
        else:
            message = f"{place.name} uses {name}, which the object does not define"
            hint = "declare what the kernel has with __ksym or __kconfig, and compile with -g"
        raise self._error(place, relocation.offset, message, relocation, hint=hint)

    def _function(self, place: FunctionSpan, offset: int, section: Section, address: int) -> str:
        target = self._functions.at(section, address)
        if target is None:
            raise self._error(
                place,
                offset,
                f"{place.name} refers to byte {address} of section {section.name}, "
                "where no function begins",
            )
        return target.name

    def _map_reference(
        self, place: FunctionSpan, index: int, section: Section, address: int
    ) -> Reference:
        exact = self._maps.get((section.index, address))
        if exact is not None:
            return Reference(index, ReferenceKind.MAP, exact.name)
        data = self._data.get(section.index)
        if data is not None:
            self._check_no_address(place, index, section, address)
        if data is not None and 0 <= address < (data.value_size or len(data.contents or b"")):
            return Reference(index, ReferenceKind.MAP_VALUE, data.name, address)
        raise self._error(
            place,
            place.start + index * INSN_SIZE,
            f"{place.name} refers to byte {address} of section {section.name}, "
            "where no map and no data of a map is",
        )

    def _check_no_address(
        self, place: FunctionSpan, index: int, section: Section, address: int
    ) -> None:
        """Refuse what reads a variable that holds an address: it is 0 in the map."""
        if section.index not in self._addresses:
            variables = self._data[section.index].variables
            self._addresses[section.index] = DataAddresses(self._elf, section, variables)
        addresses = self._addresses[section.index]
        if addresses.are_at(address):
            name = addresses.holder_of(address) or f"byte {address} of {section.name}"
            raise self._error(
                place,
                place.start + index * INSN_SIZE,
                f"{place.name} uses {name}, which holds an address; in a map that is 0",
                hint="keep no pointers in the global variables that programs use",
            )

    def _error(
        self,
        place: FunctionSpan,
        offset: int,
        message: str,
        relocation: Relocation | None = None,
        *,
        hint: str = "",
    ) -> ObjectFileError:
        symbol = relocation.symbol.name if relocation and relocation.symbol.name else place.name
        return self._elf.error(
            message, section=place.section, symbol=symbol, offset=offset, hint=hint
        )


def _call_addend(instruction: Instruction, relocation: Relocation) -> int:
    if relocation.addend is not None:
        return relocation.addend
    return (instruction.imm + 1) * INSN_SIZE


def _load_addend(place: FunctionSpan, offset: int, relocation: Relocation) -> int:
    """Return the addend; in the instruction it is split over the immediates of both slots."""
    if relocation.addend is not None:
        return relocation.addend
    low, high = _HALVES.unpack_from(place.section.data, offset)
    return int(high << 32 | low)
