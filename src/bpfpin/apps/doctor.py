"""Checks what the kernel, the user, bpffs and a device allow, with a remedy for each problem."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bpfpin.attach import devices, interface
from bpfpin.attach.devices import XdpFeature
from bpfpin.attach.xdp import xdp_holder
from bpfpin.errors import BpfError, NotBpffsError, PermissionDeniedError
from bpfpin.hints import Argument, Fix, shell_line
from bpfpin.host.objects import may_walk
from bpfpin.objects.features import Feature, features, is_machine_code, probe_rename_exchange
from bpfpin.pins import bpffs
from bpfpin.pins.bpffs import RootState
from bpfpin.pins.directory import Directory, unsafe_reason
from bpfpin.pins.lock import foreign_lock_directory
from bpfpin.records import dataclass
from bpfpin.sets.split_brain import splits
from bpfpin.syscall.capability import missing_capabilities
from bpfpin.syscall.errno_table import OLDEST_LINUX
from bpfpin.uapi import Cmd, MapType, ProgramType

# Both are little-endian, and their system call numbers are known (`syscall.call`).
MACHINES = ("x86_64", "aarch64")
KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
LOCKDOWN = Path("/sys/kernel/security/lockdown")
JIT = Path("/proc/sys/net/core/bpf_jit_enable")
WRITABLE_BY_OTHERS = 0o022


class Task(NamedTuple):
    """A task of users, with the system call whose capabilities decide it."""

    what: str
    command: Cmd | str
    subtype: int = 0


TASKS = (
    Task("create maps", Cmd.MAP_CREATE, MapType.ARRAY),
    Task("load XDP programs", Cmd.PROG_LOAD, ProgramType.XDP),
    Task("attach XDP programs", Cmd.LINK_CREATE),
    Task("find maps by id or name", Cmd.MAP_GET_NEXT_ID),
    Task("enter network namespaces", "setns"),
)


@dataclass(frozen=True, slots=True)
class HostCheck:
    """The result of one check; *fix* is the remedy if it is not ok, else an improvement."""

    name: str
    ok: bool
    text: str
    fix: Fix | str = ""


def doctor(device: str | None = None, *, pin_root: Path, as_root: str = "") -> list[HostCheck]:
    """Check everything that loading and reading needs, and *device* if given.

    Changes nothing, except that it makes two directories in *pin_root* and removes them. *as_root*
    is the command line that runs this as root. `InterfaceNotFoundError` if the device does not
    exist.
    """
    # First: a device that does not exist is an error of the command, not the result of a check.
    ifindex = interface.ifindex(device) if device is not None else 0
    checks = [_kernel(), _asked("jit", lambda: _jit(as_root)), *_lockdown()]
    checks += [*_privileges(as_root), *_bpffs(pin_root)]
    checks += [_kernel_btf(), *_features(pin_root, as_root), *_shares(pin_root, as_root)]
    return checks + (list(_device(device, ifindex)) if device is not None else [])


def _kernel() -> HostCheck:
    machine = platform.machine()
    text = f"Linux {platform.release()} on {machine}"
    fix = "" if machine in MACHINES else f"bpfpin runs on {' and '.join(MACHINES)}"
    return HostCheck("kernel", not fix, text, fix)


def _jit(as_root: str) -> HostCheck:
    setting = _read(JIT)
    if setting == "0":
        return HostCheck("jit", ok=False, text="programs are interpreted", fix=f"echo 1 > {JIT}")
    # Other network namespaces than the first one do not have the file (net_core_table in
    # net/core/sysctl_net_core.c), nor has a kernel without a compiler: a program has to be tried.
    try:
        is_compiled = bool(setting) or is_machine_code()
    except PermissionDeniedError as error:
        return HostCheck("jit", ok=False, text=f"not asked: {error}", fix=as_root)
    if is_compiled:
        return HostCheck("jit", ok=True, text="programs are compiled to machine code")
    fix = f"in the first network namespace: echo 1 > {JIT} (a kernel with CONFIG_BPF_JIT has it)"
    return HostCheck("jit", ok=False, text="programs are interpreted", fix=fix)


def _lockdown() -> Iterator[HostCheck]:
    # The chosen mode is in brackets: "none integrity [confidentiality]". In that mode
    # security_locked_down(LOCKDOWN_BPF_READ_KERNEL) refuses bpf_probe_read_kernel().
    chosen = _read(LOCKDOWN).partition("[")[2].partition("]")[0]
    if chosen == "confidentiality":
        text = "the kernel is locked down (confidentiality): maps may not be read by some programs"
        yield HostCheck("lockdown", ok=False, text=text, fix="boot with lockdown=integrity")


def _privileges(as_root: str) -> Iterator[HostCheck]:
    for task, command, subtype in TASKS:
        missing = missing_capabilities(command, subtype)
        if missing:
            yield HostCheck(task, ok=False, text=f"needs {' and '.join(missing)}", fix=as_root)
        else:
            yield HostCheck(task, ok=True, text="allowed")


def _bpffs(pin_root: Path) -> Iterator[HostCheck]:
    try:
        bpffs.require(pin_root)
    except NotBpffsError as error:
        # Nothing is mounted at the usual place yet. Another file system there would stay in the
        # way.
        is_fine = bpffs.inspect(pin_root) is RootState.ABSENT
        text = f"{error}; load mounts it" if is_fine else str(error)
        yield HostCheck("bpffs", ok=is_fine, text=text, fix=error.fix)
        yield from _mount_namespace(pin_root)
        return
    yield HostCheck("bpffs", ok=True, text=f"{pin_root} is in a bpffs")
    yield from _mount_namespace(pin_root)
    yield _asked("pin root", lambda: _pin_root(pin_root))


def _mount_namespace(pin_root: Path) -> Iterator[HostCheck]:
    if reason := bpffs.private_reason(pin_root):
        is_allowed = bpffs.is_private_allowed()
        loads = f"{bpffs.PRIVATE_MOUNT}=1 allows that" if is_allowed else "load refuses to make any"
        text = f"{reason}: pins end with it, and {loads}"
        fix = "" if is_allowed else bpffs.PRIVATE_FIX
        yield HostCheck("mount namespace", ok=is_allowed, text=text, fix=fix)


def _pin_root(pin_root: Path) -> HostCheck:
    with Directory.open(pin_root) as directory:
        status, foreign = directory.status, foreign_lock_directory(directory)
    if foreign:
        return HostCheck("pin root", ok=False, text=foreign.message, fix=foreign.fix)
    # In a directory with the sticky bit others can create names, but not rename or remove ours
    # (unlink(2)). Sets have directories of their own.
    unsafe = unsafe_reason(status, is_sticky_enough=True)
    safe = shell_line("chmod 0755", pin_root)
    fix = Fix.of("use another one (", Argument("pin_root", None), f"), or {safe}")
    if unsafe:
        return HostCheck("pin root", ok=False, text=f"{pin_root} is not safe: {unsafe}", fix=fix)
    # Safe, but another user can take a name before its set is loaded.
    if status.st_mode & WRITABLE_BY_OTHERS:
        text = f"other users may create names in {pin_root} (mode {status.st_mode & 0o7777:04o})"
        return HostCheck("pin root", ok=True, text=text, fix=safe)
    return HostCheck("pin root", ok=True, text=f"only its owner may change {pin_root}")


def _kernel_btf() -> HostCheck:
    if KERNEL_BTF.exists():
        return HostCheck("kernel BTF", ok=True, text=f"{KERNEL_BTF} is there")
    text = "the kernel has no BTF of its own; maps and programs from files work without it"
    return HostCheck("kernel BTF", ok=False, text=text, fix="a kernel with CONFIG_DEBUG_INFO_BTF=y")


def _features(pin_root: Path, as_root: str) -> Iterator[HostCheck]:
    try:
        probed = features()
        if bpffs.inspect(pin_root) is RootState.MOUNTED:
            # bpffs itself has to be tried: whether it can exchange names depends on the file
            # system, not on the kernel's list of system calls.
            probed.append(probe_rename_exchange(pin_root))
    except (PermissionDeniedError, PermissionError) as error:
        yield HostCheck("features", ok=False, text=f"not asked: {error}", fix=as_root)
        return
    yield from map(_feature, probed)


def _feature(feature: Feature) -> HostCheck:
    if feature.is_supported:
        return HostCheck(feature.name, ok=True, text="supported")
    fix = f"a newer kernel ({OLDEST_LINUX} or later)"
    return HostCheck(feature.name, ok=False, text=feature.reason, fix=fix)


def _shares(pin_root: Path, as_root: str) -> Iterator[HostCheck]:
    """Check for pin sets that should share a map and do not (split brain)."""
    # Without the right to list programs there would be no findings, which is not the same as no
    # problem.
    if not may_walk():
        yield HostCheck("shared maps", ok=False, text="not asked: needs CAP_SYS_ADMIN", fix=as_root)
        return
    findings = splits(pin_root=pin_root)
    if not findings:
        yield HostCheck("shared maps", ok=True, text="programs that should share a map do")
    for finding in findings:
        yield HostCheck("shared maps", ok=False, text=finding.text, fix=finding.fix)


def _device(device: str, ifindex: int) -> Iterator[HostCheck]:
    name = devices.driver_name(device) or "unknown"
    yield HostCheck("device", ok=True, text=f"{device} has ifindex {ifindex} and driver {name}")
    yield _native(device, devices.xdp_features(ifindex))
    yield _asked("XDP hook", lambda: _hook(device, ifindex))


def _native(device: str, supported: XdpFeature | None) -> HostCheck:
    if supported is None:
        text = f"the kernel does not report what the driver of {device} supports (before Linux 6.3)"
        return HostCheck(
            "native XDP", ok=True, text=text, fix=f"try: {shell_line('bpfpin load', dev=device)}"
        )
    if supported & XdpFeature.BASIC:
        others = [str(flag.name).lower() for flag in XdpFeature if flag & supported]
        return HostCheck("native XDP", ok=True, text=f"{device} has it: {', '.join(others)}")
    text = f"the driver of {device} has none; programs run in generic mode, which is slower"
    return HostCheck(
        "native XDP",
        ok=False,
        text=text,
        fix=Fix.of("nothing to do: ", Argument("mode", "auto"), " takes generic"),
    )


def _hook(device: str, ifindex: int) -> HostCheck:
    holder = xdp_holder(ifindex)
    if holder is None:
        return HostCheck("XDP hook", ok=True, text=f"{device} is free")
    return HostCheck(
        "XDP hook", ok=True, text=f"{device} runs {holder}", fix="details: bpfpin status"
    )


def _asked(name: str, ask: Callable[[], HostCheck]) -> HostCheck:
    """Return the result of *ask*, or a check that failed with its error."""
    try:
        return ask()
    except BpfError as error:
        return HostCheck(name, ok=False, text=f"could not be asked: {error}", fix=error.fix)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
