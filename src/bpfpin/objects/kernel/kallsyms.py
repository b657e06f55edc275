"""The symbols of the running kernel and its modules (/proc/kallsyms)."""

from __future__ import annotations

import platform
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from bpfpin.errors import NotSupportedError, PermissionDeniedError

KALLSYMS = Path("/proc/kallsyms")
# LLVM appends this to static names when it optimizes all files at once.
_LLVM_SUFFIX: Final = rb"(?:\.llvm\.[0-9]+)?"
# Symbols of code, global and static; `w` and `W` are weak ones.
_FUNCTION: Final = re.compile(rb"^([0-9a-f]+) [tTwW] (\S+)(?:\s+\[(\S+)\])?$", re.MULTILINE)
_MACHINES: Final = {"x86_64": "x64", "aarch64": "arm64", "riscv64": "riscv", "ppc64le": "powerpc"}


def addresses(names: Collection[str]) -> dict[str, int]:
    """Return the addresses of kernel symbols by name; names without a symbol are left out.

    Raises `PermissionDeniedError` if the kernel hides addresses (CAP_SYSLOG, kernel.kptr_restrict),
    and `NotSupportedError` if a name is ambiguous or /proc/kallsyms does not exist.
    """
    candidates: dict[str, set[int]] = {}
    for name, address in _symbols(names):
        candidates.setdefault(name, set()).add(address)
    for name, same_name in candidates.items():
        # libbpf refuses an ambiguous name as well (kallsyms_cb()); equal addresses are not
        # ambiguous.
        if len(same_name) > 1:
            raise NotSupportedError(
                f"the kernel has {len(same_name)} symbols called {name}", feature=name
            )
    only = {name: same_name.pop() for name, same_name in candidates.items()}
    # A symbol can truly be at 0 (per-CPU variables may be); hidden are all of them.
    if any(address == 0 for address in only.values()) and _is_hidden():
        raise PermissionDeniedError(
            f"the kernel does not show the address of {', '.join(only)}",
            missing=("CAP_SYSLOG",),
            command="read",
            target=str(KALLSYMS),
            hint="as root, with kernel.kptr_restrict below 2 (sysctl)",
        )
    return only


def is_there(name: str) -> bool:
    """Whether the kernel has a symbol called *name*; needs no privilege."""
    return any(True for _ in _symbols((name,)))


def _symbols(names: Collection[str]) -> Iterator[tuple[str, int]]:
    try:
        table = KALLSYMS.read_bytes()
    except FileNotFoundError:
        raise NotSupportedError(
            f"the object names symbols of the kernel, and there is no {KALLSYMS}",
            feature="symbols of the kernel (CONFIG_KALLSYMS)",
        ) from None
    any_name = b"|".join(re.escape(name.encode()) for name in names)
    line = rb"^([0-9a-f]+) . (" + any_name + rb")" + _LLVM_SUFFIX + rb"(?:\t.*)?$"
    for match in re.finditer(line, table, re.MULTILINE):
        yield match[2].decode(), int(match[1], 16)


def _is_hidden() -> bool:
    return all(address == 0 for _, address in _symbols(("_text", "_stext")))


def functions() -> Iterator[tuple[int, str, str]]:
    """Yield the address, the name and the module of each function; none if they cannot be read.

    The module is empty for a function of the kernel itself. Hidden addresses are 0.
    """
    try:
        table = KALLSYMS.read_bytes()
    except OSError:
        return
    for address, name, module in _FUNCTION.findall(table):
        yield int(address, 16), name.decode(), module.decode()


def has_syscall_wrapper() -> int:
    """Return 1 if functions of system calls take one pointer to registers (pt_regs), else 0."""
    # libbpf's FEAT_SYSCALL_WRAPPER: with the wrapper there is a symbol such as __x64_sys_bpf.
    return int(is_there(f"{syscall_prefix()}bpf"))


def syscall_prefix() -> str:
    """Return what the names of wrapped system calls begin with on this machine: `__x64_sys_`."""
    machine = platform.machine()
    return f"__{_MACHINES.get(machine, machine)}_sys_"
