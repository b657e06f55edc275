"""Metrics in Prometheus' text format, and counters that go on when their objects are replaced."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
# A reload leaves one part; so many have been added up when the oldest ones are put together.
_PARTS_MAX: Final = 16
# Readings in which a series may be missing before its counters start again.
_PATIENCE: Final = 10

Labels = tuple[tuple[str, str], ...]
Part = int | str  # what a part of a counter belongs to: the id of a map or program


class Family(NamedTuple):
    """A metric: its name without a unit left out, its type as Prometheus has it, and its help."""

    name: str
    type: str
    help: str


PACKETS = Family(
    "bpfpin_packets_total", "counter", "Packets that a map of counters counts, by its entry."
)
BYTES = Family(
    "bpfpin_bytes_total", "counter", "Bytes of these packets, where the map counts bytes."
)


def labels_text(labels: Iterable[tuple[str, str]]) -> str:
    """Return labels as they stand after a name; those with an empty value are left out.

    To Prometheus a label with an empty value is a label that is not there.
    """
    pairs = [f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels if value]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def number_text(value: float) -> str:
    """Return a value: integers exactly, whatever their size."""
    return str(value) if isinstance(value, int) else repr(value)


def head(family: Family) -> str:
    """Return the lines that begin a family."""
    text = family.help.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {family.name} {text}\n# TYPE {family.name} {family.type}\n"


class Exposition:
    """The text of one scrape: families in the order in which they were added."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, family: Family, samples: Iterable[tuple[str, float]]) -> None:
        """Add a family with its samples: labels as text, and value; nothing if there is none."""
        name = family.name
        lines = [f"{name}{labels} {number_text(value)}\n" for labels, value in samples]
        self.add_lines(family, lines)

    def add_lines(self, family: Family, lines: Sequence[str]) -> None:
        """Add a family whose samples are written already, a line each."""
        if lines:
            self._lines.append(head(family))
            self._lines += lines

    def add_text(self, text: str) -> None:
        """Add families that are written already."""
        self._lines.append(text)

    def text(self) -> str:
        """Return the whole text."""
        return "".join(self._lines)


class Totals:
    """Counters that never go back because the object that counts was replaced.

    A series is the sum of its parts, by the id of the map or program that counts. A part whose
    object is gone keeps its last value, so that the sum goes on where it was when another object
    starts at 0. A map that was migrated from another one has the counts of that one: both have the
    id of the first as their part.

    A counter that somebody sets back goes back here, too.
    """

    def __init__(self) -> None:
        self._parts: dict[str, dict[Part, Sequence[int]]] = {}
        self._missing: dict[str, int] = {}

    def add(self, series: str, current: Mapping[Part, Sequence[int]]) -> list[int]:
        """Return the counters of *series* with the *current* values of its parts."""
        parts = self._parts.setdefault(series, {})
        self._missing[series] = 0
        parts.update(current)
        if len(parts) > _PARTS_MAX:
            self._shorten(parts, current)
        return summed(parts.values())

    def goes_back(self, series: str, current: Mapping[Part, Sequence[int]]) -> bool:
        """Whether a part has counted less than before."""
        parts = self._parts.get(series, {})
        return any(
            new < old
            for part, values in current.items()
            for old, new in zip(parts.get(part, ()), values, strict=False)
        )

    def last(self, series: str) -> list[int] | None:
        """Return the counters of *series* as they were, None if it is new."""
        parts = self._parts.get(series)
        if parts is None:
            return None
        self._missing[series] = 0
        return summed(parts.values())

    def end_reading(self) -> None:
        """Forget the series that were missing in many readings."""
        for series in [name for name, count in self._missing.items() if count > _PATIENCE]:
            del self._missing[series], self._parts[series]
        for series in self._missing:
            self._missing[series] += 1

    @staticmethod
    def _shorten(parts: dict[Part, Sequence[int]], current: Collection[Part]) -> None:
        gone = [part for part in parts if part not in current]
        parts["gone"] = summed([parts.pop(part) for part in gone])


def summed(parts: Iterable[Sequence[int]]) -> list[int]:
    """Return the sums of several lists of counters, position by position."""
    total: list[int] = []
    for part in parts:
        # A migrated map may have more counters than the one before.
        total += [0] * (len(part) - len(total))
        for index, value in enumerate(part):
            total[index] += value
    return total
