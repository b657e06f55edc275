"""The global options, accepted before and after the verb, and the context made of them.

Also options that several verbs of sets or maps have, with what they do.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from bpfpin.cli.formats import DOCUMENT, TABLE
from bpfpin.cli.output import Color, Output
from bpfpin.errors import UsageError
from bpfpin.records import dataclass

if TYPE_CHECKING:
    from bpfpin.sets.guard import MapGuard

P = ParamSpec("P")
FC = TypeVar("FC", bound=Callable[..., Any])
Settings = dict[str, Any]  # the global options that were typed, by name; the last one wins


@dataclass(frozen=True)
class Context:
    """The global options and the streams of a command."""

    out: Output
    netns: str | None = None
    pin_root: Path = Path("/sys/fs/bpf")
    lock_timeout_s: float = 10.0
    words: tuple[str, ...] = ()  # the arguments of `bpfpin`

    @classmethod
    def of(cls, settings: Settings) -> Context:
        """Return the context of the options that were typed."""
        return cls(
            out=output_of(settings),
            netns=settings.get("netns"),
            pin_root=Path(settings.get("pin_root", cls.pin_root)),
            lock_timeout_s=settings.get("lock_timeout", cls.lock_timeout_s),
            words=tuple(settings.get("words", ())),
        )


def output_of(settings: Settings) -> Output:
    """Return the streams of a command; always the same object for the same *settings*."""
    # An output remembers if its document has begun: a failure after that must not begin another.
    if "out" not in settings:
        settings["out"] = Output(
            settings.get("output", TABLE),
            color=Color(settings.get("color", Color.AUTO.value)),
            is_quiet=settings.get("quiet", False),
            is_verbose=settings.get("verbose", False),
            place=_place(settings),
        )
    out: Output = settings["out"]
    return out


def _place(settings: Settings) -> dict[str, str]:
    """Return the options that say where sets are, as far as they were typed."""
    place = {}
    if (root := settings.get("pin_root")) not in (None, Context.pin_root):
        # The line may be typed in another directory.
        place["--pin-root"] = os.path.abspath(root)  # noqa: PTH100 - symlinks stay
    if netns := settings.get("netns"):
        place["-n"] = netns
    return place


def _keep(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    name = parameter.name or ""
    # Global options are read before and after the verb: the default of one place must not override
    # the value from the other.
    if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
        ctx.obj[name] = value


def global_option(*names: str, **attributes: Any) -> click.Option:
    """Make an option whose value is stored in the `Settings` when it is typed."""
    return click.Option(names, expose_value=False, callback=_keep, **attributes)


class Seconds(click.FloatRange):
    """Parameter type of a time in seconds."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; a usage error for `nan`, which is in every range of click."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


def sort_option(fields: Collection[str]) -> Callable[[FC], FC]:
    """Return the option `--sort [-]FIELD`: its value is the field, and whether it is descending."""

    def parsed(_ctx: click.Context, _param: click.Parameter, word: str) -> tuple[str, bool]:
        field = word.removeprefix("-")
        # No `click.Choice`: each field may have a minus before it.
        if field not in fields:
            known = ", ".join(fields)
            raise click.BadOptionUsage("sort", f"no field {field!r} to sort by: {known}")
        return field, word.startswith("-")

    text = f"Sort by {', '.join(fields)}; -FIELD: descending."
    return click.option("--sort", default="id", metavar="FIELD", callback=parsed, help=text)


GLOBAL_OPTIONS = (
    global_option("-n", "--netns", metavar="NAME", help="Run in this network namespace."),
    global_option(
        "-o", "--output", metavar="FORMAT", help="table, json, or another format of the verb."
    ),
    global_option("-q", "--quiet", is_flag=True, help="Only print errors."),
    global_option("-v", "--verbose", is_flag=True, help="Verbose output."),
    global_option("--debug", is_flag=True, help="Show the traceback of an error."),
    global_option(
        "--pin-root",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="bpffs directory of the pin sets (/sys/fs/bpf).",
    ),
    global_option(
        "--lock-timeout",
        metavar="S",
        type=Seconds(min=0),
        help="Seconds to wait for another command's lock (10).",
    ),
    global_option(
        "--color", type=click.Choice([c.value for c in Color]), help="When to colour text."
    ),
)


