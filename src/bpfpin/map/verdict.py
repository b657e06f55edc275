"""XDP verdicts as they are typed and shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bpfpin.btf.types import Enum, Int, IntEncoding
from bpfpin.errors import Difference, IncompatibleMapError, UsageError
from bpfpin.map.counters import ACTION
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.info import type_name
from bpfpin.objects.maps.base import BaseMap
from bpfpin.uapi import XdpAction

KEY: Final = bytes(4)  # the first entry

USUAL_NAME: Final = ACTION
_VALUE_SIZES: Final = (1, 2, 4, 8)  # of integers

_PREFIX: Final = "XDP_"

CUTTING: Final = frozenset(set(XdpAction) - {XdpAction.XDP_PASS})
"""Verdicts with which nothing reaches the host any more."""

UNUSUAL: Final = {
    XdpAction.XDP_TX: (
        "it sends every packet back out of the device it came in on, unchanged: the addresses are"
        " not swapped, so nobody takes it, and switches learn a wrong place for its sender"
    ),
    XdpAction.XDP_REDIRECT: (
        "it sends every packet to where the program says, and a program that says nothing drops it"
    ),
}
"""Verdicts that a program alone does not make useful, and why."""


def parse_verdict(word: str) -> XdpAction:
    """Return the verdict that is typed `XDP_DROP`, `drop` or `1`, in any case."""
    name = word.upper()
    for action in XdpAction:
        if name in (action.name, action.name.removeprefix(_PREFIX), str(int(action))):
            return action
    there = ", ".join(f"{action.name} ({int(action)})" for action in XdpAction)
    raise UsageError(f"there is no verdict {word!r}; there are: {there}")


def require_willing(verdict: XdpAction, *, is_forced: bool) -> None:
    """Raise `UsageError` for a verdict that hardly anybody means, unless it is meant."""
    if verdict in UNUSUAL and not is_forced:
        raise UsageError(
            f"{verdict.name} is hardly what you want: {UNUSUAL[verdict]}",
            hint="if it is: --force; to drop packets: XDP_DROP",
        )


def can_hold_verdict(held: BaseMap) -> bool:
    """Whether the first entry of the map is an integer that can be an XDP verdict."""
    return not list(_differences(held, held.name))


def is_verdict_map(held: BaseMap) -> bool:
    """Whether the map is called as verdict maps are, and can be one."""
    return held.name == USUAL_NAME and can_hold_verdict(held)


def is_signed(held: BaseMap) -> bool:
    """Whether the value is a signed integer; without BTF it is not."""
    kind = held.value_type.stripped if held.value_type is not None else None
    return isinstance(kind, Int | Enum) and kind.is_signed


def require_verdict(held: BaseMap, name: str) -> None:
    """Raise `IncompatibleMapError` unless the first entry of the map can hold a verdict."""
    found = list(_differences(held, name))
    if found:
        raise IncompatibleMapError(
            f"map {name!r} (id {held.id}) cannot hold a verdict", differences=found
        )


def _differences(held: BaseMap, name: str) -> Iterable[Difference]:
    traits = traits_of(held.type)
    if traits.is_percpu or not (traits.is_array or traits.is_hash):
        yield Difference(name, "type", type_name(held.type), "array or hash")
    if held.key_size != len(KEY):
        yield Difference(name, "key_size", str(held.key_size), str(len(KEY)))
    if held.value_size not in _VALUE_SIZES:
        yield Difference(name, "value_size", str(held.value_size), "1, 2, 4 or 8")
    elif held.value_type is not None:
        kind = held.value_type.stripped
        if isinstance(kind, Int) and kind.encoding & IntEncoding.BOOL:
            yield Difference(name, "value", "bool", "an integer")  # it holds two verdicts of five
        elif not isinstance(kind, Int | Enum):
            yield Difference(name, "value", "not an integer", "an integer")
