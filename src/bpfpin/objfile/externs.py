"""The names that an object leaves to the kernel: undefined symbols and what BTF says of them.

As libbpf has it: the symbol is undefined, the variable or function is extern in the BTF, and stands
in a section `.kconfig` or `.ksyms` there. Offsets in those sections mean nothing, and are not read.
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

MAX_CONFIG_BYTES = 1 << 20  # a string of the kernel's configuration takes some 100

_NAME = re.compile(r"[A-Za-z_.$][A-Za-z0-9_.$]{0,510}", re.ASCII)  # KSYM_NAME_LEN is 512


class _Declared(NamedTuple):
    """What BTF says is defined elsewhere, and the section that says where."""

    section: str
    kind: Var | Function


def read_externs(elf: Elf, btf: Btf | None) -> dict[str, ExternSpec]:
    """Return the externs of an object by name, those of `.kconfig` with their places in its map.

    *btf* is as the compiler wrote it. `ObjectFileError` for one whose type or name is no good.
    Undefined symbols that the BTF does not place are not among them.
    """
    undefined = _undefined(elf)
    if btf is None or not undefined:
        return {}
    found: dict[str, ExternSpec] = {}
    for declared in _declared(elf, btf):
        symbol = undefined.get(declared.kind.name)
        if symbol is None:
            continue
        if symbol.name in found:
            raise elf.error("a second extern of that name", section=declared.section, symbol=symbol)
        found[symbol.name] = _extern(elf, btf, declared, symbol)
    placed = _placed(elf, [one for one in found.values() if one.kind is ExternKind.KCONFIG])
    return {**found, **{each.name: each for each in placed}}


def config_variables(btf: Btf, externs: Mapping[str, ExternSpec]) -> dict[int, ExternSpec]:
    """Return, by the id of the variable's type, the externs that have a place in `.kconfig`."""
    placed = {each.name: each for each in externs.values() if each.kind is ExternKind.KCONFIG}
    type_id = btf.find(KCONFIG, DataSection) if placed else None
    section = btf[type_id] if type_id is not None else None
    ids = [one.type_id for one in section.variables] if isinstance(section, DataSection) else []
    return {type_id: placed[btf[type_id].name] for type_id in ids if btf[type_id].name in placed}


def config_map(
    externs: Iterable[ExternSpec], btf: Btf | None, *, section_index: int
) -> list[MapSpec]:
    """Return the one map that holds section `.kconfig`, still empty; none without such externs."""
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
            map_flags=int(MapFlag.MMAPABLE | MapFlag.RDONLY_PROG),
            value=btf.ref(type_id) if btf and type_id is not None else None,
            contents=bytes(size),
            is_frozen=True,
            dialect=Dialect.DATA,
            section=KCONFIG,
            section_index=section_index,
        )
    ]


def config_size(externs: Iterable[ExternSpec]) -> int:
    """Return the bytes of section `.kconfig`."""
    ends = [each.offset + each.size for each in externs if each.kind is ExternKind.KCONFIG]
    return max(ends, default=0)


def _undefined(elf: Elf) -> dict[str, Symbol]:
    return {
        symbol.name: symbol
        for symbol in elf.symbols
        if symbol.section_index == SHN_UNDEF and symbol.name and not symbol.is_local
    }


def _declared(elf: Elf, btf: Btf) -> Iterator[_Declared]:
    """Yield what stands in the two sections and is defined elsewhere."""
    for kind in btf.types():
        if not isinstance(kind, DataSection) or kind.name not in (KCONFIG, KSYMS):
            continue
        for place in kind.variables:
            held = btf[place.type_id]
            if not isinstance(held, Var | Function):
                raise elf.error(
                    f"type {place.type_id} is neither a variable nor a function", section=kind.name
                )
            if held.linkage is Linkage.EXTERN:
                yield _Declared(kind.name, held)


def _extern(elf: Elf, btf: Btf, declared: _Declared, symbol: Symbol) -> ExternSpec:
    section, kind = declared
    if not _NAME.fullmatch(symbol.name):
        raise elf.error(f"the extern's name {symbol.name!r} is no C identifier", section=section)
    type_id = kind.type_id if isinstance(kind, Function) else btf.strip(kind.type_id)
    is_weak = symbol.binding == SymbolBinding.WEAK
    made = ExternSpec(symbol.name, _kind(section, kind, btf[type_id]), btf.ref(type_id), is_weak)
    if made.kind is not ExternKind.KCONFIG:
        return made
    if isinstance(kind, Function) or made.config_form is None:
        raise elf.error(
            f"{made.c_source} is nothing that the kernel's configuration can fill in",
            section=section,
            symbol=symbol,
            hint="declare it as bool, enum libbpf_tristate, an integer, or an array of char",
        )
    size = made.type.size
    if size > MAX_CONFIG_BYTES:
        raise _too_large(elf, symbol.name, size)
    return replace(made, size=size)


def _kind(section: str, kind: Var | Function, type_of_it: BtfType) -> ExternKind:
    if section == KCONFIG:
        return ExternKind.KCONFIG
    if isinstance(kind, Function):
        return ExternKind.KFUNC
    return ExternKind.KSYM if isinstance(type_of_it, Void) else ExternKind.KSYM_TYPED


def _placed(elf: Elf, externs: list[ExternSpec]) -> Iterator[ExternSpec]:
    """Yield them with their offsets: by alignment, the largest first, then by size and name."""
    aligned = [(align_of(each.type.btf, each.type.id), each) for each in externs]
    end = 0
    for alignment, each in sorted(aligned, key=lambda one: (-one[0], one[1].size, one[1].name)):
        offset = -(-end // alignment) * alignment
        end = offset + each.size
        if end > MAX_CONFIG_BYTES:
            raise _too_large(elf, each.name, end)
        yield replace(each, offset=offset)


def _too_large(elf: Elf, name: str, size: int) -> ObjectFileError:
    return elf.error(
        f"{size} bytes of configuration; the limit is {MAX_CONFIG_BYTES}",
        section=KCONFIG,
        symbol=name,
    )
