"""What each CO-RE relocation of an object asks for, and what it came to; put in words when read."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Enum, Forward, Modifier, ModifierKind, Struct, Union
from bpfpin.errors import ObjectFileError
from bpfpin.fixup.core_access import words
from bpfpin.fixup.core_values import ENUMERATORS, FIELDS
from bpfpin.spec import CoreRelocation, FunctionSpec
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
