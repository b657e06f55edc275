"""Memory that is shared with the kernel: where there is room for it."""

from __future__ import annotations

import resource

import pytest

from bpfpin.errors import SyscallError
from bpfpin.syscall.mmap import free_address

GIB = 1 << 30


def test_room_for_an_arena_is_not_memory_that_counts() -> None:
    """Neither for a limit on data nor with vm.overcommit_memory=2, which count private writing."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (4 * GIB, before[1]))
    try:
        assert free_address(8 * GIB)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_no_room_for_an_arena_is_an_error_of_ours() -> None:
    with pytest.raises(SyscallError, match=r"^map arena: .*mmap: ENOMEM") as refused:
        free_address(1 << 62, target="map arena")

    assert refused.value.command == "mmap"
