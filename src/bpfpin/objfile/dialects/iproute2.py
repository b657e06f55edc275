"""Maps defined by iproute2's `struct bpf_elf_map` in section `maps`.

36 bytes; iproute2 fills shorter, older structures up with zeros (include/bpf_elf.h there). A map of
maps names the `id` of its inner maps, and each of those the index (`inner_idx`) that it fills.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bpfpin.btf.btf import Btf
from bpfpin.objfile.dialects import struct_form
from bpfpin.objfile.dialects.struct_form import Fields
from bpfpin.objfile.dialects.symbols import MAPS_OF_MAPS, map_type, slot_fault
from bpfpin.objfile.elf import Elf
from bpfpin.spec import Dialect, MapSpec, Pinning

_NO_INDEX = 0xFFFFFFFF
_PINNINGS = {0: Pinning.NONE, 1: Pinning.OBJECT_NAMESPACE, 2: Pinning.GLOBAL_NAMESPACE}


def maps_of(elf: Elf, definitions: Sequence[Fields], btf: Btf | None) -> list[MapSpec]:
    """Return the maps in the order of *definitions*; `ObjectFileError` with symbol and offset."""
    maps = [_map(elf, btf, definition) for definition in definitions]
    return [_with_inner(elf, spec, maps) for spec in maps]


def _map(elf: Elf, btf: Btf | None, definition: Fields) -> MapSpec:
    symbol, section = definition.symbol, definition.section
    key_size, value_size = definition["key_size"], definition["value_size"]
    key, value = struct_form.annotated_types(
        btf, symbol.name, key_size=key_size, value_size=value_size
    )
    pinning = _PINNINGS.get(definition["pinning"], Pinning.FILE)
    index = definition["inner_idx"]
    return MapSpec(
        symbol.name,
        map_type(elf, section, symbol, number=definition["type"]),
        key_size=key_size,
        value_size=value_size,
        max_entries=definition["max_entries"],
        map_flags=definition["map_flags"],
        pinning=pinning,
        pinning_id=definition["pinning"] if pinning is Pinning.FILE else 0,
        key=key,
        value=value,
        dialect=Dialect.BPF_ELF_MAP,
        section=section.name,
        section_index=section.index,
        offset=symbol.value,
        id=definition["id"],
        inner_id=definition["inner_id"],
        inner_index=-1 if index == _NO_INDEX else index,
        note=definition.note,
    )


def _with_inner(elf: Elf, spec: MapSpec, maps: list[MapSpec]) -> MapSpec:
    """Give a map of maps its inner maps, as far as they are in this object."""
    if spec.type not in MAPS_OF_MAPS or not spec.inner_id:
        return spec
    inner = [m for m in maps if m.id == spec.inner_id and m.type not in MAPS_OF_MAPS]
    initial = tuple((m.inner_index, m.name) for m in inner if m.inner_index >= 0)
    for index, _ in initial:
        if fault := slot_fault(elf, spec, index):
            raise fault
    return dataclasses.replace(spec, inner=inner[0] if inner else None, initial=initial)
