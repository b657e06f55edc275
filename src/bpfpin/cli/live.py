"""The live table of counters on a terminal."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable

from rich.live import Live
from rich.table import Table
from rich.text import Text

from bpfpin.apps.stats import Found, Interval
from bpfpin.cli.output import Output, escape
from bpfpin.cli.stats_text import COLUMNS, amounts, clock, label, shown, sparkline

HISTORY = 32  # intervals of a sparkline


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
