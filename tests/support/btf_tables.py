"""BTF for tests, written down as the records of `bpfpin.btf.types`."""

from __future__ import annotations

from pathlib import Path

from elftools.elf.elffile import ELFFile

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import BtfType, Int, IntEncoding
from bpfpin.btf.write import BtfBuilder

U8 = Int("unsigned char", 1, 8)
U32 = Int("unsigned int", 4, 32)
U64 = Int("unsigned long long", 8, 64)
S32 = Int("int", 4, 32, IntEncoding.SIGNED)


def blob(*types: BtfType) -> bytes:
    """Return the blob with *types*, whose ids count from 1."""
    builder = BtfBuilder()
    for kind in types:
        builder.add(kind)
    return builder.build()


def table(*types: BtfType) -> Btf:
    """Return the table with *types*, whose ids count from 1."""
    return Btf.parse(blob(*types))


def section_of(path: Path, name: str) -> bytes:
    """Return the bytes of a section of an ELF file, as pyelftools reads them."""
    with path.open("rb") as file:
        return bytes(ELFFile(file).get_section_by_name(name).data())
