"""A load that could lock its user out: refused, or taken back unless it is confirmed in time."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.objects.link import Link
from support.here import Here
from support.holders import running
from support.lab import TestLab
from support.objects import compiled
from support.trials import kill, on_trial, waiting
from support.wait import wait_until

LONG = 600  # seconds in which no test ends by itself
DROP = "drop_all"


@pytest.fixture
def here(bpffs: Path, lab: TestLab) -> Iterator[Here]:
    """The device of a lab, with a default route; nothing waits at the end."""
    here = Here(bpffs, lab.device)
    subprocess.run(["ip", "route", "add", "default", "dev", lab.device], check=True)
    yield here
    left = waiting(here.root)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    subprocess.run(["rm", "-rf", str(here.set)], check=True)

    assert left == []


def is_over(here: Here) -> bool:
    return waiting(here.root) == [] and not (here.set / "confirm~").exists()


@pytest.mark.parametrize("words", [(), ("--dry-run",)], ids=["load", "dry-run"])
def test_what_would_cut_the_default_route_is_refused_with_the_way_back(
    here: Here, words: tuple[str, ...]
) -> None:
    refused = here.load_refused(2, compiled(DROP), *words)

    assert "drop_all answers XDP_DROP to a packet of an ssh session" in refused.stderr
    assert "which carries the default route" in refused.stderr
    assert "--confirm 30" in refused.json["error"]["hint"]


def test_what_lets_a_session_through_is_loaded_without_a_question(here: Here) -> None:
    assert here.load("builtin:xdp_stats")["result"] == "loaded"


def test_force_means_it(here: Here) -> None:
    assert here.load(compiled(DROP), "--force")["result"] == "loaded"


def test_a_first_load_that_nobody_confirms_leaves_nothing(here: Here, lab: TestLab) -> None:
    loaded = here.load(compiled(DROP), "--confirm", 2)
    during = lab.answers(timeout_s=0.2)
    wait_until(lambda: not here.set.exists())
    wait_until(lambda: waiting(here.root) == [])
    wait_until(lab.answers)

    assert any("this load goes back in 2 seconds" in note for note in loaded["notes"])
    assert not during


def test_a_first_load_whose_process_is_killed_is_detached_at_once(here: Here, lab: TestLab) -> None:
    """The link is pinned nowhere: even SIGKILL brings back what was before."""
    here.load(compiled(DROP), "--confirm", LONG)
    kill(on_trial(here.root))
    wait_until(lambda: running(here) == 0)
    again = here.load("builtin:xdp_stats")

    assert lab.answers()
    assert again["result"] == "loaded"


def test_a_confirmed_first_load_is_a_set_like_any(here: Here) -> None:
    loaded = here.load(compiled(DROP), "--confirm", LONG)
    here.ok("confirm", here.device)
    wait_until(lambda: is_over(here))
    with Link.from_pin(here.set / "links~/xdp") as link:
        link_id = link.id

    assert link_id == loaded["programs"][0]["link"]
    assert here.ok("unload", here.device)["result"] == "unloaded"


def test_a_reload_that_nobody_confirms_brings_the_old_set_back(here: Here, lab: TestLab) -> None:
    first = here.load("builtin:xdp_stats")
    here.load(compiled(DROP), "--confirm", 2)
    during = lab.answers(timeout_s=0.2)
    wait_until(lambda: is_over(here))
    again = here.load("builtin:xdp_stats")

    assert (during, lab.answers()) == (False, True)
    assert again["result"] == "unchanged"
    assert {held["id"] for held in again["maps"]} == {held["id"] for held in first["maps"]}
    assert again["programs"] == first["programs"]


@pytest.mark.parametrize("words", [("load", "builtin:xdp_pass"), ("unload",)])
def test_a_set_on_trial_is_changed_by_nobody_else(here: Here, words: tuple[str, ...]) -> None:
    here.load(compiled(DROP), "--confirm", LONG)
    refused = here.refused(7, *words, "--dev", here.device)
    here.ok("confirm", here.device)
    wait_until(lambda: is_over(here))

    assert f"{here.typed} confirm {here.device}" in refused.stderr


def test_status_tells_a_load_on_trial_and_not_that_its_link_is_gone(here: Here) -> None:
    here.load(compiled(DROP), "--confirm", LONG)
    told = here.ok("status", here.device)
    here.ok("confirm", here.device)
    wait_until(lambda: is_over(here))

    assert [problem["kind"] for problem in told["problems"]] == ["on-trial"]
    fix = f"bpfpin --pin-root {here.root} confirm {here.device}"
    assert told["problems"][0]["fix"] == fix
    assert told["sets"][0]["hooks"][0]["link"] == told["sets"][0]["programs"][0]["link"] > 0
