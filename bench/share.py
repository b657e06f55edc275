"""Compare loading an object whose ten maps are shared with one that creates its ten maps.

Shared maps are opened by their pins, and compared with the definitions in the object down to the
members of their types. Measures alternately, in separate namespaces and a separate bpffs:

* `bpfpin.deploy`, which attaches and pins a set, and has the target. The time of BPF_LINK_CREATE,
  in which the kernel waits, is shown separately. Unloading is not measured.
* `bpfpin.load`, the part in which maps are created or opened.

Needs root. Exits 1 if the target is missed.
"""

from __future__ import annotations

import dataclasses
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bpfpin
from bpfpin.apps.lab import lab_up
from bpfpin.insn import exit_, load_imm64, mov_imm
from bpfpin.pins.bpffs import BPFFS
from bpfpin.spec import FunctionSpec, Hook, ObjectSpec, ProgramSpec, Reference, ReferenceKind
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import ProgramType, XdpAction

MAPS = 10
ROUNDS = 100
PAUSE_S = 0.02
TICK_S = 0.004  # of a kernel with 250 ticks per second; a load may start at any time in it
TARGET = 1.0  # times the load with its own maps
NOISE = 0.05  # relative difference between two medians of the same work
DEVICE = "bench0"
SHARED = BPFFS / "shared"


def main() -> int:
    """Measure both ways of loading, and return the exit status."""
    if os.environ.get("BPFPIN_BENCH_INSIDE") != "1":
        return inside_namespaces()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    Path("/run/netns").mkdir()
    lab_up(DEVICE)
    spec = object_with_maps()
    pin_maps(spec)
    print(f"an XDP object with {MAPS} maps: medians of {ROUNDS} in us")
    measure(load, spec)
    with timed_attaching() as attaching_s:
        ratio = measure(deploy, spec)
    is_met = ratio <= TARGET + NOISE
    attaching_us = statistics.median(attaching_s) * 1e6
    print(f"  of each bpfpin.deploy BPF_LINK_CREATE took {attaching_us:.0f}")
    print(f"  target of bpfpin.deploy: {TARGET} x own: {'met' if is_met else 'not met'}")
    return 0 if is_met else 1


@contextmanager
def timed_attaching() -> Iterator[list[float]]:
    """Yield a list to which each BPF_LINK_CREATE of this process appends its seconds."""
    taken: list[float] = []
    real = bpf.link_create

    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        made = real(*arguments, **options)
        taken.append(time.perf_counter() - start)
        return made

    bpf.link_create = timed
    try:
        yield taken
    finally:
        bpf.link_create = real


def inside_namespaces() -> int:
    """Run this program again in its own namespaces, and return its exit status."""
    own = ["unshare", "--mount", "--net", "--propagation", "private", sys.executable, __file__]
    environment = {**os.environ, "BPFPIN_BENCH_INSIDE": "1", "BPFPIN_PRIVATE_MOUNT": "1"}
    return subprocess.run(own, env=environment, check=False).returncode


def object_with_maps() -> ObjectSpec:
    """Describe a program that passes every packet and refers to each of its counter maps."""
    shipped = bpfpin.read_object("builtin:xdp_stats")
    names = [f"counters_{number}" for number in range(MAPS)]
    body = [insn for _ in names for insn in load_imm64(1, 0)]
    uses = tuple(Reference(2 * index, ReferenceKind.MAP, name) for index, name in enumerate(names))
    code = (*body, mov_imm(0, XdpAction.XDP_PASS), exit_())
    function = FunctionSpec("pass_all", "xdp", code, uses)
    program = ProgramSpec(
        "pass_all", ProgramType.XDP, "xdp", (function,), license="GPL", hook=Hook.XDP
    )
    maps = {name: shipped.maps["xdp_stats_map"].with_changes(name=name) for name in names}
    return dataclasses.replace(shipped, maps=maps, programs={"pass_all": program})


def pin_maps(spec: ObjectSpec) -> None:
    """Create and pin maps that fit the object."""
    SHARED.mkdir()
    with bpfpin.load(spec) as loaded:
        for name, held in loaded.maps.items():
            held.pin(SHARED / name)


def measure(way: Callable[[ObjectSpec, bool], float], spec: ObjectSpec) -> float:
    """Load alternately, print the medians, and return their ratio."""
    own, shared = list[float](), list[float]()
    for _ in range(ROUNDS):
        own.append(way(spec, False))
        shared.append(way(spec, True))
    own_us, shared_us = statistics.median(own) * 1e6, statistics.median(shared) * 1e6
    ratio = shared_us / own_us
    taken = f"own {own_us:7.0f}   shared {shared_us:7.0f}"
    print(f"  bpfpin.{way.__name__:<8} {taken}   {ratio:.2f} x own")
    return ratio


def load(spec: ObjectSpec, is_shared: bool) -> float:
    """Load into this process only, and return the seconds."""

    def run() -> Closing:
        given = {name: bpfpin.Map.from_pin(SHARED / name) for name in spec.maps}
        return bpfpin.load(spec, maps=given)

    return seconds(run if is_shared else lambda: bpfpin.load(spec))


def deploy(spec: ObjectSpec, is_shared: bool) -> float:
    """Load as a new set, and return the seconds."""
    given = {name: SHARED / name for name in spec.maps} if is_shared else {}
    taken_s = seconds(lambda: bpfpin.deploy(spec, device=DEVICE, maps=given))
    bpfpin.undeploy(DEVICE)
    return taken_s


def seconds(run: Callable[[], Closing]) -> float:
    """Return the time that *run* takes after a pause, and close its result."""
    time.sleep(PAUSE_S + random.random() * TICK_S)
    start = time.perf_counter()
    made = run()
    taken_s = time.perf_counter() - start
    made.close()
    return taken_s


if __name__ == "__main__":
    sys.exit(main())
