"""What the user says of a migration: the words of the command line, and `Migration` for Python."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeVar

from bpfpin.errors import UsageError

Setting = TypeVar("Setting")
EVERY: Final = "*"
_INDEX: Final = re.compile(r"\[\d+\]")
MemberFunction = Callable[[Any], Any]
_SIDES: Final = 2
KEY = "key"
VALUE = "value"


# What becomes of each member of a value when its map's definition changed: the words for it.


class Rule(Enum):
    """How the old value of a member and the new program's value of it become one.

    `SUM` is for counters: what was counted before and what is counted since. `KEEP_NEW` takes the
    old value where the new program has not written one (where it is 0), `KEEP_OLD` always takes the
    old one. `MAX` and `MIN` take the greater or the lesser; to `MIN`, and where numbers may be
    negative, a 0 is no value yet.
    """

    SUM = "sum"
    KEEP_NEW = "keep-new"
    KEEP_OLD = "keep-old"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True)
class MigrationRules:
    """What the user says of the members of one map, by path (`src.port`); `*` stands for all.

    *renamed* leads from old to new paths; *dropped* are old ones that may be lost; *start* are
    first values of new ones. With *clamp* a number that does not fit becomes the nearest one that
    does; *best_effort* accepts that not everything is exact.
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    start: Mapping[str, object] = field(default_factory=dict)
    clamp: bool = False
    best_effort: bool = False


NO_RULES: Final = MigrationRules()


# Names of parts of a value, as they are typed: `flows[2].bytes`, or `flows.bytes` for all.


def without_indices(path: str) -> str:
    """Return the path without indices: what stands for all elements."""
    return _INDEX.sub("", path)


def is_named(path: str, names: Collection[str]) -> bool:
    """Whether one of *names* is the part *path*, or what it is in."""
    return any(_is_within(path, name) or _is_within(without_indices(path), name) for name in names)


def setting_of(path: str, words: Mapping[str, Setting]) -> Setting | None:
    """Return what was said of a part: of itself, of what it is in, or of all."""
    within = [name for name in words if is_named(path, [name]) and name != EVERY]
    return words[max(within, key=len)] if within else words.get(EVERY)


def new_path(path: str, names: Mapping[str, str]) -> str:
    """Return what the old part *path* is called now."""
    for before, after in names.items():
        if _is_within(path, before):
            return after + path[len(before) :]
        parts, old, new = path.split("."), before.split("."), after.split(".")
        is_it = (
            len(old) == len(new) and [without_indices(part) for part in parts[: len(old)]] == old
        )
        if is_it:
            indices = (part[len(without_indices(part)) :] for part in parts)
            changed = [name + index for name, index in zip(new, indices, strict=False)]
            return ".".join(changed + parts[len(new) :])
    return path


def is_beyond_end(path: str, paths: Collection[str]) -> bool:
    """Whether it is an element beyond the end of an array that *paths* has the first of."""
    return any(
        f"{path[: index.start()]}[0]{_zeroed(path[index.end() :])}" in paths
        for index in _INDEX.finditer(path)
    )


def unknown_names(names: Iterable[str], paths: Collection[str]) -> list[str]:
    """Return those of *names* that are no part and nothing that parts are in."""
    return [
        name for name in names if name != EVERY and not any(is_named(one, [name]) for one in paths)
    ]


def _zeroed(rest: str) -> str:
    return _INDEX.sub("[0]", rest)


def _is_within(path: str, whole: str) -> bool:
    """Whether *path* is the member *whole*, or a part of it."""
    return path.startswith(whole) and path[len(whole) : len(whole) + 1] in ("", ".", "[")


