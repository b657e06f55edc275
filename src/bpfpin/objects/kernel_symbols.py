"""The running kernel's symbols and types by name: /proc/kallsyms, and the BTF of its modules."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from bpfpin.btf.btf import Btf
from bpfpin.errors import IdNotFoundError, NotSupportedError, PermissionDeniedError
from bpfpin.objects.info import btf_info
from bpfpin.objects.kernel_btf import VMLINUX, BtfHandle, module_btfs, vmlinux_btf
from bpfpin.syscall import bpf

KALLSYMS = Path("/proc/kallsyms")

# LLVM appends this to static names when it optimizes all files at once.
_LLVM_SUFFIX = rb"(?:\.llvm\.[0-9]+)?"


def addresses(names: Collection[str]) -> dict[str, int]:
    """Return the address of each symbol of the kernel that is called one of *names*.

    `PermissionDeniedError` if the kernel shows no addresses (CAP_SYSLOG, kernel.kptr_restrict);
    `NotSupportedError` if several symbols have one of the names, or /proc/kallsyms is not there.
    """
    found: dict[str, set[int]] = {}
    for name, address in _symbols(names):
        found.setdefault(name, set()).add(address)
    for name, places in found.items():
        if len(places) > 1:
            raise NotSupportedError(
                f"the kernel has {len(places)} symbols called {name}", feature=name
            )
    only = {name: places.pop() for name, places in found.items()}
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
    """Whether the kernel has a symbol of that name; needs no right."""
    return any(True for _ in _symbols((name,)))


def types() -> Iterator[tuple[str, Btf]]:
    """Yield the kernel's types under an empty name, then those of each module under its own."""
    try:
        yield "", vmlinux_btf()
    except FileNotFoundError:
        raise NotSupportedError(
            f"the object names types of the kernel, and there is no {VMLINUX}",
            feature="BTF of the kernel (CONFIG_DEBUG_INFO_BTF)",
        ) from None
    names = sorted(path.name for path in VMLINUX.parent.iterdir() if path != VMLINUX)
    yield from zip(names, module_btfs(), strict=False)  # a module may come or go meanwhile


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
    for found in re.finditer(line, table, re.MULTILINE):
        yield found[2].decode(), int(found[1], 16)


def _is_hidden() -> bool:
    return all(address == 0 for _, address in _symbols(("_text", "_stext")))
