"""Measure what a stub and a gate cost for each event: a jump, or a load and a comparison.

A program at the tracepoint of a cheap system call counts its calls: attached by itself, as with
`--no-stub`, by a stub, and with a gate. A loop makes the call; the least time of some rounds
counts, without the time of the call alone. Needs root. Prints nanoseconds an event, and has no
target.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import bpfpin
from bpfpin.apps.compile import compile_source
from bpfpin.attach.registry import AttachOptions, HookTarget, code_of
from bpfpin.attach.stubs import attach_with_stub
from bpfpin.hooks import HeldBy, Hook
from bpfpin.loading.collection import Loaded
from bpfpin.objects.gate import admit, make_gate, with_gate
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object

CALLS = 5_000  # few, so that some rounds are not disturbed
ROUNDS = 100
TARGET = HookTarget(name="syscalls/sys_enter_sched_getparam")
PROGRAM = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
__u64 calls;
SEC("tracepoint") int count(void *record) { calls++; return 0; }
char LICENSE[] SEC("license") = "GPL";
"""


def main() -> int:
    """Measure the four ways alternately and print the times."""
    ways = {
        "no program": nothing,
        "the program": alone,
        "a stub and the program": by_stub,
        "the program with a gate": gated,
    }
    times = dict.fromkeys(ways, float("inf"))
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "count.bpf.c"
        source.write_text(PROGRAM)
        compile_source(source, Path(name) / "count.o")
        with bpfpin.load(read_object(Path(name) / "count.o")) as loaded:
            for _ in range(ROUNDS):
                for way, attach in ways.items():
                    with attach(loaded):
                        times[way] = min(times[way], call_ns())
    base = times["no program"]
    print(f"a call of sched_getparam(2) from Python takes {base:.0f} ns, and so much more with")
    for way in list(ways)[1:]:
        print(f"  {way:<24} {times[way] - base:6.0f} ns")
    stub_ns = times["a stub and the program"] - times["the program"]
    print(f"  the stub costs {stub_ns:.0f} ns an event")
    gate_ns = times["the program with a gate"] - times["the program"]
    print(f"  the gate costs {gate_ns:.0f} ns an event")
    return 0


def call_ns() -> float:
    """Return the time of one call, in nanoseconds."""
    call = os.sched_getparam
    start = time.perf_counter_ns()
    for _ in range(CALLS):
        call(0)
    return (time.perf_counter_ns() - start) / CALLS


def nothing(_loaded: Loaded) -> AbstractContextManager[object]:
    """Attach nothing."""
    return nullcontext()


def alone(loaded: Loaded) -> AbstractContextManager[object]:
    """Attach the program itself."""
    new = code_of(Hook.TRACEPOINT).attach(
        loaded.programs["count"], Hook.TRACEPOINT, TARGET, AttachOptions()
    )
    assert new.link is not None
    return new.link


def by_stub(loaded: Loaded) -> AbstractContextManager[object]:
    """Attach a stub that calls the program."""
    spec = loaded.program_specs["count"]
    program = loaded.programs["count"]
    new = attach_with_stub(program, Hook.TRACEPOINT, TARGET, AttachOptions(), spec=spec)
    assert new.held_by is HeldBy.STUB
    assert new.link is not None
    assert new.slot is not None
    with ExitStack() as opened:
        opened.enter_context(new.slot)
        opened.enter_context(new.link)
        return opened.pop_all()


def gated(loaded: Loaded) -> AbstractContextManager[object]:
    """Attach the program with a gate that admits it."""
    spec = loaded.program_specs["count"]
    with make_gate() as gate:
        admit(gate, 1)
        program = Program.load(with_gate(spec, gate, 1), maps=loaded.maps)
    with program:
        new = code_of(Hook.TRACEPOINT).attach(program, Hook.TRACEPOINT, TARGET, AttachOptions())
    assert new.link is not None
    return new.link


if __name__ == "__main__":
    sys.exit(main())
