"""Tracepoints: programs that run when the kernel passes one, held by links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from errno import EACCES
from pathlib import Path
from typing import Final

from bpfpin.attach.order import require_type
from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.btf.types import FunctionPrototype, Modifier, Pointer
from bpfpin.choices import similar
from bpfpin.errors import (
    AttachError,
    NotSupportedError,
    PermissionDeniedError,
    TargetNotFoundError,
    UsageError,
)
from bpfpin.hooks import Hook
from bpfpin.objects.kernel.btf import vmlinux_btf
from bpfpin.objects.link import Link, create_link
from bpfpin.objects.programs.program import Program
from bpfpin.syscall import bpf, perf
from bpfpin.syscall.attr import LinkDetails, PerfEventLink
from bpfpin.syscall.fd import Descriptor
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
                hint=f"see its fields: {_events() / tracepoint / 'format'}",
            ) from None


def attach_raw_tracepoint(program: Program, tracepoint: str) -> Link:
    """Attach *program* to a raw tracepoint; closing the link detaches it, unless it is pinned.

    A raw tracepoint hands its arguments to the program as they are, without a record of them.

    Args:
        program: A program of type RAW_TRACEPOINT or RAW_TRACEPOINT_WRITABLE.
        tracepoint: Its name without a category, `sys_enter`.

    Returns:
        The link.

    Raises:
        TargetNotFoundError: There is no such tracepoint.
        WrongHookError: The program is of another type.
        PermissionDeniedError: CAP_PERFMON or CAP_BPF is missing.

    Kernel: BPF_RAW_TRACEPOINT_OPEN (Linux 4.17).
    """
    require_type(program, Hook.RAW_TRACEPOINT)
    try:
        return Link(Descriptor(bpf.raw_tracepoint_open(program.fd, tracepoint)))
    except TargetNotFoundError:
        raise _no_tracepoint(tracepoint, _raw_names()) from None


def _record_size(tracepoint: str) -> int:
    """Return where the last field of a tracepoint's record ends (trace_event_get_offsets())."""
    text = _read_event(tracepoint, "format")
    fields = re.findall(r"offset:(\d+);\s*size:(\d+);", text)
    return max(int(offset) + int(size) for offset, size in fields)


def _argument_count(tracepoint: str) -> int:
    """Return how many arguments a raw tracepoint hands over; 0 if the kernel's types do not say."""
    try:
        btf = vmlinux_btf()
    except FileNotFoundError:
        return 0
    type_id = btf.find(f"btf_trace_{tracepoint}", Modifier)
    pointer = btf[btf.strip(type_id)] if type_id else None
    prototype = btf[btf.strip(pointer.type_id)] if isinstance(pointer, Pointer) else None
    # The first parameter is the tracepoint's own data (bpf_raw_event_map of kernel/trace).
    return len(prototype.parameters) - 1 if isinstance(prototype, FunctionPrototype) else 0


def _tracepoint_number(tracepoint: str) -> int:
    return int(_read_event(tracepoint, "id"))


def _read_event(tracepoint: str, file: str) -> str:
    category, slash, name = tracepoint.partition("/")
    if not slash or not category or not name or "/" in name or ".." in (category, name):
        raise UsageError(
            f"{tracepoint!r} is not a tracepoint: it is a category and a name,"
            " such as syscalls/sys_enter_openat"
        )
    events = _events()
    try:
        return (events / category / name / file).read_text()
    except FileNotFoundError:
        folders = [path for path in events.iterdir() if path.is_dir()]
        near = [folder for folder in folders if folder.name == category] or folders
        there = [f"{path.parent.name}/{path.name}" for folder in near for path in _folders(folder)]
        raise _no_tracepoint(tracepoint, there) from None


def _events() -> Path:
    for path in TRACEFS:
        if (path / "events").is_dir():
            return path / "events"
    raise NotSupportedError(
        "tracefs is not mounted, which has the numbers of tracepoints",
        feature="tracefs",
        hint=f"mount -t tracefs tracefs {TRACEFS[0]}",
    )


def _folders(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.iterdir() if path.is_dir())


def _raw_names() -> list[str]:
    """Return the names of all tracepoints, as far as tracefs shows them."""
    with suppress(NotSupportedError, OSError):
        return [path.name for folder in _folders(_events()) for path in _folders(folder)]
    return []


def _no_tracepoint(tracepoint: str, there: list[str]) -> TargetNotFoundError:
    near = similar(tracepoint, there)
    hint = f"near it: {', '.join(near)}" if near else f"see {TRACEFS[0] / 'available_events'}"
    return TargetNotFoundError(f"this kernel has no tracepoint {tracepoint!r}", hint=hint)


class TracepointCode(HookCode):
    """The code of the hooks of tracepoints."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link."""
        attach_to = attach_tracepoint if hook is Hook.TRACEPOINT else attach_raw_tracepoint
        return NewAttachment(hook, attach_to(program, target.name))

    def context_size(self, hook: Hook, target: HookTarget) -> int | None:
        """Return the size of the tracepoint's record, or of its arguments."""
        if hook is Hook.TRACEPOINT:
            return _record_size(target.name)
        return 8 * _argument_count(target.name)


CODE = TracepointCode()
