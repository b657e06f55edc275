"""Eight commands at once on one device make one set."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.cli import run_cli, run_cli_ok
from support.lab import TestLab
from support.objects import compiled
from support.wait import HANG_S

if TYPE_CHECKING:
    from proof.conftest import Table

pytestmark = pytest.mark.lab

PROCESSES = 8
BUSY = 7


def load_at_once(*words: object) -> list[tuple[int, dict[str, Any]]]:
    """Run the same `load` in all processes, and return exit code and document of each."""
    argv = [sys.executable, "-m", "bpfpin", "load", *map(str, words), "-o", "json"]
    started = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    ended = []
    for process in started:
        with process:
            said, _ = process.communicate(timeout=HANG_S)
        ended.append((process.returncode, json.loads(said)))
    return ended


@pytest.mark.parametrize("there", ["nothing", "reload_old"])
def test_eight_loads_at_once_make_one_set(
    lab: TestLab, bpffs: Path, table: Table, there: str, *, is_full: bool
) -> None:
    words = (compiled("reload_new"), "--dev", lab.device, "--pin-root", bpffs)
    rounds = 25 if is_full else 1
    results = Counter[str]()
    wrong = []
    for _ in range(rounds):
        if there != "nothing":
            run_cli_ok("load", compiled(there), *words[1:])
        ended = load_at_once(*words)
        done = [told for code, told in ended if code == 0]
        busy = [code for code, _ in ended if code == BUSY]
        results.update(told["result"] for told in done)
        results["busy"] += len(busy)
        if len(done) + len(busy) != PROCESSES or len(ids_of(done)) != 1:
            wrong.append(ended)
        run_cli("unload", lab.device, "--pin-root", bpffs)
    table.begin(
        f"{PROCESSES} loads at once, {rounds} rounds, {there} loaded before", ("result", "times")
    )
    for result, times in results.items():
        table.row((result, times))

    assert wrong == []
    assert results["loaded" if there == "nothing" else "reloaded"] == rounds
    assert sum(results.values()) == rounds * PROCESSES


def ids_of(done: list[dict[str, Any]]) -> set[frozenset[tuple[str, int]]]:
    """Return the different ids that were told of the maps which are there now."""
    return {
        frozenset(
            (held["name"], held["id"]) for held in told["maps"] if held["decision"] != "removed"
        )
        for told in done
    }
