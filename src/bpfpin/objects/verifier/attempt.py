"""Loading with a log: a buffer that grows until it fits, and what is kept of a longer one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass

from bpfpin.errors import SyscallError
from bpfpin.syscall.errno_table import BufferTooSmallError

LOG_LEVEL = 1  # the instructions and states of the path that was refused
LOG_STATISTICS = 4  # the reason and the figures, no instructions
LOG_FIXED = 8  # the log's beginning is kept where it is too long, not its end
LOG_LEVELS = 15
LOG_SIZE = 64 << 10
LOG_LEAST = 128  # bytes; kernels before 6.4 take no smaller buffer
LOG_LIMIT = 16 << 20

# What the verifier writes whatever it thinks of the program (print_verification_stats, do_check).
_FIGURES = re.compile(
    r"(processed \d+ insns|verification time|stack depth|func#\d+ @\d+$|mark_precise:|Live regs)"
)
# What could steer a terminal, or pass for a line end: the log repeats text of the object file.
_STEERING = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class LogChoice:
    """Which log is wanted of a load: its *level* (0: only of a refusal) and most bytes of it.

    The levels are bits: 1 shows the instructions of a path that is refused, 2 all with the state
    after each, 4 the reason and figures alone; 8 keeps the beginning of a log that is too
    long and not its end. `ValueError` for others.
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
    """What one load with a log came to: a descriptor or the refusal, and the log.

    *true_size* is how many bytes all of the log would take, 0 where the kernel does not say.
    """

    fd: int | None
    error: SyscallError | None
    log: str
    true_size: int


def explain(attempt: Callable[[int, int], Attempt], choice: LogChoice) -> Attempt:
    """Load again with a log buffer that grows until all of the log fits, or *choice* is passed.

    *attempt* is given the level and the size in bytes. Kernels from 6.4 tell the size that is
    needed (`log_true_size`); the ones before fill the buffer, which is then doubled and doubled.
    """
    level, size = choice.level or LOG_LEVEL, min(LOG_SIZE, choice.size)
    while True:
        made = attempt(level, size)
        if not isinstance(made.error, BufferTooSmallError):
            return made
        if size >= choice.size:
            return _cut(attempt, made, level)
        needed = made.true_size or 2 * size
        size = min(max(needed, size + 1), choice.size)


def _cut(attempt: Callable[[int, int], Attempt], made: Attempt, level: int) -> Attempt:
    """Return *made* with the reason in its log, and as it would be if the log had fitted.

    The kernel refuses what it cannot tell all of, a good program too; and before 6.4 it kept the
    beginning of the log, where no reason is. A log of the reason alone is short.
    """
    ending = attempt(LOG_STATISTICS, LOG_SIZE)
    is_end_kept = bool(made.true_size) and not level & LOG_FIXED
    parts = ("", made.log) if is_end_kept else (made.log + "\n", ending.log)
    return dataclasses.replace(ending, log="[a part of the log is left out]\n".join(parts))


def printable(log: bytes) -> str:
    r"""Return *log* as text in which nothing steers a terminal; such bytes are written `\x1b`."""
    return _STEERING.sub(_written_out, log.decode(errors="backslashreplace"))


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def is_before_instructions(log: str) -> bool:
    """Whether the refusal came before any instruction was looked at: of BTF, or of the shape."""
    return "processed 0 insns" in log


def reason_lines(log: str) -> list[str]:
    """Return the lines that may say why a program was refused: all but the verifier's figures."""
    lines = [line.strip() for line in log.splitlines()]
    return [line for line in lines if line and not _FIGURES.match(line)]


def unknown_helper(log: str) -> int | None:
    """Return the number of the helper that the kernel does not have, if that is the refusal."""
    found = re.search(r"invalid func unknown#(\d{1,10})$", log, re.MULTILINE)
    return int(found[1]) if found else None
