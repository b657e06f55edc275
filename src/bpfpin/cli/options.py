"""Options, parameter types and words that several verbs share: DEV|NAME, MODE, SIZE, NAME=VALUE.

Also `--log-file` with what it does: the verifier's whole log goes to a file, with `-v` to stderr.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import click

from bpfpin.cli.context import Context, Seconds
from bpfpin.cli.output import Output
from bpfpin.errors import BpfError, UsageError, VerifierError

FC = TypeVar("FC", bound=Callable[..., Any])
# As exponents of two: a size is shifted by it.
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}
# At most 18 digits: `int` takes long for endless ones.
_SIZE = r"([0-9]{1,18})([KMG]?)(?:iB)?"

HOW_TO_SEE_LOG = "the verifier's whole log: --log-file FILE, or -v"
log_file_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--log-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="If the verifier refuses a program, write its whole log to FILE.",
)


def target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the required argument `target`: DEV, NAME or `--dev DEV`."""

    @functools.wraps(function)
    def run(*args: Any, target: str | None, dev: str | None, **options: Any) -> Any:
        chosen = chosen_target(target, dev)
        if chosen is None:
            raise UsageError("no set: give its device or its name", hint="bpfpin status")
        return function(*args, target=chosen, **options)

    return _with_parameters(run)


def optional_target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the optional argument `target`: DEV, NAME or `--dev DEV`, else None."""

    @functools.wraps(function)
    def run(*args: Any, target: str | None, dev: str | None, **options: Any) -> Any:
        return function(*args, target=chosen_target(target, dev), **options)

    return _with_parameters(run)


def chosen_target(target: str | None, dev: str | None) -> str | None:
    """Return the target that was typed; `UsageError` if two different ones were."""
    # The same name twice is harmless.
    if target and dev and target != dev:
        raise UsageError(f"two targets, {target!r} and --dev {dev!r}: give one of them")
    return target or dev


def _with_parameters(run: Callable[..., Any]) -> Callable[..., Any]:
    option = device_option("Device of the set.")
    argument = click.argument(
        "target", metavar="DEV|NAME", required=False, shell_complete=complete_sets
    )
    return argument(option(run))


def device_option(text: str = "Network device; the same as DEV.") -> Callable[[FC], FC]:
    """Return the option `--dev DEV`, with shell completion of devices."""
    return click.option("--dev", metavar="DEV", help=text, shell_complete=complete_devices)


def interval_option() -> Callable[[FC], FC]:
    """Return the option `--interval S` of a view that reads again and again."""
    return click.option(
        "--interval",
        metavar="S",
        type=Seconds(min=0, min_open=True),
        default=1.0,
        show_default=True,
        help="Seconds between two readings.",
    )


def typing_options(*, has_value: bool = True) -> Callable[[FC], FC]:
    """Give a verb the options for the types of keys and, with *has_value*, of values."""
    key = (
        click.option("--key-type", metavar="TYPE", help="Like --type, for keys."),
        click.option("--key-format", metavar="FMT", help="Like --format, for keys."),
    )
    value = (
        click.option(
            "--type",
            "value_type",
            metavar="TYPE",
            help="Type of values, from the BTF of programs that use the map: 'struct datarec'.",
        ),
        click.option(
            "--format",
            "value_format",
            metavar="FMT",
            help="Type of values as a format of Python's struct module, such as QQ.",
        ),
    )

    def decorate(function: FC) -> FC:
        # In reverse, as decorators are applied: help shows the options in the order of the tuples.
        for option in reversed((*(value if has_value else ()), *key)):
            function = option(function)
        return function

    return decorate


def complete_devices(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return the network devices whose names start with *incomplete*, for shell completion."""
    import socket  # noqa: PLC0415 - only for completion

    return _offered((name for _, name in socket.if_nameindex()), incomplete)


