"""CO-RE as a user of the command meets it: `check` shows the answers, `--btf` gives the types."""

from __future__ import annotations

from pathlib import Path

from support.btf_tables import U32, blob
from support.here import run_here
from support.lab import TestLab
from support.objects import compiled

VMLINUX = "/sys/kernel/btf/vmlinux"


def test_check_lists_what_is_asked_and_the_answers() -> None:
    (report,) = run_here("check", compiled("core_kinds"), "-o", "json").json["objects"]
    answers = {each["question"]: each for each in report["relocations"]}

    assert report["loads"] is True
    assert answers["whether there is struct never_there.first (0:0)"]["value"] == 0
    assert answers["the size of struct task_struct.comm (0:3)"]["value"] == 16
    assert answers["the offset of struct never_there.first (0:0)"] == {
        "place": "loads (line 169)",
        "question": "the offset of struct never_there.first (0:0)",
        "value": None,
        "poisoned": True,
    }


def test_check_shows_of_many_only_what_the_kernel_lacks() -> None:
    text = run_here("check", compiled("core_kinds")).stdout

    assert "the offset of struct never_there.first (0:0)" in text
    assert "task_struct.comm" not in text
    assert "more have answers" in text


def test_a_table_shows_each_question_once() -> None:
    result = run_here("check", compiled("core_missing"), "-v")

    assert result.exit_code == 5
    assert result.stdout.count("the offset of struct task_struct.pid") == 1
    assert (
        "unguarded (line 16) asks for the offset of struct task_struct.never_there" in result.stderr
    )


def test_the_types_may_come_from_a_file(tmp_path: Path) -> None:
    other = tmp_path / "other.btf"
    other.write_bytes(blob(U32))
    with_kernels = run_here("check", compiled("core_kinds"), "--btf", VMLINUX)
    with_others = run_here("check", compiled("core_kinds"), "--btf", other)
    with_none = run_here("check", compiled("core_kinds"), "--btf", tmp_path / "nothing")

    assert (with_kernels.exit_code, with_others.exit_code, with_none.exit_code) == (0, 5, 4)
    assert "not in the kernel" in with_others.stderr


def test_load_takes_the_types_of_a_file(lab: TestLab, tmp_path: Path) -> None:
    other = tmp_path / "other.btf"
    other.write_bytes(blob(U32))
    words = ("load", compiled("core_kinds"), "--dev", lab.device, "--prog", "loads")
    refused = run_here(*words, "--btf", other)
    loaded = run_here(*words, "--btf", VMLINUX)
    run_here("unload", lab.device)

    assert refused.exit_code == 5
    assert loaded.exit_code == 0
