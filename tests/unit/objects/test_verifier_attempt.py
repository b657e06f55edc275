"""How a log of unknown length is asked for, of kernels that tell its length and that do not."""

from __future__ import annotations

import pytest

from bpfpin.errors import SyscallError
from bpfpin.objects.verifier.attempt import (
    LOG_FIXED,
    LOG_LIMIT,
    LOG_SIZE,
    LOG_STATISTICS,
    Attempt,
    LogChoice,
    explain,
)
from bpfpin.syscall.errno_table import BufferTooSmallError, InvalidArgumentError

REASON = "R5 !read_ok\n"


class Kernel:
    """Answers as BPF_PROG_LOAD does with a log of a given length that ends with the reason."""

    def __init__(self, length: int, *, is_since_6_4: bool) -> None:
        self.log = "x" * (length - 1 - len(REASON)) + REASON
        self.is_since_6_4 = is_since_6_4
        self.asked: list[tuple[int, int]] = []

    def attempt(self, level: int, size: int) -> Attempt:
        """Refuse, with as much of the log as fits: newer kernels keep its end."""
        self.asked.append((level, size))
        if level & LOG_FIXED and not self.is_since_6_4:
            return Attempt(None, InvalidArgumentError("refused"), "", 0)
        log = REASON if level == LOG_STATISTICS else self.log
        kind = SyscallError if len(log) < size else BufferTooSmallError
        kept = log[-(size - 1) :] if self.is_since_6_4 else log[: size - 1]
        return Attempt(None, kind("refused"), kept, len(log) + 1 if self.is_since_6_4 else 0)

    @property
    def sizes(self) -> list[int]:
        """The sizes of the buffers that were handed in."""
        return [size for _, size in self.asked]


def test_the_buffer_grows_at_once_where_the_kernel_tells_the_size() -> None:
    kernel = Kernel(1_000_000, is_since_6_4=True)
    made = explain(kernel.attempt, LogChoice())

    assert made.log == kernel.log
    assert kernel.sizes == [LOG_SIZE, 1_000_000]


def test_the_buffer_is_doubled_where_the_kernel_does_not_tell_the_size() -> None:
    kernel = Kernel(200_000, is_since_6_4=False)
    made = explain(kernel.attempt, LogChoice())

    assert made.log == kernel.log
    assert kernel.sizes == [64 << 10, 128 << 10, 256 << 10]


@pytest.mark.parametrize("is_since_6_4", [True, False])
def test_of_a_log_beyond_the_limit_the_reason_is_kept(is_since_6_4: bool) -> None:
    kernel = Kernel(100 << 20, is_since_6_4=is_since_6_4)
    made = explain(kernel.attempt, LogChoice())

    assert max(kernel.sizes) == LOG_LIMIT
    assert kernel.asked[-1] == (LOG_STATISTICS, LOG_SIZE)
    assert made.log.endswith(REASON)
    assert "[a part of the log is left out]\n" in made.log
    assert not isinstance(made.error, BufferTooSmallError)


@pytest.mark.parametrize(("level", "then"), [(8 | 1, 1), (8, LOG_STATISTICS)])
def test_a_kernel_that_always_keeps_the_beginning_is_not_asked_to(level: int, then: int) -> None:
    kernel = Kernel(1000, is_since_6_4=False)
    made = explain(kernel.attempt, LogChoice(level))

    assert [level for level, _ in kernel.asked] == [level, then]
    assert made.log.endswith(REASON)


def test_the_level_and_the_limit_are_those_that_were_chosen() -> None:
    kernel = Kernel(100_000, is_since_6_4=True)
    explain(kernel.attempt, LogChoice(level=2, size=10_000))

    assert kernel.asked[0] == (2, 10_000)
    assert max(kernel.sizes[:-1]) == 10_000
