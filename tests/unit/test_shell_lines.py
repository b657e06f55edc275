"""The lines that messages tell the user to type."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import bpfpin
from bpfpin.hints import Placeholder, shell_line
from support.cli import run_cli

SOURCES = Path(bpfpin.__file__).parent
VERBS = ["load", "unload", "status", "stats", "map", "confirm", "action", "check", "lab", "clean"]
# What ends just before a value: a command with its verbs and options, without a value of its own.
COMMAND = re.compile(
    rf"(?:^|[ (:;`])(?:bpfpin (?:{'|'.join(VERBS)})(?: [a-z]+)?|rm|rmdir|ls|mv|chmod \d+)"
    r"(?: -{1,2}[a-z-]+)*[ =]$"
)
IDS = {"map_id", "link_id", "id", "number"}  # integers need no quotes


@pytest.mark.parametrize("name", ["a b", "*", "$(id)", "-x", "--help", "'", "", "#", "~", "lab0"])
def test_a_name_in_a_line_is_one_word_of_the_shell(name: str) -> None:
    line = shell_line("bpfpin unload --keep-maps", name)
    words = shlex.split(line)
    before = ["--"] if name.startswith("-") else []

    assert words == ["bpfpin", "unload", "--keep-maps", *before, name]


def test_the_value_of_an_option_is_not_taken_for_an_option() -> None:
    assert shell_line("bpfpin load", dev="-x") == "bpfpin load --dev=-x"
    assert shell_line("bpfpin action", "a b", "XDP_PASS", confirm=30) == (
        "bpfpin action --confirm 30 'a b' XDP_PASS"
    )


def test_a_placeholder_stays_as_it_is() -> None:
    assert shell_line("bpfpin load", dev=Placeholder("DEV|…")) == "bpfpin load --dev DEV|…"


def test_a_line_with_a_name_that_begins_with_a_dash_is_understood(tmp_path: Path) -> None:
    _, *words = shlex.split(shell_line("bpfpin check", "-x.o"))

    assert "no such file" in run_cli(*words).stderr


def lines_with_a_bare_value() -> Iterator[str]:
    """Yield the places where a value is put behind a command without `shell_line`."""
    for source in SOURCES.rglob("*.py"):
        nodes = ast.walk(ast.parse(source.read_text()))
        for node in (node for node in nodes if isinstance(node, ast.JoinedStr)):
            for text, value in itertools.pairwise(node.values):
                is_text = isinstance(text, ast.Constant) and COMMAND.search(str(text.value))
                if is_text and isinstance(value, ast.FormattedValue) and not _is_quoted(value):
                    yield f"{source.relative_to(SOURCES)}:{node.lineno}"


def _is_quoted(value: ast.FormattedValue) -> bool:
    inner = value.value
    if isinstance(inner, ast.Attribute):
        return inner.attr in IDS
    # A constant is of ours, such as the `id:` before an id.
    return isinstance(inner, ast.Name) and (inner.id in IDS or inner.id.isupper())


def test_every_line_that_is_shown_quotes_its_values() -> None:
    assert list(lines_with_a_bare_value()) == []


def test_the_search_for_bare_values_sees_them() -> None:
    for text in ("bpfpin unload ", "see: bpfpin map dump ", "first: rm -r ", "bpfpin load --dev "):
        assert COMMAND.search(text)
