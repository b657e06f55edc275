"""`bpfpin prog dump`: the same instructions as bpftool shows, with lines of C and names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bpfpin.loading.collection import Loaded, load
from bpfpin.objfile.reader import read_object
from bpfpin.uapi import ProgramType
from support.foreign_links import program as small_program
from support.here import run_here
from support.nobody import run_cli_as_nobody
from support.objects import compiled
from support.tools import need

# Objects with subprograms, callbacks, data, events, maps of all kinds, kfuncs.
OBJECTS = ("subprograms", "callbacks", "globals", "events", "migrate_shapes", "kernel_symbols")


def theirs(program_id: int) -> list[str]:
    """Return the instructions of a program as bpftool prints them, without what has its own form.

    bpftool adds the distance of a helper to its name.
    """
    command = ["bpftool", "prog", "dump", "xlated", "id", str(program_id)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = re.findall(r"^ +(\d+: \(.*)$", text, re.MULTILINE)
    return [re.sub(r"(call [^#]+)#.*", r"\1", line) for line in lines]


def ours(dump: Any) -> list[str]:
    """Return the instructions of a dump in the same form.

    bpftool 7.1 is older than pointers of one CPU, and shows their cast as a move.
    """
    lines = [f"{row['at']}: {row['text']}" for row in dump["instructions"]]
    lines = [re.sub(r"&\(void __percpu \*\)\((r\d)\)", r"\1", line) for line in lines]
    lines = [re.sub(r"(call pc\S+) <.*>", r"\1", line) for line in lines]
    return [re.sub(r"(map\[id:\d+) [^\]]*\]", r"\1]", line) for line in lines]


def dumped(form: str, program_id: int) -> Any:
    """Return the document of a dump."""
    result = run_here("prog", "dump", form, f"id:{program_id}", "-o", "json")
    assert result.exit_code == 0, result.stderr
    return result.json


@pytest.mark.parametrize("name", OBJECTS)
def test_the_instructions_are_those_that_bpftool_shows(name: str) -> None:
    need("bpftool")
    with load(read_object(compiled(name, "clang"))) as loaded:
        for program in loaded.programs.values():
            assert ours(dumped("xlated", program.id)) == theirs(program.id)


@pytest.fixture
def loaded() -> Any:
    """An object with subprograms and a map."""
    with load(read_object(compiled("subprograms", "clang"))) as loaded:
        yield loaded


def test_maps_helpers_functions_and_lines_have_names(loaded: Loaded) -> None:
    program, calls = loaded.programs["caller"], loaded.maps["calls"]
    rows = dumped("xlated", program.id)["instructions"]

    assert rows[0]["function"] == "caller"
    assert {row["function"] for row in rows if "function" in row} >= {"caller", "twice", "note"}
    assert {row.get("calls") for row in rows} >= {"twice", "note", "apart", "beside"}
    loads = [row for row in rows if row.get("map_id") == calls.id]
    assert loads
    assert all(f"map[id:{calls.id} calls]" in row["text"] for row in loads)
    assert all(bytes.fromhex(row["code"]) for row in rows)
    first = rows[0]["line"]
    assert first["file"].endswith("subprograms.bpf.c")
    source = (Path(__file__).parents[1] / "objects" / "subprograms.bpf.c").read_text()
    texts = [row["line"]["text"] for row in rows if "line" in row]
    assert [text for text in texts if text.strip() not in source] == []


def test_the_text_has_functions_and_lines_between_the_instructions(loaded: Loaded) -> None:
    name = f"id:{loaded.programs['caller'].id}"
    text = run_here("prog", "dump", "xlated", name).stdout
    bare = run_here("prog", "dump", "xlated", name, "--no-lines").stdout

    assert text.startswith("caller:\n; ")
    assert "\n\nnote:\n" in text
    assert re.search(r"^ +\d+: \(85\) call pc\+\d+ <twice>$", text, re.MULTILINE)
    assert ";" not in bare
    assert [line for line in text.splitlines() if not line.startswith(";")] == bare.splitlines()


@pytest.mark.parametrize("tool", ["llvm-objdump", "objdump"])
def test_machine_code_is_disassembled_by_either_tool(
    tool: str, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(tool)
    (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    rows = dumped("jited", loaded.programs["caller"].id)["instructions"]

    starts = [row for row in rows if "function" in row]
    assert starts[0]["function"] == "caller"
    assert {row["function"] for row in starts} >= {"twice", "note", "apart", "beside"}
    assert any("ret" in row["text"] for row in rows)
    if os.uname().machine == "x86_64":
        assert any("call" in row["text"] and row["text"].endswith("<note>") for row in rows)
    assert any(row["line"]["file"].endswith("subprograms.bpf.c") for row in rows if "line" in row)


def test_without_a_disassembler_the_packages_are_named(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run_here("prog", "dump", "jited", f"id:{loaded.programs['caller'].id}", "-o", "json")

    assert result.exit_code == result.json["error"]["exit"] == 8
    assert "apt install binutils" in result.json["error"]["hint"]


def test_a_program_without_btf_has_a_note() -> None:
    with small_program(ProgramType.SOCKET_FILTER, "bare", answer=7) as bare:
        result = run_here("prog", "dump", "xlated", f"id:{bare.id}")

    assert "no BTF" in result.stderr
    assert result.stdout == "bare:\n   0: (b7) r0 = 7\n   1: (95) exit\n"


def test_a_word_for_no_form_is_a_usage_error() -> None:
    result = run_here("prog", "dump", "source", "id:1", "-o", "json")

    assert result.exit_code == 2
    assert "'xlated', 'jited'" in result.json["error"]["message"]


def test_an_ordinary_user_may_not_open_it(loaded: Loaded) -> None:
    program_id = loaded.programs["caller"].id

    assert run_cli_as_nobody("prog", "dump", "xlated", f"id:{program_id}").exit_code == 3
