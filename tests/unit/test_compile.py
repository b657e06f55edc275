"""C to BPF objects, with the wheel's compiler and with an installed clang."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bpfpin.apps.compile import compile_source
from bpfpin.errors import BpfError, ExitCode, ObjectFileError, ObjectNotFoundError, UsageError

BUILTIN = Path(__file__).parents[2] / "src" / "bpfpin" / "builtin"
VMLINUX = Path("/sys/kernel/btf/vmlinux")
PROGRAM = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("xdp") int answer(struct xdp_md *ctx) { return ANSWER; }
"""
# What sources written for libbpf's headers, new and old, make use of.
EVERYTHING = """
#include <stddef.h>
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/icmp.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <asm/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
struct bpf_map_def SEC("maps") old = {
    .type = BPF_MAP_TYPE_HASH, .key_size = 4, .value_size = 8, .max_entries = 16,
};
BPF_ANNOTATE_KV_PAIR(old, __u32, __u64);
struct inner {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} one SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, 2);
    __uint(key_size, 4);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __array(values, struct inner);
} outer SEC(".maps") = { .values = { &one } };
struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, 4);
    __uint(key_size, 4);
    __uint(value_size, 4);
} jumps SEC(".maps");
extern int LINUX_KERNEL_VERSION __kconfig __weak;
extern const void init_task __ksym __weak;
__hidden int hidden(int x);
__noinline __weak int weak(int x) { barrier_var(x); return x + 1; }
int hidden(int x) { barrier(); return weak(x); }
SEC("xdp") int everything(struct xdp_md *ctx)
{
    char text[16];
    struct ethhdr *eth = (void *)(long)ctx->data;
    if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
        return XDP_DROP;
    switch (eth->h_proto) {
    case bpf_htons(ETH_P_IP): bpf_printk("ip"); break;
    case bpf_htons(ETH_P_IPV6): bpf_printk("%d %d %d", 1, 2, 3); break;
    default: bpf_printk("%d %d %d %s %p", 1, 2, 3, "four", eth);
    }
    BPF_SNPRINTF(text, sizeof(text), "%d %s", bpf_ntohl(7), "x");
    if (LINUX_KERNEL_VERSION > KERNEL_VERSION(6, 1, 0) && bpf_ksym_exists(init_task))
        bpf_tail_call_static(ctx, &jumps, 2);
    return hidden((int)bpf_be64_to_cpu(bpf_ktime_get_ns())) > 0 ? XDP_PASS : XDP_DROP;
}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A source that needs ANSWER defined."""
    source = tmp_path / "answer.bpf.c"
    source.write_text(PROGRAM)
    return source


@pytest.fixture(params=["ziglang", "clang"])
def compiler(request: pytest.FixtureRequest) -> str:
    """Each compiler that is here."""
    word: str = request.param
    if word == "clang" and not shutil.which("clang"):
        pytest.skip("clang is not installed")
    return word


def test_what_users_write_compiles_without_a_warning(tmp_path: Path, compiler: str) -> None:
    source = tmp_path / "everything.bpf.c"
    source.write_text(EVERYTHING)

    result = compile_source(source, compiler=compiler)

    data = result.object_path.read_bytes()
    assert result.warnings == ""
    assert result.object_path == tmp_path / "everything.bpf.o"
    assert b"____btf_map_old" in data
    assert compiler in result.compiler


def test_a_source_may_have_its_own_definition_of_the_old_dialect(program: Path) -> None:
    own = "struct bpf_map_def { unsigned int type; };\n"
    program.write_text(PROGRAM.replace("SEC", own + "SEC"))

    result = compile_source(program, compiler="ziglang", defines=["ANSWER=1"])

    assert result.warnings == ""


def test_the_same_source_gives_the_same_bytes_in_every_folder(tmp_path: Path) -> None:
    source = Path(shutil.copy(BUILTIN / "xdp_stats.bpf.c", tmp_path))

    result = compile_source(source, compiler="ziglang")

    assert result.object_path.read_bytes() == (BUILTIN / "xdp_stats.bpf.o").read_bytes()


def test_defines_and_folders_reach_the_compiler(program: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "two.h").write_text("#define TWO 2\n")
    program.write_text("#include <two.h>\n" + PROGRAM)

    result = compile_source(
        program, compiler="ziglang", include=[tmp_path / "own"], defines=["ANSWER=TWO"]
    )

    assert result.object_path.stat().st_size > 0


