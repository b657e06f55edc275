"""Keys and values as text, in the form that `map set` reads."""

from __future__ import annotations

from typing import Any

from bpfpin.cli.formats import to_json
from bpfpin.map.entries import MapEntry
from bpfpin.map.form import is_escaped

# Beginnings that `map set` reads as JSON or as bytes: such a text has to be quoted.
_MARKS = ('"', "{", "[", "hex:")


def value_text(value: Any) -> str:
    """Return a key or a value as text that `map set` reads: `5`, `hex:0a00`, `PASS`, JSON."""
    if isinstance(value, str) and _is_word(value):
        return value
    text = to_json(value)
    # `hex:0a00` is unambiguous without the quotes of JSON.
    return text[1:-1] if isinstance(value, bytes) else text


def _is_word(text: str) -> bool:
    """Whether `map set` reads *text* as itself, and a terminal shows all of it."""
    # Spaces around a word would get lost when it is copied from a table.
    is_plain = bool(text) and text.isprintable() and text.strip() == text
    return is_plain and not text.startswith(_MARKS) and not is_escaped(text)


def value_lines(entry: MapEntry) -> list[str]:
    """Return the value of an entry; one line for each CPU of a per-CPU map."""
    if not entry.is_percpu:
        return [value_text(entry.value)]
    return [f"cpu {cpu}: {value_text(value)}" for cpu, value in enumerate(entry.value)]
