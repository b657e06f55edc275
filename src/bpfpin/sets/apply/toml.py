"""Writes values as TOML; the standard library only reads it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_CONTROL = re.compile(r"\x7f")


def key_text(key: str) -> str:
    """Return a key, in quotes where it needs them."""
    return key if _BARE.fullmatch(key) else value_text(key)


def value_text(value: Any) -> str:
    """Return a value on one line; `ValueError` for one that TOML has no form for."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # The escapes of JSON are those of TOML, but for DEL, which JSON does not escape.
        text = json.dumps(value, ensure_ascii=False)
        text.encode()  # a surrogate has no form
        return _CONTROL.sub(r"\\u007f", text)
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"{value} does not fit into 64 bits")
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, Mapping):
        members = ", ".join(f"{key_text(key)} = {value_text(each)}" for key, each in value.items())
        return f"{{ {members} }}" if members else "{}"
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return f"[{', '.join(map(value_text, value))}]"
    raise ValueError(f"{type(value).__name__} has no form in TOML")


def tables_text(name: str, tables: Sequence[Mapping[str, Any]]) -> str:
    """Return an array of tables, whose inner tables have headers of their own."""
    return "\n".join(_table_text(f"[[{name}]]", name, table) for table in tables)


def _table_text(header: str, path: str, table: Mapping[str, Any]) -> str:
    lines, inner = [header], []
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner.append(_inner_text(f"{path}.{key_text(key)}", value))
        else:
            lines.append(f"{key_text(key)} = {value_text(value)}")
    return "\n".join([*lines, ""]) + "".join(f"\n{text}" for text in inner)


def _inner_text(path: str, table: Mapping[str, Any]) -> str:
    if table and all(isinstance(value, Mapping) for value in table.values()):
        return "\n".join(
            _inner_text(f"{path}.{key_text(key)}", each) for key, each in table.items()
        )
    members = (f"{key_text(key)} = {value_text(value)}\n" for key, value in table.items())
    return f"[{path}]\n{''.join(members)}"
