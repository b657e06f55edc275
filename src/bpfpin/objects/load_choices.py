"""What loading an object is told beside the object itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from bpfpin.objects.program import Program
from bpfpin.objects.verifier import LOG_LIMIT

MAP_MEMORY_LIMIT = 256 << 20


class LoadChoices(TypedDict, total=False):
    """The choices of `load` that change nothing in what is made.

    *max_map_memory* is how many bytes the new maps may take. *log_level* and *log_size* are those
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

    max_map_memory: int = MAP_MEMORY_LIMIT
    log_level: int = 0
    log_size: int = LOG_LIMIT
    targets: Mapping[str, Program] = field(default_factory=dict)
