"""Fields of a value by their paths, as they are typed: `rx_bytes=7`, `inner.b=1`, `ports[2]=80`."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from bpfpin.apps.maps import keys
from bpfpin.apps.maps.form import Form
from bpfpin.errors import UsageError

_PATH: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[\d{1,9}\])*")
_STEP: Final = re.compile(r"\w+")

Step = str | int


@dataclass(frozen=True, slots=True)
class Field:
    """One `FIELD=VALUE`: *path* as it was typed, *value* as the map reads it."""

    path: str
    steps: tuple[Step, ...]
    value: Any

    def of(self, whole: Any) -> Any:
        """Return what *whole*, a value of the map, has in this field."""
        return taken(whole, self.steps)


def parse(word: str, form: Form) -> Field:
    """Read one `FIELD=VALUE` of a value; `UsageError` names the fields there are."""
    path, _, text = word.partition("=")
    steps, there = at(path, form)
    return Field(path, steps, keys.parse(text, there))


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
