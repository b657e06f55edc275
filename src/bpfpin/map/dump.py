"""All entries of a map, or those that meet conditions, in an order: read as a stream of batches.

Nothing but `sort` keeps more than a batch in memory, and with `top` no more than so many rows.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain, islice
from typing import Any, Final

from bpfpin.codecs.stray import StrayBytes
from bpfpin.errors import BusyError, UsageError
from bpfpin.map import query
from bpfpin.map.entries import require_entries, said
from bpfpin.map.generation import Moment
from bpfpin.map.open import AS_IT_IS, Typing, moment_of, open_typed
from bpfpin.map.query import CPU, KEY, VALUE, Column, Columns, Row
from bpfpin.objects.maps import garbage
from bpfpin.objects.maps.codec import total
from bpfpin.objects.maps.map import Map
from bpfpin.syscall.fd import Closing

ROWS: Final = 4096  # that are given out at once
VALUES: Final = "values"

Batch = list[Row]


class Cpus(Enum):
    """What becomes of the values of a per-CPU map."""

    LIST = "a list of all CPUs' values"
    TOTAL = "their sum, or a row each if they are no numbers"
    EACH = "a row each"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows are wanted; *sort* is a field, with `-` before it the greatest comes first."""

    where: Sequence[str] = ()
    sort: str | None = None
    top: int | None = None
    cpus: Cpus = Cpus.LIST
    raw: bool = False
    typing: Typing = AS_IT_IS


class Dump(Closing):
    """The rows of one map, as they were selected; they can be read once or again."""

    def __init__(self, held: Map, selection: Selection, *, moment: Moment | None = None) -> None:
        self._held = held
        self._moment = moment
        self._top = selection.top
        self._cpus = _possible(held, selection.cpus)
        self._is_listed = held.is_per_cpu and self._cpus is Cpus.LIST
        self.stray_keys = 0
        """How many of the rows so far have a key whose padding is not zero."""
        self._compared = query.compared(held) if self._is_listed else _as_it_is
        self.columns = Columns.of(held, has_cpu=self._cpus is Cpus.EACH)
        conditions = [query.parse_condition(text, self.columns) for text in selection.where]
        self._is_wanted = query.all_hold(conditions) if conditions else None
        self._is_reversed = (selection.sort or "").startswith("-")
        self._by = self.columns.named(selection.sort.removeprefix("-")) if selection.sort else None
        if self._by:
            query.require_order(self._by)
        if self._is_listed:
            query.check(held, [*(one.column for one in conditions), *filter(None, [self._by])])

    @property
    def names(self) -> tuple[str, ...]:
        """What the parts of a row are called."""
        if self._cpus is Cpus.EACH:
            return KEY, CPU, VALUE
        return KEY, VALUES if self._is_listed else VALUE

    @property
    def is_filtered(self) -> bool:
        """Whether there are conditions."""
        return self._is_wanted is not None

    def close(self) -> None:
        """Let the map go."""
        self._held.close()

    def batches(self) -> Iterator[Batch]:
        """Yield the rows, some thousand at a time.

        `BusyError` at the end if another map has its name by then: some rows may lack counts that
        a migration moved. A reload that keeps the map is none.
        """
        with garbage.paused(self._held.max_entries), said(self._held):
            if self._by:
                yield from _in_batches(self._sorted(self._by))
            elif self._top is not None:
                yield from _in_batches(islice(self._rows(), self._top))
            else:
                yield from self._selected()
        if self._moment and not self._moment.lasts:
            raise BusyError(
                f"map {self._held.name!r} (id {self._held.id}) lost its name while it was read, and"
                " its contents may have moved to another one",
                hint="read it again",
            )

    def _rows(self) -> Iterator[Row]:
        return chain.from_iterable(self._selected())

    def _selected(self) -> Iterator[Batch]:
        shape = _SHAPES[self._cpus] if self._held.is_per_cpu else None
        for batch in self._held.lookup_batch():
            rows: Batch = shape(batch) if shape else batch
            if self._is_wanted:
                rows = [row for row in rows if self._is_wanted(self._compared(row))]
            if rows:
                self.stray_keys += sum(isinstance(row[0], StrayBytes) for row in rows)
                yield rows

    def _sorted(self, by: Column) -> Iterable[Row]:
        def key(row: Row) -> Any:
            return query.order(by.of(self._compared(row)))

        if self._top is None:
            return sorted(self._rows(), key=key, reverse=self._is_reversed)
        take = heapq.nlargest if self._is_reversed else heapq.nsmallest
        return take(self._top, self._rows(), key=key)


def open_dump(target: str, selection: Selection) -> Dump:
    """Open the map that *target* names; the caller closes the dump.

    `UsageError` for a field that the map does not have, and for a map without entries.
    """
    moment = moment_of(target)
    held = open_typed(target, raw=selection.raw, typing=selection.typing)
    try:
        require_entries(held)
        return Dump(held, selection, moment=moment)
    except BaseException:
        held.close()
        raise


def _possible(held: Map, cpus: Cpus) -> Cpus:
    if held.is_per_cpu:
        return Cpus.EACH if cpus is Cpus.TOTAL and not query.can_add(held) else cpus
    if cpus is Cpus.EACH:
        raise UsageError(f"map {held.name!r} has one value for all CPUs: without --per-cpu")
    return cpus


def _as_it_is(row: Row) -> Row:
    return row


def _totals(batch: list[tuple[Any, Any]]) -> Batch:
    return [(key, total(values)) for key, values in batch]


def _each(batch: list[tuple[Any, Any]]) -> Batch:
    return [(key, cpu, value) for key, values in batch for cpu, value in enumerate(values)]


_SHAPES: Final[dict[Cpus, Callable[[list[tuple[Any, Any]]], Batch] | None]] = {
    Cpus.LIST: None,
    Cpus.TOTAL: _totals,
    Cpus.EACH: _each,
}


def _in_batches(rows: Iterable[Row]) -> Iterator[Batch]:
    left = iter(rows)
    while batch := list(islice(left, ROWS)):
        yield batch
