"""The commands and programs that README and docs/ show."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"# (\w+\.py)\n")
_SUDO = 'sudo() { "$@"; }\n'
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


def shell_script(path: Path) -> str:
    """Return a bash script that runs the document's commands and stops at the first failure.

    A command followed by `# exit N` must end with N.
    """
    path_line = f"export PATH={Path(sys.executable).parent}:$PATH\n"
    start = f"exec 2>&1\n{_SUDO}{path_line}"
    return start + "\n".join(_checked(line) for line in commands(path)) + "\n"


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
