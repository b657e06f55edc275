"""Maps defined by their types in section `.maps`, libbpf's own dialect.

A definition is an anonymous structure whose members say by their types what the map is:
`__uint(name, N)` is a pointer to an array of N elements, `__ulong(name, N)` an enumeration with the
one value N, `__type(name, T)` a pointer to T, `__array(values, T)` an array of pointers to T. What
the variable is initialised with are relocations, in `values`.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import (
    Array,
    DataSection,
    Enum,
    Forward,
    Linkage,
    Member,
    Pointer,
    Struct,
    Union,
    Var,
)
from bpfpin.errors import ObjectFileError
from bpfpin.map_traits import MapFamily, traits_of
from bpfpin.objfile.dialects.symbols import map_symbols, map_type, slot_fault
from bpfpin.objfile.elf.file import Elf, Relocation, Section, Symbol, SymbolType
from bpfpin.spec import MapSpec, Pinning
from bpfpin.uapi import MapType

_POINTER_SIZE = 8
_U32_FIELDS = ("type", "key_size", "value_size", "max_entries", "map_flags", "numa_node", "pinning")
_NUMBERS = dict.fromkeys(_U32_FIELDS, 0xFFFFFFFF) | {"map_extra": 0xFFFFFFFFFFFFFFFF}
_TYPES = ("key", "value")
_KNOWN = {*_NUMBERS, *_TYPES, "values"}
_PINNINGS = {0: Pinning.NONE, 1: Pinning.BY_NAME}
# Maps of events, and the sizes that their keys and values have in the kernel. Sources name a type
# all the same, that of the events: bpf2go makes a Go type of it.
_EVENT_SIZES = {
    MapFamily.RING_BUFFER: 0,
    MapFamily.USER_RING_BUFFER: 0,
    MapFamily.PERF_BUFFER: 4,
}
_SLOT_SIZE = 4  # what a map of maps or of programs holds: a descriptor going in, an id coming out


# What `.maps` definitions are initialised with: maps in maps, programs in program arrays.
#
# The compiler leaves a relocation for each initialised element of `values`, eight bytes apart.


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
    if traits_of(spec.type).holds_maps:
        is_right, what = symbol.section_index == section.index, "a map of this section"
    else:
        is_right, what = symbol.type == SymbolType.FUNCTION, "a program of this object"
    if not is_right or symbol.name == spec.name:
        message = f"an entry is initialised with {symbol.name!r}, which is not {what}"
        raise _error(elf, spec, relocation, message)
    return symbol.name


def _error(elf: Elf, spec: MapSpec, relocation: Relocation, message: str) -> ObjectFileError:
    return elf.error(message, section=spec.section, symbol=spec.name, offset=relocation.offset)


@dataclass(frozen=True)
class _MapContext:
    """Where the definition stands that is being read."""

    elf: Elf
    section: Section
    symbol: Symbol
    btf: Btf
    is_inner: bool = False

    def error(self, message: str, *, hint: str = "") -> ObjectFileError:
        """Make the error that names the map."""
        what = f"inner map: {message}" if self.is_inner else message
        return self.elf.error(what, section=self.section, symbol=self.symbol, hint=hint)


def read_maps(elf: Elf, section: Section, btf: Btf | None) -> list[MapSpec]:
    """Return the maps of *section* by offset; `ObjectFileError` names the map and the member."""
    symbols = map_symbols(elf, section)
    if not symbols:
        return []
    if btf is None:
        raise elf.error("maps without BTF", section=section, hint="compile with -g")
    variables = _variables(btf, section.name)
    found: list[tuple[MapSpec, int | None]] = []
    for symbol in symbols:
        place = _MapContext(elf, section, symbol, btf)
        definition = _definition(place, variables.get(symbol.name))
        found.append((_map(place, definition), _values_offset(definition)))
    return initial_slots(elf, section, found)


def _variables(btf: Btf, section: str) -> dict[str, Var]:
    type_id = btf.find(section, DataSection)
    kind = btf[type_id] if type_id is not None else None
    if not isinstance(kind, DataSection):
        return {}
    variables = (btf[variable.type_id] for variable in kind.variables)
    return {kind.name: kind for kind in variables if isinstance(kind, Var)}


def _definition(place: _MapContext, variable: Var | None) -> Struct:
    if variable is None:
        raise place.error("the map is not in the BTF", hint="compile with -g")
    if variable.linkage != Linkage.GLOBAL:
        raise place.error(f"the map is {Linkage(variable.linkage).name.lower()}, not global")
    kind = place.btf[place.btf.strip(variable.type_id)]
    if not isinstance(kind, Struct):
        raise place.error(f"a map is defined by a structure, not by {_word(kind)}")
    return kind


def _map(place: _MapContext, definition: Struct) -> MapSpec:
    members = _members(place, definition)
    numbers = {
        name: _number(place, members[name], limit=limit)
        for name, limit in _NUMBERS.items()
        if name in members
    }
    key, value = (_type(place, members[name]) if name in members else None for name in _TYPES)
    kind = map_type(place.elf, place.section, place.symbol, number=numbers.get("type", 0))
    inner = _inner(place, members["values"], kind) if "values" in members else None
    if "values" in members and numbers.setdefault("value_size", _SLOT_SIZE) != _SLOT_SIZE:
        raise place.error(
            f"value_size is {numbers['value_size']}; that of `values` is {_SLOT_SIZE}"
        )
    pinning = _pinning(place, numbers.get("pinning", 0))
    key_size = _size(place, "key", key, numbers.get("key_size"))
    value_size = _size(place, "value", value, numbers.get("value_size"))
    event_size = _EVENT_SIZES.get(traits_of(kind).family)
    if event_size is not None:
        key_size = key_size if key is None and key_size else event_size
        value_size = value_size if value is None and value_size else event_size
    return MapSpec(
        f"{place.symbol.name}.inner" if place.is_inner else place.symbol.name,
        kind,
        key_size=key_size,
        value_size=value_size,
        max_entries=numbers.get("max_entries", 0),
        map_flags=numbers.get("map_flags", 0),
        map_extra=numbers.get("map_extra", 0),
        numa_node=numbers.get("numa_node"),
        pinning=pinning,
        pinning_id=numbers["pinning"] if pinning is Pinning.UNKNOWN else 0,
        key=key,
        value=value,
        inner=inner,
        section=place.section.name,
        section_index=place.section.index,
        offset=place.symbol.value,
    )


def _members(place: _MapContext, definition: Struct) -> dict[str, Member]:
    members: dict[str, Member] = {}
    for member in definition.members:
        if member.name not in _KNOWN:
            raise place.error(f"member {member.name!r} of the definition is unknown")
        if member.name in members:
            raise place.error(f"member {member.name!r} occurs twice")
        members[member.name] = member
    return members


def _number(place: _MapContext, member: Member, *, limit: int) -> int:
    """Return N of `__uint(…, N)` or of `__ulong(…, N)`."""
    kind = place.btf[place.btf.strip(member.type_id)]
    if isinstance(kind, Pointer):
        array = place.btf[place.btf.strip(kind.type_id)]
        if isinstance(array, Array):
            return array.length
    if isinstance(kind, Enum) and len(kind.values) == 1:
        number = kind.values[0].value & 0xFFFFFFFFFFFFFFFF
        if number <= limit:
            return number
        raise place.error(f"{member.name} is {number}; at most {limit} fits")
    raise place.error(f"{member.name} is {_word(kind)}; write __uint({member.name}, N)")


def _type(place: _MapContext, member: Member) -> TypeRef:
    """Return T of `__type(…, T)`."""
    kind = place.btf[place.btf.strip(member.type_id)]
    if not isinstance(kind, Pointer):
        raise place.error(f"{member.name} is {_word(kind)}; write __type({member.name}, T)")
    return place.btf.ref(_defined(place.btf, kind.type_id))


def _defined(btf: Btf, type_id: int) -> int:
    """Return the structure of that name for one that is only declared at *type_id*.

    Linkers and clang leave a declaration beside the definition.
    """
    kind = btf[btf.strip(type_id)]
    if not isinstance(kind, Forward):
        return type_id
    found = btf.find(kind.name, Union if kind.is_union else Struct)
    return type_id if found is None else found


def _size(place: _MapContext, what: str, ref: TypeRef | None, given: int | None) -> int:
    """Return the size of the key or value; given by type and by number, the two must agree."""
    if ref is None:
        return given or 0
    try:
        size = ref.size
    except ObjectFileError as error:
        raise place.error(f"{what}: {error.message}") from None
    if given and given != size:
        raise place.error(f"{what}_size is {given}, but the type of {what} has {size} bytes")
    return size


def _pinning(place: _MapContext, number: int) -> Pinning:
    if number and place.is_inner:
        raise place.error("an inner map cannot be pinned")
    return _PINNINGS.get(number, Pinning.UNKNOWN)


def _inner(place: _MapContext, member: Member, kind: MapType) -> MapSpec | None:
    """Return the inner map that `values` describes; None where they are programs."""
    if place.is_inner:
        raise place.error("it is a map of maps itself; the kernel has one level of them")
    traits = traits_of(kind)
    if not (traits.holds_maps or traits.holds_programs):
        raise place.error(f"a map of type {kind.name.lower()} has no `values`")
    target = _element(place, member)
    if traits.holds_programs:
        return None
    if not isinstance(target, Struct):
        raise place.error(f"`values` describe an inner map by a structure, not by {_word(target)}")
    return _map(dataclasses.replace(place, is_inner=True), target)


def _element(place: _MapContext, member: Member) -> object:
    """Return T of `__array(values, T)`."""
    array = place.btf[place.btf.strip(member.type_id)]
    if isinstance(array, Array):
        pointer = place.btf[place.btf.strip(array.element_id)]
        if isinstance(pointer, Pointer):
            return place.btf[place.btf.strip(pointer.type_id)]
    raise place.error(f"`values` is {_word(array)}; write __array(values, T)")


def _values_offset(definition: Struct) -> int | None:
    """Return the byte at which `values` begin, None if there are none."""
    found = [m.bit_offset // 8 for m in definition.members if m.name == "values"]
    return found[0] if found else None


def _word(kind: object) -> str:
    return f"of BTF kind {type(kind).__name__.lower()}"
