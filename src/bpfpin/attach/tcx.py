"""tcx: programs at the ingress and egress of a network device, held by links (Linux 6.6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from bpfpin.attach.devices import DeviceRow
from bpfpin.attach.order import Order, attach_in_order, not_supported, require_hook
from bpfpin.attach.query import is_known, running_on
from bpfpin.attach.registry import (
    AttachOptions,
    HookCode,
    HookTarget,
    NewAttachment,
    RunningProgram,
    code_of,
)
from bpfpin.choices import choice_of
from bpfpin.errors import NotSupportedError
from bpfpin.hints import Argument, Fix
from bpfpin.hooks import Hook, hooks_with_code
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program


def attach_tcx(
    program: Program, interface: str | int, hook: Hook | str, *, order: Order | None = None
) -> Link:
    """Attach a tc program to a device; closing the link detaches it, unless the link is pinned.

    All programs of tcx run before the filters of classic tc.

    Args:
        program: A program of type SCHED_CLS.
        interface: Name or ifindex of a device of the current network namespace.
        hook: `Hook.TCX_INGRESS` or `Hook.TCX_EGRESS`, or its word.
        order: Where among the programs of the hook it runs. Default: after all others.

    Returns:
        The link.

    Raises:
        HookBusyError: The hook runs this program already, or is full (64 programs).
        IdNotFoundError: The program or link that *order* names is not attached there.
        NotSupportedError: The kernel has no tcx; `attach_clsact` works there.
        WrongHookError: The program is of another type, or the hook is not one of tcx.
        InterfaceNotFoundError: The device is not in this network namespace.
        PermissionDeniedError: CAP_NET_ADMIN is missing.

    Kernel: BPF_LINK_CREATE with BPF_TCX_INGRESS or BPF_TCX_EGRESS (Linux 6.6).
    """
    hook = choice_of(Hook, hook, what="hook")
    require_hook(hook, "tcx", "tcx")
    return attach_in_order(program, interface, hook, order)


class TcxCode(HookCode):
    """The code of the hooks of tcx."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link; where the kernel has no tcx, prepare a filter of classic tc."""
        try:
            return NewAttachment(
                hook, attach_tcx(program, target.ifindex, hook, order=options.order)
            )
        except NotSupportedError as error:
            instead = _instead(hook, options, error)
            new = code_of(instead).attach(program, instead, target, options)
            return replace(new, note=_note(program, instead))

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Say where the program goes if the kernel has no tcx."""
        if is_known(target.ifindex, hook):
            return ""
        return _note(program, _instead(hook, options, not_supported(hook)))

    def running_on(self, devices: Iterable[DeviceRow]) -> Iterator[RunningProgram]:
        """Yield the programs of tcx."""
        return running_on(devices, hooks_with_code("tcx"))


def _instead(hook: Hook, options: AttachOptions, error: NotSupportedError) -> Hook:
    """Return the hook of classic tc that sees the same packets; *error* if it cannot do the same.

    A filter has a priority but no place beside another one: between the filters of two priorities
    that follow each other nothing fits, and within a priority cls_bpf_change() of
    net/sched/cls_bpf.c puts a new filter before all others.
    """
    instead = Hook(hook.value.replace("tcx-", "tc-"))
    if options.order is not None:
        error.message += f", and at {instead.value} a program has no place {options.order}"
        error.fix = Fix.of(f"for a filter at {instead.value}, leave out ", Argument("order", None))
        raise error
    return instead


def _note(program: Program, instead: Hook) -> str:
    return f"this kernel has no tcx: {program.name} is at {instead.value}"


CODE = TcxCode()
