"""The tools of examples/tools, run as users run them, with events that happen."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from bpfpin.objects.kernel.info import programs
from support.documents import ROOT
from support.objects import compiled_example
from support.tools import need
from support.user_program import probed
from support.user_program import running as probed_process
from support.wait import HANG_S

pytestmark = pytest.mark.usefixtures("only_caller")

TOOLS = ROOT / "examples" / "tools"
MAX_LINES = 60
CALLS = 50
NESTED = """
__attribute__((noinline, noclone)) int nested(int depth)
{
    __asm__ volatile("");
    return depth ? nested(depth - 1) + 1 : 0;
}
int main(void) { return nested(9) != 9; }
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A copy of the tools, with their objects compiled."""
    with tempfile.TemporaryDirectory() as name:
        for path in TOOLS.glob("*.py"):
            shutil.copy(path, name)
            shutil.copy(compiled_example(f"tools/{path.stem}"), Path(name) / f"{path.stem}.bpf.o")
        yield Path(name)


@dataclass(frozen=True)
class Tool:
    """A running tool."""

    process: subprocess.Popen[str]

    def line(self, pattern: str) -> re.Match[str]:
        """Return the next line that matches."""
        while text := self.output.readline():
            if match := re.match(pattern, text):
                return match
        raise AssertionError(f"no line like {pattern}")

    @property
    def output(self) -> IO[str]:
        """What it writes to stdout."""
        assert self.process.stdout is not None
        return self.process.stdout


@contextlib.contextmanager
def running(folder: Path, tool: str, *words: object) -> Iterator[Tool]:
    """Run a tool until the end of the block; Ctrl-C ends it."""
    command = [sys.executable, str(folder / f"{tool}.py"), *map(str, words)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        hanging = threading.Timer(HANG_S, process.kill)
        hanging.start()
        try:
            # The first line is written once everything is attached.
            first = process.stdout.readline()
            assert first, process.stderr.read()
            yield Tool(process)
            process.send_signal(signal.SIGINT)
            assert (process.wait(), process.stderr.read()) == (0, "")
        finally:
            hanging.cancel()
            process.kill()


def test_every_tool_is_a_source_and_a_short_script() -> None:
    scripts = {path.stem: path.read_text().splitlines() for path in TOOLS.glob("*.py")}
    sources = {path.name.removesuffix(".bpf.c") for path in TOOLS.glob("*.bpf.c")}

    assert (
        set(scripts)
        == sources
        >= {
            "opens",
            "execs",
            "latency",
            "connects",
            "bpf_calls",
            "functions",
        }
    )
    assert {name: len(lines) for name, lines in scripts.items() if len(lines) >= MAX_LINES} == {}
    assert all(".attach(" in "".join(lines) for lines in scripts.values())


def test_who_opens_files(folder: Path, tmp_path: Path) -> None:
    there, missing = tmp_path / "there", tmp_path / "missing"
    there.touch()
    with running(folder, "opens", os.getpid()) as tool:
        with there.open():
            pass
        with contextlib.suppress(FileNotFoundError):
            missing.open()
        opened = tool.line(rf"\s*(\d+) (.{{16}}) (\S+)\s+{re.escape(str(there))}\n")
        refused = tool.line(rf"\s*(\d+) (.{{16}}) (\S+)\s+{re.escape(str(missing))}\n")

    assert int(opened[1]) == os.getpid()
    assert opened[3].isdigit()
    assert refused[3] == "ENOENT"


def test_who_executes(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "executed"
    program.symlink_to(shutil.which("true") or "/bin/true")
    with running(folder, "execs") as tool, subprocess.Popen([program]) as process:
        seen = tool.line(rf"\s*(\d+)\s+(\d+)\s+(\d+) (.{{16}}) {re.escape(str(program))}\n")

    own_name = Path("/proc/self/comm").read_text().strip()
    assert [int(seen[number]) for number in (1, 2, 3)] == [process.pid, os.getuid(), os.getpid()]
    assert seen[4].strip() == own_name


def test_how_long_a_system_call_takes(folder: Path) -> None:
    with running(folder, "latency", "sched_rr_get_interval") as tool:
        for _ in range(CALLS):
            os.sched_rr_get_interval(0)
        tool.process.send_signal(signal.SIGINT)
        rest = tool.output.read()
        tool.process.wait()  # a second Ctrl-C would come while it ends
    rows = re.findall(r"^ *([\d,]+) - +([\d,]+) +(\d+)( #+)?$", rest, re.MULTILINE)
    counts = [int(row[2]) for row in rows]

    assert sum(counts) == CALLS
    assert len(rows[counts.index(max(counts))][3].strip()) == 40
    assert all(2 * int(row[0].replace(",", "")) == int(row[1].replace(",", "")) + 1 for row in rows)
    for seconds in ("0", "0.1"):
        command = [sys.executable, str(folder / "latency.py"), "sched_rr_get_interval", seconds]
        none = subprocess.run(command, capture_output=True, text=True, check=False)

        assert (none.returncode, none.stderr) == (1, "nobody called sched_rr_get_interval(2)\n")


def test_how_long_a_function_of_a_program_takes(folder: Path) -> None:
    with probed_process() as process:
        target = f"{probed()}:probed_sum,pid={process.pid}"
        with running(folder, "functions", target) as tool:
            process.call(CALLS)
            tool.process.send_signal(signal.SIGINT)
            rest = tool.output.read()
        tool.process.wait()  # a second Ctrl-C would come while it ends
    counts = [int(count) for count in re.findall(r"^ *[\d,]+ - +[\d,]+ +(\d+)", rest, re.MULTILINE)]
    each = re.search(rf"^{CALLS} calls, ([\d,]+) ns each$", rest, re.MULTILINE)

    assert sum(counts) == CALLS
    assert each
    assert int(each[1].replace(",", "")) > 0


def test_calls_of_a_function_by_itself_are_measured_each(folder: Path, tmp_path: Path) -> None:
    """The outer call takes as long as the inner ones together, and longer."""
    need("gcc")
    program = tmp_path / "nested"
    words = ["gcc", "-O1", "-fno-optimize-sibling-calls", "-x", "c", "-o", str(program), "-"]
    subprocess.run(words, input=NESTED, text=True, check=True)
    with running(folder, "functions", f"{program}:nested") as tool:
        subprocess.run([program], check=True)
        tool.process.send_signal(signal.SIGINT)
        rest = tool.output.read()
        tool.process.wait()  # a second Ctrl-C would come while it ends

    assert "10 calls, " in rest


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_who_connects_where(folder: Path, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with running(folder, "connects") as tool, socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection((address, port)):
            accepted = tool.line(rf"\s*(\d+) .{{16}}\s+[\d.]+ (\w+)\s+{address} port {port}\n")
        listener.close()
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection((address, port))
        refused = tool.line(rf"\s*(\d+) .{{16}}\s+[\d.]+ (\w+)\s+{address} port {port}\n")

    assert (int(accepted[1]), accepted[2]) == (os.getpid(), "yes")
    assert (int(refused[1]), refused[2]) == (os.getpid(), "no")


def test_who_calls_bpf(folder: Path) -> None:
    form = r"\s*{pid}\s+{uid} .{{16}}\s+\d+ (\S+)\s+{name}\n"
    own = functools.partial(form.format, pid=os.getpid(), uid=os.getuid())
    with running(folder, "bpf_calls") as tool:
        ids = [info.id for info in programs()]
        first = tool.line(own(name="BPF_PROG_GET_NEXT_ID"))
        last = tool.line(own(name="BPF_PROG_GET_NEXT_ID").replace(r"(\S+)", "(ENOENT)"))

    assert ids
    assert (first[1], last[1]) == ("0", "ENOENT")
