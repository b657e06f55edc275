"""Counters as text, and the live table of them on a terminal."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bpfpin.apps.stats import CounterRate, Interval, StatsItem
from bpfpin.cli.output import Output, escape

if TYPE_CHECKING:
    from rich.table import Table

# Eighths of a block, U+2581 to U+2588, from an eighth to a whole.
BARS = "▁▂▃▄▅▆▇█"
COLUMNS = ("packets", "pkts/s", "bytes", "Mbit/s")
FEW_ROWS = 8  # of more rows only those with packets are shown
HISTORY = 32  # intervals of a sparkline


def sparkline(rates: Sequence[float]) -> str:
    """Return *rates* as bars; the highest rate is a full bar, 0 the lowest bar."""
    top = max(rates, default=0.0)
    if top <= 0:
        return BARS[0] * len(rates)
    return "".join(BARS[round(rate / top * (len(BARS) - 1))] for rate in rates)


def label(row: CounterRate) -> str:
    """Return the name of a row."""
    return row.action if row.cpu is None else f"{row.action} cpu {row.cpu}"


def shown(rows: Iterable[CounterRate]) -> list[CounterRate]:
    """Return the rows to show: all if they are few, else those with packets."""
    rows = list(rows)
    # The five XDP actions are all shown: that nothing was dropped is worth a row.
    is_few = len({row.action for row in rows}) <= FEW_ROWS and all(row.cpu is None for row in rows)
    return rows if is_few else [row for row in rows if row.packets]


def amounts(row: CounterRate) -> tuple[str, str, str, str]:
    """Return packets, packets/s, bytes and Mbit/s as text."""
    in_bytes = "-" if row.bytes is None else f"{row.bytes:,}"
    rate = row.bytes_per_second
    # Powers of ten, as networks are measured; 8 bits a byte.
    mbits = "-" if rate is None else f"{rate * 8 / 1e6:,.3f}"
    return f"{row.packets:,}", f"{row.packets_per_second:,.1f}", in_bytes, mbits


def clock(wall_time_s: float) -> str:
    """Return a time of day in the local time zone."""
    return time.strftime("%H:%M:%S", time.localtime(wall_time_s))


def header() -> str:
    """Return the line above the rows of `block`."""
    return _line("time", "action", *COLUMNS)


def block(interval: Interval) -> list[str]:
    """Return the lines of one interval: its end in local time, and a row for each action."""
    end = clock(interval.wall_time_s)
    lines = [_line(end, label(row), *amounts(row)) for row in shown(interval.rows)]
    return lines or [f"{end} nothing counted yet"]


def _line(*cells: str) -> str:
    """Return a row of 79 columns, or more if a number is very large."""
    return "{:<8} {:<12} {:>13} {:>12} {:>18} {:>11}".format(*cells)


def show_live(out: Output, events: Iterable[StatsItem], *, title: str) -> None:
    """Redraw a table for each interval of *events*; the last table stays.

    The last event that is not an interval is shown below the table.
    """
    from rich.live import Live  # noqa: PLC0415 - 40 ms, only on terminals

    history: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=HISTORY))
    last, message = Interval(0.0, 0.0, ()), ""
    # Without the thread that redraws by itself: nothing changes between two intervals.
    with Live(console=out.console(), auto_refresh=False) as live:
        for event in events:
            if isinstance(event, Interval):
                last = event
                for row in event.rows:
                    history[label(row)].append(row.packets_per_second)
            else:
                message = f"{clock(time.time())}  {event}"
            table = _table(last, history, title=title, message=message, width=live.console.width)
            live.update(table, refresh=True)


def _table(
    interval: Interval,
    history: dict[str, deque[float]],
    *,
    title: str,
    message: str,
    width: int,
) -> Table:
    from rich.table import Table  # noqa: PLC0415 - 40 ms, only on terminals
    from rich.text import Text  # noqa: PLC0415 - likewise

    table = Table(
        title=Text(escape(title)),
        title_justify="left",
        caption=Text(escape(message)) if message else None,
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
    # A sparkline gets the rest of the line, after the numbers.
    room = max(0, width - sum(max(map(len, column)) + 1 for column in columns))
    for row in rows:
        rates = list(history[row[0]])
        table.add_row(*row, sparkline(rates[len(rates) - min(room, len(rates)) :]))
    return table