@dataclass(frozen=True)
class Migration:
    """How old values become new ones; members are named as in C (`src.port`), keys as `key.port`.

    A name may stand behind that of its map (`flows:src.port`), else it is of every map. *rules* are
    by member, *renamed* leads from old to new names, *dropped* may be lost, *start* are first
    values of new members, as a map takes them. *layouts* are types of the values of maps without
    BTF, by map: `u64 packets; u64 bytes`, a structure of the object (`struct datarec`), or several
    of these, of which each is for the side whose size it has. *clamp* cuts numbers to what fits.

    *functions* are a last resort, by new member: called with the old value (a dict, as reading the
    map gives it; of per-CPU maps once for each CPU) they return the new member's. They are called
    before the programs are switched, so that what the old program writes from then on is not in it:
    with one of them a migration is never exact, and *best_effort* must say that this will do.
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    dropped: Iterable[str] = ()
    start: Mapping[str, Any] = field(default_factory=dict)
    functions: Mapping[str, MemberFunction] = field(default_factory=dict)
    layouts: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    clamp: bool = False
    best_effort: bool = False

    def of(self, name: str) -> MigrationRules:
        """Return what is said of the map *name* and of all maps."""
        return MigrationRules(
            rules=_of(self.rules, name),
            renamed=_of(self.renamed, name),
            dropped=frozenset(_of(dict.fromkeys(self.dropped), name)),
            start=_of(self.start, name),
            clamp=self.clamp,
            best_effort=self.best_effort,
        )

    def functions_of(self, name: str) -> dict[str, MemberFunction]:
        """Return the functions for members of the map *name*."""
        return _of(self.functions, name)

    def names(self) -> frozenset[str]:
        """Return all members that something was said of, as it was said."""
        said = {*self.rules, *self.renamed, *self.dropped, *self.start, *self.functions}
        return frozenset(said)


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
    """Read the words of the command line; each option may be given several times.

    They are `[MAP:]MEMBER=RULE`, `[MAP:]OLD=NEW`, `[MAP:]MEMBER`, `[MAP:]MEMBER=VALUE` and
    `MAP=LAYOUT`. `UsageError` for what does not read as one of them, or contradicts itself.
    """
    return Migration(
        rules={name: _rule(word) for name, word in _pairs("--rule", "MEMBER=RULE", rule)},
        renamed=dict(_pairs("--rename", "OLD=NEW", rename)),
        dropped=tuple(drop),
        start=dict(_pairs("--start", "MEMBER=VALUE", start)),
        layouts=_layouts(layout),
        clamp=clamp,
        best_effort=best_effort,
    )


def rules_of_part(wishes: MigrationRules, side: str, *, has_members: bool) -> MigrationRules:
    """Return what is said of keys, or of values, by the names of members in them.

    Where the whole is one number it is called `key` or `value` itself.
    """
    return dataclasses.replace(
        wishes,
        rules=_inner(wishes.rules, side, has_members=has_members),
        renamed={
            old: new.removeprefix("key.")
            for old, new in _inner(wishes.renamed, side, has_members=has_members).items()
        },
        dropped=frozenset(_inner(dict.fromkeys(wishes.dropped), side, has_members=has_members)),
        start=_inner(wishes.start, side, has_members=has_members),
    )


def _layouts(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the layouts of each map: one for both sides, or one for each of them."""
    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals and text):
            raise UsageError(f"--layout {word}: it takes MAP=LAYOUT")
        found[name] = tuple(dict.fromkeys((*found.get(name, ()), text)))
    for name, texts in found.items():
        if len(texts) > _SIDES:
            raise UsageError(f"--layout {name} is given {len(texts)} times: for old and new, twice")
    return found


def _pairs(option: str, form: str, words: Iterable[str]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, what = word.rpartition("=") if option == "--rule" else word.partition("=")
        if not (name and equals and what):
            raise UsageError(f"{option} {word}: it takes {form}")
        if found.get(name, what) != what:
            raise UsageError(f"{option} {name} is given as {found[name]} and as {what}")
        found[name] = what
    return list(found.items())


def _rule(word: str) -> Rule:
    try:
        return Rule(word)
    except ValueError:
        rules = ", ".join(each.value for each in Rule)
        raise UsageError(f"{word!r} is no rule; there are {rules}") from None


def _of(words: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return words by member: those of all maps, and of the map *name*, which count more."""
    split = [(*_split(word), what) for word, what in words.items()]
    of_all = {member: what for place, member, what in split if place == EVERY}
    return of_all | {member: what for place, member, what in split if place == name}


def _split(word: str) -> tuple[str, str]:
    place, colon, member = word.partition(":")
    return (place, member) if colon else (EVERY, word)


def _inner(words: Mapping[str, Any], side: str, *, has_members: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, what in words.items():
        if name == side and not has_members:
            found[""] = what
        elif name.startswith(f"{KEY}."):
            if side == KEY:
                found[name.removeprefix(f"{KEY}.")] = what
        elif side == VALUE and (name != KEY or has_members):
            found[name] = what
    return found
