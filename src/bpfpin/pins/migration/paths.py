"""Names of parts of a value, as they are typed: `flows[2].bytes`, or `flows.bytes` for all."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, TypeVar

Said = TypeVar("Said")

EVERY: Final = "*"
_INDEX: Final = re.compile(r"\[\d+\]")


def bare(path: str) -> str:
    """Return the path without indices: what stands for all elements."""
    return _INDEX.sub("", path)


def is_named(path: str, names: Collection[str]) -> bool:
    """Whether one of *names* is the part *path*, or what it is in."""
    return any(_is_within(path, name) or _is_within(bare(path), name) for name in names)


def said(path: str, words: Mapping[str, Said]) -> Said | None:
    """Return what was said of a part: of itself, of what it is in, or of all."""
    within = [name for name in words if is_named(path, [name]) and name != EVERY]
    return words[max(within, key=len)] if within else words.get(EVERY)


def renamed(path: str, names: Mapping[str, str]) -> str:
    """Return what the old part *path* is called now."""
    for before, after in names.items():
        if _is_within(path, before):
            return after + path[len(before) :]
        parts, old, new = path.split("."), before.split("."), after.split(".")
        is_it = len(old) == len(new) and [bare(part) for part in parts[: len(old)]] == old
        if is_it:
            indices = (part[len(bare(part)) :] for part in parts)
            changed = [name + index for name, index in zip(new, indices, strict=False)]
            return ".".join(changed + parts[len(new) :])
    return path


def is_one_of_fewer(path: str, paths: Collection[str]) -> bool:
    """Whether it is an element beyond the end of an array that *paths* has the first of."""
    return any(
        f"{path[: index.start()]}[0]{_zeroed(path[index.end() :])}" in paths
        for index in _INDEX.finditer(path)
    )


def unknown(names: Iterable[str], paths: Collection[str]) -> list[str]:
    """Return those of *names* that are no part and nothing that parts are in."""
    return [
        name for name in names if name != EVERY and not any(is_named(one, [name]) for one in paths)
    ]


def _zeroed(rest: str) -> str:
    return _INDEX.sub("[0]", rest)


def _is_within(path: str, whole: str) -> bool:
    """Whether *path* is the member *whole*, or a part of it."""
    return path.startswith(whole) and path[len(whole) : len(whole) + 1] in ("", ".", "[")
