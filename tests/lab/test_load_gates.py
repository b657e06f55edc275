"""`load` of programs that no stub may call: they begin with a gate, and one generation runs."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach.tracepoints import events_folder
from bpfpin.objects.gate import admit, state_of
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.pins.manifest import Manifest
from bpfpin.syscall import perf
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import MapType
from support.here import Here
from support.objects import compiled_with_headers
from support.trials import kill, on_trial, take_back
from support.user_program import Probed, probed, running
from support.wait import wait_until

ENTRY, RETURN, MANY, SESSION, PROBE, CALL = range(6)  # of tests/objects/attach/gates.bpf.c
CALLS = 20
PARAM = "syscalls/sys_enter_sched_getparam"
WORDS = (f"on_sleepable:uprobe={probed()}:probed_sum",)
SET, PROGRAM = "seen", "on_sleepable"


@pytest.fixture
def here(bpffs: Path) -> Here:
    """A pin root of its own, with a set `seen` in it."""
    return Here(bpffs, SET)


@pytest.fixture
def process() -> Iterator[Probed]:
    with running() as process:
        yield process


def source(step: int = 1) -> Path:
    return compiled_with_headers("attach/gates", defines=(f"STEP={step}",))


def load(here: Here, *words: object, step: int = 1) -> dict[str, object]:
    at = [f"--prog={word}" if ":" in str(word) else word for word in words]
    document: dict[str, object] = here.ok("load", source(step), "--name", SET, *at)
    return document


def counted(here: Here, kind: int = ENTRY) -> int:
    with Map.from_pin(here.set / "seen") as seen:
        return int(seen[kind])


def held(here: Here) -> dict[str, tuple[str, int]]:
    (shown,) = here.ok("status")["sets"]
    assert shown["state"] == "ok"
    return {hook["program"]: (hook["held"], hook["link"]) for hook in shown["hooks"]}


def gate(here: Here, program: str = PROGRAM) -> Map:
    return Map.from_pin(here.set / "slots~" / program)


def test_a_sleepable_program_counts_once_over_a_reload(here: Here, process: Probed) -> None:
    planned = load(here, *WORDS, "--dry-run")
    nothing_yet = not here.set.exists()
    loaded = load(here, *WORDS)
    process.call(3)
    first = held(here)
    again = load(here, *WORDS)
    with gate(here) as opened:
        before = state_of(opened)
        load(here, *WORDS, "--dry-run", step=1000)
        after_dry_run = state_of(opened)
        reloaded = load(here, *WORDS, step=1000)
        after = state_of(opened)
        kind = opened.info.type
        gate_id = opened.id
    process.call(2)
    second = held(here)
    graph = here.ok("graph")
    own = [link["id"] for link in here.ok("link", "list")["links"] if link["set"] == SET]

    assert (nothing_yet, kind) == (True, MapType.ARRAY)
    assert [it["result"] for it in (loaded, again, reloaded)] == ["loaded", "unchanged", "reloaded"]
    assert counted(here) == 3 + 2 * 1000
    assert (first[PROGRAM][0], second[PROGRAM][0]) == ("gate", "gate")
    assert first[PROGRAM][1] != second[PROGRAM][1]
    assert own == [second[PROGRAM][1]]
    assert before == after_dry_run
    assert (before.admitted, after.admitted) == (1, 2)
    with gate(here) as opened:
        assert opened.id == gate_id  # the same map goes over to the next generation
    for document in (planned, loaded, reloaded):
        assert "has a gate in the place of a stub, since it is sleepable" in str(document)
    assert PROGRAM in {node["name"] for node in graph["nodes"]}


def test_unload_leaves_nothing(here: Here, process: Probed) -> None:
    load(here, *WORDS)
    with Map.from_pin(here.set / "seen") as seen:
        here.ok("unload", SET)
        wait_until(lambda: not here.set.exists())
        process.call(5)

        assert int(seen[ENTRY]) == 0


def test_maps_that_are_kept_have_no_gate(here: Here, process: Probed) -> None:
    load(here, *WORDS)
    process.call(1)
    here.ok("unload", SET, "--keep-maps")
    process.call(5)
    is_gone = not (here.set / "slots~").exists()
    load(here, *WORDS, step=1000)
    process.call(1)

    assert is_gone
    assert counted(here) == 1 + 1000


def test_beside_the_next_one_the_old_program_sees_nothing(here: Here, process: Probed) -> None:
    """During a trial both are attached for as long as it takes."""
    load(here, *WORDS)
    first = held(here)
    load(here, *WORDS, "--confirm", "600", step=1000)
    process.call(3)
    with Link.from_id(first[PROGRAM][1]) as old:
        is_attached = old.info.is_attached
    during = counted(here)
    here.ok("confirm", SET)
    process.call(1)

    assert is_attached
    assert during == 3 * 1000
    assert counted(here) == 4 * 1000
    assert held(here)[PROGRAM][0] == "gate"
    load(here, *WORDS)
    process.call(1)
    assert counted(here) == 4 * 1000 + 1


def test_a_load_on_trial_goes_back(here: Here, process: Probed) -> None:
    load(here, *WORDS)
    load(here, *WORDS, "--confirm", "600", step=1000)
    process.call(1)
    take_back(here.root)
    process.call(2)
    load(here, *WORDS, step=1_000_000)
    process.call(3)

    assert counted(here) % 1000 == 2
    assert counted(here) // 1_000_000 == 3
    assert held(here)[PROGRAM][0] == "gate"


def test_the_new_program_runs_on_if_who_waits_beside_its_trial_is_killed(
    here: Here, process: Probed
) -> None:
    """As one that replaced the old program in its link would: the load can still be confirmed."""
    load(here, *WORDS)
    load(here, *WORDS, "--confirm", "600", step=1000)
    kill(on_trial(here.root))
    process.call(1)
    before = counted(here)
    here.ok("confirm", SET)
    process.call(1)

    assert (before, counted(here)) == (1000, 2000)
    assert held(here)[PROGRAM][0] == "gate"


def test_a_gate_comes_and_goes_as_it_is_asked_for(here: Here, process: Probed) -> None:
    holders = []
    for step, words in enumerate([(), ("--no-stub",), (), ("--no-stub",)]):
        load(here, *WORDS, *words, step=10**step)
        process.call(1)
        holders.append(held(here)[PROGRAM][0])
    results = [load(here, *WORDS, *words, step=1) for words in [(), ("--no-stub",)]]
    again = load(here, *WORDS, "--no-stub", step=1)

    assert holders == ["gate", "link", "gate", "link"]
    assert counted(here) == 1111
    assert [it["result"] for it in (*results, again)] == ["reloaded", "reloaded", "unchanged"]
    assert "has a gate" not in str(again)
    assert not (here.set / "slots~").exists()


def test_a_manifest_without_gates_is_that_of_programs_without(here: Here, process: Probed) -> None:
    """A version of bpfpin that knows no gates attaches them so, and leaves such a manifest."""
    load(here, *WORDS, "--no-stub")
    before = Manifest.parse(str((here.set / "manifest~").readlink()))
    load(here, *WORDS, step=1000)
    after = Manifest.parse(str((here.set / "manifest~").readlink()))
    process.call(1)

    assert dict(before.gates) == {}
    assert dict(after.gates) == {PROGRAM: (1, 0)}
    assert counted(here) == 1000


def test_a_gate_that_was_shut_is_told_and_healed(here: Here, process: Probed) -> None:
    load(here, *WORDS)
    with gate(here) as opened:
        admit(opened, 77)
    process.call(1)
    broken = here.ok("status")
    healed = load(here, *WORDS)
    process.call(2)

    assert broken["sets"][0]["state"] == "defunct"
    assert any("is shut" in problem["text"] for problem in broken["problems"])
    assert healed["result"] == "reloaded"
    assert counted(here) == 2
    assert held(here)[PROGRAM][0] == "gate"


def test_a_gate_that_was_unpinned_is_pinned_again(here: Here, process: Probed) -> None:
    load(here, *WORDS)
    with gate(here) as opened:
        (here.set / "slots~" / PROGRAM).unlink()
        broken = here.ok("status")
        process.call(1)
        load(here, *WORDS, step=1000)
        process.call(1)
        with gate(here) as pinned:
            is_same = pinned.id == opened.id

    assert any("slots~" in problem["text"] for problem in broken["problems"])
    assert is_same
    assert counted(here) == 1 + 1000


def test_all_kinds_of_sleepable_programs_have_their_turns(here: Here, process: Probed) -> None:
    words = [
        f"on_sleepable:uprobe={probed()}:probed_sum",
        f"on_sleepable:uprobe={probed()}:probed_local",
        f"on_return:uretprobe={probed()}:probed_sum",
        f"on_probe:usdt={probed()}:probed:twice",
    ]
    words += [word for hook, word in NEWER.items() if has(here, hook, word)]
    load(here, *words)
    process.call(1)
    load(here, *words, "--confirm", "600", step=1000)
    process.call(2)
    here.ok("confirm", SET)
    process.call(3)
    of_hook = {"uprobe": (ENTRY, 2), "uretprobe": (RETURN, 1), "usdt": (PROBE, 2)}
    of_hook |= {"uprobe-multi": (MANY, 2), "uprobe-session": (SESSION, 2)}
    hooks = [word.partition(":")[2].partition("=")[0] for word in words]
    wanted = {kind: times * (1 + 5 * 1000) for kind, times in map(of_hook.__getitem__, hooks)}

    assert {kind: counted(here, kind) for kind in wanted} == wanted
    (shown,) = here.ok("status")["sets"]
    assert {hook["held"] for hook in shown["hooks"]} == {"gate"}
    # A program has one gate for all its hooks.
    pins = {path.name for path in (here.set / "slots~").iterdir()}
    assert pins == {hook["program"] for hook in shown["hooks"]}


def test_a_return_of_a_call_from_before_a_reload_is_not_counted_twice(here: Here) -> None:
    """It may be lost: some kernels decide at the entry which programs see the return."""
    words = (f"on_return:uretprobe=libc:read,pid={os.getpid()}",)
    load(here, *words)
    reading, writing = map(Descriptor, os.pipe())
    with reading, writing, Map.from_pin(here.set / "seen") as seen:
        caller = threading.Thread(target=os.read, args=(reading.fileno(), 1))
        caller.start()
        # The number of the system call, and its arguments: the file first.
        call = Path(f"/proc/self/task/{caller.native_id}/syscall")
        wait_until(lambda: call.read_text().split()[1:2] == [hex(reading.fileno())])
        load(here, *words, step=1 << 40)
        before = int(seen[RETURN])
        os.write(writing.fileno(), b"x")
        caller.join()
        counts = int(seen[RETURN]) - before

    assert counts % (1 << 40) == 0, "the old program had its turn"
    assert counts >> 40 <= 1


NEWER = {
    "uprobe-multi": f"on_many:uprobe-multi={probed()}:probed_*",
    "uprobe-session": f"on_session:uprobe-session={probed()}:probed_sum",
}


def has(here: Here, hook: str, word: str) -> bool:
    """Whether the kernel has links at many functions, or sessions; a dry run of ours tells."""
    result = here.run("load", source(), "--name", hook, f"--prog={word}", "--dry-run")
    assert result.exit_code in (0, 8), result.stderr
    return result.exit_code == 0


@pytest.mark.usefixtures("only_caller")
def test_a_program_that_might_read_beyond_the_context_has_a_gate(here: Here) -> None:
    """And one that has not its turn hides the event from nobody else."""
    words = (f"on_call:tracepoint={PARAM}",)
    loaded = load(here, *words)
    with contextlib.ExitStack() as opened:
        number = int((events_folder() / PARAM / "id").read_text())
        event = opened.enter_context(perf.open_tracepoint(number, target=PARAM))
        affinity = os.sched_getaffinity(0)
        opened.callback(os.sched_setaffinity, 0, affinity)
        os.sched_setaffinity(0, {0})  # the event is counted there
        call()
        both = counted(here, CALL), event_count(event.fileno())
        load(here, *words, "--confirm", "600", step=1000)
        call()
        during = counted(here, CALL), event_count(event.fileno())
        here.ok("confirm", SET)

    assert "it may read beyond the" in str(loaded)
    assert held(here)["on_call"][0] == "gate"
    assert both == (CALLS, CALLS)
    assert during == (CALLS + CALLS * 1000, 2 * CALLS)


def call() -> None:
    for _ in range(CALLS):
        os.sched_getparam(0)


def event_count(event: int) -> int:
    return int.from_bytes(os.read(event, 8), "little")
