"""Types as one line of C: `struct datarec { u64 rx_packets; }`, and their names in C source.

`c_type` and `declaration` are for people and show the memory layout: typedefs and qualifiers are
left out, integers are named by size, long types end in `…`. `c_name` is for code: it keeps typedefs
(`__u32`, `struct datarec`, `__u8[6]`) and does not list members.
"""

from __future__ import annotations

import re

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.layout import MAX_DEPTH
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Enum,
    Float,
    Forward,
    Function,
    FunctionPrototype,
    Int,
    IntEncoding,
    Member,
    Modifier,
    ModifierKind,
    Pointer,
    Struct,
    Union,
    Var,
    Void,
)

# Members and enumerators in one line. Without a limit, a small file of nested structures, each with
# two members of the next one, would make a line that grows by a factor of two for each level.
_PARTS_SHOWN = 256
_CUT = "…"
_FLOATS = {4: "float", 8: "double", 16: "long double"}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_WORDS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*( [A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)
_KEYWORDS = {Struct: "struct ", Union: "union ", Enum: "enum "}


def c_type(ref: TypeRef) -> str:
    """Return the type as one line of C: `u32`, `u8[6]`, `struct pair { u32 a; u32 b; }`."""
    return declaration(ref, "")


def declaration(ref: TypeRef, name: str) -> str:
    """Return the declaration of *name* with the type: `u8 addr[6]`, `struct task *next`."""
    return _Line(ref.btf).declare(ref.id, name, MAX_DEPTH)


class _Line:
    """One line of C under construction; `_parts_left` limits its length."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._parts_left = _PARTS_SHOWN

    def declare(self, type_id: int, name: str, depth: int) -> str:
        kind, suffix = self._stripped(type_id), ""
        for _ in range(MAX_DEPTH):
            if isinstance(kind, Var):
                kind = self._stripped(kind.type_id)
            elif isinstance(kind, Array):
                suffix += f"[{kind.length}]"
                kind = self._stripped(kind.element_id)
            else:
                break
        base = self._base(kind, depth)
        space = " " if name and not base.endswith("*") else ""
        return f"{base}{space}{name}{suffix}"

    def _stripped(self, type_id: int) -> BtfType:
        return self._btf[self._btf.strip(type_id)]

    def _base(self, kind: BtfType, depth: int) -> str:
        if isinstance(kind, Pointer):
            return self._pointer(kind)
        if isinstance(kind, (Struct, Union, DataSection)):
            return f"{_head(kind)} {self._body(kind, depth)}"
        if isinstance(kind, Enum):
            return f"{_head(kind)} {self._enumerators(kind)}"
        return _head(kind)

    def _pointer(self, kind: Pointer) -> str:
        stars = "*"
        for _ in range(MAX_DEPTH):
            target = self._stripped(kind.type_id)
            if not isinstance(target, Pointer):
                return f"{_head(target)} {stars}"
            kind, stars = target, stars + "*"
        return f"{_CUT} {stars}"

    def _body(self, kind: Struct | Union | DataSection, depth: int) -> str:
        parts = kind.variables if isinstance(kind, DataSection) else kind.members
        shown = []
        for part in parts:
            self._parts_left -= 1
            if self._parts_left < 0 or depth == 0:
                shown.append(_CUT)
                break
            shown.append(self._part(part.type_id, part, depth - 1))
        return f"{{ {' '.join(shown)} }}" if shown else "{ }"

    def _part(self, type_id: int, part: object, depth: int) -> str:
        name = part.name if isinstance(part, Member) else self._btf[type_id].name
        bits = part.bitfield_size if isinstance(part, Member) else 0
        return self.declare(type_id, name, depth) + (f" : {bits};" if bits else ";")

    def _enumerators(self, kind: Enum) -> str:
        count = max(0, min(len(kind.values), self._parts_left))
        self._parts_left -= count
        shown = [f"{value.name} = {value.value}" for value in kind.values[:count]]
        shown += [_CUT] if count < len(kind.values) else []
        return f"{{ {', '.join(shown)} }}"


def _head(kind: BtfType) -> str:
    """Return keyword and name of the type, without its members."""
    if isinstance(kind, Int):
        return _int_name(kind)
    if isinstance(kind, Float):
        return _FLOATS.get(kind.size, f"float{8 * kind.size}")
    if isinstance(kind, (FunctionPrototype, Function)):
        return f"function {kind.name}".rstrip()
    if isinstance(kind, Array):
        return "array"
    return f"{_keyword(kind)} {kind.name}".rstrip()


def _keyword(kind: BtfType) -> str:
    if isinstance(kind, Forward):
        return "union" if kind.is_union else "struct"
    words = {Struct: "struct", Union: "union", Enum: "enum", DataSection: "section"}
    return words.get(type(kind), "void")


def _int_name(kind: Int) -> str:
    # Names of integers differ between compilers and headers (`__u32`, `unsigned int`); size and
    # sign do not, so they are shown instead.
    if kind.encoding & IntEncoding.BOOL:
        return "bool"
    if kind.name == "char" or kind.encoding & IntEncoding.CHAR:
        return "char"
    return f"{'s' if kind.is_signed else 'u'}{kind.bits}"


def c_name(ref: TypeRef) -> str | None:
    """Return the type as it is written in `__type(value, …)`; None if C has no name for it.

    Unnamed structures and pointers to functions have no name. Qualifiers are left out.
    """
    return _name(ref.btf, ref.id, MAX_DEPTH)


def _name(btf: Btf, type_id: int, depth: int) -> str | None:
    # Damaged BTF may have a cycle of types.
    if depth == 0:
        return None
    kind = btf[type_id]
    if isinstance(kind, Array):
        return _array(btf, kind, depth)
    if isinstance(kind, Pointer):
        is_void = isinstance(btf[btf.strip(kind.type_id)], Void)
        target = "void" if is_void else _name(btf, kind.type_id, depth - 1)
        is_array = target is None or target.endswith("]")
        return None if is_array else f"{target} *".replace("* *", "**")
    if isinstance(kind, Modifier) and kind.kind is not ModifierKind.TYPEDEF:
        return _name(btf, kind.type_id, depth - 1)
    return _own_name(kind)


def _array(btf: Btf, kind: Array, depth: int) -> str | None:
    """Return the name of an array: `T[2][3]` for two arrays of three T."""
    element = _name(btf, kind.element_id, depth - 1)
    if element is None:
        return None
    # BTF nests arrays from the outside in, and C writes the outermost length first.
    base, bracket, rest = element.partition("[")
    return f"{base}[{kind.length}]{bracket}{rest}"


def _own_name(kind: object) -> str | None:
    if isinstance(kind, (Int, Float)):
        return kind.name if _WORDS.fullmatch(kind.name) else None
    if isinstance(kind, (Struct, Union, Enum, Forward)):
        keyword = _tag_keyword(kind)
        return keyword + kind.name if _WORD.fullmatch(kind.name) else None
    if isinstance(kind, Modifier):  # a typedef
        return kind.name if _WORD.fullmatch(kind.name) else None
    return None


def _tag_keyword(kind: Struct | Union | Enum | Forward) -> str:
    if isinstance(kind, Forward):
        return "union " if kind.is_union else "struct "
    return _KEYWORDS[type(kind)]
