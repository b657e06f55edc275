"""The kinds of BTF types, one frozen record for each; they refer to other types by id.

The kinds and their meaning are those of the kernel's Documentation/bpf/btf.rst. Type id 0 is void
and is never stored. Members, parameters, enumerators and section entries are named tuples, which
are created twice as fast as dataclasses.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

from bpfpin.records import dataclass


class Linkage(IntEnum):
    """Visibility of a function or variable (BTF_FUNC_STATIC … in include/uapi/linux/btf.h)."""

    STATIC = 0
    GLOBAL = 1
    EXTERN = 2  # the kernel refuses it (see `sanitize`)


# BTF_INT_SIGNED, BTF_INT_CHAR, BTF_INT_BOOL. Compilers leave BTF_INT_CHAR out: clang marks `char`
# as signed or not, and only the name says that it is a character.
class IntEncoding(IntFlag):
    """Interpretation of an integer's bits; NONE means unsigned."""

    NONE = 0
    SIGNED = 1
    CHAR = 2
    BOOL = 4


@dataclass(frozen=True, slots=True)
class Void:
    """No type, id 0.

    Attributes:
        name: Empty; valid BTF has no name here.
    """

    name: str = ""


@dataclass(frozen=True, slots=True)
class Int:
    """An integer of *size* bytes, of which *bits* bits from *bit_offset* on hold the value.

    Attributes:
        name: The name in C, such as `unsigned int`.
        size: Bytes that it takes.
        bits: Bits of the value.
        encoding: Whether it is signed, a character or a boolean.
        bit_offset: The first bit of the value.
    """

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
    """A floating-point number of *size* bytes.

    Attributes:
        name: The name in C, such as `double`.
        size: Bytes that it takes.
    """

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Pointer:
    """A pointer to *type_id*.

    Attributes:
        type_id: The id of the type that it points to; 0 for `void *`.
        name: Empty; valid BTF has no name here.
    """

    type_id: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Array:
    """An array of *length* elements of type *element_id*.

    Attributes:
        element_id: The id of the type of the elements.
        index_id: The id of the type of the index in C.
        length: The number of elements.
        name: Empty; valid BTF has no name here.
    """

    element_id: int
    # Type of the index in C, which BTF requires; it has no influence on the layout.
    index_id: int
    length: int
    name: str = ""


class Member(NamedTuple):
    """One member of a structure; *bitfield_size* is 0 unless it is a bit-field.

    Attributes:
        name: The name; empty for an unnamed structure or union inside another.
        type_id: The id of its type.
        bit_offset: The first bit of the member in the structure.
        bitfield_size: Bits of a bit-field, otherwise 0.
    """

    name: str
    type_id: int
    bit_offset: int
    bitfield_size: int = 0


@dataclass(frozen=True, slots=True)
class Struct:
    """A structure of *size* bytes.

    Attributes:
        name: The name in the source; empty for an unnamed one.
        size: Bytes that it takes.
        members: The members in their order.
    """

    name: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Union:
    """A union of *size* bytes; its members all start at bit 0.

    Attributes:
        name: The name in the source; empty for an unnamed one.
        size: Bytes that it takes.
        members: The members in their order.
    """

    name: str
    size: int
    members: tuple[Member, ...]


class Enumerator(NamedTuple):
    """One name of an enumeration.

    Attributes:
        name: The name.
        value: The number that it stands for.
    """

    name: str
    value: int


# BTF_KIND_ENUM has 32-bit values, even if its size is 8: Linux commit 6089fb325cf7 ("bpf: Add btf
# enum64 support") (v6.0) added BTF_KIND_ENUM64.
_WIDE_SIZE = 8


@dataclass(frozen=True, slots=True)
class Enum:
    """An enumeration; BTF_KIND_ENUM64 when *is_wide*.

    Attributes:
        name: The name in the source; empty for an unnamed one.
        size: Bytes that a value takes.
        is_signed: Whether values may be negative.
        values: The names and numbers in their order.
        is_wide: Whether it is BTF_KIND_ENUM64, which stores 64 bits a number.
    """

    name: str
    size: int
    is_signed: bool
    values: tuple[Enumerator, ...]
    is_wide: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether only the lower 32 of 64 bits are stored: BTF_KIND_ENUM, before clang 15."""
        return self.size == _WIDE_SIZE and not self.is_wide


# Compilers write it for a type that a file uses through pointers only.
@dataclass(frozen=True, slots=True)
class Forward:
    """A structure or union that is declared but not defined.

    Attributes:
        name: The name of the structure or union.
        is_union: Whether it is a union.
    """

    name: str
    is_union: bool = False


# The kernel treats a type tag like a qualifier: it stands between a pointer and its target.
class ModifierKind(IntEnum):
    """Kind of a modifier; the numbers are those of `BtfKind`."""

    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    TYPE_TAG = 18


@dataclass(frozen=True, slots=True)
class Modifier:
    """A typedef, volatile, const, restrict or type tag of *type_id*.

    Attributes:
        kind: Which of them it is.
        name: The name of a typedef or the text of a tag; empty for the others.
        type_id: The id of the type that it modifies.
    """

    kind: ModifierKind
    name: str
    type_id: int


@dataclass(frozen=True, slots=True)
class Function:
    """A function whose prototype is *type_id*.

    Attributes:
        name: The name of the function.
        type_id: The id of its prototype.
        linkage: Whether it is static, global or extern.
    """

    name: str
    type_id: int
    linkage: Linkage = Linkage.STATIC


class Parameter(NamedTuple):
    """One parameter of a prototype; an unnamed one of type 0 stands for `...`.

    Attributes:
        name: The name of the parameter; may be empty.
        type_id: The id of its type.
    """

    name: str
    type_id: int


@dataclass(frozen=True, slots=True)
class FunctionPrototype:
    """Parameters and return type of a function.

    Attributes:
        return_id: The id of the type that it returns; 0 for void.
        parameters: The parameters in their order.
        name: Empty; valid BTF has no name here.
    """

    return_id: int
    parameters: tuple[Parameter, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Var:
    """A global variable of type *type_id* (BTF_KIND_VAR).

    Attributes:
        name: The name of the variable.
        type_id: The id of its type.
        linkage: Whether it is static, global or extern.
    """

    name: str
    type_id: int
    linkage: Linkage = Linkage.STATIC


class SectionVariable(NamedTuple):
    """Offset and size of a variable in its section, in bytes; *type_id* is its `Var`.

    Attributes:
        type_id: The id of the `Var`.
        offset: The first byte in the section.
        size: Bytes that it takes.
    """

    type_id: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class DataSection:
    """A section of the object file and its variables; compilers write 0 as *size*.

    Attributes:
        name: The name of the section, such as `.bss`.
        size: Bytes of the section; 0 as compilers write it.
        variables: The variables in the section.
    """

    name: str
    size: int
    variables: tuple[SectionVariable, ...]


# Other types never refer to a tag: it points at what it describes.
@dataclass(frozen=True, slots=True)
class DeclTag:
    """A tag on *type_id*, or on its member or parameter number *component* (-1: on the type).

    Attributes:
        name: The text of the tag.
        type_id: The id of the type that has the tag.
        component: The number of the member or parameter; -1 for the type itself.
    """

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
