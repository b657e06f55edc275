"""Conditions on entries as they are typed, `rx_packets>1000`, `key.src~10.0.*`, and their order."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from bpfpin.apps.maps import keys, literals
from bpfpin.apps.maps.columns import Column, Columns, Row
from bpfpin.codecs.stray import without_bytes
from bpfpin.errors import UsageError

_CONDITION: Final = re.compile(r"\s*([\w.\[\]]+)\s*(>=|<=|!=|==|=|>|<|~)\s*(.*?)\s*", re.DOTALL)
_DIGITS: Final = re.compile(r"(\d+)")


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


def parse(text: str, columns: Columns) -> Condition:
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
    number = literals.number(text)
    if column.form is None:
        if number is None:
            raise UsageError(f"{column.name}: {text!r} is no number")
        return number
    try:
        return keys.parse(text, column.form)
    except UsageError:
        if number is None or not column.form.may_be_number or column.form.is_untyped:
            raise
        return number


def all_hold(conditions: Iterable[Condition]) -> Callable[[Row], bool]:
    """Return whether a row meets all conditions."""
    every = tuple(conditions)
    return lambda row: all(condition.holds(row) for condition in every)
