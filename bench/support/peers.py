"""Helpers for comparisons with C: maps, the C programs, and a result line with its target."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import timeit
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Int, Member, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType

SOURCES = Path(__file__).parents[1] / "c"
ROUNDS = 7
ATTEMPTS = 4  # the machine may be busy, so the minimum of each side counts
MILLION = 1_000_000


@dataclass(frozen=True)
class Work:
    """A function to measure, its calls per round, and its target as a multiple of C's time."""

    title: str
    how: str
    run: Callable[[], object]
    calls: int = 1
    promised: float | None = None


def compiled(name: str, directory: Path) -> Path:
    """Compile the C program *name* and return its path."""
    program = directory / name
    source = SOURCES / f"{name}.c"
    subprocess.run(["gcc", "-O2", "-o", program, source, "-lbpf"], check=True)
    return program


def in_c(*command: object) -> float:
    """Return the nanoseconds of one call in C."""
    run = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    return float(run.stdout)


def beside(c_side: Callable[[], float], *works: Work) -> int:
    """Measure alternately, print a line for each work, and return 1 if a target is missed."""
    c_ns = c_side()
    status = 0
    for work in works:
        taken_ns = measured_ns(work)
        for _ in range(ATTEMPTS - 1):
            if is_kept(work, taken_ns / c_ns):
                break
            c_ns = min(c_ns, c_side())
            taken_ns = min(taken_ns, measured_ns(work))
        ratio = taken_ns / c_ns
        status |= not is_kept(work, ratio)
        told(work, c_ns, taken_ns)
    return status


def measured_ns(work: Work) -> float:
    """Return the minimum time of some rounds."""
    gc.collect()
    rounds = ROUNDS if work.calls > 1 else ROUNDS - 2
    return min(timeit.repeat(work.run, number=work.calls, repeat=rounds)) / work.calls * 1e9


def is_kept(work: Work, ratio: float) -> bool:
    """Return whether the target, if there is one, is met."""
    return work.promised is None or ratio <= work.promised


def told(work: Work, c_ns: float, taken_ns: float) -> None:
    """Print one line."""
    promise = ""
    if work.promised:
        missed = "" if is_kept(work, taken_ns / c_ns) else "  MISSED"
        promise = f"  (promised: {work.promised} x){missed}"
    print(f"{work.title:24} C {c_ns / 1e3:10,.2f} us   bpfpin, {work.how:14}", end="")
    print(f"{taken_ns / 1e3:10,.2f} us   {taken_ns / c_ns:5.2f} x{promise}", flush=True)


def bcc_told() -> None:
    """Print whether bcc is installed; it is not measured."""
    there = importlib.util.find_spec("bcc") is not None
    print("bcc: installed, but not measured here" if there else "bcc: not installed")


@dataclass(frozen=True)
class Types:
    """The types u32, u64, and a structure of two u64."""

    key: TypeRef
    number: TypeRef
    pair: TypeRef


def types() -> Types:
    """Create the types of keys and values."""
    builder = BtfBuilder()
    u32 = builder.add(Int("unsigned int", 4, 32))
    u64 = builder.add(Int("unsigned long long", 8, 64))
    members = (Member("rx_packets", u64, 0), Member("rx_bytes", u64, 64))
    pair = builder.add(Struct("datarec", 16, members))
    btf = Btf.parse(builder.build())
    return Types(btf.ref(u32), btf.ref(u64), btf.ref(pair))


@contextmanager
def numbers(entries: int, *, filled: bool = True) -> Iterator[Map]:
    """Create a hash u32 -> u64, full or empty."""
    known = types()
    spec = MapSpec("flows", MapType.HASH, 4, 8, entries, key=known.key, value=known.number)
    with Map.create(spec) as made:
        if filled:
            made.update_arrays(*arrays(entries))
        yield made


def arrays(entries: int) -> tuple[array[int], array[int]]:
    """Return keys and values as C arrays."""
    return array("I", range(entries)), array("Q", range(1000, 2 * entries + 1000, 2))


@contextmanager
def structures(entries: int) -> Iterator[Map]:
    """Create a full hash u32 -> struct of two u64."""
    known = types()
    spec = MapSpec("records", MapType.HASH, 4, 16, entries, key=known.key, value=known.pair)
    with Map.create(spec) as made:
        made.update_batch(
            (index, {"rx_packets": index + 1000, "rx_bytes": 64 * index + 1000})
            for index in range(entries)
        )
        yield made


@contextmanager
def counters() -> Iterator[Map]:
    """Create the map of the XDP tutorial: five per-CPU entries of packets and bytes."""
    known = types()
    spec = MapSpec("xdp_stats_map", MapType.PERCPU_ARRAY, 4, 16, 5)
    with Map.create(spec.with_changes(key=known.key, value=known.pair)) as made:
        yield made
