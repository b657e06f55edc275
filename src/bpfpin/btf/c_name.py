"""What a C source calls a type: `__u32`, `struct datarec`, `__u8[6]`.

Unlike `c_source` this keeps typedefs and does not spell members out: it is for code, not for eyes.
"""

from __future__ import annotations

import re

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.layout import MAX_DEPTH
from bpfpin.btf.types import (
    Array,
    Enum,
    Float,
    Forward,
    Int,
    Modifier,
    ModifierKind,
    Pointer,
    Struct,
    Union,
    Void,
)

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_WORDS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*( [A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)
_KEYWORDS = {Struct: "struct ", Union: "union ", Enum: "enum "}


def c_name(ref: TypeRef) -> str | None:
    """Return what stands for the type in `__type(value, …)`; None where it has no name in C.

    Unnamed structures and pointers to functions have none. Qualifiers are left out.
    """
    return _name(ref.btf, ref.id, MAX_DEPTH)


def _name(btf: Btf, type_id: int, depth: int) -> str | None:
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
    """Return `T[2][3]` for two arrays of three."""
    element = _name(btf, kind.element_id, depth - 1)
    if element is None:
        return None
    base, bracket, rest = element.partition("[")
    return f"{base}[{kind.length}]{bracket}{rest}"


def _own_name(kind: object) -> str | None:
    if isinstance(kind, (Int, Float)):
        return kind.name if _WORDS.fullmatch(kind.name) else None
    if isinstance(kind, (Struct, Union, Enum, Forward)):
        keyword = _keyword(kind)
        return keyword + kind.name if _WORD.fullmatch(kind.name) else None
    if isinstance(kind, Modifier):  # a typedef
        return kind.name if _WORD.fullmatch(kind.name) else None
    return None


def _keyword(kind: Struct | Union | Enum | Forward) -> str:
    if isinstance(kind, Forward):
        return "union " if kind.is_union else "struct "
    return _KEYWORDS[type(kind)]
