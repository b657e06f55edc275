"""A process that may only read by descriptors."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from bpfpin.errors import BpfError
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall import bpf, confine
from bpfpin.uapi import Cmd, MapType


def in_a_child(work: Callable[[], None]) -> int:
    """Run *work* in a process of its own, for it confines the process; return its status."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_only_the_allowed_commands_reach_the_kernel(bpffs: Path) -> None:
    with Map.create(MapSpec("m", MapType.ARRAY, 4, 4, 1)) as made:

        def confined() -> None:
            confine.refuse_new_privileges()
            confine.allow_bpf((Cmd.MAP_LOOKUP_ELEM, Cmd.OBJ_GET_INFO_BY_FD))
            assert bpf.map_lookup_elem(made.fd, bytes(4), 4) == bytes(4)
            with pytest.raises(BpfError, match="EPERM"):
                bpf.map_update_elem(made.fd, bytes(4), bytes(4))
            with pytest.raises(BpfError, match="EPERM"):
                made.pin(bpffs / "m")
            with pytest.raises(BpfError, match="EPERM"):
                bpf.map_get_next_id(0)
            assert Path("/proc/self/status").read_text()  # other system calls are not touched

        assert in_a_child(confined) == 0
        made.update(0, b"\1\0\0\0")  # this process is free
