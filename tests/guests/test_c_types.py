"""Types of kernel modules as C, and programs made with our headers for tracing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bpfpin import load
from bpfpin.objects.kernel.btf import VMLINUX
from bpfpin.objfile.reader import read_object
from support.cli import run_cli_ok
from support.tools import need
from support.tracing import compiled_tool

pytestmark = pytest.mark.kernel

MODULE = "nf_conntrack"
# A structure that only the module has.
OWN = "struct nf_conntrack_net"


def test_the_types_of_a_module_compile_alone(tmp_path: Path) -> None:
    need("clang", "modprobe")
    if subprocess.run(["modprobe", MODULE], check=False, capture_output=True).returncode:
        pytest.skip(f"this kernel has no module {MODULE}")
    if not (VMLINUX.parent / MODULE).exists():
        pytest.skip(f"module {MODULE} has no types")

    text = run_cli_ok("btf", "dump", MODULE).stdout

    (tmp_path / "module.c").write_text(f"{text}\n{OWN} *own;\nint size = sizeof({OWN});\n")
    words = ["clang", "-target", "bpfel", "-g", "-c", "module.c", "-o", "module.o"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert f"/* Types of the kernel module {MODULE}, written by bpfpin. */" in text
    assert f"{OWN} {{" in text


def test_programs_of_every_kind_of_probe_are_accepted(tmp_path: Path) -> None:
    """kprobe, ksyscall, fentry, LSM, raw tracepoint, uprobe: as our headers make them."""
    spec = read_object(compiled_tool("probes", tmp_path / "probes.o", "clang").object_path)

    with load(spec) as loaded:
        assert loaded.programs.keys() == spec.programs.keys()
