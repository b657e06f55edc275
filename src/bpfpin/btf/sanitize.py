"""Conversion of a compiler's BTF into BTF that BPF_BTF_LOAD accepts; ids and offsets stay.

Compilers leave sizes and offsets of data to the loader, which knows them from the ELF sections. The
kernel refuses extern variables and functions, and parameters without a name (btf_var_check_meta,
btf_datasec_check_meta, btf_func_check in kernel/bpf/btf.c). libbpf does the same conversion in
btf_fixup_datasec() and bpf_object__sanitize_btf(). Type ids and string offsets do not change,
because `.BTF.ext` and map definitions refer to them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from bpfpin.btf.btf import Btf
from bpfpin.btf.layout import MAX_SIZE
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Function,
    FunctionPrototype,
    Int,
    IntEncoding,
    Linkage,
    Pointer,
    SectionVariable,
    Struct,
    Var,
)
from bpfpin.btf.write import BtfBuilder

_BLANK = Struct("", 0, ())  # replaces types that the kernel refuses, so that the ids stay

_BYTE = Int("", 1, 8)

_SUSPECT = frozenset({DataSection, Var, Function, FunctionPrototype, Int})
# Signed, char, bool. btf_int_check_meta() accepts one of them, not a combination.
_ENCODINGS = (*IntEncoding,)

DataSections = Mapping[str, tuple[int, Mapping[str, int]]]


def for_kernel(
    btf: Btf,
    *,
    data_sections: DataSections,
    static_functions: Collection[str] = (),
    defined: Collection[int] = (),
) -> Btf:
    """Return *btf* as the kernel accepts it.

    A section that is not in *data_sections* (`.ksyms`, `.kconfig`) and extern variables become an
    unnamed empty structure.

    Args:
        btf: The compiler's BTF.
        data_sections: For each data section of the object its size in bytes and the offsets of its
            symbols.
        static_functions: Functions of hidden visibility, which become static: the verifier checks a
            static function in the context of its callers and a global one on its own.
        defined: Ids of extern variables to which the loader gives an address; they stay.

    Returns:
        The converted table; *btf* itself if nothing had to change.
    """
    suspects = [(i, kind) for i, kind in enumerate(btf.types()) if type(kind) in _SUSPECT]
    prototypes = {kind.type_id for _, kind in suspects if isinstance(kind, Function)}
    changed: dict[int, BtfType] = {}
    for type_id, kind in suspects:
        fixed = kind
        if isinstance(kind, DataSection):
            fixed = _filled_section(btf, kind, data_sections, defined)
        elif isinstance(kind, Var) and kind.linkage is Linkage.EXTERN:
            fixed = replace(kind, linkage=Linkage.GLOBAL) if type_id in defined else _BLANK
        elif isinstance(kind, Function):
            # GCC 12 writes functions without a name, for calls through a pointer.
            fixed = _linked(kind, static_functions) if kind.name else _BLANK
        elif isinstance(kind, FunctionPrototype) and type_id in prototypes:
            fixed = _with_names(kind)
        elif isinstance(kind, Int) and kind.encoding not in (IntEncoding.NONE, *_ENCODINGS):
            # GCC 12 writes the encoding "signed and char".
            fixed = replace(kind, encoding=_one_encoding(kind))
        if fixed is not kind:
            changed[type_id] = fixed
    return _with_types(btf, changed) if changed else btf


def _one_encoding(kind: Int) -> IntEncoding:
    return next((flag for flag in _ENCODINGS if flag & kind.encoding), IntEncoding.NONE)


def with_large_numbers(btf: Btf) -> Btf:
    """Return *btf* with arrays that the kernel accepts for numbers of map definitions from 1 << 30.

    `__uint(max_entries, 1 << 30)` is a pointer to an array of that many `int`, which the kernel
    refuses because its size does not fit in 32 bits. Such an array gets elements of one byte.
    """
    too_long = {
        type_id: kind
        for type_id, kind in enumerate(btf.types())
        if isinstance(kind, Array) and _is_too_long(btf, kind)
    }
    if not too_long:
        return btf
    # Only targets of pointers are changed: a value that contains such an array is an error.
    pointed_to = {kind.type_id for kind in btf.types() if isinstance(kind, Pointer)}
    byte_id = len(btf)
    changed: dict[int, BtfType] = {
        type_id: replace(kind, element_id=byte_id)
        for type_id, kind in too_long.items()
        if type_id in pointed_to
    }
    return _with_types(btf, changed, after=(_BYTE,)) if changed else btf


def _is_too_long(btf: Btf, kind: Array) -> bool:
    if kind.length <= MAX_SIZE // 16:  # the largest integer has 16 bytes
        return False
    element = btf[btf.strip(kind.element_id)]
    return isinstance(element, Int) and kind.length * element.size > MAX_SIZE


def _with_types(
    btf: Btf, changed: Mapping[int, BtfType], *, after: Collection[BtfType] = ()
) -> Btf:
    """Return a copy of *btf* with the types *changed*, and with the types *after* at its end.

    The ids of *changed* ascend.
    """
    builder = BtfBuilder(strings=btf.strings)
    following = 1
    for type_id, kind in changed.items():
        builder.add_encoded(btf.encoded(following, type_id))
        builder.add(kind)
        following = type_id + 1
    builder.add_encoded(btf.encoded(following, len(btf)))
    for kind in after:
        builder.add(kind)
    copy = Btf.parse(builder.build())
    copy.adopt(btf, but=changed)
    return copy


def _linked(kind: Function, static_functions: Collection[str]) -> Function:
    linkage = Linkage.GLOBAL if kind.linkage is Linkage.EXTERN else kind.linkage
    if kind.name in static_functions:
        linkage = Linkage.STATIC
    return kind if linkage is kind.linkage else replace(kind, linkage=linkage)


def _with_names(kind: FunctionPrototype) -> FunctionPrototype:
    """Return *kind* with a name for every parameter; type 0 stands for `...` and has none."""
    if all(p.name or not p.type_id for p in kind.parameters):
        return kind
    named = (
        p._replace(name=p.name or f"arg{i}") if p.type_id else p
        for i, p in enumerate(kind.parameters)
    )
    return replace(kind, parameters=tuple(named))


def _filled_section(
    btf: Btf, kind: DataSection, data_sections: DataSections, defined: Collection[int]
) -> BtfType:
    size, symbols = data_sections.get(kind.name, (0, {}))
    is_ours = any(variable.type_id in defined for variable in kind.variables)
    if kind.size and not is_ours:  # a linker (bpftool gen object) has already filled it in
        size, symbols = kind.size, {}
    located = [_located(btf, variable, symbols, defined) for variable in kind.variables]
    variables = _disjoint(located, size)
    if not variables or kind.name not in data_sections:
        return _BLANK
    return DataSection(kind.name, size, variables)


def _located(
    btf: Btf,
    variable: SectionVariable,
    symbols: Mapping[str, int],
    defined: Collection[int],
) -> SectionVariable:
    kind = btf[variable.type_id]
    is_missing = isinstance(kind, Var) and kind.linkage is Linkage.EXTERN
    if not isinstance(kind, Var) or (is_missing and variable.type_id not in defined):
        return variable._replace(size=0)  # `_disjoint` drops it
    # A static variable may have no symbol; the compiler then wrote its offset into the BTF.
    return variable._replace(offset=symbols.get(kind.name, variable.offset))


def _disjoint(variables: list[SectionVariable], size: int) -> tuple[SectionVariable, ...]:
    """Return the variables that the kernel accepts: ascending, disjoint, inside the section."""
    kept: list[SectionVariable] = []
    end = 0
    for variable in sorted(variables, key=lambda v: (v.offset, v.size)):
        if variable.size and end <= variable.offset <= size - variable.size:
            kept.append(variable)
            end = variable.offset + variable.size
    return tuple(kept)
