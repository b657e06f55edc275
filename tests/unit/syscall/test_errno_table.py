"""From errno to exception."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from bpfpin.errors import (
    BpfError,
    CgroupNotFoundError,
    HookBusyError,
    IdNotFoundError,
    InterfaceNotFoundError,
    KeyExistsError,
    KeyNotFoundError,
    MapFullError,
    NotSupportedError,
    PermissionDeniedError,
    PinExistsError,
    PinNotFoundError,
    ProgramChangedError,
    ReadOnlyMapError,
    SyscallError,
    UnsafePathError,
)
from bpfpin.syscall import capability
from bpfpin.syscall.errno_table import ENOTSUPP, BufferTooSmallError, link_type_of, syscall_error
from bpfpin.uapi import AttachType, Cmd, MapType, ProgramType

ALL = (1 << 41) - 1


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the test write what capabilities this process has; all of them to begin with."""
    status, uid_map = tmp_path / "status", tmp_path / "uid_map"
    status.write_text(f"Name:\tx\nCapEff:\t{ALL:016x}\n")
    uid_map.write_text("0 0 4294967295\n")
    monkeypatch.setattr(capability, "STATUS", status)
    monkeypatch.setattr(capability, "UID_MAP", uid_map)
    return status


def hold(status: Path, *held: capability.Capability) -> None:
    """Have just these capabilities."""
    status.write_text(f"CapEff:\t{sum(1 << each for each in held):016x}\n")


@pytest.mark.parametrize(
    ("command", "code", "kind"),
    [
        (Cmd.MAP_LOOKUP_ELEM, errno.ENOENT, KeyNotFoundError),
        (Cmd.MAP_UPDATE_ELEM, errno.EEXIST, KeyExistsError),
        (Cmd.MAP_UPDATE_ELEM, errno.E2BIG, MapFullError),
        (Cmd.MAP_UPDATE_ELEM, errno.EPERM, ReadOnlyMapError),
        (Cmd.MAP_LOOKUP_BATCH, ENOTSUPP, NotSupportedError),
        (Cmd.MAP_GET_FD_BY_ID, errno.ENOENT, IdNotFoundError),
        (Cmd.OBJ_GET, errno.ENOENT, PinNotFoundError),
        (Cmd.OBJ_PIN, errno.EEXIST, PinExistsError),
        (Cmd.LINK_CREATE, errno.EBUSY, HookBusyError),
        (Cmd.LINK_UPDATE, errno.EPERM, ProgramChangedError),
        (Cmd.PROG_LOAD, errno.E2BIG, SyscallError),
        (Cmd.OBJ_GET, errno.E2BIG, NotSupportedError),
        ("openat2", errno.ELOOP, UnsafePathError),
        ("openat2", errno.EIO, SyscallError),
    ],
)
def test_each_refusal_has_its_class(
    held: Path, command: Cmd | str, code: int, kind: type[BpfError]
) -> None:
    assert type(syscall_error(command, code, target="x")) is kind


@pytest.mark.parametrize(
    ("attach_type", "code", "kind"),
    [
        (AttachType.XDP, errno.ERANGE, NotSupportedError),
        (AttachType.XDP, errno.ENOSPC, NotSupportedError),
        (AttachType.XDP, errno.EOPNOTSUPP, NotSupportedError),
        (AttachType.XDP, errno.EEXIST, HookBusyError),
        (AttachType.XDP, errno.EBUSY, HookBusyError),
        (AttachType.XDP, errno.ENODEV, InterfaceNotFoundError),
        (AttachType.TCX_EGRESS, errno.ERANGE, HookBusyError),
        (AttachType.TCX_INGRESS, errno.ENOSPC, SyscallError),
        (AttachType.NETKIT_PEER, errno.ERANGE, HookBusyError),
        (AttachType.NETKIT_PRIMARY, errno.ENXIO, NotSupportedError),
        (AttachType.CGROUP_INET_EGRESS, errno.E2BIG, HookBusyError),
        (AttachType.CGROUP_INET4_CONNECT, errno.ENODEV, CgroupNotFoundError),
        (AttachType.CGROUP_DEVICE, errno.ERANGE, SyscallError),
        (AttachType.TRACE_ITER, errno.ERANGE, SyscallError),
    ],
)
def test_an_errno_of_a_link_means_what_it_means_at_its_hook(
    held: Path, attach_type: AttachType, code: int, kind: type[BpfError]
) -> None:
    error = syscall_error(Cmd.LINK_CREATE, code, target="x", link_type=link_type_of(attach_type))

    assert type(error) is kind


