"""Compare the list of a host's programs with `bpftool -j prog show`.

The benchmark creates 200 programs in its own namespaces and bpffs, on the devices of
`bench/graph.py`: 120 of them are attached, each uses three maps, and all programs are pinned. It
measures alternately the list in this process, with all attachments and pins, and the whole command
of bpftool, which has neither; for comparison also `bpftool -f`, which has the pins. Programs of the
host are included. Both sides are measured as CPU time, which other work on the machine hardly
changes. Needs root and bpftool. Exits 1 if the target is missed.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from graph import PROGRAMS, inside_namespaces, make_host, words

from bpfpin.host.programs import list_programs
from bpfpin.pins.bpffs import BPFFS

ROUNDS = 25
TARGET = 3.0  # times bpftool


def main() -> int:
    """Create the objects, measure both sides alternately, and return the exit status."""
    if os.environ.get("BPFPIN_BENCH_INSIDE") != "1":
        return inside_namespaces(__file__)
    subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    Path("/run/netns").mkdir()
    with ExitStack() as held:
        make_host(held, with_pinned_maps=False)
        rows = list_programs(BPFFS).programs
        attached = sum(bool(row.attachments) for row in rows)
        print(
            f"{len(rows)} programs, {attached} attached, {sum(bool(r.pins) for r in rows)} pinned"
        )
        assert len(rows) >= PROGRAMS
        return 0 if measure() else 1


def measure() -> bool:
    """Measure alternately, print the times and the ratio, and return whether the target is met."""
    command = [str(Path(sys.executable).parent / "bpfpin"), "prog", "list", "-o", "json"]
    bpftool, pinned = list[float](), list[float]()
    ours, whole = list[float](), list[float]()
    for _ in range(ROUNDS):
        bpftool.append(seconds(peer))
        ours.append(seconds(lambda: list_programs(BPFFS)))
        whole.append(seconds(lambda: subprocess.run(command, check=True, capture_output=True)))
        pinned.append(seconds(lambda: peer("-f")))
    # The minimum: other work on the machine only adds to a time.
    peer_s, pinned_s, ours_s, whole_s = map(min, (bpftool, pinned, ours, whole))
    print(f"CPU time, minimum of {ROUNDS} in ms")
    print(f"  bpftool -j prog show             {peer_s * 1e3:7.1f}")
    print(f"  bpftool -j -f prog show          {pinned_s * 1e3:7.1f}")
    print(f"  bpfpin.host.programs, in process {ours_s * 1e3:7.1f}")
    print(f"  bpfpin prog list -o json         {whole_s * 1e3:7.1f}")
    ratio = ours_s / peer_s
    print(f"  in process {ratio:.2f} x bpftool; target {TARGET}: {words(ratio <= TARGET)}")
    return ratio <= TARGET


def seconds(run: Callable[[], object]) -> float:
    """Return the CPU time that *run* takes, in this process and in those that it starts."""
    start = _cpu_time_s()
    run()
    return _cpu_time_s() - start


def _cpu_time_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peer(*options: str) -> None:
    """Ask bpftool for all programs."""
    subprocess.run(["bpftool", "-j", *options, "prog", "show"], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
