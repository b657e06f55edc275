"""CO-RE: adapts the instructions of an object to the types of a kernel.

The functions are pure. The kinds of relocations are those of the kernel (enum bpf_core_relo_kind in
linux/bpf.h), and the rules those of libbpf's relo_core.c, which the kernel uses, too
(tools/lib/bpf/relo_core.c).
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from dataclasses import field

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Enum, Forward, Modifier, ModifierKind, Struct, Union
from bpfpin.errors import ObjectFileError
from bpfpin.fixup.core_access import words
from bpfpin.fixup.core_find import CoreTarget, Finder
from bpfpin.fixup.core_patch import patch
from bpfpin.fixup.core_values import ENUMERATORS, FIELDS
from bpfpin.insn import Instruction
from bpfpin.records import dataclass
from bpfpin.spec import CoreRelocation, FunctionSpec, ObjectSpec, ProgramSpec
from bpfpin.uapi import CoreRelocationKind as Kind

_QUESTIONS = {
    Kind.FIELD_BYTE_OFFSET: "the offset of",
    Kind.FIELD_BYTE_SIZE: "the size of",
    Kind.FIELD_EXISTS: "whether there is",
    Kind.FIELD_SIGNED: "the sign of",
    Kind.FIELD_LSHIFT_U64: "the left shift of",
    Kind.FIELD_RSHIFT_U64: "the right shift of",
    Kind.TYPE_ID_LOCAL: "the object's id of",
    Kind.TYPE_ID_TARGET: "the kernel's id of",
    Kind.TYPE_EXISTS: "whether there is",
    Kind.TYPE_SIZE: "the size of",
    Kind.TYPE_MATCHES: "whether the kernel has all of",
    Kind.ENUMVAL_EXISTS: "whether there is",
    Kind.ENUMVAL_VALUE: "the value of",
}
_KEYWORDS = {Struct: "struct ", Union: "union ", Enum: "enum "}


@dataclass(frozen=True)
class Resolution:
    """One relocation and its result.

    Attributes:
        function: The function of the instruction.
        relocation: The relocation.
        local: The types of the object.
        value: The number that the instruction now contains; None if the target has no answer.
        target: The type in the target; None if there is none.
        is_poisoned: The instruction was replaced by one that the verifier refuses.
    """

    function: FunctionSpec
    relocation: CoreRelocation
    local: Btf = field(repr=False)
    value: int | None
    target: TypeRef | None
    is_poisoned: bool

    @property
    def question(self) -> str:
        """The relocation in words: `the offset of struct task_struct.pid (0:0)`."""
        return describe(self.local, self.relocation)

    @property
    def line(self) -> int:
        """The number of the source line; 0 if the object has no line infos."""
        lines = self.function.line_info
        # A line info stands for its instruction and all that follow, up to the next line info.
        at = bisect_right(lines, self.relocation.index, key=lambda line: line.index)
        return lines[at - 1].line_column >> 10 if at else 0

    @property
    def place(self) -> str:
        """The function, and the source line if it is known."""
        line = f" (line {self.line})" if self.line else ""
        return f"{self.function.name}{line}"


def describe(btf: Btf, relocation: CoreRelocation) -> str:
    """Return *relocation* in words, with the path as it is in the object."""
    question, kind = _QUESTIONS[relocation.kind], btf[relocation.type_id]
    name = f"{_keyword(kind)}{kind.name or f'type {relocation.type_id}'}{_path(btf, relocation)}"
    return f"{question} {name} ({relocation.access[:80]})"


def _keyword(kind: object) -> str:
    if isinstance(kind, Forward):
        return "union " if kind.is_union else "struct "
    if isinstance(kind, Modifier) and kind.kind is ModifierKind.TYPEDEF:
        return "typedef "
    return _KEYWORDS.get(type(kind), "")


def _path(btf: Btf, relocation: CoreRelocation) -> str:
    if relocation.kind in FIELDS:
        return words(btf, relocation.type_id, relocation.access)
    if relocation.kind in ENUMERATORS:
        return _enumerator(btf, relocation)
    return ""


def _enumerator(btf: Btf, relocation: CoreRelocation) -> str:
    try:
        enum = btf[btf.strip(relocation.type_id)]
    except ObjectFileError:
        return ""
    # Messages must not fail themselves: the path may be malformed, and may have any length.
    index = int(relocation.access) if relocation.access[:9].isdecimal() else -1
    if not isinstance(enum, Enum) or not 0 <= index < len(enum.values):
        return ""
    return f".{enum.values[index].name}"


@dataclass(frozen=True)
class Relocated:
    """An object adapted to the target, and the results of its relocations.

    A poisoned instruction contains the index of its relocation in *resolutions*.
    """

    spec: ObjectSpec
    resolutions: tuple[Resolution, ...] = ()


def relocate(spec: ObjectSpec, target: CoreTarget) -> Relocated:
    """Return *spec* with the instructions of all its programs adapted to *target*.

    A type or member that the target lacks is not an error: the instruction is poisoned, and the
    verifier refuses it if the program can reach it.

    Raises:
        ObjectFileError: A relocation is malformed, or the target has several types of that name
            with different answers.
    """
    if spec.btf is None or not spec.has_relocations:
        return Relocated(spec)
    relocator = _Relocator(spec.btf, target)
    programs = {name: relocator.program(program) for name, program in spec.programs.items()}
    changed = dataclasses.replace(spec, programs=programs)
    return Relocated(changed, tuple(relocator.resolutions))


class _Relocator:
    """Relocates functions; a function that several programs share is done once."""

    def __init__(self, btf: Btf, target: CoreTarget) -> None:
        self.resolutions: list[Resolution] = []
        self._btf = btf
        self._finder = Finder(btf, target)
        self._done: dict[str, FunctionSpec] = {}

    def program(self, spec: ProgramSpec) -> ProgramSpec:
        functions = tuple([self._function(function) for function in spec.functions])
        return spec.with_changes(functions=functions)

    def _function(self, function: FunctionSpec) -> FunctionSpec:
        if not function.relocations:
            return function
        # Relocating a function twice would also count its relocations twice in the report.
        if function.name not in self._done:
            # The instructions change in place. They stay a list of slots, because a 64-bit load has
            # two of them.
            code = list(function.instructions)
            # Before linking: relocations count instructions in their function, not in the program.
            for relocation in function.relocations:
                self._apply(code, function, relocation)
            self._done[function.name] = dataclasses.replace(
                function, instructions=tuple(code), relocations=()
            )
        return self._done[function.name]

    def _apply(
        self, code: list[Instruction], function: FunctionSpec, relocation: CoreRelocation
    ) -> None:
        if relocation.index >= len(code):
            raise self._located(
                ObjectFileError("there is no such instruction"), function, relocation
            )
        # The number goes into a poisoned instruction, and the verifier's log then contains it.
        number = len(self.resolutions)
        try:
            answer = self._finder.find(relocation.type_id, relocation.access, relocation.kind)
            fits = patch(code, relocation.index, answer.local, answer.target, number=number)
        except ObjectFileError as error:
            raise self._located(error, function, relocation) from None
        value = answer.target.number if answer.target else None
        self.resolutions.append(
            Resolution(function, relocation, self._btf, value, answer.type, is_poisoned=not fits)
        )

    def _located(
        self, error: ObjectFileError, function: FunctionSpec, relocation: CoreRelocation
    ) -> ObjectFileError:
        """Return *error* with the relocation in its message."""
        # Sections and offsets of an error about the target's BTF are not those of the object.
        what = describe(self._btf, relocation)
        message = f"instruction {relocation.index} of {function.name} asks for {what}"
        return ObjectFileError(
            f"{message}: {error.message}",
            section=error.section or function.section,
            symbol=function.name,
            offset=error.offset,
            hint=error.hint,
        )
