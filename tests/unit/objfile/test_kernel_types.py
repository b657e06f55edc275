"""Types read from a file that stands in for the kernel's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.errors import ObjectFileError, ObjectNotFoundError
from bpfpin.objfile.reader import read_btf
from bpfpin.sets.choose import read_source
from support.btf_tables import U32, blob
from support.elf_writer import ElfWriter


def test_raw_types_are_read(tmp_path: Path) -> None:
    path = tmp_path / "kernel.btf"
    path.write_bytes(blob(U32))

    assert read_btf(path)[1] == U32


def test_the_types_of_an_elf_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    elf = ElfWriter()
    elf.section(".BTF", blob(U32))
    path.write_bytes(elf.build())

    assert read_btf(str(path))[1] == U32


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "too few for BTF"),
        (b"text, and no types at all", "not BTF"),
        (b"\x7fELF", "ELF"),
        (ElfWriter().build(), "the file has no section .BTF"),
    ],
)
def test_files_without_types_are_refused_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(ObjectFileError, match=message) as caught:
        read_btf(path)

    assert caught.value.path == str(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError):
        read_btf(tmp_path / "nothing")


def test_a_source_takes_the_types_with_it(tmp_path: Path) -> None:
    path = tmp_path / "kernel.btf"
    path.write_bytes(blob(U32))
    spec = read_source("builtin:xdp_stats", kernel_btf=path)

    assert spec.kernel_btf is not None
    assert read_source(spec).kernel_btf is spec.kernel_btf
    assert read_source("builtin:xdp_stats").kernel_btf is None
