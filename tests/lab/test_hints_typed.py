"""Hints that are typed as they are shown."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.here import Here, run_here, veth


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


def test_a_hook_of_another_set_is_told_with_lines_that_work(here: Here) -> None:
    here.load("builtin:xdp_stats")
    for more in ((), ("--dry-run",), ("--take-over",)):
        refused = here.load_refused(7, "builtin:xdp_stats", "--name", "t2", *more)
        hint = refused.json["error"]["hint"]

        assert f"another set of yours, {here.device}: program id" in refused.stderr
        assert hint == (
            f"load it into that set: --name {here.device}; or first: bpfpin unload {here.device}"
        )
    assert here.load("builtin:xdp_stats", "--name", here.device)["result"] == "unchanged"
    here.ok(*shlex.split(hint.rpartition("bpfpin ")[2]))
    assert here.load("builtin:xdp_stats", "--name", "t2")["result"] == "loaded"


def test_a_set_without_a_manifest_is_unloaded_by_the_line_of_status(here: Here) -> None:
    here.load("builtin:xdp_stats")
    (here.set / "manifest~").unlink()
    (problem,) = here.ok("status")["problems"]
    refused = here.refused(7, "unload", here.device)
    of_load = here.load_refused(7, "builtin:xdp_stats").json["error"]["hint"]

    assert refused.json["error"]["hint"] == problem["fix"]
    assert problem["fix"] == f"detach and unpin the rest: rm -r {here.set}"
    assert "belongs to" not in refused.stderr  # to the caller, who knows it
    assert of_load == f"{problem['fix']}; or choose another name for the set: --name NAME"


@pytest.mark.parametrize("name", ["-x", "a b", "*", "$(id)"])
def test_the_line_after_a_load_works_with_any_name(here: Here, name: str) -> None:
    words = ("--dev", here.device, f"--name={name}", "--pin-root", here.root)
    loaded = run_here("load", "builtin:xdp_stats", *words)
    line = loaded.stderr.partition("see: bpfpin ")[2]
    shown = run_here("--pin-root", here.root, "-o", "json", *shlex.split(line))

    assert (loaded.exit_code, shown.exit_code) == (0, 0)
    assert "XDP_PASS" in {row["action"] for row in shown.json["rows"]}


@pytest.mark.parametrize("name", ["id:5", "name:x", "../t", "./t", "/t", ".", ".."])
def test_a_name_that_means_something_else_is_refused(here: Here, name: str) -> None:
    refused = here.load_refused(2, "builtin:xdp_stats", "--name", name)

    assert f"a set cannot be named {name!r}: other commands take that for a" in refused.stderr


def test_notes_say_when_a_map_is_unpinned(here: Here) -> None:
    here.load("builtin:xdp_stats")
    why = "the new object does not define it"
    planned = here.load("builtin:xdp_pass", "--dry-run")
    on_trial = here.load("builtin:xdp_pass", "--confirm", 600, "--force")
    here.ok("confirm", here.device)

    assert f"map action would be unpinned: {why}" in planned["notes"]
    assert f"map action will be unpinned by the confirmation: {why}" in on_trial["notes"]
    confirm = f"this load goes back in 600 seconds; to keep it: bpfpin confirm {here.device}"
    assert confirm in on_trial["notes"]
    assert not (here.set / "action").exists()
