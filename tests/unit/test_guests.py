"""What runs tests in other kernels (scripts/guests), as far as it needs no qemu."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import run_guests
from guests import levels, machine, report, roots
from guests.image import Boot
from guests.kernels import ARM64, KERNELS
from guests.levels import CAPABILITIES
from guests.machine import NEVER_RAN, TICKS, Guest, Result, Work
from guests.packages import Suite, version_key
from guests.report import KernelRun
from support.wait import wait_until

CHECKOUT = Path(__file__).parents[2]
FIRST, *_, LAST = CAPABILITIES
RUN = KernelRun(
    kernel="6.1",
    release="6.1.0-50-amd64",
    architecture="amd64",
    level="smoke",
    date="2026-11-30",
    passed=1,
)
JUNIT = """<testsuites><testsuite name="pytest">
<testcase classname="tests.lab.test_a" name="test_one[x]" time="1" />
<testcase classname="tests.lab.test_a" name="test_two" time="1"><failure message="no"/></testcase>
<testcase classname="tests.lab.test_a" name="test_two" time="1"><error message="no"/></testcase>
<testcase classname="tests.lab.test_a" name="test_three" time="1"><error message="no"/></testcase>
<testcase classname="tests.lab.test_a" name="test_four"><skipped message="no tcx"/></testcase>
<testcase classname="tests.lab.test_a" name="test_five"><skipped message="no tcx"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def result(tmp_path: Path) -> Result:
    (tmp_path / "junit.xml").write_text(JUNIT)
    return Result(exit=1, seconds=12.4, folder=tmp_path)


# Kernels and packages


@pytest.mark.parametrize(
    ("kernel", "package"),
    [
        ("5.10", "linux-image-5.10.0-32-amd64"),
        ("6.1", "linux-image-6.1.0-50-amd64"),
        ("6.12", "linux-image-6.12.117+deb13-amd64"),
        ("6.12-rt", "linux-image-6.12.117+deb13-rt-amd64"),
        ("6.12-arm64", "linux-image-6.12.117+deb13-arm64"),
        ("newest", "linux-image-7.3.4+deb13-amd64"),
    ],
)
def test_a_kernel_is_found_by_the_name_of_its_package(kernel: str, package: str) -> None:
    assert re.search(KERNELS[kernel].package_pattern, package)


@pytest.mark.parametrize(
    "package",
    [
        "linux-image-6.1.0-50-rt-amd64",  # another flavour
        "linux-image-6.12.9+deb12-amd64",  # another series that begins so
        "linux-image-6.1.0-50-amd64-dbg",
        "linux-image-6.1.0-50-cloud-amd64",
        "linux-image-amd64",
    ],
)
def test_packages_of_other_kernels_are_not_taken(package: str) -> None:
    assert not re.search(KERNELS["6.1"].package_pattern, package)


def test_the_newest_version_is_the_last() -> None:
    names = [f"linux-image-{it}+deb13-amd64" for it in ("7.3.4", "6.12.9", "6.12.10", "7.3.11")]

    ordered = ["6.12.9", "6.12.10", "7.3.4", "7.3.11"]
    assert [re.findall(r"-([\d.]+)\+", name)[0] for name in sorted(names, key=version_key)] == (
        ordered
    )


def test_a_package_that_the_archive_does_not_have_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = """linux-image-6.18.15
  PreDepends: linux-base
 |Depends: <dracut>
  Depends: <linux-base-6.18.15>
  Depends: linux-modules-6.18.15:amd64
  Breaks: <fwupdate>
"""
    monkeypatch.setattr(Suite, "_apt", lambda *_: lines)
    monkeypatch.setattr(Suite, "_update", lambda *_: None)
    suite = Suite("trixie", "amd64", tmp_path)

    assert suite.dependencies("linux-image-6.18.15") == ["linux-base", "linux-modules-6.18.15"]


