"""`apply` and `state --save` killed or failed at any call: the next command completes them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.cli import run_cli
from support.crash import Fault, Injection, Point, distinct, faulted, points, run_here
from support.lab import TestLab
from support.objects import compiled

pytestmark = pytest.mark.lab

IS_FULL = os.environ.get("BPFPIN_FULL_PROOF") == "1"
SHORT = 7  # calls of a command in the short form
OK, FOUND = 0, 10


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    run_cli("unload", "--all")


def sample(found: Sequence[Point]) -> list[Point]:
    """Return some of the points, evenly, the first and the last among them; all in full form."""
    if IS_FULL or len(found) <= SHORT:
        return list(found)
    return [found[number * (len(found) - 1) // (SHORT - 1)] for number in range(SHORT)]


def state_file(path: Path, lab: TestLab, number: int) -> Path:
    """Write a file with two sets, in which entries of a map and of a slot vary by *number*."""
    path.write_text(
        f"[[set]]\nobject = '{compiled('stated')}'\ndevice = '{lab.device}'\n"
        f"maps.blocked.entries = {{ '198.51.100.{number}' = 1 }}\n"
        f"[[set]]\nobject = '{compiled('stated')}'\ndevice = 'lo'\n"
        f"maps.lists.slots.0.entries = {{ 700{number} = 1 }}\n"
    )
    return path


@pytest.mark.parametrize("fault", [Fault.KILL, Fault.EPERM])
def test_an_apply_that_was_interrupted_is_completed_by_the_next(
    fault: Fault, lab: TestLab, tmp_path: Path
) -> None:
    before, after = (state_file(tmp_path / f"{n}.toml", lab, n) for n in (1, 2))
    run_here(["apply", str(before)])
    words = ["apply", str(after)]
    calls = distinct(points(words, folder=tmp_path))
    for point in sample(calls):
        assert run_here(["apply", str(before)]).exit == OK
        faulted(words, Injection(point, fault), folder=tmp_path)
        again = run_here(words)

        assert again.exit == OK, f"{point}: {again.talk}"
        assert run_here([*words, "--check"]).exit == OK, str(point)
        assert run_here(["status", "--check"]).exit == OK, str(point)


@pytest.mark.parametrize("fault", [Fault.KILL, Fault.EPERM])
def test_a_saved_state_is_the_old_one_or_the_new_one(
    fault: Fault, lab: TestLab, tmp_path: Path
) -> None:
    files = [state_file(tmp_path / f"{n}.toml", lab, n) for n in (1, 2)]
    parent = tmp_path / "states"
    parent.mkdir()
    words = ["state", "--save", str(parent / "saved")]
    run_here(["apply", str(files[0])])
    run_here(words)
    calls = distinct(points(words, folder=tmp_path))
    for number, point in enumerate(sample(calls)):
        assert run_here(["apply", str(files[number % 2])]).exit == OK
        faulted(words, Injection(point, fault), folder=tmp_path)
        # Whichever it is, it is whole.
        checked = run_here(["apply", str(parent / "saved/state.toml"), "--check"])
        again = run_here(words)

        assert checked.exit in (OK, FOUND), f"{point}: {checked.talk}"
        assert again.exit == OK, f"{point}: {again.talk}"
        assert [path.name for path in parent.iterdir()] == ["saved"], str(point)
