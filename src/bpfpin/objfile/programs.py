"""Which functions of an object are programs, and what their sections say of them.

A function that is seen outside the file is a program if its section's name says what it is. In a
section with a free name it is one unless another function calls it; in `.text` only if the object
has no other.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from bpfpin.btf.btf import Btf
from bpfpin.btf.ext import BtfExt
from bpfpin.btf.types import DeclTag, Function
from bpfpin.errors import ObjectFileError, UsageError
from bpfpin.externs import ExternSpec
from bpfpin.insn import INSN_SIZE, Code
from bpfpin.objfile.elf.file import Elf
from bpfpin.objfile.elf.records import MAX_INSTRUCTIONS, MAX_LINKED_INSTRUCTIONS, check_limit
from bpfpin.objfile.elf.section import ProgramKind, kind_by_word, program_kind
from bpfpin.objfile.functions import TEXT, Functions, FunctionSpan
from bpfpin.objfile.references import NO_EXTERNS, Resolver
from bpfpin.spec import CoreRelocation, FunctionSpec, LineInfo, MapSpec, ProgramSpec, ReferenceKind
from bpfpin.uapi import CoreRelocationKind, ProgramType

MAX_FUNCTIONS = 256  # of one program: BPF_MAX_SUBPROGS in the kernel's include/linux/bpf_verifier.h
_EXCEPTION_CALLBACK = "exception_callback:"
_CORE_KINDS = {kind.value: kind for kind in CoreRelocationKind}
_Record = TypeVar("_Record", bound=tuple[Any, ...])
MAX_PROGRAMS = 4096
UNKNOWN = ProgramKind(ProgramType.UNSPEC)


# The functions of an object as specs: instructions, references, debug information.


@dataclass
class _Debug:
    """What `.BTF.ext` says of one section, by offset."""

    functions: dict[int, int] = field(default_factory=dict)
    lines: list[tuple[int, int, int, int]] = field(default_factory=list)
    relocations: list[tuple[int, int, str, int]] = field(default_factory=list)


class CodeReader:
    """Makes `FunctionSpec`s, each one once and only when asked for: dead code may be anything.

    *declared* are the types as the compiler wrote them, with what is defined elsewhere.
    """

    def __init__(
        self,
        elf: Elf,
        functions: Functions,
        maps: Sequence[MapSpec],
        *,
        btf: Btf | None,
        ext: BtfExt,
        externs: Mapping[str, ExternSpec] = NO_EXTERNS,
        declared: Btf | None = None,
    ) -> None:
        self._elf = elf
        self._functions = functions
        self._btf = btf
        self._ext = ext
        self._resolver = Resolver(elf, functions, maps, externs, declared=declared)
        self._debug: dict[str, _Debug] = {}
        self._read: dict[str, FunctionSpec] = {}
        self._callees: dict[str, list[str]] = {}
        self._instructions = 0
        self._linked = 0

    def exception_callback(self, name: str) -> str:
        """Return the function that bpf_throw() ends in when the program *name* calls it; or "".

        A declaration tag of the program names it: `__exception_cb(NAME)` of bpf_experimental.h.
        """
        tags = self._callback_tags.get(self._function(name).type_id, [])
        if len(tags) > 1:
            raise self._elf.error(f"{len(tags)} exception callbacks; there can be one", symbol=name)
        for callback in tags:
            if callback not in self._functions:
                raise self._elf.error(
                    f"the exception callback {callback} is not defined in the object", symbol=name
                )
            return callback
        return ""

    @cached_property
    def _callback_tags(self) -> dict[int, list[str]]:
        """Return the names of exception callbacks, by the id of the function that is tagged."""
        found: dict[int, list[str]] = {}
        for kind in self._btf.types() if self._btf else ():
            if isinstance(kind, DeclTag) and kind.name.startswith(_EXCEPTION_CALLBACK):
                name = kind.name.removeprefix(_EXCEPTION_CALLBACK)
                found.setdefault(kind.type_id, []).append(name)
        return found

    def reachable(self, name: str) -> tuple[FunctionSpec, ...]:
        """Return the function and all that it calls or takes the address of, itself first."""
        found: dict[str, FunctionSpec] = {}
        waiting = [name]
        while waiting:
            next_name = waiting.pop()
            if next_name in found:
                continue
            found[next_name] = self._function(next_name)
            self._count_linked(found[next_name])
            if len(found) > MAX_FUNCTIONS:
                raise self._elf.error(
                    f"the program has more functions than the {MAX_FUNCTIONS} that Linux takes",
                    section=self._functions[name].section,
                    symbol=name,
                )
            waiting += reversed(self._callees_of(next_name))
        return tuple(found.values())

    def called_by(self, names: Iterable[str]) -> set[str]:
        """Return all that these functions call or take the address of, directly or not."""
        called: set[str] = set()
        waiting = [*names][::-1]
        while waiting:
            found = self._callees_of(waiting.pop())
            waiting += [name for name in found if name not in called]
            called.update(found)
        return called

    def _callees_of(self, name: str) -> list[str]:
        """Return the functions that this one leads to: called, pointed to, thrown to; each once."""
        if name not in self._callees:
            callback = self.exception_callback(name)
            called = [*callees(self._function(name)), *([callback] if callback else [])]
            self._callees[name] = list(dict.fromkeys(called))
        return self._callees[name]

    def _count_linked(self, function: FunctionSpec) -> None:
        """Count what each program copies: many programs may share one huge function."""
        self._linked += len(function.instructions)
        limit = MAX_LINKED_INSTRUCTIONS
        check_limit(self._linked, limit, "instructions in all programs", symbol=function.name)

    def _function(self, name: str) -> FunctionSpec:
        if name not in self._read:
            self._read[name] = self._spec(self._functions[name])
        return self._read[name]

    def _spec(self, place: FunctionSpan) -> FunctionSpec:
        self._instructions += (place.end - place.start) // INSN_SIZE
        check_limit(
            self._instructions, MAX_INSTRUCTIONS, "instructions", section=place.section.name
        )
        instructions = Code(place.code)
        debug = self._debug_of(place.section.name)
        references = self._resolver.references(place, instructions)
        return FunctionSpec(
            place.name,
            place.section.name,
            instructions,
            tuple(each for each in references if each.kind is not ReferenceKind.CONSTANT),
            self._type_id(place, debug),
            tuple(
                [
                    LineInfo((offset - place.start) // INSN_SIZE, file_name, line, column)
                    for offset, file_name, line, column in _between(debug.lines, place)
                ]
            ),
            tuple([self._relocation(place, each) for each in _between(debug.relocations, place)]),
            tuple(
                (each.index, each.target)
                for each in references
                if each.kind is ReferenceKind.CONSTANT
            ),
        )

    def _debug_of(self, section: str) -> _Debug:
        if section not in self._debug:
            self._debug[section] = _Debug(
                dict(self._ext.functions.get(section, ())),
                sorted({line[0]: line for line in self._ext.lines.get(section, ())}.values()),
                sorted(self._ext.relocations.get(section, ())),
            )
        return self._debug[section]

    def _type_id(self, place: FunctionSpan, debug: _Debug) -> int:
        type_id = debug.functions.get(place.start, 0)
        if type_id and self._btf and not isinstance(self._btf[type_id], Function):
            raise self._elf.error(
                f".BTF.ext gives the function type {type_id}, which is no function",
                section=place.section,
                symbol=place.name,
            )
        return type_id

    def _relocation(self, place: FunctionSpan, record: tuple[int, int, str, int]) -> CoreRelocation:
        """Check what needs no target: the instruction, the type, the kind."""
        offset, type_id, access, number = record
        kind = _CORE_KINDS.get(number)
        if kind is None:
            raise self._bad_relocation(place, offset, f"is of kind {number}, which is unknown")
        if offset % INSN_SIZE:
            raise self._bad_relocation(place, offset, "is within an instruction")
        if self._btf is None or not 0 < type_id < len(self._btf):
            raise self._bad_relocation(place, offset, f"names type {type_id}, which is not there")
        return CoreRelocation((offset - place.start) // INSN_SIZE, type_id, access, kind)

    def _bad_relocation(self, place: FunctionSpan, offset: int, what: str) -> ObjectFileError:
        return self._elf.error(
            f"a CO-RE relocation of {place.name} {what}",
            section=place.section,
            symbol=place.name,
            offset=offset,
        )


def callees(function: FunctionSpec) -> list[str]:
    """Return the names of the functions that this one calls or takes the address of."""
    kinds = (ReferenceKind.CALL, ReferenceKind.FUNCTION)
    return [each.target for each in function.references if each.kind in kinds]


def _between(records: Sequence[_Record], place: FunctionSpan) -> Sequence[_Record]:
    """Return those of the sorted *records* whose offset lies in the function."""
    first = bisect_left(records, (place.start,))
    return records[first : bisect_left(records, (place.end,))]


class ProgramReader:
    """Finds the programs; *types* are the user's words, by program or for all free sections."""

    def __init__(
        self,
        elf: Elf,
        functions: Functions,
        code: CodeReader,
        types: Mapping[str, str] | str | None,
    ) -> None:
        self._elf = elf
        self._code = code
        self._static = [place for place in functions.places if place.is_static]
        self._seen = [place for place in functions.places if not place.is_static]
        self._by_name = types if isinstance(types, Mapping) else {}
        self._free = kind_by_word(types) if isinstance(types, str) else UNKNOWN
        self._check_names()

    def read(self, license_text: str, version: int) -> list[tuple[ProgramSpec, ProgramKind]]:
        """Return the programs and their kinds, in the order of the file."""
        return [
            (self._program(place, kind, license_text, version), kind)
            for place, kind in self._kinds()
        ]

    def notes(self, programs: Iterable[ProgramSpec]) -> tuple[str, ...]:
        """Return a word on each static function that stands where programs do, but is none."""
        reached = {function.name for program in programs for function in program.functions}
        return tuple(
            f"{place.name} in section {place.section.name} is static, and therefore no program"
            for place in self._static
            if place.name not in reached and program_kind(place.section.name)
        )

    def _check_names(self) -> None:
        there = [place.name for place in self._seen]
        unknown = [name for name in self._by_name if name not in there]
        if unknown:
            raise UsageError(
                f"{self._elf.path or 'the object'} has no program {unknown[0]!r}; "
                f"it has: {', '.join(there) or 'none'}"
            )

    def _kinds(self) -> Iterator[tuple[FunctionSpan, ProgramKind]]:
        kinds = {place.name: self._kind(place) for place in self._seen}
        known = [name for name, kind in kinds.items() if kind]
        outside = [place.name for place in self._seen if place.section.name != TEXT]
        called = {*known, *self._code.called_by(known)}
        free = [name for name in outside or kinds if name not in called]
        programs = {*known, *free} - (self._code.called_by(free) - {*known})
        if len(programs) > MAX_PROGRAMS:
            raise self._elf.error(f"{len(programs)} programs; at most {MAX_PROGRAMS} are read")
        for place in self._seen:
            if place.name in programs:
                yield place, kinds[place.name] or self._free

    def _kind(self, place: FunctionSpan) -> ProgramKind | None:
        kind = program_kind(place.section.name)
        tail_call = kind.tail_call if kind else None
        told = self._told(place, is_free=tail_call is not None)
        if told is None or tail_call is None:
            return told or kind
        return dataclasses.replace(told, attach_type=None, hook=None, tail_call=tail_call)

    def _told(self, place: FunctionSpan, *, is_free: bool) -> ProgramKind | None:
        """Return what the user says of the program itself, or of all whose section says nothing."""
        if place.name in self._by_name:
            return kind_by_word(self._by_name[place.name])
        return self._free if is_free and self._free is not UNKNOWN else None

    def _program(
        self, place: FunctionSpan, kind: ProgramKind, license_text: str, version: int
    ) -> ProgramSpec:
        return ProgramSpec(
            place.name,
            kind.type,
            place.section.name,
            self._code.reachable(place.name),
            license=license_text,
            expected_attach_type=kind.expected_attach_type,
            attach_type=kind.attach_type,
            hook=kind.hook,
            attach_to=kind.attach_to,
            exception_callback=self._code.exception_callback(place.name),
            program_flags=int(kind.program_flags),
            section_note=kind.note,
            kernel_version=version,
        )
