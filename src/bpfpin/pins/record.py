"""What is stored as the text of a symlink: JSON of which nothing is believed when it is read."""

from __future__ import annotations

import json
import re
from typing import Any, Final, Self

TEXT_SIZE_MAX: Final = 4095  # what a symlink in bpffs can carry
NUMBER_MAX: Final = (1 << 64) - 1
COMPONENT: Final = re.compile(r"[^/\0.]{1,255}")


class Record:
    """A JSON object of which nothing is believed."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise ValueError("it is not a JSON object")
        self._values: dict[str, Any] = value

    @classmethod
    def load(cls, text: str) -> Self:
        """Return the object in a text that may be anybody's."""
        if len(text) > TEXT_SIZE_MAX:
            raise ValueError("it is too long")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("it is not JSON") from None
        return cls(value)

    def value(self, key: str) -> object:
        """Return what must be there."""
        if key not in self._values:
            raise ValueError(f"{key!r} is missing")
        return self._values[key]

    def optional(self, key: str, default: object) -> object:
        """Return what the manifests of earlier versions may lack."""
        return self._values.get(key, default)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; without *default* it must be there."""
        value = self.value(key) if default is None else self.optional(key, default)
        if not isinstance(value, str):
            raise ValueError(f"{key!r} is not a text")
        return value

    def number(self, key: str, *, limit: int = NUMBER_MAX, default: int | None = None) -> int:
        """Return a number from 0 to *limit*; without *default* it must be there."""
        value = self.value(key) if default is None else self.optional(key, default)
        if type(value) is not int or not 0 <= value <= limit:
            raise ValueError(f"{key!r} is not a number up to {limit}")
        return value

    def component(self, key: str) -> str:
        """Return a text that is used as one name in bpffs."""
        value = self.text(key)
        if not COMPONENT.fullmatch(value):
            raise ValueError(f"{key!r} is not one name")
        return value
