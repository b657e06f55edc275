"""Maps defined by `struct bpf_map_def` in section `maps`, as libbpf had them until 1.0.

Twenty bytes, or more: the kernel's samples (samples/bpf/bpf_load.h, until Linux 5.16) added the
index of the inner map and the NUMA node.
"""

from __future__ import annotations

import dataclasses

from bpfpin.btf.btf import Btf
from bpfpin.objfile.dialects import struct_form
from bpfpin.objfile.dialects.struct_form import Definition
from bpfpin.objfile.dialects.symbols import MAPS_OF_MAPS, map_type
from bpfpin.objfile.elf import Elf, Section
from bpfpin.spec import Dialect, MapSpec
from bpfpin.uapi import MapFlag

NAMES = ("type", "key_size", "value_size", "max_entries", "map_flags", "inner_map_idx", "numa_node")


def read_maps(elf: Elf, section: Section, btf: Btf | None) -> list[MapSpec]:
    """Return the maps of *section* by offset; `ObjectFileError` with symbol and offset."""
    found = struct_form.definitions(elf, section, btf)
    maps = [_map(elf, section, btf, definition) for definition in found]
    return [_with_inner(elf, spec, maps) for spec in maps]


def _map(elf: Elf, section: Section, btf: Btf | None, definition: Definition) -> MapSpec:
    symbol = definition.symbol
    values = struct_form.values(elf, section, definition, names=NAMES)
    kind = map_type(elf, section, symbol, number=values["type"])
    key_size, value_size = values["key_size"], values["value_size"]
    key, value = struct_form.annotated_types(
        btf, symbol.name, key_size=key_size, value_size=value_size
    )
    has_node = values["map_flags"] & MapFlag.NUMA_NODE
    return MapSpec(
        symbol.name,
        kind,
        key_size=key_size,
        value_size=value_size,
        max_entries=values["max_entries"],
        map_flags=values["map_flags"],
        numa_node=values.get("numa_node") if has_node else None,
        key=key,
        value=value,
        dialect=Dialect.BPF_MAP_DEF,
        section=section.name,
        section_index=section.index,
        offset=symbol.value,
        inner_index=values.get("inner_map_idx", -1) if kind in MAPS_OF_MAPS else -1,
    )


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
