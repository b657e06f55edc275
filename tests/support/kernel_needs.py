"""Skips for what a kernel lacks, by asking it: distributions add features of later versions.

A test says what it needs; the reason of the skip names it. What bpfpin itself does without the
feature has tests of its own, which run on every kernel.
"""

from __future__ import annotations

import functools

import pytest

from bpfpin.attach.query import is_known
from bpfpin.hooks import Hook
from bpfpin.objects.kernel.btf import has_enumerator
from bpfpin.uapi import MapType

LOOPBACK = 1


@functools.cache
def has_tcx() -> bool:
    """Whether the kernel has tcx (Linux 6.6)."""
    return is_known(LOOPBACK, Hook.TCX_INGRESS)


def need_tcx() -> None:
    """Skip the test where the kernel has no tcx."""
    if not has_tcx():
        pytest.skip("this kernel has no tcx")


def need_map_type(kind: MapType) -> None:
    """Skip the test where the kernel's own list of map types lacks one."""
    if not has_enumerator("bpf_map_type", f"BPF_MAP_TYPE_{kind.name}"):
        pytest.skip(f"this kernel has no maps of type {kind.name.lower()}")


def need_struct_ops_links() -> None:
    """Skip the test where tables of struct_ops are registered without links (before Linux 6.4)."""
    if not has_enumerator("bpf_attach_type", "BPF_STRUCT_OPS"):
        pytest.skip("this kernel has no links for struct_ops")
