"""Possible and online CPUs, and membarrier(2), which waits for all of them."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
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
    return len(possible_cpu_numbers())


@functools.cache
def possible_cpu_numbers() -> tuple[int, ...]:
    """Return the numbers of the possible CPUs, in the order of the values of a per-CPU element.

    There may be holes, as in `0-3,8`: then the index of a value is not the number of its CPU.
    """
    return tuple(list_cpus(POSSIBLE.read_text()))


def cpu_ids() -> int:
    """Return the number above that of every possible CPU, nr_cpu_ids of the kernel."""
    return possible_cpu_numbers()[-1] + 1


def cpu_index(cpu: int) -> int:
    """Return the index of the value of a CPU in a per-CPU element.

    `ValueError` if it is not a possible CPU.
    """
    numbers = possible_cpu_numbers()
    if cpu not in numbers:
        *others, last = map(str, numbers)
        is_without_holes = len(numbers) == numbers[-1] + 1
        possible = f"0 to {last}" if is_without_holes else f"{', '.join(others)} and {last}"
        raise ValueError(f"there is no CPU {cpu}: the possible ones are {possible}")
    return numbers.index(cpu)


def cpus_of_values(count: int) -> Sequence[int]:
    """Return the number of the CPU of each of *count* values of a per-CPU element.

    The values may be those of another host, of which only their order is known.
    """
    numbers = possible_cpu_numbers()
    return numbers if count == len(numbers) else range(count)


def online_cpus() -> list[int]:
    """Return the numbers of the CPUs that are online now."""
    return list_cpus(ONLINE.read_text())


def list_cpus(ranges: str) -> list[int]:
    """Return the numbers in a list like `0-3,8` (Documentation/admin-guide/cputopology.rst)."""
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
