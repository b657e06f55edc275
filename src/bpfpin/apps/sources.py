"""Where objects come from: files, bytes, those shipped with bpfpin, or a spec made before."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bpfpin.objfile.reader import read_object
from bpfpin.spec import ObjectSpec

DEFAULT_SOURCE: Final = "builtin:xdp_stats"
DEFAULT_CGROUP_SOURCE: Final = "builtin:cgroup_stats"

Source = str | Path | bytes | ObjectSpec


def read_source(source: Source, *, program_type: str | None = None) -> ObjectSpec:
    """Return the description of an object: a path, its bytes, `builtin:NAME`, or one made before.

    *program_type* is the word for programs in sections with free names. Raises what `read_object`
    does.
    """
    if isinstance(source, ObjectSpec):
        return source
    return read_object(source, program_types=program_type)
