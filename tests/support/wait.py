"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

# No test waits for a time: by then something hangs, however busy the machine is.
HANG_S = 600.0


def wait_until(condition: Callable[[], bool], *, timeout_s: float = HANG_S) -> None:
    """Return as soon as *condition* holds; an AssertionError if it does not within *timeout_s*.

    The time is long, for a busy machine: only a test that fails waits for its end.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not true within {timeout_s} s"
        time.sleep(0.01)
