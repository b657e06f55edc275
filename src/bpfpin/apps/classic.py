"""The counters as the XDP tutorial's `xdp_stats` prints them, to the character.

Its format is `"%-12s %'11lld pkts (%'10.0f pps) %'11lld Kbytes (%'6.0f Mbits/s) period:%f"`. The
apostrophe groups thousands as the locale `en_US` does, which the program asks for and which many
machines do not have: then nothing is grouped. `has_grouping` asks the same question.
"""

from __future__ import annotations

import locale

from bpfpin.apps.stats import Interval, Row
from bpfpin.errors import UsageError
from bpfpin.uapi import XdpAction

LOCALE = "en_US"
BYTES_PER_KBYTE = 1000
BITS_PER_MBIT = 1_000_000


def has_grouping() -> bool:
    """Whether this machine has the locale that the tutorial's program groups thousands by."""
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        locale.setlocale(locale.LC_NUMERIC, LOCALE)
    except locale.Error:
        return False
    locale.setlocale(locale.LC_NUMERIC, before)
    return True


def classic(interval: Interval, *, is_grouped: bool) -> list[str]:
    """Return the lines of one interval: a heading, the five actions, an empty line.

    `UsageError` for a map that does not count XDP actions.
    """
    rows = {row.action: row for row in interval.rows if row.cpu is None}
    if set(rows) != {action.name for action in XdpAction}:
        raise UsageError("--classic shows the five XDP actions, and this map counts something else")
    lines = [_line(rows[action.name], interval.period_s, is_grouped) for action in XdpAction]
    return [f"{'XDP-action':<12}", *lines, ""]


def _line(row: Row, period_s: float, is_grouped: bool) -> str:
    comma = "," if is_grouped else ""
    kbytes = (row.bytes or 0) // BYTES_PER_KBYTE
    mbits = (row.bytes_per_second or 0.0) * 8 / BITS_PER_MBIT
    return (
        f"{row.action:<12} {row.packets:>11{comma}d} pkts ({row.packets_per_second:>10{comma}.0f}"
        f" pps) {kbytes:>11{comma}d} Kbytes ({mbits:>6{comma}.0f} Mbits/s) period:{period_s:f}"
    )
