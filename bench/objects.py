"""Compare reading and loading large objects with C and libbpf.

The first object has 1,000 programs with 5 map relocations each, the second has 5,000 relocations in
one program, the third has 1,000 programs that all call one function. The kernel verifies them
quickly, and its time is the same for both sides. Needs root, clang, gcc and libbpf-dev. Prints
medians, ratios, and whether the target is met.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bpfpin.loading.collection import load
from bpfpin.objfile.reader import read_object

PEER = Path(__file__).parent / "c" / "load.c"
PROGRAMS = 1000
RELOCATIONS = 5000
MAPS = 20
ROUNDS = 7
TARGET = 3.0  # times libbpf

START = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define MAP(name) struct { \\
	__uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); \\
	__type(key, __u32); __type(value, __u64); } name SEC(".maps")
#define REFER(map) asm volatile("r1 = %0 ll" ::"i"(&map) : "r1")
char _license[] SEC("license") = "GPL";
static __attribute__((noinline)) int length(struct xdp_md *context)
{
	return context->data_end - context->data;
}
"""

Times = list[tuple[float, float]]  # milliseconds of reading and of loading


def main() -> None:
    """Measure each object on both sides alternately."""
    each = RELOCATIONS // PROGRAMS
    sources = {
        f"{PROGRAMS} programs with {each} relocations each": source(PROGRAMS, each),
        f"1 program with {RELOCATIONS} relocations": source(1, RELOCATIONS),
        f"{PROGRAMS} programs that call one function": source(PROGRAMS, 0, "length(context)"),
    }
    with tempfile.TemporaryDirectory() as directory:
        peer = Path(directory) / "load"
        subprocess.run(["gcc", "-O2", "-o", peer, PEER, "-lbpf"], check=True)
        for number, (title, text) in enumerate(sources.items()):
            compare(title, peer, compiled(Path(directory) / f"{number}.bpf.c", text))


def source(programs: int, relocations: int, result: str = "XDP_PASS") -> str:
    """Return C source with this many programs and map relocations per program."""
    maps = [f"MAP(map_{number});" for number in range(MAPS)]
    return "\n".join([START, *maps, *functions(programs, relocations, result)])


def functions(programs: int, relocations: int, result: str) -> Iterator[str]:
    """Yield the programs, which refer to the maps in turn."""
    for number in range(programs):
        lines = [f"\tREFER(map_{(number + at) % MAPS});" for at in range(relocations)]
        head = f'SEC("xdp") int program_{number}(struct xdp_md *context)\n{{'
        yield "\n".join([head, *lines, f"\treturn {result};", "}"])


def compiled(path: Path, text: str) -> Path:
    """Compile the source and return the object's path."""
    path.write_text(text)
    made = path.with_suffix(".o")
    headers = subprocess.run(
        ["gcc", "-print-multiarch"], capture_output=True, text=True, check=True
    )
    include = f"-I/usr/include/{headers.stdout.strip()}"
    command = ["clang", "-target", "bpfel", "-O2", "-g", include, "-c", str(path), "-o", str(made)]
    subprocess.run(command, check=True)
    return made


def compare(title: str, peer: Path, path: Path) -> None:
    """Print the times of libbpf and of bpfpin for the object."""
    theirs, ours = Times(), Times()
    for _ in range(ROUNDS):
        theirs += peer_times(peer, path)
        ours.append(one_load(path))
    print(f"{title}: read + load, medians of {ROUNDS} in ms")
    report("C, libbpf", theirs)
    report("bpfpin", ours)
    ratio = total(ours) / total(theirs)
    is_met = "met" if ratio <= TARGET else "not met"
    print(f"  bpfpin takes {ratio:.2f} x C; target: {TARGET:g} x C: {is_met}")


def peer_times(peer: Path, path: Path) -> Times:
    """Return the times in which a process of the C program opens and loads the object."""
    done = subprocess.run([peer, path, "1"], check=True, capture_output=True, text=True)
    reading, loading = map(int, done.stdout.split())
    return [(reading / 1e6, loading / 1e6)]


def one_load(path: Path) -> tuple[float, float]:
    """Read and load the object once."""
    start = time.monotonic_ns()
    spec = read_object(path)
    was_read = time.monotonic_ns()
    loaded = load(spec)
    end = time.monotonic_ns()
    loaded.close()
    return (was_read - start) / 1e6, (end - was_read) / 1e6


def total(times: Times) -> float:
    """Return the median of reading and loading together."""
    return statistics.median(map(sum, times))


def report(name: str, times: Times) -> None:
    """Print one line: both parts and the total."""
    reading, loading = (statistics.median(part) for part in zip(*times, strict=True))
    print(f"  {name:<12}{total(times):8.1f}   read {reading:7.1f}   load {loading:7.1f}")


if __name__ == "__main__":
    main()
