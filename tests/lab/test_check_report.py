"""All that `check` tells of an object, and of many at once."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from bpfpin.apps.check.check import check
from bpfpin.cli.check import shown_progress
from bpfpin.cli.output import Output
from support.here import run_here
from support.objects import compiled

GOOD = "builtin:xdp_stats"


def report_of(name: str) -> Any:
    """Return what is told of one of our objects."""
    (report,) = run_here("check", compiled(name), "-o", "json").json["objects"]
    return report


def test_variables_have_section_type_and_value() -> None:
    variables = {one["name"]: one for one in report_of("globals")["variables"]}

    assert variables["limit"] == {
        "name": "limit",
        "section": ".rodata",
        "type": "u32",
        "size": 4,
        "value": 100,
    }
    assert (variables["weights"]["section"], variables["weights"]["value"]) == (
        ".data",
        [1, 2, 3, 4],
    )
    assert variables["own"]["section"] == ".data.own"
    assert variables["packets"]["value"] == 0


def test_maps_have_their_flags_and_what_they_hold() -> None:
    maps = {one["name"]: one for one in report_of("map_contents")["maps"]}
    holders = [one for one in maps.values() if one["inner"]]

    assert {one["type"] for one in holders} <= {"array_of_maps", "hash_of_maps"}
    assert holders
    assert holders[0]["inner"]["key_size"] == 4
    assert report_of("globals")["maps"][-1]["flags"]


def test_a_program_that_is_loaded_only_by_name_is_told_to_be_left_out() -> None:
    programs = {one["name"]: one for one in report_of("program_kinds")["programs"]}
    text = run_here("check", compiled("program_kinds")).stdout

    assert programs["only_when_named"]["optional"] is True
    assert programs["only_when_named"]["verified"] is True
    assert programs["packet"]["optional"] is False
    assert "accepted, left out" in text


def test_programs_have_the_place_they_attach_to() -> None:
    programs = {one["name"]: one for one in report_of("program_kinds")["programs"]}

    assert (programs["entry"]["attach_to"], programs["entry"]["attach_type"]) == (
        "do_nanosleep",
        "trace_fentry",
    )
    assert programs["connecting"]["attach_type"] == "cgroup_inet4_connect"


def test_what_an_object_takes_from_the_kernel_is_resolved() -> None:
    good, bad = report_of("kernel_config"), report_of("externs")
    (version,) = [one for one in good["externs"] if one["name"] == "LINUX_KERNEL_VERSION"]
    (absent,) = bad["externs"]

    assert (version["kind"], version["error"]) == ("kconfig", None)
    assert int(version["value"]) > 0x050000
    assert (absent["kind"], absent["value"], bad["loads"]) == ("kfunc", "absent", False)
    assert "kernel_only" in absent["error"]
    assert bad["lacks"] == ["kernel_only"]


def test_the_table_of_one_object_has_all_its_parts() -> None:
    text = run_here("check", compiled("globals")).stdout

    assert "would load\nlicense: GPL; map dialects: data\n" in text
    assert "weights" in text
    assert "[1, 2, 3, 4]" in text


def test_of_many_variables_the_rest_is_shown_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bpfpin.cli.check.VARIABLES_MAX", 2)
    short = run_here("check", compiled("globals")).stdout
    long = run_here("check", compiled("globals"), "-v").stdout

    assert "more variables: -v shows them" in short
    assert "more variables" not in long


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with an object that loads, one that does not, and none at all."""
    made = tmp_path_factory.mktemp("many")
    for name in ("drop_all", "verifier_refused"):
        shutil.copy(compiled(name), made / f"{name}.o")
    (made / "text.o").write_text("this is no object")
    return made


def test_of_many_objects_each_has_a_line_and_all_a_summary(folder: Path) -> None:
    result = run_here("check", folder)

    assert result.exit_code == 10
    assert result.stdout.splitlines() == [
        f"{folder}/drop_all.o: would load",
        f"{folder}/text.o: would not load",
        f"{folder}/verifier_refused.o: would not load: verifier: null-check",
        "3 objects: 1 load, 1 refused by the kernel, 1 malformed",
        "  1 verifier: null-check",
    ]


def test_the_document_of_many_has_the_summary(folder: Path) -> None:
    document = run_here("check", folder, GOOD, "-o", "json").json

    assert [one["loads"] for one in document["objects"]] == [True, False, False, True]
    assert document["summary"]["loads"] == 2
    assert document["summary"]["reasons"] == {"verifier: null-check": 1}


def test_the_kernels_types_are_read_once_for_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr("bpfpin.apps.check.check.read_btf", read.append)
    run_here("check", folder, "--btf", "types.btf")

    assert read == ["types.btf"]


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def test_a_bar_moves_on_a_terminal_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    report = check(GOOD)
    written = []
    for total, stream in ((2, Terminal()), (1, Terminal()), (2, io.StringIO())):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        with shown_progress(Output(), total) as advance:
            assert advance(report) is report
        written.append(stream.getvalue())

    assert "1/2" in written[0]
    assert GOOD in written[0]
    assert written[1:] == ["", ""]


def test_each_refused_program_has_its_reason() -> None:
    lines = run_here("check", compiled("verifier_causes")).stdout.splitlines()
    verifier = {line.split()[0]: line.rpartition("  ")[2] for line in lines if "refused" in line}

    assert verifier["null_check"] == "refused: verifier: null-check"
    assert verifier["packet_bounds"] == "refused: verifier: packet-bounds"
