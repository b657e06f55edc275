"""The exception for each failed system call: the only table of (command, errno).

A command is a `Cmd` of bpf(2), or the name of another system call. A row under `None` applies to
every command without a row of its own for that errno. For BPF_LINK_CREATE and BPF_LINK_UPDATE a row
of `AT_HOOK` comes first, if there is one for the type of the link.
"""

from __future__ import annotations

import errno as e
import os
from collections.abc import Sequence

from bpfpin.errors import (
    AttachError,
    BpfError,
    CgroupNotFoundError,
    ExitCode,
    HookBusyError,
    IdNotFoundError,
    InterfaceNotFoundError,
    KeyExistsError,
    KeyNotFoundError,
    MapFullError,
    NamespaceNotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    PinError,
    PinExistsError,
    PinKindError,
    PinNotFoundError,
    ProgramChangedError,
    ReadOnlyMapError,
    SyscallError,
    TargetNotFoundError,
    UnsafePathError,
)
from bpfpin.syscall.capability import missing_capabilities
from bpfpin.uapi import AttachType, Cmd, LinkType

# The kernel's internal ENOTSUPP (include/linux/errno.h), which some commands leak to user space and
# no C library names; it is reported as EOPNOTSUPP.
ENOTSUPP = 524


class BufferTooSmallError(SyscallError):
    """The buffer for the kernel's answer was too small (ENOSPC); retry with a larger one."""


class InvalidArgumentError(SyscallError):
    """The kernel rejected the arguments (EINVAL); it may not know a flag or a type."""


class NoRouteError(SyscallError):
    """No route leads to the address, or one that refuses the packets."""


class MapDefinitionError(InvalidArgumentError):
    """The definition of a map breaks rules of the kernel for its type; *rules* lists them."""

    exit_code = ExitCode.REFUSED
    rules: Sequence[str] = ()


Row = tuple[type[BpfError], str]

NO_KEY: Row = (KeyNotFoundError, "there is no such key")
NO_ID: Row = (IdNotFoundError, "there is no such id")
READ_ONLY: Row = (ReadOnlyMapError, "the map is frozen or was opened for reading only")
NO_BATCH: Row = (NotSupportedError, "maps of this type have no batches here")
FULL: Row = (MapFullError, "there is no room for the key")
TAKEN: Row = (PinExistsError, "the name is taken")
NO_PIN: Row = (PinNotFoundError, "nothing is pinned there")
NO_ROOM_FOR_ANSWER: Row = (BufferTooSmallError, "no room for the answer")
NO_DEVICE: Row = (InterfaceNotFoundError, "there is no such device")

LOOKUPS = (Cmd.MAP_LOOKUP_ELEM, Cmd.MAP_LOOKUP_BATCH, Cmd.MAP_GET_NEXT_KEY)
REMOVALS = (
    Cmd.MAP_DELETE_ELEM,
    Cmd.MAP_DELETE_BATCH,
    Cmd.MAP_LOOKUP_AND_DELETE_ELEM,
    Cmd.MAP_LOOKUP_AND_DELETE_BATCH,
)
UPDATES = (Cmd.MAP_UPDATE_ELEM, Cmd.MAP_UPDATE_BATCH)
ANSWERS = (
    Cmd.MAP_LOOKUP_BATCH,
    Cmd.MAP_LOOKUP_AND_DELETE_BATCH,
    Cmd.PROG_QUERY,
    Cmd.OBJ_GET_INFO_BY_FD,
    Cmd.PROG_TEST_RUN,
    Cmd.BTF_LOAD,
)
TRAFFIC_CONTROL = ("RTM_NEWQDISC", "RTM_DELQDISC", "RTM_NEWTFILTER", "RTM_DELTFILTER")
OPENINGS = (
    Cmd.PROG_GET_FD_BY_ID,
    Cmd.MAP_GET_FD_BY_ID,
    Cmd.BTF_GET_FD_BY_ID,
    Cmd.LINK_GET_FD_BY_ID,
    Cmd.PROG_GET_NEXT_ID,
    Cmd.MAP_GET_NEXT_ID,
    Cmd.BTF_GET_NEXT_ID,
    Cmd.LINK_GET_NEXT_ID,
)

