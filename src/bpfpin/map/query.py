"""Conditions on entries as they are typed, `rx_packets>1000`, `key.src~10.0.*`, and their order."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from bpfpin.codecs.record import ArrayCodec, RecordCodec
from bpfpin.codecs.stray import without_bytes
from bpfpin.errors import UsageError
from bpfpin.map import form, parse
from bpfpin.map import parse as keys
from bpfpin.map.entries import key_form, value_form
from bpfpin.map.form import Form
from bpfpin.objects.maps.base import BaseMap
from bpfpin.objects.maps.codec import PerCpuCodec, total

KEY: Final = "key"
VALUE: Final = "value"
CPU: Final = "cpu"
_NAMES_SHOWN: Final = 24
_INDEX: Final = re.compile(r"\[(\d{1,9})\]\.?")
Row = tuple[Any, ...]
_CONDITION: Final = re.compile(r"\s*([\w.\[\]]+)\s*(>=|<=|!=|==|=|>|<|~)\s*(.*?)\s*", re.DOTALL)
_DIGITS: Final = re.compile(r"(\d+)")


# What an entry of a map consists of, by the names that `--where`, `--sort` and CSV have for it.
#
# | name | what |
# |---|---|
# | `key`, `value` | all of it |
# | `key.src`, `key.ports[0]` | a member of the key |
# | `rx_packets`, `inner.b`, `value.rx_packets` | a member of the value |
# | `cpu` | in rows of one CPU each |

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
    def of(cls, held: BaseMap, *, has_cpu: bool = False) -> Columns:
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
            return parse.taken(opened.codec.decode(data), steps)

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
    more, form = parse.at(path, form) if path else ((), form)
    return [*steps, *more], form


def _getter(part: int, steps: Sequence[str | int]) -> Callable[[Row], Any]:
    if not steps:
        return operator.itemgetter(part)
    return lambda row: parse.taken(row[part], steps)


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


def order(value: Any) -> tuple[int, Any]:
    """Return what sorts *value*: numbers by size, text so that `eth2` comes before `eth10`.

    Numbers stand before texts (an enumeration may have both), bytes at the end.
    """
    if isinstance(value, int | float):
        return 0, value
    if isinstance(value, bytes):
        return 2, value
    parts = _DIGITS.split(str(value))
    return 1, [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, wanted: compare(order(value), order(wanted))


def _is_like(value: Any, pattern: Any) -> bool:
    return fnmatchcase(f"hex:{value.hex()}" if isinstance(value, bytes) else str(value), pattern)


_ORDERED: Final = {
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
}

_GLOB: Final = "~"

_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    **_ORDERED,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    _GLOB: _is_like,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """What a column's value must be for a row to be taken."""

    column: Column
    compare: Callable[[Any, Any], bool]
    wanted: Any

    def holds(self, row: Row) -> bool:
        """Whether the row is taken."""
        return self.compare(without_bytes(self.column.of(row)), self.wanted)


def parse_condition(text: str, columns: Columns) -> Condition:
    """Read one condition; `UsageError` says what is wrong with it."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is no condition",
            hint=f"conditions are like FIELD>5; there are {' '.join(_OPERATORS)}",
        )
    name, sign, wanted = match.groups()
    column = columns.named(name)
    if sign in _ORDERED:
        require_order(column)
    compare = _OPERATORS[sign]
    typed = wanted if sign == _GLOB else without_bytes(_typed(wanted, column))
    return Condition(column, compare, typed)


def require_order(column: Column) -> None:
    """Raise `UsageError` for a structure or an array: neither is greater than another."""
    if column.has_parts:
        names = [f"{column.name}.{name}" for name in column.form.names] if column.form else []
        hint = f"take one of its fields: {', '.join(names)}" if names else "take an element: […]"
        raise UsageError(f"{column.name} has several parts, which have no order", hint=hint)


def _typed(text: str, column: Column) -> Any:
    """Return what is compared with; a sum of all CPUs may be more than fits the type."""
    number = form.number(text)
    if column.form is None:
        if number is None:
            raise UsageError(f"{column.name}: {text!r} is no number")
        return number
    try:
        return keys.parse_value(text, column.form)
    except UsageError:
        if number is None or not column.form.may_be_number or column.form.is_untyped:
            raise
        return number


def all_hold(conditions: Iterable[Condition]) -> Callable[[Row], bool]:
    """Return whether a row meets all conditions."""
    every = tuple(conditions)
    return lambda row: all(condition.holds(row) for condition in every)


# The values of several CPUs as one: what conditions see of a per-CPU map.


def can_add(held: BaseMap) -> bool:
    """Whether the values of several CPUs are numbers throughout; of one CPU, always."""
    codec = held.value_codec
    if not isinstance(codec, PerCpuCodec):
        return True
    return _is_number(codec.value.decode(bytes(codec.stride)))


def compared(held: BaseMap) -> Callable[[Row], Row]:
    """Return what makes a row of key and all CPUs' values one of key and their sum, if it can."""
    if held.is_per_cpu and can_add(held):
        return lambda row: (row[0], total(row[1]))
    return lambda row: row


def check(held: BaseMap, columns: Iterable[Column]) -> None:
    """Raise `UsageError` if a column is of values of several CPUs that cannot be added."""
    if not can_add(held) and not all(column.is_of_key for column in columns):
        raise UsageError(
            f"map {held.name!r} has a value for each CPU that cannot be added up",
            hint="bpfpin map dump --per-cpu compares each CPU's value",
        )


def _is_number(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_number, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_number, value))
    return isinstance(value, int | float) and not isinstance(value, bool)
