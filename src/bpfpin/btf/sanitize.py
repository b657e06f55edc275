"""A compiler's BTF made such that BPF_BTF_LOAD takes it; no type id and no string offset changes.

Compilers leave to the loader what only the linked sections tell: sizes and offsets of data. And the
kernel refuses what it does not have itself: variables and functions defined elsewhere, parameters
without a name (btf_var_check_meta, btf_datasec_check_meta, btf_func_check in kernel/bpf/btf.c).
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

_BLANK = Struct("", 0, ())  # takes the place of what the kernel has no use for

_BYTE = Int("", 1, 8)

_SUSPECT = frozenset({DataSection, Var, Function, FunctionPrototype, Int})
_ENCODINGS = (*IntEncoding,)  # signed, char, bool: the kernel takes one of them

DataSections = Mapping[str, tuple[int, Mapping[str, int]]]


def for_kernel(
    btf: Btf,
    *,
    data_sections: DataSections,
    static_functions: Collection[str] = (),
    defined: Collection[int] = (),
) -> Btf:
    """Return *btf* as the kernel takes it.

    *data_sections* gives for each section of the object its size in bytes and the offsets of its
    symbols. A section that is not among them (`.ksyms`, `.kconfig`), and variables defined
    elsewhere, become an unnamed empty structure. *static_functions* are those of hidden visibility:
    the verifier checks a static function with its callers and a global one on its own. *defined*
    are the ids of variables of elsewhere that have a place all the same: the loader gives it.
    """
    suspects = [(i, kind) for i, kind in enumerate(btf.types()) if type(kind) in _SUSPECT]
    prototypes = {kind.type_id for _, kind in suspects if isinstance(kind, Function)}
    changed: dict[int, BtfType] = {}
    for type_id, kind in suspects:
        fixed = kind
        if isinstance(kind, DataSection):
            fixed = _placed(btf, kind, data_sections, defined)
        elif isinstance(kind, Var) and kind.linkage is Linkage.EXTERN:
            fixed = replace(kind, linkage=Linkage.GLOBAL) if type_id in defined else _BLANK
        elif isinstance(kind, Function):
            # GCC 12 has functions without a name: what is called through a pointer.
            fixed = _linked(kind, static_functions) if kind.name else _BLANK
        elif isinstance(kind, FunctionPrototype) and type_id in prototypes:
            fixed = _with_names(kind)
        elif isinstance(kind, Int) and kind.encoding not in (IntEncoding.NONE, *_ENCODINGS):
            # GCC 12 has signed characters.
            fixed = replace(kind, encoding=_one_encoding(kind))
        if fixed is not kind:
            changed[type_id] = fixed
    return _with_types(btf, changed) if changed else btf


def _one_encoding(kind: Int) -> IntEncoding:
    return next((each for each in _ENCODINGS if each & kind.encoding), IntEncoding.NONE)


def with_large_numbers(btf: Btf) -> Btf:
    """Return *btf* with room for the numbers of map definitions from 1 << 30 on.

    `__uint(max_entries, 1 << 30)` is a pointer to an array of so many `int`, which is larger than
    a type can be, and which the kernel refuses. Such an array gets elements of one byte.
    """
    too_long = {
        type_id: kind
        for type_id, kind in enumerate(btf.types())
        if isinstance(kind, Array) and _is_too_long(btf, kind)
    }
    if not too_long:
        return btf
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
    """Return a copy of *btf* with other types at some ids; ascending, as they are in *changed*.

    The types in *after* follow the last one.
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
    made = Btf.parse(builder.build())
    made.adopt(btf, but=changed)
    return made


def _linked(kind: Function, static_functions: Collection[str]) -> Function:
    linkage = Linkage.GLOBAL if kind.linkage is Linkage.EXTERN else kind.linkage
    if kind.name in static_functions:
        linkage = Linkage.STATIC
    return kind if linkage is kind.linkage else replace(kind, linkage=linkage)


def _with_names(kind: FunctionPrototype) -> FunctionPrototype:
    """Return *kind* with no unnamed parameter but the last one of type 0, `...`."""
    if all(p.name or not p.type_id for p in kind.parameters):
        return kind
    named = (
        p._replace(name=p.name or f"arg{i}") if p.type_id else p
        for i, p in enumerate(kind.parameters)
    )
    return replace(kind, parameters=tuple(named))


def _placed(
    btf: Btf, kind: DataSection, data_sections: DataSections, defined: Collection[int]
) -> BtfType:
    size, symbols = data_sections.get(kind.name, (0, {}))
    is_ours = any(variable.type_id in defined for variable in kind.variables)
    if kind.size and not is_ours:  # a linker (bpftool gen object) has filled it in already
        size, symbols = kind.size, {}
    places = [_place(btf, variable, symbols, defined) for variable in kind.variables]
    variables = _disjoint(places, size)
    if not variables or kind.name not in data_sections:
        return _BLANK
    return DataSection(kind.name, size, variables)


def _place(
    btf: Btf,
    variable: SectionVariable,
    symbols: Mapping[str, int],
    defined: Collection[int],
) -> SectionVariable:
    kind = btf[variable.type_id]
    is_missing = isinstance(kind, Var) and kind.linkage is Linkage.EXTERN
    if not isinstance(kind, Var) or (is_missing and variable.type_id not in defined):
        return variable._replace(size=0)
    # A static variable may have no symbol; its offset is in the BTF then.
    return variable._replace(offset=symbols.get(kind.name, variable.offset))


def _disjoint(variables: list[SectionVariable], size: int) -> tuple[SectionVariable, ...]:
    """Return those that the kernel takes: ascending, none over another, none past the end."""
    kept: list[SectionVariable] = []
    end = 0
    for variable in sorted(variables, key=lambda v: (v.offset, v.size)):
        if variable.size and end <= variable.offset <= size - variable.size:
            kept.append(variable)
            end = variable.offset + variable.size
    return tuple(kept)
