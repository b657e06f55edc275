"""Where each part of an old value goes in the new one, and how: what the fold is generated from."""

from __future__ import annotations

from dataclasses import dataclass

from bpfpin.objects.percpu import PER_CPU
from bpfpin.pins.migration.rules import Rule
from bpfpin.uapi import MapType

ARRAYS = frozenset({MapType.ARRAY, MapType.PERCPU_ARRAY})
LRU = frozenset({MapType.LRU_HASH, MapType.LRU_PERCPU_HASH})
HASHES = frozenset({MapType.HASH, MapType.PERCPU_HASH}) | LRU


@dataclass(frozen=True, slots=True)
class Shape:
    """What a map is, its types aside; sizes in bytes, that of a value of one CPU."""

    type: MapType
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int = 0

    @property
    def is_per_cpu(self) -> bool:
        """Whether each CPU has values of its own."""
        return self.type in PER_CPU

    @property
    def is_array(self) -> bool:
        """Whether all keys are always there."""
        return self.type in ARRAYS


@dataclass(frozen=True, slots=True)
class Place:
    """A part of a key or value: *size* bytes from byte *offset* on."""

    offset: int
    size: int
    is_signed: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """A number, or with *is_bytes* bytes as they are, that goes from *old* to *new*.

    *renumbered* are values of an enumeration whose numbers changed, old and new. *limits* are what
    the number is brought into before it is written, if any.
    """

    path: str
    old: Place
    new: Place
    rule: Rule = Rule.SUM
    is_bytes: bool = False
    renumbered: tuple[tuple[int, int], ...] = ()
    limits: tuple[int, int] | None = None
