"""The running kernel's configuration and version, for variables of section `.kconfig`."""

from __future__ import annotations

import os
import platform
import re
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

from bpfpin.errors import ObjectNotFoundError, PermissionDeniedError, SyscallError, UsageError
from bpfpin.fixup.kernel_config import values_in
from bpfpin.insn import call_helper, exit_
from bpfpin.objects import kernel_symbols
from bpfpin.objects.program import Program
from bpfpin.spec import FunctionSpec, ProgramSpec
from bpfpin.uapi import FuncId, ProgramType

CONFIG = Path("/proc/config.gz")
BOOT = Path("/boot")
SIGNATURE = Path("/proc/version_signature")
MAX_BYTES = 16 << 20  # a configuration takes some 200 kB

_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 31
_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?", re.ASCII)
_UBUNTU = re.compile(r"\S+ \S+ (\d+)\.(\d+)\.(\d+)", re.ASCII)
_DEBIAN = re.compile(r"Debian (\d+)\.(\d+)\.(\d+)", re.ASCII)
_MAX_PATCH = 255


def running_values(names: Collection[str], given: Mapping[str, str] | None) -> dict[str, str]:
    """Return the text that the kernel has for each of *names*, without those that it lacks.

    *given* stands in for the kernel's configuration. `LINUX_…` are what libbpf makes of the kernel:
    its version, and whether it has BPF cookies and wrappers of system calls.
    """
    linux = {name: str(_LINUX[name]()) for name in names if name in _LINUX}
    if given is not None:
        return {**linux, **{name: text for name, text in given.items() if name in names}}
    wanted = {name for name in names if name.startswith("CONFIG_")}
    return {**linux, **(values_in(running_text(), wanted) if wanted else {})}


def as_config(source: Mapping[str, str] | str | Path) -> Mapping[str, str]:
    """Return *source*, read if it is the path of a configuration, plain or packed by gzip.

    `ObjectNotFoundError` if there is none, `UsageError` if it is larger than 16 MiB or damaged.
    """
    if isinstance(source, Mapping):
        return source
    return values_in(read_text(Path(source)))


def running_text() -> bytes:
    """Return the configuration of the running kernel; empty where it is nowhere."""
    for path in (CONFIG, BOOT / f"config-{os.uname().release}"):
        try:
            return read_text(path)
        except ObjectNotFoundError:
            continue
    return b""


def read_text(path: Path) -> bytes:
    """Return the configuration at *path*, unpacked; see `as_config` for the errors."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ObjectNotFoundError("no such file", path=str(path)) from None
    if data.startswith(_GZIP):
        data = _unpacked(data, path)
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}: a configuration of more than {MAX_BYTES >> 20} MiB")
    return data


def kernel_version() -> int:
    """Return the version as LINUX_VERSION_CODE has it: 0x061204 for 6.18.4.

    That of the source: Ubuntu and Debian count their releases in the name of the kernel.
    """
    names = os.uname()
    signature = SIGNATURE.read_text(errors="replace") if SIGNATURE.exists() else ""
    return version_code(names.release, names.version, signature)


def version_code(release: str, version: str, signature: str = "") -> int:
    """Return the number for what uname(2) says, and Ubuntu's /proc/version_signature; 0 if none."""
    found = _UBUNTU.match(signature) or _DEBIAN.search(version) or _RELEASE.match(release)
    if found is None:
        return 0
    major, minor, patch = (int(part or 0) for part in found.groups())
    return major << 16 | minor << 8 | min(patch, _MAX_PATCH)


def has_bpf_cookie() -> int:
    """Return 1 if programs can ask for the cookie of their attachment (Linux 5.15), else 0."""
    code = (call_helper(FuncId.get_attach_cookie), exit_())
    function = FunctionSpec("probe", "", code)
    try:
        Program.load(ProgramSpec("probe", ProgramType.KPROBE, "", (function,), "GPL")).close()
    except PermissionDeniedError:
        raise
    except SyscallError:
        return 0
    return 1


def has_syscall_wrapper() -> int:
    """Return 1 if functions of system calls take one structure of registers, else 0."""
    machine = platform.machine()
    return int(kernel_symbols.is_there(f"__{_MACHINES.get(machine, machine)}_sys_bpf"))


_MACHINES = {"x86_64": "x64", "aarch64": "arm64", "riscv64": "riscv", "ppc64le": "powerpc"}
_LINUX = {
    "LINUX_KERNEL_VERSION": kernel_version,
    "LINUX_HAS_BPF_COOKIE": has_bpf_cookie,
    "LINUX_HAS_SYSCALL_WRAPPER": has_syscall_wrapper,
}


def _unpacked(data: bytes, path: Path) -> bytes:
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        return unpacker.decompress(data, MAX_BYTES + 1)
    except zlib.error as error:
        raise UsageError(f"{path} is no file of gzip: {error}") from None
