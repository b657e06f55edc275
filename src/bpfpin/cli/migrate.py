"""`load --migrate`: its options, and what it tells when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from bpfpin.errors import UsageError
from bpfpin.sets.load.migrate import Migration, parse_migration
from bpfpin.sets.reports import LoadReport

F = TypeVar("F", bound=Callable[..., Any])

_WORDS = {
    "rule": ("[MAP:]MEMBER=RULE", "How it goes over: sum, keep-new, keep-old, max or min."),
    "rename": ("[MAP:]OLD=NEW", "A member that has another name now."),
    "drop": ("[MAP:]MEMBER", "A member that may be lost."),
    "start": ("[MAP:]MEMBER=VALUE", "What a new member begins with (0)."),
    "layout": (
        "MAP=LAYOUT",
        "Old or new values of a map without BTF: 'u64 packets; u32 drops' or 'struct NAME'.",
    ),
}
_FLAGS = {
    "clamp": "Cut numbers to what the new member can hold.",
    "best-effort": "Also where not every count is proven to come over.",
}


def convert_options(command: F) -> F:
    """Add `--migrate` for entries that nobody counts in: all but `--best-effort`."""
    return _with_options(command, {"clamp": _FLAGS["clamp"]})


def migrate_options(command: F) -> F:
    """Add `--migrate` and what goes with it to a command."""
    return _with_options(command, _FLAGS)


def _with_options(command: F, flags: dict[str, str]) -> F:
    for name, help_ in reversed(flags.items()):
        command = click.option(f"--{name}", is_flag=True, help=help_)(command)
    for name, (metavar, help_) in reversed(_WORDS.items()):
        command = click.option(f"--{name}", metavar=metavar, multiple=True, help=help_)(command)
    return click.option(
        "--migrate", is_flag=True, help="Carry over what maps hold whose definition changed."
    )(command)


def taken(options: dict[str, Any]) -> Migration | None:
    """Take the options of `migrate_options` out of *options* and return what they mean."""
    is_asked = options.pop("migrate")
    words = {name: options.pop(name) for name in _WORDS}
    flags = {name: options.pop(name, False) for name in ("clamp", "best_effort")}
    if is_asked:
        return parse_migration(**words, **flags)
    if given := [name for name, value in {**words, **flags}.items() if value]:
        raise UsageError(
            f"--{given[0].replace('_', '-')} says how maps are migrated; it goes with --migrate"
        )
    return None


def migrated_lines(report: LoadReport) -> Iterator[str]:
    """Yield what went over, and why not all of it may have."""
    for held in report.maps if not report.is_planned else ():
        if plan := held.migration:
            ids = f"id {plan.old_id} -> {held.id}"
            yield f"migrated map {held.name} ({ids}), entries: {plan.entries}"
            yield from (f"  lost: {loss.text()}" for loss in plan.exactness.losses)
            yield from (f"  not exact: {reason}" for reason in plan.exactness.reasons)
