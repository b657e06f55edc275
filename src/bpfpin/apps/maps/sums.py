"""The values of several CPUs as one: what conditions see of a per-CPU map."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bpfpin.apps.maps.columns import Column, Row
from bpfpin.errors import UsageError
from bpfpin.objects.percpu import PerCpuCodec, total
from bpfpin.objects.typed_map import TypedMap


def can_add(held: TypedMap) -> bool:
    """Whether the values of several CPUs are numbers throughout; of one CPU, always."""
    codec = held.value_codec
    if not isinstance(codec, PerCpuCodec):
        return True
    return _is_number(codec.value.decode(bytes(codec.stride)))


def compared(held: TypedMap) -> Callable[[Row], Row]:
    """Return what makes a row of key and all CPUs' values one of key and their sum, if it can."""
    if held.is_per_cpu and can_add(held):
        return lambda row: (row[0], total(row[1]))
    return lambda row: row


def check(held: TypedMap, columns: Iterable[Column]) -> None:
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
