"""Counter maps, whoever made them: where in a value packets and bytes stand, and reading them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.layout import MemberLayout, members
from bpfpin.btf.types import Array, Enum, Int, Struct
from bpfpin.errors import UsageError
from bpfpin.map.follow import Follower
from bpfpin.objects.maps.codec import stride_of
from bpfpin.objects.maps.map import Map
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import MapType, XdpAction

COUNTER_SIZE = 8
ACTION = "action"  # the name of the map that holds the verdict of an XDP program
PACKET_WORDS = ("packet", "pkt", "count", "hits")
BYTE_WORDS = ("byte", "octet")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an unsigned integer stands in a value, in bytes."""

    offset: int
    size: int

    def read(self, value: memoryview) -> int:
        """Return the integer, little-endian."""
        return int.from_bytes(value[self.offset : self.offset + self.size], "little")


@dataclass(frozen=True, slots=True)
class Shape:
    """Where a value has its counters; *bytes* is None where only packets are counted."""

    packets: Place
    bytes: Place | None


@dataclass(frozen=True, slots=True)
class Count:
    """Packets and bytes of one key on one CPU, or of all; *bytes* is None where nobody counts."""

    packets: int
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Sample:
    """All counters at one moment, by key and then by CPU (one for a plain array)."""

    monotonic_s: float
    wall_s: float
    counts: tuple[tuple[Count, ...], ...]


class Counters(Closing):
    """An open counter map; `read` is one batch call. Closing it closes the map.

    With *live* it is the map that this follower holds.
    """

    def __init__(self, map_: Map, *, path: str = "", live: Follower | None = None) -> None:
        self.map = map_
        self.path = path
        self.live = live
        self.shape = shape_of(map_)

    @classmethod
    def following(cls, live: Follower) -> Counters:
        """Return the counters of a name; closing them closes the follower."""
        return cls(live.map, path=str(live.path), live=live)

    @property
    def keys(self) -> tuple[str, ...]:
        """What the rows are called: XDP actions when there are five, else the index."""
        if self.map.max_entries == len(XdpAction):
            return tuple(action.name for action in XdpAction)
        return tuple(map(str, range(self.map.max_entries)))

    def read(self) -> Sample:
        """Read all counters at once."""
        monotonic_s, wall_s = time.monotonic(), time.time()
        values = [value for _, value in self.map.items_bytes()]
        return Sample(monotonic_s, wall_s, tuple(self._counts(value) for value in values))

    def read_from(self, map_: Map) -> Sample:
        """Read *map_*, which the follower holds now, and from now on."""
        if map_ is not self.map:
            self.map, self.shape = map_, shape_of(map_)
        return self.read()

    def close(self) -> None:
        """Close the map, and follow no longer."""
        (self.live or self.map).close()

    def _counts(self, value: bytes) -> tuple[Count, ...]:
        view = memoryview(value)
        if not self.map.is_per_cpu:
            return (self._count(view),)
        step = stride_of(self.map.value_size)
        starts = range(0, len(view), step)
        return tuple(self._count(view[start : start + step]) for start in starts)

    def _count(self, value: memoryview) -> Count:
        packets, in_bytes = self.shape.packets, self.shape.bytes
        return Count(packets.read(value), in_bytes.read(value) if in_bytes else None)


def total(counts: Sequence[Count]) -> Count:
    """Return the sum over CPUs."""
    in_bytes = [count.bytes for count in counts if count.bytes is not None]
    return Count(sum(count.packets for count in counts), sum(in_bytes) if in_bytes else None)


def carried(before: Sample, now: Sample) -> Sample:
    """Return *before* in the form of *now*, whose map was migrated from the one before.

    What came with the new map began at 0. Where values of each CPU became one, or one became those,
    nothing is known of a single CPU: then only the totals are those of *before*.
    """
    if len(before.counts) == len(now.counts) and all(map(_is_like, before.counts, now.counts)):
        return before
    nothing = ((Count(0, None),),) * (len(now.counts) - len(before.counts))
    old = (*before.counts, *nothing)
    pairs = zip(old, now.counts, strict=False)
    return replace(before, counts=tuple(_as_there(one, new) for one, new in pairs))


