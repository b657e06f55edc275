"""Compare finding a function in a program of 50 MB, and attaching to it, with libbpf and nm.

The program is made by the assembler: 300,000 functions with names as long as those of C++. Finding
one is compared with `nm` and `readelf -s`, which print all; attaching and detaching with libbpf,
there and in a small program. Needs root, gcc, binutils and libbpf-dev. Exits 1 if a target is
missed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from support.peers import SOURCES, compiled, in_c

import bpfpin
from bpfpin.apps.compile import compile_source
from bpfpin.attach.uprobes import find_place
from bpfpin.objfile.reader import read_object

FUNCTIONS = 300_000
CODE_BYTES = 96  # of each function
NAMED = "_ZN7library9namespace14FunctionNumber{}EPKcRKSt6vectorIiSaIiEE"
ROUNDS = 15
FIND_TARGET_MS = 100.0
ATTACH_TARGET = 1.2  # times libbpf


def main() -> int:
    """Measure all sides and return the exit status."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        big, small = make_program(folder, FUNCTIONS), make_program(folder, 10)
        wanted = NAMED.format(FUNCTIONS // 2)
        print(f"a program of {big.stat().st_size / 1e6:.0f} MB with {FUNCTIONS:,} functions, in ms")
        ours = least_ms(lambda: find_place(big, wanted, 0))
        report("bpfpin, one function", ours)
        report("nm, all", least_ms(partial(subprocess.check_output, ["nm", big]), rounds=3))
        command = ["readelf", "-sW", big]
        report("readelf, all", least_ms(partial(subprocess.check_output, command), rounds=3))
        is_fast = ours <= FIND_TARGET_MS
        print(f"  target {FIND_TARGET_MS:.0f} ms: {'met' if is_fast else 'missed'}")
        compile_source(SOURCES / "attach.bpf.c", folder / "probe.o")
        peer = compiled("attach", folder)
        is_close = True
        for program, function in ((small, NAMED.format(5)), (big, wanted)):
            is_close &= compare(peer, folder / "probe.o", program, function)
    return 0 if is_fast and is_close else 1


def make_program(folder: Path, functions: int) -> Path:
    """Return a program with so many functions."""
    source, target = folder / f"{functions}.s", folder / f"program{functions}"
    with source.open("w") as text:
        text.write(".section .note.GNU-stack\n.text\n.globl main\n.type main,@function\n")
        text.write("main:\n.zero 4\n.size main, 4\n")
        for number in range(functions):
            name = NAMED.format(number)
            text.write(
                f".globl {name}\n.type {name},@function\n{name}:\n.fill {CODE_BYTES},1,0x90\n"
            )
            text.write(f".size {name}, {CODE_BYTES}\n")
    subprocess.run(["gcc", "-o", target, source], check=True)
    source.unlink()
    return target


def least_ms(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the least time of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def report(what: str, time_ms: float) -> None:
    """Print one line."""
    print(f"  {what:<36} {time_ms:9.2f}")


def compare(peer: Path, source: Path, program: Path, function: str) -> bool:
    """Attach and detach on both sides alternately; return whether the target is met."""
    theirs, ours = [], []
    words = (source, "uprobe", ROUNDS, 0, 0, program, function)
    with bpfpin.load(read_object(source), programs=["on_uprobe"]) as loaded:
        probe = loaded.programs["on_uprobe"]

        def attach() -> None:
            bpfpin.attach_uprobe(probe, program, function).close()

        for _ in range(3):
            theirs.append(in_c(peer, *words) / 1e6)
            ours.append(least_ms(attach))
    ratio = min(ours) / min(theirs)
    is_met = ratio <= ATTACH_TARGET
    print(
        f"attach by name and detach, in a program of {program.stat().st_size / 1e6:.1f} MB, in ms"
    )
    report("C, libbpf", min(theirs))
    report("bpfpin", min(ours))
    print(f"  {ratio:.2f} x C; target {ATTACH_TARGET}: {'met' if is_met else 'missed'}")
    return is_met


if __name__ == "__main__":
    sys.exit(main())
