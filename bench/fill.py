"""Measure the number of entries of hashes: by the kernel's counter, and by reading every entry.

Needs root and Linux 6.6. Exits 1 if the counter and the walk differ, or if one map takes 2 ms.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from support.peers import MILLION, numbers

from bpfpin.objects.maps.fill import entry_counts
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType

ROUNDS = 9
MAPS = 200
PROMISED_S = 0.002


def fastest(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the seconds of the fastest round: the machine may be busy."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> int:
    """Measure and return the exit status."""
    with numbers(MILLION) as full:
        walked = sum(batch.count for batch in full.batches_bytes())
        walk_s = fastest(lambda: sum(batch.count for batch in full.batches_bytes()), 3)
        counted_s = fastest(lambda: entry_counts([full.fd]))
        is_same = entry_counts([full.fd]) == [walked] == [MILLION]
    maps = [Map.create(MapSpec(f"m{n}", MapType.HASH, 4, 8, 100)) for n in range(MAPS)]
    fds = [bpf_map.fd for bpf_map in maps]
    many_s = fastest(lambda: entry_counts(fds))
    for bpf_map in maps:
        bpf_map.close()
    print(f"a hash of {MILLION:,} entries: walk {walk_s * 1e3:.0f} ms, counter", end=" ")
    print(f"{counted_s * 1e6:.0f} us; {MAPS} hashes: {many_s * 1e3:.2f} ms")
    return 0 if is_same and counted_s < PROMISED_S else 1


if __name__ == "__main__":
    sys.exit(main())
