"""From an exception to a sentence, an exit code and the line to type."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bpfpin
from bpfpin.cli.failure import describe
from bpfpin.cli.output import Terminated
from bpfpin.errors import (
    BusyError,
    Difference,
    IncompatibleMapError,
    PermissionDeniedError,
    VerifierError,
)
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.migration.refusal import RuleChoice
from bpfpin.migration.request import Migration, Rule
from bpfpin.spec import XdpMode


@pytest.fixture
def ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["venv/bin/bpfpin"])


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (BusyError("held"), 7),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (PermissionError(13, "Permission denied", "x.o"), 3),
        (FileNotFoundError(2, "No such file or directory", "x.o"), 4),
        (OSError(28, "No space left on device"), 1),
        (ZeroDivisionError(), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_error_has_its_exit_code(error: BaseException, exit_code: int) -> None:
    assert describe(error, words=[]).exit == exit_code


def test_a_signal_after_a_change_that_failed_is_reported_with_the_failure() -> None:
    error = KeyboardInterrupt()
    error.__cause__ = BusyError("lab0 is in use", hint="try again")
    failure = describe(error, words=[])

    assert (failure.type, failure.exit) == ("KeyboardInterrupt", 130)
    assert failure.message == "interrupted; the change had failed before: lab0 is in use"
    assert failure.hint == "try again"


def test_differences_are_listed_in_the_document() -> None:
    error = IncompatibleMapError("no fit", differences=[Difference("m", "key_size", "4", "8")])

    document = describe(error, words=[]).document()["error"]

    assert document["differences"] == [{"map": "m", "field": "key_size", "old": "4", "new": "8"}]
    assert document["message"] == "no fit\n  m: key_size: 4 -> 8"


@pytest.mark.usefixtures("ordinary_user")
def test_a_missing_privilege_comes_with_a_sudo_line_of_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my prog.o").touch()
    error = PermissionDeniedError("loading", missing=["CAP_BPF"], errno=1)

    failure = describe(error, words=["load", "my prog.o", "--dev", "lab0", "--x=my prog.o"])

    assert failure.message.endswith("missing: CAP_BPF")
    program, file = tmp_path / "venv/bin/bpfpin", tmp_path / "my prog.o"
    assert failure.hint == f"sudo {program} load '{file}' --dev lab0 '--x={file}'"


@pytest.mark.usefixtures("ordinary_user")
def test_the_sudo_line_of_the_module_names_the_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["/src/bpfpin/__main__.py"])

    hint = describe(PermissionDeniedError("no"), words=["map", "list"]).hint

    assert hint == f"sudo {sys.executable} -P -m bpfpin map list"


def test_root_without_a_capability_is_not_told_to_use_sudo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    hint = describe(PermissionDeniedError("no", missing=["CAP_BPF"]), words=["map"]).hint

    assert "sudo" not in hint
    assert "capability" in hint


def test_what_the_verifier_said_is_in_the_document() -> None:
    error = VerifierError("refused", log="0: r0 = 0\nR0 !read_ok\n", telling_line="R0 !read_ok")
    error.cause, error.file, error.line, error.source = "loop", "a.c", 7, "return;"

    document = describe(error, words=[]).document()["error"]

    assert document["verifier"] == {
        "cause": "loop",
        "telling_line": "R0 !read_ok",
        "reason": "",
        "suggestion": "",
        "file": "a.c",
        "line": 7,
        "source": "return;",
        "instructions": (),
        "registers": {},
    }
    assert "verifier" not in describe(BusyError("held"), words=[]).document()["error"]


NAME = Placeholder("NAME")


@pytest.mark.parametrize(
    ("argument", "in_python", "on_the_command_line"),
    [
        (Argument("take_over"), "take_over=True", "--take-over"),
        (Argument("name", NAME), "name=NAME", "--name NAME"),
        (Argument("name", "web"), "name='web'", "--name web"),
        (Argument("confirm_s", 30), "confirm_s=30", "--confirm 30"),
        (Argument("mode", XdpMode.GENERIC), "mode='generic'", "--mode generic"),
        (Argument("fresh", ["a", "b"]), "fresh=['a', 'b']", "--fresh a --fresh b"),
        (Argument("maps", {"a": Placeholder("PATH")}), "maps={'a': PATH}", "--map a=PATH"),
        (Argument("program_type", "xdp"), "program_type='xdp'", "--type xdp"),
        (Argument("start", None), "start", "--start"),
        (
            Argument("rules", {"bytes": RuleChoice([Rule.SUM, Rule.KEEP_NEW])}),
            "rules={'bytes': Rule.SUM or Rule.KEEP_NEW}",
            "--rule bytes=sum|keep-new",
        ),
        (
            Argument("layouts", {"m": ["u64 a; u64 b", Placeholder("LAYOUT")]}),
            "layouts={'m': ['u64 a; u64 b', LAYOUT]}",
            "--layout m='u64 a; u64 b' --layout m=LAYOUT",
        ),
        (
            Argument("migrate", Migration(dropped=["a", "b"], renamed={"c": NAME}, clamp=True)),
            "migrate=Migration(renamed={'c': NAME}, dropped=['a', 'b'], clamp=True)",
            "--migrate --rename c=NAME --drop a --drop b --clamp",
        ),
        (Argument("migrate", Migration()), "migrate=Migration()", "--migrate"),
    ],
)
def test_a_fix_is_an_argument_in_python_and_an_option_of_the_command(
    argument: Argument, in_python: str, on_the_command_line: str
) -> None:
    error = BusyError("held", hint=Fix.of("use ", argument, "."))

    assert error.hint == f"use {in_python}."
    assert describe(error, words=[]).hint == f"use {on_the_command_line}."


def test_arguments_that_follow_each_other_are_separated_as_in_a_call() -> None:
    error = BusyError("held", hint=Fix.of("add ", Argument("clamp"), Argument("dropped", ["a"])))

    assert error.hint == "add clamp=True, dropped=['a']"
    assert describe(error, words=[]).hint == "add --clamp --drop a"


def test_a_fix_that_is_extended_keeps_its_arguments() -> None:
    error = BusyError("held", hint=Fix.of("use ", Argument("replace")))
    error.fix = error.fix.joined("or wait", separator="\n")

    assert describe(error, words=[]).hint == "use --replace\nor wait"
    assert BusyError("held").fix.joined("wait", separator="\n").text() == "wait"


def hint_texts(tree: ast.AST) -> Iterator[str]:
    """Yield the texts in the hints and fixes that *tree* makes."""
    for node in ast.walk(tree):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Call):
            parts += [word.value for word in node.keywords if word.arg in ("hint", "fix")]
            parts += node.args if ast.unparse(node.func) == "Fix.of" else []
        elif isinstance(node, ast.Assign):
            targets = [each.attr for each in node.targets if isinstance(each, ast.Attribute)]
            parts += [node.value] if {"hint", "fix"} & set(targets) else []
        for inner in (inner for part in parts for inner in ast.walk(part)):
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                yield inner.value


def test_the_library_names_options_in_lines_of_a_command_alone() -> None:
    """Elsewhere a hint has arguments, which Python callers can pass."""
    option, command = re.compile(r"(?<![\w-])--[a-z]"), re.compile(r"\b(bpfpin|nsenter) ")
    root = Path(bpfpin.__file__).parent
    library = [path for path in root.rglob("*.py") if not path.is_relative_to(root / "cli")]
    texts = [text for path in library for text in hint_texts(ast.parse(path.read_text()))]
    lines = [text for text in texts if option.search(text)]

    assert len(texts) > 200
    assert [line for line in lines if not command.search(option.split(line)[0])] == []
