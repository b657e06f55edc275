"""A verdict on trial: it goes back by itself unless `bpfpin confirm` arrives in time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach.xdp import attach_xdp
from bpfpin.loading.collection import load
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.pins.trial import CONFIRM, RECORD
from bpfpin.sets.action import ActionResult, show
from bpfpin.uapi import XdpAction
from support.cli import run_cli
from support.here import Here, veth
from support.lab import TestLab
from support.moments import interrupted
from support.nobody import NOBODY
from support.trials import kill, on_trial, wait_for_the_deadline, waiting
from support.wait import wait_until

LONG = 600  # seconds in which no test ends by itself


@pytest.fixture
def here(bpffs: Path, lab: TestLab) -> Iterator[Here]:
    """The device of a lab with a default route, and a set; nothing waits at the end."""
    here = Here(bpffs, lab.device)
    here.load("builtin:xdp_stats")
    subprocess.run(["ip", "route", "add", "default", "dev", lab.device], check=True)
    yield here
    left = waiting(here.root)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    subprocess.run(["rm", "-rf", str(here.set)], check=True)

    assert left == []


def verdict(here: Here) -> str | None:
    """Return the verdict of the set."""
    return show(here.device, pin_root=here.root).action


def is_on_trial(here: Here) -> bool:
    """Whether the set holds anything of a trial."""
    return (here.set / CONFIRM).exists()


def drop(here: Here, seconds: int) -> None:
    """Put a verdict on trial."""
    document = here.ok("action", here.device, "drop", "--confirm", seconds)

    assert (document["result"], document["confirm_s"]) == ("on-trial", seconds)


def end(here: Here) -> None:
    """Let nothing be on trial any more."""
    here.ok("confirm", here.device)
    wait_until(lambda: waiting(here.root) == [])


def test_without_an_answer_the_old_verdict_is_back_at_the_deadline(
    here: Here, lab: TestLab
) -> None:
    before = lab.answers()
    drop(here, 1)
    during = lab.answers(timeout_s=0.2)
    wait_until(lambda: not is_on_trial(here))
    wait_until(lambda: waiting(here.root) == [])

    assert (before, during, lab.answers()) == (True, False, True)


def test_a_confirmed_verdict_stays_and_nobody_waits_any_more(here: Here, lab: TestLab) -> None:
    drop(here, 1)
    trial = on_trial(here.root)
    confirmed = here.ok("confirm", here.device)
    left = waiting(here.root)
    wait_for_the_deadline(trial)

    assert confirmed == {
        "schema": 1,
        "result": "confirmed",
        "set": here.device,
        "device": here.device,
        "what": "XDP_DROP",
    }
    assert (left, is_on_trial(here), verdict(here)) == ([], False, "XDP_DROP")
    assert not lab.answers(timeout_s=0.2)


def test_the_only_trial_needs_no_name(here: Here) -> None:
    drop(here, LONG)

    assert here.ok("confirm")["set"] == here.device


def test_what_is_not_on_trial_cannot_be_confirmed(here: Here) -> None:
    here.refused(4, "confirm")
    here.refused(4, "confirm", here.device)
    drop(here, LONG)
    here.refused(4, "confirm", "nowhere")
    end(here)


def test_of_several_trials_one_must_be_named(here: Here) -> None:
    with veth() as second:
        here.ok("load", "builtin:xdp_stats", "--dev", second)
        drop(here, LONG)
        here.ok("action", second, "drop", "--confirm", LONG)
        refused = here.refused(2, "confirm")
        confirmed = [here.ok("confirm", name)["set"] for name in (second, here.device)]
        here.ok("unload", second)

    listed = ", ".join(sorted([here.device, second]))
    assert f"2 changes are on trial: {listed}" in refused.stderr
    assert confirmed == [second, here.device]


@pytest.mark.parametrize("words", [("pass",), ("drop",), ("drop", "--confirm", "9")])
def test_another_change_to_what_is_on_trial_is_refused(here: Here, words: tuple[str, ...]) -> None:
    drop(here, LONG)
    refused = here.refused(7, "action", here.device, *words)
    end(here)

    assert f"{here.device} is on trial: XDP_DROP goes back in" in refused.stderr
    assert f"{here.typed} confirm {here.device}" in refused.json["error"]["hint"]


def test_the_verdict_on_trial_is_shown(here: Here) -> None:
    drop(here, LONG)
    shown = verdict(here)
    end(here)

    assert shown == "XDP_DROP"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_of_a_login_session_takes_it_back_at_once(
    here: Here, number: signal.Signals
) -> None:
    drop(here, LONG)
    os.kill(on_trial(here.root).pid, number)
    wait_until(lambda: waiting(here.root) == [])

    assert (verdict(here), is_on_trial(here)) == ("XDP_PASS", False)


def test_killed_before_the_deadline_the_next_command_after_it_takes_it_back(here: Here) -> None:
    drop(here, 1)
    trial = on_trial(here.root)
    kill(trial)
    wait_for_the_deadline(trial)
    left = verdict(here)
    changed = here.ok("action", here.device, "XDP_PASS")

    assert left == "XDP_DROP"  # nobody was there to take it back
    assert (changed["before"], changed["action"]) == ("XDP_PASS", "XDP_PASS")
    assert changed["notes"] == ["XDP_DROP was not confirmed in time: what was before is back"]
    assert not is_on_trial(here)


def test_killed_before_the_deadline_it_can_still_be_confirmed(here: Here) -> None:
    drop(here, LONG)
    kill(on_trial(here.root))
    here.ok("confirm")

    assert (verdict(here), is_on_trial(here)) == ("XDP_DROP", False)


def test_a_late_answer_is_told_and_the_old_verdict_is_back(here: Here) -> None:
    drop(here, 1)
    trial = on_trial(here.root)
    kill(trial)
    wait_for_the_deadline(trial)
    late = here.run("confirm", here.device)

    assert late.exit_code == 7
    assert "was not confirmed in time" in late.stderr
    assert (verdict(here), is_on_trial(here)) == ("XDP_PASS", False)


def test_a_verdict_that_somebody_changed_meanwhile_is_theirs(here: Here) -> None:
    drop(here, 1)
    with Map.from_pin(here.set / "action") as held:
        held[0] = int(XdpAction.XDP_TX)
    wait_until(lambda: not is_on_trial(here))
    wait_until(lambda: waiting(here.root) == [])

    assert verdict(here) == "XDP_TX"


def test_the_same_verdict_needs_no_trial(here: Here) -> None:
    here.ok("action", here.device, "drop", "--force")

    assert here.ok("action", here.device, "drop", "--confirm", 9)["result"] == "unchanged"
    assert not is_on_trial(here)


def streams_of(process: Path) -> set[str]:
    """Return what the descriptors of a process are."""
    return {os.readlink(entry) for entry in (process / "fd").iterdir()}  # noqa: PTH115


def test_the_process_holds_nothing_of_ours(here: Here) -> None:
    drop(here, LONG)
    pid = on_trial(here.root).pid
    process = Path(f"/proc/{pid}")
    only = {"/dev/null", "/memfd:bpfpin-trial (deleted)"}  # the file says whose process it is
    wait_until(lambda: streams_of(process) == only)
    place, session = os.readlink(process / "cwd"), os.getsid(pid)  # noqa: PTH115
    end(here)

    assert place == "/"
    assert session not in (os.getsid(0), pid)


def command(here: Here, seconds: int) -> list[str]:
    """Return the command line that puts a verdict on trial."""
    words = ["action", here.device, "drop", "--confirm", seconds, "--pin-root", here.root]
    return [sys.executable, "-m", "bpfpin", *map(str, words)]


def test_interrupted_while_it_is_put_on_trial_it_goes_back_as_well(here: Here) -> None:
    result = interrupted(command(here, 1), signal.SIGINT, "symlinkat:1")
    wait_until(lambda: waiting(here.root) == [])

    assert result.exit_code == 130
    assert (verdict(here), is_on_trial(here)) == ("XDP_PASS", False)


def test_killed_while_it_is_put_on_trial_nothing_is(here: Here) -> None:
    interrupted(command(here, 1), signal.SIGKILL, "symlinkat:1")
    wait_until(lambda: waiting(here.root) == [])
    here.ok("action", here.device, "drop", "--force")
    again = here.ok("action", here.device, "pass", "--confirm", LONG)
    end(here)

    assert (again["before"], verdict(here)) == ("XDP_DROP", "XDP_PASS")


def test_a_process_that_cannot_start_changes_nothing(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    here.refused(1, "action", here.device, "drop", "--confirm", 9)

    assert (verdict(here), is_on_trial(here)) == ("XDP_PASS", False)


@contextlib.contextmanager
def forged(here: Here) -> Iterator[None]:
    """Put somebody else's trial into the set: a record that claims a long time."""
    drop(here, LONG)
    text = os.readlink(here.set / CONFIRM / RECORD)  # noqa: PTH115
    end(here)
    room = here.set / CONFIRM
    room.mkdir()
    (room / RECORD).symlink_to(text)
    for path in (room / RECORD, room):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    yield
    subprocess.run(["rm", "-rf", str(room)], check=True)


