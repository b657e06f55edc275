"""The sources of tests/objects/tracing, compiled with one vmlinux.h for all of them."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from bpfpin.apps.c_types import kernel_header
from bpfpin.apps.compile import CompileResult, compile_source
from bpfpin.objects.kernel.btf import VMLINUX
from support.objects import SOURCES
from support.tools import need

TRACING = SOURCES / "tracing"
TOOLS = sorted(path.name.removesuffix(".bpf.c") for path in TRACING.glob("*.bpf.c"))


@functools.cache
def vmlinux_folder() -> Path:
    """Return a folder with the vmlinux.h of the running kernel; skip the test if it has no BTF."""
    if not VMLINUX.exists():
        pytest.skip(f"needs the kernel's types: {VMLINUX}")
    folder = Path(tempfile.mkdtemp(prefix="bpfpin-vmlinux-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "vmlinux.h").write_text(kernel_header().text)
    return folder


def compiled_tool(
    name: str,
    target: Path,
    compiler: str,
    *,
    defines: Sequence[str] = (),
    include: Sequence[Path] = (),
) -> CompileResult:
    """Compile tests/objects/tracing/NAME.bpf.c; skip the test if there is no such compiler."""
    if compiler == "clang":
        need("clang")
    return compile_source(
        TRACING / f"{name}.bpf.c",
        target,
        compiler=compiler,
        defines=defines,
        include=[*include, vmlinux_folder()],
    )
