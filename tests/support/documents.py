"""The commands and programs that README and docs/ show."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SUDO = 'sudo() { "$@"; }\n'


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of *language* in the document, in order."""
    return [text for name, text in _BLOCK.findall(path.read_text()) if name == language]


def commands(path: Path) -> list[str]:
    """Return the lines behind `$ ` in the document's console blocks, in order."""
    lines = [line for block in blocks(path, "console") for line in block.splitlines()]
    return [line[2:] for line in lines if line.startswith("$ ")]


def shell_script(path: Path) -> str:
    """Return a bash script that runs the document's commands and stops at the first failure.

    A command followed by `# exit N` must end with N.
    """
    path_line = f"export PATH={Path(sys.executable).parent}:$PATH\n"
    return _SUDO + path_line + "\n".join(_checked(line) for line in commands(path)) + "\n"


def _checked(line: str) -> str:
    command, _, expected = line.partition("  # exit ")
    code = int(expected or 0)
    return (
        f'{command}\nstatus=$?; [ $status = {code} ] || {{ echo "exit $status, expected {code}: "'
        f" {_quoted(command)} >&2; exit 1; }}"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
