"""Keys and values of any map, as they are typed and told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bpfpin.apps.maps import keys
from bpfpin.apps.maps.naming import ID, open_map
from bpfpin.errors import BpfError, UsageError
from bpfpin.objects.map import Map
from bpfpin.objects.map_codec import INDEXED


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and its value; *is_percpu*: the value is a list with one item a possible CPU."""

    key: Any
    value: Any
    is_percpu: bool

    def to_json(self) -> dict[str, Any]:
        """Return the entry as the JSON documents have it."""
        return {"key": self.key, "values" if self.is_percpu else "value": self.value}


def lookup(target: str, key: str) -> Entry:
    """Return the entry under *key*, as it is typed; `KeyNotFoundError` if there is none."""
    with open_map(target) as held:
        wanted = parsed_key(held, key)
        with said(held):
            return Entry(wanted, held[wanted], held.is_per_cpu)


def entries(target: str) -> Iterator[Entry]:
    """Yield all entries of the map that *target* names, read in batches."""
    with open_map(target) as held:
        for key, value in held.items():
            yield Entry(key, value, held.is_per_cpu)


def parsed_key(held: Map, text: str) -> Any:
    """Return the key that *text* means in this map."""
    key = keys.parse(text, held.key_type, held.key_size, what="key")
    is_index = held.key_type is None and held.type in INDEXED
    return int.from_bytes(key, "little") if is_index else key


@contextmanager
def said(held: Map) -> Iterator[None]:
    """Turn what the codec says of a key or a value that does not fit into a `UsageError`."""
    try:
        yield
    except BpfError:
        raise
    except (ValueError, TypeError) as error:
        hint = f"bpfpin map show {ID}{held.id} tells the types"
        raise UsageError(f"map {held.name!r}: {error}", hint=hint) from None
