"""Programs at functions of the kernel: attached for real, counted, reloaded and unloaded.

The kernel of most machines that run the tests has no kprobes, so they run in a guest.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bpfpin.attach.freplace import attach_freplace
from bpfpin.attach.kprobe import attach_kprobe, attach_ksyscall
from bpfpin.attach.kprobe_multi import attach_kprobe_multi
from bpfpin.attach.trace import attach_trace
from bpfpin.btf.types import Enum
from bpfpin.errors import (
    AttachError,
    HookBusyError,
    TargetNotFoundError,
    UsageError,
    WrongHookError,
)
from bpfpin.loading.collection import Loaded, load
from bpfpin.objects.kernel.btf import vmlinux_btf
from bpfpin.objects.kernel.object import wait_until_freed
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from support.crash import Fault, Injection, faulted, points
from support.here import Here, run_here
from support.hooks import inside, new_cgroup
from support.kernel_needs import KPROBES, need_kernel_functions
from support.moments import MOMENTS
from support.objects import compiled_with_headers
from support.wait import wait_until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        not KPROBES.exists(),
        reason="this kernel has no kprobes (CONFIG_KPROBE_EVENTS)",
    ),
]

ENTRY, RETURN, ARGUMENT = range(3)
CALLS = 20
STEP = 1000  # by which the next version counts, which tells who counted an event
CALL = "__x64_sys_sched_getparam"
FRAME = bytes(64)


def version(step: int = 1, *defines: str) -> Path:
    return compiled_with_headers("attach/functions", defines=(f"STEP={step}", *defines))


@dataclass(frozen=True)
class Kind:
    """A program, its hook, what it is attached to in words, and what one call counts."""

    program: str
    hook: str
    place: str
    counter: int = ENTRY
    per_call: int = 1

    def __str__(self) -> str:
        return self.hook


KINDS = (
    Kind("on_kprobe", "kprobe", f"function {CALL}"),
    Kind("on_kretprobe", "kretprobe", f"function {CALL}", RETURN),
    Kind("on_ksyscall", "ksyscall", "system call sched_getparam"),
    Kind("on_kretsyscall", "kretsyscall", "system call sched_getparam", RETURN),
    Kind("on_multi", "kprobe-multi", "functions *_sys_sched_getpara?"),
    Kind("on_return_multi", "kretprobe-multi", "functions *_sys_sched_getpara?", RETURN),
    Kind("on_session", "kprobe-session", "functions *_sys_sched_getpara?", per_call=2),
    Kind("on_tp_btf", "tp-btf", "tracepoint sys_enter"),
    Kind("on_fentry", "fentry", f"function {CALL}"),
    Kind("on_fexit", "fexit", f"function {CALL}", RETURN),
    Kind("on_fmod_ret", "fmod-ret", "function security_task_getscheduler"),
    Kind("on_lsm", "lsm", "LSM hook task_getscheduler"),
)


@pytest.fixture
def here(bpffs: Path) -> Here:
    """A pin root of its own, with a set `seen` in it."""
    return Here(bpffs, "seen")


def calls(count: int = CALLS) -> None:
    for _ in range(count):
        os.sched_getparam(0)


def counted(here: Here, kind: int = ENTRY) -> int:
    with Map.from_pin(here.set / "seen") as seen:
        return int(seen[kind])


def hook_of(here: Here) -> dict[str, object]:
    (shown,) = here.ok("status", "seen")["sets"]
    assert shown["state"] == "ok"
    (hook,) = shown["hooks"]
    return dict(hook)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_program_counts_each_call_over_a_reload(here: Here, kind: Kind) -> None:
    need_kernel_functions(kind.hook)
    words = ("--name", "seen", "--prog", kind.program)
    planned = here.ok("load", version(), *words, "--dry-run")
    loaded = here.ok("load", version(), *words)
    calls()
    first, before = counted(here, kind.counter), hook_of(here)
    listed = run_here("link", "show", f"id:{before['link']}", "-o", "json").json
    reloaded = here.ok("load", version(STEP), *words)
    calls()
    second, after = counted(here, kind.counter), hook_of(here)
    graph = here.ok("graph")
    here.ok("unload", "seen")
    programs = [program["id"] for each in (loaded, reloaded) for program in each["programs"]]

    assert first == CALLS * kind.per_call
    assert second == CALLS * kind.per_call * (1 + STEP)
    assert (planned["result"], reloaded["result"]) == ("planned", "reloaded")
    assert (before["hook"], before["device"], before["held"]) == (kind.hook, kind.place, "stub")
    assert after == before
    assert str(listed["hook"]) == shown_hook(kind.hook)
    assert any(node["name"] == kind.program for node in graph["nodes"])
    note = loaded["programs"][0].get("note", "")
    assert ("functions that match" in note) == (kind.place.startswith("functions"))
    assert not here.set.exists()
    left = wait_until_freed(lambda: loaded_of(programs), lambda ids: not ids, timeout_s=30)
    assert left == []


def shown_hook(hook: str) -> str:
    """Return what the kernel reports of a hook: it does not know sessions, nor system calls."""
    shown = hook.replace("syscall", "probe").replace("session", "multi")
    # Before Linux 6.6 it does not tell of what kind a perf event is.
    has_kinds = vmlinux_btf().find("bpf_perf_event_type", Enum) is not None
    return "perf-event" if shown in ("kprobe", "kretprobe") and not has_kinds else shown


def loaded_of(programs: list[int]) -> list[int]:
    known = {row["id"] for row in run_here("prog", "list", "-o", "json").json["programs"]}
    return [program for program in programs if program in known]


def test_a_system_call_has_its_arguments_and_its_result(here: Here) -> None:
    here.ok("load", version(), "--name", "seen", "--prog", "on_ksyscall")
    os.sched_getparam(os.getppid())
    argument = counted(here, ARGUMENT)
    here.ok("unload", "seen")
    here.ok("load", version(), "--name", "seen", "--prog", "on_kretsyscall")
    with pytest.raises(ProcessLookupError):
        os.sched_getparam(1 << 30)
    result = counted(here, ARGUMENT)

    assert argument == os.getppid()
    assert result - (1 << 64) == -errno.ESRCH


@pytest.mark.parametrize(
    ("program", "counter"),
    [
        ("on_fentry_sleepable", ENTRY),
        ("on_fexit_sleepable", RETURN),
        ("on_fmod_ret_sleepable", ENTRY),
        ("on_lsm_sleepable", ENTRY),
    ],
)
def test_a_sleepable_program_has_a_gate_and_takes_its_turn_beside_the_old_one(
    here: Here, program: str, counter: int
) -> None:
    need_kernel_functions("lsm" if "lsm" in program else "fentry")
    act = set_scheduler if "lsm" in program else call_for_tests
    words = ("--name", "seen", "--prog", program)
    loaded = here.ok("load", version(), *words)
    act()
    before = hook_of(here)
    # On trial, both are attached.
    here.ok("load", version(STEP), *words, "--confirm", "600")
    act()
    on_trial = counted(here, counter)
    here.ok("confirm", "seen")
    act()
    after = hook_of(here)

    assert "a gate in the place of a stub, since it is sleepable" in str(loaded["programs"])
    assert before["held"] == after["held"] == "gate"
    assert before["link"] != after["link"]
    assert (on_trial, counted(here, counter)) == (1 + STEP, 1 + 2 * STEP)


def test_a_program_that_overrides_returns_has_a_gate(here: Here) -> None:
    """No array of programs takes one that calls bpf_override_return()."""
    words = ("--name", "seen", "--prog", "on_override")
    first = here.run("load", version(), *words)
    if first.exit_code == 5 and "override_return" in first.stderr:
        pytest.skip("the kernel has no bpf_override_return() (CONFIG_BPF_KPROBE_OVERRIDE)")
    assert first.exit_code == 0, first.stderr
    calls(1)
    here.ok("load", version(STEP), *words)
    calls(1)
    with Map.from_pin(here.set / "seen") as seen:
        seen[ARGUMENT] = (1 << 64) - errno.EPERM
    with pytest.raises(PermissionError):
        calls(1)

    assert "since it calls bpf_override_return()" in first.stdout
    assert hook_of(here)["held"] == "gate"
    assert counted(here) == 1 + 2 * STEP


def call_for_tests() -> None:
    """Have the kernel call the functions that it calls for tests."""
    with load(read_object(version()), programs=["on_fentry"]) as loaded:
        loaded.programs["on_fentry"].test_run()


def set_scheduler() -> None:
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def bind() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("program", "act"),
    [("on_fmod_ret", calls), ("on_lsm", calls), ("on_lsm_sleepable", set_scheduler)],
)
def test_an_answer_is_that_of_the_kernel(here: Here, program: str, act: Callable[[], None]) -> None:
    """Through the stub, or behind the gate, too."""
    if "lsm" in program:
        need_kernel_functions("lsm")
    act()
    here.ok("load", version(1, f"REFUSED=-{errno.EPERM}"), "--name", "seen", "--prog", program)
    with pytest.raises(PermissionError):
        act()
    here.ok("unload", "seen")
    act()


def test_a_program_of_a_cgroup_runs_for_its_processes_and_is_updated_in_place(
    here: Here, tmp_path: Path
) -> None:
    need_kernel_functions("lsm")
    with new_cgroup(tmp_path / "cgroup") as folder:
        words = ("--name", "seen", "--cgroup", folder, "--prog", "on_lsm_cgroup")
        loaded = here.ok("load", version(), *words)
        bind()
        outside = counted(here)
        with inside(folder):
            bind()
        before = hook_of(here)
        here.ok("load", version(STEP), *words)
        with inside(folder):
            bind()
        after = hook_of(here)
        total = counted(here)
        listed = run_here("link", "show", f"id:{before['link']}", "-o", "json").json
        here.ok("unload", "seen")

    assert (outside, total) == (0, 1 + STEP)
    assert (before["hook"], before["held"]) == ("lsm-cgroup", "link")
    assert str(before["device"]).startswith("socket_bind of cgroup /")
    assert after == before
    assert listed["hook"] == "lsm-cgroup"
    assert loaded["programs"][0]["target"] == "socket_bind"


def test_an_extension_replaces_a_function_of_a_program(here: Here) -> None:
    with load(read_object(version()), programs=["replaced"]) as target:
        program = target.programs["replaced"]
        word = f"replacement:freplace=id:{program.id}:chosen"
        before = program.test_run(FRAME).return_value
        loaded = here.ok("load", version(), "--name", "seen", "--prog", word)
        replaced = program.test_run(FRAME).return_value
        hook = hook_of(here)
        again = here.run("load", version(2), "--name", "seen", "--prog", word)
        planned = here.run("load", version(2), "--name", "seen", "--prog", word, "--dry-run")
        listed = run_here("link", "show", f"id:{hook['link']}", "-o", "json").json
        kept = program.test_run(FRAME).return_value
        here.ok("unload", "seen", "--keep-maps")
        wait_until(lambda: program.test_run(FRAME).return_value == before)
        by_name = f"replacement:freplace=name:{program.name}:chosen"
        here.ok("load", version(2), "--name", "seen", "--prog", by_name)
        newer = program.test_run(FRAME).return_value
        here.ok("unload", "seen")
        wait_until(lambda: program.test_run(FRAME).return_value == before)
        program.pin(here.root / "target")
        by_pin = f"replacement:freplace={here.root / 'target'}:chosen"
        here.ok("load", version(), "--name", "seen", "--prog", by_pin)
        pinned = program.test_run(FRAME).return_value
        here.ok("unload", "seen")
        (here.root / "target").unlink()
        wrong = here.run("load", version(), "--name", "seen", "--prog", f"{word}n")

    assert (before, replaced, kept, newer, pinned) == (2, 101, 101, 102, 101)
    assert "note" not in loaded["programs"][0]
    assert (hook["held"], hook["device"]) == ("link", f"program id:{program_id(word)}:chosen")
    assert (again.exit_code, planned.exit_code) == (7, 7)
    assert f"link id {hook['link']}" in again.stderr
    assert "--keep-maps" in again.stderr
    assert listed["hook"] == "freplace"
    assert wrong.exit_code == 4
    assert "near it: chosen" in wrong.stderr


def program_id(word: str) -> str:
    return word.split(":")[2]


def test_functions_of_the_library_attach_until_the_link_is_closed() -> None:
    spec = read_object(version())
    names = ("on_kprobe", "on_ksyscall", "on_multi", "on_fentry", "replaced")
    with load(spec, programs=names) as loaded:
        programs = loaded.programs
        with (
            attach_kprobe(programs["on_kprobe"], f"{CALL}+0x0"),
            attach_kprobe(programs["on_kprobe"], CALL, cookie=7),
            attach_ksyscall(programs["on_ksyscall"], "sched_getparam", returns=True),
            attach_kprobe_multi(programs["on_multi"], CALL, cookie=7),
            attach_trace(programs["on_fentry"], "fentry"),
        ):
            with pytest.raises(HookBusyError):
                attach_trace(programs["on_fentry"], "fentry")
            calls()
            attached = total(loaded)
        calls()

        assert attached == total(loaded) == 5 * CALLS
        with attach_trace(programs["on_fentry"], "fentry", cookie=7):
            calls()
        assert total(loaded) == 6 * CALLS
        with pytest.raises(TargetNotFoundError) as missing:
            attach_kprobe(programs["on_kprobe"], "sched_getparan")
        assert "to trace" in str(missing.value)
        with pytest.raises(TargetNotFoundError) as near:
            attach_kprobe(programs["on_kprobe"], "do_unlinkt")
        assert "do_unlinkat" in near.value.hint
        with pytest.raises(TargetNotFoundError) as call:
            attach_ksyscall(programs["on_kprobe"], "sched_getparan")
        assert "sched_getparam" in call.value.hint
        with pytest.raises(TargetNotFoundError):
            attach_kprobe_multi(programs["on_multi"], "no_such_function_*")
        with pytest.raises(AttachError, match="no instruction begins"):
            attach_kprobe(programs["on_kprobe"], f"{CALL}+0x2")
        with pytest.raises(UsageError, match="has an offset"):
            attach_kprobe(programs["on_kprobe"], f"{CALL}+0x4", returns=True)
        with pytest.raises(WrongHookError, match="freplace runs ext"):
            attach_freplace(programs["replaced"], programs["replaced"], "chosen")


def total(loaded: Loaded) -> int:
    seen = loaded.maps["seen"]
    return int(seen[ENTRY]) + int(seen[RETURN])


@pytest.mark.parametrize(
    ("word", "refused"),
    [
        ("anywhere", (2, "anywhere:kprobe=do_unlinkat")),
        ("anywhere:kprobe=sched_getparan", (4, "no function")),
        ("anywhere:ksyscall=sched_getparan", (4, "sched_getparam")),
        ("on_multi:kprobe-multi=nobody_has_this*", (4, "matches")),
        ("at_entry:fentry=do_nanoslep", (4, "do_nanosleep")),
        ("anywhere:kprobe=a b", (2, "is not a function")),
        ("replacement:freplace=chosen", (2, "id:N:FUNCTION")),
        ("replacement:freplace=name:nobody:chosen", (4, "no program on this host")),
    ],
)
def test_a_dry_run_looks_for_the_target(here: Here, word: str, refused: tuple[int, str]) -> None:
    exit_code, words = refused
    result = here.refused(
        exit_code, "load", version(), "--name", "seen", "--prog", word, "--dry-run"
    )

    assert words in result.stderr


def test_a_reload_that_is_killed_is_undone_or_completed(here: Here, tmp_path: Path) -> None:
    words = ["load", version(STEP), "--name", "seen", "--prog", "on_kprobe"]
    line = [*map(str, words), "--pin-root", str(here.root)]
    here.ok("load", version(), "--name", "seen", "--prog", "on_kprobe")
    made = points(line, folder=tmp_path)
    link = [point for point in made if "BPF_LINK_CREATE" in point.arguments]
    exchange = next(point for point in made if re.search(MOMENTS["the exchange"], point.arguments))
    pin = next(point for point in made if "BPF_OBJ_PIN" in point.arguments)
    seen = []
    for point in (pin, exchange):
        here.ok("load", version(), "--name", "seen", "--prog", "on_kprobe", "--fresh", "all")
        ending = faulted(line, Injection(point, Fault.KILL), folder=tmp_path)
        assert ending.was_hit
        here.ok("clean")
        before = counted(here)
        calls()
        seen.append(counted(here) - before)
        hook_of(here)
    here.ok("unload", "seen")

    assert link == []  # the stub stays
    assert seen == [CALLS, STEP * CALLS]
