"""`bpfpin load`: load an object, attach its programs, pin its maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from bpfpin.cli.context import Context, bpfpin_command, private_mount_option
from bpfpin.cli.formats import Report
from bpfpin.cli.migrate import migrate_options, migrated_lines, taken
from bpfpin.cli.options import (
    MODE,
    SIZE,
    complete_devices,
    keep_logs,
    log_file_option,
    pairs,
    parse_set_words,
    require_log_file,
)
from bpfpin.errors import UsageError, VerifierError
from bpfpin.hints import shell_line
from bpfpin.sets.choose import DEFAULT_CGROUP_SOURCE, DEFAULT_SOURCE, parse_hook
from bpfpin.sets.given_maps import PINNINGS
from bpfpin.sets.load.deploy import deploy_all, require_devices
from bpfpin.sets.reports import LoadReport, LoadResult, ProgramReport
from bpfpin.sets.request import parse_order
from bpfpin.spec import XdpMode


def _parsed(parse: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a click callback that applies *parse* to the value of an option."""
    return lambda _ctx, _parameter, value: None if value is None else parse(value)


def parse_map_words(words: Iterable[str]) -> dict[str, str]:
    """Parse `NAME=PATH`, `NAME=id:N` and `NAME=name:NAME`; `UsageError` for any other text.

    `idx:I` in place of NAME is kept as it is: only the object tells which map that is.
    """
    return pairs("--map", words, form="--map NAME=PATH or NAME=id:N", is_value=bool)


def parse_pinning_words(words: Iterable[str]) -> dict[str, str]:
    """Parse `NAME=none` and `NAME=by-name`; `UsageError` for any other text."""
    form = "--pinning NAME=none or NAME=by-name"
    return pairs("--pinning", words, form=form, is_value=PINNINGS.__contains__)


@bpfpin_command("load")
@click.argument("obj", metavar="[OBJ]", default=None)
@click.option(
    "--dev",
    "devices",
    metavar="DEV",
    multiple=True,
    help="Network device to attach to; repeatable.",
    shell_complete=complete_devices,
)
@click.option(
    "--cgroup",
    "cgroups",
    metavar="PATH",
    multiple=True,
    help="Directory of a cgroup (version 2) to attach to; repeatable.",
)
@click.option(
    "--prog",
    "programs",
    metavar="NAME[:HOOK[=TARGET]]",
    multiple=True,
    help="Program to attach, and where; repeatable (default: all whose section names a hook).",
)
@click.option(
    "--hook",
    metavar="HOOK",
    callback=_parsed(parse_hook),
    help="Hook for programs whose section names none: xdp, tcx-ingress …",
)
@click.option(
    "--type",
    "program_type",
    metavar="TYPE",
    help="Type of programs whose section names none: xdp, tc, cgroup/skb …",
)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in XdpMode]),
    default=XdpMode.AUTO.value,
    callback=_parsed(XdpMode),
    help="XDP mode; auto is native, or generic if the driver lacks native XDP.",
)
@click.option(
    "--order",
    metavar="WHERE",
    callback=_parsed(parse_order),
    help="Position among the programs of tcx or netkit: first, last, before:ID or after:ID"
    " (program ids).",
)
@click.option("--name", metavar="NAME", help="Name of the pin set (default: the device).")
@click.option(
    "--map",
    "maps",
    metavar="NAME=PATH|NAME=id:N|idx:I=…",
    multiple=True,
    callback=_parsed(parse_map_words),
    help="Use an existing map as map NAME of the object; repeatable.",
)
@click.option(
    "--pinning",
    metavar="NAME=none|by-name",
    multiple=True,
    callback=_parsed(parse_pinning_words),
    help="Override how the object pins map NAME; repeatable.",
)
@click.option(
    "--set",
    "variables",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_parsed(parse_set_words),
    help="Initial value of a global variable; repeatable.",
)
@click.option(
    "--fresh",
    metavar="NAME|all",
    multiple=True,
    help="Replace this map by an empty one on a reload (default: maps that fit are kept).",
)
@migrate_options
@click.option(
    "--replace",
    is_flag=True,
    help="Allow to replace a set of an unrelated object or of another device.",
)
@click.option("--take-over", is_flag=True, help="Replace a program that bpfpin did not attach.")
@click.option(
    "--dry-run", is_flag=True, help="Verify the programs and show the plan, change nothing."
)
@click.option(
    "--confirm",
    "confirm_s",
    # A day at most: nobody waits longer for a change to prove itself.
    type=click.IntRange(1, 86400),
    metavar="SECONDS",
    help="Undo the load after SECONDS unless `bpfpin confirm` is run before.",
)
@click.option(
    "--no-stub",
    "stub",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Attach programs themselves, without stub or gate: a reload counts some events twice.",
)
@click.option("--force", is_flag=True, help="Allow changes that may cut your own connection.")
@click.option("--group", metavar="GROUP", help="Group that may read the maps.")
@click.option("--chmod", type=MODE, metavar="MODE", help="Mode of the pins of maps (0600).")
@click.option(
    "--btf",
    "kernel_btf",
    metavar="FILE",
    help="BTF of the kernel for CO-RE, if the kernel has no /sys/kernel/btf/vmlinux.",
)
@click.option(
    "--max-map-memory",
    type=SIZE,
    metavar="SIZE",
    help="Limit of the memory of all maps (default: a quarter of the host's memory).",
)
@private_mount_option
@log_file_option
def command(
    context: Context,
    *,
    obj: str | None,
    devices: tuple[str, ...],
    cgroups: tuple[str, ...],
    force: bool,
    log_file: Path | None,
    **words: Any,
) -> None:
    """Load OBJ, attach its programs to DEV or a cgroup, and pin its maps; or reload the set.

    OBJ is a file or builtin:NAME (default: builtin:xdp_stats, for a cgroup builtin:cgroup_stats).
    Programs whose sections name a function, a tracepoint or the like need no DEV.
    Either everything happens or nothing, also on several devices. If the set is already loaded, its
    programs are replaced without a gap and maps that fit are kept; with --migrate the entries of
    maps whose definition changed are moved to new maps.
    """
    # First, since it takes its options out of *words*: all that is left are arguments of `deploy`.
    migration = taken(words)
    options = dict(words)
    if log_file is not None:
        require_log_file(log_file)
    # Before the object is read: a missing device is the commonest mistake, and the quickest to
    # find.
    if obj is None and not devices and not cgroups:
        raise UsageError(
            "no target: give --dev or --cgroup",
            hint="bpfpin load --dev DEV, or --cgroup PATH",
        )
    require_devices(devices, netns=context.netns)
    options["force"] = force
    options["migrate"] = migration or False
    options["netns"] = context.netns
    options["pin_root"] = context.pin_root
    options["maps"] = _given_maps(options["maps"], context.pin_root)
    options["lock_timeout_s"] = context.lock_timeout_s
    if obj is not None and not obj:
        raise UsageError("an empty OBJ", hint="leave it out for the default, or name a file")
    source = obj or (DEFAULT_SOURCE if devices else DEFAULT_CGROUP_SOURCE)
    # All targets in one call, which is one transaction: either every set changes or none does.
    try:
        deployments = deploy_all(source, devices=devices, cgroups=cgroups, **options)
    except VerifierError as error:
        keep_logs([(error.target, error)], context.out, log_file)
        raise
    reports = [deployment.report for deployment in deployments]
    for report in reports:
        _say(context, report, names_set=len(reports) > 1)
    # Last, and without a table: the messages above are on stderr, the document on stdout.
    context.out.show(Report(_document(reports)))


