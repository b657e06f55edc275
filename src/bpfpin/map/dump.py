"""Dumps the entries of a map, or those that meet conditions, sorted if asked.

`open_dump` opens the map, parses the options against its columns, and returns a `Dump`, whose
`batches` stream the entries: one batch at a time is in memory. Only `sort` keeps more: all rows,
or with `top` that many.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from bpfpin.codecs.format_table import KEY, VALUE
from bpfpin.codecs.stray import StrayBytes, key_bytes_of
from bpfpin.errors import BusyError, UsageError
from bpfpin.map.generation import Moment
from bpfpin.map.open import AS_IT_IS, Typing, moment_of, open_typed, require_entries, usage_errors
from bpfpin.objects.maps.batch import collector_paused
from bpfpin.objects.maps.codec import CPU, Row, can_add, total
from bpfpin.objects.maps.map import Map
from bpfpin.records import dataclass
from bpfpin.syscall.cpu import cpus_of_values
from bpfpin.syscall.fd import Closing

if TYPE_CHECKING:
    from bpfpin.map.query import Column, Columns

ROWS: Final = 4096  # in one batch of sorted rows
VALUES: Final = "values"

Batch = list[Row]


class Cpus(Enum):
    """How the values of a per-CPU map are shown."""

    LIST = "a list of all CPUs' values"
    TOTAL = "their sum, or a row each if they cannot be added"
    EACH = "a row each"


@dataclass(frozen=True, slots=True)
class DumpOptions:
    """Which rows to show and how.

    *where* are conditions. *sort* is the name of a column, with a leading `-` in descending order;
    *top* limits the number of rows.
    """

    where: Sequence[str] = ()
    sort: str | None = None
    top: int | None = None
    cpus: Cpus = Cpus.LIST
    raw: bool = False
    typing: Typing = AS_IT_IS


class Dump(Closing):
    """The rows of one map; they can be read more than once. Closing it closes the map."""

    def __init__(self, bpf_map: Map, options: DumpOptions, *, moment: Moment | None = None) -> None:
        self._map = bpf_map
        self._moment = moment
        self._top = options.top
        self._cpus = _possible(bpf_map, options.cpus)
        self._is_listed = bpf_map.is_per_cpu and self._cpus is Cpus.LIST
        self.stray_keys = 0
        """The number of rows so far that have a key whose padding is not zero."""
        self._is_wanted: Callable[[Row], bool] | None = None
        self._by: Column | None = None
        self._is_reversed = (options.sort or "").startswith("-")
        if options.where or options.sort:
            self._compare(options)

    def _compare(self, options: DumpOptions) -> None:
        """Prepare for the conditions and the order of the rows."""
        from bpfpin.map import query  # noqa: PLC0415  (most dumps show all entries)

        self._compared = query.compared(self._map) if self._is_listed else _unchanged
        conditions = [query.parse_condition(text, self.columns) for text in options.where]
        if conditions:
            self._is_wanted = query.all_hold(conditions)
        if options.sort:
            self._by = self.columns.named(options.sort.removeprefix("-"))
            query.require_order(self._by)
        if self._is_listed:
            compared = [condition.column for condition in conditions]
            query.check(self._map, [*compared, *filter(None, [self._by])])

    @cached_property
    def columns(self) -> Columns:
        """The columns of the rows, by name."""
        from bpfpin.map.query import Columns  # noqa: PLC0415  (only for CSV, conditions and order)

        return Columns.of(self._map, has_cpu=self._cpus is Cpus.EACH)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parts of a row."""
        if self._cpus is Cpus.EACH:
            return KEY, CPU, VALUE
        return KEY, VALUES if self._is_listed else VALUE

    @property
    def is_filtered(self) -> bool:
        """Whether there are conditions."""
        return self._is_wanted is not None

    def close(self) -> None:
        """Close the map."""
        self._map.close()

    def batches(self) -> Iterator[Batch]:
        """Yield the rows, some thousand at a time.

        `BusyError` at the end if meanwhile another map was pinned at the path: a migration may
        have moved entries before they were read. A reload that keeps the map does not matter.
        """
        # Rows are millions of small objects without cycles: the collector would double the time.
        with collector_paused(self._map.max_entries), usage_errors(self._map):
            if self._by:
                yield from _in_batches(self._sorted(self._by))
            elif self._top is not None:
                yield from _in_batches(islice(self._rows(), self._top))
            else:
                yield from self._selected()
        # Only now: the rows are out already, so all that is left is to say that they are not whole.
        if self._moment and not self._moment.lasts:
            raise BusyError(
                f"map {self._map.name!r} (id {self._map.id}) lost its name while it was read, and"
                " its contents may have moved to another one",
                hint="read it again",
            )

    def _rows(self) -> Iterator[Row]:
        return chain.from_iterable(self._selected())

    def _selected(self) -> Iterator[Batch]:
        to_rows = _TO_ROWS[self._cpus] if self._map.is_per_cpu else None
        for batch in self._map.lookup_batch():
            rows: Batch = to_rows(batch) if to_rows else batch
            if self._is_wanted:
                rows = [row for row in rows if self._is_wanted(self._compared(row))]
            if rows:
                self.stray_keys += sum(isinstance(row[0], StrayBytes) for row in rows)
                yield rows

    def _sorted(self, by: Column) -> Iterable[Row]:
        from bpfpin.map.query import order  # noqa: PLC0415  (few dumps are sorted)

        def key(row: Row) -> Any:
            return order(by.of(self._compared(row)))

        if self._top is None:
            return sorted(self._rows(), key=key, reverse=self._is_reversed)
        # Both keep N rows, and break ties as `sorted` does.
        take = heapq.nlargest if self._is_reversed else heapq.nsmallest
        return take(self._top, self._rows(), key=key)


