"""Probes at functions of the kernel (kprobe, kretprobe) and at system calls (ksyscall)."""

from __future__ import annotations

import re
from errno import EADDRNOTAVAIL, EILSEQ, EINVAL, ENOENT
from typing import Final

from bpfpin.attach.kernel_functions import (
    function_names,
    function_of_system_call,
    no_function,
    require_function,
)
from bpfpin.attach.order import require_type
from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.errors import AttachError, SyscallError, UsageError
from bpfpin.hooks import Hook, TargetKind
from bpfpin.objects.link import Link, create_link
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.syscall import perf
from bpfpin.syscall.attr import LinkDetails, PerfEventLink
from bpfpin.uapi import AttachType

# Names that compilers make have dots: `name.isra.0`.
_PLACE: Final = re.compile(r"(?:([\w-]+):)?([\w.$]+)(?:\+(0[xX][0-9a-fA-F]+|[0-9]+))?", re.ASCII)
_OFFSET_MAX: Final = 1 << 32


def attach_kprobe(
    program: Program, function: str, *, returns: bool = False, cookie: int = 0
) -> Link:
    """Attach *program* to a function of the kernel; closing the link detaches, unless it is pinned.

    Args:
        program: A program of type KPROBE.
        function: Its name, `do_unlinkat`, of a module `nf_conntrack:nf_conntrack_in`. With an
            offset, `do_unlinkat+0x10`, it is the instruction there.
        returns: Run the program when the function returns. Default: when it is entered.
        cookie: The number that bpf_get_attach_cookie() returns in the program.

    Returns:
        The link.

    Raises:
        TargetNotFoundError: The kernel has no such function.
        AttachError: The kernel allows no probe there.
        UsageError: *function* is not a name with an offset, or has an offset with *returns*.
        NotSupportedError: The kernel has no kprobes.
        WrongHookError: The program is of another type.
        PermissionDeniedError: CAP_PERFMON or CAP_BPF is missing.

    Kernel: perf_event_open(2), BPF_LINK_CREATE with BPF_PERF_EVENT (Linux 5.15).
    """
    require_type(program, Hook.KRETPROBE if returns else Hook.KPROBE)
    place = _Place.parse(function, at_return=returns)
    return _attach(program, place, at_return=returns, cookie=cookie)


def attach_ksyscall(
    program: Program, system_call: str, *, returns: bool = False, cookie: int = 0
) -> Link:
    """Attach *program* to a system call; closing the link detaches it, unless it is pinned.

    It is attached to the function of the kernel for the system call, which has another name on each
    architecture. `BPF_KSYSCALL` of <bpf/bpf_tracing.h> reads its arguments.

    Args:
        program: A program of type KPROBE.
        system_call: Its name, `openat`.
        returns: Run the program when the system call returns. Default: when it is entered.
        cookie: The number that bpf_get_attach_cookie() returns in the program.

    Returns:
        The link.

    Raises:
        TargetNotFoundError: The kernel has no such system call.
        NotSupportedError: The kernel has no kprobes.
        WrongHookError: The program is of another type.
        PermissionDeniedError: CAP_PERFMON or CAP_BPF is missing.

    Kernel: As `attach_kprobe`.
    """
    require_type(program, Hook.KRETSYSCALL if returns else Hook.KSYSCALL)
    place = _Place("", function_of_system_call(system_call))
    return _attach(program, place, at_return=returns, cookie=cookie)


@dataclass(frozen=True, slots=True)
class _Place:
    """An instruction of the kernel: a function, of a module if one is named, and an offset."""

    module: str
    function: str
    offset: int = 0

    @classmethod
    def parse(cls, text: str, *, at_return: bool) -> _Place:
        """Parse `FUNCTION`, `MODULE:FUNCTION` and `FUNCTION+OFFSET`."""
        match = _PLACE.fullmatch(text)
        if match is None:
            raise UsageError(
                f"{text!r} is not a function: it is a name, such as do_unlinkat, with an offset"
                " do_unlinkat+0x10, of a module nf_conntrack:nf_conntrack_in"
            )
        module, function, digits = match.groups()
        offset = int(digits or "0", 0 if digits and digits[:2] in ("0x", "0X") else 10)
        if offset >= _OFFSET_MAX:
            raise UsageError(f"offset {offset:#x} of {text!r} is beyond any function")
        if offset and at_return:
            raise UsageError(
                f"{text!r} has an offset, and a probe of the return has none",
                hint=f"name the function alone: {function}",
            )
        return cls(module or "", function, offset)

    @property
    def symbol(self) -> str:
        """The function as the kernel looks it up."""
        return f"{self.module}:{self.function}" if self.module else self.function

    def __str__(self) -> str:
        return f"{self.symbol}+{self.offset:#x}" if self.offset else self.symbol


def _attach(program: Program, place: _Place, *, at_return: bool, cookie: int) -> Link:
    name = f"the return of {place}" if at_return else f"function {place}"
    try:
        event = perf.open_kprobe(
            place.symbol, offset=place.offset, at_return=at_return, target=name
        )
    except SyscallError as error:
        raise _refusal(error, place) from None
    details = LinkDetails(perf_event=PerfEventLink(cookie))
    with event:
        return Link(
            create_link(program, event.fileno(), AttachType.PERF_EVENT, details, place=name)
        )


def _refusal(error: SyscallError, place: _Place) -> Exception:
    """Return what the errno of perf_event_open() says of a probe (kernel/trace/trace_kprobe.c)."""
    if error.errno == ENOENT:
        return no_function(place.function, function_names(), module=place.module)
    reasons = {
        EADDRNOTAVAIL: f"the kernel has several functions called {place.function}",
        # arch_prepare_kprobe(): the offset is within an instruction.
        EILSEQ: f"no instruction begins at {place}",
        # check_kprobe_address_safe() of kernel/kprobes.c, or the offset is beyond the function.
        EINVAL: "the kernel allows no probe there (it is marked notrace or is in"
        " /sys/kernel/debug/kprobes/blacklist), or no instruction begins there",
    }
    if error.errno not in reasons:
        return error
    return AttachError(f"function {place}: {reasons[error.errno]} ({error.message})")


class KprobeCode(HookCode):
    """The code of probes at one function."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link."""
        place = self._place(hook, target)
        link = _attach(program, place, at_return=hook.traits.at_return, cookie=0)
        return NewAttachment(hook, link)

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Look for the function."""
        perf.kprobe_type()
        place = self._place(hook, target)
        require_function(place.function, module=place.module)
        return ""

    @staticmethod
    def _place(hook: Hook, target: HookTarget) -> _Place:
        if hook.traits.target is TargetKind.SYSTEM_CALL:
            perf.kprobe_type()  # a kernel without kprobes is reported first
            return _Place("", function_of_system_call(target.name))
        return _Place.parse(target.name, at_return=hook.traits.at_return)


CODE = KprobeCode()
