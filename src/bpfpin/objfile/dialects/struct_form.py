"""Maps defined by a C structure of u32 members in section `maps`, from before BTF-defined maps.

This module reads the structures of both old dialects, and makes the maps of `struct bpf_map_def`;
those of iproute2 are made in `iproute2.py`.

Loaders disagreed about the members after the first five. `struct bpf_map_def` has 16 bytes in the
oldest programs and 20 in libbpf until 1.0. The kernel's samples (samples/bpf/bpf_load.h, until
Linux 5.16) added the index of the inner map and the NUMA node, gobpf and its successors the
pinning, aya an id and the pinning. If the BTF has the structure, members are read by their names.
Otherwise size and contents of all definitions of one size decide: a form fits if every member that
is set makes sense in it. Unknown bytes must be zero, because a loader that knows them would make a
different map.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from itertools import pairwise

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Struct, Var
from bpfpin.errors import ObjectFileError
from bpfpin.map_traits import traits_of
from bpfpin.objfile.dialects.symbols import map_symbols, map_type, section_bytes
from bpfpin.objfile.elf.file import Elf, Section, Symbol
from bpfpin.objfile.elf.section import program_kind
from bpfpin.records import dataclass
from bpfpin.spec import Dialect, MapSpec, Pinning
from bpfpin.uapi import MapFlag

REQUIRED = ("type", "key_size", "value_size", "max_entries")  # the whole of the oldest structure
NAMESPACE = "namespace"
MAX_NUMA_NODES = 1024  # MAX_NUMNODES of the largest configuration
_COMMON = (*REQUIRED, "map_flags")
_U32 = struct.Struct("<I")
_DEPTH = 4  # of wrapper structures around the definition, as in Rust
# Names of members in sources, and the names used here.
_ALIASES = {
    "type_": "type",
    "map_type": "type",
    "kind": "type",
    "size_key": "key_size",
    "size_value": "value_size",
    "max_elem": "max_entries",
    "flags": "map_flags",
}
_KNOWN = frozenset(
    (*_COMMON, "id", "pinning", "inner_id", "inner_idx", "inner_map_idx", "numa_node", NAMESPACE)
)
_NAMES_OF_IPROUTE2 = frozenset({"size_key", "size_value", "max_elem"})
_NAMES_OF_BPF_MAP_DEF = frozenset({"key_size", "value_size", "max_entries"})
_TEXT = re.compile(rb"[\x20-\x7e]*\0*")
# Meaning of the numbers in the member `pinning` of a `bpf_map_def`: in a structure with an `id`,
# which is aya's, and in one without.
_PINNINGS_WITH_ID = {0: Pinning.NONE, 1: Pinning.BY_NAME, 2: Pinning.GLOBAL_NAMESPACE}
_PINNINGS = {0: Pinning.NONE, 1: Pinning.OBJECT_NAMESPACE, 2: Pinning.GLOBAL_NAMESPACE}


@dataclass(frozen=True)
class StructForm:
    """A structure of some loader: its members in their order."""

    name: str
    dialect: Dialect
    members: tuple[str, ...]


# The oldest programs have the first four members only; the fifth is 0 then.
PLAIN = StructForm("plain", Dialect.BPF_MAP_DEF, _COMMON)

SAMPLES = StructForm(  # samples/bpf/bpf_load.h, Linux v4.12 to v5.16
    "samples", Dialect.BPF_MAP_DEF, (*_COMMON, "inner_map_idx", "numa_node")
)

# gobpf, ebpf-manager and AWS
PINNED = StructForm("pinned", Dialect.BPF_MAP_DEF, (*_COMMON, "pinning"))

AYA = StructForm("aya", Dialect.BPF_MAP_DEF, (*_COMMON, "id", "pinning"))

IPROUTE2 = StructForm(  # include/bpf_elf.h; seven members until v4.14
    "iproute2", Dialect.BPF_ELF_MAP, (*_COMMON, "id", "pinning", "inner_id", "inner_idx")
)

_IPROUTE2_SIZE = 4 * len(IPROUTE2.members)


@dataclass(frozen=True)
class RawDefinition:
    """The bytes of one definition, and its members' offsets and sizes from BTF (*spans*)."""

    section: Section
    symbol: Symbol
    data: bytes
    dialect: Dialect | None = None
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # offset and size by name

    def word(self, index: int) -> int:
        """Return member *index* in the order of the structure, 0 beyond its end."""
        data = self.data[4 * index : 4 * index + 4]
        return int(_U32.unpack(data)[0]) if len(data) == _U32.size else 0


