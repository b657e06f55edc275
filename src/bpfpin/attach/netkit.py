"""netkit: programs at both ends of a pair of netkit devices, held by links (Linux 6.7)."""

from __future__ import annotations

from bpfpin.attach.order import Order, attach_in_order, require_hook
from bpfpin.errors import AttachError, PermissionDeniedError
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.spec import Hook, choice_of

HOOKS = frozenset({Hook.NETKIT_PRIMARY, Hook.NETKIT_PEER})


def attach_netkit(
    program: Program, interface: str | int, hook: Hook | str, *, order: Order | None = None
) -> Link:
    """Attach a tc program to a netkit device; closing the link detaches it, unless it is pinned.

    *interface* is the primary device of the pair, *hook* says which end's traffic runs it;
    everything else is as in `attach_tcx`. `NotSupportedError` if the kernel has no netkit or the
    device is of another kind. BPF_LINK_CREATE (Linux 6.7).
    """
    hook = choice_of(Hook, hook, what="hook")
    require_hook(hook, HOOKS, "netkit")
    try:
        return attach_in_order(program, interface, hook, order, since="6.7")
    except PermissionDeniedError as error:
        if error.missing:
            raise
        # netkit_dev_fetch of drivers/net/netkit.c: EACCES for the peer device.
        raise AttachError(
            f"{interface} is the peer of a netkit pair",
            hint="Programs of both ends are attached to its primary device.",
        ) from None
