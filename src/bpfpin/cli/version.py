"""`bpfpin version`: the version, as `bpfpin --version` shows it."""

from __future__ import annotations

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.output import Output
from bpfpin.version import __version__


@bpfpin_command("version")
def command(context: Context) -> None:
    """Show the version."""
    show_version(context.out)


def show_version(out: Output) -> None:
    """Write the version in the form that was asked for."""
    if out.is_json:
        out.document({"version": __version__})
    else:
        out.line(f"bpfpin {__version__}")
