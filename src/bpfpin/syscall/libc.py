"""System calls for which Python has no function."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable

from bpfpin.syscall.errno_table import syscall_error

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
INTERRUPTED_MAX = 5  # how often a call that a signal came between is made anew


def uninterrupted(call: Callable[[], int]) -> int:
    """Return what *call* answers, making it again where a signal came between (EINTR)."""
    for _ in range(INTERRUPTED_MAX):
        answer = call()
        if answer >= 0 or ctypes.get_errno() != errno.EINTR:
            break
    return answer


def checked(command: str, answer: int, *, target: str = "") -> int:
    """Return *answer*, or raise the refusal of *command* about *target* when it is negative."""
    if answer < 0:
        raise syscall_error(command, ctypes.get_errno(), target=target)
    return answer