def test_the_root_of_another_architecture_has_what_tests_import() -> None:
    names = [re.split(r"[><=\[]", it)[0] for it in roots._python_packages()]

    assert {"click", "pytest", "hypothesis", "numpy"} <= set(names)
    assert not {"bpfpin", "mypy", "ruff", "ziglang"} & set(names)


# Levels


def test_every_test_of_a_level_exists() -> None:
    tests = [test for tests in CAPABILITIES.values() for test in tests]
    tests += [*levels.FULL, *levels.LOWER_LAYERS, *levels.REFUSED]

    missing = []
    for test in tests:
        file, _, function = test.partition("::")
        path = CHECKOUT / file
        if not path.exists() or (
            function and f"def {function.partition('[')[0]}(" not in path.read_text()
        ):
            missing.append(test)
    assert missing == []


def test_smoke_runs_each_test_of_a_capability_once() -> None:
    words = levels.tests_of(KERNELS["6.1"], "smoke")

    assert sorted(words) == sorted({test for tests in CAPABILITIES.values() for test in tests})


def test_arm64_runs_the_unit_tests_of_the_lower_layers_as_well() -> None:
    words = levels.tests_of(KERNELS["6.1-arm64"], "smoke")

    assert set(levels.LOWER_LAYERS) < set(words)


def test_no_test_of_a_capability_is_slow() -> None:
    # Smoke leaves out the slow ones of the unit tests, and would leave out these.
    files = {test.partition("::")[0] for tests in CAPABILITIES.values() for test in tests}
    assert [name for name in files if name.endswith("oracle.py")] == []

    assert [name for name in files if "mark.slow" in (CHECKOUT / name).read_text()] == []


def test_full_runs_all_tests_of_the_kernel_and_of_labs() -> None:
    assert levels.tests_of(KERNELS["6.12"], "full") == [*levels.FULL]


def test_the_boots_of_a_full_run_have_each_file_once() -> None:
    boots = levels.boots(KERNELS["6.12"], "full", CHECKOUT)
    tests = [test for boot in boots for test in boot]
    folders = [CHECKOUT / name for name in levels.FULL]
    every = {
        str(path.relative_to(CHECKOUT)) for each in folders for path in each.rglob("test_*.py")
    }

    assert all(0 < len(boot) <= levels.FILES_A_BOOT for boot in boots)
    assert len(boots) > len(folders)
    assert every > levels.SAME_EVERYWHERE
    assert sorted(test for test in tests if "::" not in test) == sorted(
        every - levels.SAME_EVERYWHERE
    )


def test_a_full_run_has_the_tests_of_all_capabilities() -> None:
    boots = levels.boots(KERNELS["6.12"], "full", CHECKOUT)
    tests = {test for boot in boots for test in boot}
    smoke = levels.tests_of(KERNELS["6.12"], "smoke")

    assert {test for test in smoke if not {test, test.partition("::")[0]} & tests} == set()


def test_smoke_is_one_boot() -> None:
    boots = levels.boots(KERNELS["6.1"], "smoke", CHECKOUT)

    assert boots == [levels.tests_of(KERNELS["6.1"], "smoke")]


@pytest.mark.parametrize("level", levels.LEVELS)
def test_an_old_kernel_must_refuse(level: str) -> None:
    assert levels.tests_of(KERNELS["5.10"], level) == [*levels.REFUSED]


def test_the_command_names_the_kernel_to_the_tests() -> None:
    words = levels.pytest(KERNELS["6.12-rt"], ["python3"], ["tests/x.py"])

    assert "BPFPIN_GUEST=6.12-rt" in words
    assert words[words.index("python3") :][:3] == ["python3", "-m", "pytest"]
    assert words[-1] == "tests/x.py"


# Results


