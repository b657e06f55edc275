"""The functions of an object as specs: instructions, references, debug information."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from bpfpin.btf.btf import Btf
from bpfpin.btf.ext import BtfExt
from bpfpin.btf.types import DeclTag, Function
from bpfpin.errors import ObjectFileError
from bpfpin.externs import ExternSpec
from bpfpin.insn import INSN_SIZE, Code
from bpfpin.objfile.elf.file import Elf
from bpfpin.objfile.elf.records import MAX_INSTRUCTIONS, MAX_LINKED_INSTRUCTIONS, check_limit
from bpfpin.objfile.functions import Functions, Place
from bpfpin.objfile.references import NO_EXTERNS, Resolver
from bpfpin.spec import CoreRelocation, FunctionSpec, LineInfo, MapSpec, ReferenceKind
from bpfpin.uapi import CoreRelocationKind

MAX_FUNCTIONS = 256  # of one program: BPF_MAX_SUBPROGS in the kernel's include/linux/bpf_verifier.h

_EXCEPTION_CALLBACK = "exception_callback:"
_CORE_KINDS = {kind.value: kind for kind in CoreRelocationKind}
_Record = TypeVar("_Record", bound=tuple[Any, ...])


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

    def _spec(self, place: Place) -> FunctionSpec:
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

    def _type_id(self, place: Place, debug: _Debug) -> int:
        type_id = debug.functions.get(place.start, 0)
        if type_id and self._btf and not isinstance(self._btf[type_id], Function):
            raise self._elf.error(
                f".BTF.ext gives the function type {type_id}, which is no function",
                section=place.section,
                symbol=place.name,
            )
        return type_id

    def _relocation(self, place: Place, record: tuple[int, int, str, int]) -> CoreRelocation:
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

    def _bad_relocation(self, place: Place, offset: int, what: str) -> ObjectFileError:
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


def _between(records: Sequence[_Record], place: Place) -> Sequence[_Record]:
    """Return those of the sorted *records* whose offset lies in the function."""
    first = bisect_left(records, (place.start,))
    return records[first : bisect_left(records, (place.end,))]
