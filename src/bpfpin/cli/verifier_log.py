"""The verifier's whole log: in the file of `--log-file`, and with `-v` on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from bpfpin.cli.output import Output
from bpfpin.errors import BpfError, VerifierError

HOW = "the verifier's whole log: --log-file FILE, or -v"

log_file_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--log-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the verifier's whole log to FILE.",
)


@contextlib.contextmanager
def logged(out: Output, file: Path | None) -> Iterator[None]:
    """Write the log of a verifier's refusal, add its place to the hint, and raise it again."""
    try:
        yield
    except VerifierError as error:
        keep([(error.target, error)], out, file)
        raise


def keep(
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
    where = _written(logs, file) if file and logs else "" if out.is_verbose else HOW
    for name, error in refusals:
        out.detail(f"the verifier on {name}:\n{error.log.rstrip()}")
        error.fix = error.fix.joined(where, separator="\n      ")


def _written(logs: Mapping[str, str], file: Path) -> str:
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
