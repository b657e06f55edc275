"""Versions of tests/objects/migrate_shapes.bpf.c, and what is in their maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bpfpin.objects.maps.codec import total
from bpfpin.objects.maps.map import Map
from support.here import Here
from support.objects import compiled

COUNTERS = "counters"
WIDER = {"MEMBERS": "__u64 bytes; __u64 packets; __u64 drops;"}
COUNTED = {1: {"packets": 100, "bytes": 1000}, 2: {"packets": 200, "bytes": 2000}}
ONLY_PACKETS = "ADD(counter->packets, 1)"
SEEN = {"MEMBERS": "__u64 packets; __u64 last_seen;", "COUNT": ONLY_PACKETS}
SEEN_AT = {1: {"packets": 100, "last_seen": 5}}


def version(*flags: str, **macros: object) -> Path:
    """Return the object of a version: *macros* are its own, by default two counters in a hash."""
    defines = (*flags, *(f"{name}={text}" for name, text in macros.items()))
    return compiled("migrate_shapes", defines=defines)


def write(pin: Path, entries: Mapping[Any, Any], *, cpu: int | None = None) -> None:
    """Write entries of a map, of one CPU if that is said."""
    with Map.from_pin(pin) as held:
        for key, value in entries.items():
            held.update(key, value, cpu=cpu)


def read(pin: Path) -> dict[Any, Any]:
    """Return the entries of a map, those of all CPUs added up."""
    with Map.from_pin(pin, read_only=True) as held:
        values = dict(held.items())
    return {key: total(one) if isinstance(one, list) else one for key, one in values.items()}


def loaded(here: Here, source: Path, entries: Mapping[Any, Any]) -> Here:
    """Load a version, and let it have counted *entries*."""
    here.load(source)
    write(here.set / COUNTERS, entries)
    return here


def migrated(here: Here, source: Path, *words: str) -> dict[Any, Any]:
    """Load the next version, whose counters go over, and return what is in them then."""
    document = here.load(source, "--migrate", *words)
    (decision,) = [one["decision"] for one in document["maps"] if one["name"] == COUNTERS]
    assert decision == "migrated"
    return read(here.set / COUNTERS)
