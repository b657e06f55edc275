"""Exceptions as the user sees them: message, hint, exit status and document."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import click

from bpfpin.cli.output import Terminated
from bpfpin.errors import (
    BpfError,
    ExitCode,
    IncompatibleMapError,
    PermissionDeniedError,
    VerifierError,
)
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.records import dataclass


@dataclass(frozen=True)
class Failure:
    """An exception as the command reports it."""

    type: str
    exit: int
    message: str
    hint: str = ""
    differences: tuple[dict[str, str], ...] = ()
    verifier: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """Return the content of the document; `verifier` is only in it for a `VerifierError`."""
        fields = {**asdict(self), "differences": list(self.differences)}
        if self.verifier is None:
            del fields["verifier"]
        return {"error": fields}


# Exceptions of Python that are not bugs of bpfpin; all others are.
# The first class that fits counts, so subclasses of OSError come before it.
_BUILTIN_EXITS: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
    (click.Abort, ExitCode.INTERRUPTED),
    (Terminated, ExitCode.TERMINATED),
    (PermissionError, ExitCode.PRIVILEGE),
    (FileNotFoundError, ExitCode.NOT_FOUND),
    (OSError, ExitCode.FAILURE),
)
_VERIFIER_FIELDS = [
    *("cause", "telling_line", "reason", "suggestion"),
    *("file", "line", "source", "instructions", "registers"),
]
# Options whose names are not those of the arguments.
_OPTIONS = {
    "confirm_s": "--confirm",
    "device": "--dev",
    "devices": "--dev",
    "dropped": "--drop",
    "event_type": "--type",
    "form": "--format",
    "is_forced": "--force",
    "kernel_btf": "--btf",
    "layouts": "--layout",
    "lock_timeout_s": "--lock-timeout",
    "map_name": "--map",
    "maps": "--map",
    "netns": "-n",
    "program_type": "--type",
    "programs": "--prog",
    "renamed": "--rename",
    "rules": "--rule",
    "variables": "--set",
}
_ENDINGS = {
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.TERMINATED: "terminated by SIGTERM",
}


def describe(error: BaseException, *, words: Sequence[str]) -> Failure:
    """Return the report of *error* for the command line `bpfpin` *words*."""
    if isinstance(error, BpfError):
        return _of_ours(error, words)
    if isinstance(error, click.ClickException):
        return _of_click(error)
    kind = type(error).__name__
    for builtin, exit_code in _BUILTIN_EXITS:
        if isinstance(error, builtin):
            if isinstance(error.__cause__, BpfError) and exit_code in _ENDINGS:
                return _ended_during(error.__cause__, kind, exit_code, words)
            message = _ENDINGS.get(exit_code) or str(error) or kind
            hint = sudo_hint(words) if exit_code is ExitCode.PRIVILEGE else ""
            return Failure(kind, exit_code, message, hint)
    # Everything else is a fault of bpfpin, and should be reported with its traceback.
    message = f"internal error: {kind}: {error}"
    return Failure(kind, ExitCode.FAILURE, message, "--debug shows where; please report it")


def _ended_during(
    failure: BpfError, kind: str, exit_code: ExitCode, words: Sequence[str]
) -> Failure:
    """Report a signal that waited for the end of a change, and the *failure* of that change."""
    report = _of_ours(failure, words)
    message = f"{_ENDINGS[exit_code]}; the change had failed before: {report.message}"
    return replace(report, type=kind, exit=exit_code, message=message)


def _of_click(error: click.ClickException) -> Failure:
    ctx = getattr(error, "ctx", None)
    hint = f"{ctx.command_path} --help" if ctx else "bpfpin --help"
    return Failure(type(error).__name__, error.exit_code, error.format_message(), hint)


def _of_ours(error: BpfError, words: Sequence[str]) -> Failure:
    message, hint = str(error), words_of(error.fix)
    differences: tuple[dict[str, str], ...] = ()
    if isinstance(error, IncompatibleMapError):
        differences = tuple(map(asdict, error.differences))
    if isinstance(error, PermissionDeniedError):
        # The kernel says EPERM and not what lacks; the capabilities were compared after the call.
        unnamed = [name for name in error.missing if name not in message]
        message += f"; missing: {', '.join(unnamed)}" if unnamed else ""
        hint = _lines(hint, sudo_hint(words) if os.geteuid() or error.missing else "")
    kind = type(error).__name__
    return Failure(kind, error.exit_code, message, hint, differences, _verifier_part(error))


def words_of(fix: Fix | str) -> str:
    """Return the sentence of a fix, with its arguments as options of the command."""
    return fix if isinstance(fix, str) else fix.text(option, between=" ")


def option(argument: Argument) -> str:
    """Return the option of the command for an argument of the library."""
    return " ".join(_options(argument.name, argument.value))


def _options(argument: str, value: object) -> Iterator[str]:
    """Yield the options for the value of an argument, as they are typed in a shell."""
    name = _OPTIONS.get(argument) or f"--{argument.replace('_', '-')}"
    if value is None or value is True:
        yield name
    elif is_dataclass(value):
        yield name
        for setting in fields(value):
            if chosen := getattr(value, setting.name):
                yield from _options(setting.name, chosen)
    elif isinstance(value, Mapping):
        for key, items in value.items():
            for item in items if isinstance(items, list | tuple) else (items,):
                yield f"{name} {_typed(key)}={_typed(item)}"
    else:
        for item in value if isinstance(value, list | tuple) else (value,):
            yield f"{name} {_typed(item)}"


def _typed(value: object) -> str:
    """Return a value as it is typed in a shell."""
    text = str(value.value if isinstance(value, Enum) else value)
    return text if isinstance(value, Placeholder) else shlex.quote(text)


def _verifier_part(error: BpfError) -> dict[str, Any] | None:
    if not isinstance(error, VerifierError):
        return None
    return {name: getattr(error, name) for name in _VERIFIER_FIELDS}


def _lines(*texts: str) -> str:
    return "\n      ".join(filter(None, texts))


def sudo_hint(words: Sequence[str]) -> str:
    """Return how to get the privileges: the same command with sudo and absolute paths."""
    if os.geteuid() == 0:
        return "root lacks the capability here: give it to the container or the service"
    return shlex.join(["sudo", *_program(), *_absolute(words)])


def _program() -> list[str]:
    called = Path(sys.argv[0]).absolute()
    # Started by `python -m bpfpin`: a script of the name bpfpin need not be installed.
    if called.name == "__main__.py":
        # -P: root must not import modules from the current directory.
        return [sys.executable, "-P", "-m", "bpfpin"]
    return [str(called)]


def _absolute(words: Iterable[str]) -> Iterable[str]:
    # sudo may change PATH and the current directory.
    for word in words:
        option, equals, value = word.partition("=")
        is_option = bool(equals) and option.startswith("--")
        name = value if is_option else word
        full = os.path.abspath(name) if os.path.isfile(name) else name  # noqa: PTH100, PTH113 - an unreadable name is no error here
        yield f"{option}={full}" if is_option else full
