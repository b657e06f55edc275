"""Our headers for tracing: sources in the style of libbpf's tools, with both compilers.

libbpf's own headers are the measure: the same source becomes the same instructions.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.apps.compile import compile_source
from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Array, Struct
from bpfpin.errors import ObjectFileError
from bpfpin.insn import Instruction
from bpfpin.objfile.reader import read_object
from bpfpin.uapi import MapType
from support.tools import need
from support.tracing import TOOLS, compiled_tool

LIBBPF = Path("/usr/include/bpf/bpf_tracing.h")
# What the oldest headers of libbpf lack (Debian 12 has 1.1).
OLD = ("FIVE_ARGUMENTS", "NO_WRITES")
# Not the same by intention: USDT has one more kind of argument, a bit-field can be read in several
# ways, libbpf repeats the body of a program at a system call for each kind of kernel, and relocates
# reads of registers, whose places are fixed.
OTHER = {("usdt", "probe"), ("core", "bits"), ("core", "core"), ("probes", "kill_enter")}
OTHER |= {("probes", "six")}


@pytest.fixture(params=["ziglang", "clang"])
def compiler(request: pytest.FixtureRequest) -> str:
    """Each compiler that is here."""
    word: str = request.param
    if word == "clang":
        need("clang")
    return word


@pytest.mark.slow
@pytest.mark.parametrize("name", TOOLS)
def test_tools_compile_without_a_warning(name: str, tmp_path: Path) -> None:
    result = compiled_tool(name, tmp_path / "tool.o", "ziglang")

    assert result.warnings == ""
    assert read_object(result.object_path).programs


@pytest.mark.slow
@pytest.mark.parametrize("name", TOOLS)
def test_they_become_what_libbpfs_headers_make_of_them(name: str, tmp_path: Path) -> None:
    if not LIBBPF.exists():
        pytest.skip("needs libbpf's headers: apt install libbpf-dev")
    theirs = tmp_path / "include"
    theirs.mkdir()
    (theirs / "bpf").symlink_to(LIBBPF.parent)

    ours = compiled_tool(name, tmp_path / "ours.o", "clang", defines=OLD)
    other = compiled_tool(name, tmp_path / "theirs.o", "clang", defines=OLD, include=[theirs])

    assert ours.warnings == ""
    assert used(name, ours.object_path) == used(name, other.object_path)


def used(tool: str, path: Path) -> dict[str, list[tuple[int, int, int, int]]]:
    """Return the instructions of each program without their numbers, which relocations change."""
    return {
        name: [shape(it) for function in program.functions for it in function.instructions]
        for name, program in read_object(path).programs.items()
        if (tool, name) not in OTHER
    }


def shape(instruction: Instruction) -> tuple[int, int, int, int]:
    return instruction.opcode, instruction.dst, instruction.src, instruction.offset


@pytest.mark.parametrize(
    ("arch", "offsets"),
    [
        # Bytes in struct pt_regs of x86: di, si, dx, cx, r8, r9, then sp, bp, ax, ip.
        ("x86", [112, 104, 96, 88, 72, 64, 152, 32, 80, 128]),
        # Of arm64: x0 to x5, then sp, x29, x0, pc.
        ("arm64", [0, 8, 16, 24, 32, 40, 248, 232, 0, 256]),
    ],
)
def test_registers_are_those_of_the_machine(
    arch: str, offsets: list[int], compiler: str, tmp_path: Path
) -> None:
    names = [*(f"PARM{number}" for number in range(1, 7)), "SP", "FP", "RC", "IP"]
    source = tmp_path / "registers.bpf.c"
    source.write_text(
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n#include <bpf/bpf_tracing.h>\n"
        + "".join(
            f'SEC("kprobe/f") long read_{name}(void *ctx) {{ return PT_REGS_{name}(ctx); }}\n'
            for name in names
        )
    )

    programs = read_object(
        compile_source(source, compiler=compiler, arch=arch).object_path
    ).programs

    loads = [programs[f"read_{name}"].functions[0].instructions[0] for name in names]
    assert [load.offset for load in loads] == offsets


@pytest.mark.parametrize(("arch", "first", "fourth"), [("x86", 112, 56), ("arm64", 34 * 8, 24)])
def test_arguments_of_system_calls_have_registers_of_their_own(
    arch: str, first: int, fourth: int, tmp_path: Path
) -> None:
    source = tmp_path / "calls.bpf.c"
    source.write_text(
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n#include <bpf/bpf_tracing.h>\n"
        'SEC("kprobe/f") long one(void *ctx) { return PT_REGS_PARM1_SYSCALL(ctx); }\n'
        'SEC("kprobe/f") long four(void *ctx) { return PT_REGS_PARM4_SYSCALL(ctx); }\n'
    )

    programs = read_object(compile_source(source, arch=arch).object_path).programs

    assert programs["one"].functions[0].instructions[0].offset == first
    assert programs["four"].functions[0].instructions[0].offset == fourth


def test_a_register_that_a_machine_lacks_is_an_error(tmp_path: Path, compiler: str) -> None:
    source = tmp_path / "seven.bpf.c"
    source.write_text(
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n#include <bpf/bpf_tracing.h>\n"
        'SEC("kprobe/f") long seven(void *ctx) { return PT_REGS_PARM7(ctx); }\n'
    )

    with pytest.raises(ObjectFileError, match="no register for the argument"):
        compile_source(source, compiler=compiler, arch="x86")
    compile_source(source, compiler=compiler, arch="arm64")


def test_the_maps_of_usdt_are_those_that_a_loader_fills(compiler: str, tmp_path: Path) -> None:
    """Names, types and the layout of a spec are a contract with loaders, libbpf's among them."""
    made = compiled_tool("usdt", tmp_path / "usdt.o", compiler)
    spec = read_object(made.object_path)
    specs, places = spec.maps["__bpf_usdt_specs"], spec.maps["__bpf_usdt_ip_to_spec_id"]

    assert (specs.type, specs.key_size, specs.max_entries) == (MapType.ARRAY, 4, 256)
    assert (places.type, places.key_size, places.value_size) == (MapType.HASH, 8, 4)
    assert specs.value is not None
    btf, kind = specs.value.btf, specs.value.stripped
    assert specs.value_size == 208
    assert positions(btf, kind) == {"args": 0, "usdt_cookie": 192, "arg_cnt": 200}
    args = btf[kind.members[0].type_id]  # type: ignore[union-attr]  # a structure
    assert isinstance(args, Array)
    assert args.length == 12
    assert positions(btf, btf[args.element_id]) == {
        "val_off": 0,
        "arg_type": 8,
        "idx_reg_off": 9,
        "scale_bitshift": 10.5,
        "reg_off": 12,
        "arg_signed": 14,
        "arg_bitshift": 15,
    }


def positions(btf: Btf, kind: object) -> dict[str, float]:
    """Return the offset of each member in bytes."""
    assert isinstance(kind, Struct)
    return {member.name: member.bit_offset / 8 for member in kind.members if member.name}
