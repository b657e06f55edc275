"""A command killed at any of its steps leaves a state that the next command makes whole."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.apps.deploy import deploy
from bpfpin.apps.reports import LoadResult
from bpfpin.apps.status import status
from bpfpin.apps.undeploy import undeploy
from bpfpin.attach.xdp import xdp_holder
from bpfpin.errors import PinNotFoundError
from bpfpin.pins.pinset import SetState
from support.tools import need
from support.wait import wait_until

DEVICE = "crash0"
CALLS = ("bpf", "mkdirat", "symlinkat", "renameat2", "unlinkat")
SAMPLE = 4  # of the bpf() calls each fourth one; of all others every one
LEAVES_NO_BYTECODE = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def root(bpffs: Path) -> Iterator[Path]:
    """A pin root; the set's device is there before and after."""
    subprocess.run(["ip", "link", "add", DEVICE, "type", "veth", "peer", "crash1"], check=True)
    yield bpffs
    subprocess.run(["ip", "link", "del", DEVICE], check=True)


def traced(*options: str, words: list[str], root: Path) -> int:
    """Run the command under strace and return how it ended, a signal as a negative number."""
    need("strace")
    command = [sys.executable, "-m", "bpfpin", *words, "--pin-root", str(root)]
    return subprocess.run(
        ["strace", "-f", "-qq", *options, *command],
        env=LEAVES_NO_BYTECODE,
        capture_output=True,
        timeout=30,
        check=False,
    ).returncode


def points(words: list[str], root: Path, log: Path) -> list[tuple[str, int]]:
    """Run the command once to its end, and return the calls to be killed at: (name, number)."""
    ending = traced("-e", f"trace={','.join(CALLS)}", "-o", str(log), words=words, root=root)
    assert ending == 0
    made = Counter(re.findall(r"^(?:\d+ +)?(\w+)\(", log.read_text(), re.MULTILINE))
    return [
        (name, number)
        for name in CALLS
        for number in range(1, made[name] + 1)
        if name != "bpf" or number % SAMPLE == 1
    ]


def killed(point: tuple[str, int], *, words: list[str], root: Path) -> bool:
    """Kill the command when it enters the call, and say whether that happened."""
    name, number = point
    inject = f"inject={name}:signal=SIGKILL:when={number}"
    options = ["-o", os.devnull, "-e", f"trace={name}", "-e", inject]
    return traced(*options, words=words, root=root) == -signal.SIGKILL


def names(root: Path) -> list[str]:
    """Return all names below the pin root but the lock's and the kernel's own."""
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    return [name for name in found if name != "bpfpin~" and "." not in name]


def looked_at(root: Path) -> list[SetState]:
    """Return what `status` says of the sets, after checking that looking changes nothing."""
    before = names(root)
    states = [found.state for found in status(pin_root=root).sets]
    assert names(root) == before
    return states


def is_free() -> bool:
    return xdp_holder(socket.if_nametoindex(DEVICE)) is None


def unload_if_there(root: Path) -> None:
    with contextlib.suppress(PinNotFoundError):
        undeploy(DEVICE, pin_root=root)


def test_a_load_killed_at_any_step_is_healed_by_the_next(root: Path, tmp_path: Path) -> None:
    words = ["load", "--dev", DEVICE]
    whole = points(words, root, tmp_path / "log")
    loaded = names(root)
    undeploy(DEVICE, pin_root=root)
    outcomes = set()
    for point in whole:
        assert killed(point, words=words, root=root), point
        states = looked_at(root)
        with deploy("builtin:xdp_stats", device=DEVICE, pin_root=root) as deployment:
            outcomes.add((*states, deployment.report.result))
        assert names(root) == loaded, point
        assert looked_at(root) == [SetState.OK], point
        undeploy(DEVICE, pin_root=root)
        assert names(root) == [], point

    assert {name for name, _ in whole} == set(CALLS)
    assert outcomes == {
        (LoadResult.LOADED,),
        (SetState.HALF_BUILT, LoadResult.LOADED),
        (SetState.HALF_BUILT, LoadResult.UNCHANGED),
        (SetState.OK, LoadResult.UNCHANGED),
    }


def test_an_unload_killed_at_any_step_is_finished_by_the_next(root: Path, tmp_path: Path) -> None:
    words = ["unload", DEVICE]
    deploy("builtin:xdp_stats", device=DEVICE, pin_root=root).close()
    whole = points(words, root, tmp_path / "log")
    outcomes = set()
    for point in whole:
        deploy("builtin:xdp_stats", device=DEVICE, pin_root=root).close()
        assert killed(point, words=words, root=root), point
        outcomes.add(tuple(looked_at(root)))
        unload_if_there(root)
        assert names(root) == [], point
        wait_until(is_free)

    assert {name for name, _ in whole} == {"bpf", "mkdirat", "renameat2", "unlinkat"}
    assert outcomes == {(SetState.OK,), (SetState.HALF_BUILT,)}