def test_results_are_read_with_reasons_and_without_repetition(result: Result) -> None:
    run = report.read(KERNELS["6.1"], "6.1.0-50-amd64", "full", [result])

    assert (run.passed, run.skipped) == (1, {"no tcx": 2})
    # A test that fails and whose fixture fails afterwards is one failed test.
    assert run.failed == ("tests/lab/test_a.py::test_two", "tests/lab/test_a.py::test_three")
    assert not run.is_good


def test_the_boots_of_a_kernel_are_one_run(result: Result, tmp_path: Path) -> None:
    died = Result(NEVER_RAN, 0.0, tmp_path / "second")
    run = report.read(KERNELS["6.1"], "6.1.0-50-amd64", "full", [result, died])

    assert (run.passed, run.guest_seconds) == (1, 12)
    assert len(run.failed) == 3
    assert run.failed[-1].startswith("the guest ended by itself")


def test_a_guest_that_ended_by_itself_is_a_failure(tmp_path: Path) -> None:
    run = report.read(KERNELS["6.1"], "6.1.0", "smoke", [Result(NEVER_RAN, 0.0, tmp_path)])

    assert run.failed == (f"the guest ended by itself: {tmp_path / 'console'}",)
    assert not run.is_good


def test_a_run_in_which_every_test_was_skipped_is_not_good() -> None:
    assert not replace(RUN, passed=0, skipped={"no root": 3}).is_good


@pytest.mark.parametrize(
    ("outcomes", "cell"),
    [
        ('<testcase classname="{0}" name="{1}"/>', "yes"),
        ('<testcase classname="{0}" name="{1}[x]"/>', "yes"),
        ('<testcase classname="{0}" name="{1}"><failure/></testcase>', "fails"),
        (
            '<testcase classname="{0}" name="{1}"><skipped message="no veth"/></testcase>',
            "no: no veth",
        ),
    ],
)
def test_a_capability_is_what_its_tests_say(tmp_path: Path, outcomes: str, cell: str) -> None:
    file, _, name = CAPABILITIES[FIRST][0].partition("::")
    module = file.removesuffix(".py").replace("/", ".")
    text = f"<testsuites>{outcomes.format(module, name)}</testsuites>"
    (tmp_path / "junit.xml").write_text(text)

    run = report.read(KERNELS["6.1"], "6.1.0", "smoke", [Result(0, 1.0, tmp_path)])
    assert run.capabilities == {FIRST: cell}


def test_the_tables_have_a_row_a_capability_and_a_column_a_kernel() -> None:
    newer = replace(RUN, kernel="6.12", capabilities={FIRST: "yes"}, skipped={"no netkit": 2})
    text = report.tables([replace(RUN, capabilities={FIRST: "no: a | b"}), newer])

    assert "| | 6.1 | 6.12 |" in text.replace("|  |", "| |")
    assert f"| {FIRST} | no: a \\| b | yes |" in text
    assert f"| {LAST} | not run | not run |" in text
    assert "* no netkit (2)" in text


def test_tables_replace_what_is_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "kernels.md"
    page.write_text(f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n")
    for _ in range(2):
        report.write(page, [RUN])
    text = page.read_text()

    assert text.startswith("above\n")
    assert text.endswith(f"{report.END}\nbelow\n")
    assert text.count("## Runs") == 1
    assert "old" not in text


def test_a_smoke_run_does_not_replace_a_full_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "KEPT", tmp_path / "results.json")
    report.keep(replace(RUN, level="full", passed=900))
    report.keep(RUN)
    report.keep(replace(RUN, kernel="5.10", passed=2))

    assert {run.kernel: run.passed for run in report.kept().values()} == {"5.10": 2, "6.1": 900}


# The watch over a guest


