"""`bpfpin prog log` and `prog stats`: what programs write, and how often they run and how long."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bpfpin.errors import NotSupportedError
from bpfpin.loading.collection import Loaded, load
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from bpfpin.syscall import bpf
from bpfpin.uapi import ProgramType, StreamId
from support import isolation
from support.cli import run_cli
from support.foreign_links import program as small_program
from support.here import run_here
from support.nobody import run_cli_as_nobody
from support.objects import compiled
from support.wait import wait_until

NUMBER = os.getpid()  # other tests on this machine may write at the same time
CONTEXT = NUMBER.to_bytes(4, "little")


@pytest.fixture
def tracefs(tmp_path: Path) -> Iterator[Path]:
    """The tracefs, which the machine may not have mounted."""
    folder = tmp_path / "tracefs"
    folder.mkdir()
    isolation.mount("tracefs", folder)
    yield folder
    isolation.umount(folder)


@contextmanager
def loaded(name: str) -> Iterator[Program]:
    """Load one program of program_log.bpf.c."""
    with load(read_object(compiled("program_log", "clang")), programs=[name]) as objects:
        assert isinstance(objects, Loaded)
        yield objects.programs[name]


def test_what_bpf_printk_writes_is_shown(tracefs: Path) -> None:
    with loaded("speak") as speak:
        rows: list[Any] = []

        def is_read() -> bool:
            # Somebody else may read the pipe, and then has the line.
            speak.test_run(context=CONTEXT)
            document = run_here("prog", "log", "-o", "json").json
            rows.extend(row for row in document["lines"] if row["text"] == f"speaks {NUMBER}")
            return bool(rows)

        wait_until(is_read)
        row = rows[0]
        assert row["pid"] == NUMBER
        assert row["time_since_boot_s"] > 0

        def said() -> bool:
            speak.test_run(context=CONTEXT)
            return f"-{NUMBER}: speaks {NUMBER}\n" in run_here("prog", "log", "--now").stdout

        wait_until(said)


def test_following_ends_after_the_lines_that_were_asked_for(tracefs: Path) -> None:
    with loaded("speak") as speak, calling(speak, CONTEXT):
        result = run_here("prog", "log", "--count", 2, "-o", "ndjson")

    assert len(result.json_lines) == 2


def test_without_tracefs_the_line_to_mount_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpfpin.host.program_log.fs.mounts", list)
    result = run_here("prog", "log", "--now", "-o", "json")

    assert result.json["error"]["exit"] == 4
    assert result.json["error"]["hint"] == "mount -t tracefs tracefs /sys/kernel/tracing"


def test_the_streams_of_a_program_are_shown() -> None:
    with small_program(ProgramType.SOCKET_FILTER, "silent") as silent:
        try:
            bpf.prog_stream_read(silent.fd, StreamId.STDOUT, 16)
        except NotSupportedError as error:
            assert run_here("prog", "log", f"id:{silent.id}", "--now").exit_code == 8
            pytest.skip(str(error))
    if b" bpf_stream_vprintk" not in Path("/proc/kallsyms").read_bytes():
        pytest.skip("this kernel has no bpf_stream_vprintk()")
    with loaded("tell") as tell:
        if tell.test_run(context=CONTEXT).return_value == (1 << 32) - errno.ENOMEM:
            # kmalloc_nolock() of mm/slub.c has nothing to give in some configurations.
            pytest.skip("this kernel has no memory for streams: bpf_stream_vprintk() is ENOMEM")
        document = run_here("prog", "log", f"id:{tell.id}", "-o", "json").json
        own = {"id": tell.id, "name": "tell"}
        expected = [
            (own, "stdout", f"stream 1 says {NUMBER}"),
            (own, "stderr", f"stream 2 says {NUMBER}"),
            (own, "stdout", "unfinished"),
            (own, "stderr", "unfinished"),
        ]
        rows = [(row["program"], row["stream"], row["text"]) for row in document["lines"]]
        assert rows == expected
        # Each text is given once.
        assert run_here("prog", "log", f"id:{tell.id}", "--now").stdout == ""
        tell.test_run(context=CONTEXT)
        text = run_here("prog", "log", f"id:{tell.id}", "--count", 1).stdout
        assert text == f"{tell.id}:tell stdout: stream 1 says {NUMBER}\n"


@contextmanager
def calling(program: Program, context: bytes = b"", data: bytes = b"") -> Iterator[None]:
    """Run a program again and again during the block."""
    ends = threading.Event()

    def call() -> None:
        while not ends.is_set():
            program.test_run(data, context=context)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def test_stats_measure_the_runs_of_programs_that_are_named() -> None:
    with (
        small_program(ProgramType.XDP, "busy", answer=2) as busy,
        small_program(ProgramType.XDP, "idle", answer=2) as idle,
        calling(busy, data=bytes(64)),
    ):
        words = (f"id:{busy.id}", f"id:{idle.id}", "--interval", 0.5, "--count", 2)
        result = run_here("prog", "stats", *words, "-o", "ndjson")
        counted = busy.info.run_count
        name = f"id:{busy.id}"
        text = run_here("prog", "stats", name, "--interval", 0.2, "--count", 1).stdout

    rows = result.json_lines
    assert [row["name"] for row in rows] == ["busy", "idle"] * 2
    # A busy machine may not have run it in one of the intervals.
    ran = [row for row in rows[::2] if row["runs"]]
    assert ran
    for row in ran:
        assert row["average_ns"] == pytest.approx(row["run_time_ns"] / row["runs"], abs=0.1)
        assert 0 < row["cpu_share"] < 1
        assert row["runs_per_second"] > 0
    assert {(row["runs"], row["average_ns"]) for row in rows[1::2]} == {(0, None)}
    # The kernel's numbers stay after the measurement.
    assert counted >= sum(row["runs"] for row in rows[::2])
    header, line = text.splitlines()
    assert header.split() == ["time", "id", "name", "type", "runs/s", "ns/run", "%", "CPU"]
    assert line.split()[1:4] == [name.removeprefix("id:"), "busy", "xdp"]


def test_top_puts_the_program_that_takes_the_most_first() -> None:
    with (
        small_program(ProgramType.XDP, "busy", answer=2) as busy,
        small_program(ProgramType.XDP, "idle", answer=2) as idle,
        calling(busy, data=bytes(64)),
    ):
        names = (f"id:{idle.id}", f"id:{busy.id}", "--interval", 0.5)
        frames = run_here("prog", "top", *names, "--count", 3, "-o", "ndjson").json_lines
        (one,) = run_here("prog", "top", *names, "-o", "json").json["frames"]
        by_runs = run_here("prog", "top", *names, "--count", 2, "--sort", "runs", "--rows", 1)
        everything = run_here("prog", "top", "--interval", 0.5, "-o", "json").json["frames"]

    assert [[row["name"] for row in frame["programs"]] for frame in frames] == [
        ["busy", "idle"]
    ] * 3
    totals = [frame["programs"][0]["total_run_time_ns"] for frame in frames]
    times = [frame["programs"][0]["run_time_ns"] for frame in frames]
    assert totals == [sum(times[:1]), sum(times[:2]), sum(times)]
    for frame in (*frames, one):
        shares = [row["cpu_share"] for row in frame["programs"]]
        assert frame["cpu_share"] == pytest.approx(sum(shares), abs=1e-6)
        assert 1 > shares[0] >= shares[1] == 0
    # Not in each interval: a busy machine may not have run it in one of them.
    assert totals[-1] > 0
    blocks = [block.splitlines() for block in by_runs.stdout.split("\n\n")]
    assert len(blocks) == 2
    for title, header, *rows in blocks:
        assert re.fullmatch(r"[\d:]{8}  (1 program|0 programs) ran: [\d.]+ % of a CPU", title)
        assert header.split()[:3] == ["id", "name", "type"]
        assert [row.split()[1] for row in rows] == ["busy"]
    assert "busy" in {row["name"] for row in everything[0]["programs"]}


def on_a_terminal(*words: str) -> str:
    """Run a line on a terminal, and return all that it wrote there."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "bpfpin", *words]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "24"}
    with subprocess.Popen(command, stdout=theirs, env=environment) as process:
        os.close(theirs)
        shown = bytearray()
        with contextlib.suppress(OSError):  # EIO: it ended, and with it the other side
            while data := os.read(ours, 65536):
                shown += data
        assert process.wait() == 0
    os.close(ours)
    return shown.decode()


