"""Rules in TOML: which maps the exporter shows besides, and how their entries become series."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bpfpin.choices import similar
from bpfpin.errors import UsageError
from bpfpin.records import dataclass

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"
TYPES: Final = (COUNTER, GAUGE, HISTOGRAM)
KEY: Final = "key"
SERIES_MAX: Final = 1000
_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_RESERVED: Final = frozenset({"set", "map", "le"})
_KEYS: Final = (
    "map", "set", "name", "help", "type", "value", "labels", "bucket", "scale", "max_series",
)  # fmt: skip


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
    """Return the rules of a file.

    Raises:
        UsageError: It is not TOML, or a rule is not valid; the message names file, rule and key.
        FileNotFoundError: There is no such file.
    """
    try:
        document = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    # A state file of `bpfpin apply` may have the rules, too.
    _check_keys(document, ("metric", "set", "schema"), f"{path}")
    tables = document.get("metric", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{path}: metric is not an array of tables", hint="write [[metric]]")
    rules = tuple(
        _rule(table, f"{path}: metric {number}") for number, table in enumerate(tables, start=1)
    )
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{path}: several rules make the metric {twice[0]}")
    return rules


def _rule(table: dict[str, Any], where: str) -> MetricRule:
    _check_keys(table, _KEYS, where)
    for key in ("map", "name", "help"):
        if key not in table:
            raise UsageError(f"{where}: {key} is missing")
    for key in ("map", "set", "name", "help", "type", "value", "bucket"):
        if not isinstance(table.get(key, ""), str):
            raise UsageError(f"{where}: {key} is not a text")
    labels = table.get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(text, str) for text in labels.values()):
        raise UsageError(f'{where}: labels is not a table of texts, as {{ source = "saddr" }}')
    scale, limit = table.get("scale", 1), table.get("max_series", SERIES_MAX)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or scale <= 0:
        raise UsageError(f"{where}: scale is not a number above 0")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= 100_000:
        raise UsageError(f"{where}: max_series is not a number from 1 to 100000")
    rule = MetricRule(**{**table, "labels": labels, "scale": scale, "max_series": limit})
    _check_names(rule, where)
    return rule


def _check_names(rule: MetricRule, where: str) -> None:
    if rule.type not in TYPES:
        raise UsageError(f"{where}: type {rule.type!r} is none of {', '.join(TYPES)}")
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


def _check_keys(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = similar(key, known)
            hint = f"near it: {', '.join(near)}" if near else f"the keys are: {', '.join(known)}"
            raise UsageError(f"{where}: no key {key!r}", hint=hint)
