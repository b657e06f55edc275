"""Tables of functions that the kernel calls (struct_ops), registered by links.

What such a link holds is a map of type STRUCT_OPS, the table; its programs are loaded for it. So
`Link.program_id()` and `Link.update()` are about maps here.
"""

from __future__ import annotations

from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.errors import HookBusyError, UsageError
from bpfpin.hooks import Hook
from bpfpin.map_traits import traits_of
from bpfpin.objects.link import Link
from bpfpin.objects.maps.base import BaseMap
from bpfpin.objects.programs.program import Program
from bpfpin.syscall import bpf
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import AttachType, MapFlag


def attach_struct_ops(table: BaseMap) -> Link:
    """Register a table of functions with the kernel; closing the link removes it, unless pinned.

    Args:
        table: The map of a variable in the section `.struct_ops.link`, as `load` filled it.

    Returns:
        The link. Its `update` takes another table in the place of a program, for structures whose
        tables can be replaced: a congestion control of TCP by one of the same name.

    Raises:
        HookBusyError: A table of that name is registered already.
        UsageError: *table* is not such a table, or is not filled.
        NotSupportedError: The kernel has no links for tables.
        PermissionDeniedError: CAP_NET_ADMIN or CAP_BPF is missing.

    Kernel: BPF_LINK_CREATE with BPF_STRUCT_OPS (Linux 6.4).
    """
    if not traits_of(table.type).is_struct_ops or not table.info.map_flags & MapFlag.LINK:
        raise UsageError(
            f"map {table.name} is not a table of functions that a link registers: such a table is a"
            " variable in the section .struct_ops.link"
        )
    target = f"table {table.name}"
    try:
        return Link(Descriptor(bpf.link_create(table.fd, 0, AttachType.STRUCT_OPS, target=target)))
    except HookBusyError as error:
        raise HookBusyError(
            f"{target}: one of its name is registered already ({error.message})",
            hint="see the links of tables: bpfpin link list --type struct_ops",
        ) from None
    except InvalidArgumentError as error:
        # bpf_struct_ops_link_create() of kernel/bpf/bpf_struct_ops.c.
        raise UsageError(f"{target} is not filled, or the kernel refuses it ({error})") from None


class StructOpsCode(HookCode):
    """The code of the hook of tables."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Register the table that is the target."""
        with target.open_map() as table:
            return NewAttachment(hook, attach_struct_ops(table))

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Refuse a table that the object does not have."""
        target.open_map().close()
        return ""


CODE = StructOpsCode()
