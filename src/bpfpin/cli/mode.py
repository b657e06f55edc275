"""The mode of a pin as a parameter: octal, as `chmod` takes it."""

from __future__ import annotations

import click


class Mode(click.ParamType[int]):
    """`0640` or `640`, as a number."""

    name = "mode"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number; usage error for anything that is not three or four octal digits."""
        if isinstance(value, int):
            return value
        text = str(value)
        if not 3 <= len(text) <= 4 or set(text) - set("01234567"):
            self.fail(f"{text!r} is no mode; say it as chmod takes it: 0640", param, ctx)
        return int(text, 8)


MODE = Mode()