TABLE: dict[tuple[Cmd | str | None, int], Row] = {
    (None, e.EPERM): (PermissionDeniedError, "not permitted"),
    (None, e.EACCES): (PermissionDeniedError, "access denied"),
    (None, e.EINVAL): (InvalidArgumentError, "the kernel refused the arguments"),
    (None, e.ENOSPC): (SyscallError, "there is no room"),
    (None, e.EOPNOTSUPP): (NotSupportedError, "not supported here"),
    (None, ENOTSUPP): (NotSupportedError, "not supported here"),
    (None, e.ENOSYS): (NotSupportedError, "this kernel has no such call"),
    # A member that this kernel does not know is not zero (bpf_check_uarg_tail_zero()).
    (None, e.E2BIG): (NotSupportedError, "this kernel is older than something asked of it"),
    **{(command, e.ENOENT): NO_KEY for command in (*LOOKUPS, *REMOVALS, *UPDATES)},
    # The kernel does not tell a frozen map from a descriptor for reading: map_get_sys_perms() of
    # kernel/bpf/syscall.c takes the right to write away from both.
    **{(command, e.EPERM): READ_ONLY for command in (*REMOVALS, *UPDATES)},
    **{(command, e.EEXIST): (KeyExistsError, "the key is there already") for command in UPDATES},
    # A full hash or queue, or an index beyond the end of an array (hashtab.c, queue_stack_maps.c
    # and arraymap.c of kernel/bpf).
    **{(command, e.E2BIG): FULL for command in UPDATES},
    # A full LPM trie (trie_update_elem() of kernel/bpf/lpm_trie.c).
    **{(command, e.ENOSPC): FULL for command in UPDATES},
    (Cmd.MAP_LOOKUP_ELEM, e.EPERM): (PermissionDeniedError, "the map was opened for writing only"),
    # Before Linux 5.6 the command is unknown, which is EINVAL. Since then a type without batches
    # answers ENOTSUPP (bpf_map_do_batch() of kernel/bpf/syscall.c).
    (Cmd.MAP_LOOKUP_BATCH, e.EINVAL): NO_BATCH,
    (Cmd.MAP_CREATE, e.E2BIG): (SyscallError, "the map would be too large"),
    (Cmd.MAP_CREATE, e.ENOMEM): (SyscallError, "there is not enough memory for the map"),
    (Cmd.MAP_FREEZE, e.EBUSY): (SyscallError, "the map is written to just now, or was frozen"),
    **{(command, e.ENOSPC): NO_ROOM_FOR_ANSWER for command in ANSWERS},
    (Cmd.BTF_LOAD, e.E2BIG): (SyscallError, "the types are too large"),
    (Cmd.PROG_LOAD, e.E2BIG): (SyscallError, "the program is too large"),
    (Cmd.PROG_LOAD, e.ENOSPC): (BufferTooSmallError, "the verifier's log did not fit"),
    **{(command, e.ENOENT): NO_ID for command in OPENINGS},
    # A link gets its id before it is complete; until then EAGAIN (bpf_link_by_id() of
    # kernel/bpf/syscall.c).
    (Cmd.LINK_GET_FD_BY_ID, e.EAGAIN): NO_ID,
    (Cmd.OBJ_PIN, e.EEXIST): TAKEN,
    (Cmd.OBJ_PIN, e.ENOENT): (PinNotFoundError, "there is no such directory"),
    # bpf_lookup() of kernel/bpf/inode.c for a name with a dot, bpf_obj_do_pin() outside of a bpffs.
    (Cmd.OBJ_PIN, e.EPERM): (PinError, "bpffs refused the name, or no bpffs is there"),
    (Cmd.OBJ_GET, e.ENOENT): NO_PIN,
    (Cmd.OBJ_GET, e.EROFS): (PermissionDeniedError, "the bpffs is mounted read-only"),
    (Cmd.OBJ_GET, e.ENOTDIR): NO_PIN,
    (Cmd.LINK_CREATE, e.EBUSY): (HookBusyError, "another program is attached there"),
    (Cmd.LINK_CREATE, e.EEXIST): (HookBusyError, "another program is attached there"),
    (Cmd.LINK_CREATE, e.ENOENT): (IdNotFoundError, "what it was to be attached to is not there"),
    (Cmd.LINK_CREATE, e.ENODEV): NO_DEVICE,
    # netkit_dev_fetch() of drivers/net/netkit.c.
    (Cmd.LINK_CREATE, e.ENXIO): (NotSupportedError, "the device is of a kind without that hook"),
    # The comparison with old_prog_fd failed, for XDP in bpf_xdp_link_update() of net/core/dev.c.
    (Cmd.LINK_UPDATE, e.EPERM): (ProgramChangedError, "somebody else changed the program"),
    (Cmd.LINK_UPDATE, e.EEXIST): (HookBusyError, "the program is attached there already"),
    # A link outlives its device or cgroup, and has none then (the same function, for XDP).
    (Cmd.LINK_UPDATE, e.ENOLINK): (
        InterfaceNotFoundError,
        "the device or cgroup of the link is gone",
    ),
    ("perf_event_open", e.ENOENT): (NotSupportedError, "this kernel or CPU has no such event"),
    ("perf_event_open", e.ENODEV): (NotSupportedError, "the CPU is offline, or not there"),
    ("perf_event_open", e.ESRCH): (TargetNotFoundError, "there is no such process"),
    # is_valid_insn() and its like of arch/*/kernel/uprobes.c.
    ("perf_event_open", ENOTSUPP): (NotSupportedError, "no probe is possible at this instruction"),
    (Cmd.RAW_TRACEPOINT_OPEN, e.ENOENT): (
        TargetNotFoundError,
        "this kernel has no such tracepoint",
    ),
    (Cmd.RAW_TRACEPOINT_OPEN, e.EBUSY): (HookBusyError, "the program is attached there already"),
    # BPF_MAX_TRAMP_LINKS of include/linux/bpf.h: bpf_trampoline_link_prog().
    (Cmd.RAW_TRACEPOINT_OPEN, e.E2BIG): (
        HookBusyError,
        "there is no room for one more program there",
    ),
    (Cmd.LINK_DETACH, e.ENOLINK): (AttachError, "the device or cgroup of the link is gone"),
    # An unknown command of bpf(2) is EINVAL (__sys_bpf() of kernel/bpf/syscall.c); these two have
    # no argument that could be wrong.
    (Cmd.ENABLE_STATS, e.EINVAL): (NotSupportedError, "this kernel cannot count runs on demand"),
    (Cmd.PROG_STREAM_READ_BY_FD, e.EINVAL): (
        NotSupportedError,
        "this kernel has no text streams of programs",
    ),
    (Cmd.PROG_ATTACH, e.EBUSY): (HookBusyError, "another program is attached there"),
    # psock_replace_prog() of include/linux/skmsg.h.
    (Cmd.PROG_DETACH, e.ENOENT): (ProgramChangedError, "somebody else changed the program"),
    (Cmd.PROG_QUERY, e.EBUSY): (HookBusyError, "a program at another hook is in the way"),
    (Cmd.PROG_QUERY, e.ENODEV): NO_DEVICE,
    # netkit_dev_fetch() of drivers/net/netkit.c.
    (Cmd.PROG_QUERY, e.ENXIO): (NotSupportedError, "the device is of a kind without that hook"),
    (Cmd.PROG_QUERY, e.ENOENT): (CgroupNotFoundError, "the cgroup is gone"),
    **{(command, e.ENODEV): NO_DEVICE for command in TRAFFIC_CONTROL},
    ("RTM_NEWQDISC", e.EEXIST): (HookBusyError, "a qdisc is there already"),
    ("RTM_NEWQDISC", e.ENOENT): (NotSupportedError, "this kernel has no such qdisc"),
    ("RTM_NEWTFILTER", e.EEXIST): (HookBusyError, "a filter of that handle is there already"),
    ("RTM_NEWTFILTER", e.ENOENT): (IdNotFoundError, "there is no such filter"),
    ("RTM_DELTFILTER", e.ENOENT): (IdNotFoundError, "there is no such filter"),
    ("RTM_NEWROUTE", e.ENOENT): (IdNotFoundError, "there is no such route"),
    ("RTM_NEWROUTE", e.ENODEV): NO_DEVICE,
    # A route may refuse packets (prohibit, blackhole, throw): fib_props of
    # net/ipv4/fib_semantics.c, ip6_rt_type_to_error() of net/ipv6/route.c. EINVAL is also the
    # answer to a source address that no device has.
    **{
        ("RTM_GETROUTE", code): (NoRouteError, "there is no route")
        for code in (e.ENETUNREACH, e.EHOSTUNREACH, e.EACCES, e.EINVAL, e.EAGAIN)
    },
    ("SIOCGIFNAME", e.ENODEV): NO_DEVICE,
    ("SIOCGIFINDEX", e.ENODEV): NO_DEVICE,
    ("openat2", e.ENOENT): (PinNotFoundError, "there is no such name"),
    ("openat2", e.ENOTDIR): (PinNotFoundError, "there is no such directory"),
    ("openat2", e.ELOOP): (UnsafePathError, "a symbolic link stands in the path"),
    ("openat2", e.EXDEV): (UnsafePathError, "the path leaves its directory"),
    ("renameat2", e.ENOENT): (PinNotFoundError, "there is no such name"),
    ("renameat2", e.EEXIST): TAKEN,
    ("renameat2", e.ENOTEMPTY): TAKEN,
    ("renameat2", e.EINVAL): (NotSupportedError, "bpffs cannot rename like this here"),
    ("readlink", e.EINVAL): (PinKindError, "it is not a symbolic link"),
    ("statfs", e.ENOENT): (PinNotFoundError, "there is no such name"),
    ("statfs", e.ENOTDIR): (PinNotFoundError, "there is no such directory"),
    ("mmap", e.EACCES): READ_ONLY,
    ("open netns", e.ENOENT): (NamespaceNotFoundError, "there is no such network namespace"),
    ("setns", e.EINVAL): (NamespaceNotFoundError, "this is not a network namespace"),
}
# The meaning of an errno of BPF_LINK_CREATE and BPF_LINK_UPDATE at one kind of hook: the driver of
# a device chooses its errnos (ndo_bpf), and each kind of hook has its own for "full".
FULL_HOOK: Row = (HookBusyError, "there is no room for one more program there")
DRIVER: Row = (NotSupportedError, "the device refuses the program in this mode")
AT_HOOK: dict[tuple[LinkType, int], Row] = {
    **{
        (LinkType.XDP, code): DRIVER
        for code in (e.ERANGE, e.ENOSPC, e.EOPNOTSUPP, ENOTSUPP, e.ENOTCONN, e.EIO, e.E2BIG)
    },
    # dev_xdp_attach() of net/core/dev.c.
    (LinkType.XDP, e.EEXIST): (
        HookBusyError,
        "an XDP program in another mode, or of a device above this one, is in the way",
    ),
    # BPF_MPROG_MAX of include/linux/bpf_mprog.h
    **{(kind, e.ERANGE): FULL_HOOK for kind in (LinkType.TCX, LinkType.NETKIT)},
    # BPF_CGROUP_MAX_PROGS of include/linux/bpf-cgroup-defs.h
    (LinkType.CGROUP, e.E2BIG): FULL_HOOK,
    (LinkType.CGROUP, e.ENODEV): (CgroupNotFoundError, "the cgroup is gone"),
    # netns_bpf_max_progs() of kernel/bpf/net_namespace.c: one flow dissector, 64 socket lookups.
    (LinkType.NETNS, e.E2BIG): FULL_HOOK,
}
# The oldest kernel that the tests run on. An older one is refused by what it lacks, never by its
# version.
OLDEST_LINUX = "6.1"
SINCE: dict[Cmd | str, str] = {
    Cmd.MAP_LOOKUP_BATCH: "5.6",
    Cmd.LINK_CREATE: "5.9",
    Cmd.ENABLE_STATS: "5.8",
    Cmd.PROG_STREAM_READ_BY_FD: "6.17",
    "openat2": "5.6",
    "renameat2": "5.16",
}


