"""Maps defined by `struct bpf_map_def` in section `maps`, as libbpf had them until 1.0.

Sixteen bytes in the oldest programs, twenty in libbpf, and more: the kernel's samples
(samples/bpf/bpf_load.h, until Linux 5.16) added the index of the inner map and the NUMA node, gobpf
and those after it where the map is pinned, aya an id and whether it is pinned by its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bpfpin.btf.btf import Btf
from bpfpin.objfile.dialects import struct_form
from bpfpin.objfile.dialects.struct_form import Fields
from bpfpin.objfile.dialects.symbols import MAPS_OF_MAPS, map_type
from bpfpin.objfile.elf import Elf
from bpfpin.spec import Dialect, MapSpec, Pinning
from bpfpin.uapi import MapFlag

# What the member `pinning` means: of aya, whose structure has an `id`, and of all the others.
_PINNINGS_WITH_ID = {0: Pinning.NONE, 1: Pinning.BY_NAME, 2: Pinning.GLOBAL_NAMESPACE}
_PINNINGS = {0: Pinning.NONE, 1: Pinning.OBJECT_NAMESPACE, 2: Pinning.GLOBAL_NAMESPACE}


def maps_of(elf: Elf, definitions: Sequence[Fields], btf: Btf | None) -> list[MapSpec]:
    """Return the maps in the order of *definitions*; `ObjectFileError` with symbol and offset."""
    maps = [_map(elf, btf, definition) for definition in definitions]
    return [_with_inner(elf, spec, maps) for spec in maps]


def _map(elf: Elf, btf: Btf | None, definition: Fields) -> MapSpec:
    symbol, section = definition.symbol, definition.section
    kind = map_type(elf, section, symbol, number=definition["type"])
    key_size, value_size = definition["key_size"], definition["value_size"]
    key, value = struct_form.annotated_types(
        btf, symbol.name, key_size=key_size, value_size=value_size
    )
    has_node = definition["map_flags"] & MapFlag.NUMA_NODE
    words = _PINNINGS_WITH_ID if "id" in definition.values else _PINNINGS
    pinning = words.get(definition["pinning"], Pinning.UNKNOWN)
    inner_index = definition.values.get("inner_map_idx", -1)
    return MapSpec(
        symbol.name,
        kind,
        key_size=key_size,
        value_size=value_size,
        max_entries=definition["max_entries"],
        map_flags=definition["map_flags"],
        numa_node=definition.values.get("numa_node") if has_node else None,
        pinning=pinning,
        pinning_id=definition["pinning"] if pinning is Pinning.UNKNOWN else 0,
        key=key,
        value=value,
        dialect=Dialect.BPF_MAP_DEF,
        section=section.name,
        section_index=section.index,
        offset=symbol.value,
        id=definition["id"],
        inner_index=inner_index if kind in MAPS_OF_MAPS else -1,
        note=_note(definition),
    )


def _note(definition: Fields) -> str:
    where = (
        f"namespace {definition.namespace!r} of its definition is not a place where bpfpin pins it"
        if definition.namespace
        else ""
    )
    return "; ".join(text for text in (definition.note, where) if text)


def _with_inner(elf: Elf, spec: MapSpec, maps: list[MapSpec]) -> MapSpec:
    """Resolve the index of the inner map; a map that names itself left the member at zero."""
    if spec.inner_index == -1:
        return spec
    inner = maps[spec.inner_index] if spec.inner_index < len(maps) else None
    if inner is spec:
        return dataclasses.replace(spec, inner_index=-1)
    if inner is None or inner.type in MAPS_OF_MAPS:
        what = f"map {inner.name}, of maps itself" if inner else f"one of {len(maps)} maps"
        raise elf.error(
            f"the inner map is to be index {spec.inner_index}, {what}",
            section=spec.section,
            symbol=spec.name,
            offset=spec.offset,
        )
    return dataclasses.replace(spec, inner=inner)
