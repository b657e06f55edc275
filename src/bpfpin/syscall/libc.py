"""System calls for which Python has no function."""

from __future__ import annotations

import ctypes

from bpfpin.syscall.refusal import refusal

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long


def checked(command: str, answer: int, *, target: str = "") -> int:
    """Return *answer*, or raise the refusal of *command* about *target* when it is negative."""
    if answer < 0:
        raise refusal(command, ctypes.get_errno(), target=target)
    return answer
