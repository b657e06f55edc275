"""Words that a user may choose from: members of enums by name, and words similar to a wrong one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TypeVar

from bpfpin.errors import UsageError
from bpfpin.uapi import UpdateFlag

E = TypeVar("E", bound=Enum)
_BEGINNING = 3
_LENGTH = 4  # by which a wrong name may be too long or too short


def flag_of(value: UpdateFlag | str) -> UpdateFlag:
    """Return the flag for a write to a map; it may be a name: `noexist`, `exist`, `any`."""
    if isinstance(value, str):
        return choice_of(UpdateFlag, value, what="flag")
    return UpdateFlag(value)


def choice_of(kind: type[E], value: object, *, what: str) -> E:
    """Return the member of *kind* that *value* is or names: `native`, `tcx-egress`, `TCX_EGRESS`.

    Args:
        kind: The enum.
        value: A member, or a name: as users type it, or as the kernel spells it.
        what: The kind of choice, for the error message.

    Returns:
        The member.

    Raises:
        UsageError: There is no such choice; the error, also a `ValueError`, lists all.
    """
    if isinstance(value, kind):
        return value
    members = {
        member.value if isinstance(member.value, str) else name.lower().replace("_", "-"): member
        for name, member in kind.__members__.items()
    }
    word = value.strip().lower().replace("_", "-") if isinstance(value, str) else ""
    if word in members:
        return members[word]
    near = similar(word, members)
    raise UsageError(
        f"there is no {what} {value!r}; there are: {', '.join(members)}",
        hint=f"near it: {', '.join(near)}" if near else "",
    )


def types_among(words: Iterable[str], known: Sequence[str], *, what: str) -> frozenset[str]:
    """Return *words* in lower case; `UsageError` for one that is neither in *known* nor a number.

    A type that this version does not know is named by its number. *what* is in the message.
    """
    types = frozenset(word.lower() for word in words)
    for word in sorted(types):
        if word not in known and not word.isdecimal():
            near = similar(word, known)
            hint = f"near it: {', '.join(near)}" if near else f"there are: {', '.join(known)}"
            raise UsageError(f"{word!r} is not a type of {what}", hint=hint)
    return types


def similar(word: str, known: Iterable[str], *, count: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return up to *count* of the *known* words that are most similar to *word*, the best first.

    Args:
        word: What was typed.
        known: The words that exist.
        count: How many to return at most.
        cutoff: How similar a word must be: 0 takes any, 1 only the same.
    """
    import difflib  # noqa: PLC0415  (only for a wrong word)

    return difflib.get_close_matches(word, list(known), n=count, cutoff=cutoff)


def similar_of_many(word: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the *known* names that are most similar to *word*, the best first.

    For names of functions, of which the kernel has 100,000: only those that contain the word, or
    have its beginning and about its length, are compared.
    """
    likely = {
        name
        for name in known
        if word in name
        or (name[:_BEGINNING] == word[:_BEGINNING] and abs(len(name) - len(word)) <= _LENGTH)
    }
    # The compiler makes `name.isra.0` of a function whose arguments it changes.
    changed = sorted(name for name in likely if name.startswith(f"{word}."))
    best = similar(word, likely) or sorted(likely, key=len)
    return list(dict.fromkeys([*changed, *best]))[:3]
