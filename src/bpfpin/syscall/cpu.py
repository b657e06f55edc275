"""The CPUs that the kernel lays out per-CPU values for."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Final

from bpfpin.syscall.libc import LIBC, checked

POSSIBLE = Path("/sys/devices/system/cpu/possible")
ONLINE = Path("/sys/devices/system/cpu/online")
NUMBERS: Final = {"x86_64": 324, "aarch64": 283}
_GLOBAL: Final = 1  # MEMBARRIER_CMD_GLOBAL of linux/membarrier.h


@functools.cache
def possible_cpus() -> int:
    """Return how many values a per-CPU element has: one a possible CPU, online or not.

    The kernel counts `num_possible_cpus()`; it is fixed at boot.
    """
    return count_cpus(POSSIBLE.read_text())


def online_cpus() -> list[int]:
    """Return the numbers of the CPUs that run now."""
    return list_cpus(ONLINE.read_text())


def count_cpus(ranges: str) -> int:
    """Count the CPUs of a list like `0-3,8` (Documentation/admin-guide/cputopology.rst)."""
    return len(list_cpus(ranges))


def list_cpus(ranges: str) -> list[int]:
    """Return the numbers in a list like `0-3,8`."""
    bounds = (part.split("-") for part in ranges.strip().split(","))
    return [cpu for pair in bounds for cpu in range(int(pair[0]), int(pair[-1]) + 1)]


# membarrier(2): waiting until every CPU has passed through the scheduler.


def membarrier() -> None:
    """Wait for a grace period (MEMBARRIER_CMD_GLOBAL); refused on kernels with nohz_full."""
    number = NUMBERS.get(os.uname().machine, NUMBERS["aarch64"])
    checked("membarrier", LIBC.syscall(number, _GLOBAL, 0, 0))