def test_top_refreshes_a_table_on_a_terminal() -> None:
    with small_program(ProgramType.XDP, "busy", answer=2) as busy, calling(busy, data=bytes(64)):
        words = ("prog", "top", f"id:{busy.id}", "--interval", "0.2", "--count", "3")
        screen = on_a_terminal(*words)

    # Each interval is drawn over the one before; the last one is drawn again when it stays.
    assert screen.count(" ran: ") == screen.count("runs/s") >= 3
    assert "\x1b[1A" in screen  # a line up


def test_statistics_are_on_only_while_they_are_measured() -> None:
    with small_program(ProgramType.XDP, "busy", answer=2) as busy:
        with calling(busy, data=bytes(64)):
            document = run_here("prog", "stats", "--interval", 0.2, "-o", "json").json
        after = busy.info.run_count
        busy.test_run(bytes(64), repeat=100)

        assert after > 0
        assert any(row["id"] == busy.id for row in document["rows"])
        assert "busy" in run_here("prog", "list", "--sort", "-runs").stdout


def test_a_named_program_that_is_unloaded_ends_the_measurement() -> None:
    program = small_program(ProgramType.XDP, "short", answer=2)
    name, program_id = f"id:{program.id}", program.id
    ending = threading.Thread(target=lambda: _close_when_counted(program))
    ending.start()
    result = run_here("prog", "stats", name, "--interval", 0.05)
    ending.join()

    assert result.exit_code == 0
    assert result.stderr == f"program {program_id} is unloaded\n"


def _close_when_counted(program: Program) -> None:
    def is_counted() -> bool:
        program.test_run(bytes(64))
        return program.info.run_count > 0

    wait_until(is_counted)
    program.close()


def test_an_ordinary_user_may_not_measure() -> None:
    result = run_cli_as_nobody("prog", "stats", "--count", "1")

    assert result.exit_code == 3
    assert "CAP_SYS_ADMIN" in result.stderr
    assert run_cli("prog", "stats", "--interval", "0").exit_code == 2
