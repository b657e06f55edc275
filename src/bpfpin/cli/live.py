"""The live table of counters on a terminal."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

from rich.live import Live
from rich.table import Table
from rich.text import Text

from bpfpin.apps.stats import Found, Interval, Row
from bpfpin.cli.output import Output, escape

BARS = "▁▂▃▄▅▆▇█"
COLUMNS = ("packets", "pkts/s", "bytes", "Mbit/s")
FEW_ROWS = 8  # of more rows only those that have counted something are shown
HISTORY = 32  # intervals of a sparkline


# Counters as text: numbers with units, sparklines, and the block of lines of one interval.


def sparkline(rates: Sequence[float]) -> str:
    """Return *rates* as bars, the highest of them full; 0 is the lowest bar."""
    top = max(rates, default=0.0)
    if top <= 0:
        return BARS[0] * len(rates)
    return "".join(BARS[round(rate / top * (len(BARS) - 1))] for rate in rates)


def label(row: Row) -> str:
    """Return what the row is called."""
    return row.action if row.cpu is None else f"{row.action} cpu {row.cpu}"


def shown(rows: Iterable[Row]) -> list[Row]:
    """Return the rows worth a line: all of a few, else those that have counted something."""
    every = list(rows)
    few = len({row.action for row in every}) <= FEW_ROWS and all(row.cpu is None for row in every)
    return every if few else [row for row in every if row.packets]


def amounts(row: Row) -> tuple[str, str, str, str]:
    """Return packets, packets a second, bytes and Mbit a second."""
    in_bytes = "-" if row.bytes is None else f"{row.bytes:,}"
    rate = row.bytes_per_second
    mbits = "-" if rate is None else f"{rate * 8 / 1e6:,.3f}"
    return f"{row.packets:,}", f"{row.packets_per_second:,.1f}", in_bytes, mbits


def clock(wall_time_s: float) -> str:
    """Return a moment as local time."""
    return time.strftime("%H:%M:%S", time.localtime(wall_time_s))


def header() -> str:
    """Return the line above the rows of `block`."""
    return _line("time", "action", *COLUMNS)


def block(interval: Interval) -> list[str]:
    """Return the lines of one interval: its end as local time, then a row an action."""
    end = clock(interval.wall_time_s)
    lines = [_line(end, label(row), *amounts(row)) for row in shown(interval.rows)]
    return lines or [f"{end} nothing counted yet"]


def _line(*cells: str) -> str:
    """Return a row of 79 columns, more where a number is very large."""
    return "{:<8} {:<12} {:>13} {:>12} {:>18} {:>11}".format(*cells)


def show_live(out: Output, found: Iterable[Found], *, title: str) -> None:
    """Redraw a table with each interval *found*, until they end; the last one stays.

    What was announced last stands below it.
    """
    history: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=HISTORY))
    last, said = Interval(0.0, 0.0, ()), ""
    with Live(console=out.console(), auto_refresh=False) as live:
        for one in found:
            if isinstance(one, Interval):
                last = one
                for row in one.rows:
                    history[label(row)].append(row.packets_per_second)
            else:
                said = f"{clock(time.time())}  {one}"
            table = _table(last, history, title=title, said=said, width=live.console.width)
            live.update(table, refresh=True)


def _table(
    interval: Interval,
    history: dict[str, deque[float]],
    *,
    title: str,
    said: str,
    width: int,
) -> Table:
    table = Table(
        title=Text(escape(title)),
        title_justify="left",
        caption=Text(escape(said)) if said else None,
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("action", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    rows = [(label(row), *amounts(row)) for row in shown(interval.rows)]
    columns = zip(("action", *COLUMNS), *rows, strict=True)
    # The numbers come first: a sparkline is as long as the rest of the line.
    room = max(0, width - sum(max(map(len, column)) + 1 for column in columns))
    for row in rows:
        rates = list(history[row[0]])
        table.add_row(*row, sparkline(rates[len(rates) - min(room, len(rates)) :]))
    return table
