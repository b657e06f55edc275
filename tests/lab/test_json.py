"""The JSON that programs rely on: the keys of each command, and what they hold."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.insn import exit_, mov_imm
from bpfpin.uapi import MapType, XdpAction
from support.cli import run_cli, run_cli_ok
from support.elf_writer import ElfWriter
from support.lab import TestLab

# A type, a set of types or values, a list of one shape, or a dict of them.
PROGRAM = {
    "name": str,
    "id": int,
    "hook": {"xdp"},
    "device": str,
    "mode": {"native", "generic"},
    "link": int,
}
MAP = {"name": str, "id": int, "path": str}
LOAD = {
    "schema": {1},
    "set": str,
    "path": str,
    "generation": int,
    "programs": [PROGRAM],
    "maps": [{**MAP, "decision": {"created", "kept"}}],
}
STATUS = {
    "schema": {1},
    "sets": [{**LOAD, "schema": None, "maps": [MAP], "state": {"ok"}}],
    "problems": [{"kind": str, "text": str, "fix": str}],
}
RATES = {
    "schema": {1},
    "time": float,
    "action": {"XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"},
    "packets": int,
    "bytes": int,
    "packets_per_second": float,
    "bytes_per_second": float,
}
LISTED = {
    "id": int,
    "name": str,
    "type": {"percpu_array", "array"},
    "key_size": int,
    "value_size": int,
    "max_entries": int,
    "pins": [str],
}
LAB = {
    "schema": {1},
    "lab": str,
    "device": str,
    "netns": str,
    "peer": str,
    "addresses": {"host": [str], "peer": [str]},
}
FAILURE = {
    "schema": {1},
    "error": {
        "type": str,
        "exit": int,
        "message": str,
        "hint": str,
        "differences": [{"map": str, "field": str, "old": str, "new": str}],
    },
}
COUNTED = {"rx_packets": int, "rx_bytes": int}


def misfits(value: Any, shape: Any, place: str = "") -> list[str]:
    """Return where *value* is not of *shape*; keys that the shape does not name are free."""
    if shape is None:
        return []
    if isinstance(shape, set):
        return [] if value in shape else [f"{place}: {value!r} is none of {shape}"]
    if isinstance(shape, type):
        is_one = type(value) is shape
        return [] if is_one else [f"{place}: {value!r} is no {shape.__name__}"]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{place}: {value!r} is no list"]
        found = (misfits(one, shape[0], f"{place}[{index}]") for index, one in enumerate(value))
        return list(itertools.chain.from_iterable(found))
    missing = [f"{place}.{key} is missing" for key in shape if shape[key] and key not in value]
    there = [key for key in shape if key in value]
    return [
        *missing,
        *(text for key in there for text in misfits(value[key], shape[key], f"{place}.{key}")),
    ]


@pytest.fixture
def loaded(lab: TestLab) -> Iterator[TestLab]:
    run_cli_ok("load", "--dev", lab.device)
    yield lab
    run_cli("unload", lab.device)


def pin(lab: TestLab, name: str) -> str:
    return f"/sys/fs/bpf/{lab.device}/{name}"


def document(*words: object) -> Any:
    """Return the document of a command that succeeds; it is one line and all of stdout."""
    result = run_cli_ok(*words, "-o", "json")
    assert result.stdout.count("\n") == 1
    return result.json


def test_a_shape_that_does_not_fit_is_found() -> None:
    """The ruler is measured first."""
    assert misfits({"a": [1, "x"], "b": 2}, {"a": [int], "b": {1}, "c": str}) == [
        ".c is missing",
        ".a[1]: 'x' is no int",
        ".b: 2 is none of {1}",
    ]


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_load(lab: TestLab, options: list[str]) -> None:
    found = document("load", "--dev", lab.device, *options)
    again = found if options else document("load", "--dev", lab.device)
    run_cli("unload", lab.device)

    assert (found["result"], again["result"]) == (
        ("planned", "planned") if options else ("loaded", "unchanged")
    )
    if not options:
        assert misfits(found, LOAD) + misfits(again, LOAD) == []
    assert set(LOAD) <= set(found)
    assert {held["name"] for held in found["maps"]} == {"action", "xdp_stats_map"}


def test_unload(loaded: TestLab) -> None:
    shape = {"schema": {1}, "result": {"unloaded"}, "set": {loaded.device}, "kept_maps": [str]}
    kept = document("unload", loaded.device, "--keep-maps")
    gone = document("unload", loaded.device)

    assert misfits(kept, shape) + misfits(gone, shape) == []
    assert (sorted(kept["kept_maps"]), gone["kept_maps"]) == (["action", "xdp_stats_map"], [])


def test_status(loaded: TestLab) -> None:
    whole, one = document("status"), document("status", loaded.device)

    assert misfits(whole, STATUS) + misfits(one, STATUS) == []
    assert one["problems"] == []
    assert [found["set"] for found in one["sets"]] == [loaded.device]


def test_a_problem_in_status(loaded: TestLab) -> None:
    Path(pin(loaded, "links~/xdp")).unlink()
    found = document("status")

    assert misfits(found, {**STATUS, "sets": None}) == []
    assert [problem["kind"] for problem in found["problems"]] == ["defunct-link"]


def test_stats(loaded: TestLab) -> None:
    words = ["stats", loaded.device, "--count", "2", "--interval", "0.05", "-o", "ndjson"]
    lines = run_cli_ok(*words).json_lines

    assert [found for line in lines for found in misfits(line, RATES)] == []
    assert len(lines) == 2 * 5


def test_map_list(loaded: TestLab) -> None:
    found = document("map", "list")
    ours = [row for row in found["maps"] if pin(loaded, "action") in row["pins"]]

    assert found["schema"] == 1
    assert [row["type"] for row in ours] == ["array"]
    assert misfits(ours, [LISTED]) == []


def test_map_get(loaded: TestLab) -> None:
    single = document("map", "get", pin(loaded, "action"), "0")
    percpu = document("map", "get", pin(loaded, "xdp_stats_map"), "2")

    assert misfits(single, {"schema": {1}, "key": {0}, "value": {0}}) == []
    assert misfits(percpu, {"schema": {1}, "key": {2}, "values": [COUNTED]}) == []
    assert len(percpu["values"]) >= 1


def test_map_dump(loaded: TestLab) -> None:
    single = document("map", "dump", pin(loaded, "action"))
    percpu = document("map", "dump", pin(loaded, "xdp_stats_map"))

    assert single == {"schema": 1, "entries": [{"key": 0, "value": 0}]}
    assert [entry["key"] for entry in percpu["entries"]] == [0, 1, 2, 3, 4]
    assert misfits(percpu["entries"], [{"key": int, "values": [COUNTED]}]) == []


def test_lab_up() -> None:
    found = document("lab", "up", "jsonlab")
    run_cli_ok("lab", "down", "jsonlab")

    assert misfits(found, LAB) == []
    assert (found["lab"], found["netns"], found["peer"]) == ("jsonlab", "jsonlab", "veth0")


@pytest.mark.parametrize(
    ("words", "kind", "exit_code"),
    [
        (["load", "--dev", "nosuchdev"], "InterfaceNotFoundError", 4),
        (["unload", "nosuchset"], "PinNotFoundError", 4),
        (["load", "builtin:nosuch", "--dev", "lo"], "ObjectNotFoundError", 4),
        (["frobnicate"], "UsageError", 2),
    ],
)
def test_failure(words: list[str], kind: str, exit_code: int) -> None:
    result = run_cli(*words, "-o", "json")
    error = result.json["error"]

    assert misfits(result.json, FAILURE) == []
    assert (error["type"], error["exit"], result.exit_code) == (kind, exit_code, exit_code)
    assert (set(error), error["differences"]) == (set(FAILURE["error"]), [])
    assert f"bpfpin: {error['message']}\n" in result.stderr


@pytest.fixture
def larger(tmp_path: Path) -> Path:
    """An object whose map `action` has seven entries instead of one."""
    elf = ElfWriter()
    elf.license("GPL")
    maps = elf.section("maps", struct.pack("<5I", MapType.ARRAY, 4, 4, 7, 0))
    elf.symbol("action", maps, size=20)
    elf.function("xdp", "answer", [mov_imm(0, XdpAction.XDP_PASS), exit_()])
    path = tmp_path / "larger.o"
    path.write_bytes(elf.build())
    return path


def test_the_differences_of_a_map_that_does_not_fit(lab: TestLab, larger: Path) -> None:
    document("load", "--dev", lab.device)
    document("unload", lab.device, "--keep-maps")
    result = run_cli("load", larger, "--dev", lab.device, "-o", "json")
    run_cli_ok("unload", lab.device)

    assert misfits(result.json, FAILURE) == []
    assert (result.exit_code, result.json["error"]["type"]) == (6, "IncompatibleMapError")
    assert {"map": "action", "field": "max_entries", "old": "1", "new": "7"} in (
        result.json["error"]["differences"]
    )


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "json", "--pin-root", "/sys/fs/bpf", "-q", "status"],
        ["status", "-o", "json", "--pin-root", "/sys/fs/bpf", "-q"],
        ["-o", "json", "status", "--pin-root=/sys/fs/bpf", "--quiet"],
    ],
)
def test_global_options_stand_before_and_after_the_verb(loaded: TestLab, words: list[str]) -> None:
    result = run_cli_ok(*words)

    assert result.json["sets"][0]["set"] == loaded.device
    assert result.stderr == ""


def test_the_namespace_stands_before_and_after_the_verb(lab: TestLab) -> None:
    name = f"{lab.lab.netns}@{lab.lab.peer}"
    before = document("-n", lab.lab.netns, "load", "--dev", lab.lab.peer)
    after = document("unload", lab.lab.peer, "--netns", lab.lab.netns)

    assert (before["set"], after["set"]) == (name, name)


def test_progress_goes_to_stderr_alone(lab: TestLab) -> None:
    result = run_cli_ok("load", "--dev", lab.device, "-v", "-o", "json")
    run_cli_ok("unload", lab.device)

    assert json.loads(result.stdout)["result"] == "loaded"
    assert "map xdp_stats_map" in result.stderr
