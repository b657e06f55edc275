"""Files that are well-formed piece by piece and nonsense as a whole are read or refused."""

from __future__ import annotations

from hypothesis import given, settings

from bpfpin.insn import exit_
from fuzz.examine import examine
from fuzz.strategies import btf_blobs, objects
from support.elf_writer import ElfWriter

QUICK = settings(max_examples=300, derandomize=True, deadline=None, database=None)


@QUICK
@given(objects())
def test_any_object_is_read_or_refused(data: bytes) -> None:
    examine(data)


@QUICK
@given(btf_blobs())
def test_any_types_are_read_or_refused(blob: bytes) -> None:
    elf = ElfWriter()
    elf.function("xdp", "main", [exit_()])
    elf.section(".BTF", blob)
    examine(elf.build())
