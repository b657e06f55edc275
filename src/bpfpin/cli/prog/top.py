"""`bpfpin prog top`: the programs that take the most time, in a table that refreshes."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from typing import TYPE_CHECKING, Final

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import RECORDS, Report
from bpfpin.cli.live import clock
from bpfpin.cli.output import Output, escape
from bpfpin.cli.prog.stats import measured, measuring_options, rate_members
from bpfpin.host.named import type_word
from bpfpin.host.program_stats import ProgramRate, ProgramStats
from bpfpin.records import dataclass

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS: Final = ("id", "name", "type", "runs/s", "ns/run", "% CPU", "time")
_TEXTS: Final = ("name", "type")
_LINE: Final = "{:>7} {:<16} {:<16} {:>13} {:>9} {:>8} {:>10}"
_MARGIN: Final = 3  # lines of the screen that are not rows: title, header, the last line


@dataclass(frozen=True)
class TopRow:
    """A program in an interval; *total_ns* is its run time since the beginning."""

    rate: ProgramRate
    total_ns: int

    def cells(self) -> tuple[str, ...]:
        """Return the cells of its row, in the order of `COLUMNS`."""
        info, average = self.rate.info, self.rate.average_ns
        return (
            str(info.id),
            info.name or "-",
            type_word(info.type),
            f"{self.rate.runs_per_second:,.1f}",
            "-" if average is None else f"{average:,.0f}",
            f"{self.rate.cpu_share * 100:.3f}",
            f"{self.total_ns / 1e9:,.3f} s",
        )

    def to_json(self) -> dict[str, object]:
        """Return it as a member of a document."""
        return {**rate_members(self.rate), "total_run_time_ns": self.total_ns}


ORDERS: Final[dict[str, Callable[[TopRow], float]]] = {
    "cpu": lambda row: row.rate.cpu_share,
    "runs": lambda row: row.rate.runs,
    "average": lambda row: row.rate.average_ns or 0,
    "time": lambda row: row.total_ns,
}


@dataclass(frozen=True)
class Frame:
    """What is shown of one interval: its rows in order, of *programs* in all."""

    wall_time_s: float
    rows: list[TopRow]
    programs: int
    cpu_share: float

    @property
    def title(self) -> str:
        """Return the line above the table."""
        ran = f"{self.programs} programs ran" if self.programs != 1 else "1 program ran"
        return f"{clock(self.wall_time_s)}  {ran}: {self.cpu_share * 100:.3f} % of a CPU"

    def to_json(self) -> dict[str, object]:
        """Return it as a document."""
        return {
            "time": round(self.wall_time_s, 6),
            "cpu_share": round(self.cpu_share, 9),
            "programs": [row.to_json() for row in self.rows],
        }


@dataclass
class Ranking:
    """Puts the programs of each interval into an order, and adds up their run times."""

    order: str
    limit: int | None
    totals: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def frame(self, stats: ProgramStats) -> Frame:
        """Return the frame of an interval, with *limit* rows at most."""
        for rate in stats.rates:
            self.totals[rate.info.id] += rate.run_time_ns
        rows = [TopRow(rate, self.totals[rate.info.id]) for rate in stats.rates]
        # A stable sort: equal ones stay in the order of their share of a CPU.
        rows.sort(key=ORDERS[self.order], reverse=True)
        return Frame(
            stats.wall_time_s,
            rows[: self.limit],
            sum(1 for rate in stats.rates if rate.runs),
            sum(rate.cpu_share for rate in stats.rates),
        )


@bpfpin_command("top", outputs=RECORDS)
@measuring_options
@click.option(
    "--sort",
    "order",
    type=click.Choice(list(ORDERS)),
    default="cpu",
    show_default=True,
    help="Share of a CPU, runs, average time of a run, or time since the beginning.",
)
@click.option(
    "--rows",
    metavar="N",
    type=click.IntRange(min=1),
    help="Show N programs at most; on a terminal as many as fit, else all.",
)
def command(
    context: Context,
    *,
    programs: tuple[str, ...],
    interval: float,
    count: int | None,
    order: str,
    rows: int | None,
) -> None:
    """Show the programs that take the most time, in a table that is drawn anew each interval.

    All that ran, or each PROG. The share is that of one CPU: 8 busy CPUs are 800 %. The last column
    is the time that a program took since the beginning. The kernel counts only while this runs
    (BPF_ENABLE_STATS), which costs each run of any program some tens of nanoseconds.
    """
    out = context.out
    ranking = Ranking(order, rows)

    def frames(number: int | None) -> Iterator[Frame]:
        for stats in measured(context, programs, interval, number):
            yield ranking.frame(stats)

    # Ctrl-C is the usual end of a verb that has none: exit status 0.
    with contextlib.suppress(KeyboardInterrupt):
        out.show(
            Report(
                # One document has an end, so without --count it is one interval.
                lambda: {"frames": [frame.to_json() for frame in frames(count or 1)]},
                lambda out: _write(out, frames(count)),
                records=lambda: (frame.to_json() for frame in frames(count)),
            )
        )


def _write(out: Output, frames: Iterable[Frame]) -> None:
    # Redrawn only on a terminal: a file would get the codes that move the cursor.
    if out.is_live:
        _show_live(out, frames)
        return
    for number, frame in enumerate(frames):
        lines = [frame.title, _LINE.format(*COLUMNS)]
        lines += [_LINE.format(*row.cells()) for row in frame.rows]
        out.text("\n".join([*([""] if number else []), *lines]))


def _show_live(out: Output, frames: Iterable[Frame]) -> None:
    from rich.live import Live  # noqa: PLC0415 - 40 ms, only on terminals

    # Without the thread that redraws by itself: nothing changes between two intervals.
    with Live(console=out.console(), auto_refresh=False) as live:
        for frame in frames:
            room = max(1, live.console.height - _MARGIN)
            live.update(_table(frame, room), refresh=True)


def _table(frame: Frame, room: int) -> Table:
    from rich.table import Table  # noqa: PLC0415 - 40 ms, only on terminals
    from rich.text import Text  # noqa: PLC0415 - likewise

    table = Table(title=Text(frame.title), title_justify="left", box=None, pad_edge=False)
    for column in COLUMNS:
        is_text = column in _TEXTS
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    for row in frame.rows[:room]:
        table.add_row(*(Text(escape(cell)) for cell in row.cells()))
    return table
