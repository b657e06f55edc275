"""Reading maps, beside C with libbpf: one lookup, five per-CPU entries, a million entries.

Needs root, gcc and libbpf-dev. Prints the least time of some rounds and the ratio to C; both sides
read the same map in the same run. Exits 1 if a read is slower than what is promised of it.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Int, Member, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.objects.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapType

SOURCE = Path(__file__).parent / "c" / "read.c"
ROUNDS = 7
CALLS = 20_000
MILLION = 1_000_000


@dataclass(frozen=True)
class Read:
    """One way to read, how often a round, and how many times C's time it may take."""

    name: str
    run: Callable[[], object]
    calls: int = CALLS
    promised: float | None = None


def main() -> int:
    """Run all of them and return the exit status."""
    with tempfile.TemporaryDirectory() as directory:
        peer = compile_peer(Path(directory))
        with counters() as small, flows() as large:
            return max(counter_reads(peer, small), dump(peer, large))


def compile_peer(directory: Path) -> Path:
    """Build the C side."""
    program = directory / "read"
    subprocess.run(["gcc", "-O2", "-o", program, SOURCE, "-lbpf"], check=True)
    return program


@contextmanager
def counters() -> Iterator[Map]:
    """Make the map of the XDP tutorial: five per-CPU entries of packets and bytes."""
    types = BtfBuilder()
    u32 = types.add(Int("unsigned int", 4, 32))
    u64 = types.add(Int("unsigned long long", 8, 64))
    members = (Member("rx_packets", u64, 0), Member("rx_bytes", u64, 64))
    datarec = types.add(Struct("datarec", 16, members))
    btf = Btf.parse(types.build())
    spec = MapSpec("xdp_stats_map", MapType.PERCPU_ARRAY, 4, 16, 5)
    with Map.create(spec.with_changes(key=btf.ref(u32), value=btf.ref(datarec))) as made:
        yield made


@contextmanager
def flows() -> Iterator[Map]:
    """Make a hash of a million entries u32 -> u64."""
    types = BtfBuilder()
    key = types.add(Int("unsigned int", 4, 32))
    value = types.add(Int("unsigned long long", 8, 64))
    btf = Btf.parse(types.build())
    spec = MapSpec("flows", MapType.HASH, 4, 8, MILLION, key=btf.ref(key), value=btf.ref(value))
    with Map.create(spec) as made:
        made.update({index: 2 * index for index in range(MILLION)})
        yield made


def counter_reads(peer: Path, small: Map) -> int:
    """Measure the small map."""
    copied = 16 * possible_cpus()
    key = bytes(4)
    batch = in_c(peer, "batch", small, copied, 5)
    lookup = in_c(peer, "lookup", small, copied, 1)
    return max(
        report("one per-CPU lookup", lookup, Read("bytes", lambda: small.lookup_bytes(key))),
        report("one per-CPU lookup", lookup, Read("dicts", lambda: small[0])),
        report("5 per-CPU entries", batch, Read("bytes", small.dump_bytes, promised=1.5)),
        report("5 per-CPU entries", batch, Read("dicts", small.to_dict, promised=4)),
    )


def dump(peer: Path, large: Map) -> int:
    """Measure the million."""
    whole = in_c(peer, "batch", large, 8, MILLION, calls=1)
    title = "1,000,000 entries"
    return max(
        report(title, whole, Read("bytes", large.dump_bytes, calls=1)),
        report(title, whole, Read("numpy", large.to_numpy, calls=1)),
        report(title, whole, Read("pairs", lambda: sum(map(len, large.lookup_batch())), calls=1)),
        report(title, whole, Read("dict", large.to_dict, calls=1)),
    )


def in_c(  # noqa: PLR0917  (the arguments of the C side)
    peer: Path, how: str, there: Map, copied: int, entries: int, *, calls: int = CALLS
) -> float:
    """Return the nanoseconds of one read in C."""
    sizes = (there.id, there.key_size, copied, entries, calls)
    command = [str(peer), how, *map(str, sizes)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report(title: str, c_ns: float, read: Read) -> int:
    """Measure, print one line, and return 1 if a promise is broken."""
    gc.collect()
    times = timeit.repeat(read.run, number=read.calls, repeat=ROUNDS)
    taken_ns = min(times) / read.calls * 1e9
    ratio = taken_ns / c_ns
    promise = f"  (promised: {read.promised} x)" if read.promised else ""
    print(f"{title:20} C {c_ns / 1e3:10,.2f} us   bpfpin, {read.name:6}", end="")
    print(f"{taken_ns / 1e3:10,.2f} us   {ratio:5.2f} x{promise}")
    return int(read.promised is not None and ratio > read.promised)


if __name__ == "__main__":
    sys.exit(main())
