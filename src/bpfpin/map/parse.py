"""Parses typed keys and values: `7`, `0x1f`, `hex:0a00…`, `10.0.0.1`, names, JSON, fields.

A word is read by the codec of the map. Text that the codec accepts (a name of an enumeration, a
`char[]`, an address where a format applies) is passed to it; any other word becomes the number or
the bytes that it stands for.

A field of a value is named by its path: `rx_bytes=7`, `inner.b=1`, `ports[2]=80`.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from bpfpin.codecs.codec import Codec, TextCodec, text_of
from bpfpin.codecs.of_format import FormatCodec
from bpfpin.codecs.record import ArrayCodec, RecordCodec
from bpfpin.errors import UsageError
from bpfpin.map import form as literals
from bpfpin.map.form import HEX, MAX_INTEGER_BYTES, InputForm, is_escaped, unescaped
from bpfpin.records import dataclass

_SHOWN_MAX: Final = 60
# A comma between two fields, not within JSON or a text.
_BETWEEN: Final = re.compile(r",(?=\s*[A-Za-z_]\w*=)")
_FIELD: Final = re.compile(r"\s*[A-Za-z_][\w.\[\]]*=")
# At most nine digits: `int` takes long for endless ones.
_PATH: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[\d{1,9}\])*")
_STEP: Final = re.compile(r"\w+")
Step = str | int


def parse_value(text: str, form: InputForm) -> Any:
    """Return the key or value that *text* stands for, as the map decodes it.

    `UsageError` lists the accepted forms.
    """
    if text.startswith(HEX):
        return _from_hex(text, form)
    return as_decoded(_typed(text, form), form)


def parse_list(text: str, form: InputForm) -> list[Any]:
    """Return the values of a JSON list, one per CPU, each parsed by `parse_value`."""
    items = _from_json(text, form)
    # Back to text: an item of the list is read as if it had been typed alone.
    return [
        parse_value(item if isinstance(item, str) else json.dumps(item), form) for item in items
    ]


def is_fields(words: Sequence[str]) -> bool:
    """Whether all *words* have the form `FIELD=VALUE`."""
    return bool(words) and all(_FIELD.match(word) for word in words)


def as_decoded(value: Any, form: InputForm) -> Any:
    """Return *value* as the map would decode it; `UsageError` if it does not fit the map."""
    try:
        # Encoded and decoded: afterwards the value is as the map returns it, and can be compared.
        data = form.codec.encode(value)
    except (TypeError, ValueError) as error:
        shown = repr(value)
        shown = shown if len(shown) <= _SHOWN_MAX else f"{shown[:_SHOWN_MAX]}…"
        hint = f"give {form.forms()}"
        raise UsageError(f"{form.what} {shown}: {error}", hint=hint) from None
    # A subclass of bytes refers to something open, such as a cgroup or a process: keep it.
    return form.codec.decode(data) if type(data) is bytes else value


def converted(value: Any, form: InputForm) -> Any:
    """Return a JSON value with each text in it parsed by the form of its member or element."""
    if isinstance(value, str):
        return _text(value, form)
    if isinstance(value, dict) and isinstance(form.codec, RecordCodec):
        return {name: converted(part, form.of_member(name)) for name, part in value.items()}
    if isinstance(value, list) and isinstance(form.codec, ArrayCodec):
        length = form.codec.length
        parts = [
            converted(part, form.of_element(index)) for index, part in enumerate(value[:length])
        ]
        return [*parts, *value[length:]]  # the codec raises the error for a list that is too long
    return value


def _typed(text: str, form: InputForm) -> Any:
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


def _text(text: str, form: InputForm) -> Any:
    """Return the value of one word, or of one text in JSON.

    In this order: text that the codec accepts, a number, a literal for some bytes.
    """
    codec = form.codec
    # Any word is a text, `7` and `10.0.0.1` too, so nothing else is tried.
    if isinstance(codec, TextCodec):
        return text_of(unescaped(text)) if is_escaped(text) else text
    if text.startswith(HEX):
        return _from_hex(text, form)
    if _takes(codec, text):
        return text
    # After the codec, which may read digits in its own way; before addresses, which have no bare
    # digits.
    value = _number(text, form) if form.may_be_number else None
    if value is not None:
        return value
    for literal in form.literals:
        data = literal(text, codec.size)
        if data is not None:
            return codec.decode(data)
    raise form.refused(text)


def _number(text: str, form: InputForm) -> Any:
    """Return the number that *text* stands for, else None; as bytes if the map has no type."""
    value = literals.number(text)
    if value is None:
        return _fraction(text, form.codec)
    if not form.is_untyped:
        return value
    size = form.codec.size
    if size > MAX_INTEGER_BYTES:
        return None
    try:
        # Both 255 and -1 are a byte of ones: without a type nobody knows if it is signed.
        return value.to_bytes(size, "little", signed=value < 0)
    except OverflowError:
        raise UsageError(f"{form.what} {text} does not fit {size} bytes") from None


def _fraction(text: str, codec: Codec) -> float | None:
    try:
        # Only a codec of floats takes a fraction.
        return float(text) if _takes(codec, 0.5) else None
    except ValueError:
        return None


def _takes(codec: Codec, value: Any) -> bool:
    try:
        codec.encode(value)
    except (TypeError, ValueError):
        return False
    return True


def _from_hex(text: str, form: InputForm) -> Any:
    return form.codec.decode(literals.hex_bytes(text, form.codec.size, what=form.what))


def _from_json(text: str, form: InputForm) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Thousands of brackets exhaust the stack of the parser: Python raises RecursionError.
        raise form.refused(text) from None


@dataclass(frozen=True, slots=True)
class FieldValue:
    """One `FIELD=VALUE`: *path* as it was typed, *value* as the map decodes it."""

    path: str
    steps: tuple[Step, ...]
    value: Any

    def of(self, whole: Any) -> Any:
        """Return this field of *whole*, a value of the map."""
        return value_at(whole, self.steps)


def parse_field(word: str, form: InputForm) -> FieldValue:
    """Parse one `FIELD=VALUE` of a value; `UsageError` lists the fields."""
    path, _, text = word.partition("=")
    steps, field_form = resolve_path(path, form)
    return FieldValue(path, steps, parse_value(text, field_form))


def resolve_path(path: str, form: InputForm) -> tuple[tuple[Step, ...], InputForm]:
    """Return the steps of a path such as `a.b[1]`, and the form of that part.

    `UsageError` if the form does not have such a part.
    """
    if not _PATH.fullmatch(path):
        raise UsageError(f"{path!r} is not a field", hint="a field is named like a.b or a[2]")
    steps = tuple(int(step) if step.isdecimal() else step for step in _STEP.findall(path))
    for step in steps:
        form = form.of_element(step) if isinstance(step, int) else form.of_member(step)
    return steps, form


def value_at(whole: Any, steps: Iterable[Step]) -> Any:
    """Return the part of a value that these steps lead to."""
    for step in steps:
        whole = whole[step]
    return whole


def nested(fields: Iterable[FieldValue], current: Any) -> dict[str, Any]:
    """Return these fields alone as nested dicts, for `Map.update(partial=True)`.

    A list is always whole: its other elements come from *current*.
    """
    result: dict[str, Any] = {}
    for field in fields:
        _put(result, field.steps, field.value, current)
    return result


def _put(container: Any, steps: tuple[Step, ...], value: Any, current: Any) -> None:
    step, *rest = steps
    if not rest:
        container[step] = value
        return
    if isinstance(step, str) and step not in container:
        # Lists are written as a whole, so the other elements are needed; as a copy, because
        # *current* is read again for the next field.
        container[step] = {} if isinstance(rest[0], str) else copy.deepcopy(current[step])
    _put(container[step], tuple(rest), value, current[step])
