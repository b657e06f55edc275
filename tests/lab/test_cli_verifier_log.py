"""What a user sees when the verifier refuses a program, and where its log goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.here import run_here, veth
from support.objects import compiled

REFUSED = "verifier_refused"
HOW = "the verifier's whole log: --log-file FILE, or -v"


def test_a_refusal_shows_the_line_of_c_and_a_hint_and_how_to_get_the_log() -> None:
    shown = run_here("check", compiled(REFUSED)).stderr.splitlines()

    assert "verifier_refused.bpf.c:" in shown[1]
    assert shown[1].endswith(": *counter += 1;")
    # A kernel's own explanation may follow.
    assert "  R0 invalid mem access 'map_value_or_null'" in shown[2:-2]
    assert shown[-2].startswith("hint: R0 may be NULL")
    assert shown[-1].strip() == HOW


@pytest.mark.parametrize("verb", ["check", "load"])
def test_the_whole_log_goes_to_the_file_that_is_named(verb: str, tmp_path: Path) -> None:
    log = tmp_path / "verifier.log"
    with veth() as device:
        where = ["--dev", device] if verb == "load" else []
        result = run_here(verb, compiled(REFUSED), *where, "--log-file", log)

    assert result.exit_code == 5
    assert result.stderr.endswith(f"the verifier's whole log is in {log}\n")
    assert "processed" in log.read_text()


@pytest.mark.parametrize("verb", ["check", "load"])
def test_the_whole_log_is_shown_when_more_is_asked_for(verb: str) -> None:
    with veth() as device:
        where = ["--dev", device] if verb == "load" else []
        result = run_here(verb, compiled(REFUSED), *where, "-v")

    assert "processed" in result.stderr
    assert HOW not in result.stderr


def test_a_log_file_that_cannot_be_written_does_not_hide_the_refusal(tmp_path: Path) -> None:
    result = run_here("check", compiled(REFUSED), "--log-file", tmp_path / "none" / "log")

    assert result.exit_code == 5
    assert "R0 invalid mem access" in result.stderr
    assert "could not be written" in result.stderr


def test_the_log_of_good_programs_is_shown_at_the_level_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "verifier.log"
    path = compiled("drop_all")
    shown = run_here("check", path, "--log-level", "2", "--log-file", log).stdout
    (document,) = run_here("check", path, "--log-level", "2", "-o", "json").json["objects"]
    (plain,) = run_here("check", path, "-o", "json").json["objects"]

    assert "(95) exit" in shown
    assert "(95) exit" in log.read_text()
    assert all("(95) exit" in program["log"] for program in document["programs"])
    assert all("log" not in program for program in plain["programs"])


def test_several_refusals_are_in_one_file_by_name(tmp_path: Path) -> None:
    log = tmp_path / "verifier.log"
    path = compiled("verifier_causes")
    run_here("check", path, "--log-file", log)

    assert f"# null_check of {path}\n" in log.read_text()
    assert f"# packet_bounds of {path}\n" in log.read_text()