def test_the_instruction_set_is_the_callers_choice(program: Path, tmp_path: Path) -> None:
    """Version 1 has no 32-bit move: a return value is set by opcode 0xb7, not 0xb4."""
    old = compile_source(
        program, tmp_path / "v1.o", cpu="v1", defines=["ANSWER=2"], compiler="ziglang"
    )
    new = compile_source(
        program, tmp_path / "v3.o", cpu="v3", defines=["ANSWER=2"], compiler="ziglang"
    )

    assert bytes.fromhex("b700000002000000") in old.object_path.read_bytes()
    assert bytes.fromhex("b400000002000000") in new.object_path.read_bytes()


def test_a_failed_compile_keeps_the_older_object_and_the_compilers_words(program: Path) -> None:
    older = program.with_suffix(".o")
    older.write_bytes(b"older")

    with pytest.raises(ObjectFileError, match="undeclared identifier 'ANSWER'") as caught:
        compile_source(program, compiler="ziglang")

    assert caught.value.exit_code == ExitCode.REFUSED
    assert older.read_bytes() == b"older"
    assert sorted(path.name for path in program.parent.iterdir()) == ["answer.bpf.c", older.name]


def test_a_file_that_is_not_named_as_c_is_told_so(tmp_path: Path, compiler: str) -> None:
    source = tmp_path / "foo"
    source.write_text("root:x:0:0\n")
    with pytest.raises(ObjectFileError, match="does not compile") as caught:
        compile_source(source, compiler=compiler)

    assert caught.value.exit_code is ExitCode.REFUSED
    assert caught.value.hint.endswith("rename it to foo.c")
    assert "argument unused" not in caught.value.message
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("vmlinux.h", "types of the running kernel: bpfpin compile --vmlinux "),
        ("linux/no_such.h", "the installed kernel headers do not have linux/no_such.h; "),
        ("bpf/no_such.h", "bpf_core_read.h, bpf_endian.h, bpf_helper_defs.h, bpf_helpers.h, "),
        ("bpf/no_such.h", "bpf_tracing.h, usdt.bpf.h; other headers of libbpf: apt install libbpf"),
        ("own/thing.h", "a directory that has it is added with --include DIR"),
    ],
)
def test_the_hint_for_a_missing_header_says_how_to_get_it(
    program: Path, header: str, hint: str
) -> None:
    program.write_text(f'#include "{header}"\n')

    with pytest.raises(ObjectFileError, match=f"'{header}' file not found") as caught:
        compile_source(program, compiler="ziglang")

    assert hint in caught.value.hint


@pytest.mark.skipif(not VMLINUX.exists(), reason=f"this kernel has no {VMLINUX}")
def test_the_hint_for_vmlinux_h_works_when_typed(tmp_path: Path) -> None:
    source = tmp_path / "two words.bpf.c"
    source.write_text('#include "vmlinux.h"\nstruct task_struct *task;\n')
    with pytest.raises(ObjectFileError) as caught:
        compile_source(source, compiler="ziglang")
    typed = shlex.split(caught.value.hint.partition(": ")[2])

    done = subprocess.run([sys.executable, "-m", *typed], capture_output=True, check=False)

    assert done.returncode == 0
    assert source.with_suffix(".o").exists()


def test_a_missing_source_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError, match="no such source file") as caught:
        compile_source(tmp_path / "none.c")

    assert caught.value.exit_code == ExitCode.NOT_FOUND


def test_a_missing_folder_for_the_object_is_not_found(program: Path, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError, match="no such folder"):
        compile_source(program, tmp_path / "none" / "x.o")


def test_a_source_is_never_overwritten(program: Path) -> None:
    with pytest.raises(UsageError, match="overwrite"):
        compile_source(program, program)

    assert program.read_text() == PROGRAM


@pytest.mark.parametrize("name", ["-o.c", "@file.c", "two words.c"])
def test_any_name_of_a_file_is_a_files_name(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    source.write_text(PROGRAM)

    result = compile_source(source, compiler="ziglang", defines=["ANSWER=1"])

    assert result.object_path == source.with_suffix(".o")


def test_without_a_compiler_the_hint_names_two_ways_to_get_one(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "ziglang", None)

    with pytest.raises(BpfError, match="no compiler") as caught:
        compile_source(program)

    assert "apt install clang" in caught.value.hint
    assert "pip install 'bpfpin[compile]'" in caught.value.hint


def test_a_compiler_that_is_not_there_is_named(program: Path) -> None:
    with pytest.raises(BpfError, match="clang-99 is not installed"):
        compile_source(program, compiler="clang-99")
