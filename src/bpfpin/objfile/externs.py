"""The externs of an object: names that the kernel defines.

As in libbpf (bpf_object__collect_externs()), an extern is an undefined symbol whose variable or
function is extern in the BTF and belongs to its section `.kconfig` or `.ksyms`. Compilers write
meaningless offsets in these sections, so they are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from bpfpin.btf.btf import Btf
from bpfpin.btf.layout import align_of
from bpfpin.btf.types import BtfType, DataSection, Function, Linkage, Var, Void
from bpfpin.errors import ObjectFileError
from bpfpin.externs import KCONFIG, KSYMS, ExternKind, ExternSpec
from bpfpin.objfile.elf.file import SHN_UNDEF, Elf, Symbol, SymbolBinding
from bpfpin.spec import Dialect, MapSpec
from bpfpin.uapi import MapFlag, MapType

MAX_CONFIG_BYTES = 1 << 20  # strings in the kernel's configuration have some 100 bytes

_NAME = r"[A-Za-z_.$][A-Za-z0-9_.$]{0,510}"  # KSYM_NAME_LEN is 512


class _Declared(NamedTuple):
    """An extern variable or function of the BTF, and its section."""

    section: str
    kind: Var | Function


def read_externs(elf: Elf, btf: Btf | None) -> dict[str, ExternSpec]:
    """Return the externs of an object by name; those of `.kconfig` have their offsets in its map.

    Undefined symbols that are not in the BTF are left out.

    Args:
        elf: The file.
        btf: Its BTF as the compiler wrote it; None if it has none.

    Returns:
        The externs, in the order of the BTF.

    Raises:
        ObjectFileError: An extern has an invalid type or name, or occurs twice.
    """
    undefined = _undefined(elf)
    if btf is None or not undefined:
        return {}
    externs: dict[str, ExternSpec] = {}
    for declared in _declared(elf, btf):
        symbol = undefined.get(declared.kind.name)
        # Declared only: without a symbol, no instruction refers to it.
        if symbol is None:
            continue
        if symbol.name in externs:
            raise elf.error("a second extern of that name", section=declared.section, symbol=symbol)
        externs[symbol.name] = _extern(elf, btf, declared, symbol)
    located = _located(elf, [spec for spec in externs.values() if spec.kind is ExternKind.KCONFIG])
    return {**externs, **{spec.name: spec for spec in located}}


def config_variables(btf: Btf, externs: Mapping[str, ExternSpec]) -> dict[int, ExternSpec]:
    """Return the externs of `.kconfig` by the id of their `Var`."""
    by_name = {spec.name: spec for spec in externs.values() if spec.kind is ExternKind.KCONFIG}
    type_id = btf.find(KCONFIG, DataSection) if by_name else None
    section = btf[type_id] if type_id is not None else None
    ids = [entry.type_id for entry in section.variables] if isinstance(section, DataSection) else []
    return {type_id: by_name[btf[type_id].name] for type_id in ids if btf[type_id].name in by_name}


def config_map(
    externs: Iterable[ExternSpec], btf: Btf | None, *, section_index: int
) -> list[MapSpec]:
    """Return the map of section `.kconfig`, filled with zeros; an empty list if there is none."""
    size = config_size(externs)
    if not size:
        return []
    type_id = btf.find(KCONFIG, DataSection) if btf else None
    return [
        MapSpec(
            KCONFIG,
            MapType.ARRAY,
            key_size=4,
            value_size=size,
            max_entries=1,
            # As in libbpf. Of a map that is frozen, too, the verifier knows the values, and removes
            # the code for other configurations (bpf_map_is_rdonly() of kernel/bpf/verifier.c).
            map_flags=int(MapFlag.MMAPABLE | MapFlag.RDONLY_PROG),
            value=btf.ref(type_id) if btf and type_id is not None else None,
            contents=bytes(size),
            is_frozen=True,
            dialect=Dialect.DATA,
            section=KCONFIG,
            # A number behind all sections of the file sorts it last.
            section_index=section_index,
        )
    ]


def config_size(externs: Iterable[ExternSpec]) -> int:
    """Return the size of section `.kconfig` in bytes."""
    ends = [spec.offset + spec.size for spec in externs if spec.kind is ExternKind.KCONFIG]
    return max(ends, default=0)


def _undefined(elf: Elf) -> dict[str, Symbol]:
    return {
        symbol.name: symbol
        for symbol in elf.symbols
        if symbol.section_index == SHN_UNDEF and symbol.name and not symbol.is_local
    }


def _declared(elf: Elf, btf: Btf) -> Iterator[_Declared]:
    """Yield the extern variables and functions of the two sections."""
    for kind in btf.types():
        if not isinstance(kind, DataSection) or kind.name not in (KCONFIG, KSYMS):
            continue
        for entry in kind.variables:
            variable = btf[entry.type_id]
            if not isinstance(variable, Var | Function):
                raise elf.error(
                    f"type {entry.type_id} is neither a variable nor a function", section=kind.name
                )
            if variable.linkage is Linkage.EXTERN:
                yield _Declared(kind.name, variable)


def _extern(elf: Elf, btf: Btf, declared: _Declared, symbol: Symbol) -> ExternSpec:
    section, kind = declared
    if not re.fullmatch(_NAME, symbol.name):
        raise elf.error(f"the extern's name {symbol.name!r} is not a C identifier", section=section)
    # Variables are usually `const volatile` in C, which the kernel's type is not.
    type_id = kind.type_id if isinstance(kind, Function) else btf.strip(kind.type_id)
    # BTF does not store whether an extern is weak, only the symbol does.
    is_weak = symbol.binding == SymbolBinding.WEAK
    spec = ExternSpec(symbol.name, _kind(section, kind, btf[type_id]), btf.ref(type_id), is_weak)
    if spec.kind is not ExternKind.KCONFIG:
        return spec
    if isinstance(kind, Function) or spec.config_form is None:
        raise elf.error(
            f"{spec.c_source} cannot be filled in from the kernel's configuration",
            section=section,
            symbol=symbol,
            hint="declare it as bool, enum libbpf_tristate, an integer, or an array of char",
        )
    size = spec.type.size
    if size > MAX_CONFIG_BYTES:
        raise _too_large(elf, symbol.name, size)
    return replace(spec, size=size)


def _kind(section: str, kind: Var | Function, own_type: BtfType) -> ExternKind:
    if section == KCONFIG:
        return ExternKind.KCONFIG
    if isinstance(kind, Function):
        return ExternKind.KFUNC
    return ExternKind.KSYM if isinstance(own_type, Void) else ExternKind.KSYM_TYPED


def _located(elf: Elf, externs: list[ExternSpec]) -> Iterator[ExternSpec]:
    """Yield *externs* with offsets: by descending alignment, then by size and name."""
    # The order is that of cmp_externs() in libbpf.c, so that the map has the same layout.
    aligned = [(align_of(spec.type.btf, spec.type.id), spec) for spec in externs]
    end = 0
    for alignment, spec in sorted(aligned, key=lambda row: (-row[0], row[1].size, row[1].name)):
        offset = -(-end // alignment) * alignment
        end = offset + spec.size
        if end > MAX_CONFIG_BYTES:
            raise _too_large(elf, spec.name, end)
        yield replace(spec, offset=offset)


def _too_large(elf: Elf, name: str, size: int) -> ObjectFileError:
    return elf.error(
        f"{size} bytes of configuration; the limit is {MAX_CONFIG_BYTES}",
        section=KCONFIG,
        symbol=name,
    )
