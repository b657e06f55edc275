"""`bpfpin graph`: which devices, programs, maps, pins and processes are connected."""

from __future__ import annotations

from collections.abc import Callable

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.failure import sudo_hint
from bpfpin.cli.formats import DOCUMENT, Report
from bpfpin.cli.options import chosen_target, complete_sets, device_option
from bpfpin.cli.output import Color, Output
from bpfpin.host.collect import graph
from bpfpin.host.graph import Graph, around
from bpfpin.sets.place import load_lines
from bpfpin.sets.split_brain import Finding, findings

DOT, MERMAID, SVG = "dot", "mermaid", "svg"


@bpfpin_command("graph", outputs=(*DOCUMENT, DOT, MERMAID, SVG))
@click.argument("target", metavar="[DEV|NAME|MAP]", required=False, shell_complete=complete_sets)
@device_option("Only objects connected to this device.")
def command(context: Context, *, target: str | None, dev: str | None) -> None:
    """Show which devices, cgroups, programs, maps, pins and processes are connected.

    Shows the whole host, including programs that bpfpin did not load, or only the objects connected
    to a device, a cgroup, a set, a program or a map. Output formats: table (a tree), json, dot,
    mermaid, svg.
    """
    # Always the whole host: a map is shared even if one of its users is not to be shown.
    whole = graph(pin_root=context.pin_root)
    chosen = chosen_target(target, dev)
    shown = whole if chosen is None else around(whole, chosen)
    problems = tuple(
        finding
        for finding in findings(
            whole, pin_root=context.pin_root, load_lines=load_lines(context.pin_root)
        )
        # A problem elsewhere on the host would not be seen in the picture.
        if any(f"map:{map_id}" in shown.by_id for map_id in finding.maps)
    )

    def write(draw: Callable[[Output, Graph], None]) -> Callable[[Output], None]:
        def written(out: Output) -> None:
            draw(out, shown)
            # After the picture, and on stderr: stdout goes to Graphviz or into a file.
            _write_notes(context, shown, problems)

        return written

    context.out.show(
        Report(
            lambda: {**shown.to_json(), "problems": [problem.to_json() for problem in problems]},
            write(_write_tree),
            own={DOT: write(_write_dot), MERMAID: write(_write_mermaid), SVG: write(_write_svg)},
        )
    )


def _write_notes(context: Context, shown: Graph, problems: tuple[Finding, ...]) -> None:
    for note in shown.notes:
        context.out.say(f"note: {note}")
    if not shown.is_complete:
        context.out.say(f"to see all: {sudo_hint(context.words)}")
    for problem in problems:
        context.out.say(f"problem: {problem.text}\n  fix: {problem.fix}")


# The writers of the formats; each module costs some milliseconds and is imported when it is needed.


def _write_tree(out: Output, shown: Graph) -> None:
    from bpfpin.cli.graph.tree import branches, fitted, lines  # noqa: PLC0415 - see above

    width = out.width
    drawn = [
        (start, text, branch.style)
        for guides, branch in lines(branches(shown))
        for start, text in fitted(guides, branch, width)
    ]
    if not drawn:
        out.say("nothing is loaded on this host; next: bpfpin load --dev DEV")
    elif out.is_live or out.color is Color.ALWAYS:
        _write_colored(out, drawn)
    else:
        out.line("\n".join(guides + text for guides, text, _ in drawn))


def _write_colored(out: Output, drawn: list[tuple[str, str, str]]) -> None:
    from rich.text import Text  # noqa: PLC0415 - 40 ms, only where it is shown

    console = out.console()
    for guides, text, style in drawn:
        # The lines are fitted already: rich must not wrap them again.
        console.print(Text.assemble((guides, "dim"), (text, style)), soft_wrap=True)


def _write_dot(out: Output, shown: Graph) -> None:
    from bpfpin.cli.graph.dot import dot  # noqa: PLC0415 - see above

    out.piece(dot(shown))


def _write_mermaid(out: Output, shown: Graph) -> None:
    from bpfpin.cli.graph.dot import mermaid  # noqa: PLC0415 - see above

    out.piece(mermaid(shown))


def _write_svg(out: Output, shown: Graph) -> None:
    from bpfpin.cli.graph.svg import svg  # noqa: PLC0415 - see above

    out.piece(svg(shown))
