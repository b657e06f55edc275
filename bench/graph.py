"""Compare the graph of a host with `bpftool -j prog show` and `map show`.

The benchmark creates 200 programs and 500 maps in its own namespaces and bpffs: 20 pairs of devices
in two network namespaces run 120 of the programs, each program uses its own maps and one map that
ten programs share, and everything is pinned. It measures alternately the graph in this process, the
whole command, and bpftool's two commands together. Programs and maps of the host are included.
Needs root and bpftool. Exits 1 if a target is missed.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bpfpin.cli.graph.svg import summary_of
from bpfpin.host.collect import graph
from bpfpin.host.graph import Graph, NodeKind
from bpfpin.insn import exit_, load_imm64, mov_imm
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins.bpffs import BPFFS
from bpfpin.spec import FunctionSpec, MapSpec, ProgramSpec, Reference, ReferenceKind
from bpfpin.syscall import netns
from bpfpin.uapi import AttachType, MapType, ProgramType

PAIRS = 20
PROGRAMS = 200
MAPS = 500
SHARED = 20  # maps, each used by ten programs
ROUNDS = 25
TARGET = 5.0  # times bpftool
TARGET_MORE_S = 0.5  # more for the whole command

# The hooks of a device, and the types of the programs there.
HOOKS = (
    (ProgramType.XDP, AttachType.XDP),
    (ProgramType.SCHED_CLS, AttachType.TCX_INGRESS),
    (ProgramType.SCHED_CLS, AttachType.TCX_EGRESS),
)


def main() -> int:
    """Create the objects, measure all sides alternately, and return the exit status."""
    if os.environ.get("BPFPIN_BENCH_INSIDE") != "1":
        return inside_namespaces()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    Path("/run/netns").mkdir()
    with ExitStack() as held:
        make_host(held)
        found = graph()
        describe(found)
        return 0 if measure() else 1


def inside_namespaces(program: str = __file__, *words: str) -> int:
    """Run *program* again in its own namespaces, and return its exit status."""
    command = [sys.executable, program, *words]
    own = ["unshare", "--mount", "--net", "--propagation", "private", *command]
    environment = {**os.environ, "BPFPIN_BENCH_INSIDE": "1", "BPFPIN_PRIVATE_MOUNT": "1"}
    return subprocess.run(own, env=environment, check=False).returncode


def make_host(held: ExitStack, *, with_pinned_maps: bool = True) -> None:
    """Create devices, maps and programs; closing *held* removes them."""
    make_devices()
    maps = [held.enter_context(one_map(number)) for number in range(MAPS)]
    own = iter(maps[SHARED:])
    programs = []
    for number in range(PROGRAMS):
        used = [maps[number * SHARED // PROGRAMS], next(own), next(own)]
        programs.append(held.enter_context(one_program(number, used)))
    (BPFFS / "bench").mkdir()
    pinned = [*maps, *programs] if with_pinned_maps else programs
    for number, one in enumerate(pinned):
        one.pin(BPFFS / "bench" / f"{type(one).__name__.lower()}_{number}")
    attach(programs, held)


def make_devices() -> None:
    """Create the veth pairs, with one end here and one in the namespace `far`."""
    lines = ["netns add far"]
    for number in range(PAIRS):
        lines += [f"link add near{number} type veth peer far{number} netns far"]
    subprocess.run(["ip", "netns", "add", "far"], check=True)
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines[1:]), text=True, check=True)


def attach(programs: list[Program], held: ExitStack) -> None:
    """Attach three programs to each device, at the hooks that they were loaded for."""
    waiting = iter(programs)
    for namespace, end in ((None, "near"), ("far", "far")):
        with netns.enter(namespace):
            for number in range(PAIRS):
                ifindex = socket.if_nametoindex(f"{end}{number}")
                for _, attach_type in HOOKS:
                    link = Link.create(next(waiting), ifindex, attach_type)
                    held.enter_context(link)


def one_map(number: int) -> Map:
    """Create a small map."""
    return Map.create(MapSpec(f"map_{number}", MapType.ARRAY, 4, 8, 4))


def one_program(number: int, maps: list[Map]) -> Program:
    """Load a program that refers to *maps* and passes every packet."""
    kind, attach_type = HOOKS[number % len(HOOKS)]
    names = [f"m{index}" for index in range(len(maps))]
    body = [load_imm64(1, 0) for _ in maps]
    instructions = (*(insn for pair in body for insn in pair), mov_imm(0, 2), exit_())
    uses = tuple(Reference(2 * index, ReferenceKind.MAP, name) for index, name in enumerate(names))
    name = f"program_{number}"
    function = FunctionSpec(name, "xdp", instructions, uses)
    spec = ProgramSpec(
        name, kind, "xdp", (function,), license="GPL", expected_attach_type=attach_type
    )
    return Program.load(spec, maps=dict(zip(names, maps, strict=True)))


def describe(found: Graph) -> None:
    """Print the size of the graph, and check that it contains what was created."""
    counts = {kind: len(found.of_kind(kind)) for kind in NodeKind}
    print(f"the graph: {summary_of(found, found.nodes)}")
    assert counts[NodeKind.PROGRAM] >= PROGRAMS
    assert counts[NodeKind.MAP] >= MAPS
    assert counts[NodeKind.DEVICE] >= 2 * PAIRS


def measure() -> bool:
    """Measure alternately, print medians and ratios, and return whether both targets are met."""
    command = [str(Path(sys.executable).parent / "bpfpin"), "graph", "-o", "json"]
    bpftool, ours, whole = list[float](), list[float](), list[float]()
    for _ in range(ROUNDS):
        bpftool.append(seconds(peer))
        ours.append(seconds(graph))
        whole.append(seconds(lambda: subprocess.run(command, check=True, capture_output=True)))
    peer_s, ours_s, whole_s = map(statistics.median, (bpftool, ours, whole))
    print(f"medians of {ROUNDS} in ms")
    print(f"  bpftool -j prog show + map show  {peer_s * 1e3:7.1f}")
    print(f"  bpfpin.host.collect, in process  {ours_s * 1e3:7.1f}")
    print(f"  bpfpin graph -o json             {whole_s * 1e3:7.1f}")
    ratio, more_s = ours_s / peer_s, whole_s - TARGET * peer_s
    print(f"  in process {ratio:.2f} x bpftool; target {TARGET}: {words(ratio <= TARGET)}")
    print(
        f"  the command takes {max(more_s, 0):.2f} s beyond {TARGET} x bpftool;"
        f" target {TARGET_MORE_S} s: {words(more_s <= TARGET_MORE_S)}"
    )
    return ratio <= TARGET and more_s <= TARGET_MORE_S


def peer() -> None:
    """Ask bpftool for all programs, then for all maps."""
    for kind in ("prog", "map"):
        subprocess.run(["bpftool", "-j", kind, "show"], check=True, capture_output=True)


def seconds(run: Callable[[], object]) -> float:
    """Return the time that *run* takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def words(is_met: bool) -> str:
    """Return whether a target is met, as text."""
    return "met" if is_met else "not met"


if __name__ == "__main__":
    sys.exit(main())
