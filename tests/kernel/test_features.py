"""What the kernel can do, asked by doing it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from bpfpin.errors import PermissionDeniedError
from bpfpin.objects import features
from bpfpin.objects.features import Feature
from bpfpin.syscall.call import fail_call
from bpfpin.uapi import MapType, ProgramType


def test_this_kernel_has_all_that_is_used() -> None:
    found = features.features()

    assert [each for each in found if not each.is_supported] == []
    assert {"BTF", "XDP by bpf_link", "programs of type xdp"} <= {each.name for each in found}


def test_what_is_not_there_is_told_with_the_kernels_answer() -> None:
    features.probe_program.cache_clear()
    with fail_call(1, errno.EINVAL), fail_call(2, errno.EINVAL):
        lacking = features.probe_program(ProgramType.NETFILTER)
    features.probe_program.cache_clear()

    assert not lacking.is_supported
    assert "EINVAL" in lacking.reason


def test_maps_without_batches_are_told() -> None:
    found = features.probe_batch(MapType.CPUMAP)

    assert (found.name, found.is_supported) == ("batches of cpumap maps", False)


def test_names_are_exchanged_in_bpffs_and_nothing_stays(bpffs: Path) -> None:
    before = set(bpffs.iterdir())
    found = features.probe_rename_exchange(bpffs)

    assert found == Feature("exchange of names in bpffs", is_supported=True)
    assert set(bpffs.iterdir()) == before


def test_a_missing_privilege_is_no_answer() -> None:
    features.probe_btf.cache_clear()
    with fail_call(1, errno.EPERM), pytest.raises(PermissionDeniedError):
        features.probe_btf()