def test_no_room_is_no_room_for_an_answer_only_where_there_is_one(held: Path) -> None:
    assert type(syscall_error(Cmd.PROG_QUERY, errno.ENOSPC)) is BufferTooSmallError
    assert type(syscall_error(Cmd.LINK_UPDATE, errno.ENOSPC)) is SyscallError


def test_an_error_says_what_was_asked_and_the_kernels_words(held: Path) -> None:
    error = syscall_error(Cmd.MAP_LOOKUP_ELEM, errno.ENOENT, target="map flows, key 7")

    assert str(error) == (
        "map flows, key 7: there is no such key "
        "(BPF_MAP_LOOKUP_ELEM: ENOENT, No such file or directory)"
    )
    assert isinstance(error, KeyNotFoundError)
    assert (error.command, error.errno) == ("BPF_MAP_LOOKUP_ELEM", errno.ENOENT)


def test_errors_of_places_keep_the_kernels_words_too(held: Path) -> None:
    error = syscall_error(Cmd.OBJ_GET, errno.ENOENT, target="/sys/fs/bpf/x")

    assert str(error).startswith("/sys/fs/bpf/x: nothing is pinned there (BPF_OBJ_GET: ENOENT")
    assert isinstance(error, PinNotFoundError)
    assert error.path == "/sys/fs/bpf/x"


BPF, NET = capability.Capability.CAP_BPF, capability.Capability.CAP_NET_ADMIN
ADMIN = capability.Capability.CAP_SYS_ADMIN


@pytest.mark.parametrize(
    ("asked", "has", "missing"),
    [
        ((Cmd.MAP_CREATE, MapType.HASH), (), ("CAP_BPF",)),
        ((Cmd.MAP_CREATE, MapType.DEVMAP), (BPF,), ("CAP_NET_ADMIN",)),
        ((Cmd.PROG_LOAD, ProgramType.XDP), (), ("CAP_BPF", "CAP_NET_ADMIN")),
        ((Cmd.PROG_LOAD, ProgramType.KPROBE), (BPF, NET), ("CAP_PERFMON",)),
        ((Cmd.PROG_LOAD, ProgramType.SOCKET_FILTER), (BPF,), ()),
        ((Cmd.MAP_GET_NEXT_ID, 0), (BPF, NET), ("CAP_SYS_ADMIN",)),
        ((Cmd.PROG_LOAD, ProgramType.KPROBE), (ADMIN,), ()),
        ((Cmd.PROG_LOAD, ProgramType.EXT), (BPF,), ("CAP_NET_ADMIN", "CAP_PERFMON")),
        ((Cmd.MAP_CREATE, MapType.DEVMAP), (ADMIN,), ()),
        (("perf_event_open", 0), (ADMIN,), ()),
        # rtnetlink asks for CAP_NET_ADMIN itself.
        (("RTM_NEWQDISC", 0), (ADMIN, BPF), ("CAP_NET_ADMIN",)),
        (("RTM_NEWLINK", 0), (ADMIN,), ("CAP_NET_ADMIN",)),
        (("RTM_DELTFILTER", 0), (NET,), ()),
    ],
)
def test_the_missing_capability_is_named(
    held: Path,
    asked: tuple[Cmd | str, int],
    has: tuple[capability.Capability, ...],
    missing: tuple[str, ...],
) -> None:
    hold(held, *has)
    error = syscall_error(asked[0], errno.EPERM, target="x", subtype=asked[1])

    assert isinstance(error, PermissionDeniedError)
    assert error.missing == missing
    assert all(name in str(error) for name in missing)


def test_capabilities_of_another_user_namespace_do_not_count(
    held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capability.UID_MAP.write_text("0 1000 1\n")

    assert capability.missing_capabilities(Cmd.BTF_LOAD) == ("CAP_BPF",)
