"""Waiting until no program runs any more that started before."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from bpfpin.errors import BpfError
from bpfpin.objects.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.membarrier import membarrier
from bpfpin.uapi import MapType

_INNER: Final = MapSpec("barrier_inner", MapType.ARRAY, 4, 4, 1)
_OUTER: Final = MapSpec("barrier", MapType.ARRAY_OF_MAPS, 4, 4, 1, inner=_INNER)


def wait_for_programs() -> None:
    """Return when every program that runs now has ended; 8 to 30 ms.

    Whoever writes an element of a map of maps waits for that in the kernel
    (`maybe_wait_bpf_programs()` of kernel/bpf/syscall.c); where no such map can be made,
    membarrier(2) waits as long. Neither waits for programs that may sleep.
    """
    with suppress(BpfError), Map.create(_INNER) as inner, Map.create(_OUTER, inner=inner) as outer:
        outer[0] = inner
        return
    membarrier()
