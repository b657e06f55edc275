"""Where objects come from: files, bytes, those shipped with bpfpin, or a spec made before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from bpfpin.objfile.reader import read_btf, read_object
from bpfpin.spec import ObjectSpec

DEFAULT_SOURCE: Final = "builtin:xdp_stats"
DEFAULT_CGROUP_SOURCE: Final = "builtin:cgroup_stats"

Source = str | Path | bytes | ObjectSpec


def read_source(
    source: Source,
    *,
    program_type: Mapping[str, str] | str | None = None,
    kernel_btf: str | Path | None = None,
) -> ObjectSpec:
    """Return the description of an object: a path, its bytes, `builtin:NAME`, or one made before.

    *program_type* is the word for programs in sections with free names, or one by program;
    *kernel_btf* is a file with the types that CO-RE takes for the kernel's. Raises what
    `read_object` and `read_btf` do.
    """
    spec = source
    if not isinstance(spec, ObjectSpec):
        spec = read_object(spec, program_types=program_type)
    return replace(spec, kernel_btf=read_btf(kernel_btf)) if kernel_btf else spec
