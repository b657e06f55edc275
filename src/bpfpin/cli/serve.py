"""`bpfpin serve`: the Prometheus exporter of the whole host."""

from __future__ import annotations

from pathlib import Path

import click

from bpfpin.apps.exporter import server
from bpfpin.apps.exporter.rules import read_rules
from bpfpin.apps.exporter.server import ServeOptions
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import TEXT
from bpfpin.cli.output import Terminated
from bpfpin.errors import UsageError


@bpfpin_command("serve", outputs=TEXT)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=f"{server.HOST}:{server.PORT}",
    show_default=True,
    help="Address of the exporter; a socket that systemd passes is used instead.",
)
@click.option(
    "--rules",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="TOML file: maps to export besides, and how.",
)
@click.option(
    "--user",
    metavar="NAME",
    default=server.USER,
    show_default=True,
    help="User of the process that answers requests, if started as root.",
)
@click.option(
    "--no-program-stats",
    is_flag=True,
    help="Leave the kernel's statistics of programs as they are.",
)
@click.option(
    "--open-fds",
    metavar="SOCKET",
    type=click.Path(path_type=Path),
    help="Only open maps and programs, for a process with --fds-from.",
)
@click.option(
    "--fds-from",
    metavar="SOCKET",
    type=click.Path(path_type=Path),
    help="Only answer requests, with the descriptors of --open-fds.",
)
def command(
    context: Context,
    *,
    listen: str,
    rules: Path | None,
    user: str,
    no_program_stats: bool,
    open_fds: Path | None,
    fds_from: Path | None,
) -> int:
    """Serve metrics of all maps, programs and pin sets of this host for Prometheus.

    Runs until Ctrl-C or SIGTERM. One process opens the maps and programs; another one, as an
    ordinary user without capabilities, answers the requests. While somebody scrapes, the kernel
    counts the runs of programs (BPF_ENABLE_STATS), which costs each run some tens of nanoseconds.
    """
    if open_fds and fds_from:
        raise UsageError("--open-fds and --fds-from are two processes: give one of them")
    host, port = server.parse_address(listen)
    options = ServeOptions(
        context.pin_root,
        host=host,
        port=port,
        user=user,
        rules=read_rules(rules) if rules else (),
        with_statistics=not no_program_stats,
    )

    def started(address: str) -> None:
        context.out.say(f"serving {address}")

    try:
        if open_fds:
            return server.run_helper(options, open_fds, started)
        if fds_from:
            return server.run_scraped(options, fds_from, started)
        return server.run(options, started)
    # The usual end of a service.
    except (KeyboardInterrupt, Terminated):
        return 0
