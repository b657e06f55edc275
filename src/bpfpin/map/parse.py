"""Keys and values as people type them: `7`, `0x1f`, `hex:0a00…`, `10.0.0.1`, names, JSON, fields.

A word is read by the codec that the map has for it: what the codec takes as text (the names of an
enumeration, a `char[]`, an address where a format applies) is left to it, all else becomes the
number or the bytes that it stands for.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bpfpin.codecs.codec import Codec, TextCodec, text_of
from bpfpin.codecs.of_format import FormatCodec
from bpfpin.codecs.record import ArrayCodec, RecordCodec
from bpfpin.errors import UsageError
from bpfpin.map import form as literals
from bpfpin.map.form import HEX, MAX_INTEGER_BYTES, Form, is_escaped, unescaped

_SHOWN_MAX: Final = 60
# A comma between two fields, not one within JSON or a text.
_BETWEEN: Final = re.compile(r",(?=\s*[A-Za-z_]\w*=)")
_FIELD: Final = re.compile(r"\s*[A-Za-z_][\w.\[\]]*=")
_PATH: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[\d{1,9}\])*")
_STEP: Final = re.compile(r"\w+")
Step = str | int


def parse_value(text: str, form: Form) -> Any:
    """Return what *text* means, as the map reads it; `UsageError` says which forms there are."""
    if text.startswith(HEX):
        return _from_hex(text, form)
    return as_read(_typed(text, form), form)


def parse_list(text: str, form: Form) -> list[Any]:
    """Return the values of a JSON list, one a CPU, each as `parse` takes it."""
    items = _from_json(text, form)
    return [
        parse_value(item if isinstance(item, str) else json.dumps(item), form) for item in items
    ]


def is_fields(words: Sequence[str]) -> bool:
    """Whether *words* are `FIELD=VALUE` each."""
    return bool(words) and all(_FIELD.match(word) for word in words)


def as_read(value: Any, form: Form) -> Any:
    """Return *value* as it reads when it is in the map; `UsageError` if the map cannot have it."""
    try:
        data = form.codec.encode(value)
    except (TypeError, ValueError) as error:
        shown = repr(value)
        shown = shown if len(shown) <= _SHOWN_MAX else f"{shown[:_SHOWN_MAX]}…"
        hint = f"give {form.forms()}"
        raise UsageError(f"{form.what} {shown}: {error}", hint=hint) from None
    # Bytes of another kind stand for something that is open: a cgroup's path, a process.
    return form.codec.decode(data) if type(data) is bytes else value


def converted(value: Any, form: Form) -> Any:
    """Return what JSON has, with the texts in it turned into what they mean at their place."""
    if isinstance(value, str):
        return _text(value, form)
    if isinstance(value, dict) and isinstance(form.codec, RecordCodec):
        return {name: converted(one, form.of_member(name)) for name, one in value.items()}
    if isinstance(value, list) and isinstance(form.codec, ArrayCodec):
        length = form.codec.length
        whole = [converted(one, form.of_element(at)) for at, one in enumerate(value[:length])]
        return [*whole, *value[length:]]  # the codec says that it is too long
    return value


def _typed(text: str, form: Form) -> Any:
    opened = form.opened()
    if opened is not form and (text.startswith("{") or is_fields([text])):
        return _typed(text, opened)
    if isinstance(form.codec, RecordCodec) and is_fields([text]):
        pairs = [word.strip().partition("=") for word in _BETWEEN.split(text)]
        return {name: parse_value(value, form.of_member(name)) for name, _, value in pairs}
    has_parts = isinstance(form.codec, RecordCodec | ArrayCodec | FormatCodec)
    is_structured = has_parts and text[:1] in ("{", "[")
    if is_structured or text[:1] == '"':
        return converted(_from_json(text, form), form)
    return _text(text, form)


def _text(text: str, form: Form) -> Any:
    """Return what one word means: what its codec takes, or a number, or what bytes it stands for.

    Texts in JSON come here as well, so bytes may be among them.
    """
    codec = form.codec
    if isinstance(codec, TextCodec):
        return text_of(unescaped(text)) if is_escaped(text) else text
    if text.startswith(HEX):
        return _from_hex(text, form)
    if _takes(codec, text):
        return text
    value = _number(text, form) if form.may_be_number else None
    if value is not None:
        return value
    for literal in form.literals:
        data = literal(text, codec.size)
        if data is not None:
            return codec.decode(data)
    raise form.refused(text)


def _number(text: str, form: Form) -> Any:
    """Return the number that *text* is, as bytes where no type is known; None if it is none."""
    value = literals.number(text)
    if value is None:
        return _fraction(text, form.codec)
    if not form.is_untyped:
        return value
    size = form.codec.size
    if size > MAX_INTEGER_BYTES:
        return None
    try:
        return value.to_bytes(size, "little", signed=value < 0)
    except OverflowError:
        raise UsageError(f"{form.what} {text} does not fit {size} bytes") from None


def _fraction(text: str, codec: Codec) -> float | None:
    try:
        return float(text) if _takes(codec, 0.5) else None
    except ValueError:
        return None


def _takes(codec: Codec, value: Any) -> bool:
    try:
        codec.encode(value)
    except (TypeError, ValueError):
        return False
    return True


def _from_hex(text: str, form: Form) -> Any:
    return form.codec.decode(literals.hex_bytes(text, form.codec.size, what=form.what))


def _from_json(text: str, form: Form) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise form.refused(text) from None


# Fields of a value by their paths, as they are typed: `rx_bytes=7`, `inner.b=1`, `ports[2]=80`.


@dataclass(frozen=True, slots=True)
class Field:
    """One `FIELD=VALUE`: *path* as it was typed, *value* as the map reads it."""

    path: str
    steps: tuple[Step, ...]
    value: Any

    def of(self, whole: Any) -> Any:
        """Return what *whole*, a value of the map, has in this field."""
        return taken(whole, self.steps)


def parse_field(word: str, form: Form) -> Field:
    """Read one `FIELD=VALUE` of a value; `UsageError` names the fields there are."""
    path, _, text = word.partition("=")
    steps, there = at(path, form)
    return Field(path, steps, parse_value(text, there))


def at(path: str, form: Form) -> tuple[tuple[Step, ...], Form]:
    """Return the steps of a path such as `a.b[1]`, and the form of what is there; `UsageError`."""
    if not _PATH.fullmatch(path):
        raise UsageError(f"{path!r} is no field", hint="a field is named like a.b or a[2]")
    steps = tuple(int(step) if step.isdecimal() else step for step in _STEP.findall(path))
    for step in steps:
        form = form.of_element(step) if isinstance(step, int) else form.of_member(step)
    return steps, form


def taken(whole: Any, steps: Iterable[Step]) -> Any:
    """Return what a value of the map has after these steps."""
    for step in steps:
        whole = whole[step]
    return whole


def partial(fields: Iterable[Field], current: Any) -> dict[str, Any]:
    """Return just these fields as nested dicts, for `Map.update(partial=True)`.

    A list is given whole: its other elements are those of *current*.
    """
    found: dict[str, Any] = {}
    for field in fields:
        _put(found, field.steps, field.value, current)
    return found


def _put(place: Any, steps: tuple[Step, ...], value: Any, current: Any) -> None:
    step, *rest = steps
    if not rest:
        place[step] = value
        return
    if isinstance(step, str) and step not in place:
        place[step] = {} if isinstance(rest[0], str) else copy.deepcopy(current[step])
    _put(place[step], tuple(rest), value, current[step])
