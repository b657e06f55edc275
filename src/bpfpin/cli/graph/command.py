"""`bpfpin graph`: who shares what, on the whole host or around one thing."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.failure import sudo_hint
from bpfpin.cli.options import chosen_target, complete_sets, device_option
from bpfpin.cli.output import JSON, TABLE, Color
from bpfpin.host.collect import graph
from bpfpin.host.graph import Graph, around
from bpfpin.sets.place import load_lines
from bpfpin.sets.split_brain import Finding, findings

DOT, MERMAID, SVG = "dot", "mermaid", "svg"


@bpfpin_command("graph", outputs=(TABLE, JSON, DOT, MERMAID, SVG))
@click.argument("target", metavar="[DEV|NAME|MAP]", required=False, shell_complete=complete_sets)
@click.option(
    "--dev",
    metavar="DEV",
    help="Only what hangs together with this device.",
    shell_complete=device_option,
)
def command(context: Context, *, target: str | None, dev: str | None) -> None:
    """Show who shares what: devices and cgroups, programs, maps, pins and processes.

    All of the host, ours or not, or what hangs together with a device, a cgroup, a set, a program
    or a map. Forms: table (a tree), json, dot, mermaid, svg.
    """
    whole = graph(pin_root=context.pin_root)
    found = findings(whole, pin_root=context.pin_root, load_lines=load_lines(context.pin_root))
    wanted = chosen_target(target, dev)
    shown = whole if wanted is None else around(whole, wanted)
    found = tuple(
        one for one in found if any(f"map:{map_id}" in shown.by_id for map_id in one.maps)
    )
    if context.out.is_json:
        context.out.document(_document(shown, found))
    elif context.out.kind == TABLE:
        _show_tree(context, shown)
    else:
        sys.stdout.write(_renderer(context.out.kind)(shown))
    if not context.out.is_json:
        _tell(context, shown, found)


def _tell(context: Context, shown: Graph, found: tuple[Finding, ...]) -> None:
    for note in shown.notes:
        context.out.say(f"note: {note}")
    if not shown.is_complete:
        context.out.say(f"to see all: {sudo_hint(context.words)}")
    for finding in found:
        context.out.say(f"problem: {finding.text}\n  fix: {finding.fix}")


def _document(shown: Graph, found: tuple[Finding, ...]) -> dict[str, object]:
    return {**shown.to_json(), "problems": [finding.to_json() for finding in found]}


def _show_tree(context: Context, shown: Graph) -> None:
    from bpfpin.cli.graph.tree import branches, fitted, lines  # noqa: PLC0415 - see _renderer

    width = context.out.width
    drawn = [
        (start, text, branch.style)
        for guides, branch in lines(branches(shown))
        for start, text in fitted(guides, branch, width)
    ]
    if not drawn:
        context.out.say("nothing is loaded on this host; next: bpfpin load --dev DEV")
    elif context.out.is_live or context.out.color is Color.ALWAYS:
        _show_colored(context, drawn)
    else:
        context.out.line("\n".join(guides + text for guides, text, _ in drawn))


def _show_colored(context: Context, drawn: list[tuple[str, str, str]]) -> None:
    from rich.text import Text  # noqa: PLC0415 - 40 ms, only where it is shown

    console = context.out.console()
    for guides, text, style in drawn:
        console.print(Text.assemble((guides, "dim"), (text, style)), soft_wrap=True)


def _renderer(kind: str) -> Callable[[Graph], str]:
    """Import the one that is wanted: each costs some milliseconds."""
    if kind == SVG:
        from bpfpin.cli.graph.svg import svg  # noqa: PLC0415

        return svg
    if kind == DOT:
        from bpfpin.cli.graph.dot import dot  # noqa: PLC0415

        return dot
    from bpfpin.cli.graph.dot import mermaid  # noqa: PLC0415

    return mermaid
