"""Sets at functions of user programs and at perf events, whose commands are killed."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from bpfpin.objects.kernel.info import links, programs
from bpfpin.objects.maps.map import Map
from support.crash import Fault, Injection, calls_of_a_process, faulted, points
from support.here import Here
from support.moments import interrupted
from support.objects import compiled_with_headers
from support.tools import need
from support.user_program import looping, probed, running
from support.wait import wait_until

ENTRY, RETURN = 0, 1
FAULTS = 1


@pytest.fixture
def here(bpffs: Path) -> Here:
    """A pin root of its own, with a set `seen` in it."""
    need("strace")
    return Here(bpffs, "seen")


def uprobes(step: int) -> list[str]:
    source = compiled_with_headers("attach/user_functions", defines=(f"STEP={step}",))
    words = [f"on_entry:uprobe={probed()}:probed_sum", f"on_return:uretprobe={probed()}:probed_sum"]
    return [str(source), *(f"--prog={word}" for word in words)]


def perf_events(step: int) -> list[str]:
    source = compiled_with_headers("attach/perf_events", defines=(f"STEP={step}",))
    return [str(source), "--prog=on_fault:perf-event=page-faults,period=1"]


def command(here: Here, words: list[str]) -> list[str]:
    options = ["--name", "seen", "--pin-root", str(here.root)]
    return [sys.executable, "-m", "bpfpin", "load", *words, *options]


def after_the_commit(here: Here, words: list[str], folder: Path) -> list[str]:
    """Return the calls of a reload that write to a slot, as `NAME:NUMBER`; it is done then."""
    calls = calls_of_a_process(command(here, words), folder=folder)
    commit = next(index for index, call in enumerate(calls) if "commit~" in call.arguments)
    return [
        f"{call.call}:{call.number}"
        for call in calls[commit:]
        if "BPF_MAP_UPDATE_ELEM" in call.arguments
    ]


def counted(here: Here, kind: int) -> int:
    with Map.from_pin(here.set / "seen") as seen:
        return int(seen[kind])


def test_a_reload_that_is_killed_between_two_functions_is_completed(
    here: Here, tmp_path: Path
) -> None:
    here.ok("load", *uprobes(1), "--name", "seen")
    slots = after_the_commit(here, uprobes(1000), tmp_path)
    here.ok("load", *uprobes(1), "--name", "seen")
    killed = interrupted(command(here, uprobes(1000)), signal.SIGKILL, slots[1])
    state = here.ok("status")["sets"][0]["state"]
    here.ok("clean")
    with running() as process:
        process.call(2)

    assert (killed.exit_code, len(slots), state) == (-signal.SIGKILL, 2, "half-built")
    assert here.ok("status")["sets"][0]["state"] == "ok"
    assert (counted(here, ENTRY), counted(here, RETURN)) == (2000, 2000)


def test_a_reload_that_is_killed_between_two_cpus_is_completed(here: Here, tmp_path: Path) -> None:
    here.ok("load", *perf_events(1), "--name", "seen")
    slots = after_the_commit(here, perf_events(1000), tmp_path)
    here.ok("load", *perf_events(1), "--name", "seen")
    killed = interrupted(command(here, perf_events(1000)), signal.SIGKILL, slots[-1])
    here.ok("clean")
    with looping("faults") as process:
        wait_until(lambda: counted(here, FAULTS) > 0)
        process.terminate()
        made = int(process.communicate()[0])

    assert killed.exit_code == -signal.SIGKILL
    assert here.ok("status")["sets"][0]["state"] == "ok"
    wait_until(lambda: counted(here, FAULTS) == 1000 * made)


@pytest.mark.parametrize("make", [uprobes, perf_events])
def test_a_first_load_that_is_killed_leaves_nothing(
    here: Here, tmp_path: Path, make: object
) -> None:
    assert callable(make)
    words = make(1)
    calls = calls_of_a_process(command(here, words), folder=tmp_path)
    last = [f"{it.call}:{it.number}" for it in calls if "BPF_OBJ_PIN" in it.arguments][-1]
    here.ok("unload", "seen")
    before = {info.id for info in links()}, {info.id for info in programs()}
    killed = interrupted(command(here, words), signal.SIGKILL, last)
    here.ok("clean")

    assert killed.exit_code == -signal.SIGKILL
    assert not here.set.exists()
    wait_until(lambda: {info.id for info in links()} <= before[0])
    wait_until(lambda: {info.id for info in programs()} <= before[1])


def test_a_load_that_cannot_fill_a_slot_fails_and_leaves_nothing(
    here: Here, tmp_path: Path
) -> None:
    words = command(here, uprobes(1))[3:]
    calls = points(words, folder=tmp_path)
    here.ok("unload", "seen")
    slot = next(call for call in calls if "BPF_MAP_UPDATE_ELEM" in call.arguments)
    ending = faulted(words, Injection(slot, Fault.ENOMEM), folder=tmp_path)

    assert (ending.exit, "ENOMEM" in ending.talk) == (1, True), ending.talk
    assert not here.set.exists()
