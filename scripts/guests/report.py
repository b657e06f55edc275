"""What the tests said in each kernel, and docs/kernels.md, which is written from it.

The last run of each kernel is kept in `results.json` beside this file, so that a run of one kernel
rewrites its own column only.
"""

from __future__ import annotations

import datetime
import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guests.kernels import KERNELS, Kernel
from guests.levels import CAPABILITIES, LEVELS
from guests.machine import HUNG, NEVER_RAN, Result

KEPT = Path(__file__).with_name("results.json")
BEGIN, END = "<!-- written by scripts/run_guests.py -->", "<!-- end -->"
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class KernelRun:
    """One run of a level in a kernel.

    Seconds are those of the guest's clock, of this machine's, and of a processor of this machine.
    """

    kernel: str
    release: str
    architecture: str
    level: str
    date: str
    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)  # reason -> number of tests
    capabilities: dict[str, str] = field(default_factory=dict)
    guest_seconds: int = 0
    host_seconds: int = 0
    cpu_seconds: int = 0

    @property
    def is_good(self) -> bool:
        """Whether tests ran and none failed."""
        return self.passed > 0 and not self.failed

    def line(self) -> str:
        """Return the result in one line, and the tests that failed below it."""
        head = (
            f"{self.kernel} ({self.release}, {self.architecture}) {self.level}:"
            f" {self.passed} passed,"
            f" {len(self.failed)} failed, {sum(self.skipped.values())} skipped;"
            f" {self.host_seconds} s here ({self.cpu_seconds} s of a processor),"
            f" {self.guest_seconds} s in the guest"
        )
        return "\n".join([head, *(f"  failed: {test}" for test in self.failed)])


@dataclass(frozen=True)
class _Outcome:
    test: str  # FILE::NAME without parameters
    name: str
    outcome: str
    reason: str = ""


def read(kernel: Kernel, release: str, level: str, results: Sequence[Result]) -> KernelRun:
    """Return what the tests said in the boots of a kernel.

    A guest that ended by itself is a failure.
    """
    outcomes = [each for result in results for each in _outcomes(result.folder / "junit.xml")]
    return KernelRun(
        kernel=kernel.name,
        release=release,
        architecture=kernel.architecture,
        level=level,
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        passed=sum(each.outcome == PASSED for each in outcomes),
        failed=tuple(name for result in results for name in _failed(result)),
        skipped=dict(Counter(each.reason for each in outcomes if each.outcome == SKIPPED)),
        capabilities=_capabilities(outcomes) if kernel.is_supported else {},
        guest_seconds=round(sum(result.seconds for result in results)),
        cpu_seconds=round(sum(result.cpu_seconds for result in results)),
    )


def _failed(result: Result) -> list[str]:
    """Return the tests that failed in one boot, and how the boot failed."""
    outcomes = _outcomes(result.folder / "junit.xml")
    # pytest writes a test twice if its fixtures fail after it.
    failed = list(dict.fromkeys(it.name for it in outcomes if it.outcome == FAILED))
    if result.exit == NEVER_RAN:
        failed.append(f"the guest ended by itself: {result.folder / 'console'}")
    elif result.exit == HUNG:
        failed.append(f"the command wrote nothing for long: {result.folder / 'hung'}")
    elif result.exit and not failed:
        failed.append(f"pytest ended with {result.exit}: {result.folder / 'output'}")
    return failed


def keep(made: KernelRun) -> None:
    """Keep a run in `results.json`; one of the level smoke does not replace a full one."""
    runs = kept()
    before = runs.get(made.kernel)
    if before and LEVELS.index(before.level) > LEVELS.index(made.level):
        return
    runs[made.kernel] = made
    ordered = [asdict(runs[name]) for name in KERNELS if name in runs]
    KEPT.write_text(json.dumps(ordered, indent=1) + "\n")


def kept() -> dict[str, KernelRun]:
    """Return the last run of each kernel."""
    if not KEPT.exists():
        return {}
    runs = [KernelRun(**(each | {"failed": tuple(each["failed"])})) for each in _load()]
    return {run.kernel: run for run in runs}


def write(page: Path, runs: Iterable[KernelRun]) -> None:
    """Write the tables into the page, between its two marks."""
    text = page.read_text()
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    page.write_text(f"{text[:start]}\n\n{tables(list(runs))}\n{text[stop:]}")


def tables(runs: Sequence[KernelRun]) -> str:
    """Return the tables of docs/kernels.md: runs, capabilities, what was skipped."""
    head = [
        "kernel",
        "release",
        "machine",
        "level",
        "date",
        "passed",
        "failed",
        "skipped",
        "CPU minutes",
    ]
    rows = [
        (
            *(each.kernel, each.release, each.architecture, each.level, each.date),
            *(f"{each.passed:,}", str(len(each.failed)), str(sum(each.skipped.values()))),
            f"{each.cpu_seconds / 60:.1f}" if each.cpu_seconds else "unknown",
        )
        for each in runs
    ]
    shown = [each for each in runs if each.capabilities]
    cells = [
        (name, *(each.capabilities.get(name, "not run") for each in shown)) for name in CAPABILITIES
    ]
    parts = ["## Runs", _table(head, rows)]
    if shown:
        parts += ["## Capabilities", _table(("", *(each.kernel for each in shown)), cells)]
    if skipped := [_skipped(each) for each in runs if each.skipped]:
        parts += ["## Skipped", *skipped]
    return "\n\n".join(parts) + "\n"


def _load() -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads(KEPT.read_text())
    return loaded


def _skipped(run: KernelRun) -> str:
    lines = [f"* {reason} ({count})" for reason, count in sorted(run.skipped.items())]
    return "\n".join([f"On {run.kernel} ({run.level}):", "", *lines])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    escaped = [[cell.replace("|", r"\|") for cell in cells] for cells in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in escaped)


def _capabilities(outcomes: Sequence[_Outcome]) -> dict[str, str]:
    """Return for each capability `yes`, why it was skipped, or `fails`."""
    cells = {}
    for name, tests in CAPABILITIES.items():
        those = [it for it in outcomes if it.test in tests or it.name in tests]
        if any(it.outcome == FAILED for it in those):
            cells[name] = "fails"
        elif any(it.outcome == PASSED for it in those):
            cells[name] = "yes"
        elif those:
            cells[name] = f"no: {those[0].reason}"
    return cells


def _outcomes(path: Path) -> Iterator[_Outcome]:
    """Read the results that pytest wrote as JUnit's XML."""
    if not path.exists():
        return
    for case in ET.parse(path).iter("testcase"):
        module, name = case.get("classname", ""), case.get("name", "")
        file = f"{module.replace('.', '/')}.py"
        test = f"{file}::{name.partition('[')[0]}"
        full = f"{file}::{name}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            yield _Outcome(test, full, FAILED)
        elif skipped is not None:
            yield _Outcome(test, full, SKIPPED, skipped.get("message", ""))
        else:
            yield _Outcome(test, full, PASSED)
