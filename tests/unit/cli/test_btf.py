"""`bpfpin btf dump` and `compile --vmlinux` as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.objfile.reader import read_btf
from support.cli import run_cli, run_cli_ok
from support.objects import compiled

VMLINUX = Path("/sys/kernel/btf/vmlinux")
# In the way of programs that trace: a structure of the kernel that no header of users has.
TRACER = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
SEC("raw_tp/sched_process_exit") int parent(struct bpf_raw_tracepoint_args *ctx)
{
    struct task_struct *task = (void *)ctx->args[0];
    return __builtin_preserve_field_info(task->tgid, 0);
}
char LICENSE[] SEC("license") = "GPL";
"""

needs_kernel_types = pytest.mark.skipif(
    not VMLINUX.exists(), reason=f"this kernel has no {VMLINUX}"
)


@needs_kernel_types
@pytest.mark.parametrize("source", [[], ["vmlinux"], [VMLINUX]])
def test_the_kernels_types_are_one_header(source: list[object]) -> None:
    text = run_cli_ok("btf", "dump", *source).stdout

    assert text.startswith("/* Types of the running kernel, written by bpfpin. */\n#ifndef __VML")
    assert "apply_to = record)" in text
    assert "\nstruct task_struct {\n" in text
    assert text.endswith("#endif /* __VMLINUX_H__ */\n")


def test_an_objects_types_are_its_own(tmp_path: Path) -> None:
    """No kernel relocates them, so they do not have the attribute for that."""
    path = compiled("btf_maps")

    result = run_cli_ok("btf", "dump", path)
    document = run_cli_ok("btf", "dump", path, "-o", "json").json

    assert document["source"] == str(path)
    assert document["c"] == result.stdout
    assert "struct " in result.stdout
    assert "preserve_access_index" not in result.stdout


def test_a_file_of_raw_types_is_a_kernels(tmp_path: Path) -> None:
    path = tmp_path / "other.btf"
    path.write_bytes(read_btf(compiled("btf_maps")).to_bytes())

    text = run_cli_ok("btf", "dump", path).stdout

    assert "preserve_access_index" in text
    assert text.startswith(f"/* Types of {path},")


@pytest.mark.parametrize(
    ("content", "exit_code", "words"),
    [(b"nothing" * 9, 5, "not BTF"), (b"\x7fELFnothing", 5, "ELF"), (None, 4, "no loaded module")],
)
def test_a_file_without_types_is_refused(
    tmp_path: Path, content: bytes | None, exit_code: int, words: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)

    result = run_cli("btf", "dump", path)

    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert words in result.stderr


@needs_kernel_types
def test_a_similar_name_is_named() -> None:
    result = run_cli("btf", "dump", "vmlinx")

    assert result.exit_code == 4
    assert "hint: near it: vmlinux" in result.stderr


@needs_kernel_types
def test_a_source_includes_vmlinux_h(tmp_path: Path) -> None:
    source = tmp_path / "parent.bpf.c"
    source.write_text(TRACER)

    run_cli_ok("compile", source, "--vmlinux", "--compiler", "ziglang")
    first = (tmp_path / "parent.bpf.o").read_bytes()
    run_cli_ok("compile", source, "--vmlinux", "--compiler", "ziglang")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["parent.bpf.c", "parent.bpf.o"]
    assert (tmp_path / "parent.bpf.o").read_bytes() == first
    made = read_btf(tmp_path / "parent.bpf.o")
    kernel = Btf.parse(VMLINUX.read_bytes())
    assert made.find("task_struct") is not None
    assert b"task_struct" in kernel.strings


@pytest.mark.parametrize(("arch", "value"), [("x86", 1), ("arm64", 2)])
def test_the_source_knows_the_machine(tmp_path: Path, arch: str, value: int) -> None:
    source = tmp_path / "machine.bpf.c"
    source.write_text(
        "#if defined(__TARGET_ARCH_x86)\nenum machine { M = 1 };\n"
        "#elif defined(__TARGET_ARCH_arm64)\nenum machine { M = 2 };\n#endif\nenum machine m[M];\n"
    )

    run_cli_ok("compile", source, "--arch", arch, "--compiler", "ziglang")

    text = run_cli_ok("btf", "dump", source.with_suffix(".o")).stdout
    assert f"\tM = {value}," in text
