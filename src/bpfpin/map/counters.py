"""Reads counter maps of any program: finds packets and bytes in the values, and samples them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.layout import MemberLayout, members
from bpfpin.btf.types import Array, Enum, Int, Struct
from bpfpin.errors import BpfError, UsageError
from bpfpin.map_traits import stride_of
from bpfpin.objects.maps.map import Map
from bpfpin.records import dataclass
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import MapType, XdpAction

if TYPE_CHECKING:
    from bpfpin.map.follow import Follower


USUAL_NAME = "xdp_stats_map"
# In bytes. 32 bits of bytes wrap after 3.4 s at 10 Gbit/s, so counters have 64.
COUNTER_SIZE = 8
ACTION = "action"  # the name of the map that holds the verdict of an XDP program
# Parts of names, in lower case: `rx_packets` and `rx_bytes` of the XDP tutorial match, and so do
# most names of counters in other programs.
PACKET_WORDS = ("packet", "pkt", "count", "hits")
BYTE_WORDS = ("byte", "octet")


@dataclass(frozen=True, slots=True)
class CounterField:
    """An unsigned integer in a value, by offset and size in bytes."""

    offset: int
    size: int

    def read(self, value: memoryview) -> int:
        """Return the integer, little-endian."""
        return int.from_bytes(value[self.offset : self.offset + self.size], "little")


@dataclass(frozen=True, slots=True)
class CounterFields:
    """The counters in a value; *bytes* is None if only packets are counted."""

    packets: CounterField
    bytes: CounterField | None


@dataclass(frozen=True, slots=True)
class Count:
    """Packets and bytes of one key, on one CPU or in all; *bytes* is None if not counted."""

    packets: int
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Sample:
    """All counters at one moment, by key and then by CPU (one item for a plain array)."""

    monotonic_s: float
    wall_s: float
    counts: tuple[tuple[Count, ...], ...]


class Counters(Closing):
    """An open counter map; `read` is one batch call.

    Closing it closes the map, or the follower *live* whose map it is.
    """

    def __init__(self, map_: Map, *, path: str = "", live: Follower | None = None) -> None:
        self.map = map_
        self.path = path
        self.live = live
        self.fields = counter_fields(map_)

    @classmethod
    def following(cls, live: Follower) -> Counters:
        """Return the counters of a followed map; closing them closes the follower."""
        return cls(live.map, path=str(live.path), live=live)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the rows: XDP actions if the map has five entries, else the index."""
        # XDP_ABORTED is 0, XDP_REDIRECT 4 (enum xdp_action in include/uapi/linux/bpf.h).
        if self.map.max_entries == len(XdpAction):
            return tuple(action.name for action in XdpAction)
        return tuple(map(str, range(self.map.max_entries)))

    def read(self) -> Sample:
        """Read all counters at once."""
        # Both clocks are read before the map, so a sample is never older than its time.
        monotonic_s, wall_s = time.monotonic(), time.time()
        # The kernel walks an array by ascending index (array_map_get_next_key() in
        # kernel/bpf/arraymap.c), so the place in the list is the index.
        values = [value for _, value in self.map.items_bytes()]
        return Sample(monotonic_s, wall_s, tuple(self._counts(value) for value in values))

    def read_from(self, map_: Map) -> Sample:
        """Read *map_*, the current map of the follower; it replaces `map`."""
        if map_ is not self.map:
            # The new map may have been migrated: its counters may be at other offsets.
            self.map, self.fields = map_, counter_fields(map_)
        return self.read()

    def close(self) -> None:
        """Close the map or the follower."""
        (self.live or self.map).close()

    def _counts(self, value: bytes) -> tuple[Count, ...]:
        view = memoryview(value)
        if not self.map.is_per_cpu:
            return (self._count(view),)
        # The kernel pads the value of each CPU to eight bytes.
        step = stride_of(self.map.value_size)
        starts = range(0, len(view), step)
        return tuple(self._count(view[start : start + step]) for start in starts)

    def _count(self, value: memoryview) -> Count:
        packets, in_bytes = self.fields.packets, self.fields.bytes
        return Count(packets.read(value), in_bytes.read(value) if in_bytes else None)


def total(counts: Sequence[Count]) -> Count:
    """Return the sum over CPUs."""
    in_bytes = [count.bytes for count in counts if count.bytes is not None]
    return Count(sum(count.packets for count in counts), sum(in_bytes) if in_bytes else None)


def sample_across_migration(before: Sample, now: Sample) -> Sample:
    """Return *before* in the form of *now*, a sample of the map that was migrated from it.

    Entries and counters that only the new map has started at 0. If a per-CPU map became a plain
    one or the other way round, counts of single CPUs are unknown: only the totals are right.
    """
    if len(before.counts) == len(now.counts) and all(map(_is_alike, before.counts, now.counts)):
        return before
    # The new array may be longer (its new rows started at 0) or shorter (`zip` drops the rest).
    missing = ((Count(0, None),),) * (len(now.counts) - len(before.counts))
    pairs = zip((*before.counts, *missing), now.counts, strict=False)
    return replace(before, counts=tuple(_in_form_of(old, new) for old, new in pairs))


def _is_alike(old: Sequence[Count], new: Sequence[Count]) -> bool:
    return len(old) == len(new) and (old[0].bytes is None) == (new[0].bytes is None)


