"""Measure the CPU time of watching a map of 100,000 entries once a second.

Needs root. Prints the CPU time of some readings of a map that does not change, and of maps in which
a hundred entries change each second: their values, or their keys. Exits 1 if it is 5 % or more of
one CPU, or if it is less only because the interval was stretched.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass

from support.peers import types

from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType

ENTRIES = 100_000
CHANGES = 100  # per second
INTERVAL_S = 1.0
READINGS = 5
PROMISED = 0.05
STRETCHED = 1.1  # times the interval counts as stretched


@dataclass(frozen=True)
class Writer:
    """A named function that changes entries of the map; it is called once a second."""

    name: str
    write: Callable[[Map, int], None]


def values(flows: Map, number: int) -> None:
    """Change the values of entries that are far apart."""
    step = ENTRIES // CHANGES
    flows.update({index * step + number: number + 2 for index in range(CHANGES)})


def keys(flows: Map, number: int) -> None:
    """Add half as many keys, and delete as many."""
    half, step = CHANGES // 2, 2 * ENTRIES // CHANGES
    flows.update({(number + 1) * ENTRIES + index: 1 for index in range(half)})
    flows.delete_batch([index * step + number for index in range(half)])


WRITERS = (
    Writer("at rest", lambda flows, number: None),
    Writer("values change", values),
    Writer("keys come and go", keys),
)


def main() -> int:
    """Measure, print, and return the exit status."""
    known = types()
    room = 2 * ENTRIES
    spec = MapSpec("flows", MapType.HASH, 4, 8, room, key=known.key, value=known.number)
    return max(measure(spec, writer) for writer in WRITERS)


def measure(spec: MapSpec, writer: Writer) -> int:
    """Print a line about one writer; return 1 if the target is missed."""
    with Map.create(spec) as flows:
        flows.update(dict.fromkeys(range(ENTRIES), 1))
        changes = flows.watch(interval_s=INTERVAL_S)
        next(changes)
        writing_s, before_s, period_s, told = 0.0, cpu_s(), 0.0, 0
        for number in range(READINGS):
            began_s = cpu_s()
            writer.write(flows, number)
            writing_s += cpu_s() - began_s
            change = next(changes)
            period_s += change.period_s
            told += len(change.changed) + len(change.added) + len(change.removed)
    share = (cpu_s() - before_s - writing_s) / period_s
    interval_s = period_s / READINGS
    print(
        f"watch of {ENTRIES:,} entries, {writer.name:17} {share:6.2%} of one CPU"
        f"  (promised: < {PROMISED:.0%})   every {interval_s:.2f} s, {told // READINGS} told"
    )
    return int(share >= PROMISED or interval_s > STRETCHED * INTERVAL_S)


def cpu_s() -> float:
    """Return the CPU time of this process, in user space and in the kernel."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
