"""Programs of cgroups: they run for what the processes of a cgroup, and of those below it, do."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from bpfpin.attach.cgroup_path import open_cgroup
from bpfpin.attach.order import require_type
from bpfpin.attach.query import cgroup_programs
from bpfpin.errors import (
    CgroupNotFoundError,
    HookBusyError,
    IdNotFoundError,
    PermissionDeniedError,
    WrongHookError,
)
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.spec import Hook, choice_of
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.uapi import AttachType, ProgramType

_BY_TYPE: dict[ProgramType, str] = {
    ProgramType.CGROUP_SKB: "inet-ingress inet-egress",
    ProgramType.CGROUP_SOCK: "inet-sock-create inet-sock-release inet4-post-bind inet6-post-bind",
    ProgramType.SOCK_OPS: "sock-ops",
    ProgramType.CGROUP_DEVICE: "device",
    ProgramType.CGROUP_SYSCTL: "sysctl",
    ProgramType.CGROUP_SOCKOPT: "getsockopt setsockopt",
}
# What each hook of a cgroup runs; those without a row above are about addresses.
PROGRAM_TYPES: dict[Hook, ProgramType] = {
    hook: ProgramType.CGROUP_SOCK_ADDR for hook in Hook if hook.is_cgroup
} | {Hook(f"cgroup-{word}"): kind for kind, words in _BY_TYPE.items() for word in words.split()}


def attach_cgroup(program: Program, path: str | Path, hook: Hook | str) -> Link:
    """Attach *program* to a cgroup; closing the link detaches it, unless the link is pinned.

    *path* is the folder of a cgroup of version 2, absolute or relative to its mount, which is
    found by itself: `CgroupNotFoundError` if it is none. It runs beside the programs that are
    there already, after them; `HookBusyError` if it is there itself, or if one in the cgroup or
    above it allows no other. `WrongHookError` if its type, or the attach type that it was loaded
    for (`ProgramSpec.expected_attach_type`), is of another hook. BPF_LINK_CREATE (Linux 5.7).
    """
    hook = choice_of(Hook, hook, what="hook")
    if hook not in PROGRAM_TYPES or hook.attach_type is None:
        raise WrongHookError(f"a cgroup has no hook {hook.value}")
    require_type(program, PROGRAM_TYPES[hook], hook)
    with open_cgroup(path) as cgroup:
        _require_absent(program, cgroup.fileno(), hook.attach_type, path)
        return _attach(program, cgroup.fileno(), hook, path)


def _attach(program: Program, cgroup_fd: int, hook: Hook, path: str | Path) -> Link:
    assert hook.attach_type is not None
    try:
        return Link.create(program, cgroup_fd, hook.attach_type)
    except InvalidArgumentError:
        raise WrongHookError(
            f"program {program.name!r} was loaded for another hook than {hook.value}",
            hint="its section says for which one, or expected_attach_type of its spec",
        ) from None
    except IdNotFoundError:
        raise CgroupNotFoundError(f"the cgroup {path} was removed meanwhile") from None
    except PermissionDeniedError as error:
        if error.missing:
            raise
        # __cgroup_bpf_attach of kernel/bpf/cgroup.c: EPERM where the flags of others exclude it.
        raise HookBusyError(
            f"a program at {hook.value} of {path}, or of a cgroup above it, allows no other beside"
            " it: it was attached without BPF_F_ALLOW_MULTI",
            hint=f"see who it is: bpftool cgroup show {shlex.quote(_folder(cgroup_fd))} effective",
        ) from None


def _folder(cgroup_fd: int) -> str:
    """Return the folder of a cgroup, which may have been named relative to its mount."""
    return os.readlink(f"/proc/self/fd/{cgroup_fd}")  # noqa: PTH115 - no file's path


def _require_absent(
    program: Program, cgroup_fd: int, attach_type: AttachType, path: str | Path
) -> None:
    """Refuse what the kernel would do: run one program twice for everything."""
    there = cgroup_programs(cgroup_fd, attach_type)
    if any(one.program_id == program.id for one in there):
        holder = f"program id {program.id}"
        raise HookBusyError(
            f"{attach_type.name.lower()} of {path} runs this program already: {holder}",
            holder=holder,
        )
