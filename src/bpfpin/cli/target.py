"""The positional DEV|NAME, which may be typed as `--dev DEV`, too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from bpfpin.errors import UsageError


def target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the argument `target`, one of DEV, NAME and `--dev DEV`; it must be there."""

    @functools.wraps(function)
    def run(*args: Any, target: str | None, dev: str | None, **options: Any) -> Any:
        chosen = chosen_target(target, dev)
        if chosen is None:
            raise UsageError("which set? Name its device or its name", hint="bpfpin status")
        return function(*args, target=chosen, **options)

    return _with_parameters(run)


def optional_target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Like `target_options`, but `target` is None where nothing was typed."""

    @functools.wraps(function)
    def run(*args: Any, target: str | None, dev: str | None, **options: Any) -> Any:
        return function(*args, target=chosen_target(target, dev), **options)

    return _with_parameters(run)


def chosen_target(target: str | None, dev: str | None) -> str | None:
    """Return the one that was typed; `UsageError` if they are two."""
    if target and dev and target != dev:
        raise UsageError(f"{target!r} or --dev {dev!r}? Name one of them")
    return target or dev


def _with_parameters(run: Callable[..., Any]) -> Callable[..., Any]:
    option = click.option("--dev", metavar="DEV", help="The set of this device.")
    return click.argument("target", metavar="DEV|NAME", required=False)(option(run))