def _in_form_of(old: Sequence[Count], new: Sequence[Count]) -> tuple[Count, ...]:
    # The sum goes to the first CPU: a rate over all CPUs is right, those of single CPUs are not.
    total_alone = [total(old), *([Count(0, None)] * (len(new) - 1))]
    cpus = old if len(old) == len(new) else total_alone
    pairs = zip(cpus, new, strict=True)
    return tuple(
        Count(count.packets, None if like.bytes is None else count.bytes or 0)
        for count, like in pairs
    )


def has_counters(directory: Path) -> bool:
    """Whether one of the pins in *directory* is the map that `bpfpin stats` shows by default."""
    try:
        paths = list(counter_pins(pins_in(directory)).values())
        if len(paths) != 1:
            return False
        with Map.from_pin(paths[0], read_only=True) as map_:
            counter_fields(map_)
    except (BpfError, OSError):  # an unload may remove the set meanwhile
        return False
    return True


def pins_in(directory: Path) -> dict[str, Path]:
    """Return the paths of the files in *directory* by name."""
    with os.scandir(directory) as entries:
        files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    return {name: directory / name for name in sorted(files)}


def counter_pins(pins: Mapping[str, Path]) -> dict[str, Path]:
    """Return the pins of counter maps among *pins*: that of `xdp_stats_map`, or else the likely."""
    if USUAL_NAME in pins:
        # The usual name decides, even if other maps look like counters, too.
        return {USUAL_NAME: pins[USUAL_NAME]}
    return {name: path for name, path in pins.items() if _is_likely_counter_at(path)}


def _is_likely_counter_at(path: Path) -> bool:
    try:
        map_ = Map.from_pin(path, read_only=True)
    except BpfError:  # a program or a link
        return False
    with map_:
        return is_likely_counter(map_)


def is_likely_counter(map_: Map) -> bool:
    """Whether the map looks like counters of 64 bits.

    A smaller integer is more often a setting, and the only integer of a map `action` is the
    verdict of its program.
    """
    if map_.name == ACTION and map_.max_entries == 1:
        return False
    try:
        return counter_fields(map_).packets.size == COUNTER_SIZE
    except UsageError:
        return False


def counter_fields(map_: Map) -> CounterFields:
    """Return the counters in the values of a map; `UsageError` says why it has none."""
    # All elements of an array exist from the start, and none can be deleted (EINVAL,
    # array_map_delete_elem() in kernel/bpf/arraymap.c): a row keeps its key.
    if not map_.is_array:
        kind = map_.type.name.lower() if isinstance(map_.type, MapType) else map_.type
        raise _unfit(map_, f"it is a {kind}; counters are read from arrays and per-CPU arrays")
    fields = fields_of_type(map_.value_type) if map_.value_type else fields_of_size(map_.value_size)
    if fields is None:
        what = "of its type" if map_.value_type else f"of {map_.value_size} bytes without BTF"
        raise _unfit(map_, f"a value {what} is neither packets and bytes nor a packet count")
    return fields


def fields_of_size(value_size: int) -> CounterFields | None:
    """Return the counters of a value without BTF: 16 bytes are packets and bytes, 8 packets."""
    by_size = {
        8: CounterFields(CounterField(0, 8), None),
        16: CounterFields(CounterField(0, 8), CounterField(8, 8)),
    }
    return by_size.get(value_size)


def fields_of_type(ref: TypeRef) -> CounterFields | None:
    """Return the counters in a BTF type: an integer, an array of two, or integers of a structure.

    In a structure the names decide. If no name is known, the first integer counts packets and the
    second bytes.
    """
    kind = ref.stripped
    if isinstance(kind, Int):
        return CounterFields(CounterField(0, kind.size), None)
    if isinstance(kind, Array):
        return _fields_of_array(ref.btf.ref(kind.element_id), kind.length)
    if not isinstance(kind, Struct):
        return None
    integers = dict(_integers(ref))
    packets = _named(integers, PACKET_WORDS)
    in_bytes = _named(integers, BYTE_WORDS)
    rest = [integer for integer in integers.values() if integer not in (packets, in_bytes)]
    packets = packets or (rest.pop(0) if rest else None)
    in_bytes = in_bytes or (rest.pop(0) if rest else None)
    return CounterFields(packets, in_bytes) if packets else None


def _fields_of_array(element: TypeRef, length: int) -> CounterFields | None:
    if length > 2 or not isinstance(element.stripped, Int):
        return None
    items = [CounterField(index * element.size, element.size) for index in range(length)]
    return CounterFields(items[0], items[1] if length == 2 else None) if items else None


def _integers(ref: TypeRef) -> Iterator[tuple[str, CounterField]]:
    for member in members(ref.btf, ref.id, flatten=True):
        kind = ref.btf.ref(member.type_id).stripped
        # An enumeration is a state and no count; a bit-field does not start or end at a byte.
        if isinstance(kind, Int) and not isinstance(kind, Enum) and _is_whole(member):
            yield member.name, CounterField(member.bit_offset // 8, kind.size)


def _is_whole(member: MemberLayout) -> bool:
    return not member.bitfield_size and member.bit_offset % 8 == 0


def _named(integers: dict[str, CounterField], words: Sequence[str]) -> CounterField | None:
    for name, integer in integers.items():
        if any(word in name.lower() for word in words):
            return integer
    return None


def _unfit(map_: Map, why: str) -> UsageError:
    return UsageError(
        f"map {map_.name!r} (id {map_.id}) is not a counter map: {why}",
        hint=f"bpfpin map dump id:{map_.id}",
    )