def _given_maps(maps: Mapping[str, str], pin_root: Path) -> dict[str, str]:
    """Return the maps of `--map` with short names of pins replaced by their paths."""
    if not maps:
        return {}
    from bpfpin.map.open import path_of  # noqa: PLC0415 - only for --map

    return {name: path_of(source, pin_root) for name, source in maps.items()}


def _document(reports: list[LoadReport]) -> dict[str, object]:
    if len(reports) == 1:
        return reports[0].to_json()
    # One word for all: sets may differ if some were loaded before. A set without changes
    # counts only if nothing else was done.
    results = {report.result for report in reports}
    changed = results - {LoadResult.UNCHANGED} or results
    result = changed.pop() if len(changed) == 1 else LoadResult.LOADED
    return {"result": result.value, "sets": [report.to_json() for report in reports]}


def _say(context: Context, report: LoadReport, *, names_set: bool = False) -> None:
    """Write the messages about one set; with *names_set* each note names the set."""
    about = f"{report.set}: " if names_set else ""
    for note in _notes(report):
        context.out.say(f"note: {about}{note}")
    attached = [program for program in report.programs if program.hook]
    # By hook and name: one program may be attached at several hooks, with another old one at each.
    before = {(hook.hook, hook.program): hook.before for hook in report.hooks}
    # Behind the last sentence only: one thing to do next is enough.
    see = shell_line(f"bpfpin {_next_verb(report)}", report.set)
    following = "" if report.is_planned else f"; see: {see}"
    for program in attached:
        place = _place(program)
        old = before.get((program.hook or "", program.name))
        ids = f", program id {old} -> {program.id}" if old else f", program id {program.id}"
        sentence = _SENTENCES[report.result].format(name=program.name, place=place, ids=ids)
        context.out.say(sentence + (following if program is attached[-1] else ""))
    for line in migrated_lines(report):
        context.out.say(line)
    # A plan is what `--dry-run` was asked for; after a load it is a detail.
    tell = context.out.say if report.is_planned else context.out.detail
    for line in _plan_lines(report):
        tell(line)


def _next_verb(report: LoadReport) -> str:
    """Return the verb to run next: `stats` if the set has counters, else `status`."""
    from bpfpin.map.counters import has_counters  # noqa: PLC0415 - not for a refused load

    return "stats" if has_counters(report.path) else "status"


def _place(program: ProgramReport) -> str:
    """Return where a program is attached: `lab0 (native)`, `cgroup /web (cgroup-inet-egress)`."""
    return f"{program.place} ({program.mode or program.hook})"


def _notes(report: LoadReport) -> Iterator[str]:
    yield from report.notes
    yield from (program.note for program in report.programs if program.note)


def _plan_lines(report: LoadReport) -> Iterator[str]:
    for map_ in report.maps:
        decision = map_.decision.value if map_.decision else ""
        reason = f" ({map_.reason})" if map_.reason else ""
        yield f"map {map_.name} (id {map_.id or 'none yet'}) {decision}: {map_.path}{reason}"
        yield from (f"  {line}" for line in map_.migration.lines()) if map_.migration else ()
    for hook in report.hooks:
        link = f", link id {hook.link}" if hook.link else ""
        before = f"program id {hook.before} -> " if hook.before else ""
        yield f"hook {hook.hook} of {hook.device}: {hook.action}{link}, {before}{hook.program}"


_SENTENCES = {
    LoadResult.LOADED: "loaded {name} on {place}",
    LoadResult.RELOADED: "reloaded {name} on {place}{ids}",
    LoadResult.UNCHANGED: "unchanged: {name} is already loaded on {place}",
    LoadResult.PLANNED: "planned: {name} was verified and would be loaded on {place}",
}
