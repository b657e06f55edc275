"""What `.maps` definitions are initialised with: maps in maps, programs in program arrays.

The compiler leaves a relocation for each initialised element of `values`, eight bytes apart.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence

from bpfpin.errors import ObjectFileError
from bpfpin.objfile.dialects.symbols import MAPS_OF_MAPS, slot_fault
from bpfpin.objfile.elf import Elf, Relocation, Section, SymbolType
from bpfpin.spec import MapSpec

_POINTER_SIZE = 8


def initial_slots(
    elf: Elf, section: Section, maps: Sequence[tuple[MapSpec, int | None]]
) -> list[MapSpec]:
    """Return *maps* with what the relocations of *section* put into them.

    Each map comes with the byte of its definition at which `values` begin. `ObjectFileError` for a
    relocation outside of them, or to what such a map cannot hold.
    """
    starts = [spec.offset for spec, _ in maps]
    slots: list[dict[int, str]] = [{} for _ in maps]
    for relocation in elf.relocations(section):
        position = bisect_right(starts, relocation.offset) - 1
        if position < 0:
            raise elf.error("no map is there", section=section, offset=relocation.offset)
        spec, values_offset = maps[position]
        index = _index(elf, spec, values_offset, relocation)
        slots[position][index] = _target(elf, section, spec, relocation)
    return [
        dataclasses.replace(spec, initial=tuple(sorted(filled.items()))) if filled else spec
        for (spec, _), filled in zip(maps, slots, strict=True)
    ]


def _index(elf: Elf, spec: MapSpec, values_offset: int | None, relocation: Relocation) -> int:
    if values_offset is None:
        raise _error(elf, spec, relocation, "the map is initialised, but has no `values`")
    index, odd = divmod(relocation.offset - spec.offset - values_offset, _POINTER_SIZE)
    if index < 0 or odd:
        raise _error(elf, spec, relocation, "what is initialised is no element of `values`")
    if fault := slot_fault(elf, spec, index):
        raise fault
    return index


def _target(elf: Elf, section: Section, spec: MapSpec, relocation: Relocation) -> str:
    """Return the name of the map or program that fills the entry."""
    symbol = relocation.symbol
    # Compilers refer to what is static by its section and the offset there.
    if symbol.is_local:
        raise _error(elf, spec, relocation, "an entry is initialised with something static")
    if spec.type in MAPS_OF_MAPS:
        is_right, what = symbol.section_index == section.index, "a map of this section"
    else:
        is_right, what = symbol.type == SymbolType.FUNCTION, "a program of this object"
    if not is_right or symbol.name == spec.name:
        message = f"an entry is initialised with {symbol.name!r}, which is not {what}"
        raise _error(elf, spec, relocation, message)
    return symbol.name


def _error(elf: Elf, spec: MapSpec, relocation: Relocation, message: str) -> ObjectFileError:
    return elf.error(message, section=spec.section, symbol=spec.name, offset=relocation.offset)
