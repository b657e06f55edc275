"""What is on the host, as the helper tells it: records that go over a socket as JSON arrays.

Only numbers that change all the time are missing: the scraped process reads them itself.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Self


class MapView(NamedTuple):
    """A map.

    *set* is its pin set, "" for none. *is_counted*: the kernel counts its entries. *is_growing*:
    its memory changes with its entries. *entry_bytes* is the memory of an entry, if all of its
    memory are entries; 0 if not. *is_ring*: it is a ring buffer.
    """

    id: int
    name: str
    type: str
    max_entries: int
    memory_bytes: int
    set: str
    is_counted: bool
    is_growing: bool
    entry_bytes: int
    is_ring: bool


class ProgramView(NamedTuple):
    """A program; *attached* are pairs of a hook and a place in words."""

    id: int
    name: str
    type: str
    set: str
    attached: list[list[str]]


class CounterView(NamedTuple):
    """A map of packet counters.

    *first* is the id of the first map in the chain of migrations that led to it. *keys* are the
    names of its entries. *packets* and *bytes* are offset and size in a value; [] if it does not
    count bytes.
    """

    id: int
    first: int
    set: str
    name: str
    device: str
    cgroup: str
    keys: list[str]
    value_size: int
    is_per_cpu: bool
    packets: list[int]
    bytes: list[int]


class SetRow(NamedTuple):
    """A pin set; *loaded_at* is in seconds since 1970."""

    name: str
    state: str
    generation: int
    loaded_at: int


class RuleMapView(NamedTuple):
    """A map that rule number *rule* exports.

    *types* is BTF in base64 with the types of key and value, *key_type* and *value_type* are their
    ids in it, 0 for none.
    """

    rule: int
    id: int
    name: str
    set: str
    types: str
    key_type: int
    value_type: int


class HostView(NamedTuple):
    """Everything; *problems* are counts by kind."""

    maps: list[MapView]
    programs: list[ProgramView]
    counters: list[CounterView]
    sets: list[SetRow]
    rule_maps: list[RuleMapView]
    problems: dict[str, int]

    def to_json(self) -> str:
        """Return the text for the socket."""
        return json.dumps(self, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the view of a text that `to_json` made."""
        maps, programs, counters, sets, rule_maps, problems = json.loads(text)
        return cls(
            _rows(MapView, maps),
            _rows(ProgramView, programs),
            _rows(CounterView, counters),
            _rows(SetRow, sets),
            _rows(RuleMapView, rule_maps),
            problems,
        )


def _rows(kind: Any, rows: list[list[Any]]) -> list[Any]:
    return [kind._make(row) for row in rows]
