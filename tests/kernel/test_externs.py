"""Externs against the running kernel: what programs see of it, and what libbpf makes of them."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.btf.types import Var
from bpfpin.errors import (
    BpfError,
    ExitCode,
    NotSupportedError,
    ObjectFileError,
    PermissionDeniedError,
    ReadOnlyMapError,
    VerifierError,
)
from bpfpin.loading import symbols
from bpfpin.loading.collection import Loaded, load
from bpfpin.loading.resolve import resolve, with_config
from bpfpin.objects.kernel import kallsyms
from bpfpin.objects.kernel.btf import vmlinux_btf
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from bpfpin.spec import ObjectSpec
from bpfpin.syscall import bpf
from bpfpin.uapi import ProgramType, XdpAction
from kernel.test_core import by_libbpf, by_us
from support.kernel_needs import need_functions
from support.objects import COMPILERS, compiled

PACKET = bytes(64)
FIRST_KEY = bytes(4)
CONFIG = {
    "CONFIG_BPF_SYSCALL": "y",
    "CONFIG_BPF_JIT": "m",
    "CONFIG_NET": "m",
    "CONFIG_HZ": "250",
    "CONFIG_PHYSICAL_START": "0xffffffff81000000",
    "CONFIG_DEFAULT_HOSTNAME": '"a long name"',
}


# What kernel_symbols calls (Linux 6.2, 6.3).
KERNEL_FUNCTIONS = ("bpf_cast_to_kern_ctx", "bpf_task_from_pid", "bpf_task_release")


def seen(loaded: Loaded) -> dict[str, object]:
    """Return what the XDP program of the object wrote down."""
    for program in loaded.programs.values():
        if program.type == ProgramType.XDP:
            program.test_run(PACKET)
    return dict(loaded.variables["seen"].value)


def without_ids(programs: dict[str, list[object]]) -> dict[str, list[object]]:
    """Return the instructions without the ids of maps, which are other ones at each load."""
    return {name: [_without_id(each) for each in code] for name, code in programs.items()}


def _without_id(instruction: Any) -> Any:
    is_map = instruction["code"] == "0x18" and instruction["src_reg"] in ("0x1", "0x2")
    return {**instruction, "imm": instruction["imm"][4:]} if is_map else instruction


def config_bytes(program: Program) -> bytes:
    """Return what the program's map of configuration holds."""
    for map_id in program.info.map_ids:
        with Map.from_id(map_id) as held:
            if held.info.name.endswith(".kconfig"):
                return bpf.map_lookup_elem(held.fd, FIRST_KEY, held.value_size)
    raise AssertionError("the program has no map of configuration")


