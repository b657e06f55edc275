"""Which functions of an object are programs, and what their sections say of them.

A function that is seen outside the file is a program if its section's name says what it is. In a
section with a free name it is one unless another function calls it; in `.text` only if the object
has no other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from bpfpin.errors import UsageError
from bpfpin.objfile.elf.file import Elf
from bpfpin.objfile.elf.section import ProgramKind, kind_by_word, program_kind
from bpfpin.objfile.functions import TEXT, Functions, Place
from bpfpin.objfile.program_code import CodeReader
from bpfpin.spec import ProgramSpec
from bpfpin.uapi import ProgramType

MAX_PROGRAMS = 4096
UNKNOWN = ProgramKind(ProgramType.UNSPEC)


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

    def _kinds(self) -> Iterator[tuple[Place, ProgramKind]]:
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

    def _kind(self, place: Place) -> ProgramKind | None:
        kind = program_kind(place.section.name)
        tail_call = kind.tail_call if kind else None
        told = self._told(place, is_free=tail_call is not None)
        if told is None or tail_call is None:
            return told or kind
        return dataclasses.replace(told, attach_type=None, hook=None, tail_call=tail_call)

    def _told(self, place: Place, *, is_free: bool) -> ProgramKind | None:
        """Return what the user says of the program itself, or of all whose section says nothing."""
        if place.name in self._by_name:
            return kind_by_word(self._by_name[place.name])
        return self._free if is_free and self._free is not UNKNOWN else None

    def _program(
        self, place: Place, kind: ProgramKind, license_text: str, version: int
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
