"""netkit: programs at both ends of a pair of netkit devices, held by links (Linux 6.7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bpfpin.attach.devices import DeviceRow
from bpfpin.attach.order import Order, attach_in_order, require_hook
from bpfpin.attach.query import running_on
from bpfpin.attach.registry import (
    AttachOptions,
    HookCode,
    HookTarget,
    NewAttachment,
    RunningProgram,
)
from bpfpin.choices import choice_of
from bpfpin.errors import AttachError, PermissionDeniedError
from bpfpin.hooks import Hook, hooks_with_code
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program


def attach_netkit(
    program: Program, interface: str | int, hook: Hook | str, *, order: Order | None = None
) -> Link:
    """Attach a tc program to a netkit device; closing the link detaches it, unless it is pinned.

    Args:
        program: A program of type SCHED_CLS.
        interface: Name or ifindex of the primary device of the pair.
        hook: `Hook.NETKIT_PRIMARY` for what the primary device sends, `Hook.NETKIT_PEER` for what
            its peer sends, or the word of either.
        order: Where among the programs of the hook it runs. Default: after all others.

    Returns:
        The link.

    Raises:
        AttachError: The device is the peer of a pair.
        HookBusyError: The hook runs this program already, or is full (64 programs).
        IdNotFoundError: The program or link that *order* names is not attached there.
        NotSupportedError: The kernel has no netkit, or the device is of another kind.
        WrongHookError: The program is of another type, or the hook is not one of netkit.
        InterfaceNotFoundError: The device is not in this network namespace.
        PermissionDeniedError: CAP_NET_ADMIN is missing.

    Kernel: BPF_LINK_CREATE with BPF_NETKIT_PRIMARY or BPF_NETKIT_PEER (Linux 6.7).
    """
    hook = choice_of(Hook, hook, what="hook")
    require_hook(hook, "netkit", "netkit")
    try:
        return attach_in_order(program, interface, hook, order)
    except PermissionDeniedError as error:
        if error.missing:
            raise
        # netkit_dev_fetch of drivers/net/netkit.c: EACCES for the peer device.
        raise AttachError(
            f"{interface} is the peer of a netkit pair",
            hint="Programs of both ends are attached to its primary device.",
        ) from None


class NetkitCode(HookCode):
    """The code of the hooks of netkit."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link."""
        return NewAttachment(
            hook, attach_netkit(program, target.ifindex, hook, order=options.order)
        )

    def running_on(self, devices: Iterable[DeviceRow]) -> Iterator[RunningProgram]:
        """Yield the programs of netkit; only its devices are asked."""
        # Of any other kind of device netkit_dev_fetch() of drivers/net/netkit.c says ENXIO.
        pairs = (device for device in devices if device.kind == "netkit")
        return running_on(pairs, hooks_with_code("netkit"))


CODE = NetkitCode()
