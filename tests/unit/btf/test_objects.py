"""BTF as compilers and kernels write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.check import check
from bpfpin.btf.ext import parse_ext
from bpfpin.btf.types import Struct
from bpfpin.btf.write import BtfBuilder
from support.btf_tables import section_of
from support.objects import COMPILERS, NAMES, compiled

VMLINUX = Path("/sys/kernel/btf/vmlinux")


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_compilers_btf_is_read_checked_and_built_anew(name: str, compiler: str) -> None:
    data = section_of(compiled(name, compiler), ".BTF")
    read = Btf.parse(data)
    check(read)
    builder = BtfBuilder(strings=read.strings)
    for type_id in read.ids()[1:]:
        builder.add(read[type_id])

    assert builder.build() == read.to_bytes() == data


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_compilers_line_infos_name_their_source(compiler: str) -> None:
    path = compiled("subprograms", compiler)
    read = Btf.parse(section_of(path, ".BTF"))
    ext = parse_ext(section_of(path, ".BTF.ext"), read)

    assert ext.functions.keys() == ext.lines.keys()
    assert {
        read.string(line[1]).rpartition("/")[2] for lines in ext.lines.values() for line in lines
    } >= {"subprograms.bpf.c"}


@pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel shows no BTF of its own")
def test_the_kernels_btf_is_read_without_decoding_it() -> None:
    read = Btf.parse(VMLINUX.read_bytes())
    task = read.find("task_struct", Struct)

    assert task is not None
    assert read.ref(task).size > 1000
