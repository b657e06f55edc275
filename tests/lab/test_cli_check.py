"""`bpfpin check` as a user runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bpfpin.objects.kernel.info import map_ids, program_ids
from support.cli import run_cli, run_cli_ok
from support.nobody import run_cli_as_nobody
from support.objects import compiled
from support.tools import need
from support.wait import wait_until

GOOD = "builtin:xdp_stats"
HEADERS = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
PROGRAMS = "\n".join(
    f'SEC("xdp") int {name}(void *context) {{ return XDP_PASS; }}'
    for name in ("first", "third", "fourth")
)


def test_an_object_that_would_load_is_described() -> None:
    result = run_cli_ok("check", GOOD, "-o", "json")

    (report,) = result.json["objects"]
    assert (report["path"], report["loads"], report["error"]) == (GOOD, True, None)
    assert [(one["name"], one["dialect"]) for one in report["maps"]] == [
        ("xdp_stats_map", "btf"),
        ("action", "btf"),
    ]
    (program,) = report["programs"]
    assert (program["section"], program["type"], program["hook"]) == ("xdp", "xdp", "xdp")
    assert program["verified"] is True


def test_nothing_is_left_in_the_kernel() -> None:
    before = {*map_ids()}, {*program_ids()}
    text = run_cli_ok("check", GOOD).stdout
    made = {*map_ids()} - before[0], {*program_ids()} - before[1]

    # The kernel frees what a dead process held a moment later. What others make later is theirs.
    wait_until(lambda: made[0].isdisjoint(map_ids()) and made[1].isdisjoint(program_ids()))
    assert text.startswith(f"{GOOD}: would load\n")


@pytest.mark.parametrize(
    ("name", "dialect"),
    [("legacy_map_def", "bpf_map_def"), ("elf_map", "bpf_elf_map"), ("btf_maps", "btf")],
)
def test_every_dialect_is_named(name: str, dialect: str) -> None:
    (report,) = run_cli("check", compiled(name), "-o", "json").json["objects"]

    assert dialect in {one["dialect"] for one in report["maps"]}
    assert report["loads"] is True


@pytest.mark.parametrize("name", ["elf_map_in_map", "elf_tail_calls_xdp"])
def test_old_maps_are_printed_as_c_that_libbpf_loads(
    tmp_path: Path, bpffs: Path, name: str
) -> None:
    """Standard output is C alone."""
    need("clang", "bpftool")
    result = run_cli_ok("check", compiled(name), "--convert")
    source = tmp_path / "new.bpf.c"
    source.write_text(HEADERS + result.stdout + PROGRAMS)
    run_cli_ok("compile", source)
    (old,) = run_cli_ok("check", compiled(name), "-o", "json").json["objects"]
    (new,) = run_cli_ok("check", tmp_path / "new.bpf.o", "-o", "json").json["objects"]
    command = ["bpftool", "prog", "loadall", str(tmp_path / "new.bpf.o"), str(bpffs / "programs")]
    libbpf = subprocess.run(command, capture_output=True, text=True, check=False)

    assert "would load" in result.stderr
    assert {(one["name"], one["type"], one["max_entries"]) for one in new["maps"]} == {
        (one["name"], one["type"], one["max_entries"]) for one in old["maps"]
    }
    assert {one["dialect"] for one in new["maps"]} == {"btf"}
    assert libbpf.returncode == 0, libbpf.stderr


def test_the_document_has_the_conversion_where_it_was_asked_for() -> None:
    path = compiled("legacy_map_def")
    (plain,) = run_cli_ok("check", path, "-o", "json").json["objects"]
    (asked,) = run_cli_ok("check", path, "--convert", "-o", "json").json["objects"]

    assert "converted" not in plain
    assert '} packets SEC(".maps");' in asked["converted"]


def test_a_conversion_of_what_is_no_object_is_refused_as_before(tmp_path: Path) -> None:
    (tmp_path / "text.o").write_text("this is no object")
    result = run_cli("check", tmp_path / "text.o", "--convert")

    assert (result.exit_code, result.stdout) == (5, "")


def test_a_program_that_the_verifier_refuses_exits_as_load_does(tmp_path: Path) -> None:
    path, log = compiled("verifier_refused"), tmp_path / "verifier.log"
    result = run_cli("check", path, "-o", "json", "--log-file", log)
    error = result.json["error"]

    assert (result.exit_code, error["type"]) == (5, "VerifierError")
    assert result.json["objects"][0]["loads"] is False
    assert error["verifier"]["cause"] == "null-check"
    assert error["hint"].endswith(f"the verifier's whole log is in {log}")
    assert "processed" in log.read_text()
    assert error["message"] in result.stderr


def test_one_of_several_that_would_not_load_exits_10(tmp_path: Path) -> None:
    (tmp_path / "text.o").write_text("this is no object")
    result = run_cli("check", GOOD, tmp_path / "text.o", "/nonexistent.o", "-o", "json")

    assert result.exit_code == 10
    assert [report["loads"] for report in result.json["objects"]] == [True, False, False]
    assert [report["error"] and report["error"]["exit"] for report in result.json["objects"]] == [
        *(None, 5, 4)
    ]
    assert "/nonexistent.o: no such file" in result.stderr


@pytest.mark.parametrize(
    ("content", "exit_code"), [(b"", 5), (b"\x7fELF" + bytes(60), 5), (None, 4)]
)
def test_what_is_no_object_is_refused_like_load_does(
    tmp_path: Path, content: bytes | None, exit_code: int
) -> None:
    path = tmp_path / "x.o"
    if content is not None:
        path.write_bytes(content)

    result = run_cli("check", path)
    assert result.exit_code == exit_code
    assert str(path) in result.stderr


def test_an_ordinary_user_has_it_read_only() -> None:
    result = run_cli_as_nobody("check", GOOD)

    assert result.exit_code == 0
    assert f"{GOOD}: read; the kernel was not asked" in result.stdout
    assert "CAP_BPF" in result.stdout


def test_without_an_object_it_is_a_usage_error() -> None:
    assert run_cli("check").exit_code == 2
