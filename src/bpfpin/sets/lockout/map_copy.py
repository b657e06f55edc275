"""Copies of maps with their contents, for programs that run on test packets.

A program that runs with the copies changes no real map. A map that programs cannot write is not
copied but used itself. Of a large map as many entries are copied as a `Budget` allows, and besides
them the entries that are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import field
from typing import Final

from bpfpin.btf.names import kernel_name
from bpfpin.codecs.prefix import without_other_bits
from bpfpin.errors import BpfError, IdNotFoundError, KeyNotFoundError, MapFullError
from bpfpin.map_traits import MapFamily, traits_of
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
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
    """How many entries and bytes may still be copied, and *notes* on maps that needed more."""

    entries: int = ENTRIES_MAX
    bytes: int = BYTES_MAX
    inner: int = INNER_MAX
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MapContents:
    """Entries of a map, keys and values each back to back; *is_whole* if none is missing."""

    keys: bytes
    values: bytes
    count: int
    is_whole: bool = True


def is_usable_itself(bpf_map: Map) -> bool:
    """Whether programs cannot write the map, so that it needs no copy."""
    is_read_only = traits_of(bpf_map.type).is_read_only_to_programs
    return is_read_only or bool(bpf_map.info.map_flags & MapFlag.RDONLY_PROG)


def contents_of(bpf_map: Map, budget: Budget, wanted: Iterable[bytes] = ()) -> MapContents:
    """Return the entries of a map, as far as *budget* allows, and the entries under *wanted*.

    *wanted* are bytes such as addresses. They are looked up if the keys have their size; of an LPM
    trie all prefixes that cover them are copied.
    """
    traits = traits_of(bpf_map.type)
    if not traits.is_plain_data:
        if traits.family in _UNREADABLE or traits.is_sockmap:
            budget.notes.append(f"{bpf_map.name} was taken as empty: its contents cannot be read")
        return MapContents(b"", b"", 0)
    keys, values = bytearray(), bytearray()
    count = 0
    is_whole = True
    for part in bpf_map.batches_bytes():
        # Values of a per-CPU map count once for each CPU.
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
    return MapContents(bytes(keys), bytes(values), count, is_whole)


def room_for(spec: MapSpec, contents: MapContents) -> int:
    """Return how many entries the copy of a map needs; a hash is made as small as possible."""
    traits = traits_of(spec.type)
    if traits.is_array or not traits.is_plain_data:
        return spec.max_entries
    needed = contents.count + _ROOM
    # An LRU map evicts before it is full.
    return max(1, min(spec.max_entries, needed)) if not traits.is_lru else 2 * needed


def fill(copy: Map, contents: MapContents) -> None:
    """Write *contents* into a copy."""
    if contents.count:
        with suppress(MapFullError):  # entries were added while the map was read
            copy.update_arrays(contents.keys, contents.values)


class InnerMaps(Closing):
    """Copies of the maps in maps of maps, by the ids of the real ones; each is made once."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.copies: dict[int, Map] = {}
        self._opened = ExitStack()

    def close(self) -> None:
        """Close the copies; maps of maps that contain them keep them."""
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
                # A map of maps is read by id and written by descriptor.
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
    """Return a map with the definition and the contents of *real*; the caller closes it."""
    new_map = Map.create(spec_of(real))
    try:
        fill(new_map, contents_of(real, budget))
    except BaseException:
        new_map.close()
        raise
    return new_map


def spec_of(bpf_map: Map) -> MapSpec:
    """Return the definition of a map that exists."""
    info = bpf_map.info
    assert isinstance(info.type, MapType)
    # BPF_F_RDONLY would keep us from filling the copy, and BPF_F_WRONLY from reading it. With
    # BPF_F_NUMA_NODE the kernel wants a node, which bpf_map_info does not tell.
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
    """Fill *copy* with the programs of the program array *real*.

    A program whose name is in *own* is replaced by the one of *own*, which works with copies as
    well; any other program is used itself.
    """
    for key, value in real.items_bytes():
        with suppress(BpfError), Program.from_id(int.from_bytes(value, "little")) as program:
            same = (copied for name, copied in own.items() if kernel_name(name) == program.name)
            chosen = next(same, program)
            copy.update_bytes(key, chosen.fd.to_bytes(4, "little"))


def _looked_up(bpf_map: Map, wanted: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the entries under those of *wanted* that are keys of the map."""
    entries: dict[bytes, bytes] = {}
    is_trie = traits_of(bpf_map.type).is_trie
    for data in dict.fromkeys(wanted):
        for key in _covering(bpf_map, data) if is_trie else [data]:
            if len(key) == bpf_map.key_size:
                with suppress(KeyNotFoundError):
                    entries[key] = bpf_map.lookup_bytes(key)
    return entries


def _covering(trie: Map, address: bytes) -> Iterator[bytes]:
    """Yield the keys of an LPM trie that cover an address; none if they have another size.

    All, not only the longest: a change that is tried on the copy may remove or replace any of them.
    """
    if len(address) + _PREFIX_BYTES != trie.key_size:
        return
    access = trie._entry_access()
    for length in range(8 * len(address) + 1):
        key = without_other_bits(length.to_bytes(_PREFIX_BYTES, "little") + address)
        if access.has(key):
            yield key
