"""A compiler's BTF made such that BPF_BTF_LOAD takes it; no type id and no string offset changes.

Compilers leave to the loader what only the linked sections tell: sizes and offsets of data. And the
kernel refuses what it does not have itself: variables and functions defined elsewhere, parameters
without a name (btf_var_check_meta, btf_datasec_check_meta, btf_func_check in kernel/bpf/btf.c).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import (
    BtfType,
    DataSection,
    Function,
    FunctionPrototype,
    Linkage,
    SectionVariable,
    Struct,
    Variable,
)
from bpfpin.btf.write import BtfBuilder

_BLANK = Struct("", 0, ())  # takes the place of what the kernel has no use for

DataSections = Mapping[str, tuple[int, Mapping[str, int]]]


def for_kernel(
    btf: Btf, *, data_sections: DataSections, static_functions: Collection[str] = ()
) -> Btf:
    """Return *btf* as the kernel takes it.

    *data_sections* gives for each section of the object its size in bytes and the offsets of its
    symbols. A section that is not among them (`.ksyms`, `.kconfig`), and variables defined
    elsewhere, become an unnamed empty structure. *static_functions* are those of hidden visibility:
    the verifier checks a static function with its callers and a global one on its own.
    """
    builder = BtfBuilder(strings=btf.strings)
    prototypes = {f.type_id for f in map(btf.__getitem__, btf.ids()) if isinstance(f, Function)}
    for type_id in btf.ids()[1:]:
        kind = _fixed(btf, btf[type_id], data_sections)
        if isinstance(kind, Function) and kind.name in static_functions:
            kind = replace(kind, linkage=Linkage.STATIC)
        if isinstance(kind, FunctionPrototype) and type_id in prototypes:
            kind = _with_names(kind)
        if kind is btf[type_id]:
            builder.add_encoded(btf.encoded(type_id))
        else:
            builder.add(kind)
    return Btf.parse(builder.build())


def _fixed(btf: Btf, kind: BtfType, data_sections: DataSections) -> BtfType:
    if isinstance(kind, DataSection):
        return _placed(btf, kind, data_sections)
    if isinstance(kind, Variable) and kind.linkage is Linkage.EXTERN:
        return _BLANK
    if isinstance(kind, Function) and kind.linkage is Linkage.EXTERN:
        return replace(kind, linkage=Linkage.GLOBAL)
    return kind


def _with_names(kind: FunctionPrototype) -> FunctionPrototype:
    """Return *kind* with no unnamed parameter but the last one of type 0, `...`."""
    if all(p.name or not p.type_id for p in kind.parameters):
        return kind
    named = (
        replace(p, name=p.name or f"arg{i}") if p.type_id else p
        for i, p in enumerate(kind.parameters)
    )
    return replace(kind, parameters=tuple(named))


def _placed(btf: Btf, kind: DataSection, data_sections: DataSections) -> BtfType:
    size, symbols = data_sections.get(kind.name, (0, {}))
    if kind.size:  # a linker (bpftool gen object) has filled it in already
        size, symbols = kind.size, {}
    variables = _disjoint([_place(btf, variable, symbols) for variable in kind.variables], size)
    if not variables or kind.name not in data_sections:
        return _BLANK
    return replace(kind, size=size, variables=variables)


def _place(btf: Btf, variable: SectionVariable, symbols: Mapping[str, int]) -> SectionVariable:
    kind = btf[variable.type_id]
    if not isinstance(kind, Variable) or kind.linkage is Linkage.EXTERN:
        return replace(variable, size=0)
    # A static variable may have no symbol; its offset is in the BTF then.
    return replace(variable, offset=symbols.get(kind.name, variable.offset))


def _disjoint(variables: list[SectionVariable], size: int) -> tuple[SectionVariable, ...]:
    """Return those that the kernel takes: ascending, none over another, none past the end."""
    kept: list[SectionVariable] = []
    end = 0
    for variable in sorted(variables, key=lambda v: (v.offset, v.size)):
        if variable.size and end <= variable.offset <= size - variable.size:
            kept.append(variable)
            end = variable.offset + variable.size
    return tuple(kept)
