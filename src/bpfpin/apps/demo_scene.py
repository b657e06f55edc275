"""What the scenes of the demo are made of: the scene itself, and how its claims are checked."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpfpin.apps.stats import Interval
from bpfpin.errors import BpfError
from bpfpin.objects.map import Map
from bpfpin.uapi import XdpAction

PINGS = 5
SETTLE_S = 2.0
AROUND_RELOAD_S = 0.3


@dataclass(frozen=True, slots=True)
class Scene:
    """One step: what it shows, what a user would type for it, and what came of it."""

    title: str
    command: str = ""
    lines: tuple[str, ...] = ()
    interval: Interval | None = field(default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows; an interval becomes packets per action."""
        counted = (
            {} if self.interval is None else {row.action: row.packets for row in self.interval.rows}
        )
        shown = {"title": self.title, "command": self.command, "lines": list(self.lines)}
        return {**shown, "packets": counted} if counted else shown


def settled(counters: Path, expected: int) -> int:
    """Read XDP_PASS until what was sent has arrived, on a busy machine a moment later."""
    deadline = time.monotonic() + SETTLE_S
    while (counted := packets(counters, XdpAction.XDP_PASS)) < expected:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.01)
    return counted


def packets(counters: Path, key: int) -> int:
    """Return the packets of all CPUs that a map has counted under *key*."""
    with Map.from_pin(counters, read_only=True) as opened:
        return int(opened.total(key)["rx_packets"])


def require(is_so: bool, otherwise: str) -> None:
    """Raise `BpfError` with what came *otherwise*, unless *is_so*."""
    if not is_so:
        raise BpfError(f"the demo did not work: {otherwise}", hint="bpfpin doctor")
