"""Compare CO-RE relocations with C and libbpf: 5,000 relocations against the running kernel.

bpfpin is measured cold (it reads the kernel's types first, as in the first load of a process) and
warm; libbpf reads the types at every load. A small object shows the extra cost of the first load.
Needs root, clang, gcc and libbpf-dev. Prints medians, ratios, and whether the target is met.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bpfpin.loading.collection import load
from bpfpin.objects.kernel.btf import vmlinux_btf
from bpfpin.objfile.reader import read_object

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))

from support.core_sources import source  # noqa: E402 - found by the line above

PEER = ROOT / "bench" / "c" / "load.c"
MANY = 250  # structures, which give some 5,000 relocations
FEW = 2
ROUNDS = 9
TARGET = 4.0  # times libbpf
TARGET_MS = 150.0  # for bpfpin, if that is less


def main() -> None:
    """Measure both objects alternately and print the medians."""
    with tempfile.TemporaryDirectory() as directory:
        peer = Path(directory) / "load"
        subprocess.run(["gcc", "-O2", "-o", peer, PEER, "-lbpf"], check=True)
        for structures in (FEW, MANY):
            path = made(Path(directory), structures)
            spec = read_object(path)
            count = sum(len(f.relocations) for p in spec.programs.values() for f in p.functions)
            compare(peer, path, count)


def made(directory: Path, structures: int) -> Path:
    """Return an object with relocations to fields of this many kernel structures."""
    text = directory / f"{structures}.bpf.c"
    text.write_text(source(vmlinux_btf(), structures=structures, every=5))
    path = text.with_suffix(".o")
    subprocess.run(["clang", "-target", "bpfel", "-O2", "-g", "-c", text, "-o", path], check=True)
    return path


def compare(peer: Path, path: Path, count: int) -> None:
    """Print the times of libbpf, and of bpfpin cold and warm, for the object."""
    theirs, cold, warm = [], [], []
    for _ in range(ROUNDS):
        theirs.append(peer_ms(peer, path))
        vmlinux_btf.cache_clear()
        cold.append(timed_ms(lambda: load(read_object(path)).close()))
        warm.append(timed_ms(lambda: load(read_object(path)).close()))
    libbpf, first, again = (statistics.median(each) for each in (theirs, cold, warm))
    print(f"read + load with {count} CO-RE relocations, medians of {ROUNDS} in ms")
    print(f"  C, libbpf                   {libbpf:7.1f}")
    print(f"  bpfpin, kernel's types read {first:7.1f}   {first / libbpf:.2f} x C")
    print(f"  bpfpin, types known         {again:7.1f}   {again / libbpf:.2f} x C")
    is_met = first <= max(TARGET * libbpf, TARGET_MS)
    print(f"  target: {TARGET:g} x C or {TARGET_MS:g} ms: {'met' if is_met else 'not met'}")


def peer_ms(peer: Path, path: Path) -> float:
    """Return the time in which one process of the C program opens and loads the object."""
    done = subprocess.run([peer, path, "1"], check=True, capture_output=True, text=True)
    return sum(map(int, done.stdout.split())) / 1e6


def timed_ms(work: Callable[[], None]) -> float:
    """Return the time that *work* takes."""
    start = time.monotonic_ns()
    work()
    return (time.monotonic_ns() - start) / 1e6


if __name__ == "__main__":
    main()
