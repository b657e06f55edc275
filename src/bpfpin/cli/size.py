"""Sizes as they are typed: bytes, or `64K`, `256M`, `1G`."""

from __future__ import annotations

import re
from typing import Any

import click

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}
_SIZE = re.compile(r"([0-9]{1,18})([KMG]?)(?:iB)?", re.ASCII | re.IGNORECASE)


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
