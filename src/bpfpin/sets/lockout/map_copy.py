"""Copies of maps with what is in them, for programs that are run to see what they do.

A program that runs with the copies changes nothing that counts. What programs cannot write is not
copied but used itself. Of large maps as much is copied as a `Budget` has room for, and the entries
that are asked for besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Final

from bpfpin.errors import BpfError, IdNotFoundError, KeyNotFoundError, MapFullError
from bpfpin.map_traits import MapFamily, traits_of
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.spec import MapSpec
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import MapFlag, MapType

ENTRIES_MAX: Final = 200_000  # about a second
BYTES_MAX: Final = 64 << 20
INNER_MAX: Final = 1024  # maps in maps

# Reading a queue takes its values, a bloom filter has none to read, an arena is memory.
_UNREADABLE: Final = frozenset({MapFamily.QUEUE, MapFamily.BLOOM_FILTER, MapFamily.ARENA})
_ROOM: Final = 1024  # entries that a program may add
_PREFIX_BYTES: Final = 4  # of the key of an LPM trie


@dataclass
class Budget:
    """How many entries and bytes are copied still; *notes* tell of maps that took more."""

    entries: int = ENTRIES_MAX
    bytes: int = BYTES_MAX
    inner: int = INNER_MAX
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Contents:
    """Entries of a map, keys and values each back to back; *is_whole* if these are all."""

    keys: bytes
    values: bytes
    count: int
    is_whole: bool = True


def is_usable_itself(bpf_map: Map) -> bool:
    """Whether programs cannot write the map, so that it needs no copy."""
    is_read_only = traits_of(bpf_map.type).is_read_only_to_programs
    return is_read_only or bool(bpf_map.info.map_flags & MapFlag.RDONLY_PROG)


def contents_of(bpf_map: Map, budget: Budget, wanted: Iterable[bytes] = ()) -> Contents:
    """Return what is in a map, as far as *budget* allows, and the entries under *wanted*.

    *wanted* are such bytes as addresses: they are looked up where a key has their size, and in an
    LPM trie by the prefix that covers them, which is copied as an entry of its own.
    """
    traits = traits_of(bpf_map.type)
    if not traits.is_plain_data:
        if traits.family in _UNREADABLE or traits.is_sockmap:
            budget.notes.append(
                f"{bpf_map.name} was taken as empty: nothing can read what is in it"
            )
        return Contents(b"", b"", 0)
    keys, values = bytearray(), bytearray()
    count = 0
    is_whole = True
    for part in bpf_map.batches_bytes():
        per_entry = (len(part.keys) + len(part.values)) // part.count if part.count else 1
        room = max(0, min(part.count, budget.entries, budget.bytes // per_entry))
        keys += part.keys[: bpf_map.key_size * room]
        values += part.values[: len(part.values) // max(part.count, 1) * room]
        count += room
        budget.entries -= room
        budget.bytes -= room * per_entry
        if room < part.count:
            is_whole = False
            break
    if not is_whole:
        more = _looked_up(bpf_map, wanted)
        keys += b"".join(more)
        values += b"".join(more.values())
        budget.notes.append(
            f"of {bpf_map.name}, {count} entries were copied"
            + (f" and {len(more)} for the test packets" if more else "")
        )
        count += len(more)
    return Contents(bytes(keys), bytes(values), count, is_whole)


def room_for(spec: MapSpec, contents: Contents) -> int:
    """Return how many entries the copy of a map needs: a hash is made as small as will do."""
    traits = traits_of(spec.type)
    if traits.is_array or not traits.is_plain_data:
        return spec.max_entries
    needed = contents.count + _ROOM
    # An LRU map evicts before it is full.
    return max(1, min(spec.max_entries, needed)) if not traits.is_lru else 2 * needed


def fill(copy: Map, contents: Contents) -> None:
    """Write *contents* into a copy."""
    if contents.count:
        with suppress(MapFullError):  # entries came while they were read
            copy.update_arrays(contents.keys, contents.values)


class InnerMaps(Closing):
    """Copies of the maps in maps of maps, by the ids of the real ones; each is made once."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.copies: dict[int, Map] = {}
        self._opened = ExitStack()

    def close(self) -> None:
        """Let go of the copies; maps that hold them keep them."""
        self._opened.close()

    def fill(self, copy: Map, real: Map) -> None:
        """Put copies of the maps in *real* into *copy*."""
        for key, value in real.items_bytes():
            inner_id = int.from_bytes(value, "little")
            with suppress(IdNotFoundError):  # replaced meanwhile
                inner = self._copy(inner_id)
                if inner is None:
                    self._budget.notes.append(f"of {real.name}, not all inner maps were copied")
                    return
                copy.update_bytes(key, inner.fd.to_bytes(4, "little"))

    def _copy(self, inner_id: int) -> Map | None:
        if inner_id not in self.copies:
            if self._budget.inner <= 0:
                return None
            self._budget.inner -= 1
            with Map.from_id(inner_id) as real:
                copy = Map.of(real) if is_usable_itself(real) else copy_of(real, self._budget)
            self._opened.callback(copy.close)
            self.copies[inner_id] = copy
        return self.copies[inner_id]


def copy_of(real: Map, budget: Budget) -> Map:
    """Return a map of the same definition with what is in *real*; the caller closes it."""
    made = Map.create(spec_of(real))
    try:
        fill(made, contents_of(real, budget))
    except BaseException:
        made.close()
        raise
    return made


def spec_of(bpf_map: Map) -> MapSpec:
    """Return the definition of a map that exists."""
    info = bpf_map.info
    assert isinstance(info.type, MapType)
    access = MapFlag.RDONLY | MapFlag.WRONLY | MapFlag.NUMA_NODE
    return MapSpec(
        info.name,
        info.type,
        info.key_size,
        info.value_size,
        info.max_entries,
        map_flags=info.map_flags & ~access,
        map_extra=info.map_extra,
        key=bpf_map.key_type,
        value=bpf_map.value_type,
    )


def fill_programs(copy: Map, real: Map, own: Mapping[str, Program]) -> None:
    """Put what the program array *real* holds into *copy*.

    For a program whose name is one of *own* that one goes in, which works with copies as well; any
    other one goes in itself, since nothing else can stand in for it.
    """
    for key, value in real.items_bytes():
        with suppress(BpfError), Program.from_id(int.from_bytes(value, "little")) as there:
            name = there.name
            chosen = next((one for full, one in own.items() if full[:15] == name), there)
            copy.update_bytes(key, chosen.fd.to_bytes(4, "little"))


def _looked_up(bpf_map: Map, wanted: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the values under those of *wanted* that are keys here."""
    found: dict[bytes, bytes] = {}
    head = _PREFIX_BYTES if traits_of(bpf_map.type).is_trie else 0
    for each in dict.fromkeys(wanted):
        if len(each) + head != bpf_map.key_size:
            continue
        key = (8 * len(each)).to_bytes(head, "little") + each if head else each
        with suppress(KeyNotFoundError):
            found[key] = bpf_map.lookup_bytes(key)
    return found
