"""Programs of an object and the functions that they consist of.

A global function is a program if the name of its section says what kind of program it is. In a
section with any other name it is a program unless another function calls it; in `.text` only if the
object has no other programs.
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
# The text of the declaration tag that __exception_cb() makes.
_EXCEPTION_CALLBACK = "exception_callback:"
_CORE_KINDS = {kind.value: kind for kind in CoreRelocationKind}
_Record = TypeVar("_Record", bound=tuple[Any, ...])
MAX_PROGRAMS = 4096
UNKNOWN = ProgramKind(ProgramType.UNSPEC)


@dataclass
class _Debug:
    """The records of `.BTF.ext` for one section, sorted by offset."""

    functions: dict[int, int] = field(default_factory=dict)
    lines: list[tuple[int, int, int, int]] = field(default_factory=list)
    relocations: list[tuple[int, int, str, int]] = field(default_factory=list)


class CodeReader:
    """Makes `FunctionSpec`s, each on first use.

    Functions that no program reaches are not read, so that malformed dead code does no harm.
    *declared* are the types as the compiler wrote them, with the externs that *btf* has lost.
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
        """Return the name of the program's exception callback; "" if it has none.

        bpf_throw() ends in this function. A declaration tag of the program names it:
        `__exception_cb(NAME)` in bpf_experimental.h of the kernel's selftests.
        """
        tags = self._callback_tags.get(self._function(name).type_id, [])
        if len(tags) > 1:
            # bpf_find_exception_callback_insn_off() in kernel/bpf/verifier.c refuses several, too.
            raise self._elf.error(f"{len(tags)} exception callbacks; at most 1", symbol=name)
        for callback in tags:
            if callback not in self._functions:
                raise self._elf.error(
                    f"the exception callback {callback} is not defined in the object", symbol=name
                )
            return callback
        return ""

    @cached_property
    def _callback_tags(self) -> dict[int, list[str]]:
        """The names of exception callbacks by the id of the tagged function."""
        names_by_id: dict[int, list[str]] = {}
        for kind in self._btf.types() if self._btf else ():
            if isinstance(kind, DeclTag) and kind.name.startswith(_EXCEPTION_CALLBACK):
                name = kind.name.removeprefix(_EXCEPTION_CALLBACK)
                names_by_id.setdefault(kind.type_id, []).append(name)
        return names_by_id

    def reachable(self, name: str) -> tuple[FunctionSpec, ...]:
        """Return the function and all functions that it calls or takes the address of, in order."""
        functions: dict[str, FunctionSpec] = {}
        waiting = [name]
        while waiting:
            next_name = waiting.pop()
            if next_name in functions:
                continue
            functions[next_name] = self._function(next_name)
            self._count_linked(functions[next_name])
            if len(functions) > MAX_FUNCTIONS:
                raise self._elf.error(
                    f"the program has more than {MAX_FUNCTIONS} functions, the kernel's limit",
                    section=self._functions[name].section,
                    symbol=name,
                )
            # Reversed, because the last one is taken first: callees come in the order of the calls.
            waiting += reversed(self._callees_of(next_name))
        return tuple(functions.values())

    def called_by(self, names: Iterable[str]) -> set[str]:
        """Return the functions that these call or take the address of, directly or indirectly."""
        called: set[str] = set()
        waiting = [*names][::-1]
        while waiting:
            callee_names = self._callees_of(waiting.pop())
            waiting += [name for name in callee_names if name not in called]
            called.update(callee_names)
        return called

    def _callees_of(self, name: str) -> list[str]:
        """Return the functions that this one refers to, and its exception callback."""
        # Computed once: with many programs, `called_by` visits each function again and again.
        if name not in self._callees:
            callback = self.exception_callback(name)
            called = [*callees(self._function(name)), *([callback] if callback else [])]
            self._callees[name] = list(dict.fromkeys(called))
        return self._callees[name]

    def _count_linked(self, function: FunctionSpec) -> None:
        """Limit the sum of all programs: many of them may each copy one huge function."""
        self._linked += len(function.instructions)
        limit = MAX_LINKED_INSTRUCTIONS
        check_limit(self._linked, limit, "instructions in all programs", symbol=function.name)

    def _function(self, name: str) -> FunctionSpec:
        if name not in self._read:
            self._read[name] = self._spec(self._functions[name])
        return self._read[name]

    def _spec(self, function: FunctionSpan) -> FunctionSpec:
        # Counted before decoding, so that a huge function costs nothing.
        self._instructions += (function.end - function.start) // INSN_SIZE
        check_limit(
            self._instructions, MAX_INSTRUCTIONS, "instructions", section=function.section.name
        )
        instructions = Code(function.code)
        debug = self._debug_of(function.section.name)
        references = self._resolver.references(function, instructions)
        return FunctionSpec(
            function.name,
            function.section.name,
            instructions,
            tuple(ref for ref in references if ref.kind is not ReferenceKind.CONSTANT),
            self._type_id(function, debug),
            tuple(
                [
                    LineInfo((offset - function.start) // INSN_SIZE, file_name, line, column)
                    for offset, file_name, line, column in _between(debug.lines, function)
                ]
            ),
            tuple(
                [self._relocation(function, row) for row in _between(debug.relocations, function)]
            ),
            tuple(
                (ref.index, ref.target) for ref in references if ref.kind is ReferenceKind.CONSTANT
            ),
        )

    def _debug_of(self, section: str) -> _Debug:
        if section not in self._debug:
            self._debug[section] = _Debug(
                dict(self._ext.functions.get(section, ())),
                # Linkers may leave two line infos for an instruction, which the kernel refuses
                # (check_btf_line()). The last one counts.
                sorted({line[0]: line for line in self._ext.lines.get(section, ())}.values()),
                sorted(self._ext.relocations.get(section, ())),
            )
        return self._debug[section]

    def _type_id(self, function: FunctionSpan, debug: _Debug) -> int:
        type_id = debug.functions.get(function.start, 0)
        if type_id and self._btf and not isinstance(self._btf[type_id], Function):
            raise self._elf.error(
                f".BTF.ext gives the function type {type_id}, which is not a function",
                section=function.section,
                symbol=function.name,
            )
        return type_id

    def _relocation(
        self, function: FunctionSpan, record: tuple[int, int, str, int]
    ) -> CoreRelocation:
        """Return the relocation, with its instruction, type and kind checked."""
        offset, type_id, access, number = record
        kind = _CORE_KINDS.get(number)
        if kind is None:
            raise self._bad_relocation(function, offset, f"is of kind {number}, which is unknown")
        if offset % INSN_SIZE:
            raise self._bad_relocation(function, offset, "is within an instruction")
        # Id 0 is void, which no relocation is about.
        if self._btf is None or not 0 < type_id < len(self._btf):
            raise self._bad_relocation(
                function, offset, f"refers to type {type_id}, not in the BTF"
            )
        return CoreRelocation((offset - function.start) // INSN_SIZE, type_id, access, kind)

    def _bad_relocation(self, function: FunctionSpan, offset: int, what: str) -> ObjectFileError:
        return self._elf.error(
            f"a CO-RE relocation of {function.name} {what}",
            section=function.section,
            symbol=function.name,
            offset=offset,
        )


def callees(function: FunctionSpec) -> list[str]:
    """Return the names of the functions that *function* calls or takes the address of."""
    kinds = (ReferenceKind.CALL, ReferenceKind.FUNCTION)
    return [reference.target for reference in function.references if reference.kind in kinds]


def _between(records: Sequence[_Record], function: FunctionSpan) -> Sequence[_Record]:
    """Return those of the sorted *records* whose offset is in the function."""
    # A tuple of one is less than any record with the same offset.
    first = bisect_left(records, (function.start,))
    return records[first : bisect_left(records, (function.end,))]


class ProgramReader:
    """Finds the programs of an object.

    *types* are words of the user for program types: by program, or one for all programs whose
    section does not say their type.
    """

    def __init__(
        self,
        elf: Elf,
        functions: Functions,
        code: CodeReader,
        types: Mapping[str, str] | str | None,
    ) -> None:
        self._elf = elf
        self._code = code
        self._static = [span for span in functions.spans if span.is_static]
        self._global = [span for span in functions.spans if not span.is_static]
        self._by_name = types if isinstance(types, Mapping) else {}
        self._free = kind_by_word(types) if isinstance(types, str) else UNKNOWN
        self._check_names()

    def read(self, license_text: str, version: int) -> list[tuple[ProgramSpec, ProgramKind]]:
        """Return the programs and their kinds, in the order of the file."""
        return [
            (self._program(function, kind, license_text, version), kind)
            for function, kind in self._kinds()
        ]

    def notes(self, programs: Iterable[ProgramSpec]) -> tuple[str, ...]:
        """Return a note on each unused static function in a section of programs."""
        reached = {function.name for program in programs for function in program.functions}
        return tuple(
            f"{span.name} in section {span.section.name} is static, and therefore not a program"
            for span in self._static
            if span.name not in reached and program_kind(span.section.name)
        )

    def _check_names(self) -> None:
        names = [span.name for span in self._global]
        unknown = [name for name in self._by_name if name not in names]
        if unknown:
            raise UsageError(
                f"{self._elf.path or 'the object'} has no program {unknown[0]!r}; "
                f"it has: {', '.join(names) or 'none'}"
            )

    def _kinds(self) -> Iterator[tuple[FunctionSpan, ProgramKind]]:
        kinds = {function.name: self._kind(function) for function in self._global}
        known = [name for name, kind in kinds.items() if kind]
        # Compilers put functions without a section attribute, such as subprograms, into `.text`.
        outside = [function.name for function in self._global if function.section.name != TEXT]
        # A function that a known program calls is a subprogram, even in a section of its own.
        called = {*known, *self._code.called_by(known)}
        free = [name for name in outside or kinds if name not in called]
        # Of the free ones, those that another free one calls are subprograms.
        programs = {*known, *free} - (self._code.called_by(free) - {*known})
        # Each program has its own copy of its functions' specs, so their number is limited as well.
        if len(programs) > MAX_PROGRAMS:
            raise self._elf.error(f"{len(programs)} programs; at most {MAX_PROGRAMS} are read")
        for function in self._global:
            if function.name in programs:
                yield function, kinds[function.name] or self._free

    def _kind(self, function: FunctionSpan) -> ProgramKind | None:
        # A section `ID/KEY` is known but leaves the type open, so a word of the user applies to it,
        # too.
        kind = program_kind(function.section.name)
        tail_call = kind.tail_call if kind else None
        given = self._given(function, is_free=tail_call is not None)
        if given is None or tail_call is None:
            return given or kind
        return dataclasses.replace(given, attach_type=None, hook=None, tail_call=tail_call)

    def _given(self, function: FunctionSpan, *, is_free: bool) -> ProgramKind | None:
        """Return the user's kind for the program, or the one for all if its section has none."""
        if function.name in self._by_name:
            return kind_by_word(self._by_name[function.name])
        return self._free if is_free and self._free is not UNKNOWN else None

    def _program(
        self, function: FunctionSpan, kind: ProgramKind, license_text: str, version: int
    ) -> ProgramSpec:
        return ProgramSpec(
            function.name,
            kind.type,
            function.section.name,
            self._code.reachable(function.name),
            license=license_text,
            expected_attach_type=kind.expected_attach_type,
            attach_type=kind.attach_type,
            hook=kind.hook,
            attach_to=kind.attach_to,
            exception_callback=self._code.exception_callback(function.name),
            program_flags=int(kind.program_flags),
            section_note=kind.note,
            kernel_version=version,
        )
