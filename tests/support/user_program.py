"""The program of tests/user that uprobes are attached to: compiled once, and run as a process."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.objects import IS_GUEST, KEPT
from support.tools import need

SOURCE = Path(__file__).parent.parent / "user" / "probed.c"


@functools.cache
def probed() -> Path:
    """Return the path of the compiled program; skip the test without a compiler."""
    kept = KEPT / "probed"
    if IS_GUEST and kept.exists():
        return kept
    need("gcc")
    folder = Path(tempfile.mkdtemp(prefix="bpfpin-probed-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = folder / "probed"
    subprocess.run(["gcc", "-O1", "-o", target, SOURCE], check=True)
    if KEPT.is_dir():
        shutil.copy(target, kept.with_suffix(".new"))
        kept.with_suffix(".new").replace(kept)
    return target


class Probed:
    """A running process of the program."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def call(self, number: int) -> None:
        """Call each function *number* times, and wait until that is done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


@contextmanager
def looping(what: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program as it loops, by `calls` or `faults`; it has said "started"."""
    words = [str(probed()), what]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def running(program: Path | None = None) -> Iterator[Probed]:
    """Run the program, or a copy of it, until the end of the block."""
    words = [str(program or probed())]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Probed(process)
        finally:
            process.kill()
