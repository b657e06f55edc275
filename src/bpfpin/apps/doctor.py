"""What this kernel, this user, bpffs and a device allow, and what to do about what they do not."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bpfpin.attach import devices, interface
from bpfpin.attach.devices import XdpFeature
from bpfpin.attach.xdp import xdp_holder
from bpfpin.errors import BpfError, NotBpffsError, PermissionDeniedError
from bpfpin.host.objects import may_walk
from bpfpin.objects.features import Feature, features, probe_rename_exchange
from bpfpin.pins import bpffs
from bpfpin.pins.bpffs import RootState
from bpfpin.pins.directory import Directory, unsafe_reason
from bpfpin.pins.lock import foreign_lock_directory
from bpfpin.sets.splits import splits
from bpfpin.syscall.capability import missing_capabilities
from bpfpin.uapi import Cmd, MapType, ProgramType

MACHINES = ("x86_64", "aarch64")
KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
LOCKDOWN = Path("/sys/kernel/security/lockdown")
JIT = Path("/proc/sys/net/core/bpf_jit_enable")
WRITABLE_BY_OTHERS = 0o022

# What people want to do, and the call whose capabilities decide it.
DEEDS: tuple[tuple[str, Cmd | str, int], ...] = (
    ("create maps", Cmd.MAP_CREATE, MapType.ARRAY),
    ("load XDP programs", Cmd.PROG_LOAD, ProgramType.XDP),
    ("attach XDP programs", Cmd.LINK_CREATE, 0),
    ("find maps by id or name", Cmd.MAP_GET_NEXT_ID, 0),
    ("enter network namespaces", "setns", 0),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding; *fix* says what to do when it is not ok, or what would be better."""

    name: str
    ok: bool
    text: str
    fix: str = ""


def doctor(device: str | None = None, *, pin_root: Path, as_root: str = "") -> list[Finding]:
    """Look at everything that loading and reading needs, and at *device* if one is named.

    Changes nothing but for two directories in *pin_root* that come and go. *as_root* is the line
    that runs this as root. `InterfaceNotFoundError` if there is no such device.
    """
    ifindex = interface.ifindex(device) if device is not None else 0
    found = [_kernel(), _jit(), *_lockdown(), *_privileges(as_root), *_bpffs(pin_root)]
    found += [_kernel_btf(), *_features(pin_root, as_root), *_shares(pin_root, as_root)]
    return found + (list(_device(device, ifindex)) if device is not None else [])


def _kernel() -> Finding:
    machine = platform.machine()
    text = f"Linux {platform.release()} on {machine}"
    fix = "" if machine in MACHINES else f"bpfpin runs on {' and '.join(MACHINES)}"
    return Finding("kernel", not fix, text, fix)


def _jit() -> Finding:
    setting = _read(JIT)
    if setting == "0":
        return Finding("jit", ok=False, text="programs are interpreted", fix=f"echo 1 > {JIT}")
    return Finding("jit", ok=True, text="programs are compiled to machine code")


def _lockdown() -> Iterator[Finding]:
    chosen = _read(LOCKDOWN).partition("[")[2].partition("]")[0]
    if chosen == "confidentiality":
        text = "the kernel is locked down (confidentiality): maps may not be read by some programs"
        yield Finding("lockdown", ok=False, text=text, fix="boot with lockdown=integrity")


def _privileges(as_root: str) -> Iterator[Finding]:
    for what, command, subtype in DEEDS:
        missing = missing_capabilities(command, subtype)
        if missing:
            yield Finding(what, ok=False, text=f"needs {' and '.join(missing)}", fix=as_root)
        else:
            yield Finding(what, ok=True, text="allowed")


def _bpffs(pin_root: Path) -> Iterator[Finding]:
    try:
        bpffs.require(pin_root)
    except NotBpffsError as error:
        is_fine = bpffs.inspect(pin_root) is RootState.ABSENT
        text = f"{error}; load mounts it" if is_fine else str(error)
        yield Finding("bpffs", ok=is_fine, text=text, fix=error.hint)
        yield from _mount_namespace(pin_root)
        return
    yield Finding("bpffs", ok=True, text=f"{pin_root} is in a bpffs")
    yield from _mount_namespace(pin_root)
    yield _asked("pin root", lambda: _pin_root(pin_root))


