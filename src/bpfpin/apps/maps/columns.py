"""What an entry of a map consists of, by the names that `--where`, `--sort` and CSV have for it.

| name | what |
|---|---|
| `key`, `value` | all of it |
| `key.src`, `key.ports[0]` | a member of the key |
| `rx_packets`, `inner.b`, `value.rx_packets` | a member of the value |
| `cpu` | in rows of one CPU each |
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bpfpin.apps.maps import fields
from bpfpin.apps.maps.entries import key_form, value_form
from bpfpin.apps.maps.form import Form
from bpfpin.codecs.record import ArrayCodec, RecordCodec
from bpfpin.errors import UsageError
from bpfpin.objects.typed_map import TypedMap

KEY: Final = "key"
VALUE: Final = "value"
CPU: Final = "cpu"
_NAMES_SHOWN: Final = 24
_INDEX: Final = re.compile(r"\[(\d{1,9})\]\.?")

Row = tuple[Any, ...]
"""Key and value, or key, CPU and that CPU's value."""


@dataclass(frozen=True, slots=True)
class Column:
    """A part of each row; *form* is how its values are typed, None for the number of a CPU."""

    name: str
    of: Callable[[Row], Any]
    form: Form | None

    @property
    def is_of_key(self) -> bool:
        """Whether it is the key or a member of it."""
        return self.name == KEY or self.name.startswith((f"{KEY}.", f"{KEY}["))

    @property
    def has_parts(self) -> bool:
        """Whether it is a structure or an array, which has no order."""
        return self.form is not None and isinstance(self.form.codec, RecordCodec | ArrayCodec)


class Columns:
    """The columns of one map's rows; *has_cpu*: each row is of one CPU."""

    def __init__(self, map_name: str, key: Form, value: Form, *, has_cpu: bool = False) -> None:
        self._named = f"map {map_name!r}"
        self._forms = {KEY: key, VALUE: value}
        self._has_cpu = has_cpu

    @classmethod
    def of(cls, held: TypedMap, *, has_cpu: bool = False) -> Columns:
        """Return those of a map."""
        return cls(held.name, key_form(held), value_form(held), has_cpu=has_cpu)

    @property
    def names(self) -> list[str]:
        """The names of all parts that have no parts of their own; arrays count as one."""
        key, value = (_leaves(self._forms[name]) for name in (KEY, VALUE))
        cpu = [CPU] if self._has_cpu else []
        return [*_below(KEY, key), *cpu, *_of_value(value)]

    def named(self, name: str) -> Column:
        """Return the column of that name; `UsageError` lists those there are."""
        if name == CPU and self._has_cpu:
            return Column(name, operator.itemgetter(1), None)
        whole, below = self._split(name)
        closed = self._forms[whole]
        opened = closed.opened() if below else closed
        try:
            steps, form = _enter(below, opened)
        except UsageError:
            raise self._unknown(name) from None
        part = 0 if whole == KEY else -1
        if opened is closed:
            return Column(name, _getter(part, steps), form)

        def of(row: Row) -> Any:
            data = closed.codec.encode(row[part])
            return fields.taken(opened.codec.decode(data), steps)

        return Column(name, of, form)

    def all(self) -> list[Column]:
        """Return the columns of `names`."""
        return [self.named(name) for name in self.names]

    def _split(self, name: str) -> tuple[str, str]:
        """Return `key` or `value`, and the path within; a name alone is a member of the value."""
        for whole in (KEY, VALUE):
            if name == whole or name.startswith((f"{whole}.", f"{whole}[")):
                return whole, name.removeprefix(whole).removeprefix(".")
        return VALUE, name

    def _unknown(self, name: str) -> UsageError:
        there = self.names
        shown = ", ".join(there[:_NAMES_SHOWN]) + (", …" if len(there) > _NAMES_SHOWN else "")
        return UsageError(f"{self._named} has no field {name!r}; the fields are: {shown}")


def _enter(path: str, form: Form) -> tuple[list[str | int], Form]:
    """Return the steps of a path below key or value, which may be arrays, and the form there."""
    steps: list[str | int] = []
    while match := _INDEX.match(path):
        steps.append(int(match[1]))
        form, path = form.of_element(int(match[1])), path[match.end() :]
    more, form = fields.at(path, form) if path else ((), form)
    return [*steps, *more], form


def _getter(part: int, steps: Sequence[str | int]) -> Callable[[Row], Any]:
    if not steps:
        return operator.itemgetter(part)
    return lambda row: fields.taken(row[part], steps)


def _leaves(form: Form) -> list[str]:
    """Return the dotted names of the members that are no structures; "" for the whole."""
    if not form.names:
        return [""]
    return [
        name for member in form.names for name in _below(member, _leaves(form.of_member(member)))
    ]


def _below(name: str, leaves: Sequence[str]) -> Iterator[str]:
    return (f"{name}.{leaf}" if leaf else name for leaf in leaves)


def _of_value(leaves: Sequence[str]) -> Iterator[str]:
    """Yield the names of the value's members, in full where they would mean something else."""
    for leaf in leaves:
        is_taken = not leaf or re.split(r"[.\[]", leaf)[0] in (KEY, VALUE, CPU)
        yield next(_below(VALUE, [leaf])) if is_taken else leaf
