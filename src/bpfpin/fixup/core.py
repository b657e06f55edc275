"""CO-RE: fits the instructions of an object to the types of another kernel.

Pure: functions, the object's BTF and a target in, functions and a report out. The rules and the
numbers of the kinds are those of the kernel (enum bpf_core_relo_kind in linux/bpf.h) and of libbpf.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from dataclasses import dataclass, field

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Enum, Forward, Modifier, ModifierKind, Struct, Union
from bpfpin.errors import ObjectFileError
from bpfpin.fixup.core_access import words
from bpfpin.fixup.core_find import CoreTarget, Finder
from bpfpin.fixup.core_patch import patch
from bpfpin.fixup.core_values import ENUMERATORS, FIELDS
from bpfpin.insn import Instruction
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


# What each CO-RE relocation of an object asks for, and what it came to; put in words when read.


@dataclass(frozen=True)
class Resolution:
    """One relocation: what is asked, and the answer in the kernel.

    *value* is what the instruction holds now, None where the target (None too) has no such thing.
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
        """The number of the source line, 0 where the object does not say."""
        lines = self.function.line_info
        at = bisect_right(lines, self.relocation.index, key=lambda line: line.index)
        return lines[at - 1].line_column >> 10 if at else 0

    @property
    def place(self) -> str:
        """Where it stands: function, and the source line if it is known."""
        line = f" (line {self.line})" if self.line else ""
        return f"{self.function.name}{line}"


def describe(btf: Btf, relocation: CoreRelocation) -> str:
    """Return *relocation* in words, and the path as it stands in the object."""
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
    index = int(relocation.access) if relocation.access[:9].isdecimal() else -1
    if not isinstance(enum, Enum) or not 0 <= index < len(enum.values):
        return ""
    return f".{enum.values[index].name}"


@dataclass(frozen=True)
class Relocated:
    """An object whose instructions fit the target, and what each relocation came to.

    A poisoned instruction carries the number of its relocation in *resolutions*.
    """

    spec: ObjectSpec
    resolutions: tuple[Resolution, ...] = ()


def relocate(spec: ObjectSpec, target: CoreTarget) -> Relocated:
    """Return *spec* with the instructions of all its programs fitted to *target*.

    `ObjectFileError` if a relocation is malformed, or the target has several types of the name
    that give different answers. What the target lacks is no error before the program gets there.
    """
    if spec.btf is None or not spec.has_relocations:
        return Relocated(spec)
    relocator = _Relocator(spec.btf, target)
    programs = {name: relocator.program(each) for name, each in spec.programs.items()}
    changed = dataclasses.replace(spec, programs=programs)
    return Relocated(changed, tuple(relocator.resolutions))


class _Relocator:
    """Fits functions, each one once however many programs share it."""

    def __init__(self, btf: Btf, target: CoreTarget) -> None:
        self.resolutions: list[Resolution] = []
        self._btf = btf
        self._finder = Finder(btf, target)
        self._done: dict[str, FunctionSpec] = {}

    def program(self, spec: ProgramSpec) -> ProgramSpec:
        functions = tuple([self._function(each) for each in spec.functions])
        return spec.with_changes(functions=functions)

    def _function(self, function: FunctionSpec) -> FunctionSpec:
        if not function.relocations:
            return function
        if function.name not in self._done:
            code = list(function.instructions)
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
            raise self._placed(
                ObjectFileError("there is no such instruction"), function, relocation
            )
        number = len(self.resolutions)
        try:
            found = self._finder.find(relocation.type_id, relocation.access, relocation.kind)
            fits = patch(code, relocation.index, found.local, found.target, number=number)
        except ObjectFileError as error:
            raise self._placed(error, function, relocation) from None
        value = found.target.number if found.target else None
        self.resolutions.append(
            Resolution(function, relocation, self._btf, value, found.type, is_poisoned=not fits)
        )

    def _placed(
        self, error: ObjectFileError, function: FunctionSpec, relocation: CoreRelocation
    ) -> ObjectFileError:
        """Say which relocation it is about; sections of the target's BTF are none of the object."""
        what = describe(self._btf, relocation)
        message = f"instruction {relocation.index} of {function.name} asks for {what}"
        return ObjectFileError(
            f"{message}: {error.message}",
            section=error.section or function.section,
            symbol=function.name,
            offset=error.offset,
            hint=error.hint,
        )