force_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--force", is_flag=True, help="Allow changes that may cut your own connection."
)
private_mount_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--private-mount",
    is_flag=True,
    help="Allow a bpffs that is mounted in this mount namespace only.",
)


def _write_options(command: click.Command, ctx: click.Context, help_: click.HelpFormatter) -> None:
    for title, are_global in (("Options", False), ("Global options", True)):
        options = [p for p in command.get_params(ctx) if isinstance(p, click.Option)]
        chosen = [p for p in options if (p in GLOBAL_OPTIONS) is are_global]
        records = [record for p in chosen if (record := p.get_help_record(ctx))]
        if records:
            with help_.section(title):
                help_.write_dl(records)


class Command(click.Command):
    """A verb, whose help shows the global options below its own options."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        # The same option objects in every verb: help recognises them by identity.
        self.params = [*self.params, *GLOBAL_OPTIONS]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the verb, then the global options."""
        _write_options(self, ctx, formatter)


def bpfpin_command(
    name: str, *, outputs: Sequence[str] = DOCUMENT, **attributes: Any
) -> Callable[[Callable[Concatenate[Context, P], int | None]], Command]:
    """Make a verb from a function that takes a `Context` and its own options.

    *outputs* are the values of `-o` that the verb accepts. The function returns the exit status,
    None for 0. It runs in the network namespace that `-n` names.
    """

    def decorate(function: Callable[Concatenate[Context, P], int | None]) -> Command:
        @functools.wraps(function)
        @click.pass_context
        def run(ctx: click.Context, /, *args: P.args, **options: P.kwargs) -> int | None:
            context = Context.of(ctx.obj)
            # Before the verb does anything: a change whose result cannot be shown must not happen.
            check_format(context.out, outputs, name)
            # Only the network namespace, by setns(2). `ip netns exec` would also mount a new /sys,
            # and hide the bpffs below it.
            with _namespace(context.netns):
                # All verbs of maps take short names of pins, so they become paths here, once.
                if isinstance(target := options.get("map_"), str):
                    options["map_"] = _map_path(target, context.pin_root)
                return function(context, *args, **options)

        return click.command(name, cls=Command, **attributes)(run)

    return decorate


def _map_path(target: str, pin_root: Path) -> str:
    from bpfpin.map.open import path_of  # noqa: PLC0415 - only for verbs of maps

    return path_of(target, pin_root)


def check_format(out: Output, formats: Sequence[str], verb: str, *, hint: str = "") -> None:
    """Raise a usage error if the output format is not one of *formats*, those of *verb*."""
    if out.format.name not in formats:
        name = out.format.name
        message = f"{verb} has no output format {name!r}; it has: {', '.join(formats)}"
        # A click error names the verb's own help as its hint; another hint needs our class.
        if hint:
            raise UsageError(message, hint=hint)
        raise click.BadOptionUsage("output", message)


def _namespace(name: str | None) -> contextlib.AbstractContextManager[object]:
    if name is None:
        return contextlib.nullcontext()
    from bpfpin.host.processes import entered  # noqa: PLC0415 - only with -n

    return entered(name)


@contextlib.contextmanager
def guarded(context: Context, *, is_forced: bool) -> Iterator[MapGuard]:
    """Yield the lockout check of a change of a map, and write its notes after the change."""
    # The guard can load objects: commands that only read a map need none of those modules.
    from bpfpin.sets.guard import MapGuard  # noqa: PLC0415

    guard = MapGuard(context.pin_root, is_forced)
    yield guard
    # Not in a `finally`: after a refusal the error says all.
    for note in guard.notes:
        context.out.say(f"note: {note}")
