"""What the user asks for in a migration: a `Migration`, and what it says of one map."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import field
from enum import Enum
from typing import Any, Final, TypeVar

from bpfpin.records import dataclass

Setting = TypeVar("Setting")
EVERY: Final = "*"
_INDEX: Final = re.compile(r"\[\d+\]")
MemberFunction = Callable[[Any], Any]
KEY = "key"
VALUE = "value"


class Rule(Enum):
    """How a member's old value and the value that the new program has written become one.

    * `SUM`: both are added. For counters.
    * `KEEP_NEW`: the new value, or the old one while the new value is 0.
    * `KEEP_OLD`: the old value.
    * `MAX`, `MIN`: the greater or the lesser one. For `MIN`, and for numbers that may be negative,
      a 0 counts as "no value yet".
    """

    SUM = "sum"
    KEEP_NEW = "keep-new"
    KEEP_OLD = "keep-old"
    MAX = "max"
    MIN = "min"

    def __repr__(self) -> str:
        return f"Rule.{self.name}"


@dataclass(frozen=True)
class MigrationRules:
    """What the user asks for one map, with members by path (`src.port`); `*` stands for all.

    Attributes:
        rules: The rules of members.
        renamed: New paths by old ones.
        dropped: Old members that may be lost.
        start: First values of new members.
        clamp: A number that does not fit becomes the nearest one that does.
        best_effort: The migration need not be exact.
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    start: Mapping[str, object] = field(default_factory=dict)
    clamp: bool = False
    best_effort: bool = False


NO_RULES: Final = MigrationRules()


def without_indices(path: str) -> str:
    """Return the path without indices: `flows.bytes` names `flows[2].bytes` and all its like."""
    return _INDEX.sub("", path)


def is_named(path: str, names: Collection[str]) -> bool:
    """Whether one of *names* is the member *path* or contains it."""
    return any(_is_within(path, name) or _is_within(without_indices(path), name) for name in names)


def setting_of(path: str, settings: Mapping[str, Setting]) -> Setting | None:
    """Return the setting of a member: its own, that of what contains it, or that of `*`."""
    names = [name for name in settings if is_named(path, [name]) and name != EVERY]
    # All of *names* are the member or contain it, so the longest one is the most specific.
    return settings[max(names, key=len)] if names else settings.get(EVERY)


def new_path(path: str, names: Mapping[str, str]) -> str:
    """Return the new path of the old member *path*, by the renames *names*."""
    for before, after in names.items():
        if _is_within(path, before):
            return after + path[len(before) :]
        # A name without indices renames all elements, and each keeps its index. That needs as many
        # steps in the new name as in the old one.
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
    """Whether *path* is in an array of which *paths* has the first element, but not this one."""
    return any(
        f"{path[: index.start()]}[0]{_zeroed(path[index.end() :])}" in paths
        for index in _INDEX.finditer(path)
    )


def unknown_names(names: Iterable[str], paths: Collection[str]) -> list[str]:
    """Return those of *names* that neither are one of the members *paths* nor contain one."""
    return [
        name
        for name in names
        if name != EVERY and not any(is_named(path, [name]) for path in paths)
    ]


def _zeroed(rest: str) -> str:
    return _INDEX.sub("[0]", rest)


def _is_within(path: str, whole: str) -> bool:
    """Whether *path* is the member *whole* or lies in it."""
    return path.startswith(whole) and path[len(whole) : len(whole) + 1] in ("", ".", "[")


