"""The commands and programs that README and docs/ show."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bpfpin.attach.cgroup_path import cgroup2_mount
from support.wait import HANG_S

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"# (\w+\.py)\n")
_OWN_NAMESPACES = (
    "set -e; mount -t tmpfs tmpfs /run; mkdir /run/netns; mount -t bpf bpf /sys/fs/bpf;"
    " ip link set lo up; set +e\n"
)
_CGROUP = re.compile(r"mkdir \$cgroups/(\w+)")
_SUDO = 'sudo() { "$@"; }\n'
PATH_LINE = f"export PATH={Path(sys.executable).parent}:$PATH\n"
_BEFORE_COMMAND = "\x1e"  # the record separator of ASCII


@dataclass(frozen=True)
class Step:
    """A command of a document, and the lines of output shown below it, if any."""

    command: str
    shown: list[str] = field(default_factory=list)


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of *language* in the document, in order."""
    return [text for name, text in _BLOCK.findall(path.read_text()) if name == language]


def programs(path: Path) -> dict[str, str]:
    """Return the document's Python programs by the file's name, the comment they begin with."""
    found = [(_FILE_NAME.match(text), text) for text in blocks(path, "python")]
    return {match[1]: text for match, text in found if match}


def commands(path: Path) -> list[str]:
    """Return the lines behind `$ ` in the document's console blocks, in order."""
    return [step.command for step in steps(path)]


def steps(path: Path) -> list[Step]:
    """Return the commands of the document's console blocks, each with what is shown below it."""
    found: list[Step] = []
    for block in blocks(path, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:]))
            else:
                found[-1].shown.append(line)
    return found


def run_session(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a bash script in *folder*, in mount and network namespaces of its own.

    Whatever it leaves (devices, namespaces, pins, links, also of a script that failed in the
    middle) ends with them, so that no other session meets it.
    """
    command = ["unshare", "--mount", "--net", "--propagation", "private", "bash", "-c"]
    # Into a file: what stays in the background may hold a pipe open.
    with (
        tempfile.TemporaryFile("w+") as talk,
        subprocess.Popen(
            [*command, _OWN_NAMESPACES + script],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=talk,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as session,
    ):
        try:
            session.wait(timeout=HANG_S)
        finally:
            with suppress(ProcessLookupError):  # what it left running in the background
                os.killpg(session.pid, signal.SIGKILL)
            for name in _CGROUP.findall(script):  # the one thing that namespaces do not end
                with suppress(OSError):
                    (cgroup2_mount() / name).rmdir()
        talk.seek(0)
        output = talk.read()
    return subprocess.CompletedProcess(command, session.returncode, output)


def shell_script(path: Path) -> str:
    """Return a bash script that runs the document's commands and stops at the first failure.

    A command followed by `# exit N` must end with N.
    """
    return (
        f"exec 2>&1\n{_SUDO}{PATH_LINE}"
        + "\n".join(_checked(line) for line in commands(path))
        + "\n"
    )


def unlike(path: Path, output: str) -> list[str]:
    """Return the commands that wrote something else than is shown, with what they wrote."""
    written = output.split(_BEFORE_COMMAND)[1:]
    return [
        f"$ {step.command}\n{text}"
        for step, text in zip(steps(path), written, strict=True)
        if step.shown and not _pattern(step.shown).fullmatch(text)
    ]


def _pattern(shown: list[str]) -> re.Pattern[str]:
    """Return what output may be: `…` stands for some text, as a line for some lines."""
    lines = [
        "(?:.*\\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + "\\n"
        for line in shown
    ]
    return re.compile("".join(lines))


def _checked(line: str) -> str:
    command, _, expected = line.partition("  # exit ")
    code = int(expected or 0)
    return (
        f"printf '{_BEFORE_COMMAND}'\n"
        f'{command}\nstatus=$?; [ $status = {code} ] || {{ echo "exit $status, expected {code}: "'
        f" {_quoted(command)}; exit 1; }}"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
