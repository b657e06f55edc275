"""Probes at all functions of the kernel that match a pattern, by one link (fprobe)."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from functools import cache
from typing import Final

from bpfpin.assembler import Assembler
from bpfpin.attach.kernel_functions import matching_functions
from bpfpin.attach.order import require_type
from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.errors import NotSupportedError, SyscallError, WrongHookError
from bpfpin.hooks import Hook
from bpfpin.objects.link import Link, create_link
from bpfpin.objects.programs.program import Program
from bpfpin.spec import ProgramSpec
from bpfpin.syscall.attr import KprobeMultiLink, LinkDetails
from bpfpin.syscall.errno_table import InvalidArgumentError

_AT_RETURN: Final = 1  # BPF_F_KPROBE_MULTI_RETURN of linux/bpf.h
_TOO_MANY: Final = 1 << 21  # MAX_KPROBE_MULTI_CNT of kernel/trace/bpf_trace.c is half of it
_UNREADABLE: Final = 8


def attach_kprobe_multi(
    program: Program,
    pattern: str,
    *,
    returns: bool = False,
    session: bool = False,
    cookie: int = 0,
) -> Link:
    """Attach *program* to all functions of the kernel that match; closing the link detaches it.

    A pin keeps it attached. One link holds all of them, which is much faster than a kprobe each.

    Args:
        program: A program of type KPROBE that was loaded for TRACE_KPROBE_MULTI, as in a section
            `kprobe.multi`, or for TRACE_KPROBE_SESSION.
        pattern: The name of the functions, with `*` for any characters and `?` for one: `tcp_*`.
        returns: Run the program when a function returns. Default: when it is entered.
        session: Run the program at both; an answer of 1 at the entry leaves the return out.
        cookie: The number that bpf_get_attach_cookie() returns in the program.

    Returns:
        The link.

    Raises:
        TargetNotFoundError: No function that can be traced matches.
        NotSupportedError: The kernel cannot trace functions, or has no such probes.
        WrongHookError: The program is of another type, or was not loaded for such probes.
        PermissionDeniedError: CAP_PERFMON or CAP_BPF is missing.

    Kernel: BPF_LINK_CREATE with BPF_TRACE_KPROBE_MULTI (Linux 5.18) or BPF_TRACE_KPROBE_SESSION
        (Linux 6.10).
    """
    hook = Hook.KRETPROBE_MULTI if returns else Hook.KPROBE_MULTI
    hook = Hook.KPROBE_SESSION if session else hook
    require_type(program, hook)
    _require_probes(hook)
    return _attach(program, hook, pattern, list(matching_functions(pattern)), cookie=cookie)


def _attach(
    program: Program, hook: Hook, pattern: str, addresses: Sequence[int], *, cookie: int
) -> Link:
    numbers = (ctypes.c_uint64 * len(addresses))(*addresses)
    cookies = (ctypes.c_uint64 * len(addresses))(*[cookie] * len(addresses)) if cookie else None
    details = KprobeMultiLink(
        flags=_AT_RETURN if hook.traits.at_return else 0,
        count=len(addresses),
        addresses=ctypes.addressof(numbers),
        cookies=ctypes.addressof(cookies) if cookies else 0,
    )
    try:
        return _created(program, hook, details, f"{len(addresses)} functions {pattern}")
    # bpf_prog_attach_check_attach_type() of kernel/bpf/syscall.c: loaded for another attach type.
    except InvalidArgumentError as error:
        raise WrongHookError(
            f"the kernel refuses program {program.name} at {hook.value} of {len(addresses)}"
            f" functions ({error.command}: {error.strerror}): it was loaded for another hook",
            hint="its section says for which one, or expected_attach_type of its spec",
        ) from None


def _created(program: Program, hook: Hook, details: KprobeMultiLink, place: str) -> Link:
    assert hook.attach_type is not None
    link = LinkDetails(kprobe_multi=details)
    return Link(create_link(program, 0, hook.attach_type, link, place=place))


def _require_probes(hook: Hook) -> None:
    """Raise `NotSupportedError` if the kernel has no probes at many functions of this kind."""
    if feature := _missing(hook):
        raise NotSupportedError(
            f"this kernel has no {feature}", feature=feature, since=hook.traits.since
        )


@cache
def _missing(hook: Hook) -> str:
    """Return what the kernel lacks for *hook*, "" if nothing.

    It is asked for more functions than it takes, at addresses that nobody can read: it checks the
    request before it reads them (bpf_kprobe_multi_link_attach() of kernel/trace/bpf_trace.c).
    """
    code = Assembler("probe")
    code.leave()
    spec = ProgramSpec("probe", hook.traits.program_types[0], "", (code.finish(0),), "GPL")
    with Program.load(spec.with_changes(expected_attach_type=hook.attach_type)) as program:
        try:
            details = KprobeMultiLink(count=_TOO_MANY, addresses=_UNREADABLE)
            _created(program, hook, details, hook.value).close()
        except InvalidArgumentError:  # the attach type is unknown
            return str(hook.value)
        except SyscallError as error:
            # Without CONFIG_FPROBE.
            return f"{hook.value} (CONFIG_FPROBE)" if error.errno == errno.EOPNOTSUPP else ""
    return ""


class KprobeMultiCode(HookCode):
    """The code of probes at many functions."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link; the note says how many functions there are."""
        _require_probes(hook)
        functions = matching_functions(target.name)
        link = _attach(program, hook, target.name, list(functions), cookie=0)
        return NewAttachment(hook, link, note=_matched(program, target.name, len(functions)))

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Return how many functions match."""
        _require_probes(hook)
        return _matched(program, target.name, len(matching_functions(target.name)))


def _matched(program: Program, pattern: str, count: int) -> str:
    functions = "1 function that matches" if count == 1 else f"{count} functions that match"
    return f"{program.name} runs at {functions} {pattern}"


CODE = KprobeMultiCode()