@dataclass(frozen=True)
class Migration:
    """How the entries of maps whose layout changed are carried over, in `deploy(migrate=...)`.

    Members are named as in C (`src.port`), those of keys with `key.` in front (`key.port`), a key
    or value that is one number `key` or `value`. A name may be limited to one map
    (`flows:src.port`); else it holds for every map that is migrated. Without any rule counters are
    added up and everything else must have an obvious place, or the migration is refused with the
    options that decide it.

    Args:
        rules: Rules by new member, `*` for all.
        renamed: New names by old names.
        dropped: Old members that may be lost.
        start: First values of new members, in the form in which the map takes them (default: 0).
        functions: A last resort: functions by new member. Each is called with the old value (a
            dict, as reading the map returns it; of a per-CPU map once for each CPU) and returns the
            new member's value. They run before the hooks are switched, so later changes by the old
            programs are not in it: such a migration is never exact and needs *best_effort*.
        layouts: Types of the values of maps without BTF, by map: `u64 packets; u64 bytes`, or a
            structure that the programs were compiled with (`struct datarec`), or both layouts, old
            and new, if they differ.
        clamp: Cut numbers that do not fit to the nearest number that does. Default: refuse them.
        best_effort: Migrate even if some counts may be lost. Default: refuse a migration
            that is not exact.

    Kernel: programs of type BPF_PROG_TYPE_SYSCALL (Linux 5.14) that walk the old map with
        `bpf_for_each_map_elem` (5.13); per-CPU maps need `bpf_map_lookup_percpu_elem` (5.19).
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    dropped: Iterable[str] = ()
    start: Mapping[str, Any] = field(default_factory=dict)
    functions: Mapping[str, MemberFunction] = field(default_factory=dict)
    layouts: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    clamp: bool = False
    best_effort: bool = False

    def __repr__(self) -> str:
        """Return the call that makes it, as it is typed."""
        settings = (
            (field_.name, getattr(self, field_.name)) for field_ in dataclasses.fields(self)
        )
        return f"Migration({', '.join(f'{name}={value!r}' for name, value in settings if value)})"

    def of(self, name: str) -> MigrationRules:
        """Return the rules for the map called *name*: its own, and those for all maps."""
        return MigrationRules(
            rules=_of(self.rules, name),
            renamed=_of(self.renamed, name),
            dropped=frozenset(_of(dict.fromkeys(self.dropped), name)),
            start=_of(self.start, name),
            clamp=self.clamp,
            best_effort=self.best_effort,
        )

    def functions_of(self, name: str) -> dict[str, MemberFunction]:
        """Return the functions for members of the map called *name*, by member."""
        return _of(self.functions, name)

    def names(self) -> frozenset[str]:
        """Return every member that is named anywhere, as the user wrote it."""
        return frozenset({*self.rules, *self.renamed, *self.dropped, *self.start, *self.functions})


def rules_of_part(rules: MigrationRules, part: str, *, has_members: bool) -> MigrationRules:
    """Return the rules for *part* (`key` or `value`), with the paths of members inside of it.

    Without members (*has_members*) the part is one number, called `key` or `value` itself.
    """
    return dataclasses.replace(
        rules,
        rules=_inner(rules.rules, part, has_members=has_members),
        renamed={
            # No member moves between key and value, so the new name may be typed with or without
            # `key.`.
            old: new.removeprefix("key.")
            for old, new in _inner(rules.renamed, part, has_members=has_members).items()
        },
        dropped=frozenset(_inner(dict.fromkeys(rules.dropped), part, has_members=has_members)),
        start=_inner(rules.start, part, has_members=has_members),
    )


def _of(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the settings by member: those of all maps, overridden by those of the map *name*."""
    split = [(*_split(word), setting) for word, setting in settings.items()]
    of_all = {member: setting for map_name, member, setting in split if map_name == EVERY}
    # The more specific one wins, in whatever order they were typed.
    return of_all | {member: setting for map_name, member, setting in split if map_name == name}


def _split(word: str) -> tuple[str, str]:
    map_name, colon, member = word.partition(":")
    return (map_name, member) if colon else (EVERY, word)


def _inner(settings: Mapping[str, Any], part: str, *, has_members: bool) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for name, setting in settings.items():
        if name == part and not has_members:
            inner[""] = setting
        elif name.startswith(f"{KEY}."):
            if part == KEY:
                inner[name.removeprefix(f"{KEY}.")] = setting
        # `key` alone means a key that is one number, unless the value has a member of that name.
        elif part == VALUE and (name != KEY or has_members):
            inner[name] = setting
    return inner
