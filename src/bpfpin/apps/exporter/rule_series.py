"""Series of the maps that rules name: labels from keys, numbers from values, histograms."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from bpfpin.apps.exporter.metrics import Family, labels_text, number_text
from bpfpin.apps.exporter.rules import HISTOGRAM, KEY, MetricRule
from bpfpin.apps.exporter.view import RuleMapView
from bpfpin.btf.btf import Btf
from bpfpin.codecs.codec import Codec
from bpfpin.codecs.of_btf import codec
from bpfpin.errors import BpfError
from bpfpin.map_traits import stride_of
from bpfpin.objects.maps.map import Map
from bpfpin.syscall.cpu import possible_cpus

# Entries that one scrape reads of a map: reading takes time, and the series are limited anyway.
ENTRIES_MAX: Final = 100_000
_INTEGER_BYTES: Final = (1, 2, 4, 8)
Number = float | int


class RuleReading(NamedTuple):
    """The lines of a rule, and how many series it left out."""

    family: Family
    lines: list[str]
    dropped: int


class RuleSeries:
    """The series of one rule, from all maps that it takes.

    When there are more than the rule allows, those of the last scrape stay before new ones come.
    """

    def __init__(self, rule: MetricRule) -> None:
        self.rule = rule
        self.family = Family(rule.name, rule.type, rule.help)
        self._admitted: set[str] = set()
        self._codecs: dict[int, tuple[Codec, Codec]] = {}
        self._last: dict[int, dict[str, dict[int, Number]]] = {}

    def read(self, maps: Mapping[int, tuple[RuleMapView, int]], folding: set[int]) -> RuleReading:
        """Read the maps, given by id as their view and descriptor; those in *folding* as before."""
        # By labels, then by bucket (0 without a histogram).
        series: dict[str, dict[int, Number]] = {}
        for map_id, (view, fd) in maps.items():
            if map_id not in folding:
                self._last[map_id] = self._read_map(view, fd)
            for labels, buckets in self._last.get(map_id, {}).items():
                known = series.setdefault(labels, {})
                for bucket, number in buckets.items():
                    known[bucket] = known.get(bucket, 0) + number
        self._last = {map_id: last for map_id, last in self._last.items() if map_id in maps}
        self._codecs = {map_id: made for map_id, made in self._codecs.items() if map_id in maps}
        kept = self._admit(series)
        lines = [line for labels in kept for line in self._lines(labels, series[labels])]
        return RuleReading(self.family, lines, len(series) - len(kept))

    def _admit(self, series: Mapping[str, object]) -> list[str]:
        kept = [labels for labels in series if labels in self._admitted]
        new = [labels for labels in series if labels not in self._admitted]
        kept += new[: max(0, self.rule.max_series - len(kept))]
        self._admitted = set(kept)
        return kept

    def _lines(self, labels: str, buckets: Mapping[int, Number]) -> Iterator[str]:
        name, scale = self.rule.name, self.rule.scale
        if self.rule.type != HISTOGRAM:
            yield f"{name}{labels} {number_text(buckets.get(0, 0) * scale)}\n"
            return
        # Slot N counts the numbers from 2^N to 2^(N+1)-1: 63 slots are all of 64 bits.
        inner = labels.removeprefix("{").removesuffix("}")
        before = f"{inner}," if inner else ""
        count: Number = 0
        for bucket in range(max(buckets, default=-1) + 1):
            count += buckets.get(bucket, 0)
            bound = _bound(((2 << bucket) - 1) * scale)
            yield f'{name}_bucket{{{before}le="{bound}"}} {count}\n'
        yield f'{name}_bucket{{{before}le="+Inf"}} {count}\n'
        yield f"{name}_count{labels} {count}\n"

    def _read_map(self, view: RuleMapView, fd: int) -> dict[str, dict[int, Number]]:
        series: dict[str, dict[int, Number]] = {}
        with Map.from_fd(os.dup(fd)) as bpf_map:
            for key, values in _entries(bpf_map, *self._codecs_of(view, bpf_map)):
                number = sum(_number_in(value, self.rule.value) for value in values)
                labels = [("set", view.set), ("map", view.name)]
                for label, member in (self.rule.labels or {}).items():
                    labels.append((label, _text(_member(key, member))))
                bucket = 0
                if self.rule.type == HISTOGRAM:
                    slot = _member(key, self.rule.bucket)
                    bucket = slot if isinstance(slot, int) and 0 <= slot < 64 else 63
                    if not number:
                        continue
                buckets = series.setdefault(labels_text(labels), {})
                buckets[bucket] = buckets.get(bucket, 0) + number
        return series

    def _codecs_of(self, view: RuleMapView, bpf_map: Map) -> tuple[Codec, Codec]:
        made = self._codecs.get(view.id)
        if made is None:
            types = Btf.parse(base64.b64decode(view.types)) if view.types else None
            key = types.ref(view.key_type) if types and view.key_type else None
            value = types.ref(view.value_type) if types and view.value_type else None
            made = self._codecs[view.id] = (
                codec(key, bpf_map.key_size, is_key=True),
                codec(value, bpf_map.value_size),
            )
        return made


def _entries(bpf_map: Map, key: Codec, value: Codec) -> Iterator[tuple[Any, list[Any]]]:
    """Yield keys with the values of all CPUs, at most `ENTRIES_MAX`."""
    cpus = possible_cpus() if bpf_map.is_per_cpu else 1
    step = stride_of(bpf_map.value_size) if bpf_map.is_per_cpu else bpf_map.value_size
    for number, (raw_key, raw_value) in enumerate(bpf_map.items_bytes()):
        if number == ENTRIES_MAX:
            return
        values = [value.decode(raw_value, cpu * step) for cpu in range(cpus)]
        yield (
            int.from_bytes(raw_key, "little") if bpf_map.is_array else key.decode(raw_key),
            values,
        )


def _member(whole: Any, path: str) -> Any:
    """Return the member at a path (`flow.port`); `key` and "" mean the whole."""
    if path in ("", KEY) and not (isinstance(whole, Mapping) and path in whole):
        return whole
    for name in path.split("."):
        if not isinstance(whole, Mapping) or name not in whole:
            known = ", ".join(whole) if isinstance(whole, Mapping) else "no members"
            raise BpfError(f"there is no member {name!r}: there are {known}")
        whole = whole[name]
    return whole


def _number_in(value: Any, path: str) -> Number:
    found = _member(value, path)
    if isinstance(found, bytes) and len(found) in _INTEGER_BYTES:  # a map without BTF
        return int.from_bytes(found, "little")
    if isinstance(found, bool) or not isinstance(found, int | float):
        known = f": {', '.join(found)}" if isinstance(found, Mapping) else ""
        raise BpfError(f"{path or 'the value'} is not a number{known}")
    return found


def _bound(number: Number) -> str:
    # Twelve digits: 7 * 0.1 is 0.7000000000000001, and the bound is part of the series' name.
    return str(number) if isinstance(number, int) else f"{number:.12g}"


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
