"""Hints that are typed as they are shown."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.pins import bpffs
from support.here import Here, run_here, veth
from support.lab import TestLab


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
            f"load it into that set: --name {here.device}; or first: {here.typed}"
            f" unload {here.device}"
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
    shown = run_here("-o", "json", *shlex.split(line))

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
    confirm = f"this load goes back in 600 seconds; to keep it: {here.typed}"
    confirm += f" confirm {here.device}"
    assert confirm in on_trial["notes"]
    assert not (here.set / "action").exists()


def test_the_hint_of_a_structure_is_json_that_is_taken(here: Here) -> None:
    here.load("builtin:xdp_stats")
    counters = here.set / "xdp_stats_map"
    refused = here.refused(2, "map", "set", counters, "2", '{"rx_packets": 1}')
    hint = refused.json["error"]["hint"]
    (json_text,) = shlex.split(hint.removeprefix("give JSON like ").partition(", rx_packets=")[0])

    assert json_text == '{"rx_packets": 0, "rx_bytes": 0}'
    here.ok("map", "set", counters, "2", json_text)


def test_map_set_names_the_verb_that_has_trials(here: Here) -> None:
    here.load("builtin:xdp_stats")
    words = ("map", "set", here.set / "action", "0", "XDP_DROP")
    on_trial = here.refused(2, *words, "--confirm", "5").json["error"]
    unknown = here.refused(2, *words, "--foo").json["error"]

    assert on_trial["message"] == "map set has no option --confirm"
    assert on_trial["hint"].startswith(f"{here.typed} action DEV|NAME ACTION --confirm SECONDS")
    assert unknown["message"] == "map set has no option --foo"


def test_a_restore_with_swapped_words_shows_them_in_order(here: Here, tmp_path: Path) -> None:
    here.load("builtin:xdp_stats")
    counters, saved = here.set / "xdp_stats_map", tmp_path / "a b.json"
    here.ok("map", "save", counters, saved)
    hint = here.refused(4, "map", "restore", counters, saved).json["error"]["hint"]

    assert hint.startswith("FILE comes first, then MAP: bpfpin map restore ")
    here.ok(*shlex.split(hint.partition("bpfpin ")[2]))


@pytest.mark.parametrize("verb", [("show",), ("dump",), ("get", "1"), ("delete", "1")])
def test_an_empty_word_is_no_map(here: Here, verb: tuple[str, ...]) -> None:
    refused = here.refused(2, "map", verb[0], "", *verb[1:])

    assert "an empty word is not a map" in refused.stderr


def test_what_does_not_exist_was_never_confirmed(here: Here) -> None:
    here.load("builtin:xdp_stats")
    nobody = here.refused(4, "confirm", "nosuch").stderr
    loaded = here.refused(4, "confirm", here.device).stderr

    assert "nothing is on trial for 'nosuch', and there is no such set or device" in nobody
    assert f"nothing is on trial for {here.device!r}; a change that was" in loaded


def test_a_map_under_another_name_is_told_by_its_own(here: Here) -> None:
    here.load("builtin:xdp_stats")
    words = ("--name", "t2", "--map", f"action={here.set / 'xdp_stats_map'}")
    refused = here.load_refused(6, "builtin:xdp_stats", *words)

    assert "hint: map xdp_stats_map (id " in refused.stderr


def test_a_log_file_that_cannot_be_made_stops_the_load_before_it_begins(
    here: Here, tmp_path: Path
) -> None:
    log = tmp_path / "none" / "log"
    refused = here.load_refused(2, "builtin:xdp_stats", "--log-file", log)

    assert f"--log-file {log}: {log.parent} is not a folder" in refused.stderr


def test_a_time_that_is_no_number_is_told_by_its_option(here: Here) -> None:
    refused = here.load_refused(2, "builtin:xdp_stats", "--lock-timeout", "nan")

    assert "'--lock-timeout': 'nan' is not a number of seconds" in refused.stderr


def test_an_empty_object_is_not_the_default_one(here: Here) -> None:
    assert "an empty OBJ" in here.load_refused(2, "").stderr


def test_an_unknown_type_is_told_in_few_words(here: Here) -> None:
    refused = here.load_refused(2, "builtin:xdp_stats", "--type", "foo")

    assert len(refused.stderr.split()) < 50


def test_doctor_knows_that_a_private_mount_is_allowed(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpffs, "private_reason", lambda _: "only here")
    seen = []
    for allowed in ("1", ""):
        monkeypatch.setenv(bpffs.PRIVATE_MOUNT, allowed)
        checks = here.ok("doctor")["checks"]
        seen += [check for check in checks if check["name"] == "mount namespace"]

    assert [check["ok"] for check in seen] == [True, False]
    assert seen[0]["text"] == "only here: pins end with it, and BPFPIN_PRIVATE_MOUNT=1 allows that"


def lines_of(text: str) -> list[list[str]]:
    """Return the words of the lines to type in a text: each ends at a semicolon or a line end."""
    parts = text.replace(";", "\n").splitlines()
    return [shlex.split(part.partition("bpfpin ")[2]) for part in parts if "bpfpin " in part]


def test_lines_have_the_pin_root_and_the_namespace_of_the_command(
    bpffs: Path, lab: TestLab
) -> None:
    """Each is typed as it is printed, alone."""
    place = ("-n", lab.lab.netns, "--pin-root", bpffs)
    peer = lab.lab.peer

    def sets() -> list[object]:
        document = run_here("status", "--pin-root", bpffs, "-o", "json").json
        return list(document["sets"])

    def typed(text: str) -> None:
        (words,) = lines_of(text)
        result = run_here(*words, "-o", "json")
        assert result.exit_code == 0, (words, result.stderr)

    loaded = run_here("load", "builtin:xdp_stats", "--dev", peer, *place)
    typed(loaded.stderr)
    other = run_here("load", "builtin:xdp_stats", "--dev", peer, "--name", "t2", *place)
    typed(other.stderr.partition("or first: ")[2])  # unloads
    assert sets() == []
    run_here("load", "builtin:xdp_stats", "--dev", peer, *place)
    trial = run_here("load", "builtin:xdp_pass", "--dev", peer, "--confirm", "600", *place)
    (kept,) = [line for line in trial.stderr.splitlines() if "to keep it" in line]
    again = run_here("unload", peer, *place, "-o", "json")
    hint = again.json["error"]["hint"]
    typed(kept)
    for words in (("stats",), ("action",), ("unload",)):
        typed(run_here(*words, *place).stderr)
    run_here("unload", peer, *place)

    assert (other.exit_code, again.exit_code) == (7, 7)
    assert lines_of(hint)[0] == lines_of(kept)[0]
    assert sets() == []
