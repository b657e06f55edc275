"""Keys and values as people type them: integers, `0x…`, `hex:0a00…`, JSON, `FIELD=VALUE`."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.btf.types import Array, BtfType, Enum, Int, Struct, Union
from bpfpin.errors import UsageError
from bpfpin.objects.codec import TextCodec
from bpfpin.objects.codec_btf import codec

HEX = "hex:"
MAX_INTEGER_BYTES = 8
FORMS: dict[type, type | UnionType] = {Struct: dict, Union: dict, Array: list | str}


def parse(text: str, ref: TypeRef | None, size: int, *, what: str = "value") -> Any:
    """Return the value that *text* means for the BTF type *ref*, or for *size* plain bytes.

    Bytes (`hex:0a00`) go for every type. An enumeration takes its names, structures and arrays
    JSON. `UsageError` says which forms there are; *what* names the thing in it.
    """
    if text.startswith(HEX):
        return codec(ref, size).decode(_from_hex(text, size, what))
    if ref is None:
        return _plain_integer(text, size, what)
    if isinstance(codec(ref, size), TextCodec) and not text.startswith('"'):
        return text
    value = _typed(text, ref.stripped)
    if value is None:
        raise UsageError(f"{what} {text!r} is no {c_type(ref)}", hint=f"give {_forms(ref, size)}")
    return value


def _typed(text: str, kind: BtfType) -> Any:
    """Return what *text* means for a type, None if it is nothing of the kind."""
    if isinstance(kind, Enum):
        named = {value.name: value.value for value in kind.values}
        return named.get(text, _scalar(text))
    if isinstance(kind, Int):
        return _scalar(text)
    value = _from_json(text)
    return value if isinstance(value, FORMS.get(type(kind), object)) else None


def parse_list(text: str, ref: TypeRef | None, size: int) -> list[Any]:
    """Return the values of a JSON list, one a CPU, each as `parse` takes it."""
    try:
        items = json.loads(text)
    except ValueError as error:
        raise UsageError(f"value {text!r} is no JSON: {error}") from None
    return [parse(_text(item), ref, size) for item in items]


def _text(item: Any) -> str:
    return item if isinstance(item, str) else json.dumps(item)


def is_fields(words: Sequence[str]) -> bool:
    """Whether *words* are `FIELD=VALUE` each."""
    return bool(words) and all("=" in word and word[:1].isidentifier() for word in words)


def with_fields(current: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return *current* with the fields of `FIELD=VALUE` words changed; `a.b=1` goes deeper."""
    changed = copy.deepcopy(dict(current))
    for word in words:
        path, _, text = word.partition("=")
        *parents, last = path.split(".")
        place = changed
        for parent in parents:
            place = _member(place, parent, path)
        is_text = isinstance(_member(place, last, path), str)
        place[last] = text if is_text else _field_value(text, word)
    return changed


def is_structure(ref: TypeRef | None) -> bool:
    """Whether values of the type have fields."""
    return ref is not None and isinstance(ref.stripped, Struct)


def _from_hex(text: str, size: int, what: str) -> bytes:
    try:
        data = bytes.fromhex(text.removeprefix(HEX))
    except ValueError:
        raise UsageError(f"{what} {text!r} is not hexadecimal after {HEX!r}") from None
    if len(data) != size:
        raise UsageError(f"{what} {text!r} has {len(data)} bytes; the map's takes {size}")
    return data


def _plain_integer(text: str, size: int, what: str) -> bytes:
    number = _scalar(text)
    if number is None or size > MAX_INTEGER_BYTES:
        raise UsageError(
            f"{what} {text!r} does not fit {size} bytes without a type (the map has no BTF)",
            hint=f"give {_forms(None, size)}",
        )
    try:
        return number.to_bytes(size, "little", signed=number < 0)
    except OverflowError:
        raise UsageError(f"{what} {text} does not fit {size} bytes") from None


def _scalar(text: str) -> int | None:
    words = {"true": 1, "false": 0}
    try:
        return words[text] if text in words else int(text, 0)
    except ValueError:
        return None


def _from_json(text: str) -> Any:
    try:
        return _revived(json.loads(text))
    except ValueError:
        return None


def _revived(value: Any) -> Any:
    """Turn the strings of JSON that stand for bytes into them."""
    if isinstance(value, dict):
        return {name: _revived(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_revived(member) for member in value]
    is_hex = isinstance(value, str) and value.startswith(HEX)
    return bytes.fromhex(value.removeprefix(HEX)) if is_hex else value


def _member(place: Any, name: str, path: str) -> Any:
    if isinstance(place, dict) and name in place:
        return place[name]
    there = ", ".join(place) if isinstance(place, dict) else "none"
    raise UsageError(f"there is no field {path!r}; the fields are: {there}")


def _field_value(text: str, word: str) -> Any:
    as_json = json.dumps(text) if text.startswith(HEX) else text
    number = _scalar(text)
    value = _from_json(as_json) if number is None else number
    if value is None:
        raise UsageError(f"{word!r} is no field and value", hint="give FIELD=INTEGER or FIELD=JSON")
    return value


def _forms(ref: TypeRef | None, size: int) -> str:
    sample = f"{HEX}{'00' * min(size, 4)}{'…' if size > 4 else ''} ({size} bytes)"
    if ref is None:
        return f"an integer, or {sample}" if size <= MAX_INTEGER_BYTES else sample
    kind = ref.stripped
    if isinstance(kind, Struct):
        return f'JSON like {{"{kind.members[0].name}": 1}}, or {sample}' if kind.members else sample
    if isinstance(kind, Enum):
        return f"one of {', '.join(value.name for value in kind.values[:8])}, or an integer"
    return f"an integer or 0x…, or {sample}" if isinstance(kind, Int) else f"JSON, or {sample}"
