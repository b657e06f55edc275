"""The options of `--migrate`, and the messages about migrated maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bpfpin.errors import UsageError
from bpfpin.sets.reports import LoadReport

if TYPE_CHECKING:
    from bpfpin.sets.load.migrate import Migration

F = TypeVar("F", bound=Callable[..., Any])

_WORDS = {
    "rule": ("[MAP:]MEMBER=RULE", "How a member is migrated: sum, keep-new, keep-old, max or min."),
    "rename": ("[MAP:]OLD=NEW", "Rename a member of the old map."),
    "drop": ("[MAP:]MEMBER", "Allow to lose this member."),
    "start": ("[MAP:]MEMBER=VALUE", "Initial value of a new member (0)."),
    "layout": (
        "MAP=LAYOUT",
        "Type of the values of a map without BTF: 'u64 packets; u32 drops', 'struct NAME'.",
    ),
}
_FLAGS = {
    "clamp": "Reduce numbers to the range of the new member.",
    "best-effort": "Migrate even if it is not proven that no count is lost.",
}


def convert_options(command: F) -> F:
    """Add `--migrate` and its options for entries that no program writes: not `--best-effort`."""
    return _with_options(command, {"clamp": _FLAGS["clamp"]})


def migrate_options(command: F) -> F:
    """Add `--migrate` and its options to a command."""
    return _with_options(command, _FLAGS)


def _with_options(command: F, flags: dict[str, str]) -> F:
    # In reverse: decorators are applied from the last to the first, and help shows the first on
    # top.
    for name, help_ in reversed(flags.items()):
        command = click.option(f"--{name}", is_flag=True, help=help_)(command)
    for name, (metavar, help_) in reversed(_WORDS.items()):
        command = click.option(f"--{name}", metavar=metavar, multiple=True, help=help_)(command)
    return click.option(
        "--migrate", is_flag=True, help="Copy the entries of maps whose definition changed."
    )(command)


def taken(options: dict[str, Any]) -> Migration | None:
    """Remove the options of `migrate_options` from *options* and return the migration."""
    is_asked = options.pop("migrate")
    # All are taken out, also without --migrate: `deploy` does not know them.
    words = {name: options.pop(name) for name in _WORDS}
    # `--best-effort` is missing where no program writes (`convert_options`).
    flags = {name: options.pop(name, False) for name in ("clamp", "best_effort")}
    if is_asked:
        from bpfpin.sets.load.migrate import parse_migration  # noqa: PLC0415 - few loads migrate

        return parse_migration(**words, **flags)
    if given := [name for name, value in {**words, **flags}.items() if value]:
        raise UsageError(
            f"--{given[0].replace('_', '-')} is an option of a migration: add --migrate"
        )
    return None


def migrated_lines(report: LoadReport) -> Iterator[str]:
    """Yield the messages about migrated maps: entries, losses, reasons for inexact counts."""
    # A plan shows the same lines below its map.
    for map_ in report.maps if not report.is_planned else ():
        if migration := map_.migration:
            ids = f"id {migration.old_id} -> {map_.id}"
            yield f"migrated map {map_.name} ({ids}), entries: {migration.entries}"
            yield from (f"  {line}" for line in migration.lost_lines())
