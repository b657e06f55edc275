"""CO-RE against the running kernel: what libbpf makes of the same objects, we make."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bpfpin.errors import NotSupportedError, VerifierError
from bpfpin.loading.collection import load
from bpfpin.loading.resolve import fitted
from bpfpin.objects.kernel import btf
from bpfpin.objects.kernel.btf import module_btfs, vmlinux_btf
from bpfpin.objfile.reader import read_object
from bpfpin.uapi import XdpAction
from support.btf_tables import U32, blob
from support.core_sources import source
from support.objects import COMPILERS, compiled
from support.tools import need

PACKET = bytes(64)


def bpftool(*words: object) -> str:
    """Run bpftool and return what it prints as JSON."""
    command = ["bpftool", "--json", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def translated(*place: object) -> list[object]:
    """Return the instructions of a program as the verifier left them."""
    return [
        line["opcodes"] for line in json.loads(bpftool("prog", "dump", "xlated", *place, "opcodes"))
    ]


def by_libbpf(path: Path, bpffs: Path) -> dict[str, list[object]]:
    """Load the object by bpftool, which is libbpf, and return the instructions of each program."""
    need("bpftool")
    pins = bpffs / "by_libbpf"
    bpftool("prog", "loadall", path, pins)
    return {pin.name: translated("pinned", pin) for pin in pins.iterdir()}


def by_us(path: Path) -> dict[str, list[object]]:
    with load(read_object(path)) as loaded:
        return {name: translated("id", each.id) for name, each in loaded.programs.items()}


@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_kind_comes_out_as_libbpf_has_it(bpffs: Path, compiler: str) -> None:
    path = compiled("core_kinds", compiler)
    ours = by_us(path)

    assert ours.keys() == {"fields", "types", "enumerators", "loads"}
    assert ours == by_libbpf(path, bpffs)


def test_a_thousand_fields_come_out_as_libbpf_has_them(bpffs: Path, tmp_path: Path) -> None:
    text, path = tmp_path / "many.bpf.c", tmp_path / "many.bpf.o"
    text.write_text(source(vmlinux_btf(), structures=80, every=20))
    need("clang")
    subprocess.run(["clang", "-target", "bpfel", "-O2", "-g", "-c", text, "-o", path], check=True)
    _, relocations = fitted(read_object(path))

    assert len(relocations) > 1000
    assert len({each.value for each in relocations}) > 60
    assert by_us(path) == by_libbpf(path, bpffs)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_loads_are_fitted_and_what_is_not_there_is_not_reached(compiler: str) -> None:
    """The program drops if it reads a process id other than 0 from the kernel's structure."""
    with load(read_object(compiled("core_kinds", compiler))) as loaded:
        answers = {name: p.test_run(PACKET).return_value for name, p in loaded.programs.items()}

    assert answers.pop("loads") == XdpAction.XDP_DROP
    assert set(answers.values()) == {XdpAction.XDP_PASS}


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_refusal_names_the_relocation_that_was_reached(compiler: str) -> None:
    spec = read_object(compiled("core_missing", compiler))
    with pytest.raises(VerifierError) as caught:
        load(spec)

    assert "the offset of struct task_struct.never_there (0:1)" in str(caught.value)
    assert "unguarded (line 16)" in caught.value.telling_line
    assert "task->never_there" in caught.value.source
    assert "invalid func unknown#195896081" in caught.value.log


def test_given_types_stand_in_for_the_kernels(tmp_path: Path) -> None:
    """Among those of the file there is no task_struct at all."""
    other = tmp_path / "other.btf"
    other.write_bytes(blob(U32))
    with pytest.raises(VerifierError, match=r"asks for the offset of struct task_struct\.pid"):
        load(read_object(compiled("core_missing")), kernel_btf=other)


def test_a_kernel_that_does_not_show_its_types_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place of the file is all that is changed here: no kernel without types is at hand."""
    vmlinux_btf.cache_clear()
    monkeypatch.setattr(btf, "VMLINUX", tmp_path / "vmlinux")
    with pytest.raises(NotSupportedError, match=r"there is no .*vmlinux") as caught:
        load(read_object(compiled("core_missing")))

    assert "kernel_btf=FILE" in caught.value.hint


def test_objects_without_relocations_do_not_ask_for_the_kernels_types() -> None:
    vmlinux_btf.cache_clear()
    load(read_object(compiled("several_programs"), program_types="socket")).close()

    assert vmlinux_btf.cache_info().currsize == 0


def test_modules_are_read_from_beside_the_kernels_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vmlinux").write_bytes(blob(U32))
    (tmp_path / "driver").write_bytes(blob())
    monkeypatch.setattr(btf, "VMLINUX", tmp_path / "vmlinux")
    vmlinux_btf.cache_clear()
    try:
        before = {name: len(types) for name, types in module_btfs()}
        # In front of the other one, as a module that is loaded while this process runs.
        (tmp_path / "bonding").write_bytes(blob(U32, U32))
        after = {name: len(types) for name, types in module_btfs()}
    finally:
        vmlinux_btf.cache_clear()

    assert before == {"driver": 2}
    assert after == {"bonding": 4, "driver": 2}
