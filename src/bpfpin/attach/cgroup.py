"""Programs of cgroups: they run for the processes of a cgroup and of the cgroups below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bpfpin.attach.cgroup_path import open_cgroup
from bpfpin.attach.order import require_type
from bpfpin.attach.query import cgroup_programs
from bpfpin.attach.registry import (
    AttachOptions,
    HookCode,
    HookTarget,
    NewAttachment,
    RunningProgram,
)
from bpfpin.choices import choice_of
from bpfpin.errors import (
    CgroupNotFoundError,
    HookBusyError,
    IdNotFoundError,
    PermissionDeniedError,
    WrongHookError,
)
from bpfpin.hints import shell_line
from bpfpin.hooks import Hook
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.uapi import AttachType


def attach_cgroup(program: Program, path: str | Path, hook: Hook | str) -> Link:
    """Attach *program* to a cgroup; closing the link detaches it, unless the link is pinned.

    It runs after the programs that are attached there already.

    Args:
        program: A program of the type, and loaded for the attach type
            (`ProgramSpec.expected_attach_type`), of the hook.
        path: The folder of a cgroup of version 2, absolute or relative to the cgroup2 mount.
        hook: One of the hooks `Hook.CGROUP_…`, or its word.

    Returns:
        The link.

    Raises:
        CgroupNotFoundError: The folder is not a cgroup of version 2.
        HookBusyError: The program is attached there already, or a program in the cgroup or above
            it was attached without BPF_F_ALLOW_MULTI.
        WrongHookError: The program is of another type or attach type, or the hook is not one of
            cgroups.
        PermissionDeniedError: CAP_NET_ADMIN or CAP_BPF is missing.

    Kernel: BPF_LINK_CREATE with BPF_CGROUP_… (Linux 5.7).
    """
    hook = choice_of(Hook, hook, what="hook")
    if hook.traits.code != "cgroup" or hook.attach_type is None:
        raise WrongHookError(f"a cgroup has no hook {hook.value}")
    require_type(program, hook)
    with open_cgroup(path) as cgroup:
        # Asked here because the kernel does not refuse it: for a link, find_attach_entry() of
        # kernel/bpf/cgroup.c compares the links that are attached, and not their programs.
        _require_absent(program, cgroup.fileno(), hook.attach_type, path)
        return _attach(program, cgroup.fileno(), hook, path)


def _attach(program: Program, cgroup_fd: int, hook: Hook, path: str | Path) -> Link:
    assert hook.attach_type is not None
    try:
        return Link.create(program, cgroup_fd, hook.attach_type)
    # bpf_prog_attach_check_attach_type() of kernel/bpf/syscall.c: EINVAL for another attach type.
    except InvalidArgumentError:
        raise WrongHookError(
            f"program {program.name!r} was loaded for another hook than {hook.value}",
            hint="its section says for which one, or expected_attach_type of its spec",
        ) from None
    # ENOENT: the descriptor is of a cgroup whose folder was removed after the open.
    except IdNotFoundError:
        raise CgroupNotFoundError(f"the cgroup {path} was removed meanwhile") from None
    except PermissionDeniedError as error:
        if error.missing:
            raise
        # __cgroup_bpf_attach of kernel/bpf/cgroup.c: EPERM where the flags of others exclude it.
        raise HookBusyError(
            f"a program at {hook.value} of {path}, or of a cgroup above it, allows no other beside"
            " it: it was attached without BPF_F_ALLOW_MULTI",
            hint=f"see which: {shell_line('bpftool cgroup show', _folder(cgroup_fd), 'effective')}",
        ) from None


def _folder(cgroup_fd: int) -> str:
    """Return the folder of a cgroup, which may have been named relative to its mount."""
    return os.readlink(f"/proc/self/fd/{cgroup_fd}")  # noqa: PTH115 - not a path of a file


def _require_absent(
    program: Program, cgroup_fd: int, attach_type: AttachType, path: str | Path
) -> None:
    """Refuse what the kernel would do: run one program twice for each event."""
    programs = cgroup_programs(cgroup_fd, attach_type)
    if any(entry.program_id == program.id for entry in programs):
        holder = f"program id {program.id}"
        raise HookBusyError(
            f"{attach_type.name.lower()} of {path} runs this program already: {holder}",
            holder=holder,
        )


class CgroupCode(HookCode):
    """The code of the hooks of cgroups."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link."""
        assert target.cgroup is not None
        return NewAttachment(hook, attach_cgroup(program, target.cgroup, hook))

    def running_in(self, cgroup_fd: int, hook: Hook) -> Iterator[RunningProgram]:
        """Yield the programs that are attached to the cgroup itself, not those it inherits."""
        assert hook.attach_type is not None
        for entry in cgroup_programs(cgroup_fd, hook.attach_type):
            yield RunningProgram(hook, entry.program_id)


CODE = CgroupCode()
