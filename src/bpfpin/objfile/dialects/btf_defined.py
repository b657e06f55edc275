"""Maps defined by their BTF type in section `.maps`, libbpf's own dialect.

A definition is an anonymous structure whose members describe the map by their types:
`__uint(name, N)` is a pointer to an array of N elements, `__ulong(name, N)` an enumeration with the
single value N, `__type(name, T)` a pointer to T, `__array(values, T)` an array of pointers to T. If
`values` is initialised (with maps in maps, or programs in program arrays), the compiler writes a
relocation for each element, eight bytes apart.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence

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
from bpfpin.records import dataclass
from bpfpin.spec import MapSpec, Pinning
from bpfpin.uapi import MapType

_POINTER_SIZE = 8
# Those of parse_btf_map_def() in libbpf.c; map_extra is the only one of 64 bits.
_U32_FIELDS = ("type", "key_size", "value_size", "max_entries", "map_flags", "numa_node", "pinning")
_NUMBERS = dict.fromkeys(_U32_FIELDS, 0xFFFFFFFF) | {"map_extra": 0xFFFFFFFFFFFFFFFF}
_TYPES = ("key", "value")
# libbpf refuses unknown members, too: they may ask for something that would be missing.
_KNOWN = {*_NUMBERS, *_TYPES, "values"}
_PINNINGS = {0: Pinning.NONE, 1: Pinning.BY_NAME}
# Maps of events, and the sizes of their keys and values in the kernel. Sources may give a type all
# the same, that of the events: bpf2go makes a Go type of it.
_EVENT_SIZES = {
    MapFamily.RING_BUFFER: 0,
    MapFamily.USER_RING_BUFFER: 0,
    MapFamily.PERF_BUFFER: 4,
}
_SLOT_SIZE = 4  # a value of a map of maps or programs: a descriptor when written, an id when read


def initial_slots(
    elf: Elf, section: Section, maps: Sequence[tuple[MapSpec, int | None]]
) -> list[MapSpec]:
    """Return *maps* with the initial entries that the relocations of *section* give.

    Args:
        elf: The file.
        section: The section of the definitions.
        maps: The maps, each with the byte of its definition at which `values` begins.

    Returns:
        The maps in the same order.

    Raises:
        ObjectFileError: A relocation is outside `values`, or refers to the wrong kind of object.
    """
    # The maps are sorted by offset, as `map_symbols` returns them.
    starts = [spec.offset for spec, _ in maps]
    slots: list[dict[int, str]] = [{} for _ in maps]
    for relocation in elf.relocations(section):
        position = bisect_right(starts, relocation.offset) - 1
        if position < 0:
            raise elf.error(
                "a relocation outside all maps", section=section, offset=relocation.offset
            )
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
    # `values` is a flexible array of pointers of eight bytes.
    index, odd = divmod(relocation.offset - spec.offset - values_offset, _POINTER_SIZE)
    if index < 0 or odd:
        raise _error(elf, spec, relocation, "the initialised bytes are not an element of `values`")
    if fault := slot_fault(elf, spec, index):
        raise fault
    return index


def _target(elf: Elf, section: Section, spec: MapSpec, relocation: Relocation) -> str:
    """Return the name of the map or program that fills the entry."""
    symbol = relocation.symbol
    # Compilers refer to static symbols by section and offset, so their name is not known here.
    if symbol.is_local:
        raise _error(elf, spec, relocation, "an entry is initialised with a static symbol")
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
    """The definition that is being read, for error messages and lookups."""

    elf: Elf
    section: Section
    symbol: Symbol
    btf: Btf
    is_inner: bool = False

    def error(self, message: str, *, hint: str = "") -> ObjectFileError:
        """Return an error that names the map."""
        what = f"inner map: {message}" if self.is_inner else message
        return self.elf.error(what, section=self.section, symbol=self.symbol, hint=hint)


def read_maps(elf: Elf, section: Section, btf: Btf | None) -> list[MapSpec]:
    """Return the maps of *section* by offset; `ObjectFileError` names the map and the member."""
    symbols = map_symbols(elf, section)
    if not symbols:
        return []
    if btf is None:
        raise elf.error("the maps have no BTF", section=section, hint="compile with -g")
    variables = _variables(btf, section.name)
    maps: list[tuple[MapSpec, int | None]] = []
    for symbol in symbols:
        context = _MapContext(elf, section, symbol, btf)
        definition = _definition(context, variables.get(symbol.name))
        maps.append((_map(context, definition), _values_offset(definition)))
    return initial_slots(elf, section, maps)


def _variables(btf: Btf, section: str) -> dict[str, Var]:
    type_id = btf.find(section, DataSection)
    kind = btf[type_id] if type_id is not None else None
    if not isinstance(kind, DataSection):
        return {}
    variables = (btf[variable.type_id] for variable in kind.variables)
    return {kind.name: kind for kind in variables if isinstance(kind, Var)}


def _definition(context: _MapContext, variable: Var | None) -> Struct:
    if variable is None:
        raise context.error("the map is not in the BTF", hint="compile with -g")
    # A static map could not be referred to by name, and libbpf refuses it as well.
    if variable.linkage != Linkage.GLOBAL:
        raise context.error(f"the map is {Linkage(variable.linkage).name.lower()}, not global")
    kind = context.btf[context.btf.strip(variable.type_id)]
    if not isinstance(kind, Struct):
        raise context.error(f"a map is defined by a structure, not by {_word(kind)}")
    return kind


def _map(context: _MapContext, definition: Struct) -> MapSpec:
    members = _members(context, definition)
    numbers = {
        name: _number(context, members[name], limit=limit)
        for name, limit in _NUMBERS.items()
        if name in members
    }
    key, value = (_type(context, members[name]) if name in members else None for name in _TYPES)
    kind = map_type(context.elf, context.section, context.symbol, number=numbers.get("type", 0))
    inner = _inner(context, members["values"], kind) if "values" in members else None
    if "values" in members and numbers.setdefault("value_size", _SLOT_SIZE) != _SLOT_SIZE:
        raise context.error(
            f"value_size is {numbers['value_size']}; that of `values` is {_SLOT_SIZE}"
        )
    pinning = _pinning(context, numbers.get("pinning", 0))
    key_size = _size(context, "key", key, numbers.get("key_size"))
    value_size = _size(context, "value", value, numbers.get("value_size"))
    event_size = _EVENT_SIZES.get(traits_of(kind).family)
    if event_size is not None:
        key_size = key_size if key is None and key_size else event_size
        value_size = value_size if value is None and value_size else event_size
    return MapSpec(
        f"{context.symbol.name}.inner" if context.is_inner else context.symbol.name,
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
        section=context.section.name,
        section_index=context.section.index,
        offset=context.symbol.value,
    )


def _members(context: _MapContext, definition: Struct) -> dict[str, Member]:
    members: dict[str, Member] = {}
    for member in definition.members:
        if member.name not in _KNOWN:
            raise context.error(f"member {member.name!r} of the definition is unknown")
        if member.name in members:
            raise context.error(f"member {member.name!r} occurs twice")
        members[member.name] = member
    return members


def _number(context: _MapContext, member: Member, *, limit: int) -> int:
    """Return N of `__uint(…, N)` or of `__ulong(…, N)`."""
    kind = context.btf[context.btf.strip(member.type_id)]
    if isinstance(kind, Pointer):
        array = context.btf[context.btf.strip(kind.type_id)]
        if isinstance(array, Array):
            # A definition consists of types only, so that a number is the length of an array.
            return array.length
    if isinstance(kind, Enum) and len(kind.values) == 1:
        # The value of an enumerator may be stored as signed.
        number = kind.values[0].value & 0xFFFFFFFFFFFFFFFF
        if number <= limit:
            return number
        raise context.error(f"{member.name} is {number}; at most {limit} fits")
    raise context.error(f"{member.name} is {_word(kind)}; write __uint({member.name}, N)")


def _type(context: _MapContext, member: Member) -> TypeRef:
    """Return T of `__type(…, T)`."""
    kind = context.btf[context.btf.strip(member.type_id)]
    if not isinstance(kind, Pointer):
        raise context.error(f"{member.name} is {_word(kind)}; write __type({member.name}, T)")
    return context.btf.ref(_defined(context.btf, kind.type_id))


def _defined(btf: Btf, type_id: int) -> int:
    """Return the definition of a structure that is only declared at *type_id*, if there is one.

    Linkers and clang may keep a forward declaration beside the definition.
    """
    kind = btf[btf.strip(type_id)]
    if not isinstance(kind, Forward):
        return type_id
    definition = btf.find(kind.name, Union if kind.is_union else Struct)
    return type_id if definition is None else definition


def _size(context: _MapContext, what: str, ref: TypeRef | None, given: int | None) -> int:
    """Return the size of the key or value; if both type and size are given, they must agree."""
    if ref is None:
        return given or 0
    try:
        size = ref.size
    except ObjectFileError as error:
        raise context.error(f"{what}: {error.message}") from None
    # The kernel would refuse the difference with EINVAL only (map_check_btf() in
    # kernel/bpf/syscall.c).
    if given and given != size:
        raise context.error(f"{what}_size is {given}, but the type of {what} has {size} bytes")
    return size


def _pinning(context: _MapContext, number: int) -> Pinning:
    # Only outer maps have a name that a pin could use (libbpf: "inner def can't be pinned").
    if number and context.is_inner:
        raise context.error("an inner map cannot be pinned")
    return _PINNINGS.get(number, Pinning.UNKNOWN)


def _inner(context: _MapContext, member: Member, kind: MapType) -> MapSpec | None:
    """Return the inner map that `values` describes; None if it describes programs."""
    if context.is_inner:
        raise context.error("it is a map of maps itself; the kernel allows one level")
    traits = traits_of(kind)
    if not (traits.holds_maps or traits.holds_programs):
        raise context.error(f"a map of type {kind.name.lower()} has no `values`")
    target = _element(context, member)
    if traits.holds_programs:
        return None
    if not isinstance(target, Struct):
        raise context.error(
            f"`values` describe an inner map by a structure, not by {_word(target)}"
        )
    return _map(dataclasses.replace(context, is_inner=True), target)


def _element(context: _MapContext, member: Member) -> object:
    """Return T of `__array(values, T)`."""
    array = context.btf[context.btf.strip(member.type_id)]
    if isinstance(array, Array):
        pointer = context.btf[context.btf.strip(array.element_id)]
        if isinstance(pointer, Pointer):
            return context.btf[context.btf.strip(pointer.type_id)]
    raise context.error(f"`values` is {_word(array)}; write __array(values, T)")


def _values_offset(definition: Struct) -> int | None:
    """Return the byte at which `values` begins; None if there is no such member."""
    offsets = [m.bit_offset // 8 for m in definition.members if m.name == "values"]
    return offsets[0] if offsets else None


def _word(kind: object) -> str:
    return f"of BTF kind {type(kind).__name__.lower()}"
