"""What becomes of each member of a value when its map's definition changed: the words for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final


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
class Wishes:
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


NO_WISHES: Final = Wishes()
