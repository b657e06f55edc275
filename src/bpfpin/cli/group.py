"""Groups of verbs, whose modules are imported when a verb is called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from bpfpin.cli.context import Command
from bpfpin.errors import UsageError
from bpfpin.records import dataclass


@dataclass(frozen=True, slots=True)
class Verb:
    """A row of a table of verbs: where the command is, and its line in the help of the group.

    *place* is `MODULE:NAME`, or `MODULE` for the name `command`.
    """

    place: str
    help: str


class Group(Command, click.Group):
    """A command whose subcommands are the rows of a table of verbs."""

    def __init__(self, name: str, verbs: Mapping[str, Verb], **attributes: Any) -> None:
        attributes.setdefault("callback", click.pass_context(_require_verb))
        super().__init__(name, invoke_without_command=True, no_args_is_help=False, **attributes)
        self.verbs = verbs
        self.subcommand_metavar = "VERB …"

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the table's order."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module and return its command."""
        verb = self.verbs.get(cmd_name)
        if verb is None:
            return None
        # Only the module of this verb: all of them together would take longer than most verbs.
        module, _, name = verb.place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name or "command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the verb that was typed; `UsageError` names similar verbs."""
        # click reports an unknown verb in its own words, without similar ones.
        if args[0] in self.verbs:
            return super().resolve_command(ctx, args)
        raise UsageError(
            f"{ctx.command_path} has no verb {args[0]!r}{_near(args[0], list(self.verbs))}",
            hint=f"{ctx.command_path} --help",
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the verbs, each with its line of help."""
        super().format_options(ctx, formatter)
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.help) for name, verb in self.verbs.items()])


def _require_verb(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        refuse_without_verb(ctx)


def refuse_without_verb(ctx: click.Context) -> NoReturn:
    """Raise the `UsageError` of a group that was called without a verb."""
    assert isinstance(ctx.command, Group)
    verbs = ", ".join(ctx.command.verbs)
    raise UsageError(f"{ctx.command_path}: give a verb: {verbs}", hint=f"{ctx.command_path} --help")


def _near(word: str, words: Sequence[str]) -> str:
    from bpfpin.choices import similar  # noqa: PLC0415 - only for a wrong word

    # Less alike than the default of 0.6: verbs are short, and one wrong letter weighs much.
    matches = similar(word, words, cutoff=0.5)
    return f"; did you mean {', '.join(matches)}?" if matches else f"; it has: {', '.join(words)}"
