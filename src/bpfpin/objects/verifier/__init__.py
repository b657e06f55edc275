"""What the verifier says of a program: its log, the cause of a refusal, and what to do about it.

Reading a log is left to `log`, `cause` and `report`, which are imported with the first refusal.
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
