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
from bpfpin.cli.stats_text import amounts, clock, label, shown, sparkline

HISTORY = 32  # intervals of a sparkline
COLUMNS = ("packets", "pkts/s", "bytes", "Mbit/s")


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
            table = _table(last, history, title=title, said=said)
            live.update(table, refresh=True)


def _table(interval: Interval, history: dict[str, deque[float]], *, title: str, said: str) -> Table:
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
    table.add_column("")
    for row in shown(interval.rows):
        name = label(row)
        table.add_row(name, *amounts(row), sparkline(list(history[name])))
    return table
