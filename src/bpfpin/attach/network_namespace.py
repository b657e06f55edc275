"""Programs of a network namespace: sk_lookup and the flow dissector, held by links."""

from __future__ import annotations

from bpfpin.attach.order import require_type
from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.choices import choice_of
from bpfpin.errors import WrongHookError
from bpfpin.hooks import Hook
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.syscall import netns as namespaces


def attach_netns(program: Program, hook: Hook | str, *, netns: str | None = None) -> Link:
    """Attach *program* to a network namespace; closing the link detaches it, unless it is pinned.

    Args:
        program: A program of type SK_LOOKUP or FLOW_DISSECTOR.
        hook: `Hook.SK_LOOKUP` or `Hook.FLOW_DISSECTOR`, or its word.
        netns: Name or path of the network namespace. Default: that of the caller.

    Returns:
        The link.

    Raises:
        HookBusyError: Another flow dissector is attached there, or there are too many programs.
        NamespaceNotFoundError: *netns* does not exist.
        WrongHookError: The program is of another type, or the hook is not of a network namespace.
        PermissionDeniedError: CAP_NET_ADMIN or CAP_BPF is missing.

    Kernel: BPF_LINK_CREATE with BPF_SK_LOOKUP (Linux 5.9) or BPF_FLOW_DISSECTOR (Linux 5.8).
    """
    hook = choice_of(Hook, hook, what="hook")
    if hook.traits.code != "network_namespace" or hook.attach_type is None:
        raise WrongHookError(f"a network namespace has no hook {hook.value}")
    require_type(program, hook)
    with namespaces.open_namespace(netns or namespaces.OWN) as namespace:
        return Link.create(program, namespace.fileno(), hook.attach_type)


class NetworkNamespaceCode(HookCode):
    """The code of the hooks of network namespaces."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link, in the current network namespace."""
        return NewAttachment(hook, attach_netns(program, hook))


CODE = NetworkNamespaceCode()