def key_bytes(key: Any) -> bytes | None:
    """Return all bytes of a key whose padding is not zero; None for other keys."""
    return key_bytes_of(key)


def open_dump(target: str, options: DumpOptions) -> Dump:
    """Open the map that *target* names; the caller closes the dump.

    `UsageError` for a field that the map does not have, and for a map without keys.
    """
    # The moment before the map: if a migration comes in between, the moment does not last.
    moment = moment_of(target)
    bpf_map = open_typed(target, raw=options.raw, typing=options.typing)
    try:
        require_entries(bpf_map)
        return Dump(bpf_map, options, moment=moment)
    except BaseException:
        # Also on Ctrl-C: the caller has no dump yet that it could close.
        bpf_map.close()
        raise


def _possible(bpf_map: Map, cpus: Cpus) -> Cpus:
    if bpf_map.is_per_cpu:
        # A sum of texts or flags would mean nothing.
        return Cpus.EACH if cpus is Cpus.TOTAL and not can_add(bpf_map.value_codec) else cpus
    if cpus is Cpus.EACH:
        raise UsageError(f"map {bpf_map.name!r} has one value for all CPUs: without --per-cpu")
    return cpus


def _unchanged(row: Row) -> Row:
    return row


def _totals(batch: list[tuple[Any, Any]]) -> Batch:
    return [(key, total(values)) for key, values in batch]


def _row_per_cpu(batch: list[tuple[Any, Any]]) -> Batch:
    return [
        (key, cpu, value)
        for key, values in batch
        for cpu, value in zip(cpus_of_values(len(values)), values, strict=True)
    ]


_TO_ROWS: Final[dict[Cpus, Callable[[list[tuple[Any, Any]]], Batch] | None]] = {
    Cpus.LIST: None,
    Cpus.TOTAL: _totals,
    Cpus.EACH: _row_per_cpu,
}


def _in_batches(rows: Iterable[Row]) -> Iterator[Batch]:
    left = iter(rows)
    while batch := list(islice(left, ROWS)):
        yield batch