@dataclass(frozen=True)
class Fields:
    """The members of a definition by name; *note* says that its form was guessed."""

    section: Section
    symbol: Symbol
    dialect: Dialect
    values: Mapping[str, int]
    namespace: str = ""
    note: str = ""

    def __getitem__(self, name: str) -> int:
        """Return a member; 0 if the structure does not have it."""
        return self.values.get(name, 0)


def read(elf: Elf, sections: Sequence[Section], btf: Btf | None) -> list[Fields]:
    """Return the definitions in *sections*, by section and offset; all have the same dialect.

    Raises:
        ObjectFileError: A size is odd, definitions overlap, dialects are mixed, or a byte is set
            that belongs to no member.
    """
    definitions = [
        definition for section in sections for definition in _definitions(elf, section, btf)
    ]
    unnamed = [definition for definition in definitions if definition.dialect is None]
    forms = _forms(unnamed, _tail_calls(elf))
    read_fields = [
        _fields(elf, definition, forms.get(len(definition.data))) for definition in definitions
    ]
    dialects = {fields.dialect: fields for fields in read_fields}
    # Ids and indices have different meanings in the two dialects, so they cannot be mixed.
    if len(dialects) > 1:
        words = " and ".join(dialect.value for dialect in dialects)
        last = list(dialects.values())[-1]
        message = f"maps in two dialects, {words}"
        raise elf.error(message, section=last.section, symbol=last.symbol)
    return read_fields


def annotated_types(
    btf: Btf | None, name: str, *, key_size: int, value_size: int
) -> tuple[TypeRef | None, TypeRef | None]:
    """Return the types that BPF_ANNOTATE_KV_PAIR gives to map *name*, if their sizes fit.

    The macro (of the kernel selftests' bpf_helpers.h, later bpf_legacy.h) declares a structure
    `____btf_map_NAME` with the members `key` and `value`.
    """
    type_id = btf.find(f"____btf_map_{name}", Struct) if btf else None
    if btf is None or type_id is None:
        return None, None
    kind = btf[type_id]
    assert isinstance(kind, Struct)
    refs = {member.name: btf.ref(member.type_id) for member in kind.members}
    key, value = refs.get("key"), refs.get("value")
    if key is None or value is None or not _fit((key, key_size), (value, value_size)):
        return None, None
    return key, value


def _fit(*wanted: tuple[TypeRef, int]) -> bool:
    """Whether all types have the sizes of the definition, which are what the kernel gets.

    It would refuse a type of another size.
    """
    try:
        return all(ref.size == size for ref, size in wanted)
    except ObjectFileError:
        return False


def _definitions(elf: Elf, section: Section, btf: Btf | None) -> Iterator[RawDefinition]:
    """Yield the definitions in *section*; a symbol without a size extends to the next one."""
    data = section_bytes(elf, section)
    symbols = map_symbols(elf, section)
    # The end of the section is the end of the last definition without a size.
    starts = [symbol.value for symbol in symbols] + [len(data)]
    ends = [
        symbol.value + symbol.size if symbol.size else after
        for symbol, after in zip(symbols, starts[1:], strict=True)
    ]
    _check_gaps(elf, section, data, [0, *_flat(starts, ends)])
    for symbol, end in zip(symbols, ends, strict=True):
        yield _definition(elf, section, btf, (symbol, data[symbol.value : end]))


def _definition(
    elf: Elf, section: Section, btf: Btf | None, item: tuple[Symbol, bytes]
) -> RawDefinition:
    symbol, data = item
    if len(data) < len(REQUIRED) * 4 or len(data) % 4:
        raise elf.error(
            f"a map definition of {len(data)} bytes; it must have {len(REQUIRED) * 4} or more, in"
            " steps of 4",
            section=section,
            symbol=symbol,
            offset=symbol.value,
        )
    members = _members(btf, symbol.name, len(data)) if btf else {}
    names = members.keys()
    # The first members are the same in both structures, so their names tell the dialect.
    if names >= _NAMES_OF_IPROUTE2:
        dialect = Dialect.BPF_ELF_MAP
    elif names >= _NAMES_OF_BPF_MAP_DEF:
        dialect = Dialect.BPF_MAP_DEF
    else:
        return RawDefinition(section, symbol, data)
    spans = {_ALIASES.get(name, name): span for name, span in members.items()}
    if "type" not in spans:
        return RawDefinition(section, symbol, data)
    return RawDefinition(section, symbol, data, dialect, spans)


