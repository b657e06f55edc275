"""Programs for hooks: those of tests/objects/hooks.bpf.c, which count, and some that do nothing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bpfpin.hooks import Hook, HookTraits
from bpfpin.insn import exit_, mov_imm
from bpfpin.loading.collection import load
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from bpfpin.spec import FunctionSpec, ProgramSpec
from bpfpin.syscall import call
from bpfpin.uapi import AttachType, Cmd, ProgramType
from support import isolation
from support.kernel_needs import has_tcx
from support.objects import compiled

INDEXES = ("count_tc", "count_tc_new", "count_egress", "count_connect")


@dataclass(frozen=True)
class Counting:
    """The counting programs, and the map that they share."""

    tc: Program
    tc_new: Program
    egress: Program
    connect: Program
    counts: Map

    def counted(self, program: Program) -> int:
        """Return how often *program* has run."""
        return int(self.counts[INDEXES.index(program.name)])


@contextlib.contextmanager
def counting() -> Iterator[Counting]:
    """Load the counting programs."""
    with load(read_object(compiled("hooks"))) as loaded:
        tc, tc_new, egress, connect = (loaded.programs[name] for name in INDEXES)
        yield Counting(tc, tc_new, egress, connect, loaded.maps["counts"])


def idle(
    name: str = "idle",
    kind: ProgramType = ProgramType.SCHED_CLS,
    attach_type: AttachType | None = None,
) -> Program:
    """Load a program that lets everything pass."""
    answer = -1 if kind == ProgramType.SCHED_CLS else 1
    function = FunctionSpec(name, "test", (mov_imm(0, answer), exit_()))
    spec = ProgramSpec(
        name, kind, "test", (function,), license="GPL", expected_attach_type=attach_type
    )
    return Program.load(spec)


def idle_at(hook: Hook, kind: ProgramType) -> Program:
    """Load a program for a hook, with the attach type it is expected at."""
    return idle(hook.name.lower(), kind, hook.attach_type)


def refuse(monkeypatch: pytest.MonkeyPatch, code: int, *commands: Cmd) -> None:
    """Let the kernel refuse *commands* of bpf(2), as one does that does not know what is asked."""
    entered = call._enter

    def enter(number: int, command: int, *rest: object) -> int:
        if command not in commands:
            return entered(number, command, *rest)
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(call, "_enter", enter)


@contextlib.contextmanager
def registered(word: str, traits: HookTraits) -> Iterator[Hook]:
    """Add a row to the registry of hooks for a while, as one more member of `Hook` would."""
    hook = object.__new__(Hook)
    name = word.upper().replace("-", "_")
    hook._name_, hook._value_, hook.traits = name, word, traits
    Hook._member_names_.append(name)
    Hook._member_map_[name] = Hook._value2member_map_[word] = hook
    try:
        yield hook
    finally:
        Hook._member_names_.remove(name)
        del Hook._member_map_[name], Hook._value2member_map_[word]


def without_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer as a kernel that does not know an attach type (kernel/bpf/syscall.c)."""
    refuse(monkeypatch, errno.EINVAL, Cmd.LINK_CREATE, Cmd.PROG_QUERY)


def without_tcx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernel have no tcx; one that has none is left to answer for itself."""
    if has_tcx():
        without_hook(monkeypatch)


@contextlib.contextmanager
def inside(cgroup: Path) -> Iterator[None]:
    """Have this process in a cgroup of the folder's hierarchy: sockets made now belong to it."""
    (line,) = [
        one for one in Path("/proc/self/cgroup").read_text().splitlines() if one.startswith("0::")
    ]
    mount = next(one for one in cgroup.parents if not (one.parent / "cgroup.procs").exists())
    before = mount / line.removeprefix("0::/")
    _enter_cgroup(cgroup)
    try:
        yield
    finally:
        _enter_cgroup(before)


def _enter_cgroup(folder: Path) -> None:
    (folder / "cgroup.procs").write_text(str(os.getpid()))


@contextlib.contextmanager
def new_cgroup(folder: Path) -> Iterator[Path]:
    """Mount the cgroup2 hierarchy on *folder*, and make a cgroup of the test's own in it."""
    folder.mkdir()
    isolation.mount("cgroup2", folder)
    try:
        made = folder / f"bpfpin-{folder.parent.name}"
        made.mkdir()
        try:
            yield made
        finally:
            made.rmdir()
    finally:
        isolation.umount(folder)
