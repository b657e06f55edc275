"""The live table of counters on a terminal."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable

from rich.live import Live
from rich.table import Table
from rich.text import Text

from bpfpin.apps.stats import Interval
from bpfpin.cli.output import Output, escape
from bpfpin.cli.stats_text import amounts, label, shown, sparkline

HISTORY = 32  # intervals of a sparkline
COLUMNS = ("packets", "pkts/s", "bytes", "Mbit/s")


def show_live(out: Output, intervals: Iterable[Interval], *, title: str) -> None:
    """Redraw a table with each of *intervals*, until they end; the last one stays."""
    history: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=HISTORY))
    with Live(console=out.console(), auto_refresh=False) as live:
        for interval in intervals:
            for row in interval.rows:
                history[label(row)].append(row.packets_per_second)
            live.update(_table(interval, history, Text(escape(title))), refresh=True)


def _table(interval: Interval, history: dict[str, deque[float]], title: Text) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("action", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for row in shown(interval.rows):
        name = label(row)
        table.add_row(name, *amounts(row), sparkline(list(history[name])))
    return table
