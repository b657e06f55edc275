"""Verbs that have verbs: found in a table and imported when they are called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from bpfpin.cli.context import Command
from bpfpin.errors import UsageError


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb's command is, and the line that `--help` shows without importing it.

    *place* is `MODULE` for its `command`, or `MODULE:NAME`.
    """

    place: str
    help: str


class Group(Command, click.Group):
    """A command whose verbs are the rows of a table; their modules are imported on use."""

    def __init__(self, name: str, verbs: Mapping[str, Verb], **attributes: Any) -> None:
        attributes.setdefault("callback", click.pass_context(need_a_verb))
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
        module, _, name = verb.place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name or "command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb that was typed, or raise `UsageError` with the nearest ones."""
        if args[0] in self.verbs:
            return super().resolve_command(ctx, args)
        raise UsageError(
            f"{ctx.command_path} has no verb {args[0]!r}{_near(args[0], list(self.verbs))}",
            hint=f"{ctx.command_path} --help",
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the verbs with their line of help."""
        super().format_options(ctx, formatter)
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.help) for name, verb in self.verbs.items()])


def need_a_verb(ctx: click.Context) -> None:
    """Refuse a group that was called alone."""
    if ctx.invoked_subcommand is None and isinstance(ctx.command, Group):
        there = ", ".join(ctx.command.verbs)
        raise UsageError(
            f"{ctx.command_path}: which verb? {there}", hint=f"{ctx.command_path} --help"
        )


def _near(word: str, words: Sequence[str]) -> str:
    import difflib  # noqa: PLC0415 - only for a wrong word

    found = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    return f"; near it: {', '.join(found)}" if found else f"; it has: {', '.join(words)}"
