"""The mode of a pin as a parameter: octal, as `chmod` takes it."""

from __future__ import annotations

import click

from bpfpin.apps.load.loading import parse_mode
from bpfpin.errors import UsageError


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