def test_a_forged_trial_counts_for_nothing(here: Here) -> None:
    with forged(here):
        here.refused(4, "confirm")
        changed = here.ok("action", here.device, "XDP_PASS")

    assert (changed["result"], verdict(here)) == ("switched", "XDP_PASS")


def test_a_forged_trial_stands_in_the_way_of_a_real_one(here: Here) -> None:
    with forged(here):
        here.ok("action", here.device, "XDP_PASS")
        refused = here.refused(7, "action", here.device, "drop", "--confirm", 9)
    wait_until(lambda: waiting(here.root) == [])

    assert f"{here.set}/{CONFIRM} is not safe to change" in refused.stderr
    assert verdict(here) == "XDP_PASS"


def test_the_verdict_of_a_foreign_program_is_tried_and_confirmed_by_its_device(
    bpffs: Path,
) -> None:
    with (
        veth() as device,
        load(read_object("builtin:xdp_stats")) as made,
        attach_xdp(made.programs["xdp_stats"], device),
    ):
        here, held = Here(bpffs, device), made.maps["action"]
        tried = here.ok("action", device, "drop", "--confirm", LONG)
        refused = here.refused(7, "action", device, "pass")
        here.ok("confirm", device)
        kept = held[0]
        here.ok("action", device, "pass", "--confirm", 1)
        wait_until(lambda: held[0] == XdpAction.XDP_DROP)
        wait_until(lambda: waiting(bpffs) == [])

    assert (tried["result"], tried["set"]) == (ActionResult.ON_TRIAL.value, None)
    assert f"{device} is on trial" in refused.stderr
    assert kept == XdpAction.XDP_DROP
    assert list((bpffs / "bpfpin~").iterdir()) == []


def test_the_command_line_of_a_user_ends_before_the_deadline(here: Here) -> None:
    """As a process: it must not wait for its own child."""
    result = run_cli(*command(here, LONG)[3:])
    end(here)

    assert result.exit_code == 0
    assert f"to keep it: {here.typed} confirm {here.device}" in result.stderr
