"""A bar on stderr while many objects are checked; only where a person looks on."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from bpfpin.apps.check.report import CheckReport
from bpfpin.cli.output import Output, escape

Advance = Callable[[CheckReport], CheckReport]


@contextlib.contextmanager
def shown_progress(out: Output, total: int) -> Iterator[Advance]:
    """Show a bar of *total* objects, which what is yielded moves on by the report that it takes.

    There is none for one object, with `-q`, and where stderr is no terminal.
    """
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if total < 2 or out.is_quiet or not is_terminal:
        yield lambda report: report
        return
    from rich.console import Console  # noqa: PLC0415 - 40 ms, only where a bar is drawn
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)

        def advance(report: CheckReport) -> CheckReport:
            bar.update(task, advance=1, description=escape(report.path))
            return report

        yield advance
