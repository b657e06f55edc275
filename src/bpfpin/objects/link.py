"""Links: what holds a program at its hook."""

from __future__ import annotations

from typing import Protocol, Self

from bpfpin.errors import PermissionDeniedError, SyscallError
from bpfpin.objects.kernel.info import LinkInfo, link_info
from bpfpin.objects.kernel.object import KernelObject, ObjectKind
from bpfpin.objects.programs.program import Program
from bpfpin.syscall import bpf
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import AttachType, Cmd, LinkType


class HookAttachment(Protocol):
    """Whatever holds a program at a hook: a link, or the device itself."""

    def program_id(self) -> int:
        """Return the id of the program that runs there now, 0 for none."""

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        """Run *program* instead, if *expected_old* runs now, else `ProgramChangedError`."""

    def detach(self) -> None:
        """Leave the hook empty."""

    def close(self) -> None:
        """Let go of what is held."""


class Link(KernelObject):
    """A link held by descriptor; closing the last one detaches, unless the link is pinned."""

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
        """Attach *program* (BPF_LINK_CREATE).

        *link_target* is an ifindex or a cgroup's descriptor, *flags* are the hook's; *relative* is
        the program or link that it goes beside, if *flags* say so.
        `HookBusyError` where the hook takes no other program, `NotSupportedError` where the device
        or the kernel lacks the hook.
        """
        name = f"program {program.name} at {attach_type.name.lower()}"
        fd = bpf.link_create(
            program.fd, link_target, attach_type, flags=flags, relative=relative, target=name
        )
        return cls(Descriptor(fd))

    @property
    def info(self) -> LinkInfo:
        """What the kernel reports of the link now; ifindex 0 when its device is gone."""
        return link_info(self.fd)

    @property
    def id(self) -> int:
        """The id, unique on this host until it restarts."""
        return self.info.id

    def program_id(self) -> int:
        """Return the id of the program that the link runs now."""
        return self.info.program_id

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        """Run *program* from the next packet on, losing none (BPF_LINK_UPDATE).

        With *expected_old* only if the link runs that one now, else `ProgramChangedError`;
        `AttachError` if the device or cgroup is gone, `NotSupportedError` if the device's driver
        refuses the program.
        """
        old_fd = None if expected_old is None else expected_old.fd
        # Without the id in the words: asking for it waits for the network's lock, milliseconds.
        target = "the link's program"
        try:
            bpf.link_update(self.fd, program.fd, old_prog_fd=old_fd, target=target)
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
        """Detach the program for good, also if the link is pinned (BPF_LINK_DETACH)."""
        bpf.link_detach(self.fd, target=f"link id {self.id}")
