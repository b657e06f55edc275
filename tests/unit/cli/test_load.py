"""`bpfpin load`: what is refused before anything is done, and what is said of what was done."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.cli import load
from bpfpin.cli.context import Context
from bpfpin.cli.options import SIZE
from bpfpin.cli.output import Output
from bpfpin.pins.plan import Decision
from bpfpin.sets.reports import HookReport, LoadReport, LoadResult, MapReport, ProgramReport
from support.cli import run_cli

FOLDER = Path("/sys/fs/bpf/lab0")


def report(result: LoadResult = LoadResult.LOADED, *, note: str = "") -> LoadReport:
    programs = (
        ProgramReport("count", 7, "xdp", "lab0", "native", 3, note),
        ProgramReport("tail", 8),
    )
    maps = (MapReport("stats", 5, FOLDER / "stats", Decision.CREATED, "it is new"),)
    hooks = (HookReport("xdp", "lab0", "update", "count", 3, 6),)
    return LoadReport(result, "lab0", FOLDER, 1, programs, maps, hooks, ("from the object",))


def said(capsys: pytest.CaptureFixture[str], result: LoadReport, *, is_verbose: bool) -> list[str]:
    load._say(Context(Output(is_verbose=is_verbose)), result)
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (LoadResult.LOADED, "loaded count on lab0 (native); see: bpfpin status lab0"),
        (
            LoadResult.RELOADED,
            "reloaded count on lab0 (native), program id 6 -> 7; see: bpfpin status lab0",
        ),
        (
            LoadResult.UNCHANGED,
            "unchanged: count is already loaded on lab0 (native); see: bpfpin status lab0",
        ),
        (
            LoadResult.PLANNED,
            "planned: count was verified and would be loaded on lab0 (native)",
        ),
    ],
)
def test_what_happened_is_one_sentence_with_the_next_step(
    capsys: pytest.CaptureFixture[str], result: LoadResult, sentence: str
) -> None:
    """A program that only tail calls reach is at no hook and has no sentence."""
    assert said(capsys, report(result), is_verbose=False)[:2] == ["note: from the object", sentence]


PLAN = [
    "map stats (id 5) created: /sys/fs/bpf/lab0/stats (it is new)",
    "hook xdp of lab0: update, link id 3, program id 6 -> count",
]


def test_notes_and_maps_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, report(note="generic mode, for…"), is_verbose=True)

    assert lines[:2] == ["note: from the object", "note: generic mode, for…"]
    assert lines[-2:] == PLAN


def test_a_note_about_one_of_several_sets_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    load._say(Context(Output()), report(note="generic mode, for…"), names_set=True)
    lines = capsys.readouterr().err.splitlines()

    assert lines[:2] == ["note: lab0: from the object", "note: lab0: generic mode, for…"]


def test_a_plan_is_told_in_full_and_what_was_done_only_if_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said(capsys, report(LoadResult.PLANNED), is_verbose=False)[-2:] == PLAN
    assert len(said(capsys, report(), is_verbose=False)) == 2


def test_one_set_is_the_document_and_several_are_a_list() -> None:
    one, other = report(), report(LoadResult.UNCHANGED)

    assert load._document([one]) == one.to_json()
    assert load._document([one, one])["result"] == "loaded"
    assert load._document([other, other])["result"] == "unchanged"
    assert load._document([one, other]) == {
        "result": "loaded",
        "sets": [one.to_json(), other.to_json()],
    }


def test_a_load_without_a_target_is_a_usage_error() -> None:
    result = run_cli("load")

    assert result.exit_code == 2
    assert "no target: give --dev or --cgroup" in result.stderr


@pytest.mark.parametrize("words", [("--name", "mine"), ("--cgroup", "/")])
def test_one_name_or_cgroup_for_several_devices_is_a_usage_error(words: tuple[str, str]) -> None:
    result = run_cli("load", "--dev", "lo", "--dev", "lo2", *words)

    assert result.exit_code in (2, 4)


def test_all_devices_are_looked_up_before_the_object_is_read() -> None:
    result = run_cli("load", "nosuchfile", "--dev", "lo", "--dev", "nosuchdev")

    assert result.exit_code == 4
    assert "nosuchdev" in result.stderr


@pytest.mark.parametrize(
    ("text", "size"), [("64", 64), ("64K", 64 << 10), ("256M", 256 << 20), ("1G", 1 << 30)]
)
def test_sizes_are_typed_with_a_letter(text: str, size: int) -> None:
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5M", "12X"])
def test_text_that_is_not_a_size_is_a_usage_error(text: str) -> None:
    result = run_cli("load", "--dev", "lo", f"--max-map-memory={text}")

    assert result.exit_code == 2
    assert "not a size" in result.stderr


@pytest.mark.parametrize(
    ("results", "word"),
    [
        ((LoadResult.UNCHANGED, LoadResult.UNCHANGED), "unchanged"),
        ((LoadResult.RELOADED, LoadResult.UNCHANGED), "reloaded"),
        ((LoadResult.UNCHANGED, LoadResult.LOADED), "loaded"),
        ((LoadResult.UNCHANGED, LoadResult.PLANNED), "planned"),
        ((LoadResult.RELOADED, LoadResult.LOADED), "loaded"),
    ],
)
def test_the_word_for_several_sets_is_what_was_done(
    results: tuple[LoadResult, ...], word: str
) -> None:
    document = load._document([report(result) for result in results])

    assert document["result"] == word
