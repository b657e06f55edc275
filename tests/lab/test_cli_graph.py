"""`bpfpin graph` as a user runs it."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bpfpin.objects.kernel.info import maps
from bpfpin.objects.maps.map import Map
from support.cli import run_cli, run_cli_ok
from support.lab import TestLab, new_lab
from support.nobody import run_cli_as_nobody

ROOT = Path("/sys/fs/bpf")


@pytest.fixture
def loaded(lab: TestLab) -> Iterator[TestLab]:
    run_cli_ok("load", "--dev", lab.device)
    yield lab
    run_cli("unload", lab.device)


@pytest.fixture
def sharing(loaded: TestLab) -> Iterator[tuple[TestLab, TestLab]]:
    """Two labs whose programs count into one map."""
    with new_lab() as other:
        shared = f"xdp_stats_map={ROOT / loaded.device / 'xdp_stats_map'}"
        run_cli_ok("load", "--dev", other.device, "--map", shared)
        yield loaded, other
        run_cli("unload", other.device)


def test_the_tree_marks_the_map_that_two_programs_share(sharing: tuple[TestLab, TestLab]) -> None:
    one, other = sharing
    lines = run_cli_ok("graph", one.device).stdout.splitlines()

    assert [line.split(" ·")[0] for line in lines if not line.startswith((" ", "│", "├", "└"))] == [
        one.device,
        other.device,
    ]
    assert sum("xdp_stats_map" in line and "shared by 2 programs" in line for line in lines) == 2
    assert sum("see above" in line for line in lines) == 1


def test_the_json_keeps_its_promise(sharing: tuple[TestLab, TestLab]) -> None:
    one, other = sharing
    document = run_cli_ok("graph", "-o", "json").json
    names = {node["id"]: node["name"] for node in document["nodes"]}

    assert document["schema"] == 1
    assert {edge[end] for edge in document["edges"] for end in ("from", "to")} <= names.keys()
    assert {one.device, other.device} <= set(names.values())
    (shared,) = [
        node
        for node in document["nodes"]
        if node.get("shared") and node["id"] in _reached(document, f"{ROOT / one.device}/")
    ]
    assert shared["name"] == "xdp_stats_map"


def _reached(document: dict[str, list[dict[str, str]]], prefix: str) -> set[str]:
    """Return what is pinned below a path."""
    return {e["from"] for e in document["edges"] if e["to"].startswith(f"pin:{prefix}")}


def test_the_picture_is_xml_and_names_the_device(sharing: tuple[TestLab, TestLab]) -> None:
    one, _ = sharing
    root = ET.fromstring(run_cli_ok("graph", one.device, "-o", "svg").stdout)

    assert one.device in {text.strip() for text in root.itertext()}
    assert "shared by 2" in {text.strip() for text in root.itertext()}


@pytest.mark.parametrize(("form", "first"), [("dot", "digraph bpf {"), ("mermaid", "flowchart LR")])
def test_other_tools_get_their_words(loaded: TestLab, form: str, first: str) -> None:
    lines = run_cli_ok("graph", loaded.device, "-o", form).stdout.splitlines()

    assert lines[0] == first
    assert any(f'"{loaded.device}' in line for line in lines)


def test_what_is_not_there_is_exit_4(loaded: TestLab) -> None:
    result = run_cli("graph", "no-such-thing", "-o", "json")

    assert (result.exit_code, result.json["error"]["exit"]) == (4, 4)
    assert loaded.device


def test_an_unknown_form_is_exit_2_with_those_there_are() -> None:
    result = run_cli("graph", "-o", "png")

    assert result.exit_code == 2
    assert "table, json, dot, mermaid, svg" in result.stderr


def test_the_map_of_a_map_target_leads_to_the_device(loaded: TestLab) -> None:
    pin = ROOT / loaded.device / "xdp_stats_map"
    told = [run_cli_ok("graph", word, "-o", "json").json for word in (pin, f"id:{_id(pin)}")]

    assert told[0]["nodes"] == told[1]["nodes"]
    assert loaded.device in {node["name"] for node in told[0]["nodes"]}


def _id(pin: Path) -> int:
    with Map.from_pin(pin, read_only=True) as held:
        return held.id


def test_a_split_brain_is_told_and_the_told_line_mends_it(loaded: TestLab) -> None:
    """Somebody pins another map where the program's own was."""
    pin = ROOT / loaded.device / "xdp_stats_map"
    used = _id(pin)
    with Map.from_pin(pin) as held:
        info = held.info
    pin.unlink()
    words = f"type percpu_array key 4 value {info.value_size} entries {info.max_entries}"
    create = ["bpftool", "map", "create", str(pin), *words.split(), "name", "xdp_stats_map"]
    subprocess.run(create, check=True)
    (problem,) = run_cli_ok("graph", loaded.device, "-o", "json").json["problems"]

    assert problem["kind"] == "map-differs"
    assert f"uses map id {used}, while {pin} holds map id {_id(pin)}" in problem["text"]
    assert run_cli_ok(*shlex.split(problem["fix"])[1:]).exit_code == 0
    assert run_cli_ok("graph", loaded.device, "-o", "json").json["problems"] == []


def test_an_ordinary_user_gets_a_picture_and_a_note(loaded: TestLab) -> None:
    result = run_cli_as_nobody("graph")

    assert result.exit_code == 0
    assert "without CAP_SYS_ADMIN" in result.stderr
    assert loaded.device in result.stdout


def test_a_look_changes_nothing(loaded: TestLab) -> None:
    before = sorted(ROOT.rglob("*")), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    run_cli_ok("graph")

    assert sorted(ROOT.rglob("*")) == before[0]
    assert any(info.name == "xdp_stats_map" for info in maps())
    assert loaded.device
