"""The C library, for system calls that Python has no function for."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable

from bpfpin.syscall.errno_table import syscall_error

# use_errno: without it the interpreter itself could change errno before it is read.
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
INTERRUPTED_MAX = 5  # attempts of a call that signals interrupt (EINTR)


def uninterrupted(call: Callable[[], int]) -> int:
    """Return the answer of *call*, which is repeated after EINTR."""
    for _ in range(INTERRUPTED_MAX):
        answer = call()
        if answer >= 0 or ctypes.get_errno() != errno.EINTR:
            break
    return answer


def checked(command: str, answer: int, *, target: str = "") -> int:
    """Return *answer*; if it is negative, raise the exception for errno, *command* and *target*."""
    if answer < 0:
        raise syscall_error(command, ctypes.get_errno(), target=target)
    return answer
