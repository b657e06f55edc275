"""A row of the table of measures, and the places in the source behind its figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Finding(NamedTuple):
    """One place behind a figure: a file below the package, a line, and what is there."""

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Row:
    """A row of the table. The figure is met if it is not beyond the target."""

    name: str  # as `--list` takes it
    title: str
    figure: float | None
    target: float | None = None
    unit: str = ""
    is_floor: bool = False  # the target is the least, not the most
    findings: tuple[Finding, ...] = ()

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None without a target or a figure."""
        if self.target is None or self.figure is None:
            return None
        return self.figure >= self.target if self.is_floor else self.figure <= self.target

    def cells(self) -> tuple[str, str, str, str]:
        """Return the row as text."""
        target = ""
        if self.target is not None:
            target = f"{'>=' if self.is_floor else '<='} {self._text(self.target)}"
        met = {True: "yes", False: "no", None: "-"}[self.is_met]
        return self.title, self._text(self.figure), target, met

    def _text(self, number: float | None) -> str:
        if number is None:
            return "-"
        return (f"{number:.0f}" if number == int(number) else f"{number:.1f}") + self.unit


def row(
    name: str,
    title: str,
    findings: Iterable[Finding],
    target: float | None = None,
    *,
    figure: float | None = None,
    unit: str = "",
    is_floor: bool = False,
) -> Row:
    """Return a row whose figure is the number of *findings*, unless it is given."""
    places = tuple(sorted(findings))
    return Row(
        name, title, len(places) if figure is None else figure, target, unit, is_floor, places
    )


def percent(part: float, whole: float) -> float:
    """Return the share of *part* in percent, rounded as it is shown."""
    return round(100 * part / whole, 1) if whole else 0.0
