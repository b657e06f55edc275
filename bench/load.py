"""Compare reading and loading a small object with C and libbpf.

C is measured warm (repeatedly in one process) and cold (the first load of many processes); bpfpin
is measured warm. Needs root, gcc and libbpf-dev. Prints medians and ratios, and whether the target
is met. The exit status only shows whether the measurement itself worked.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import bpfpin
from bpfpin.loading.collection import load
from bpfpin.objfile.reader import read_object

SOURCE = Path(__file__).parent / "c" / "load.c"
OBJECT = Path(bpfpin.__file__).parent / "builtin" / "xdp_stats.bpf.o"
ROUNDS = 100
PROCESSES = 20
TURNS = 3  # sides alternate, so that a busy moment of the machine affects all of them
TARGET = 1.5  # times warm C

Times = list[tuple[float, float]]  # nanoseconds of reading and of loading


def main() -> None:
    """Measure all sides alternately and print the medians."""
    warm, cold, ours = Times(), Times(), Times()
    with tempfile.TemporaryDirectory() as directory:
        peer = Path(directory) / "load"
        subprocess.run(["gcc", "-O2", "-o", peer, SOURCE, "-lbpf"], check=True)
        for _ in range(TURNS):
            warm += peer_times(peer, ROUNDS)
            cold += [peer_times(peer, 1)[0] for _ in range(PROCESSES)]
            ours += [one_load() for _ in range(ROUNDS)]
    print(f"read + load {OBJECT.name}, medians in us; ours of {len(ours)}")
    report("C, libbpf, warm", warm)
    report("C, libbpf, cold", cold)
    report("bpfpin", ours)
    ratio = total_us(ours) / total_us(warm)
    is_met = "met" if ratio <= TARGET else "not met"
    print(f"  bpfpin takes {ratio:.2f} x C warm, {total_us(ours) / total_us(cold):.2f} x C cold")
    print(f"  target: {TARGET} x C warm: {is_met}")


def peer_times(peer: Path, rounds: int) -> Times:
    """Return the times of all loads in one process of the C program."""
    command = [str(peer), str(OBJECT), str(rounds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = (line.split() for line in done.stdout.splitlines())
    return [(float(reading), float(loading)) for reading, loading in lines]


def one_load() -> tuple[float, float]:
    """Read and load the object once."""
    start = time.monotonic_ns()
    spec = read_object(OBJECT)
    was_read = time.monotonic_ns()
    loaded = load(spec)
    end = time.monotonic_ns()
    loaded.close()
    return was_read - start, end - was_read


def total_us(times: Times) -> float:
    """Return the median of reading and loading together."""
    return statistics.median(map(sum, times)) / 1e3


def report(name: str, times: Times) -> None:
    """Print one line: both parts and the total."""
    reading, loading = (statistics.median(part) / 1e3 for part in zip(*times, strict=True))
    print(
        f"  {name:<16}{total_us(times):7.0f}   read {reading:5.0f}   load {loading:5.0f}",
    )


if __name__ == "__main__":
    main()
