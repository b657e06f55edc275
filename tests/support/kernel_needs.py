"""Skips for what a kernel lacks, by asking it: distributions add features of later versions.

A test says what it needs; the reason of the skip names it. What bpfpin itself does without the
feature has tests of its own, which run on every kernel.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from bpfpin.attach.query import is_known
from bpfpin.btf.types import Function, Struct
from bpfpin.hooks import Hook
from bpfpin.objects.kernel.btf import has_enumerator, vmlinux_btf
from bpfpin.objects.kernel.kallsyms import is_there
from bpfpin.uapi import MapType, ProgramType
from support.isolation import mount
from support.map_types import is_listed

LOOPBACK = 1
KPROBES = Path("/sys/bus/event_source/devices/kprobe")
SECURITY = Path("/sys/kernel/security")


@functools.cache
def has_tcx() -> bool:
    """Whether the kernel has tcx (Linux 6.6)."""
    return is_known(LOOPBACK, Hook.TCX_INGRESS)


def need_tcx() -> None:
    """Skip the test where the kernel has no tcx."""
    if not has_tcx():
        pytest.skip("this kernel has no tcx")


def tcx_or_classic(hook: str) -> str:
    """Return the hook that a program for tcx gets from this kernel."""
    return hook if has_tcx() else hook.replace("tcx", "tc")


def need_hook(hook: Hook | str) -> None:
    """Skip the test where the kernel lacks a hook; classic tc and XDP are always there."""
    hook = hook if isinstance(hook, Hook) else Hook(hook)
    if hook.traits.code == "tcx":
        need_tcx()
    elif hook.attach_type is not None and not has_enumerator(
        "bpf_attach_type", f"BPF_{hook.attach_type.name}"
    ):
        pytest.skip(f"this kernel has no hook {hook.value}")


def need_kernel_functions(hook: Hook | str) -> None:
    """Skip the test where programs at functions of the kernel, or at this hook, cannot be tested.

    Kernels without kprobes are those of cloud machines that a policy closes for tracing.
    """
    hook = hook if isinstance(hook, Hook) else Hook(hook)
    if not KPROBES.exists():
        pytest.skip("this kernel has no kprobes (CONFIG_KPROBE_EVENTS)")
    need_hook(hook)
    if hook.traits.code == "kprobe_multi" and not is_there("register_fprobe_ips"):
        pytest.skip("this kernel has no fprobe (CONFIG_FPROBE): there is no register_fprobe_ips()")
    if ProgramType.LSM in hook.traits.program_types:
        if not (SECURITY / "lsm").exists():
            mount("securityfs", SECURITY)
        if "bpf" not in (active := (SECURITY / "lsm").read_text().strip()).split(","):
            pytest.skip(f"this kernel was booted without the security module bpf: {active}")


def need_map_type(kind: MapType) -> None:
    """Skip the test where the kernel's own list of map types lacks one."""
    if not is_listed(kind):
        pytest.skip(f"this kernel has no maps of type {kind.name.lower()}")


def need_struct_ops_links() -> None:
    """Skip the test where tables of struct_ops are registered without links (before Linux 6.4)."""
    if not has_enumerator("bpf_attach_type", "BPF_STRUCT_OPS"):
        pytest.skip("this kernel has no links for struct_ops")


def need_functions(*names: str) -> None:
    """Skip the test where the kernel lacks functions that programs may call (kfuncs)."""
    if missing := [name for name in names if vmlinux_btf().find(name, Function) is None]:
        pytest.skip(f"this kernel has no function {', '.join(missing)}")


def need_type(name: str) -> None:
    """Skip the test where the kernel has no structure of that name."""
    if vmlinux_btf().find(name, Struct) is None:
        pytest.skip(f"this kernel has no struct {name}")
