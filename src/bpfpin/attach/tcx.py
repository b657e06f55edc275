"""tcx: programs at the ingress and egress of a network device, held by links (Linux 6.6)."""

from __future__ import annotations

from bpfpin.attach.order import Order, attach_in_order, require_hook
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.spec import Hook, choice_of

HOOKS = frozenset({Hook.TCX_INGRESS, Hook.TCX_EGRESS})


def attach_tcx(
    program: Program, interface: str | int, hook: Hook | str, *, order: Order | None = None
) -> Link:
    """Attach a tc program to a device; closing the link detaches it, unless the link is pinned.

    *interface* is a name or an ifindex of the current network namespace, *hook* TCX_INGRESS or
    TCX_EGRESS. It runs after the programs that are there, unless *order* says where; all of them
    run before the filters of classic tc. `HookBusyError` if the hook runs this program already or
    is full, `IdNotFoundError` if what *order* names is not attached there, `NotSupportedError` if
    the kernel has no tcx (`attach_clsact` works there). BPF_LINK_CREATE (Linux 6.6).
    """
    hook = choice_of(Hook, hook, what="hook")
    require_hook(hook, HOOKS, "tcx")
    return attach_in_order(program, interface, hook, order, since="6.6")
