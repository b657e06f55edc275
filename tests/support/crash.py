"""The command killed, or failed, when it enters one chosen system call.

A child is forked that runs the command's `main` as it is, strace(1) is attached to it, and then it
is let go: the same calls as a process of its own makes, without the start of an interpreter.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from bpfpin.cli.main import main
from support.tools import need
from support.wait import HANG_S

# What changes something; strace(1) passes over those that a machine does not have.
CALLS = (
    *("bpf", "mkdir", "mkdirat", "rmdir", "link", "linkat", "unlink", "unlinkat"),
    *("symlink", "symlinkat", "rename", "renameat", "renameat2", "sendto", "sendmsg"),
    *("mount", "umount2", "perf_event_open"),
    *("memfd_create", "pidfd_send_signal"),  # a process that waits: marked, ended
)
NEVER_FAILS = ("pidfd_send_signal",)  # root may always end what it started
# Commands of bpf(2) that change nothing that outlives the process: they read, or make an object
# that only the process holds.
_PASSING = (
    *("BPF_OBJ_GET", "BPF_OBJ_GET_INFO_BY_FD", "BPF_PROG_QUERY", "BPF_TASK_FD_QUERY"),
    *(f"BPF_{kind}_GET_NEXT_ID" for kind in ("MAP", "PROG", "LINK", "BTF")),
    *(f"BPF_{kind}_GET_FD_BY_ID" for kind in ("MAP", "PROG", "LINK", "BTF")),
    *("BPF_MAP_LOOKUP_ELEM", "BPF_MAP_LOOKUP_BATCH", "BPF_MAP_GET_NEXT_KEY"),
    *("BPF_MAP_CREATE", "BPF_PROG_LOAD", "BPF_BTF_LOAD"),
)
_CALL = re.compile(r"^(?:(\d+) +)?(\w+)\((.*)$", re.MULTILINE)


class Fault(Enum):
    """What happens to the command at the chosen call; the value is strace's word for it."""

    KILL = "signal=SIGKILL"
    EPERM = "error=EPERM"
    ENOMEM = "error=ENOMEM"
    EINTR = "error=EINTR"


ERRORS = (Fault.EPERM, Fault.ENOMEM, Fault.EINTR)


@dataclass(frozen=True)
class Point:
    """The *number*-th call of that name, counted from 1; *arguments* are for the reader."""

    call: str
    number: int
    arguments: str = ""

    def __str__(self) -> str:
        return f"{self.call} {self.number} ({self.arguments[:70]})"

    @property
    def is_passing(self) -> bool:
        """Whether the call changes nothing that outlives the process."""
        return self.call == "bpf" and self.arguments.partition(",")[0] in _PASSING


@dataclass(frozen=True)
class Ending:
    """How a command ended, a signal as a negative number; *log* is strace's, *talk* its own."""

    exit: int
    log: str
    talk: str

    @property
    def was_hit(self) -> bool:
        """Whether the fault happened: a call was made to fail, or SIGKILL ended the process."""
        return "(INJECTED)" in self.log or self.exit == -signal.SIGKILL


@dataclass(frozen=True)
class Injection:
    """A fault at a point."""

    point: Point
    fault: Fault

    def options(self) -> list[str]:
        """Return what strace is told."""
        return ["-e", f"inject={self.point.call}:{self.fault.value}:when={self.point.number}"]


def faulted(
    words: Sequence[str], *injections: Injection, folder: Path, follow: bool = True
) -> Ending:
    """Run the command and let all *injections* happen, each at another kind of call.

    Without *follow* nothing happens to processes that it starts, and they may outlive it.
    """
    traced = ",".join(injection.point.call for injection in injections)
    options = [option for injection in injections for option in injection.options()]
    return _traced(words, ["-e", f"trace={traced}", *options], folder=folder, follow=follow)


def points(
    words: Sequence[str], *injections: Injection, folder: Path, follow: bool = True
) -> list[Point]:
    """Run the command to its end and return the calls it made, in their order."""
    options = [option for injection in injections for option in injection.options()]
    traced = ["-e", f"trace={_known_calls()}", *options]
    ending = _traced(words, traced, folder=folder, follow=follow)
    assert (ending.exit == 0) == (not injections), ending.talk
    return points_of(ending.log)


def distinct(found: Sequence[Point]) -> list[Point]:
    """Return the calls of *found* before which kills leave different states.

    A kill at a call leaves the same as one at the call before, if that one is passing.
    """
    return [
        point
        for before, point in zip([None, *found], found, strict=False)
        if before is None or not before.is_passing
    ]


def points_of(log: str) -> list[Point]:
    """Return the calls of strace's *log*; strace numbers them in each thread for itself."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    found: dict[tuple[str, int], Point] = {}
    for thread, call, arguments in _CALL.findall(log):
        seen[thread][call] += 1
        number = seen[thread][call]
        found.setdefault((call, number), Point(call, number, arguments))
    return list(found.values())


def calls_of_a_process(argv: Sequence[str], *, folder: Path) -> list[Point]:
    """Run *argv* as a process of its own under strace, and return the calls it made."""
    need("strace")
    log = folder / "strace"
    options = ["-f", "-qq", "-o", str(log), "-e", f"trace={_known_calls()}"]
    subprocess.run(["strace", *options, *argv], check=True, capture_output=True, timeout=HANG_S)
    return points_of(log.read_text())


def run_here(words: Sequence[str]) -> Ending:
    """Run the command within this process, undisturbed."""
    said = io.StringIO()
    terminate = signal.getsignal(signal.SIGTERM)  # the command takes it for itself
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main(list(words))
    finally:
        signal.signal(signal.SIGTERM, terminate)
    return Ending(int(code), "", said.getvalue())


def _known_calls() -> str:
    return ",".join(f"?{call}" for call in CALLS)


def _traced(words: Sequence[str], options: Sequence[str], *, folder: Path, follow: bool) -> Ending:
    need("strace")
    log, talk = folder / "strace", folder / "talk"
    pid, gate = _waiting(words, talk)
    threads = ["-f"] if follow else []
    command = ["strace", *threads, "-o", str(log), *options, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        attached = strace.stderr.readline()
        os.close(gate)  # now it runs
        _, status = os.waitpid(pid, 0)
        strace.communicate(timeout=HANG_S)
    assert "attached" in attached, attached
    return Ending(os.waitstatus_to_exitcode(status), log.read_text(), talk.read_text())


def _waiting(words: Sequence[str], talk: Path) -> tuple[int, int]:
    """Fork a child that runs the command once the descriptor returned with its pid is closed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(read)
        return pid, write
    code = 1
    try:
        os.close(write)
        os.read(read, 1)
        with talk.open("w") as stream:
            sys.stdout = sys.stderr = stream
            code = main(list(words))
    finally:
        os._exit(int(code))
