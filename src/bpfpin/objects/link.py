"""Links: kernel objects that keep a program attached to its hook."""

from __future__ import annotations

import os
from errno import EPERM
from types import TracebackType
from typing import Protocol, Self

from bpfpin.errors import PermissionDeniedError, ProgramChangedError, SyscallError
from bpfpin.objects.kernel.info import LinkInfo, link_info
from bpfpin.objects.kernel.object import KernelObject, ObjectKind
from bpfpin.objects.maps.base import BaseMap
from bpfpin.objects.programs.program import Program
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import LinkDetails, OrderedLink
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Closing, Descriptor
from bpfpin.uapi import AttachType, Cmd, LinkType


class HookAttachment(Protocol):
    """What keeps a program attached to a hook: a link, or the device itself (netlink)."""

    def program_id(self) -> int:
        """Return the id of the attached program, 0 for none."""

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        """Replace the program; `ProgramChangedError` if *expected_old* is not the attached one."""

    def detach(self) -> None:
        """Detach the program."""

    def close(self) -> None:
        """Close the descriptors; a pinned link stays attached."""


class LinklessAttachment(Closing):
    """A program that a device, route, map or socket holds: it stays when the process ends.

    `close` does nothing; `detach`, or the end of `with`, removes the program.
    """

    def detach(self) -> None:
        """Detach the program."""
        raise NotImplementedError

    def close(self) -> None:
        """Do nothing: no descriptor holds the program."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Detach at the end of `with`, as an unpinned link does."""
        self.detach()


class Link(KernelObject):
    """A link, held by a descriptor; closing the last one detaches, unless the link is pinned."""

    kind = ObjectKind.LINK

    @classmethod
    def create(
        cls,
        program: Program,
        link_target: int,
        attach_type: AttachType,
        *,
        flags: int = 0,
        relative: int = 0,
    ) -> Self:
        """Attach *program* by a new link.

        Args:
            program: The program.
            link_target: An ifindex, or the descriptor of a cgroup.
            attach_type: The hook.
            flags: Flags of the hook. Default: 0.
            relative: Descriptor or id of the program or link to attach beside, if *flags* say so.

        Raises:
            HookBusyError: The hook is taken.
            NotSupportedError: The device or the kernel does not have the hook.
            PermissionDeniedError: A capability is missing (CAP_NET_ADMIN, CAP_BPF).

        Kernel: BPF_LINK_CREATE (Linux 5.7; XDP 5.9, tcx 6.6, netkit 6.7).
        """
        beside = LinkDetails(order=OrderedLink(relative))
        return cls(create_link(program, link_target, attach_type, beside, flags=flags))

    @property
    def info(self) -> LinkInfo:
        """The kernel's report of the link now."""
        return link_info(self.fd)

    @property
    def id(self) -> int:
        """The id, unique on this host until it restarts."""
        return self.info.id

    def program_id(self) -> int:
        """Return the id of the attached program; of a table (struct_ops), that of its map."""
        return self.info.object_id

    def update(
        self, program: Program | BaseMap, expected_old: Program | BaseMap | None = None
    ) -> None:
        """Replace the program atomically: every packet is seen by the old one or the new one.

        Args:
            program: The new program, of the same type; for a link of struct_ops, the new table.
            expected_old: Replace only this program, or table. Default: any.

        Raises:
            ProgramChangedError: Another program than *expected_old* is attached.
            PermissionDeniedError: The kernel refuses the change for another reason.
            AttachError: The device or cgroup is gone.
            NotSupportedError: The device's driver refuses the program.

        Kernel: BPF_LINK_UPDATE (Linux 5.7; with *expected_old* BPF_F_REPLACE).
        """
        # With BPF_F_REPLACE the kernel compares and replaces in one step: EPERM if another program
        # runs, so a hook that somebody else changed is left alone.
        old_fd = None if expected_old is None else expected_old.fd
        # The message does not name the link's id: asking for it takes the network's lock (rtnl, in
        # bpf_xdp_link_fill_link_info() of net/core/dev.c), milliseconds on a busy host.
        target = "the link's program"
        try:
            bpf.link_update(self.fd, program.fd, old_prog_fd=old_fd, target=target)
        except ProgramChangedError as error:
            # The kernel says EPERM for another program, and a security module says EPERM as well.
            if expected_old is not None and self.program_id() != expected_old.id:
                raise
            raise PermissionDeniedError(
                f"{target}: refused, and nobody changed it"
                f" (BPF_LINK_UPDATE: EPERM, {os.strerror(EPERM)})",
                command="BPF_LINK_UPDATE",
                target=target,
            ) from error
        except SyscallError as error:
            if isinstance(error, PermissionDeniedError) or not error.errno:
                raise
            kind = self.info.type  # what the errno means depends on the hook
            raise syscall_error(
                Cmd.LINK_UPDATE,
                error.errno,
                target=target,
                link_type=kind if isinstance(kind, LinkType) else None,
            ) from None

    def detach(self) -> None:
        """Detach the program for good, also if the link is pinned.

        Kernel: BPF_LINK_DETACH (Linux 5.9).
        """
        # Pins stay, and open a link without a device or cgroup (tcx_link_release() of
        # kernel/bpf/tcx.c): it can attach nothing any more.
        bpf.link_detach(self.fd, target=f"link id {self.id}")


def create_link(
    program: Program,
    link_target: int,
    attach_type: AttachType,
    details: LinkDetails,
    *,
    flags: int = 0,
    place: str = "",
) -> Descriptor:
    """Attach *program* by a new link and return its descriptor; *place* names the hook in errors.

    *details* are what the kind of link takes besides.
    """
    name = f"program {program.name} at {place or attach_type.name.lower()}"
    # The link is unpinned: if this process is killed now, the kernel closes it and detaches.
    return Descriptor(
        bpf.link_create(
            program.fd, link_target, attach_type, flags=flags, details=details, target=name
        )
    )
