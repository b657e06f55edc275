"""Compare a live reload with the same system calls in C.

Reloads one XDP program and keeps its two maps, on a veth, in separate namespaces and a separate
bpffs; the objects are read beforehand. In BPF_LINK_UPDATE the kernel waits in steps of its timer
until no CPU runs the old program, so the time without BPF_LINK_UPDATE is shown too. A pause before
each reload lets the kernel finish the work of the previous one. Also measures a load of an
unchanged set, and waiting for the lock. Needs root, gcc and libbpf-dev. Exits 1 if the target is
missed.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import bpfpin
from bpfpin.apps.lab import lab_up
from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.names import LOCK_DIRECTORY
from bpfpin.syscall import bpf

SOURCE = Path(__file__).parent / "c" / "reload.c"
OBJECT = Path(bpfpin.__file__).parent / "builtin" / "xdp_stats.bpf.o"
ROUNDS = 200
UNCHANGED_ROUNDS = 10
WAIT_S = 3.0
PAUSE_S = 0.02
TICK_S = 0.004  # of a kernel with 250 ticks per second; a reload may start at any time in it
TARGET = 1.3  # times C


class Reload(NamedTuple):
    """The time of one reload, and the part of it that BPF_LINK_UPDATE took."""

    whole_ns: int
    update_ns: int

    @property
    def rest_ns(self) -> int:
        """The time without BPF_LINK_UPDATE."""
        return self.whole_ns - self.update_ns


def main() -> int:
    """Run all measurements and return the exit status."""
    if os.environ.get("BPFPIN_BENCH_INSIDE") != "1":
        return inside_namespaces()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    Path("/run/netns").mkdir()
    with tempfile.TemporaryDirectory() as directory:
        objects = two_objects(Path(directory))
        is_met = reloads(Path(directory), objects)
        unchanged(objects[0])
        waiting(objects[0])
    return 0 if is_met else 1


def inside_namespaces() -> int:
    """Run this program again in its own namespaces, and return its exit status."""
    own = ["unshare", "--mount", "--net", "--propagation", "private", sys.executable, __file__]
    environment = {**os.environ, "BPFPIN_BENCH_INSIDE": "1", "BPFPIN_PRIVATE_MOUNT": "1"}
    return subprocess.run(own, env=environment, check=False).returncode


def two_objects(directory: Path) -> list[Path]:
    """Write two objects that differ only in their last byte, and so in their SHA-256."""
    objects = [directory / "first.o", directory / "second.o"]
    for path, end in zip(objects, (b"\0", b"\1"), strict=True):
        path.write_bytes(OBJECT.read_bytes() + end)
    return objects


def reloads(directory: Path, objects: list[Path]) -> bool:
    """Reload alternately on both sides, print the medians, and return whether the target is met."""
    lab_up("ours0")
    lab_up("peer0")
    specs = [bpfpin.read_object(path) for path in objects]
    ours, peers = list[Reload](), list[Reload]()
    with ExitStack() as stack:
        peer_reload = stack.enter_context(peer(directory, objects))
        update_ns = stack.enter_context(timed_updates())
        bpfpin.deploy(specs[0], device="ours0").close()
        for number in range(1, ROUNDS + 1):
            pause()
            peers.append(peer_reload())
            pause()
            ours.append(our_reload(specs[number % 2], update_ns))
    ratio = whole_us(ours) / whole_us(peers)
    print(f"reload of one XDP program, two maps kept: medians of {ROUNDS} in us")
    report("the same calls in C", peers)
    report("bpfpin.deploy", ours)
    is_met = ratio <= TARGET
    print(f"  bpfpin takes {ratio:.2f} x C; target {TARGET}: {'met' if is_met else 'not met'}")
    print(f"  {rest_us(ours) / rest_us(peers):.2f} x C without BPF_LINK_UPDATE")
    return is_met


def pause() -> None:
    """Give the kernel time to finish earlier work."""
    time.sleep(PAUSE_S + random.random() * TICK_S)


def our_reload(spec: bpfpin.ObjectSpec, update_ns: list[int]) -> Reload:
    """Reload once in this process."""
    start = time.monotonic_ns()
    deployment = bpfpin.deploy(spec, device="ours0")
    deployment.close()
    taken = time.monotonic_ns() - start
    assert deployment.report.result.value == "reloaded", deployment.report.result
    return Reload(taken, update_ns.pop())


@contextmanager
def peer(directory: Path, objects: list[Path]) -> Iterator[Callable[[], Reload]]:
    """Start the C program and yield a function that makes it reload once."""
    program = directory / "reload"
    subprocess.run(["gcc", "-O2", "-o", program, SOURCE, "-lbpf"], check=True)
    ifindex = str(socket.if_nametoindex("peer0"))
    command = [str(program), str(BPFFS), ifindex, *map(str, objects)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        asked, answers = process.stdin, process.stdout
        assert asked
        assert answers

        def reload() -> Reload:
            asked.write("\n")
            return Reload(*map(int, answers.readline().split()))

        yield reload
        asked.close()


@contextmanager
def timed_updates() -> Iterator[list[int]]:
    """Yield a list to which each BPF_LINK_UPDATE of this process appends its nanoseconds."""
    taken: list[int] = []
    real = bpf.link_update

    def timed(*arguments: Any, **options: Any) -> None:
        start = time.monotonic_ns()
        real(*arguments, **options)
        taken.append(time.monotonic_ns() - start)

    bpf.link_update = timed
    try:
        yield taken
    finally:
        bpf.link_update = real


def whole_us(times: list[Reload]) -> float:
    """Return the median of the whole reloads."""
    return statistics.median(each.whole_ns for each in times) / 1e3


def rest_us(times: list[Reload]) -> float:
    """Return the median of the times without BPF_LINK_UPDATE."""
    return statistics.median(each.rest_ns for each in times) / 1e3


def report(name: str, times: list[Reload]) -> None:
    """Print one line: the whole time, and the time without BPF_LINK_UPDATE."""
    print(f"  {name:<20}{whole_us(times):8.0f}   without BPF_LINK_UPDATE {rest_us(times):6.0f}")


def unchanged(path: Path) -> None:
    """Print the time of a load of an unchanged set, in this process and as a command."""
    spec = bpfpin.read_object(path)
    bpfpin.deploy(spec, device="ours0").close()
    here = [seconds(lambda: bpfpin.deploy(spec, device="ours0").close()) for _ in range(ROUNDS)]
    command = str(Path(sys.executable).parent / "bpfpin")
    load = command_seconds(command, "load", str(path), "--dev", "ours0")
    version = command_seconds(command, "--version")
    print("load of what is loaded already: medians")
    print(f"  bpfpin.deploy       {statistics.median(here) * 1e6:8.0f} us")
    print(f"  bpfpin load         {load * 1e3:8.0f} ms; bpfpin --version {version * 1e3:.0f} ms")


def seconds(run: Callable[[], object]) -> float:
    """Return the time that *run* takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def command_seconds(*command: str) -> float:
    """Return the median time of some runs of a command."""
    return statistics.median(
        seconds(lambda: subprocess.run(command, check=True, capture_output=True))
        for _ in range(UNCHANGED_ROUNDS)
    )


def waiting(path: Path) -> None:
    """Print the CPU time and the elapsed time of waiting for the lock."""
    spec = bpfpin.read_object(path)
    lock = os.open(BPFFS / LOCK_DIRECTORY, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    wall_s, cpu_s = -time.monotonic(), -time.process_time()
    with suppress(bpfpin.LockTimeoutError):
        bpfpin.deploy(spec, device="ours0", lock_timeout_s=WAIT_S)
    wall_s, cpu_s = wall_s + time.monotonic(), cpu_s + time.process_time()
    os.close(lock)
    print(f"waiting for the lock: {cpu_s * 1e3:.1f} ms of CPU in {wall_s:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
