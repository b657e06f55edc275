"""Reloads of programs at hooks whose links cannot change their program: each event counts once."""

from __future__ import annotations

import itertools
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bpfpin.objects.maps.map import Map
from support.cli import run_cli_ok
from support.objects import compiled
from support.wait import HANG_S, wait_until

if TYPE_CHECKING:
    from proof.conftest import Table

pytestmark = pytest.mark.lab

ON_CALL, ON_RAW = 0, 2
SCHED_GETPARAM = {"x86_64": 143, "aarch64": 121}  # asm/unistd.h
# As fast as it can, until it is terminated; then the number of calls.
CALLER = """
import os, signal
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
call, made = os.sched_getparam, 0
print("started", flush=True)
while not stop:
    for _ in range(1000):
        call(0)
    made += 1000
print(made)
"""


@pytest.fixture(scope="module")
def tracing_table(table: Table) -> Table:
    """A row for each kind of hook."""
    table.begin(
        "Reloads under events",
        ("hook", "reloads", "events/s", "events", "counted", "lost or doubled"),
    )
    return table


@contextmanager
def caller() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", CALLER], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("anywhere:tracepoint=syscalls/sys_enter_sched_getparam", ON_CALL),
        ("on_pid:raw-tracepoint=sys_enter", ON_RAW),
    ],
    ids=["tracepoint", "raw-tracepoint"],
)
def test_each_event_is_seen_by_one_program(
    bpffs: Path, tracing_table: Table, word: str, kind: int, *, is_full: bool
) -> None:
    reloads = 20 if is_full else 4
    call = f"SCHED_GETPARAM={SCHED_GETPARAM[platform.machine()]}"
    sources = [compiled("tracing", defines=(f"VERSION={number}", call)) for number in (1, 2)]

    def counted() -> int:
        with Map.from_pin(bpffs / "seen" / "seen") as seen:
            return int(seen[kind])

    def load(source: Path) -> str:
        words = ("--name", "seen", "--pin-root", bpffs, "--prog", word, "-o", "json")
        return str(run_cli_ok("load", source, *words).json["result"])

    load(sources[0])
    start = time.monotonic()
    with caller() as process:
        results = []
        for source in itertools.islice(itertools.cycle(reversed(sources)), reloads):
            before = counted()
            results.append(load(source))
            wait_until(lambda: counted() > before)  # noqa: B023  (it returns before the next round)
        process.terminate()
        made, _ = process.communicate(timeout=HANG_S)
    seconds = time.monotonic() - start
    with suppress(AssertionError):
        wait_until(lambda: counted() == int(made))
    wrong = int(made) - counted()
    hook = word.partition(":")[2].partition("=")[0]
    rate = f"{int(made) / seconds:,.0f}"
    tracing_table.row((hook, reloads, rate, f"{int(made):,}", f"{counted():,}", wrong))

    assert results == ["reloaded"] * reloads
    assert wrong == 0
