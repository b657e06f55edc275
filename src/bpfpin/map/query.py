"""Conditions on entries, `rx_packets>1000`, `key.src~10.0.*`, and the order of entries.

The parts of an entry have these names in `--where`, `--sort` and CSV:

| name | part |
|---|---|
| `key`, `value` | the whole key or value |
| `key.src`, `key.ports[0]` | a member of the key |
| `rx_packets`, `inner.b`, `value.rx_packets` | a member of the value |
| `cpu` | the number of the CPU, in rows of one CPU each |

In a per-CPU map a condition applies to the sum over all CPUs, if the values are numbers.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from bpfpin.codecs.format_table import KEY, VALUE
from bpfpin.codecs.record import ArrayCodec, RecordCodec
from bpfpin.codecs.stray import without_bytes
from bpfpin.errors import UsageError
from bpfpin.map import form, parse
from bpfpin.map.entries import key_form, value_form
from bpfpin.map.form import InputForm
from bpfpin.objects.maps.base import BaseMap
from bpfpin.objects.maps.codec import CPU, Row, can_add, total
from bpfpin.records import dataclass

_NAMES_SHOWN: Final = 24
_INDEX: Final = re.compile(r"\[(\d{1,9})\]\.?")
# Longer signs first: else `>=5` would be `>` and the value `=5`.
_CONDITION: Final = re.compile(r"\s*([\w.\[\]]+)\s*(>=|<=|!=|==|=|>|<|~)\s*(.*?)\s*", re.DOTALL)
_DIGITS: Final = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Column:
    """One part of each row; *form* is how its values are typed, None for the number of a CPU."""

    name: str
    of: Callable[[Row], Any]
    form: InputForm | None

    @property
    def is_of_key(self) -> bool:
        """Whether it is the key or a member of it."""
        return self.name == KEY or self.name.startswith((f"{KEY}.", f"{KEY}["))

    @property
    def has_parts(self) -> bool:
        """Whether it is a structure or an array; these have no order."""
        return self.form is not None and isinstance(self.form.codec, RecordCodec | ArrayCodec)


class Columns:
    """The columns of the rows of one map; *has_cpu*: each row is of one CPU."""

    def __init__(
        self, map_name: str, key: InputForm, value: InputForm, *, has_cpu: bool = False
    ) -> None:
        self._named = f"map {map_name!r}"
        self._forms = {KEY: key, VALUE: value}
        self._has_cpu = has_cpu

    @classmethod
    def of(cls, bpf_map: BaseMap, *, has_cpu: bool = False) -> Columns:
        """Return the columns of a map."""
        return cls(bpf_map.name, key_form(bpf_map), value_form(bpf_map), has_cpu=has_cpu)

    @property
    def names(self) -> list[str]:
        """The names of all parts that are not structures; an array is one part."""
        key, value = (_leaves(self._forms[name]) for name in (KEY, VALUE))
        cpu = [CPU] if self._has_cpu else []
        return [*_below(KEY, key), *cpu, *_of_value(value)]

    def named(self, name: str) -> Column:
        """Return the column of that name; `UsageError` lists the columns."""
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

        # A key that reads as one word, such as a prefix, has its members only in its bytes.
        def of(row: Row) -> Any:
            data = closed.codec.encode(row[part])
            return parse.value_at(opened.codec.decode(data), steps)

        return Column(name, of, form)

    def all(self) -> list[Column]:
        """Return the columns of `names`."""
        return [self.named(name) for name in self.names]

    def _split(self, name: str) -> tuple[str, str]:
        """Return `key` or `value` and the path in it; other names are members of the value."""
        for whole in (KEY, VALUE):
            if name == whole or name.startswith((f"{whole}.", f"{whole}[")):
                return whole, name.removeprefix(whole).removeprefix(".")
        return VALUE, name

    def _unknown(self, name: str) -> UsageError:
        names = self.names
        shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
        return UsageError(f"{self._named} has no field {name!r}; the fields are: {shown}")


def _enter(path: str, form: InputForm) -> tuple[list[str | int], InputForm]:
    """Return the steps of a path within key or value, which may be arrays, and its form."""
    steps: list[str | int] = []
    while match := _INDEX.match(path):
        steps.append(int(match[1]))
        form, path = form.of_element(int(match[1])), path[match.end() :]
    more, form = parse.resolve_path(path, form) if path else ((), form)
    return [*steps, *more], form


def _getter(part: int, steps: Sequence[str | int]) -> Callable[[Row], Any]:
    if not steps:
        return operator.itemgetter(part)
    return lambda row: parse.value_at(row[part], steps)


def _leaves(form: InputForm) -> list[str]:
    """Return the dotted names of the members that are not structures; "" for the whole."""
    if not form.names:
        return [""]
    return [
        name for member in form.names for name in _below(member, _leaves(form.of_member(member)))
    ]


def _below(name: str, leaves: Sequence[str]) -> Iterator[str]:
    return (f"{name}.{leaf}" if leaf else name for leaf in leaves)


def _of_value(leaves: Sequence[str]) -> Iterator[str]:
    """Yield the names of the members of the value, with `value.` where they are ambiguous."""
    for leaf in leaves:
        is_taken = not leaf or re.split(r"[.\[]", leaf)[0] in (KEY, VALUE, CPU)
        yield next(_below(VALUE, [leaf])) if is_taken else leaf


def order(value: Any) -> tuple[int, Any]:
    """Return the sort key of *value*: numbers by size, text so that `eth2` precedes `eth10`.

    Numbers come before texts (an enumeration may decode to both), bytes come last.
    """
    if isinstance(value, int | float):
        return 0, value
    if isinstance(value, bytes):
        return 2, value
    parts = _DIGITS.split(str(value))
    # `split` by a pattern with a group returns the digits too, at the odd places.
    return 1, [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    # An enumeration decodes to names, and to numbers where it has none: Python compares no `str`
    # with an `int`, but their sort keys.
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
    """A comparison of a column with a wanted value."""

    column: Column
    compare: Callable[[Any, Any], bool]
    wanted: Any

    def holds(self, row: Row) -> bool:
        """Whether the row meets the condition."""
        # A key with padding is compared by its members, as people typed them.
        return self.compare(without_bytes(self.column.of(row)), self.wanted)


def parse_condition(text: str, columns: Columns) -> Condition:
    """Parse one condition; `UsageError` says why it is not one."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is not a condition",
            hint=f"conditions are like FIELD>5; there are {' '.join(_OPERATORS)}",
        )
    name, sign, wanted = match.groups()
    column = columns.named(name)
    if sign in _ORDERED:
        require_order(column)
    compare = _OPERATORS[sign]
    # A pattern need not be a value of the type, such as the address `10.0.*`.
    typed = wanted if sign == _GLOB else without_bytes(_typed(wanted, column))
    return Condition(column, compare, typed)


