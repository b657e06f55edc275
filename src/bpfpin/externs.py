"""Externs: names that the running kernel defines (configuration, variables, functions).

The rules are those of libbpf: `__kconfig` puts a variable into section `.kconfig`, `__ksym` puts a
variable or a function into `.ksyms`.
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.names import essential_name
from bpfpin.btf.types import Array, BtfType, FunctionPrototype, Int, IntEncoding
from bpfpin.btf.types import Enum as BtfEnum
from bpfpin.records import dataclass

KCONFIG = ".kconfig"
KSYMS = ".ksyms"

_SIZES = (2, 4, 8)


class ExternKind(Enum):
    """The origin of an extern's value."""

    KCONFIG = "kconfig"  # the kernel's configuration, or a fact that the loader provides
    KSYM = "ksym"  # the address of a kernel symbol, declared as void
    KSYM_TYPED = "typed ksym"  # a variable in the kernel's BTF
    KFUNC = "kfunc"  # a function of the kernel that programs may call


class ConfigForm(Enum):
    """Form of a variable in section `.kconfig`."""

    BOOL = "bool"
    CHAR = "char"  # y, n, m or a number of one byte
    TRISTATE = "enum libbpf_tristate"
    NUMBER = "a number"
    TEXT = "an array of char"


@dataclass(frozen=True, slots=True)
class ExternSpec:
    """A name that the running kernel fills in.

    Attributes:
        name: The name in the source.
        kind: The origin of its value.
        type: Type of the variable, or prototype of the function.
        is_weak: The kernel may lack it: its value or address is 0 then, and the program must not
            reach a call of it.
        size: Bytes in the map of `.kconfig`; 0 for other kinds.
        offset: First byte in the map of `.kconfig`.
    """

    name: str
    kind: ExternKind
    type: TypeRef = field(repr=False)
    is_weak: bool = False
    size: int = 0
    offset: int = 0

    @property
    def kernel_name(self) -> str:
        """The name in the kernel: without flavour (`___x`)."""
        return self.name if self.kind is ExternKind.KCONFIG else essential_name(self.name)

    @property
    def c_source(self) -> str:
        """Its declaration as one line of C."""
        from bpfpin.btf.c_source import c_type, declaration  # noqa: PLC0415  (only for messages)

        prototype = self.type.type
        if not isinstance(prototype, FunctionPrototype):
            return declaration(self.type, self.name)
        btf = self.type.btf
        taken = [c_type(btf.ref(parameter.type_id)) for parameter in prototype.parameters]
        return f"{c_type(btf.ref(prototype.return_id))} {self.name}({', '.join(taken) or 'void'})"

    @property
    def config_form(self) -> ConfigForm | None:
        """Its form in section `.kconfig`; None if its type is not allowed there."""
        return config_form(self.type)

    @property
    def is_signed(self) -> bool:
        """Whether it is a number that may be negative."""
        kind = self.type.stripped
        return isinstance(kind, Int) and kind.is_signed


def config_form(ref: TypeRef) -> ConfigForm | None:
    """Return the form of a variable in section `.kconfig`; None if its type is not allowed."""
    kind = ref.stripped  # the rules are those of find_kcfg_type() in libbpf.c
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