def _is_like(old: Sequence[Count], new: Sequence[Count]) -> bool:
    return len(old) == len(new) and (old[0].bytes is None) == (new[0].bytes is None)


def _as_there(old: Sequence[Count], new: Sequence[Count]) -> tuple[Count, ...]:
    whole = [total(old), *([Count(0, None)] * (len(new) - 1))]
    cpus = old if len(old) == len(new) else whole
    has_bytes = [one.bytes is not None for one in new]
    pairs = zip(cpus, has_bytes, strict=True)
    return tuple(Count(one.packets, (one.bytes or 0) if has else None) for one, has in pairs)


def is_likely_counter(map_: Map) -> bool:
    """Whether the map looks like counters: readable as such, and of 64 bits.

    A smaller integer is more often a setting; the one integer of a map `action` is the verdict that
    a program returns.
    """
    if map_.name == ACTION and map_.max_entries == 1:
        return False
    try:
        return shape_of(map_).packets.size == COUNTER_SIZE
    except UsageError:
        return False


def shape_of(map_: Map) -> Shape:
    """Return where the counters of a map stand; `UsageError` says why it is no counter map."""
    if not map_.is_array:
        kind = map_.type.name.lower() if isinstance(map_.type, MapType) else map_.type
        raise _unfit(map_, f"it is a {kind}; counters are read from arrays and per-CPU arrays")
    shape = shape_of_type(map_.value_type) if map_.value_type else shape_of_size(map_.value_size)
    if shape is None:
        what = "of its type" if map_.value_type else f"of {map_.value_size} bytes without BTF"
        raise _unfit(map_, f"a value {what} is no pair of packets and bytes, and no packet count")
    return shape


def shape_of_size(value_size: int) -> Shape | None:
    """Return the shape of a value without BTF: 16 bytes are packets and bytes, 8 are packets."""
    shapes = {8: Shape(Place(0, 8), None), 16: Shape(Place(0, 8), Place(8, 8))}
    return shapes.get(value_size)


def shape_of_type(ref: TypeRef) -> Shape | None:
    """Return the shape of a BTF type: an integer, two of them, or a structure with integers.

    In a structure the names decide; without a telling name the first integer counts packets and
    the second one bytes.
    """
    kind = ref.stripped
    if isinstance(kind, Int):
        return Shape(Place(0, kind.size), None)
    if isinstance(kind, Array):
        return _shape_of_array(ref.btf.ref(kind.element_id), kind.length)
    if not isinstance(kind, Struct):
        return None
    places = dict(_integers(ref))
    packets = _named(places, PACKET_WORDS)
    in_bytes = _named(places, BYTE_WORDS)
    rest = [place for place in places.values() if place not in (packets, in_bytes)]
    packets = packets or (rest.pop(0) if rest else None)
    in_bytes = in_bytes or (rest.pop(0) if rest else None)
    return Shape(packets, in_bytes) if packets else None


def _shape_of_array(element: TypeRef, length: int) -> Shape | None:
    if length > 2 or not isinstance(element.stripped, Int):
        return None
    places = [Place(index * element.size, element.size) for index in range(length)]
    return Shape(places[0], places[1] if length == 2 else None) if places else None


def _integers(ref: TypeRef) -> Iterator[tuple[str, Place]]:
    for member in members(ref.btf, ref.id, flatten=True):
        kind = ref.btf.ref(member.type_id).stripped
        if isinstance(kind, Int) and not isinstance(kind, Enum) and _is_whole(member):
            yield member.name, Place(member.bit_offset // 8, kind.size)


def _is_whole(member: MemberLayout) -> bool:
    return not member.bitfield_size and member.bit_offset % 8 == 0


def _named(places: dict[str, Place], words: Sequence[str]) -> Place | None:
    fitting = (p for name, p in places.items() if any(word in name.lower() for word in words))
    return next(fitting, None)


def _unfit(map_: Map, why: str) -> UsageError:
    return UsageError(
        f"map {map_.name!r} (id {map_.id}) is no counter map: {why}",
        hint=f"bpfpin map dump id:{map_.id}",
    )
