"""membarrier(2): waiting until every CPU has passed through the scheduler."""

from __future__ import annotations

import os
from typing import Final

from bpfpin.syscall.libc import LIBC, checked

NUMBERS: Final = {"x86_64": 324, "aarch64": 283}
_GLOBAL: Final = 1  # MEMBARRIER_CMD_GLOBAL of linux/membarrier.h


def membarrier() -> None:
    """Wait for a grace period (MEMBARRIER_CMD_GLOBAL); refused on kernels with nohz_full."""
    number = NUMBERS.get(os.uname().machine, NUMBERS["aarch64"])
    checked("membarrier", LIBC.syscall(number, _GLOBAL, 0, 0))
