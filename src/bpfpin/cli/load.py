"""`bpfpin load`: load an object, attach it, pin its maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from bpfpin.apps.stats import has_counters
from bpfpin.cli.context import Context, bpfpin_command, private_mount_option
from bpfpin.cli.migrate import migrate_options, migrated_lines, taken
from bpfpin.cli.options import MODE, SIZE, complete_devices
from bpfpin.cli.verifier_log import log_file_option, told
from bpfpin.errors import UsageError
from bpfpin.map.open import path_of
from bpfpin.sets.choose import DEFAULT_CGROUP_SOURCE, DEFAULT_SOURCE, parse_hook
from bpfpin.sets.given_maps import parse_map_words, parse_pinning_words
from bpfpin.sets.load.deploy import deploy_all, require_devices
from bpfpin.sets.reports import LoadReport, LoadResult, ProgramReport
from bpfpin.sets.request import parse_order
from bpfpin.sets.variables import parse_set_words
from bpfpin.spec import XdpMode


def _parsed(parse: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Make a click callback that hands on what *parse* makes of an option that was typed."""
    return lambda _ctx, _parameter, value: None if value is None else parse(value)


@bpfpin_command("load")
@click.argument("obj", metavar="[OBJ]", default="")
@click.option(
    "--dev",
    "devices",
    metavar="DEV",
    multiple=True,
    help="The device; repeatable.",
    shell_complete=complete_devices,
)
@click.option(
    "--cgroup",
    "cgroups",
    metavar="PATH",
    multiple=True,
    help="The cgroup, a folder of cgroup2; repeatable.",
)
@click.option(
    "--prog",
    "programs",
    metavar="NAME[:HOOK]",
    multiple=True,
    help="Attach this program; by default all whose section names a hook.",
)
@click.option(
    "--hook",
    metavar="HOOK",
    callback=_parsed(parse_hook),
    help="Where programs go whose section does not say it.",
)
@click.option("--type", "program_type", metavar="TYPE", help="What programs in free sections are.")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in XdpMode]),
    default=XdpMode.AUTO.value,
    callback=_parsed(XdpMode),
    help="XDP mode; auto is native, or generic where the driver has none.",
)
@click.option(
    "--order",
    metavar="WHERE",
    callback=_parsed(parse_order),
    help="Where among the programs of tcx: first, last, before:ID, after:ID (program ids).",
)
@click.option("--name", metavar="NAME", help="Call the set so, and not after its place.")
@click.option(
    "--map",
    "maps",
    metavar="NAME=PATH|NAME=id:N|idx:I=…",
    multiple=True,
    callback=_parsed(parse_map_words),
    help="Use that map for NAME; repeatable.",
)
@click.option(
    "--pinning",
    metavar="NAME=none|by-name",
    multiple=True,
    callback=_parsed(parse_pinning_words),
    help="Pin map NAME so, whatever the object asks for; repeatable.",
)
@click.option(
    "--set",
    "variables",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_parsed(parse_set_words),
    help="Let this global variable start with VALUE; repeatable.",
)
@click.option(
    "--fresh",
    metavar="NAME|all",
    multiple=True,
    help="Start this map empty on a reload, which keeps all that fit.",
)
@migrate_options
@click.option("--replace", is_flag=True, help="Also for an unrelated object or another device.")
@click.option("--take-over", is_flag=True, help="Also where somebody else's program is attached.")
@click.option("--dry-run", is_flag=True, help="Have it verified, show the plan, change nothing.")
@click.option(
    "--confirm",
    "confirm_s",
    type=click.IntRange(1, 86400),
    metavar="SECONDS",
    help="Take it back after that, unless `bpfpin confirm` comes.",
)
@click.option("--force", is_flag=True, help="Also what would cut the way you came in by.")
@click.option("--group", metavar="GROUP", help="Let this group read the maps.")
@click.option("--chmod", type=MODE, metavar="MODE", help="The mode of the map pins (0600).")
@click.option(
    "--btf",
    "kernel_btf",
    metavar="FILE",
    help="The kernel's types for CO-RE, where it does not show its own.",
)
@click.option(
    "--max-map-memory",
    type=SIZE,
    metavar="SIZE",
    help="Refuse maps that take more (a quarter of the memory).",
)
@private_mount_option
@log_file_option
def command(
    context: Context,
    *,
    obj: str,
    devices: tuple[str, ...],
    cgroups: tuple[str, ...],
    force: bool,
    log_file: Path | None,
    **words: Any,
) -> None:
    """Load OBJ, attach its programs to DEV or to a cgroup, and pin its maps; or reload.

    OBJ is a file or builtin:NAME (default: builtin:xdp_stats, for a cgroup builtin:cgroup_stats).
    All of it happens, or nothing, on several devices too. Where the set is loaded already, its maps
    are kept if they fit and the programs are switched without a gap; with --migrate what they hold
    goes over to new ones where their definition changed.
    """
    migration = taken(words)
    options = dict(words)
    _check(context, devices, cgroups)
    options["force"] = force
    options["migrate"] = migration or False
    options["netns"] = context.netns
    options["pin_root"] = context.pin_root
    options["maps"] = {
        name: path_of(source, context.pin_root) for name, source in options["maps"].items()
    }
    options["lock_timeout_s"] = context.lock_timeout_s
    source = obj or (DEFAULT_SOURCE if devices else DEFAULT_CGROUP_SOURCE)
    with told(context.out, log_file):
        deployments = deploy_all(source, devices=devices, cgroups=cgroups, **options)
    reports = [deployment.report for deployment in deployments]
    for report in reports:
        _say(context, report, names_set=len(reports) > 1)
    if context.out.is_json:
        context.out.document(_document(reports))


