"""`bpfpin prog run`: a program on test packets, and its answer."""

from __future__ import annotations

from collections.abc import Iterator

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import RECORDS, Report
from bpfpin.cli.options import complete_devices
from bpfpin.cli.output import Output
from bpfpin.errors import UsageError
from bpfpin.host.named import type_word
from bpfpin.host.program_run import (
    REPEAT_MAX,
    ProgramRun,
    RunOptions,
    RunResult,
    read_input,
    read_pcap,
    run_program,
    write_output,
)


@bpfpin_command("run", outputs=RECORDS)
@click.argument("program", metavar="PROG")
@click.option("--data", metavar="FILE|hex:BYTES", help="The packet, with its Ethernet header.")
@click.option("--pcap", metavar="FILE", help="Run it on each packet of a pcap file.")
@click.option("--context", "context_", metavar="FILE|hex:BYTES", help="The context.")
@click.option(
    "--dev",
    "device",
    metavar="DEV",
    shell_complete=complete_devices,
    help="The device by which XDP packets come.",
)
@click.option(
    "--repeat",
    metavar="N",
    type=click.IntRange(1, REPEAT_MAX),
    default=1,
    help="Run it so often; the time is the average.",
)
@click.option("--cpu", metavar="N", type=click.IntRange(0), help="Run it on this CPU.")
@click.option("--data-out", metavar="FILE", help="Write the packet as the program left it.")
@click.option("--context-out", metavar="FILE", help="Write the context as the program left it.")
@click.option(
    "--live", is_flag=True, help="Really pass, send and redirect the packets of an XDP program."
)
@click.option(
    "--batch", metavar="N", type=click.IntRange(1, 256), help="Live frames handled at once (64)."
)
def command(
    context: Context,
    *,
    program: str,
    data: str | None,
    pcap: str | None,
    context_: str | None,
    device: str | None,
    repeat: int,
    cpu: int | None,
    data_out: str | None,
    context_out: str | None,
    live: bool,
    batch: int | None,
) -> None:
    """Run PROG on a packet and show what it returns: a path, SET/PROGRAM, id:N or name:NAME.

    Nothing is sent or received, but maps are changed as by any packet. With --live the packets are
    real: XDP_PASS delivers them as if DEV had received them, XDP_TX and XDP_REDIRECT send them.
    """
    if data is not None and pcap is not None:
        raise UsageError("--data and --pcap: give one of them")
    packets = [] if data is None else [read_input(data)]
    if pcap is not None:
        packets, cut = read_pcap(pcap)
        if cut:
            context.out.say(f"note: {cut} of {len(packets)} packets were cut when captured")
        if not packets:
            raise UsageError(f"{pcap}: it has no packets")
    if live and (data_out or context_out):
        raise UsageError("with --live the packets leave: there is no --data-out or --context-out")
    options = RunOptions(
        context=read_input(context_) if context_ is not None else b"",
        device=device or "",
        repeat=repeat,
        cpu=cpu,
        is_live=live,
        batch_size=batch or 0,
    )
    run = run_program(program, packets, options, pin_root=context.pin_root)
    if data_out:
        write_output(data_out, [result.answer.data for result in run.results], is_pcap=bool(pcap))
    if context_out:
        write_output(context_out, [run.results[-1].answer.context], is_pcap=False)
    context.out.show(
        Report(
            lambda: {"program": _program(run), "runs": list(_records(run, is_live=live))},
            lambda out: _write(out, run, is_live=live),
            records=lambda: _records(run, is_live=live),
        )
    )


def _program(run: ProgramRun) -> dict[str, object]:
    return {"id": run.info.id, "name": run.info.name, "type": type_word(run.info.type)}


def _records(run: ProgramRun, *, is_live: bool) -> Iterator[dict[str, object]]:
    for number, result in enumerate(run.results, start=1):
        record: dict[str, object] = {"packet": number, "duration_ns": result.answer.duration_ns}
        if not is_live:
            record |= {
                "return_value": result.return_value,
                "verdict": result.verdict or None,
                "data": result.answer.data,
                "context": result.answer.context,
            }
        yield record


def _write(out: Output, run: ProgramRun, *, is_live: bool) -> None:
    for number, result in enumerate(run.results, start=1):
        which = f"packet {number}: " if len(run.results) > 1 else ""
        time = f"{result.answer.duration_ns} ns"
        words = ["handled live"] if is_live else [_verdict(result), *_change(result)]
        out.text(f"{which}{', '.join([*words, time])}")


def _verdict(result: RunResult) -> str:
    value = result.return_value
    return f"{result.verdict} ({value})" if result.verdict else f"returned {value}"


def _change(result: RunResult) -> Iterator[str]:
    before, after = result.packet, result.answer.data
    if not before or before == after:
        return
    if len(before) != len(after):
        yield f"data changed from {len(before)} to {len(after)} bytes"
    else:
        yield f"data changed, {len(after)} bytes"
