"""Compare `bpfpin btf dump` with bpftool: all types of the running kernel as C.

Printed are medians of the CPU time of whole processes, and in process without the start of Python;
the two sides run by turns. Needs the kernel's BTF and bpftool. Exits 1 if a target is missed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from bpfpin.apps.c_types import kernel_header
from bpfpin.objects.kernel.btf import VMLINUX, vmlinux_btf

ROUNDS = 7
TARGET_S = 1.0  # of CPU, for the whole command
TARGET_RATIO = 12.0  # times bpftool
OURS = [sys.executable, "-m", "bpfpin", "btf", "dump"]
PEER = ["bpftool", "btf", "dump", "file", str(VMLINUX), "format", "c"]


def main() -> int:
    """Measure both commands by turns, print the medians; return 1 if a target is missed."""
    ours, theirs, inside = [], [], []
    for _ in range(ROUNDS):
        theirs.append(cpu_of(PEER))
        ours.append(cpu_of(OURS))
        inside.append(cpu_inside())
    medians = [statistics.median(side) for side in (theirs, ours, inside)]
    for name, value in zip(("bpftool", "bpfpin", "in process"), medians, strict=True):
        print(f"{name:<12}{1000 * value:8.0f} ms of CPU")
    # The least of each side: on a busy machine the CPU time of the same work doubles.
    least, ratio = min(ours), min(ours) / min(theirs)
    is_met = least <= TARGET_S and ratio <= TARGET_RATIO
    print(
        f"the command takes {least:.2f} s at least, {ratio:.1f} x bpftool; "
        f"targets: {TARGET_S:g} s, {TARGET_RATIO:g} x: {'met' if is_met else 'not met'}"
    )
    return 0 if is_met else 1


def cpu_of(command: list[str]) -> float:
    """Return the CPU seconds of one run of the command."""
    before = os.times()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def cpu_inside() -> float:
    """Return the CPU seconds of the same header made in this process."""
    vmlinux_btf.cache_clear()
    before = time.process_time()
    kernel_header()
    return time.process_time() - before


if __name__ == "__main__":
    sys.exit(main())