def require_order(column: Column) -> None:
    """Raise `UsageError` for a structure or an array, which have no order."""
    if column.has_parts:
        names = [f"{column.name}.{name}" for name in column.form.names] if column.form else []
        hint = f"take one of its fields: {', '.join(names)}" if names else "take an element: […]"
        raise UsageError(f"{column.name} has several parts, which have no order", hint=hint)


def _typed(text: str, column: Column) -> Any:
    """Return the wanted value; a number may exceed the type, as a sum over CPUs does."""
    number = form.number(text)
    if column.form is None:
        if number is None:
            raise UsageError(f"{column.name}: {text!r} is not a number")
        return number
    try:
        return parse.parse_value(text, column.form)
    except UsageError:
        if number is None or not column.form.may_be_number or column.form.is_untyped:
            raise
        return number


def all_hold(conditions: Iterable[Condition]) -> Callable[[Row], bool]:
    """Return a function that tells whether a row meets all conditions."""
    every = tuple(conditions)
    return lambda row: all(condition.holds(row) for condition in every)


def compared(bpf_map: BaseMap) -> Callable[[Row], Row]:
    """Return a function that replaces the values of all CPUs in a row by their sum, if possible."""
    if bpf_map.is_per_cpu and can_add(bpf_map.value_codec):
        return lambda row: (row[0], total(row[1]))
    return lambda row: row


def check(bpf_map: BaseMap, columns: Iterable[Column]) -> None:
    """Raise `UsageError` if a column belongs to per-CPU values that cannot be added."""
    if not can_add(bpf_map.value_codec) and not all(column.is_of_key for column in columns):
        raise UsageError(
            f"map {bpf_map.name!r} has a value for each CPU that cannot be added up",
            hint="bpfpin map dump --per-cpu compares each CPU's value",
        )