def syscall_error(
    command: Cmd | str,
    errno: int,
    *,
    target: str = "",
    subtype: int = 0,
    link_type: LinkType | None = None,
) -> BpfError:
    """Return the exception for *errno* of *command*.

    Args:
        command: The command of bpf(2), or the name of another system call.
        errno: The error number.
        target: The object in the message (`map flows`).
        subtype: The type of the map or program to create, which decides the capabilities needed.
        link_type: The type of the link to create or update.
    """
    row = AT_HOOK.get((link_type, errno)) if link_type is not None else None
    row = row or TABLE.get((command, errno)) or TABLE.get((None, errno), (SyscallError, "refused"))
    kind, text = row
    # After the lookup: 524 has its own rows, but no text in the C library.
    errno = e.EOPNOTSUPP if errno == ENOTSUPP else errno
    missing = missing_capabilities(command, subtype) if errno in (e.EPERM, e.EACCES) else ()
    if missing:
        kind, text = PermissionDeniedError, f"needs {' and '.join(missing)}"
    message = f"{target}: {text}" if target else text
    return _make(kind, message, name_of(command), errno, target, missing)


def link_type_of(attach_type: int) -> LinkType | None:
    """Return the link type of *attach_type*, None if `AT_HOOK` has no rows for it."""
    try:
        name = AttachType(attach_type).name
    except ValueError:
        return None
    if attach_type in _OF_NETNS:
        return LinkType.NETNS
    # Attach types begin with the name of the kind of link: TCX_INGRESS, CGROUP_INET4_BIND.
    return next((kind for kind in _WITH_ROWS if name.startswith(kind.name)), None)


_OF_NETNS = (AttachType.SK_LOOKUP, AttachType.FLOW_DISSECTOR)
_WITH_ROWS = tuple(dict.fromkeys(kind for kind, _ in AT_HOOK))


def name_of(command: Cmd | str) -> str:
    """Return the kernel's name of a command: `BPF_MAP_CREATE`, `openat2`."""
    return f"BPF_{command.name}" if isinstance(command, Cmd) else command


def _make(  # noqa: PLR0917  (the one place where all parts of an error meet)
    kind: type[BpfError],
    message: str,
    command: str,
    errno: int,
    target: str,
    missing: Sequence[str],
) -> BpfError:
    error: BpfError
    if issubclass(kind, SyscallError):
        error = kind(message, command=command, errno=errno, target=target)
    else:
        error = kind(f"{message} ({command}: {e.errorcode[errno]}, {os.strerror(errno)})")
    if isinstance(error, PermissionDeniedError):
        error.missing = tuple(missing)
    if isinstance(error, NotSupportedError):
        error.feature, error.since = command, SINCE.get(command, "")
    if isinstance(error, PinError):
        error.path = target
    return error
