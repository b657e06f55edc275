"""Old names of the public API: they work for one more version, with a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def warn(old: str, new: str) -> None:
    """Warn the caller of the function that calls this: *old* goes, *new* is what to use."""
    warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=3)


def renamed_argument(old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that takes the keyword *old* for *new*, with a warning."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def renaming(*args: P.args, **keywords: P.kwargs) -> R:
            if old in keywords and new not in keywords:
                warn(f"{function.__qualname__}({old}=…)", f"{new}=…")
                keywords[new] = keywords.pop(old)
            return function(*args, **keywords)

        return renaming

    return decorate
