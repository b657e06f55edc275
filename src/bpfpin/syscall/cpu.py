"""Possible and online CPUs, and membarrier(2), which waits for all of them."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Final

from bpfpin.syscall.call import LIBC, checked

POSSIBLE = Path("/sys/devices/system/cpu/possible")
ONLINE = Path("/sys/devices/system/cpu/online")
NUMBERS: Final = {"x86_64": 324, "aarch64": 283}
_GLOBAL: Final = 1  # MEMBARRIER_CMD_GLOBAL of linux/membarrier.h


@functools.cache
def possible_cpus() -> int:
    """Return the number of values in a per-CPU element: one for each possible CPU, online or not.

    It is num_possible_cpus() of the kernel, which is fixed at boot.
    """
    return count_cpus(POSSIBLE.read_text())


def online_cpus() -> list[int]:
    """Return the numbers of the CPUs that are online now."""
    return list_cpus(ONLINE.read_text())


def count_cpus(ranges: str) -> int:
    """Count the CPUs of a list like `0-3,8` (Documentation/admin-guide/cputopology.rst)."""
    return len(list_cpus(ranges))


def list_cpus(ranges: str) -> list[int]:
    """Return the numbers in a list like `0-3,8`."""
    bounds = (part.split("-") for part in ranges.strip().split(","))
    return [cpu for pair in bounds for cpu in range(int(pair[0]), int(pair[-1]) + 1)]


def membarrier() -> None:
    """Wait until each CPU has passed through the scheduler (membarrier(2), Linux 4.3).

    MEMBARRIER_CMD_GLOBAL waits for an RCU grace period. The kernel refuses it (EINVAL) if it runs
    with nohz_full (kernel/sched/membarrier.c).
    """
    number = NUMBERS.get(os.uname().machine, NUMBERS["aarch64"])
    # With one CPU online the call returns at once: nothing can run beside the caller then.
    checked("membarrier", LIBC.syscall(number, _GLOBAL, 0, 0))
