"""The verifier's log: asking for it, and finding the cause of a refusal and a way out of it.

`attempt` loads a program with a log, `report` reads the log, and `table` has the causes and hints.
"""

from __future__ import annotations

from bpfpin.objects.verifier.attempt import (
    LOG_LEVEL,
    LOG_LIMIT,
    LOG_SIZE,
    LOG_STATISTICS,
    Attempt,
    LogChoice,
    explain,
    is_before_instructions,
    printable,
    reason_lines,
    unknown_helper,
)
from bpfpin.objects.verifier.report import SourceLine, SourceLines

__all__ = [
    "LOG_LEVEL", "LOG_LIMIT", "LOG_SIZE", "LOG_STATISTICS", "Attempt", "LogChoice", "SourceLine",
    "SourceLines", "explain", "is_before_instructions", "printable", "reason_lines",
    "unknown_helper",
]  # fmt: skip
