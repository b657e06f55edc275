"""XDP verdicts: parses typed ones, and finds the maps that hold one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bpfpin.btf.types import Enum, Int, IntEncoding
from bpfpin.errors import Difference, IncompatibleMapError, UsageError
from bpfpin.hints import Argument, Fix
from bpfpin.map.counters import ACTION
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.info import type_name
from bpfpin.objects.maps.base import BaseMap
from bpfpin.uapi import XdpAction

KEY: Final = bytes(4)  # index 0, also in a hash

USUAL_NAME: Final = ACTION
_VALUE_SIZES: Final = (1, 2, 4, 8)  # of integers

_PREFIX: Final = "XDP_"

CUTTING: Final = frozenset(set(XdpAction) - {XdpAction.XDP_PASS})
"""Verdicts with which no packet reaches the host any more."""

UNUSUAL: Final = {
    XdpAction.XDP_TX: (
        "it sends every packet back out of the device it came in on, unchanged: the addresses are"
        " not swapped, so no host accepts it, and switches learn a wrong port for its sender"
    ),
    XdpAction.XDP_REDIRECT: (
        "it sends every packet to the target that the program sets, and drops it without one"
    ),
}
"""Verdicts that are useful only in a program written for them, and why."""


def parse_verdict(word: str) -> XdpAction:
    """Return the verdict of a word such as `XDP_DROP`, `drop` or `1`, in any case."""
    name = word.upper()
    for action in XdpAction:
        if name in (action.name, action.name.removeprefix(_PREFIX), str(int(action))):
            return action
    verdicts = ", ".join(f"{action.name} ({int(action)})" for action in XdpAction)
    raise UsageError(f"there is no verdict {word!r}; the verdicts are: {verdicts}")


def require_willing(verdict: XdpAction, *, is_forced: bool) -> None:
    """Raise `UsageError` for a verdict that is rarely intended, unless *is_forced*."""
    if verdict in UNUSUAL and not is_forced:
        raise UsageError(
            f"{verdict.name} is rarely intended: {UNUSUAL[verdict]}",
            hint=Fix.of(
                "to set it nevertheless: ", Argument("is_forced"), "; to drop packets: XDP_DROP"
            ),
        )


def can_hold_verdict(bpf_map: BaseMap) -> bool:
    """Whether the first entry of the map is an integer that can be an XDP verdict."""
    return not list(_differences(bpf_map, bpf_map.name))


def is_verdict_map(bpf_map: BaseMap) -> bool:
    """Whether the map has the usual name of a verdict map, and can hold a verdict."""
    return bpf_map.name == USUAL_NAME and can_hold_verdict(bpf_map)


def is_signed(bpf_map: BaseMap) -> bool:
    """Whether the value is a signed integer; False without BTF."""
    kind = bpf_map.value_type.stripped if bpf_map.value_type is not None else None
    return isinstance(kind, Int | Enum) and kind.is_signed


def require_verdict(bpf_map: BaseMap, name: str) -> None:
    """Raise `IncompatibleMapError` unless the first entry of the map can hold a verdict."""
    differences = list(_differences(bpf_map, name))
    if differences:
        raise IncompatibleMapError(
            f"map {name!r} (id {bpf_map.id}) cannot hold a verdict", differences=differences
        )


def _differences(bpf_map: BaseMap, name: str) -> Iterable[Difference]:
    traits = traits_of(bpf_map.type)
    # Values of CPUs are written one after the other: for a moment the CPUs would disagree.
    if traits.is_percpu or not (traits.is_array or traits.is_hash):
        yield Difference(name, "type", type_name(bpf_map.type), "array or hash")
    if bpf_map.key_size != len(KEY):
        yield Difference(name, "key_size", str(bpf_map.key_size), str(len(KEY)))
    if bpf_map.value_size not in _VALUE_SIZES:
        yield Difference(name, "value_size", str(bpf_map.value_size), "1, 2, 4 or 8")
    elif bpf_map.value_type is not None:
        kind = bpf_map.value_type.stripped
        if isinstance(kind, Int) and kind.encoding & IntEncoding.BOOL:
            # A bool can hold two of the five verdicts.
            yield Difference(name, "value", "bool", "an integer")
        elif not isinstance(kind, Int | Enum):
            yield Difference(name, "value", "not an integer", "an integer")
