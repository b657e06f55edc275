"""`bpfpin prog log`: what programs write, by bpf_printk or to their own streams."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import RECORDS, Report
from bpfpin.cli.output import Output
from bpfpin.host.program_log import LostText, StreamText, TraceText, stream_texts, trace_texts


@bpfpin_command("log", outputs=RECORDS)
@click.argument("programs", metavar="[PROG]…", nargs=-1)
@click.option("--now", is_flag=True, help="Print the present lines and end (-o json does so too).")
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after N lines.")
def command(context: Context, *, programs: tuple[str, ...], now: bool, count: int | None) -> None:
    """Print what programs write: by bpf_printk, or of each PROG its streams.

    Without PROG, it reads the trace pipe of the host, into which bpf_printk() of all programs
    writes. With PROG, it reads what these programs wrote with bpf_stream_printk() (stdout) and what
    the kernel reports about them (stderr; Linux 6.17). Each line is given to one reader only.
    """
    out = context.out

    def read(*, is_following: bool) -> Iterator[TraceText | StreamText]:
        texts: Iterator[TraceText | LostText | StreamText]
        if programs:
            texts = stream_texts(programs, pin_root=context.pin_root, is_following=is_following)
        else:
            texts = trace_texts(is_following=is_following)
        return itertools.islice(_announced(out, texts), count)

    # Ctrl-C is the usual end of a verb that has none: exit status 0.
    with contextlib.suppress(KeyboardInterrupt):
        out.show(
            Report(
                # One document has an end: --count, or the present lines.
                lambda: {"lines": list(map(_to_json, read(is_following=bool(count) and not now)))},
                lambda out: _write(out, read(is_following=not now)),
                records=lambda: map(_to_json, read(is_following=not now)),
            )
        )


def _announced(
    out: Output, texts: Iterable[TraceText | LostText | StreamText]
) -> Iterator[TraceText | StreamText]:
    """Yield the texts, and say on stderr which events were lost."""
    for text in texts:
        if isinstance(text, LostText):
            out.say(f"note: {text.text}")
        else:
            yield text


def _write(out: Output, texts: Iterable[TraceText | StreamText]) -> None:
    for text in texts:
        if isinstance(text, TraceText):
            out.text(f"{text.time_s:.6f} cpu {text.cpu} {text.task}-{text.pid}: {text.text}")
        else:
            out.text(f"{text.program_id}:{text.program} {text.stream}: {text.text}")


def _to_json(text: TraceText | StreamText) -> dict[str, object]:
    if isinstance(text, TraceText):
        return {
            "time_since_boot_s": text.time_s,
            "cpu": text.cpu,
            "task": text.task,
            "pid": text.pid,
            "text": text.text,
        }
    return {
        "program": {"id": text.program_id, "name": text.program},
        "stream": text.stream,
        "text": text.text,
    }