def _check(context: Context, devices: tuple[str, ...], cgroups: tuple[str, ...]) -> None:
    """Refuse to load nowhere, and on missing devices, before the object is read."""
    if not devices and not cgroups:
        raise UsageError(
            "where to load it? No device was named, nor a cgroup",
            hint="bpfpin load --dev DEV, or --cgroup PATH",
        )
    require_devices(devices, netns=context.netns)


def _document(reports: list[LoadReport]) -> dict[str, object]:
    if len(reports) == 1:
        return reports[0].to_json()
    results = {report.result.value for report in reports}
    result = results.pop() if len(results) == 1 else LoadResult.LOADED.value
    return {"result": result, "sets": [report.to_json() for report in reports]}


def _say(context: Context, report: LoadReport, *, names_set: bool = False) -> None:
    """Tell of one set; *names_set* says of each note which set it is about."""
    about = f"{report.set}: " if names_set else ""
    for note in _notes(report):
        context.out.say(f"note: {about}{note}")
    attached = [program for program in report.programs if program.hook]
    before = {(hook.hook, hook.program): hook.before for hook in report.hooks}
    following = "" if report.is_planned else f"; see: bpfpin {_next_verb(report)} {report.set}"
    for program in attached:
        place = _place(program)
        old = before.get((program.hook or "", program.name))
        ids = f", program id {old} -> {program.id}" if old else f", program id {program.id}"
        sentence = _SENTENCES[report.result].format(name=program.name, place=place, ids=ids)
        context.out.say(sentence + (following if program is attached[-1] else ""))
    for line in migrated_lines(report):
        context.out.say(line)
    tell = context.out.say if report.is_planned else context.out.detail
    for line in _plan_lines(report):
        tell(line)


def _next_verb(report: LoadReport) -> str:
    """Return the verb that shows something of the set: `stats` only where it has counters."""
    return "stats" if has_counters(report.path) else "status"


def _place(program: ProgramReport) -> str:
    """Return where a program is attached: `lab0 (native)`, `cgroup /web (cgroup-inet-egress)`."""
    place = f"cgroup {program.cgroup}" if program.cgroup else program.device
    return f"{place} ({program.mode or program.hook})"


def _notes(report: LoadReport) -> Iterator[str]:
    yield from report.notes
    yield from (program.note for program in report.programs if program.note)


def _plan_lines(report: LoadReport) -> Iterator[str]:
    for held in report.maps:
        decision = held.decision.value if held.decision else ""
        reason = f" ({held.reason})" if held.reason else ""
        yield f"map {held.name} (id {held.id or 'none yet'}) {decision}: {held.path}{reason}"
        yield from (f"  {line}" for line in held.migration.lines()) if held.migration else ()
    for hook in report.hooks:
        link = f", link id {hook.link}" if hook.link else ""
        before = f"program id {hook.before} -> " if hook.before else ""
        yield f"hook {hook.hook} of {hook.device}: {hook.action}{link}, {before}{hook.program}"


_SENTENCES = {
    LoadResult.LOADED: "loaded {name} on {place}",
    LoadResult.RELOADED: "reloaded {name} on {place}{ids}",
    LoadResult.UNCHANGED: "unchanged: {name} was loaded on {place} before",
    LoadResult.PLANNED: "planned: {name} was verified and would be loaded on {place}",
}
