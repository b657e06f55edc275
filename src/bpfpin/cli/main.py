"""The `bpfpin` command: the table of verbs, and how errors become exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from bpfpin.cli.context import Settings, global_option, output_of
from bpfpin.cli.formats import Report
from bpfpin.cli.group import Group, Verb, refuse_without_verb
from bpfpin.cli.help import show_version
from bpfpin.cli.output import Terminated
from bpfpin.errors import ExitCode

COMMANDS = {
    "demo": Verb("bpfpin.cli.demo", "Show everything on a temporary test network."),
    "doctor": Verb("bpfpin.cli.doctor", "Check what this kernel, user, bpffs and device allow."),
    "check": Verb("bpfpin.cli.check", "Read and verify objects without attaching or pinning."),
    "load": Verb("bpfpin.cli.load", "Load an object, attach its programs, pin its maps."),
    "unload": Verb("bpfpin.cli.unload", "Detach and unpin a set."),
    "apply": Verb("bpfpin.cli.apply", "Load, reload and fill sets as state files ask for."),
    "state": Verb("bpfpin.cli.state", "Print what is loaded as a state file for apply."),
    "status": Verb("bpfpin.cli.status", "Show loaded sets, attached programs, and problems."),
    "clean": Verb("bpfpin.cli.clean", "Remove unused leftovers of bpfpin."),
    "stats": Verb("bpfpin.cli.stats", "Show live rates of a counter map."),
    "serve": Verb("bpfpin.cli.serve", "Serve metrics of the whole host for Prometheus."),
    "action": Verb("bpfpin.cli.action", "Show or switch the verdict of an XDP program."),
    "confirm": Verb("bpfpin.cli.confirm", "Keep a change that was made with --confirm."),
    "lab": Verb("bpfpin.cli.lab", "Temporary namespace and device: up, down, list, exec."),
    "compile": Verb("bpfpin.cli.compile", "Compile C to a BPF object."),
    "graph": Verb(
        "bpfpin.cli.graph.command", "Show which devices, programs, maps and pins are connected."
    ),
    "map": Verb("bpfpin.cli.map", "Read and change any map: list, show, get, set, dump …"),
    "prog": Verb("bpfpin.cli.prog", "Look at and run any program: list, show, dump, run, stats …"),
    "link": Verb("bpfpin.cli.link", "Look at and detach any link: list, show, detach."),
    "btf": Verb("bpfpin.cli.btf", "Print types of the kernel, of objects and of maps as C."),
    "completion": Verb(
        "bpfpin.cli.help:completion_command", "Print the completion script of a shell."
    ),
    "help": Verb("bpfpin.cli.help:help_command", "Show the help of a verb."),
    "version": Verb("bpfpin.cli.help:version_command", "Show the version."),
}
# The variable that click's completion scripts set (`bpfpin completion`).
COMPLETE = "_BPFPIN_COMPLETE"


@click.pass_context
def _version_or_verb(ctx: click.Context) -> None:
    # Not by click's own option for versions, which ignores `-o json`.
    if ctx.obj.get("version"):
        show_version(output_of(ctx.obj))
        ctx.exit()
    if ctx.invoked_subcommand is None:
        output_of(ctx.obj).show(
            Report(lambda: refuse_without_verb(ctx), lambda out: out.line(ctx.get_help()))
        )
        ctx.exit()


ROOT = Group(
    "bpfpin",
    COMMANDS,
    callback=_version_or_verb,
    help="Load BPF objects, pin their maps, and read and change the maps from any process.",
    params=[global_option("--version", is_flag=True, help="Show the version.")],
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: the process's own) and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    settings: Settings = {"words": words}
    _open_closed_streams()
    # A shell asks this on every Tab, so nothing else is set up for it.
    if COMPLETE in os.environ:
        return _complete(os.environ[COMPLETE])
    # Names and messages may have characters that the encoding of the stream lacks (LC_ALL=C).
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # The default action would end the process at once, between two steps of a transaction; an
    # exception rolls it back first.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(words, settings)
    except BrokenPipeError:
        return _after_closed_pipe()


def _open_closed_streams() -> None:
    """Open /dev/null in place of a closed stdout or stderr (`>&-`)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # The descriptor number may be reused for a file, which must not get our output.
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
            setattr(sys, name, stream)


def _complete(instruction: str) -> int:
    from click.shell_completion import shell_complete  # noqa: PLC0415 - only for a shell's Tab

    return shell_complete(ROOT, {"obj": {}}, "bpfpin", COMPLETE, instruction)


def _run(words: list[str], settings: Settings) -> int:
    try:
        # Not by `ROOT.main`, which writes errors in click's form and with its exit codes.
        with ROOT.make_context("bpfpin", list(words), obj=settings) as ctx:
            status = ROOT.invoke(ctx)
            # Here, where an error can be reported: at exit Python itself would end with status 120.
            sys.stdout.flush()
            return status or ExitCode.OK
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt, Terminated) as error:
        # The only place where exceptions end: each becomes a message, a hint and an exit code.
        return _fail(error, words, settings)


def _fail(error: BaseException, words: Sequence[str], settings: Settings) -> int:
    from bpfpin.cli.failure import describe  # noqa: PLC0415 - only when something fails

    if settings.get("debug") or "--debug" in words:
        sys.excepthook(type(error), error, error.__traceback__)
    failure = describe(error, words=words)
    # A usage error may be raised before -o is parsed.
    settings.setdefault("output", _output_option(words))
    output_of(settings).fail(failure.document(), failure.message, hint=failure.hint)
    return failure.exit


def _output_option(words: Sequence[str]) -> str:
    """Return the value of the last `-o` in *words* without parsing them."""
    value = ""
    before = [*words, "--"].index("--")
    for word, following in zip(words[:before], [*words[1:], ""], strict=False):
        if word in ("-o", "--output"):
            value = following
        elif word.startswith("--output="):
            value = word.removeprefix("--output=")
        elif word.startswith("-o"):
            value = word.removeprefix("-o")
    return value


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _after_closed_pipe() -> int:
    # The interpreter flushes stdout again at exit; /dev/null takes it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # The reader has what it wanted, as `head` in `bpfpin map dump … | head` has: no failure.
    return ExitCode.OK
