"""Compare attaching a program to each kind of hook, and detaching it, with libbpf.

Both sides name the target as users do: a device, a folder of cgroups, a tracepoint, a function. The
peer is a C program (`bench/c/attach.c`); it uses libbpf's function of the kind, or where libbpf 1.1
has none, the system call alone (tcx, uprobe_multi, netfilter, sockmap, struct_ops). The benchmark
makes its own devices, cgroup and user program, in namespaces of its own. Words after the command
are the kinds to measure. Kinds that the kernel refuses are named and left out. Needs root, gcc and
libbpf-dev. Exits 1 if a target is missed.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graph import inside_namespaces
from support.peers import SOURCES, compiled, in_c

import bpfpin
from bpfpin.apps.compile import compile_source
from bpfpin.attach.cgroup_path import cgroup2_mount
from bpfpin.attach.uprobes import find_place
from bpfpin.errors import HookBusyError, NotSupportedError, SyscallError
from bpfpin.hooks import Hook
from bpfpin.loading.collection import Loaded
from bpfpin.objfile.reader import read_object

TARGET = 1.2  # times libbpf
ATTEMPTS = 3  # of both sides alternately; one more each while the target is missed
MOST_ATTEMPTS = 6
# Of an attempt: some rounds with a pause before each, as the kernel may wait for the end of the
# round before, and then as many as fit into this time.
ROUNDS, PAUSE_S, ROUNDS_S = 5, 0.05, 0.1
MOST_TRIES = 1000
DEVICE = "bench0"
TRACEPOINT = ("syscalls", "sys_enter_sched_getparam")
RAW_TRACEPOINT = "sched_process_exit"
NETFILTER = "ipv4:input:7"
PROBE = ("bench", "called")
FUNCTIONS = ("first", "second", "third")
TABLE = "struct_ops"


@dataclass(frozen=True)
class Kind:
    """A kind of hook: how bpfpin attaches its program, and the words of the target in C."""

    name: str
    attach: Callable[[Loaded], bpfpin.Link | list[bpfpin.Link]]
    words: tuple[object, ...] = ()


def main() -> int:
    """Measure the kinds, print a line for each, and return the exit status."""
    if os.environ.get("BPFPIN_BENCH_INSIDE") != "1":
        return inside_namespaces(__file__, *sys.argv[1:])
    with tempfile.TemporaryDirectory() as name, own_cgroup() as cgroup:
        folder = Path(name)
        device = ["link", "add", DEVICE, "type", "veth", "peer", f"{DEVICE}peer"]
        subprocess.run(["ip", *device], check=True)
        there = kinds(cgroup, compiled("user", folder))
        names = [kind.name for kind in there]
        if unknown := set(sys.argv[1:]) - set(names):
            print(f"no such kind: {', '.join(unknown)}; there are: {' '.join(names)}")
            return 2
        peer = compiled("attach", folder)
        make_objects(folder)
        print("attach and detach, the least time in us")
        print(f"{'kind':<15} {'C, libbpf':>10} {'bpfpin':>10}   ratio  target {TARGET}")
        wanted = sys.argv[1:] or names
        met = [compare(kind, peer, folder) for kind in there if kind.name in wanted]
    return 0 if all(met) else 1


@contextmanager
def own_cgroup() -> Iterator[Path]:
    """Make a cgroup, and remove it."""
    path = cgroup2_mount() / f"bpfpin-bench-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        path.rmdir()


def make_objects(folder: Path) -> None:
    """Compile the programs, and the table for each side: libbpf 1.1 does not know the section."""
    source = SOURCES / "attach.bpf.c"
    compile_source(source, folder / "programs.o")
    for side, section in (("bpfpin", ".struct_ops.link"), ("c", ".struct_ops")):
        compile_source(source, folder / f"table_{side}.o", defines=[f'TABLE="{section}"'])


def kinds(cgroup: Path, program: Path) -> list[Kind]:
    """Return the kinds of hooks, with targets that are there."""
    offsets = [find_place(program, function, 0).offset for function in FUNCTIONS]
    function = FUNCTIONS[0]

    def on(name: str, attach: Callable[..., Any], *words: object, after: tuple[Any, ...]) -> Kind:
        return Kind(name, lambda loaded: attach(loaded.programs[f"on_{name}"], *after), words)

    def usdt(loaded: Loaded) -> bpfpin.Link:
        probe, specs = loaded.programs["on_usdt"], loaded.maps["__bpf_usdt_specs"]
        assert isinstance(specs, bpfpin.Map)
        return bpfpin.attach_usdt(probe, program, *PROBE, specs=specs)

    def perf_event(loaded: Loaded) -> list[bpfpin.Link]:
        return bpfpin.attach_perf_event(loaded.programs["on_perf_event"], "cpu-clock", freq=1)

    def sockmap(loaded: Loaded) -> bpfpin.Link:
        link = bpfpin.attach_sockmap(loaded.programs["on_sockmap"], loaded.maps["sockets"])
        assert isinstance(link, bpfpin.Link)
        return link

    return [
        on("xdp", bpfpin.attach_xdp, DEVICE, after=(DEVICE,)),
        on("tcx", bpfpin.attach_tcx, DEVICE, after=(DEVICE, Hook.TCX_INGRESS)),
        on("cgroup", bpfpin.attach_cgroup, cgroup, after=(cgroup, Hook.CGROUP_INET_INGRESS)),
        on("tracepoint", bpfpin.attach_tracepoint, *TRACEPOINT, after=("/".join(TRACEPOINT),)),
        on(
            "raw_tracepoint",
            bpfpin.attach_raw_tracepoint,
            RAW_TRACEPOINT,
            after=(RAW_TRACEPOINT,),
        ),
        on("uprobe", bpfpin.attach_uprobe, program, function, after=(program, function)),
        on(
            "uprobe_multi",
            bpfpin.attach_uprobe_multi,
            program,
            ",".join(map(str, offsets)),
            after=(program, offsets),
        ),
        Kind("usdt", usdt, (program, PROBE[1])),
        Kind("perf_event", perf_event),
        on("sk_lookup", bpfpin.attach_netns, after=(Hook.SK_LOOKUP,)),
        on("netfilter", bpfpin.attach_netfilter, after=(NETFILTER,)),
        Kind("sockmap", sockmap),
        on("iter", bpfpin.attach_iter, after=()),
        Kind(TABLE, lambda loaded: bpfpin.attach_struct_ops(loaded.maps["table"])),
    ]


def compare(kind: Kind, peer: Path, folder: Path) -> bool:
    """Measure both sides alternately, print a line, and return whether the target is met."""
    is_table = kind.name == TABLE
    object_c = folder / ("table_c.o" if is_table else "programs.o")
    spec = read_object(folder / ("table_bpfpin.o" if is_table else "programs.o"))
    try:
        loaded = bpfpin.load(spec, programs=None if is_table else [f"on_{kind.name}"])
    except SyscallError as error:
        print(f"{kind.name:<15} the kernel refuses the program: {error.message}", flush=True)
        return True
    with loaded:
        try:
            least_us(kind, loaded)
        except NotSupportedError as error:
            print(f"{kind.name:<15} {error.message}", flush=True)
            return True
        c_us = ours_us = ratio = float("inf")
        for attempt in range(MOST_ATTEMPTS):
            if attempt >= ATTEMPTS and ratio <= TARGET:
                break
            words = (object_c, kind.name, ROUNDS, PAUSE_S, ROUNDS_S, *kind.words)
            c_us = min(c_us, in_c(peer, *words) / 1e3)
            ours_us = min(ours_us, least_us(kind, loaded))
            ratio = ours_us / c_us
    is_met = ratio <= TARGET
    print(f"{kind.name:<15} {c_us:10.1f} {ours_us:10.1f} {ratio:7.2f}", end="  ")
    print("met" if is_met else f"missed: {ours_us - TARGET * c_us:.1f} us too much", flush=True)
    return is_met


def least_us(kind: Kind, loaded: Loaded) -> float:
    """Return the least time of attaching and detaching."""
    gc.collect()
    times = list[float]()
    end, busy = 0.0, 0
    while len(times) < ROUNDS or time.perf_counter() < end:
        if len(times) < ROUNDS:
            time.sleep(PAUSE_S)
            end = time.perf_counter() + ROUNDS_S
        start = time.perf_counter()
        try:
            links = kind.attach(loaded)
        except HookBusyError:
            # Somebody who lists the links of the host still holds the last one.
            busy += 1
            if busy > MOST_TRIES:
                raise
            time.sleep(0.001)
            continue
        for link in links if isinstance(links, list) else [links]:
            link.close()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


if __name__ == "__main__":
    sys.exit(main())
