"""Rules in TOML: which maps the exporter shows besides, and how their entries become series."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from bpfpin.errors import UsageError
from bpfpin.records import dataclass

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"
KEY: Final = "key"
SERIES_MAX: Final = 1000
_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_RESERVED: Final = frozenset({"set", "map", "le"})


@dataclass(frozen=True, slots=True)
class MetricRule:
    """One metric that is read from maps.

    Attributes:
        map: The name of the maps, a pattern as for file names in a shell.
        name: The name of the metric; that of a counter ends with `_total`.
        help: What it counts.
        type: `counter`, `gauge` or `histogram`.
        set: Only maps of this pin set; a pattern, "" for any map.
        value: The member of the value that counts, such as `packets`; "" for the whole value.
        labels: By label the member of the key that is its value; `key` is the whole key.
        bucket: For a histogram, the member of the key that is the power of two; `key`.
        scale: What a number is multiplied with, such as 1e-9 for nanoseconds.
        max_series: How many series there may be.
    """

    map: str
    name: str
    help: str
    type: str = COUNTER
    set: str = ""
    value: str = ""
    labels: Mapping[str, str] | None = None
    bucket: str = KEY
    scale: float | int = 1
    max_series: int = SERIES_MAX

    def takes(self, names: Collection[str], set_name: str) -> bool:
        """Whether it is about a map with these names, in this set."""
        # The kernel cuts the names of maps; those in sets are known as a whole.
        fits = any(fnmatch.fnmatchcase(name, self.map) for name in names if name)
        return fits and (not self.set or fnmatch.fnmatchcase(set_name, self.set))


def read_rules(path: Path) -> tuple[MetricRule, ...]:
    """Return the rules of a state file: its `[[metric]]`.

    Raises:
        UsageError: It is not TOML, or a key or rule is not valid; the message names file and line.
        ObjectNotFoundError: There is no such file.
    """
    # Few hosts have rules, and the exporter is to stay small.
    from bpfpin.sets.apply.model import read_state  # noqa: PLC0415

    metrics = read_state([path]).metrics
    rules = tuple(MetricRule(**metric.keys) for metric in metrics)
    for rule, metric in zip(rules, metrics, strict=True):
        _check_names(rule, f"{metric.place}")
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{path}: several rules make the metric {twice[0]}")
    return rules


def _check_names(rule: MetricRule, where: str) -> None:
    if not _NAME.fullmatch(rule.name):
        raise UsageError(f"{where}: {rule.name!r} is not a name of a metric")
    if rule.name.startswith("bpfpin_"):
        raise UsageError(f"{where}: {rule.name}: names that begin with bpfpin_ are the exporter's")
    if (rule.type == COUNTER) != rule.name.endswith("_total"):
        word = "ends" if rule.type == COUNTER else "does not end"
        raise UsageError(f"{where}: the name of a {rule.type} {word} with _total: {rule.name}")
    for label in rule.labels or ():
        if not _NAME.fullmatch(label) or label in _RESERVED or label.startswith("__"):
            raise UsageError(f"{where}: {label!r} cannot be a label")
