"""Commands of trials that are killed: nobody waits, and nothing runs, without a living reason."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bpfpin.objects.link import Link
from bpfpin.pins import transaction
from bpfpin.sets import action, confirm
from bpfpin.sets.action import show
from bpfpin.sets.load import trial as load
from support.here import Here, tree
from support.holders import running
from support.kernel_needs import need_hook
from support.lab import TestLab
from support.objects import compiled
from support.trials import killed_at, on_trial, waiting
from support.wait import wait_until

LONG = 600  # seconds in which no test ends by itself
WAIT_S = 60.0  # for a process that starts, on a machine that has much else to do
DROP = "drop_all"
THE_KERNELS = {"maps.debug", "progs.debug"}
# Where a load on trial is killed, while a process that holds its links waits already.
MOMENTS = {
    "before the manifest": (transaction.Stage, "write_manifest"),
    "before the commit": (transaction.Stage, "commit"),
    "after the commit": (transaction, "roll_forward"),
    "before the trial begins": (load, "begin_trial"),
}


@pytest.fixture
def here(bpffs: Path, lab: TestLab) -> Iterator[Here]:
    """The device of a lab; nobody waits at the end."""
    here = Here(bpffs, lab.device)
    yield here
    left = waiting(here.root)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    subprocess.run(["rm", "-rf", here.set, f"{here.set}~stage"], check=True)

    assert left == []


def command(here: Here, *words: object) -> list[object]:
    return [*words, "--pin-root", here.root]


def load_on_trial(here: Here) -> list[object]:
    return command(here, "load", compiled(DROP), "--dev", here.device, "--confirm", LONG)


def is_alone(here: Here) -> bool:
    return waiting(here.root) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_first_load_is_detached_and_removed_without_another_command(
    here: Here, lab: TestLab, moment: str
) -> None:
    killed_at(*MOMENTS[moment], load_on_trial(here))
    wait_until(lambda: is_alone(here), timeout_s=WAIT_S)
    wait_until(lambda: running(here) == 0)

    assert lab.answers()
    assert set(tree(here.root)) == THE_KERNELS


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_reload_goes_back_without_another_command(
    here: Here, lab: TestLab, moment: str
) -> None:
    old = here.load("builtin:xdp_stats")
    killed_at(*MOMENTS[moment], load_on_trial(here))
    wait_until(lambda: is_alone(here), timeout_s=WAIT_S)
    told = here.ok("status", here.device)

    assert (running(here), lab.answers()) == (old["programs"][0]["id"], True)
    assert (told["problems"], told["sets"][0]["state"]) == ([], "ok")
    assert here.load("builtin:xdp_stats")["result"] == "unchanged"


@pytest.mark.parametrize("moment", ["EntryChange", "begin_trial"], ids=["no record", "not begun"])
def test_a_killed_action_goes_back_without_another_command(here: Here, moment: str) -> None:
    here.load("builtin:xdp_stats")
    killed_at(action, moment, command(here, "action", here.device, "drop", "--confirm", LONG))
    wait_until(lambda: is_alone(here), timeout_s=WAIT_S)

    assert show(here.device, pin_root=here.root).action == "XDP_PASS"
    assert not (here.set / "confirm~").exists()


@pytest.mark.parametrize("moment", ["before the commit", "before the trial begins"])
@pytest.mark.parametrize("verb", ["load", "unload", "clean"])
def test_the_next_command_heals_when_the_process_that_waits_was_killed_as_well(
    here: Here, lab: TestLab, moment: str, verb: str
) -> None:
    killed_at(*MOMENTS[moment], load_on_trial(here), waiting_below=here.root)
    wait_until(lambda: running(here) == 0)
    status = here.ok("status")
    words = {
        "load": ("load", "builtin:xdp_stats", "--dev", here.device),
        "unload": ("unload", here.device),
        "clean": ("clean",),
    }[verb]
    ended = here.run(*words)
    here.ok("clean")

    assert all(problem["kind"] != "foreign" for problem in status["problems"]), status
    assert ended.exit_code in ({0, 4} if verb == "unload" else {0}), ended.stderr
    assert ended.json.get("left", []) == []
    assert (running(here) != 0) == (verb == "load")
    assert lab.answers()


def test_a_stage_of_a_load_on_trial_is_ours(here: Here) -> None:
    killed_at(*MOMENTS["before the commit"], load_on_trial(here), waiting_below=here.root)
    (problem,) = here.ok("status")["problems"]
    cleaned = here.ok("clean")

    assert problem["kind"] == "half-built"
    assert problem["fix"].partition(";")[0] == clean_line(here)
    assert [one["kind"] for one in cleaned["removed"]] == ["stage"]
    assert cleaned["left"] == []
    assert set(tree(here.root)) == THE_KERNELS


def test_a_trial_that_never_began_is_told_and_cannot_be_confirmed(here: Here) -> None:
    killed_at(*MOMENTS["before the trial begins"], load_on_trial(here), waiting_below=here.root)
    told = {problem["kind"]: problem for problem in here.ok("status")["problems"]}
    refused = here.run("confirm")

    assert "was not completed by the command" in told["on-trial"]["text"]
    assert told["on-trial"]["fix"] == clean_line(here)
    assert (refused.exit_code, running(here)) == (7, 0)
    assert set(tree(here.root)) == THE_KERNELS


def confirm_killed(here: Here, *, is_reload: bool = False, is_frozen: bool = True) -> None:
    """Confirm a load and be killed right before the process that waits is ended."""
    if is_reload:
        here.load("builtin:xdp_stats")
    here.load(compiled(DROP), "--confirm", LONG)
    trial = on_trial(here.root)
    killed_at(confirm, "end_waiting", command(here, "confirm", here.device))
    if is_frozen:  # or it would end by itself soon
        os.kill(trial.pid, signal.SIGSTOP)

    assert waiting(here.root) == [trial.pid]


@pytest.mark.parametrize("is_reload", [False, True], ids=["first", "reload"])
def test_status_tells_who_waits_for_nothing_and_clean_ends_it(here: Here, is_reload: bool) -> None:
    confirm_killed(here, is_reload=is_reload)
    (pid,) = waiting(here.root)
    (problem,) = here.ok("status", here.device)["problems"]
    planned = here.ok("clean", "--dry-run")["removed"]
    still = waiting(here.root)
    cleaned = here.ok("clean")

    assert (problem["kind"], problem["fix"]) == ("orphan", clean_line(here))
    assert f"process {pid} still " in problem["text"]
    assert ([one["kind"] for one in planned], still) == (["trial"], [pid])
    assert waiting(here.root) == []
    assert (len(cleaned["removed"]) == 1) == (not is_reload)
    assert here.ok("status", here.device)["problems"] == []
    assert running(here) != 0
    assert sorted(path.name for path in here.set.iterdir() if "~" in path.name) == [
        "layouts~",
        "links~",
        "manifest~",
        "objects~",
        "programs~",
    ]


def test_unload_after_a_killed_confirm_ends_the_attachment(here: Here, lab: TestLab) -> None:
    confirm_killed(here)
    unloaded = here.ok("unload", here.device)
    wait_until(lambda: running(here) == 0)

    assert (unloaded["result"], lab.answers(), waiting(here.root)) == ("unloaded", True, [])


def test_a_load_after_a_killed_confirm_ends_the_process(here: Here) -> None:
    confirm_killed(here)
    program = running(here)
    again = here.load(compiled(DROP), "--force")

    assert (again["result"], running(here)) == ("unchanged", program)
    assert waiting(here.root) == []


def test_a_second_confirm_after_a_killed_one_ends_the_process(here: Here) -> None:
    confirm_killed(here)
    refused = here.run("confirm", here.device)

    assert (refused.exit_code, waiting(here.root)) == (4, [])
    assert running(here) != 0


@pytest.mark.parametrize("is_removed", [False, True], ids=["confirmed", "removed"])
def test_the_process_ends_by_itself_when_its_trial_is_over(here: Here, is_removed: bool) -> None:
    if is_removed:
        here.load(compiled(DROP), "--confirm", LONG)
        subprocess.run(["rm", "-rf", here.set], check=True)
    else:
        confirm_killed(here, is_frozen=False)
    wait_until(lambda: is_alone(here), timeout_s=WAIT_S)
    wait_until(lambda: (running(here) == 0) == is_removed)


@pytest.mark.parametrize("verb", ["load", "unload", "clean"])
def test_a_set_on_trial_that_was_removed_by_hand_leaves_nobody(
    here: Here, lab: TestLab, verb: str
) -> None:
    here.load(compiled(DROP), "--confirm", LONG)
    os.kill(on_trial(here.root).pid, signal.SIGSTOP)
    subprocess.run(["rm", "-rf", here.set], check=True)
    still = running(here)
    words = ("load", "builtin:xdp_stats", "--dev", here.device)
    ended = here.run(*(words if verb == "load" else (verb, here.device)[: 2 - (verb == "clean")]))
    wait_until(lambda: (running(here) != 0) == (verb == "load"))

    assert still != 0
    assert ended.exit_code == (4 if verb == "unload" else 0), ended.stderr
    assert (waiting(here.root), lab.answers()) == ([], True)


def test_a_trial_of_another_set_goes_on(here: Here) -> None:
    """Only who waits for nothing is ended."""
    here.load("builtin:xdp_stats")
    here.load(compiled(DROP), "--confirm", LONG)
    trial = on_trial(here.root)
    here.ok("clean")
    alive = waiting(here.root)
    here.ok("confirm")

    assert alive == [trial.pid]


@pytest.mark.parametrize("hook", ["xdp", "tcx-ingress"])
def test_unload_detaches_a_link_that_somebody_else_holds_as_well(here: Here, hook: str) -> None:
    need_hook(hook)
    program = {"xdp": "xdp_in", "tcx-ingress": "tcx_in"}[hook]
    here.load(compiled("places_old"), "--prog", f"{program}:{hook}")
    with closing(Link.from_pin(here.set / f"links~/{hook}")) as theirs:
        unloaded = here.ok("unload", here.device)
        is_attached = theirs.info.is_attached

    assert not is_attached
    assert any("was detached" in note for note in unloaded["notes"])


def clean_line(here: Here) -> str:
    """Return what to type for a pin root that is not the usual one."""
    return f"bpfpin --pin-root {here.root} clean"
