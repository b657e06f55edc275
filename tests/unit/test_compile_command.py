"""`bpfpin compile` as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cli import run_cli, run_cli_ok

PROGRAM = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("xdp") int answer(struct xdp_md *ctx) { return ANSWER; }
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.bpf.c"
    path.write_text(PROGRAM)
    return path


def test_a_source_becomes_an_object_beside_it(source: Path) -> None:
    result = run_cli_ok("compile", source, "-D", "ANSWER=XDP_PASS", "--compiler", "ziglang")

    made = source.with_suffix(".o")
    assert made.read_bytes().startswith(b"\x7fELF")
    assert result.stdout == ""
    assert result.stderr.startswith(f"compiled {made} with ziglang ")
    assert result.stderr.endswith(f"next: bpfpin check {made}\n")


def test_json_names_the_object_and_its_compiler(source: Path, tmp_path: Path) -> None:
    made = tmp_path / "other.o"

    result = run_cli_ok(
        "compile", source, made, "-o", "json", "-D", "ANSWER=1", "--compiler", "ziglang"
    )

    assert sorted(result.json) == ["compiler", "object", "schema", "warnings"]
    assert result.json["object"] == str(made)
    assert made.exists()


def test_warnings_are_shown_and_do_not_fail(source: Path) -> None:
    source.write_text("#warning look here\n" + PROGRAM)

    result = run_cli_ok("compile", source, "-D", "ANSWER=1", "--compiler", "ziglang")

    assert "look here" in result.stderr


@pytest.mark.parametrize(
    ("name", "exit_code", "words"),
    [("answer.bpf.c", 5, "undeclared identifier 'ANSWER'"), ("none.c", 4, "no such source file")],
)
def test_a_failure_has_its_exit_code_and_reason(
    source: Path, name: str, exit_code: int, words: str
) -> None:
    result = run_cli("compile", source.parent / name, "--compiler", "ziglang")

    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert words in result.stderr
    assert not source.with_suffix(".o").exists()