@pytest.fixture(params=COMPILERS)
def configured(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    with load(read_object(compiled("config_values", request.param)), kernel_config=CONFIG) as held:
        yield held


def test_a_program_sees_the_configuration_in_every_form(configured: Loaded) -> None:
    found = seen(configured)

    assert found["version"] == symbols.kernel_version()
    assert (found["syscall"], found["jit"], found["tristate"], found["hz"]) == (1, ord("m"), 2, 250)
    assert found["physical_start"] == 0xFFFFFFFF81000000
    assert found["host"] == "a long "
    assert (found["absent"], found["unnamed"]) == (0, "")


def test_the_values_stand_in_a_frozen_map_and_read_as_constants(configured: Loaded) -> None:
    held = configured.maps[".kconfig"]
    with pytest.raises(ReadOnlyMapError):
        held[0] = held[0]

    assert configured.variables["CONFIG_HZ"].value == 250
    assert configured.variables["CONFIG_HZ"].is_read_only


def test_the_configuration_of_the_running_kernel_is_found(bpffs: Path) -> None:
    """What bpftool, which is libbpf, writes into the instructions is the same."""
    path = compiled("config_values")
    with load(read_object(path)) as loaded:
        found = seen(loaded)
        ours = config_bytes(loaded.programs["copies_values"])
        wrapper = loaded.variables["LINUX_HAS_SYSCALL_WRAPPER"].spec.offset
        version = loaded.variables["LINUX_KERNEL_VERSION"].spec.offset
    theirs = by_libbpf(path, bpffs)

    def without_wrapper(contents: bytes) -> bytes:
        # libbpf tells by a kprobe, and takes a kernel without kprobes for one without wrappers.
        return contents[:wrapper] + contents[wrapper + 1 :]

    def with_our_version(contents: bytes) -> bytes:
        # Old versions of libbpf take 6.1.0-50-amd64, which is Debian's 6.1.176, for 6.1.0.
        named = symbols.version_code(os.uname().release, "").to_bytes(4, "little")
        if contents[version : version + 4] != named:
            return contents
        return contents[:version] + ours[version : version + 4] + contents[version + 4 :]

    assert (found["cookie"], found["syscall"]) == (1, 1)
    assert without_ids(by_us(path)) == without_ids(theirs)
    with Program.from_pin(bpffs / "by_libbpf" / "copies_values") as program:
        written = with_our_version(config_bytes(program))
        assert without_wrapper(written) == without_wrapper(ours)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_symbols_variables_and_functions_of_the_kernel_are_found(compiler: str) -> None:
    need_functions(*KERNEL_FUNCTIONS)
    with load(read_object(compiled("kernel_symbols", compiler))) as loaded:
        found = seen(loaded)
        pid = os.getpid().to_bytes(4, "little")
        task = loaded.programs["finds_task"].test_run(context=pid).return_value

    assert found["text"] == kallsyms.addresses(["_text"])["_text"] != 0
    assert found["length"] == len(PACKET)
    assert (found["absent"], found["uncounted"], found["called"]) == (0, 0, -1)
    assert task == os.getpid()


def test_a_variable_of_each_cpu_is_the_kernels_own() -> None:
    spec = read_object(compiled("kernel_variable"))
    (answer,) = resolve(spec)

    assert answer.number == vmlinux_btf().find("runqueues", Var)


def test_a_program_reads_a_variable_of_each_cpu() -> None:
    """A kernel that does not know the addresses of variables (CONFIG_KALLSYMS_ALL) says so."""
    spec = read_object(compiled("kernel_variable"))
    if not kallsyms.is_there("runqueues"):
        with pytest.raises(BpfError, match=r"ksym|runqueues|address"):
            load(spec)
        return
    with load(spec) as loaded:
        answer = loaded.programs["first_cpu"].test_run(PACKET).return_value

    assert answer == XdpAction.XDP_PASS


@pytest.mark.parametrize("compiler", COMPILERS)
def test_they_come_out_as_libbpf_has_them(compiler: str, bpffs: Path) -> None:
    need_functions(*KERNEL_FUNCTIONS)
    path = compiled("kernel_symbols", compiler)

    assert without_ids(by_us(path)) == without_ids(by_libbpf(path, bpffs))


def test_answers_say_what_each_is_here() -> None:
    need_functions(*KERNEL_FUNCTIONS)
    answers = {each.extern.name: each for each in resolve(read_object(compiled("kernel_symbols")))}

    assert re.fullmatch(r"type \d+ of vmlinux", answers["bpf_task_from_pid"].text)
    assert re.fullmatch(r"0xf[0-9a-f]{15}", answers["_text"].text)
    assert answers["never_callable"].text == "absent"
    assert not any(each.error for each in answers.values())


def test_only_what_the_chosen_programs_use_is_looked_up() -> None:
    spec = read_object(compiled("kernel_symbols")).only_programs("finds_task")

    assert {each.extern.name for each in resolve(spec)} == {"bpf_task_from_pid", "bpf_task_release"}


def test_a_function_that_the_kernel_lacks_is_named_with_its_like() -> None:
    with pytest.raises(NotSupportedError, match=r"function kernel_only.* there are: kernel_"):
        load(read_object(compiled("externs")))


def test_a_call_of_an_absent_function_is_named_when_it_is_reached() -> None:
    with pytest.raises(VerifierError, match="never_callable is called, which this kernel"):
        load(read_object(compiled("kernel_absent")))


def test_a_missing_value_is_named_and_all_others_with_it() -> None:
    spec = read_object(compiled("config_values"))
    with pytest.raises(NotSupportedError, match=r"value .* CONFIG_\w+, which") as caught:
        load(spec, kernel_config={})

    named = f"{caught.value} {caught.value.hint}"
    assert all(name in named for name in CONFIG)
    assert "CONFIG_NEVER_THERE" not in named


def test_a_value_of_another_type_names_the_variable() -> None:
    spec = read_object(compiled("config_values"))
    with pytest.raises(ObjectFileError, match="CONFIG_HZ is y in this kernel") as caught:
        load(spec, kernel_config=CONFIG | {"CONFIG_HZ": "y"})

    assert (caught.value.section, caught.value.symbol) == (".kconfig", "CONFIG_HZ")


def test_a_file_stands_in_for_the_configuration(tmp_path: Path) -> None:
    text = "".join(f"{name}={value}\n" for name, value in CONFIG.items())
    packed = tmp_path / "config.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    spec = with_config(read_object(compiled("config_values")), packed)

    assert answer_of(spec, "CONFIG_HZ") == "250"


def test_a_host_without_the_configuration_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = read_object(compiled("config_values"))
    for name in ("CONFIG", "BOOT", "MODULES"):
        monkeypatch.setattr(symbols, name, tmp_path / name)
    with pytest.raises(NotSupportedError, match=f"in none of {tmp_path}/CONFIG, ") as caught:
        load(spec)
    beside_modules = symbols.config_files()[-1]
    beside_modules.parent.mkdir(parents=True)
    beside_modules.write_text("".join(f"{name}={value}\n" for name, value in CONFIG.items()))

    assert caught.value.exit_code == ExitCode.NOT_SUPPORTED
    assert answer_of(spec, "CONFIG_HZ") == "250"


def answer_of(spec: ObjectSpec, name: str) -> str:
    return next(each.text for each in resolve(spec) if each.extern.name == name)


def test_hidden_addresses_are_a_question_of_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_functions(*KERNEL_FUNCTIONS)
    hidden = tmp_path / "kallsyms"
    hidden.write_text("0000000000000000 T _text\n0000000000000000 T _stext\n")
    monkeypatch.setattr(kallsyms, "KALLSYMS", hidden)
    with pytest.raises(PermissionDeniedError, match="does not show the address of _text") as caught:
        load(read_object(compiled("kernel_symbols")))

    assert caught.value.missing == ("CAP_SYSLOG",)
