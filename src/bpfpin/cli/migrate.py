"""The options of `--migrate`, and the messages about migrated maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from bpfpin.errors import UsageError
from bpfpin.sets.reports import LoadReport

if TYPE_CHECKING:
    from bpfpin.migration.request import Migration, Rule

F = TypeVar("F", bound=Callable[..., Any])

_SIDES: Final = 2  # a layout of old values, and one of new ones
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
    help_ = "Convert the entries if the definition of the map changed."
    return _with_options(command, {"clamp": _FLAGS["clamp"]}, help_)


def migrate_options(command: F) -> F:
    """Add `--migrate` and its options to a command."""
    help_ = "Move the entries of maps whose definition changed to new maps."
    return _with_options(command, _FLAGS, help_)


def _with_options(command: F, flags: dict[str, str], help_of_migrate: str) -> F:
    # In reverse: decorators are applied from the last to the first, and help shows the first on
    # top.
    for name, help_ in reversed(flags.items()):
        command = click.option(f"--{name}", is_flag=True, help=help_)(command)
    for name, (metavar, help_) in reversed(_WORDS.items()):
        command = click.option(f"--{name}", metavar=metavar, multiple=True, help=help_)(command)
    return click.option("--migrate", is_flag=True, help=help_of_migrate)(command)


def taken(options: dict[str, Any]) -> Migration | None:
    """Remove the options of `migrate_options` from *options* and return the migration."""
    is_asked = options.pop("migrate")
    # All are taken out, also without --migrate: `deploy` does not know them.
    words = {name: options.pop(name) for name in _WORDS}
    # `--best-effort` is missing where no program writes (`convert_options`).
    flags = {name: options.pop(name, False) for name in ("clamp", "best_effort")}
    if is_asked:
        return parse_migration(**words, **flags)
    if given := [name for name, value in {**words, **flags}.items() if value]:
        raise UsageError(
            f"--{given[0].replace('_', '-')} is an option of a migration: add --migrate"
        )
    return None


def parse_migration(
    *,
    rule: Iterable[str] = (),
    rename: Iterable[str] = (),
    drop: Iterable[str] = (),
    start: Iterable[str] = (),
    layout: Iterable[str] = (),
    clamp: bool = False,
    best_effort: bool = False,
) -> Migration:
    """Parse the options, each of which may be given several times.

    Their forms are `[MAP:]MEMBER=RULE` (*rule*), `[MAP:]OLD=NEW` (*rename*), `[MAP:]MEMBER`
    (*drop*), `[MAP:]MEMBER=VALUE` (*start*) and `MAP=LAYOUT` (*layout*). Raises `UsageError` for
    anything else, and for two options that contradict.
    """
    from bpfpin.migration.request import Migration  # noqa: PLC0415 - few loads migrate

    return Migration(
        rules={name: _rule(word) for name, word in _pairs("--rule", "MEMBER=RULE", rule)},
        renamed=dict(_pairs("--rename", "OLD=NEW", rename)),
        dropped=tuple(drop),
        start=dict(_pairs("--start", "MEMBER=VALUE", start)),
        layouts=_layouts(layout),
        clamp=clamp,
        best_effort=best_effort,
    )


def _layouts(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the layouts of each map: one for both sides, or one for each of them."""
    layouts: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals and text):
            raise UsageError(f"--layout {word}: it takes MAP=LAYOUT")
        layouts[name] = tuple(dict.fromkeys((*layouts.get(name, ()), text)))
    for name, texts in layouts.items():
        if len(texts) > _SIDES:
            raise UsageError(
                f"--layout {name} is given {len(texts)} times: at most two, for old and new values"
            )
    return layouts


def _pairs(option: str, form: str, words: Iterable[str]) -> list[tuple[str, str]]:
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = word.rpartition("=") if option == "--rule" else word.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{option} {word}: it takes {form}")
        # The same option twice is harmless, as in scripts that add up their options.
        if pairs.get(name, value) != value:
            raise UsageError(f"{option} {name} is given as {pairs[name]} and as {value}")
        pairs[name] = value
    return list(pairs.items())


def _rule(word: str) -> Rule:
    from bpfpin.migration.request import Rule  # noqa: PLC0415 - few loads migrate

    try:
        return Rule(word)
    except ValueError:
        rules = ", ".join(rule.value for rule in Rule)
        raise UsageError(f"{word!r} is not a rule (rules: {rules})") from None


def migrated_lines(report: LoadReport) -> Iterator[str]:
    """Yield the messages about migrated maps: entries, losses, reasons for inexact counts."""
    # A plan shows the same lines below its map.
    for map_ in report.maps if not report.is_planned else ():
        if migration := map_.migration:
            ids = f"id {migration.old_id} -> {map_.id}"
            yield f"migrated map {map_.name} ({ids}), entries: {migration.entries}"
            yield from (f"  {line}" for line in migration.lost_lines())
