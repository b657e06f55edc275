"""Loads a program with a log: the buffer grows until the log fits, or its limit is reached."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from bpfpin.errors import SyscallError
from bpfpin.records import dataclass
from bpfpin.syscall.errno_table import BufferTooSmallError, InvalidArgumentError

LOG_LEVEL = 1  # the instructions and states of the path that was refused
LOG_STATISTICS = 4  # the reason and the figures, no instructions
LOG_FIXED = 8  # keep the beginning of a log that is too long, not its end (Linux 6.4)
LOG_LEVELS = 15
LOG_SIZE = 64 << 10
LOG_LEAST = 128  # bytes; kernels before 6.4 take no smaller buffer
LOG_LIMIT = 16 << 20

# Lines that the verifier writes for accepted programs too (print_verification_stats(), do_check()).
_FIGURES = (
    r"(processed \d+ insns|verification time|stack depth|func#\d+ @\d+$|mark_precise:|Live regs)"
)
# Characters that control a terminal or pass for a line end. The log repeats names and lines of C of
# the object file, which are untrusted.
_STEERING = r"[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]"


@dataclass(frozen=True, slots=True)
class LogChoice:
    """The log that a load asks for: its *level* (0: only for a refusal) and its *size* in bytes.

    The level is a sum of bits: 1 shows the instructions of a refused path, 2 all instructions with
    the state after each, 4 only the reason and figures; 8 keeps the beginning of a log that is too
    long, not its end. Raises `ValueError` for values out of range.
    """

    level: int = 0
    size: int = LOG_LIMIT

    def __post_init__(self) -> None:
        if not 0 <= self.level <= LOG_LEVELS:
            raise ValueError(f"log_level is {self.level}; it is made of 1, 2, 4 and 8")
        if not LOG_LEAST <= self.size <= LOG_LIMIT:
            raise ValueError(f"log_size is {self.size}; it is {LOG_LEAST} to {LOG_LIMIT} bytes")


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of one load with a log: a descriptor or the error, and the log.

    *true_size* is the size of the whole log in bytes; 0 if the kernel does not report it (before
    6.4).
    """

    fd: int | None
    error: SyscallError | None
    log: str
    true_size: int


def explain(attempt: Callable[[int, int], Attempt], choice: LogChoice) -> Attempt:
    """Load with a log buffer that grows until the whole log fits, or up to the size in *choice*.

    *attempt* takes the level and the buffer's size. Linux 6.4 and later report the needed size
    (`log_true_size`); before, the buffer is doubled each time.
    """
    level, size = choice.level or LOG_LEVEL, min(LOG_SIZE, choice.size)
    while True:
        made = attempt(level, size)
        # Before 6.4 the flag was EINVAL, and the beginning was what every log kept.
        if level & LOG_FIXED and isinstance(made.error, InvalidArgumentError) and not made.log:
            level = level & ~LOG_FIXED or LOG_STATISTICS
            continue
        if not isinstance(made.error, BufferTooSmallError):
            return made
        if size >= choice.size:
            return _cut(attempt, made, level)
        needed = made.true_size or 2 * size
        # Always larger than before, whatever the kernel reports: so the loop ends.
        size = min(max(needed, size + 1), choice.size)


def _cut(attempt: Callable[[int, int], Attempt], made: Attempt, level: int) -> Attempt:
    """Return *made* as if its log had fitted, with the reason at the log's end.

    The kernel fails with ENOSPC if the log does not fit, even if the program is good. Before 6.4 it
    kept the beginning of the log, which has no reason. So the reason comes from a second load that
    logs nothing else.
    """
    ending = attempt(LOG_STATISTICS, LOG_SIZE)
    is_end_kept = bool(made.true_size) and not level & LOG_FIXED
    parts = ("", made.log) if is_end_kept else (made.log + "\n", ending.log)
    return dataclasses.replace(ending, log="[a part of the log is left out]\n".join(parts))


def printable(log: bytes) -> str:
    r"""Return *log* as text without control characters; they are written out as `\x1b`."""
    return re.sub(_STEERING, _written_out, log.decode(errors="backslashreplace"))


def _written_out(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def is_before_instructions(log: str) -> bool:
    """Whether the program was refused before its first instruction, for its BTF or its form."""
    return "processed 0 insns" in log


def reason_lines(log: str) -> list[str]:
    """Return the lines that may say why a program was refused: all but the verifier's figures."""
    figures = re.compile(_FIGURES)
    lines = [line.strip() for line in log.splitlines()]
    return [line for line in lines if line and not figures.match(line)]


def unknown_helper(log: str) -> int | None:
    """Return the number of the helper that the kernel lacks, if that is the reason; else None."""
    match = re.search(r"invalid func unknown#(\d{1,10})$", log, re.MULTILINE)
    return int(match[1]) if match else None