def complete_sets(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the pin sets whose names start with *incomplete*, for shell completion."""
    from bpfpin.sets.find import set_names  # noqa: PLC0415 - only for a shell's Tab

    # The words before the cursor may have a --pin-root.
    root = Path((ctx.obj or {}).get("pin_root", Context.pin_root))
    return _offered(set_names(root), incomplete)


def _offered(names: Iterable[str], incomplete: str) -> list[str]:
    # click fails to write a name that is not UTF-8 (surrogates), and then offers nothing at all.
    writable = (name for name in names if name.isprintable())
    return sorted(name for name in writable if name.startswith(incomplete))


class Mode(click.ParamType[int]):
    """Parameter type of the mode of a pin: octal digits as of chmod(1), `0640` or `640`."""

    name = "mode"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the mode; a usage error if *value* is not three or four octal digits."""
        from bpfpin.sets.request import parse_mode  # noqa: PLC0415 - only where a mode is typed

        if isinstance(value, int):
            return value
        try:
            return parse_mode(str(value))
        except UsageError as error:
            self.fail(error.message, param, ctx)


MODE = Mode()


class Size(click.ParamType[int]):
    """Parameter type of a size: bytes, or `64K`, `256M`, `1G` (powers of 1024)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(_SIZE, value, re.ASCII | re.IGNORECASE)
        if not match:
            self.fail(f"{value!r} is not a size: use 4096, 64K, 256M or 1G", param, ctx)
        return int(match[1]) << _UNITS[match[2].upper()]


SIZE = Size()


def parse_set_words(words: Iterable[str]) -> dict[str, str]:
    """Parse `NAME=VALUE`; `UsageError` for any other text."""
    return pairs("--set", words, form="--set NAME=VALUE")


def pairs(
    option: str,
    words: Iterable[str],
    *,
    form: str,
    is_value: Callable[[str], bool] = lambda value: True,
) -> dict[str, str]:
    """Parse the words `NAME=VALUE` of an option, which must not give a name twice."""
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and is_value(value)):
            raise UsageError(f"{option} {word}: not understood", hint=form)
        if name in values:
            raise UsageError(f"{option} names {name!r} twice: {values[name]} and {value}")
        values[name] = value
    return values


def require_log_file(file: Path) -> None:
    """Raise `UsageError` if no log could be written to *file*; nothing is written yet."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"--log-file {file}: {folder} is not a folder")
    # An existing file is checked by click.
    if not file.exists() and not os.access(folder, os.W_OK):
        raise UsageError(f"--log-file {file}: no file can be made in {folder}")


def keep_logs(
    refusals: Sequence[tuple[str, VerifierError]],
    out: Output,
    file: Path | None,
    *,
    others: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the logs of *refusals*, and add their place to the hints.

    The first of each pair names the refused program. *others* are the logs of accepted
    programs, which go to the file only.
    """
    logs = {**others, **{name: error.log for name, error in refusals}}
    # The log is long, so without -v and a file the hint only says how to get it.
    where = _logs_written(logs, file) if file and logs else "" if out.is_verbose else HOW_TO_SEE_LOG
    for name, error in refusals:
        out.detail(f"the verifier on {name}:\n{error.log.rstrip()}")
        error.fix = error.fix.joined(where, separator="\n      ")


def _logs_written(logs: Mapping[str, str], file: Path) -> str:
    """Write the file and return a message; a failure to write must not hide the refusal."""
    from bpfpin.map.snapshot_file import write_text  # noqa: PLC0415  (only for --log-file)

    parts = [f"# {name}\n{log.rstrip()}\n" for name, log in logs.items()]
    try:
        write_text(file, "\n".join(parts))
    except (BpfError, OSError) as error:
        # The program's refusal is the error to report: this one only goes into its hint.
        reason = error.message if isinstance(error, BpfError) else error.strerror
        return f"the verifier's log could not be written to {file}: {reason}"
    return f"the verifier's whole log is in {file}"
