"""Maps defined by a C structure of u32 members, as before BTF: what both old dialects share.

A definition is read by the names of its members where BTF has them, else by their order. What is
not known must be zero: a loader that knew it would have made another map.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Struct, Variable
from bpfpin.errors import ObjectFileError
from bpfpin.objfile.dialects.symbols import map_symbols, section_bytes
from bpfpin.objfile.elf import Elf, Section, Symbol

REQUIRED = 5  # type, sizes of key and value, entries, flags: both dialects start with them
_U32 = struct.Struct("<I")


@dataclass(frozen=True)
class Definition:
    """One structure: its symbol, its bytes and, where there is BTF, its type."""

    symbol: Symbol
    data: bytes
    type: Struct | None = None


def definitions(elf: Elf, section: Section, btf: Btf | None) -> list[Definition]:
    """Return the structures of *section* by offset; `ObjectFileError` for odd sizes and overlaps.

    A symbol without a size reaches to the next one.
    """
    data = section_bytes(elf, section)
    symbols = map_symbols(elf, section)
    starts = [symbol.value for symbol in symbols] + [len(data)]
    ends = [
        symbol.value + symbol.size if symbol.size else after
        for symbol, after in zip(symbols, starts[1:], strict=True)
    ]
    _check_gaps(elf, section, data, [0, *_flat(starts, ends)])
    return [
        _definition(elf, section, btf, (symbol, data[symbol.value : end]))
        for symbol, end in zip(symbols, ends, strict=True)
    ]


def values(
    elf: Elf, section: Section, definition: Definition, *, names: Sequence[str]
) -> dict[str, int]:
    """Return the members of *definition* by *names*; those beyond its end are missing.

    `ObjectFileError` if a byte that belongs to no known member is set.
    """
    places = _places(definition, names)
    rest = bytearray(definition.data)
    for offset in places.values():
        rest[offset : offset + 4] = bytes(4)
    if any(rest):
        at = next(index for index, byte in enumerate(rest) if byte)
        raise elf.error(
            f"byte {at} of the {len(rest)} of the definition is set, and not known to bpfpin",
            section=section,
            symbol=definition.symbol,
            offset=definition.symbol.value + at,
        )
    return {name: _U32.unpack_from(definition.data, at)[0] for name, at in places.items()}


def annotated_types(
    btf: Btf | None, name: str, *, key_size: int, value_size: int
) -> tuple[TypeRef | None, TypeRef | None]:
    """Return the types that BPF_ANNOTATE_KV_PAIR gives to map *name*, if they have its sizes."""
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
    try:
        return all(ref.size == size for ref, size in wanted)
    except ObjectFileError:
        return False


def _definition(
    elf: Elf, section: Section, btf: Btf | None, found: tuple[Symbol, bytes]
) -> Definition:
    symbol, data = found
    if len(data) < REQUIRED * 4 or len(data) % 4:
        raise elf.error(
            f"a map definition of {len(data)} bytes; it takes {REQUIRED * 4}, or more by fours",
            section=section,
            symbol=symbol,
            offset=symbol.value,
        )
    return Definition(symbol, data, _struct(btf, symbol.name) if btf else None)


def _struct(btf: Btf, name: str) -> Struct | None:
    variable_id = btf.find(name, Variable)
    variable = btf[variable_id] if variable_id is not None else None
    if not isinstance(variable, Variable):
        return None
    kind = btf[btf.strip(variable.type_id)]
    return kind if isinstance(kind, Struct) else None


def _places(definition: Definition, names: Sequence[str]) -> Mapping[str, int]:
    """Return the byte offsets of the known members that are there."""
    room = len(definition.data) - 4
    named = _named_places(definition.type, room) if definition.type else {}
    if set(names[:REQUIRED]) <= named.keys():
        return {name: named[name] for name in names if name in named}
    return {name: 4 * index for index, name in enumerate(names) if 4 * index <= room}


def _named_places(kind: Struct, room: int) -> dict[str, int]:
    return {
        member.name: member.bit_offset // 8
        for member in kind.members
        if not member.bitfield_size and not member.bit_offset % 32 and member.bit_offset <= 8 * room
    }


def _flat(starts: Sequence[int], ends: Sequence[int]) -> Iterator[int]:
    for start, end in zip(starts, ends, strict=False):
        yield from (start, end)
    yield starts[-1]


def _check_gaps(elf: Elf, section: Section, data: bytes, edges: Sequence[int]) -> None:
    """Check that what lies between the definitions is padding; *edges* are ends and starts."""
    for end, start in list(pairwise(edges))[::2]:
        if end > start:
            raise elf.error("two map definitions overlap", section=section, offset=start)
        if any(data[end:start]):
            raise elf.error(
                f"{start - end} bytes that belong to no map", section=section, offset=end
            )
