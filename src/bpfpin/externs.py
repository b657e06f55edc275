"""What an object takes from the running kernel by name: configuration, variables, functions.

The forms and their rules are libbpf's: `__kconfig` puts a variable into section `.kconfig`,
`__ksym` a variable or a function into `.ksyms`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.c_source import c_type, declaration
from bpfpin.btf.names import essential_name
from bpfpin.btf.types import (
    Array,
    BtfType,
    FunctionPrototype,
    Int,
    IntEncoding,
)
from bpfpin.btf.types import (
    Enum as BtfEnum,
)

KCONFIG = ".kconfig"
KSYMS = ".ksyms"

_SIZES = (2, 4, 8)


class ExternKind(Enum):
    """Where an extern comes from."""

    KCONFIG = "kconfig"  # the kernel's configuration, or what the loader knows of the kernel
    KSYM = "ksym"  # the address of a symbol of the kernel, of no type
    KSYM_TYPED = "typed ksym"  # a variable in the kernel's BTF
    KFUNC = "kfunc"  # a function of the kernel that programs may call


class ConfigForm(Enum):
    """What a variable of section `.kconfig` can hold."""

    BOOL = "bool"
    CHAR = "char"  # y, n, m or a number of one byte
    TRISTATE = "enum libbpf_tristate"
    NUMBER = "a number"
    TEXT = "an array of char"


@dataclass(frozen=True, slots=True)
class ExternSpec:
    """A name that the running kernel is to fill in.

    *type* is the variable's type or the function's prototype. A weak one may be absent: its value
    or address is 0 then, and a call must not be reached. *offset* and *size* say, in bytes, where
    one of section `.kconfig` lies in its map.
    """

    name: str
    kind: ExternKind
    type: TypeRef = field(repr=False)
    is_weak: bool = False
    size: int = 0
    offset: int = 0

    @property
    def kernel_name(self) -> str:
        """What the kernel calls it: the name without its flavour (`___x`)."""
        return self.name if self.kind is ExternKind.KCONFIG else essential_name(self.name)

    @property
    def c_source(self) -> str:
        """Its declaration as one line of C."""
        prototype = self.type.type
        if not isinstance(prototype, FunctionPrototype):
            return declaration(self.type, self.name)
        btf = self.type.btf
        taken = [c_type(btf.ref(each.type_id)) for each in prototype.parameters]
        return f"{c_type(btf.ref(prototype.return_id))} {self.name}({', '.join(taken) or 'void'})"

    @property
    def config_form(self) -> ConfigForm | None:
        """What it can hold if it is of section `.kconfig`; None if its type is no good there."""
        return config_form(self.type)

    @property
    def is_signed(self) -> bool:
        """Whether it is a number that may be negative."""
        kind = self.type.stripped
        return isinstance(kind, Int) and kind.is_signed


def config_form(ref: TypeRef) -> ConfigForm | None:
    """Return what a variable of the type holds in section `.kconfig`; None if that is no good."""
    kind = ref.stripped
    if not isinstance(kind, Array):
        return _scalar_form(kind)
    element = _scalar_form(ref.btf.ref(kind.element_id).stripped)
    return ConfigForm.TEXT if element is ConfigForm.CHAR and kind.length else None


def _scalar_form(kind: BtfType) -> ConfigForm | None:
    if isinstance(kind, BtfEnum):
        return ConfigForm.TRISTATE if kind.name == "libbpf_tristate" and kind.size == 4 else None
    if not isinstance(kind, Int):
        return None
    if kind.encoding & IntEncoding.BOOL:
        return ConfigForm.BOOL if kind.size == 1 else None
    if kind.size == 1:
        return ConfigForm.CHAR
    return ConfigForm.NUMBER if kind.size in _SIZES else None