def _mount_namespace(pin_root: Path) -> Iterator[Finding]:
    if reason := bpffs.private_reason(pin_root):
        text = f"{reason}: pins end with it, and load refuses to make any"
        yield Finding("mount namespace", ok=False, text=text, fix=bpffs.PRIVATE_HINT)


def _pin_root(pin_root: Path) -> Finding:
    with Directory.open(pin_root) as directory:
        status, foreign = directory.status, foreign_lock_directory(directory)
    if foreign:
        return Finding("pin root", ok=False, text=foreign.message, fix=foreign.hint)
    unsafe = unsafe_reason(status, is_sticky_enough=True)
    fix = f"use another one (--pin-root), or chmod 0755 {pin_root}"
    if unsafe:
        return Finding("pin root", ok=False, text=f"{pin_root} is not safe: {unsafe}", fix=fix)
    if status.st_mode & WRITABLE_BY_OTHERS:
        text = f"everybody may take names in {pin_root} (mode {status.st_mode & 0o7777:04o})"
        return Finding("pin root", ok=True, text=text, fix=f"chmod 0755 {pin_root}")
    return Finding("pin root", ok=True, text=f"only its owner may change {pin_root}")


def _kernel_btf() -> Finding:
    if KERNEL_BTF.exists():
        return Finding("kernel BTF", ok=True, text=f"{KERNEL_BTF} is there")
    text = "the kernel carries no types of its own; maps and programs of files work without"
    return Finding("kernel BTF", ok=False, text=text, fix="a kernel with CONFIG_DEBUG_INFO_BTF=y")


def _features(pin_root: Path, as_root: str) -> Iterator[Finding]:
    try:
        found = features()
        if bpffs.inspect(pin_root) is RootState.MOUNTED:
            found.append(probe_rename_exchange(pin_root))
    except (PermissionDeniedError, PermissionError) as error:
        yield Finding("features", ok=False, text=f"not asked: {error}", fix=as_root)
        return
    yield from map(_feature, found)


def _feature(found: Feature) -> Finding:
    if found.is_supported:
        return Finding(found.name, ok=True, text="supported")
    return Finding(found.name, ok=False, text=found.reason, fix="a newer kernel (6.1 or later)")


def _shares(pin_root: Path, as_root: str) -> Iterator[Finding]:
    """Tell who should share a map and does not."""
    if not may_walk():
        yield Finding("shared maps", ok=False, text="not asked: needs CAP_SYS_ADMIN", fix=as_root)
        return
    found = splits(pin_root=pin_root)
    if not found:
        yield Finding("shared maps", ok=True, text="who should share a map does")
    for one in found:
        yield Finding("shared maps", ok=False, text=one.text, fix=one.fix)


def _device(device: str, ifindex: int) -> Iterator[Finding]:
    name = devices.driver_name(device) or "unknown"
    yield Finding("device", ok=True, text=f"{device} has ifindex {ifindex} and driver {name}")
    yield _native(device, devices.xdp_features(ifindex))
    yield _asked("XDP hook", lambda: _hook(device, ifindex))


def _native(device: str, found: XdpFeature | None) -> Finding:
    if found is None:
        text = f"the kernel does not say what the driver of {device} does (before Linux 6.3)"
        return Finding("native XDP", ok=True, text=text, fix=f"bpfpin load --dev {device} tells")
    if found & XdpFeature.BASIC:
        others = [str(flag.name).lower() for flag in XdpFeature if flag & found]
        return Finding("native XDP", ok=True, text=f"{device} has it: {', '.join(others)}")
    text = f"the driver of {device} has none; programs run in generic mode, which is slower"
    return Finding(
        "native XDP", ok=False, text=text, fix="nothing to do: --mode auto takes generic"
    )


def _hook(device: str, ifindex: int) -> Finding:
    holder = xdp_holder(ifindex)
    if holder is None:
        return Finding("XDP hook", ok=True, text=f"{device} is free")
    return Finding(
        "XDP hook", ok=True, text=f"{device} runs {holder}", fix="bpfpin status tells more"
    )


def _asked(name: str, ask: Callable[[], Finding]) -> Finding:
    """Return what *ask* finds, or why it could not be asked."""
    try:
        return ask()
    except BpfError as error:
        return Finding(name, ok=False, text=f"could not be asked: {error}", fix=error.hint)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
