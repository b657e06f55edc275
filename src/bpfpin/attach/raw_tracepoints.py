"""Raw tracepoints: programs that get the arguments of a tracepoint without a record of them."""

from __future__ import annotations

from contextlib import suppress

from bpfpin.attach.order import require_type
from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.attach.tracepoints import events_folder, no_tracepoint, subfolders
from bpfpin.btf.types import FunctionPrototype, Modifier, Pointer
from bpfpin.errors import NotSupportedError, TargetNotFoundError
from bpfpin.hooks import Hook
from bpfpin.objects.kernel.btf import vmlinux_btf
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor


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
        raise no_tracepoint(tracepoint, _names()) from None


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


def _names() -> list[str]:
    """Return the names of all tracepoints, as far as tracefs shows them."""
    with suppress(NotSupportedError, OSError):
        return [path.name for folder in subfolders(events_folder()) for path in subfolders(folder)]
    return []


class RawTracepointCode(HookCode):
    """The code of raw tracepoints."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link."""
        return NewAttachment(hook, attach_raw_tracepoint(program, target.name))

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Look whether there is such a tracepoint, where tracefs lists them."""
        there = _names()
        # Some tracepoints have no record, and therefore no folder in tracefs.
        if there and target.name not in there and not _argument_count(target.name):
            raise no_tracepoint(target.name, there)
        return ""

    def context_size(self, hook: Hook, target: HookTarget) -> int | None:
        """Return the size of the tracepoint's arguments."""
        return 8 * _argument_count(target.name)


CODE = RawTracepointCode()
