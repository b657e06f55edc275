"""Tracepoints: programs that run when the kernel passes one, with its record as their context."""

from __future__ import annotations

import re
from collections.abc import Iterator
from errno import EACCES
from pathlib import Path
from typing import Final

from bpfpin.attach.order import require_type
from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.choices import similar
from bpfpin.errors import (
    AttachError,
    NotSupportedError,
    PermissionDeniedError,
    TargetNotFoundError,
    UsageError,
)
from bpfpin.hooks import Hook
from bpfpin.objects.link import Link, create_link
from bpfpin.objects.programs.program import Program
from bpfpin.syscall import perf
from bpfpin.syscall.attr import LinkDetails, PerfEventLink
from bpfpin.uapi import AttachType

# Where tracefs is mounted: by itself, or by debugfs.
TRACEFS: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))


def attach_tracepoint(program: Program, tracepoint: str, *, cookie: int = 0) -> Link:
    """Attach *program* to a tracepoint; closing the link detaches it, unless the link is pinned.

    Args:
        program: A program of type TRACEPOINT.
        tracepoint: Category and name, `syscalls/sys_enter_openat`.
        cookie: The number that bpf_get_attach_cookie() returns in the program.

    Returns:
        The link.

    Raises:
        TargetNotFoundError: There is no such tracepoint.
        AttachError: The program reads beyond the tracepoint's record.
        UsageError: *tracepoint* is not a category and a name.
        NotSupportedError: The kernel has no tracefs, or it is not mounted.
        WrongHookError: The program is of another type.
        PermissionDeniedError: CAP_PERFMON or CAP_BPF is missing.

    Kernel: perf_event_open(2), BPF_LINK_CREATE with BPF_PERF_EVENT (Linux 5.15).
    """
    require_type(program, Hook.TRACEPOINT)
    number = _tracepoint_number(tracepoint)
    with perf.open_tracepoint(number, target=f"tracepoint {tracepoint}") as event:
        place, details = f"tracepoint {tracepoint}", LinkDetails(perf_event=PerfEventLink(cookie))
        try:
            return Link(
                create_link(program, event.fileno(), AttachType.PERF_EVENT, details, place=place)
            )
        except PermissionDeniedError as error:
            # perf_event_set_bpf_prog() of kernel/events/core.c. EPERM has other causes.
            if error.missing or error.errno != EACCES:
                raise
            raise AttachError(
                f"program {program.name} cannot run at {place}: it reads more than its record of"
                f" {_record_size(tracepoint)} bytes ({error.message})",
                hint=f"see its fields: {events_folder() / tracepoint / 'format'}",
            ) from None


def _record_size(tracepoint: str) -> int:
    """Return where the last field of a tracepoint's record ends (trace_event_get_offsets())."""
    text = _read_event(tracepoint, "format")
    fields = re.findall(r"offset:(\d+);\s*size:(\d+);", text)
    return max(int(offset) + int(size) for offset, size in fields)


def _tracepoint_number(tracepoint: str) -> int:
    return int(_read_event(tracepoint, "id"))


def _read_event(tracepoint: str, file: str) -> str:
    category, slash, name = tracepoint.partition("/")
    if not slash or not category or not name or "/" in name or ".." in (category, name):
        raise UsageError(
            f"{tracepoint!r} is not a tracepoint: it is a category and a name,"
            " such as syscalls/sys_enter_openat"
        )
    events = events_folder()
    try:
        return (events / category / name / file).read_text()
    except FileNotFoundError:
        folders = [path for path in events.iterdir() if path.is_dir()]
        near = [folder for folder in folders if folder.name == category] or folders
        there = [
            f"{path.parent.name}/{path.name}" for folder in near for path in subfolders(folder)
        ]
        raise no_tracepoint(tracepoint, there) from None


def events_folder() -> Path:
    """Return the folder with the tracepoints; `NotSupportedError` without tracefs."""
    for path in TRACEFS:
        if (path / "events").is_dir():
            return path / "events"
    raise NotSupportedError(
        "tracefs is not mounted, which has the numbers of tracepoints",
        feature="tracefs",
        hint=f"mount -t tracefs tracefs {TRACEFS[0]}",
    )


def subfolders(folder: Path) -> Iterator[Path]:
    """Yield the folders in *folder*."""
    yield from (path for path in folder.iterdir() if path.is_dir())


def no_tracepoint(tracepoint: str, there: list[str]) -> TargetNotFoundError:
    """Return the error for a tracepoint that is not among those *there*."""
    near = similar(tracepoint, there)
    hint = f"near it: {', '.join(near)}" if near else f"see {TRACEFS[0] / 'available_events'}"
    return TargetNotFoundError(f"this kernel has no tracepoint {tracepoint!r}", hint=hint)


class TracepointCode(HookCode):
    """The code of tracepoints with a record."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link."""
        return NewAttachment(hook, attach_tracepoint(program, target.name))

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Look whether there is such a tracepoint."""
        _tracepoint_number(target.name)
        return ""

    def context_size(self, hook: Hook, target: HookTarget) -> int | None:
        """Return the size of the tracepoint's record."""
        return _record_size(target.name)


CODE = TracepointCode()
