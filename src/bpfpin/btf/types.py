"""The kinds of BTF, one frozen record each; they name other types by id.

The kinds and their meaning are those of the kernel's Documentation/bpf/btf.rst. Type id 0 is void
and is never stored. What a type has many of (members, parameters) are tuples: made twice as fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple


class Linkage(IntEnum):
    """Who sees a function or a variable."""

    STATIC = 0
    GLOBAL = 1
    EXTERN = 2


class IntEncoding(IntFlag):
    """How the bits of an integer read; none of them: unsigned."""

    NONE = 0
    SIGNED = 1
    CHAR = 2
    BOOL = 4


@dataclass(frozen=True, slots=True)
class Void:
    """No type, id 0."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class Int:
    """An integer of *size* bytes; *bits* of them from *bit_offset* on carry the value."""

    name: str
    size: int
    bits: int
    encoding: IntEncoding = IntEncoding.NONE
    bit_offset: int = 0

    @property
    def is_signed(self) -> bool:
        """Whether negative values are possible."""
        return bool(self.encoding & IntEncoding.SIGNED)


@dataclass(frozen=True, slots=True)
class Float:
    """A floating-point number of *size* bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Pointer:
    """A pointer to *type_id*."""

    type_id: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Array:
    """*length* elements of *element_id*."""

    element_id: int
    index_id: int
    length: int
    name: str = ""


class Member(NamedTuple):
    """One member of a structure; *bitfield_size* is 0 when it is no bit-field."""

    name: str
    type_id: int
    bit_offset: int
    bitfield_size: int = 0


@dataclass(frozen=True, slots=True)
class Struct:
    """A structure of *size* bytes."""

    name: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Union:
    """A union of *size* bytes; its members all start at bit 0."""

    name: str
    size: int
    members: tuple[Member, ...]


class Enumerator(NamedTuple):
    """One name of an enumeration."""

    name: str
    value: int


_WIDE_SIZE = 8


@dataclass(frozen=True, slots=True)
class Enum:
    """An enumeration; BTF_KIND_ENUM64 when *is_wide*."""

    name: str
    size: int
    is_signed: bool
    values: tuple[Enumerator, ...]
    is_wide: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether there are just the lower 32 bits of its 64: BTF_KIND_ENUM, before clang 15."""
        return self.size == _WIDE_SIZE and not self.is_wide


@dataclass(frozen=True, slots=True)
class Forward:
    """A structure or union that is declared but not defined."""

    name: str
    is_union: bool = False


class ModifierKind(IntEnum):
    """What a modifier adds to a type; the numbers are those of `BtfKind`."""

    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    TYPE_TAG = 18


@dataclass(frozen=True, slots=True)
class Modifier:
    """Typedef, volatile, const, restrict or type tag around *type_id*."""

    kind: ModifierKind
    name: str
    type_id: int


@dataclass(frozen=True, slots=True)
class Function:
    """A function whose prototype is *type_id*."""

    name: str
    type_id: int
    linkage: Linkage = Linkage.STATIC


class Parameter(NamedTuple):
    """One parameter of a prototype; an unnamed one of type 0 stands for `...`."""

    name: str
    type_id: int


@dataclass(frozen=True, slots=True)
class FunctionPrototype:
    """What a function takes and returns."""

    return_id: int
    parameters: tuple[Parameter, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Var:
    """A global variable of type *type_id*."""

    name: str
    type_id: int
    linkage: Linkage = Linkage.STATIC


class SectionVariable(NamedTuple):
    """Where a variable lies in its section, in bytes."""

    type_id: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class DataSection:
    """A section of the object file and its variables; compilers leave *size* 0."""

    name: str
    size: int
    variables: tuple[SectionVariable, ...]


@dataclass(frozen=True, slots=True)
class DeclTag:
    """A tag on *type_id*, or on its member or parameter *component* (-1: on itself)."""

    name: str
    type_id: int
    component: int = -1


BtfType = (
    Void
    | Int
    | Float
    | Pointer
    | Array
    | Struct
    | Union
    | Enum
    | Forward
    | Modifier
    | Function
    | FunctionPrototype
    | Var
    | DataSection
    | DeclTag
)
