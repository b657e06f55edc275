"""Compares the entries of a map with those that it is to have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bpfpin.codecs.prefix import without_other_bits
from bpfpin.map_traits import traits_of
from bpfpin.objects.maps.map import Map
from bpfpin.records import dataclass
from bpfpin.spec import MapSpec

_KEYS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class ContentsChange:
    """How the entries of a map change.

    Attributes:
        added: How many entries are new.
        removed: How many entries go.
        changed: How many entries have another value.
        added_keys: The first few of the new keys, as bytes.
        removed_keys: The first few of the keys that go.
        changed_keys: The first few of the keys whose value changes.
    """

    added: int = 0
    removed: int = 0
    changed: int = 0
    added_keys: tuple[bytes, ...] = ()
    removed_keys: tuple[bytes, ...] = ()
    changed_keys: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        counts = {"added": self.added, "removed": self.removed, "changed": self.changed}
        words = [f"{count} {word}" for word, count in counts.items() if count]
        return f"entries: {', '.join(words)}" if words else "entries: the same"

    def to_json(self) -> dict[str, int]:
        """Return the form that `-o json` shows."""
        return {"added": self.added, "removed": self.removed, "changed": self.changed}


def change_to(bpf_map: Map | None, spec: MapSpec) -> ContentsChange:
    """Return what has to change in a map so that it has the entries of *spec*, all others gone.

    None stands for a map that is still to be made. The bytes of entries are compared; of a prefix
    only those that count.
    """
    wanted = entries_of(spec)
    before = {} if bpf_map is None else _entries(bpf_map)
    # A new array has all elements, as zeros: they are nothing that is added.
    if bpf_map is None and traits_of(spec.type).is_array:
        before = {key: bytes(len(value)) for key, value in wanted.items()}
    added = [key for key in wanted if key not in before]
    removed = [key for key in before if key not in wanted]
    changed = [key for key, value in wanted.items() if before.get(key, value) != value]
    shown = (tuple(keys[:_KEYS_SHOWN]) for keys in (added, removed, changed))
    return ContentsChange(len(added), len(removed), len(changed), *shown)


def entries_of(spec: MapSpec) -> dict[bytes, bytes]:
    """Return the entries of *spec* by key; of a prefix the bits that count."""
    return dict(_pairs(spec, *(spec.entries or (b"", b""))))


def _entries(bpf_map: Map) -> dict[bytes, bytes]:
    entries: dict[bytes, bytes] = {}
    for batch in bpf_map.batches_bytes():
        entries.update(_pairs(bpf_map, bytes(batch.keys), bytes(batch.values)))
    return entries


def _pairs(of: MapSpec | Map, keys: bytes, values: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each key and value of those that lie back to back."""
    count, is_trie = len(keys) // of.key_size, traits_of(of.type).is_trie
    # Of a per-CPU map a value is those of all CPUs.
    value_size = len(values) // count if count else 0
    for number in range(count):
        key = keys[number * of.key_size : (number + 1) * of.key_size]
        value = values[number * value_size : (number + 1) * value_size]
        yield without_other_bits(key) if is_trie else key, value
