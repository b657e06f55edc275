"""The global options, accepted before and after the verb, and what a command is handed of them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click

from bpfpin.cli.output import JSON, TABLE, Color, Output

P = ParamSpec("P")
Settings = dict[str, Any]  # the global options that were typed, by name; the last one typed counts


@dataclass(frozen=True)
class Context:
    """What every command gets: the global options and the streams to write to."""

    out: Output
    netns: str | None = None
    pin_root: Path = Path("/sys/fs/bpf")
    lock_timeout_s: float = 10.0
    words: tuple[str, ...] = ()  # what was typed after `bpfpin`

    @classmethod
    def of(cls, settings: Settings) -> Context:
        """Make one from the options that were typed."""
        return cls(
            out=output_of(settings),
            netns=settings.get("netns"),
            pin_root=Path(settings.get("pin_root", cls.pin_root)),
            lock_timeout_s=settings.get("lock_timeout", cls.lock_timeout_s),
            words=tuple(settings.get("words", ())),
        )


def output_of(settings: Settings) -> Output:
    """Return the streams as the options that were typed want them; one and the same each time."""
    if "out" not in settings:
        settings["out"] = Output(
            settings.get("output", TABLE),
            color=Color(settings.get("color", Color.AUTO.value)),
            is_quiet=settings.get("quiet", False),
            is_verbose=settings.get("verbose", False),
        )
    out: Output = settings["out"]
    return out


def _keep(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    name = parameter.name or ""
    if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
        ctx.obj[name] = value


def global_option(*names: str, **attributes: Any) -> click.Option:
    """Make an option whose value is kept in the `Settings` when it is typed."""
    return click.Option(names, expose_value=False, callback=_keep, **attributes)


GLOBAL_OPTIONS = (
    global_option("-n", "--netns", metavar="NAME", help="Work in this network namespace."),
    global_option(
        "-o", "--output", metavar="FORM", help="table, json, or a form of the verb's own."
    ),
    global_option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
    global_option("-v", "--verbose", is_flag=True, help="Say more."),
    global_option("--debug", is_flag=True, help="Show the traceback of an error."),
    global_option(
        "--pin-root",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="The bpffs directory of the pin sets (/sys/fs/bpf).",
    ),
    global_option(
        "--lock-timeout",
        metavar="S",
        type=click.FloatRange(min=0),
        help="Wait so long for another command's lock (10).",
    ),
    global_option("--color", type=click.Choice([c.value for c in Color]), help="Colour of text."),
)


private_mount_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--private-mount",
    is_flag=True,
    help="Also in a bpffs that ends with this process's mount namespace.",
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
    """A verb; its help shows the global options below its own."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params = [*self.params, *GLOBAL_OPTIONS]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verb's own options, then the global ones."""
        _write_options(self, ctx, formatter)


def bpfpin_command(
    name: str, *, outputs: Sequence[str] = (TABLE, JSON), **attributes: Any
) -> Callable[[Callable[Concatenate[Context, P], int | None]], Command]:
    """Make a verb of a function that takes a `Context` first, then its own options.

    *outputs* are the forms of `-o` that it writes; another one is a usage error. What the function
    returns is the exit status, None for 0. It runs in the namespace that `-n` names.
    """

    def decorate(function: Callable[Concatenate[Context, P], int | None]) -> Command:
        @functools.wraps(function)
        @click.pass_context
        def run(ctx: click.Context, /, *args: P.args, **options: P.kwargs) -> int | None:
            context = Context.of(ctx.obj)
            _check_output(context.out.kind, outputs, name)
            with _namespace(context.netns):
                if isinstance(target := options.get("map_"), str):
                    options["map_"] = _map_path(target, context.pin_root)
                return function(context, *args, **options)

        return click.command(name, cls=Command, **attributes)(run)

    return decorate


def _map_path(target: str, pin_root: Path) -> str:
    from bpfpin.map.open import path_of  # noqa: PLC0415 - only for verbs of maps

    return path_of(target, pin_root)


def _check_output(kind: str, outputs: Sequence[str], verb: str) -> None:
    if kind not in outputs:
        message = f"{verb} has no output form {kind!r}; it has: {', '.join(outputs)}"
        raise click.BadOptionUsage("output", message)


def _namespace(name: str | None) -> contextlib.AbstractContextManager[object]:
    if name is None:
        return contextlib.nullcontext()
    from bpfpin.host.namespaces import entered  # noqa: PLC0415 - only with -n

    return entered(name)
