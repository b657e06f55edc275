"""The positional DEV|NAME, which may be typed as `--dev DEV`, too."""

from __future__ import annotations

import functools
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bpfpin.cli.context import Context
from bpfpin.errors import UsageError
from bpfpin.sets.request import parse_mode

FC = TypeVar("FC", bound=Callable[..., Any])
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}
_SIZE = re.compile(r"([0-9]{1,18})([KMG]?)(?:iB)?", re.ASCII | re.IGNORECASE)


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
    option = device_option("The set of this device.")
    argument = click.argument(
        "target", metavar="DEV|NAME", required=False, shell_complete=complete_sets
    )
    return argument(option(run))


def device_option(text: str = "The device; the same as DEV.") -> Callable[[FC], FC]:
    """Return the option `--dev DEV`, whose devices a shell can complete."""
    return click.option("--dev", metavar="DEV", help=text, shell_complete=complete_devices)


def complete_devices(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return the network devices whose names begin as what was typed, for a shell's Tab."""
    return sorted(name for _, name in socket.if_nameindex() if name.startswith(incomplete))


def complete_sets(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the pin sets whose names begin as what was typed; none where they cannot be read."""
    from bpfpin.sets.find import set_names  # noqa: PLC0415 - only for a shell's Tab

    root = Path((ctx.obj or {}).get("pin_root", Context.pin_root))
    return [name for name in set_names(root) if name.startswith(incomplete)]


# The mode of a pin as a parameter: octal, as `chmod` takes it.


class Mode(click.ParamType[int]):
    """`0640` or `640`, as a number."""

    name = "mode"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number; usage error for anything that is not three or four octal digits."""
        if isinstance(value, int):
            return value
        try:
            return parse_mode(str(value))
        except UsageError as error:
            self.fail(error.message, param, ctx)


MODE = Mode()


# Sizes as they are typed: bytes, or `64K`, `256M`, `1G`.


class Size(click.ParamType[int]):
    """A number of bytes; the units are powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes of what was typed."""
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value)
        if not found:
            self.fail(f"{value!r} is no size; it is typed like 4096, 64K, 256M or 1G", param, ctx)
        return int(found[1]) << _UNITS[found[2].upper()]


SIZE = Size()