def _members(btf: Btf, name: str, room: int) -> dict[str, tuple[int, int]]:
    """Return offset and size of the members of the variable's type that lie within *room* bytes.

    A wrapper structure whose first member is the definition is skipped: Rust defines maps this way.
    """
    # Only the structure of the variable itself counts: other structures may have the same member
    # names.
    variable_id = btf.find(name, Var)
    variable = btf[variable_id] if variable_id is not None else None
    kind = btf[btf.strip(variable.type_id)] if isinstance(variable, Var) else None
    for _ in range(_DEPTH):
        if not isinstance(kind, Struct):
            return {}
        spans = {
            member.name: (member.bit_offset // 8, size)
            for member in kind.members
            if not member.bitfield_size
            and not member.bit_offset % 32
            and (size := _size(btf, member.type_id)) is not None
            and member.bit_offset // 8 + size <= room
        }
        if spans.keys() >= _NAMES_OF_IPROUTE2 or spans.keys() >= _NAMES_OF_BPF_MAP_DEF:
            return spans
        first = next((part for part in kind.members if not part.bit_offset), None)
        kind = btf[btf.strip(first.type_id)] if first else None
    return {}


def _size(btf: Btf, type_id: int) -> int | None:
    try:
        return btf.ref(type_id).size
    except ObjectFileError:
        return None


def _fields(elf: Elf, definition: RawDefinition, form: StructForm | None) -> Fields:
    if definition.dialect is not None:
        spans = {
            name: span
            for name, span in definition.spans.items()
            if name in _KNOWN and (span[1] == _U32.size or name == NAMESPACE)
        }
        return _read_spans(elf, definition, definition.dialect, spans)
    assert form is not None
    size = len(definition.data)
    spans = {
        name: (4 * index, 4) for index, name in enumerate(form.members) if 4 * index + 4 <= size
    }
    # gobpf's structure has a text of 256 bytes after the pinning.
    if form is PINNED:
        spans[NAMESPACE] = (4 * len(form.members), max(0, size - 4 * len(form.members)))
    note = ""
    if form is not SAMPLES and any(definition.data[4 * len(_COMMON) :]) and size != _IPROUTE2_SIZE:
        members = ", ".join(name for name in form.members[len(_COMMON) :] if name in spans)
        note = (
            f"its definition of {size} bytes has no BTF; by its contents it is struct"
            f" {form.dialect.value} with {members}; compile with -g to say so"
        )
    return _read_spans(elf, definition, form.dialect, spans, note=note)


def _read_spans(
    elf: Elf,
    definition: RawDefinition,
    dialect: Dialect,
    spans: Mapping[str, tuple[int, int]],
    *,
    note: str = "",
) -> Fields:
    """Return the members at *spans*; `ObjectFileError` if a byte outside of them is set."""
    rest = bytearray(definition.data)
    for offset, size in spans.values():
        rest[offset : offset + size] = bytes(size)
    if any(rest):
        raise _unknown_byte(elf, definition, next(at for at, byte in enumerate(rest) if byte))
    values = {
        name: int(_U32.unpack_from(definition.data, at)[0])
        for name, (at, _) in spans.items()
        if name != NAMESPACE
    }
    at, size = spans.get(NAMESPACE, (0, 0))
    text = definition.data[at : at + size].partition(b"\0")[0].decode("ascii", "replace")
    return Fields(definition.section, definition.symbol, dialect, values, text, note)


def _unknown_byte(elf: Elf, definition: RawDefinition, at: int) -> ObjectFileError:
    name = next(
        (
            f", member {name!r}"
            for name, (start, size) in definition.spans.items()
            if start <= at < start + size
        ),
        "",
    )
    return elf.error(
        f"byte {at} of the definition of {len(definition.data)} bytes{name} is set, but its meaning"
        " is unknown",
        section=definition.section,
        symbol=definition.symbol,
        offset=definition.symbol.value + at,
    )


def _tail_calls(elf: Elf) -> frozenset[int]:
    """Return the ids of the program arrays in the names of sections `ID/KEY`."""
    kinds = (program_kind(section.name) for section in elf.sections if section.is_code)
    return frozenset(kind.tail_call[0] for kind in kinds if kind and kind.tail_call)


def _forms(
    definitions: Sequence[RawDefinition], tail_calls: frozenset[int]
) -> dict[int, StructForm]:
    """Return, by size, the form of the definitions without BTF."""
    by_size: dict[int, list[RawDefinition]] = {}
    for definition in definitions:
        by_size.setdefault(len(definition.data), []).append(definition)
    return {size: _form(definition, size, tail_calls) for size, definition in by_size.items()}


def _form(
    definitions: Sequence[RawDefinition], size: int, tail_calls: frozenset[int]
) -> StructForm:
    """Return the first form in which all *definitions*, each of *size* bytes, make sense."""
    # From the most specific form to the most general one.
    if size == _IPROUTE2_SIZE:
        return IPROUTE2
    if size > 4 * len(_COMMON):
        arrays = {
            definition.word(5)
            for definition in definitions
            if traits_of(definition.word(0)).holds_programs
        }
        if arrays & (tail_calls - {0}):
            return IPROUTE2
        if all(_is_of_samples(definition) for definition in definitions):
            return SAMPLES
        if _are_pinned(definitions):
            return PINNED
        if all(definition.word(5) == 0 and definition.word(6) <= 1 for definition in definitions):
            return AYA
        if size < _IPROUTE2_SIZE:
            return IPROUTE2
    return PLAIN


def _is_of_samples(definition: RawDefinition) -> bool:
    inner, node = definition.word(5), definition.word(6)
    # The kernel uses the node with BPF_F_NUMA_NODE only.
    has_node = bool(definition.word(4) & MapFlag.NUMA_NODE)
    return (
        (not inner or traits_of(definition.word(0)).holds_maps)
        and (not node or (has_node and node < MAX_NUMA_NODES))
        and not any(definition.data[28:])
    )


def _are_pinned(definitions: Sequence[RawDefinition]) -> bool:
    """Whether the sixth member of every definition is a pinning, followed by text or nothing.

    If the numbers all differ, they are ids of maps instead.
    """
    pinnings = [definition.word(5) for definition in definitions]
    are_ids = len(pinnings) > 1 and all(pinnings) and len(set(pinnings)) == len(pinnings)
    return (
        any(pinnings)
        # PIN_CUSTOM_NS of gobpf is the largest: the text after it then names the directory.
        and max(pinnings) <= 3
        and not are_ids
        and all(_TEXT.fullmatch(definition.data[24:]) for definition in definitions)
    )


def _flat(starts: Sequence[int], ends: Sequence[int]) -> Iterator[int]:
    for start, end in zip(starts, ends, strict=False):
        yield from (start, end)
    yield starts[-1]


def _check_gaps(elf: Elf, section: Section, data: bytes, edges: Sequence[int]) -> None:
    """Check that bytes between definitions are zero; *edges* are pairs of end and next start."""
    for end, start in list(pairwise(edges))[::2]:
        if end > start:
            raise elf.error("two map definitions overlap", section=section, offset=start)
        # A definition whose symbol is gone: the object would load without that map.
        if any(data[end:start]):
            raise elf.error(f"{start - end} bytes belong to no map", section=section, offset=end)


def maps_of(elf: Elf, definitions: Sequence[Fields], btf: Btf | None) -> list[MapSpec]:
    """Return the maps in the order of *definitions*; `ObjectFileError` with symbol and offset."""
    maps = [_map(elf, btf, definition) for definition in definitions]
    return [_with_inner(elf, spec, maps) for spec in maps]


def _map(elf: Elf, btf: Btf | None, definition: Fields) -> MapSpec:
    symbol, section = definition.symbol, definition.section
    kind = map_type(elf, section, symbol, number=definition["type"])
    key_size, value_size = definition["key_size"], definition["value_size"]
    key, value = annotated_types(btf, symbol.name, key_size=key_size, value_size=value_size)
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
        inner_index=inner_index if traits_of(kind).holds_maps else -1,
        note=_note(definition),
    )


def _note(definition: Fields) -> str:
    where = (
        f"namespace {definition.namespace!r} of its definition is not used: bpfpin cannot pin there"
        if definition.namespace
        else ""
    )
    return "; ".join(text for text in (definition.note, where) if text)


def _with_inner(elf: Elf, spec: MapSpec, maps: list[MapSpec]) -> MapSpec:
    """Return *spec* with its inner map, given by index.

    The index of the map itself means that the member was left at zero.
    """
    if spec.inner_index == -1:
        return spec
    # The index counts the definitions of all old sections together, as loaders numbered them.
    inner = maps[spec.inner_index] if spec.inner_index < len(maps) else None
    if inner is spec:
        return dataclasses.replace(spec, inner_index=-1)
    if inner is None or traits_of(inner.type).holds_maps:
        what = f"map {inner.name}, of maps itself" if inner else f"one of {len(maps)} maps"
        raise elf.error(
            f"the inner map has index {spec.inner_index}, {what}",
            section=spec.section,
            symbol=spec.name,
            offset=spec.offset,
        )
    return dataclasses.replace(spec, inner=inner)
