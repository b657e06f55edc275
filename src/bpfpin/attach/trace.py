"""Programs made for one function of the kernel: fentry, fexit, fmod_ret, LSM, tp_btf."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bpfpin.attach.order import require_hook, require_type
from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.choices import choice_of
from bpfpin.errors import BpfError, NotSupportedError, UsageError
from bpfpin.hooks import Hook
from bpfpin.objects.kernel.link_target import function_name
from bpfpin.objects.link import Link, create_link
from bpfpin.objects.programs.program import Program
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import LinkDetails, TracingLink
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import ProgramType

# The security modules of the kernel that are active, where securityfs is mounted.
ACTIVE_MODULES: Final = Path("/sys/kernel/security/lsm")


def attach_trace(program: Program, hook: Hook | str, *, cookie: int = 0) -> Link:
    """Attach *program* to the function that it was made for; closing the link detaches it.

    A pin keeps it attached. Such a program names its function when it is loaded (`fentry/NAME`,
    `lsm/NAME`, `tp_btf/NAME`), so none is named here.

    Args:
        program: A program of type TRACING or LSM.
        hook: What it was loaded for: `Hook.FENTRY`, `Hook.FEXIT`, `Hook.FMOD_RET`, `Hook.LSM`,
            `Hook.TP_BTF`, or its word.
        cookie: The number that bpf_get_attach_cookie() returns in the program.

    Returns:
        The link.

    Raises:
        NotSupportedError: The kernel cannot attach to functions, or runs no LSM programs.
        WrongHookError: The program is of another type, or *hook* is not one of these.
        HookBusyError: The program is attached already, or there are too many.
        PermissionDeniedError: CAP_PERFMON or CAP_BPF is missing.

    Kernel: BPF_RAW_TRACEPOINT_OPEN without a name (Linux 5.5; LSM 5.7); with a cookie
        BPF_LINK_CREATE (Linux 5.19).
    """
    hook = choice_of(Hook, hook, what="hook")
    require_hook(hook, "trace", "a function of the kernel")
    require_type(program, hook)
    assert hook.attach_type is not None
    if program.type == ProgramType.LSM:
        _require_lsm()
    place = f"the function of its {hook.value}"
    try:
        if cookie:
            details = LinkDetails(tracing=TracingLink(cookie=cookie))
            return Link(create_link(program, 0, hook.attach_type, details, place=place))
        target = f"program {program.name} at {place}"
        return Link(Descriptor(bpf.raw_tracepoint_open(program.fd, target=target)))
    except NotSupportedError as error:
        # bpf_trampoline_link_prog() of kernel/bpf/trampoline.c: ftrace calls the programs.
        error.feature = f"{hook.value} (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS)"
        error.message = f"this kernel has no {error.feature}: {error.message}"
        raise


def _require_lsm() -> None:
    """Raise `NotSupportedError` if the kernel takes LSM programs and never runs them."""
    try:
        active = ACTIVE_MODULES.read_text().strip()
    except OSError:  # securityfs is not mounted, so this is not known
        return
    if "bpf" not in active.split(","):
        raise NotSupportedError(
            f"this kernel runs no LSM programs: bpf is not among its active modules, {active}",
            feature="LSM programs (lsm=…,bpf)",
            hint=f"boot it with lsm={active},bpf",
        )


def _require_made_for(program: Program, target: str) -> None:
    """Raise `UsageError` if the program was loaded for another function than *target*."""
    info = program.info
    if not target or not info.attach_btf_id:
        return
    try:
        function = function_name(info.attach_btf_object_id, info.attach_btf_id)
    except BpfError:  # the types are for CAP_SYS_ADMIN
        return
    made_for = function.removeprefix("bpf_lsm_")
    if made_for != target.rpartition(":")[2]:
        raise UsageError(
            f"program {program.name} was loaded for {made_for}, and not for {target}",
            hint=f"load it for that: load(spec, attach_to={{{program.name!r}: {target!r}}})",
        )


class TraceCode(HookCode):
    """The code of the hooks whose programs name their function when they are loaded."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link; the target is in the program."""
        _require_made_for(program, target.name)
        return NewAttachment(hook, attach_trace(program, hook))

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Look whether the kernel runs LSM programs; that there is the target, loading shows."""
        if program.type == ProgramType.LSM:
            _require_lsm()
        return ""


CODE = TraceCode()
