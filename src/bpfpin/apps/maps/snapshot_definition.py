"""What a snapshot says of the map whose entries it has."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final, Self

from bpfpin.objects.batch import ARRAYS
from bpfpin.objects.percpu import PER_CPU, stride_of
from bpfpin.pins.record import Record
from bpfpin.uapi import MapType

BLOCK_BYTES: Final = 4 << 20  # of one block, which has one entry at least
KEY_SIZE_MAX: Final = 1 << 16
VALUE_SIZE_MAX: Final = 1 << 31
CPUS_MAX: Final = 1 << 16
_INDEX_SIZE: Final = 4  # of an array's index, and of the length of a prefix


@dataclass(frozen=True, slots=True)
class Definition:
    """The map that was saved; *cpus* is how many values each entry has in a per-CPU map, else 1."""

    name: str
    type: MapType
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    map_extra: int
    cpus: int

    @property
    def copied(self) -> int:
        """Bytes of the values of one entry."""
        is_percpu = self.type in PER_CPU
        return stride_of(self.value_size) * self.cpus if is_percpu else self.value_size

    def key_fault(self, keys: memoryview, before: int) -> str:
        """Return what is wrong with *keys*, behind *before* others; empty if nothing is.

        What the kernel would refuse is found before anything is written.
        """
        if self.type in ARRAYS and keys.cast("I").tolist() != list(
            range(before, before + len(keys) // self.key_size)
        ):
            return "the indexes of the array do not follow each other"
        if self.type is not MapType.LPM_TRIE:
            return ""
        bits = 8 * (self.key_size - _INDEX_SIZE)
        prefixes = (
            int.from_bytes(keys[at : at + _INDEX_SIZE], "little")
            for at in range(0, len(keys), self.key_size)
        )
        return f"a prefix is longer than {bits} bits" if max(prefixes, default=0) > bits else ""

    @property
    def block_entries(self) -> int:
        """How many entries one block has at most."""
        return max(1, BLOCK_BYTES // (self.key_size + self.copied))

    def to_text(self) -> str:
        """Return the JSON of it."""
        return json.dumps({**asdict(self), "type": int(self.type)}, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the definition in *text*; `ValueError` says why it is none."""
        record = Record.load(text)
        limits = {
            "key_size": KEY_SIZE_MAX,
            "value_size": VALUE_SIZE_MAX,
            "max_entries": (1 << 32) - 1,
            "map_flags": (1 << 32) - 1,
            "map_extra": (1 << 64) - 1,
            "cpus": CPUS_MAX,
        }
        numbers = {name: record.number(name, limit=limit) for name, limit in limits.items()}
        if not (numbers["key_size"] and numbers["value_size"] and numbers["cpus"]):
            raise ValueError("a size is 0")
        kind = MapType(record.number("type"))
        if kind in ARRAYS and numbers["key_size"] != _INDEX_SIZE:
            raise ValueError(f"the index of an array has {_INDEX_SIZE} bytes")
        return cls(record.text("name"), kind, **numbers)
