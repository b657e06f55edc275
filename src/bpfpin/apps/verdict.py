"""XDP verdicts as they are typed and shown."""

from __future__ import annotations

from typing import Final

from bpfpin.errors import UsageError
from bpfpin.uapi import XdpAction

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
