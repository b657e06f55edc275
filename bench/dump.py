"""Compare time and memory of `bpfpin map dump -o json` with `bpftool -j map dump`.

Whole processes are measured. Both dump the same map into a file in the same run. Needs root and
bpftool. Exits 1 if bpfpin does not dump a million entries three times faster than bpftool, or if
its memory grows with the map.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from support.peers import numbers, structures

from bpfpin.objects.maps.map import Map

SIZES = (10_000, 100_000, 1_000_000)
ROUNDS = 3
PROMISED = 3.0  # times faster, for a million integers
MEASURE = """
import os, sys, time
file = os.open(".", os.O_TMPFILE | os.O_WRONLY)
began_s = time.perf_counter()
into = [(os.POSIX_SPAWN_DUP2, file, 1)]
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=into)
_, status, usage = os.wait4(child, 0)
print(time.perf_counter() - began_s, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
GROWTH_BYTES = 4 << 20  # from the smallest map to the largest, whose entries take 50 MB


@dataclass(frozen=True)
class Run:
    """The time and the peak memory of one process."""

    taken_s: float
    peak_bytes: int


def main() -> int:
    """Measure, print, and return the exit status."""
    return max(measure("u64", numbers, promised=PROMISED), measure("struct", structures))


def measure(
    name: str,
    filled: Callable[[int], AbstractContextManager[Map]],
    *,
    promised: float | None = None,
) -> int:
    """Dump maps of all sizes with one type of value; return 1 if a target is missed."""
    peaks, ratio = [], 0.0
    for size in SIZES:
        with filled(size) as flows:
            ours, theirs = both(flows.id)
        peaks.append(ours.peak_bytes)
        ratio = theirs.taken_s / ours.taken_s
        promise = f"  (promised: {promised:.0f} x)" if promised and size == SIZES[-1] else ""
        print(
            f"dump of {size:9,} u32 -> {name:6}  bpftool {told(theirs)}   bpfpin {told(ours)}"
            f"   {ratio:5.2f} x faster{promise}"
        )
    is_slow = promised is not None and ratio < promised
    return int(is_slow or peaks[-1] - peaks[0] > GROWTH_BYTES)


def both(map_id: int) -> tuple[Run, Run]:
    """Dump the map alternately with both, and return the minimum of some rounds of each."""
    ours = [sys.executable, "-m", "bpfpin", "map", "dump", f"id:{map_id}", "-o", "json"]
    theirs = ["bpftool", "-j", "map", "dump", "id", str(map_id)]
    pairs = [(run(ours), run(theirs)) for _ in range(ROUNDS)]
    first, second = zip(*pairs, strict=True)
    return least(first), least(second)


def least(runs: tuple[Run, ...]) -> Run:
    """Return the minimum of the times and of the peaks."""
    return Run(min(run.taken_s for run in runs), min(run.peak_bytes for run in runs))


def run(command: list[str]) -> Run:
    """Run a command with its output in a file, and return its time and peak memory.

    A small separate process measures, because a child's peak is never less than its parent's.
    """
    measured = [sys.executable, "-S", "-E", "-c", MEASURE, *command]
    done = subprocess.run(measured, capture_output=True, text=True, check=True)
    taken_s, peak_kib = done.stdout.split()
    return Run(float(taken_s), 1024 * int(peak_kib))


def told(run: Run) -> str:
    """Return time and memory as text."""
    return f"{run.taken_s:6.2f} s {run.peak_bytes / 1e6:7.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
