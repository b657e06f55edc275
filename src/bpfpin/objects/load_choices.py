"""What loading an object is told beside the object itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from bpfpin.objects.program import Program
from bpfpin.objects.verifier import LOG_LIMIT

_LEAST_MEMORY_LIMIT = 256 << 20
_MEMORY_SHARE = 4


def map_memory_limit() -> int:
    """Return how many bytes new maps may take unless more is allowed: a quarter of the memory.

    It is 256 MiB at least. What must not happen is that a wrong number in an object eats the host.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(_LEAST_MEMORY_LIMIT, memory // _MEMORY_SHARE)


class LoadChoices(TypedDict, total=False):
    """The choices of `load` that change nothing in what is made.

    *max_map_memory* is how many bytes the new maps may take (a quarter of the memory). *log_level*
    and *log_size* are those
    of `Program.load`. *targets* are the programs, by the name of who attaches to them, whose
    functions freplace, fentry and fexit mean; they stay open.
    """

    max_map_memory: int
    log_level: int
    log_size: int
    targets: Mapping[str, Program]


@dataclass(frozen=True, slots=True)
class Chosen:
    """`LoadChoices` with what holds where nothing was chosen."""

    max_map_memory: int = field(default_factory=map_memory_limit)
    log_level: int = 0
    log_size: int = LOG_LIMIT
    targets: Mapping[str, Program] = field(default_factory=dict)
