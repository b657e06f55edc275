"""The running kernel's symbols, types, configuration and version, for the externs of an object."""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from bpfpin.btf.btf import Btf
from bpfpin.errors import (
    IdNotFoundError,
    NotSupportedError,
    ObjectNotFoundError,
    PermissionDeniedError,
    SyscallError,
    UsageError,
)
from bpfpin.fixup.externs_find import values_in
from bpfpin.insn import call_helper, exit_
from bpfpin.objects.kernel.btf import VMLINUX, BtfHandle, module_btfs, vmlinux_btf
from bpfpin.objects.kernel.info import btf_info
from bpfpin.objects.kernel.kallsyms import has_syscall_wrapper
from bpfpin.objects.programs.program import Program
from bpfpin.spec import FunctionSpec, ProgramSpec
from bpfpin.syscall import bpf
from bpfpin.uapi import ProgramType
from bpfpin.uapi_helpers import FuncId

CONFIG = Path("/proc/config.gz")
BOOT = Path("/boot")
MODULES = Path("/lib/modules")
SIGNATURE = Path("/proc/version_signature")
MAX_BYTES = 16 << 20  # a real configuration takes some 200 kB
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 31  # wbits of zlib for gzip files
_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?", re.ASCII)
_UBUNTU = re.compile(r"\S+ \S+ (\d+)\.(\d+)\.(\d+)", re.ASCII)
_DEBIAN = re.compile(r"Debian (\d+)\.(\d+)\.(\d+)", re.ASCII)
_MAX_PATCH = 255


def types() -> Iterator[tuple[str, Btf]]:
    """Yield the kernel's types with an empty name, then those of each module with its name."""
    try:
        yield "", vmlinux_btf()
    except FileNotFoundError:
        raise NotSupportedError(
            f"the object names types of the kernel, and there is no {VMLINUX}",
            feature="BTF of the kernel (CONFIG_DEBUG_INFO_BTF)",
        ) from None
    yield from module_btfs()


def open_module(name: str) -> BtfHandle:
    """Open the BTF of a kernel module (BPF_BTF_GET_FD_BY_ID, CAP_SYS_ADMIN).

    `NotSupportedError` if there is none of that name.
    """
    btf_id = bpf.btf_get_next_id(0)
    while btf_id is not None:
        with contextlib.suppress(IdNotFoundError), contextlib.ExitStack() as undo:
            handle = undo.enter_context(BtfHandle.from_id(btf_id))
            info = btf_info(handle.fd)
            if info.is_kernel and info.name == name:
                undo.pop_all()
                return handle
        btf_id = bpf.btf_get_next_id(btf_id)
    raise NotSupportedError(f"module {name} is not there any more", feature=f"module {name}")


def running_values(names: Collection[str], given: Mapping[str, str] | None) -> dict[str, str]:
    """Return the configuration texts for *names*; names that the kernel does not set are left out.

    *given* replaces the kernel's configuration. The names `LINUX_…` are libbpf's: the kernel's
    version, and whether it has BPF cookies and system call wrappers.
    """
    linux = {name: str(_LINUX[name]()) for name in names if name in _LINUX}
    if given is not None:
        return {**linux, **{name: text for name, text in given.items() if name in names}}
    wanted = {name for name in names if name.startswith("CONFIG_")}
    return {**linux, **(values_in(running_text(), wanted) if wanted else {})}


def as_config(source: Mapping[str, str] | str | Path) -> Mapping[str, str]:
    """Return *source*, read from its file (plain or gzip) if it is a path.

    Raises `ObjectNotFoundError` if the file does not exist, and `UsageError` if it is larger than
    16 MiB or damaged.
    """
    if isinstance(source, Mapping):
        return source
    return values_in(read_text(Path(source)))


def config_files() -> tuple[Path, ...]:
    """Return where the configuration of the running kernel may be, the surest first.

    /proc/config.gz is made by the running kernel (CONFIG_IKCONFIG_PROC); the others have its name.
    Fedora has its file beside the modules, and so has Debian from Linux 7.3 on.
    """
    release = os.uname().release
    return CONFIG, BOOT / f"config-{release}", MODULES / release / "config"


def running_text() -> bytes:
    """Return the configuration of the running kernel; empty if no file of `config_files` exists."""
    for path in config_files():
        try:
            return read_text(path)
        except ObjectNotFoundError:
            continue
    return b""


def read_text(path: Path) -> bytes:
    """Return the configuration at *path*, unpacked; see `as_config` for the errors."""
    try:
        with path.open("rb") as file:
            # One byte more than is allowed tells a file that is too large, without reading all of
            # it.
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ObjectNotFoundError("no such file", path=str(path)) from None
    if data.startswith(_GZIP):
        data = _unpacked(data, path)
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}: the configuration has more than {MAX_BYTES >> 20} MiB")
    return data


def kernel_version() -> int:
    """Return LINUX_VERSION_CODE of the running kernel: 0x061204 for 6.18.4.

    Ubuntu and Debian put their own release numbers into `uname -r`, and the version of the source
    into /proc/version_signature and `uname -v`.
    """
    names = os.uname()
    signature = SIGNATURE.read_text(errors="replace") if SIGNATURE.exists() else ""
    return version_code(names.release, names.version, signature)


def version_code(release: str, version: str, signature: str = "") -> int:
    """Return the version code for texts of uname(2) and Ubuntu's version_signature; 0 if none."""
    match = _UBUNTU.match(signature) or _DEBIAN.search(version) or _RELEASE.match(release)
    if match is None:
        return 0
    major, minor, patch = (int(part or 0) for part in match.groups())
    # From 4.4.256 and 4.9.256 on, the kernel caps the last number at 255 as well.
    return major << 16 | minor << 8 | min(patch, _MAX_PATCH)


def has_bpf_cookie() -> int:
    """Return 1 if programs can read their attachment's cookie (Linux 5.15), else 0."""
    # Only kernels that know the helper accept a call of it; libbpf probes so (features.c).
    code = (call_helper(FuncId.get_attach_cookie), exit_())
    function = FunctionSpec("probe", "", code)
    try:
        Program.load(ProgramSpec("probe", ProgramType.KPROBE, "", (function,), "GPL")).close()
    except PermissionDeniedError:
        raise
    except SyscallError:
        return 0
    return 1


_LINUX = {
    "LINUX_KERNEL_VERSION": kernel_version,
    "LINUX_HAS_BPF_COOKIE": has_bpf_cookie,
    "LINUX_HAS_SYSCALL_WRAPPER": has_syscall_wrapper,
}


def _unpacked(data: bytes, path: Path) -> bytes:
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        # With a limit: a few kilobytes of gzip can unpack to gigabytes.
        return unpacker.decompress(data, MAX_BYTES + 1)
    except zlib.error as error:
        raise UsageError(f"{path} is not a gzip file: {error}") from None
