"""Programs made with our headers for tracing, loaded and run by this kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bpfpin import load
from bpfpin.objects.kernel.btf import vmlinux_btf
from bpfpin.objfile.reader import read_object
from bpfpin.spec import ObjectSpec
from support.tracing import compiled_tool


def made(name: str, compiler: str, folder: Path) -> ObjectSpec:
    return read_object(compiled_tool(name, folder / f"{name}.o", compiler).object_path)


@pytest.mark.parametrize("compiler", ["ziglang", "clang"])
def test_reads_by_core_see_this_process(compiler: str, tmp_path: Path) -> None:
    """The program runs as this process, and reads its task_struct and what that points to."""
    with load(made("core", compiler, tmp_path)) as loaded:
        loaded.programs["core"].test_run(repeat=0)
        result = loaded.maps[".bss"][0]["result"]
        bits = loaded.programs["bits"].test_run(repeat=0).return_value
        loaded.programs["write_bits"].test_run(repeat=0)
        written = loaded.programs["bits"].test_run(repeat=0).return_value
        data = loaded.maps[".data"][0]

    kernel = vmlinux_btf()
    executable = Path("/proc/self/exe").resolve()
    assert result["tgid"] == os.getpid()
    assert result["parent"] == os.getppid()
    assert result["comm"] == Path("/proc/self/comm").read_text().rstrip("\n")
    assert result["parent_comm"] == Path(f"/proc/{os.getppid()}/comm").read_text().rstrip("\n")
    assert result["file"] == executable.name
    assert result["state"] == 0  # running
    assert result["ids"] == kernel.find("task_struct")
    assert result["exists"] == 0b10101
    assert result["kind"] == 2  # BPF_MAP_TYPE_ARRAY
    assert result["sizes"] == 16 + kernel.ref(kernel.find("pid_namespace") or 0).size
    assert bits == 4 * 1000 + 5 * 100 + 9 * 10 + 1
    assert written == 6 * 1000 + 5 * 100 + 3 * 10
    assert (data["ip"]["tos"], data["tcp"]["source"]) == (0xFF, 0xFFFF)


@pytest.mark.parametrize("name", ["open", "usdt"])
def test_the_verifier_takes_them(name: str, tmp_path: Path) -> None:
    with load(made(name, "ziglang", tmp_path)) as loaded:
        assert loaded.programs
