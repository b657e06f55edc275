"""`bpfpin load`: load an object, attach it, pin its maps."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import click

from bpfpin.apps.choose import parse_hook
from bpfpin.apps.deploy import deploy, require_devices
from bpfpin.apps.reports import LoadReport, LoadResult
from bpfpin.apps.sources import DEFAULT_SOURCE
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.size import SIZE
from bpfpin.errors import UsageError
from bpfpin.spec import XdpMode


@bpfpin_command("load")
@click.argument("obj", metavar="[OBJ]", default=DEFAULT_SOURCE)
@click.option("--dev", "devices", metavar="DEV", multiple=True, help="The device; repeatable.")
@click.option(
    "--prog",
    "programs",
    metavar="NAME[:HOOK]",
    multiple=True,
    help="Attach this program; by default all whose section names a hook.",
)
@click.option("--hook", metavar="HOOK", help="Where programs go whose section does not say it.")
@click.option("--type", "program_type", metavar="TYPE", help="What programs in free sections are.")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in XdpMode]),
    default=XdpMode.AUTO.value,
    help="XDP mode; auto is native, or generic where the driver has none.",
)
@click.option("--name", metavar="NAME", help="Call the set so, and not after its device.")
@click.option("--dry-run", is_flag=True, help="Have it verified, and change nothing.")
@click.option(
    "--max-map-memory", type=SIZE, metavar="SIZE", help="Refuse maps that take more (256M)."
)
def command(
    context: Context,
    *,
    obj: str,
    devices: tuple[str, ...],
    programs: tuple[str, ...],
    hook: str | None,
    program_type: str | None,
    mode: str,
    name: str | None,
    dry_run: bool,
    max_map_memory: int | None,
) -> None:
    """Load OBJ, attach its programs to DEV, and pin its maps.

    OBJ is a file or builtin:NAME (default: builtin:xdp_stats). All of it happens, or nothing.
    """
    _check(context, devices, name)
    load = functools.partial(
        deploy,
        obj,
        mode=XdpMode(mode),
        programs=programs,
        hook=parse_hook(hook) if hook else None,
        program_type=program_type,
        name=name,
        netns=context.netns,
        pin_root=context.pin_root,
        lock_timeout_s=context.lock_timeout_s,
        dry_run=dry_run,
    )
    if max_map_memory is not None:
        load = functools.partial(load, max_map_memory=max_map_memory)
    reports: list[LoadReport] = []
    for device in dict.fromkeys(devices):
        with load(device=device) as deployment:
            reports.append(deployment.report)
        _say(context, deployment.report)
    if context.out.is_json:
        context.out.document(_document(reports))


def _check(context: Context, devices: tuple[str, ...], name: str | None) -> None:
    """Refuse what cannot be meant, and missing devices, before anything is changed."""
    if not devices:
        raise UsageError("where to load it? No device was named", hint="bpfpin load --dev DEV")
    if name and len(set(devices)) > 1:
        raise UsageError(
            "--name names one set, and several devices make several",
            hint="one load for each device",
        )
    require_devices(devices, netns=context.netns)


def _document(reports: list[LoadReport]) -> dict[str, object]:
    if len(reports) == 1:
        return reports[0].to_json()
    results = {report.result.value for report in reports}
    result = results.pop() if len(results) == 1 else LoadResult.LOADED.value
    return {"result": result, "sets": [report.to_json() for report in reports]}


def _say(context: Context, report: LoadReport) -> None:
    for note in _notes(report):
        context.out.say(f"note: {note}")
    following = "" if report.is_planned else f"; see: bpfpin stats {report.set}"
    attached = [program for program in report.programs if program.hook]
    for program in attached:
        place = f"{program.device} ({program.mode})"
        sentence = _SENTENCES[report.result].format(name=program.name, place=place)
        context.out.say(sentence + (following if program is attached[-1] else ""))
    for held in report.maps:
        decision = held.decision.value if held.decision else ""
        context.out.detail(f"map {held.name} (id {held.id or 'none yet'}) {decision}: {held.path}")


def _notes(report: LoadReport) -> Iterator[str]:
    yield from report.notes
    yield from (program.note for program in report.programs if program.note)


_SENTENCES = {
    LoadResult.LOADED: "loaded {name} on {place}",
    LoadResult.RELOADED: "reloaded {name} on {place}",
    LoadResult.UNCHANGED: "unchanged: {name} was loaded on {place} before",
    LoadResult.PLANNED: "planned: {name} was verified and would be loaded on {place}",
}
