"""`bpfpin state`: what is loaded now, in the form of a state file."""

from __future__ import annotations

from pathlib import Path

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import Report
from bpfpin.errors import ExitCode
from bpfpin.hints import shell_line
from bpfpin.sets.apply.state import loaded_state


@bpfpin_command("state")
@click.option(
    "--save",
    "directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write the state to DIR, with copies of the objects and of the maps' contents.",
)
def command(context: Context, *, directory: Path | None) -> int:
    """Print the sets that are loaded now as a state file, for `bpfpin apply`.

    It has the objects with their SHA-256, the devices and cgroups, and what was chosen for each
    set. Exit status 4: `apply` could not make the same from it, as an object is gone or differs.

    With --save the state is written to DIR/state.toml, with the objects and snapshots of the maps
    beside it. DIR (mode 0700) is replaced atomically.
    """
    if directory is not None:
        from bpfpin.sets.apply.save import save_state  # noqa: PLC0415 - only for --save

        saved = save_state(directory, pin_root=context.pin_root)
        state = saved.state
        context.out.say(
            f"saved sets: {len(state.sets)}, objects: {saved.objects}, maps: {saved.snapshots}; to"
            f" load them again: {shell_line('bpfpin apply', saved.file)}"
        )
        context.out.show(Report(saved.to_json))
    else:
        state = loaded_state(pin_root=context.pin_root)
        context.out.show(Report(state.to_json, lambda out: out.piece(state.to_toml())))
    for problem in state.problems:
        context.out.say(f"problem: {problem}")
    return ExitCode.NOT_FOUND if state.problems else ExitCode.OK