def stat_file(folder: Path, *, state: str, ticks: int) -> None:
    text = f"7 (a name) {state} {' '.join(['0'] * 10)} {ticks} 0 0"
    for path in (folder / "7/stat", folder / "7/task/7/stat"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_work_is_what_a_process_used_or_slept(tmp_path: Path) -> None:
    stat_file(tmp_path, state="R", ticks=100)
    work = Work(7, tmp_path)
    stat_file(tmp_path, state="R", ticks=100 + 3 * TICKS)

    assert work.seconds() == 3
    assert work.seconds() == 3  # it waits for a processor
    stat_file(tmp_path, state="S", ticks=100 + 3 * TICKS)
    assert work.seconds() == 4
    work.restart()
    assert work.seconds() == 1


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    """A guest whose qemu is a process that sleeps, and writes its id to the console."""
    sleeper = ["sh", "-c", "echo $$; exec sleep 1000"]
    monkeypatch.setattr(machine, "_qemu", lambda *_: sleeper)
    monkeypatch.setattr(machine, "LOOK_S", 0.01)
    for name in ("busybox", "initramfs"):
        (tmp_path / name).touch()
    files = (tmp_path / "image", tmp_path / "initramfs", tmp_path / "modules")
    boot = Boot(KERNELS["6.1"], "6.1.0", *files, tmp_path / "busybox")
    return Guest(boot, Path("/"), {})


def assert_is_gone(console: Path) -> None:
    pid = int(console.read_text())

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_guest_that_sleeps_without_a_sign_of_life_is_ended(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "SILENT_S", 0.5)
    result = machine.run(guest, ["true"], tmp_path, tmp_path / "out")

    assert result.exit == NEVER_RAN
    assert_is_gone(tmp_path / "out/console")


def test_stop_ends_a_guest(guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_is_stopping", threading.Event())
    out = tmp_path / "out"
    with ThreadPoolExecutor() as threads:
        running = threads.submit(machine.run, guest, ["true"], tmp_path, out)
        wait_until(lambda: (out / "console").exists() and (out / "console").read_text() != "")
        machine.stop()

        with pytest.raises(KeyboardInterrupt):
            running.result()
    assert_is_gone(out / "console")


# The command


def test_a_run_is_resumed_with_the_boots_of_the_same_commit(tmp_path: Path) -> None:
    of = {"commit": "1234", "release": "6.1.0", "words": ["pytest"]}
    text = json.dumps({**of, "exit": 1, "seconds": 2.5, "cpu": 20.0})
    (tmp_path / run_guests.RESULT).write_text(text)

    assert run_guests._resumed(tmp_path, of) == Result(1, 2.5, tmp_path, 20.0)
    for other in ({"commit": "5678"}, {"commit": ""}, {"words": ["pytest", "-x"]}):
        assert run_guests._resumed(tmp_path, of | other) is None
    assert run_guests._resumed(tmp_path / "none", of) is None


def run_script(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHECKOUT / "scripts/run_guests.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_unknown_kernel_is_refused_with_the_names() -> None:
    result = run_script("6.1", "6.99")

    assert result.returncode == 2
    assert "unknown kernel: 6.99 (known: 5.10, 6.1," in result.stderr


def test_missing_tools_are_named_with_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: name if name in {"apt-get", "dpkg"} else None)

    with pytest.raises(SystemExit, match=r"apt install .*qemu-system-x86.*squashfs-tools"):
        run_guests._check([KERNELS["6.1"]])
    with pytest.raises(SystemExit, match="qemu-system-arm"):
        run_guests._check([it for it in KERNELS.values() if it.architecture == ARM64])


def test_a_machine_of_another_distribution_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda _: None)

    with pytest.raises(SystemExit, match="needs a Debian machine"):
        run_guests._check([KERNELS["6.1"]])


def test_an_ordinary_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(SystemExit, match="needs root: use sudo"):
        run_guests._check([KERNELS["6.1"]])


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    message = f"process {os.getpid()} uses {tmp_path}"
    with (
        run_guests._only_run_in(tmp_path),
        pytest.raises(SystemExit, match=message),
        run_guests._only_run_in(tmp_path),
    ):
        pass

    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
