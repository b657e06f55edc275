"""`bpfpin prog stats`: how often programs run, how long, and their share of a CPU."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import RECORDS, Report
from bpfpin.cli.live import clock
from bpfpin.cli.options import interval_option
from bpfpin.cli.output import Output
from bpfpin.host.named import type_word
from bpfpin.host.program_stats import ProgramRate, ProgramStats, watch_programs

FC = TypeVar("FC", bound=Callable[..., Any])
_LINE = "{:<8} {:>7} {:<16} {:<16} {:>12} {:>9} {:>8}"
HEADER = _LINE.format("time", "id", "name", "type", "runs/s", "ns/run", "% CPU")


def measuring_options(command: FC) -> FC:
    """Give a verb the programs that it measures, how often, and how many times."""
    count = click.option(
        "--count",
        metavar="N",
        type=click.IntRange(min=1),
        help="End after N intervals (with -o json: 1, else no end).",
    )
    programs = click.argument("programs", metavar="[PROG]…", nargs=-1)
    return programs(interval_option()(count(command)))


def measured(
    context: Context, programs: tuple[str, ...], interval_s: float, count: int | None
) -> Iterator[ProgramStats]:
    """Yield the statistics of each interval; say which programs were unloaded in it."""
    for stats in watch_programs(
        programs, pin_root=context.pin_root, interval_s=interval_s, count=count
    ):
        for program_id in stats.gone:
            context.out.say(f"program {program_id} is unloaded")
        yield stats


def rate_members(rate: ProgramRate) -> dict[str, object]:
    """Return the members of a document that a program in an interval has."""
    info, average = rate.info, rate.average_ns
    return {
        "id": info.id,
        "name": info.name,
        "type": type_word(info.type),
        "runs": rate.runs,
        "run_time_ns": rate.run_time_ns,
        "runs_per_second": round(rate.runs_per_second, 3),
        "average_ns": None if average is None else round(average, 1),
        "cpu_share": round(rate.cpu_share, 9),
    }


@bpfpin_command("stats", outputs=RECORDS)
@measuring_options
def command(
    context: Context, *, programs: tuple[str, ...], interval: float, count: int | None
) -> None:
    """Show how often programs run and how long: those that ran, or each PROG.

    Turns the kernel's statistics on while it measures (BPF_ENABLE_STATS), which costs each run of
    any program some tens of nanoseconds. The share is that of one CPU: 8 busy CPUs are 800 %.
    """
    read = functools.partial(measured, context, programs, interval)
    # Ctrl-C is the usual end of a verb that has none: exit status 0.
    with contextlib.suppress(KeyboardInterrupt):
        context.out.show(
            Report(
                # One document has an end, so without --count it is one interval.
                lambda: {"rows": list(_records(read(count or 1)))},
                lambda out: _write(out, read(count)),
                records=lambda: _records(read(count)),
            )
        )


def _write(out: Output, samples: Iterable[ProgramStats]) -> None:
    has_header = False
    for stats in samples:
        if not has_header:
            out.text(HEADER)
            has_header = True
        end = clock(stats.wall_time_s)
        lines = [_line(end, rate) for rate in stats.rates]
        out.text("\n".join(lines or [f"{end} no program ran"]))


def _line(end: str, rate: ProgramRate) -> str:
    info, average = rate.info, rate.average_ns
    return _LINE.format(
        end,
        info.id,
        info.name or "-",
        type_word(info.type),
        f"{rate.runs_per_second:,.1f}",
        "-" if average is None else f"{average:,.0f}",
        f"{rate.cpu_share * 100:.3f}",
    )


def _records(samples: Iterable[ProgramStats]) -> Iterator[dict[str, object]]:
    """Yield a document for each program of each interval."""
    for stats in samples:
        for rate in stats.rates:
            yield {"time": round(stats.wall_time_s, 6), **rate_members(rate)}
