"""Compare reading maps with C and libbpf, and with bpftool and json.

Measures one lookup, five per-CPU entries, a million entries, and sizes from a thousand to four
million entries. Needs root, gcc, libbpf-dev and bpftool. Prints the minimum time of some rounds and
the ratio to C; both sides read the same map in the same run. Exits 1 if a read misses its target.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from support.peers import (
    MILLION,
    Work,
    bcc_told,
    beside,
    compiled,
    counters,
    in_c,
    measured_ns,
    numbers,
    structures,
)

from bpfpin.objects.maps.map import Map
from bpfpin.syscall.cpu import possible_cpus

CALLS = 20_000
KEYS = 1000
SIZES = (1_000, 10_000, 100_000, MILLION, 4 * MILLION)
STEADY = 1.25  # times C, at every size
FASTER = 5  # times faster than bpftool and json
SMALLER = 5

OURS = """
import resource, sys, time
from bpfpin.objects.maps.map import Map
start = time.perf_counter()
with Map.from_id(int(sys.argv[1])) as held:
    entries = held.to_dict()
taken = time.perf_counter() - start
print(taken, len(entries), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
THEIRS = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
command = ["bpftool", "-j", "map", "dump", "id", sys.argv[1]]
entries = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
taken = time.perf_counter() - start
print(taken, len(entries), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> int:
    """Run all of them and return the exit status."""
    bcc_told()
    with tempfile.TemporaryDirectory() as directory:
        peer = compiled("read", Path(directory))
        status = lookups(peer) | counter_reads(peer) | dumps(peer) | records(peer)
        return status | growth(peer)


def dump_in_c(peer: Path, there: Map, copied: int, entries: int, *, calls: int = 1) -> float:
    """Return the nanoseconds in which C reads all entries in batches."""
    return in_c(peer, "batch", there.id, there.key_size, copied, entries, calls)


def lookups(peer: Path) -> int:
    """Measure one lookup of a number in a loop."""
    with numbers(KEYS) as held:

        def in_a_loop() -> None:
            for key in range(KEYS):
                held[key]

        def c_side() -> float:
            return KEYS * in_c(peer, "lookup", held.id, 4, 8, 1, 10 * CALLS)

        return beside(c_side, Work("1,000 lookups u32->u64", "int", in_a_loop, 100, promised=2.5))


def counter_reads(peer: Path) -> int:
    """Measure reading the small per-CPU map."""
    copied, key = 16 * possible_cpus(), bytes(4)
    with counters() as held:
        one = beside(
            lambda: in_c(peer, "lookup", held.id, 4, copied, 1, CALLS),
            Work("one per-CPU lookup", "bytes", lambda: held.lookup_bytes(key), CALLS),
            Work("one per-CPU lookup", "dicts", lambda: held[0], CALLS),
        )
        return one | beside(
            lambda: dump_in_c(peer, held, copied, 5, calls=CALLS),
            Work("5 per-CPU entries", "bytes", held.dump_bytes, CALLS, promised=1.5),
            Work("5 per-CPU entries", "dicts", held.to_dict, CALLS, promised=4),
        )


def dumps(peer: Path) -> int:
    """Measure reading a million numbers."""
    title = "1,000,000 u32->u64"
    with numbers(MILLION) as held:
        return beside(
            lambda: dump_in_c(peer, held, 8, MILLION),
            Work(title, "bytes", held.dump_bytes),
            Work(title, "to_numpy", held.to_numpy, promised=1.1),
            Work(title, "list of pairs", held.to_list, promised=1.6),
            Work(title, "to_dict", held.to_dict, promised=1.7),
        )


def records(peer: Path) -> int:
    """Measure reading a million structures, and compare with bpftool."""
    with structures(MILLION) as held:
        status = beside(
            lambda: dump_in_c(peer, held, 16, MILLION),
            Work("1,000,000 u32->struct", "to_dict", held.to_dict, promised=3),
            Work("1,000,000 u32->struct", "in batches", lambda: sum(map(len, held.lookup_batch()))),
        )
        return status | beside_bpftool(held)


def beside_bpftool(held: Map) -> int:
    """Measure time and memory of whole processes."""
    taken_s, peak = in_process(OURS, held)
    their_s, their_peak = in_process(THEIRS, held)
    faster, smaller = their_s / taken_s, their_peak / peak
    print(
        f"{'1,000,000 u32->struct':24} bpftool -j and json {their_s:6.1f} s {their_peak:6.0f} MB",
        end="",
    )
    print(f"   bpfpin, to_dict {taken_s:6.2f} s {peak:5.0f} MB   ", end="")
    missed = "" if faster >= FASTER and smaller >= SMALLER else "  MISSED"
    print(f"{faster:.1f} x faster, {smaller:.1f} x smaller (promised: {FASTER} x both){missed}")
    return int(bool(missed))


def in_process(script: str, held: Map) -> tuple[float, float]:
    """Return the seconds and the peak memory in MB of *script* in a new Python process."""
    command = [sys.executable, "-c", script, str(held.id)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, entries, peak_kb = said.split()
    if int(entries) != MILLION:
        raise SystemExit(f"{entries} entries instead of {MILLION}")
    return float(seconds), int(peak_kb) / 1000


def growth(peer: Path) -> int:
    """Check that the time per entry does not grow faster with the size of the map than in C."""
    return max(growth_to(peer, entries) for entries in SIZES)


def growth_to(peer: Path, entries: int) -> int:
    """Measure one size, and print the nanoseconds per entry."""
    calls = max(1, MILLION // 10 // entries)
    with numbers(entries) as held:
        title = f"{entries:,} u32->u64"
        arrays = Work(title, "to_numpy", held.to_numpy, calls, promised=STEADY)
        to_dict = Work(title, "to_dict", held.to_dict, calls)
        status = beside(lambda: dump_in_c(peer, held, 8, entries, calls=calls), arrays, to_dict)
        print(f"{'':24} {measured_ns(to_dict) / entries:.0f} ns an entry to a dict")
        return status


if __name__ == "__main__":
    sys.exit(main())
