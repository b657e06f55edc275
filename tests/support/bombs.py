"""Small files that ask for much, and how long they may take."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Linkage,
    Member,
    Pointer,
    SectionVariable,
    Struct,
    Var,
)
from bpfpin.btf.write import BtfBuilder
from bpfpin.insn import exit_, mov_imm
from support.btf_tables import U32
from support.elf_writer import ElfWriter

# Processor time of a million rounds of a loop, on the machine for which times are written here.
ROUNDS_S = 0.03


@functools.cache
def slowness() -> float:
    """How many times slower this machine is: a guest without hardware support takes ten times."""
    before = time.process_time()
    for _ in range(1_000_000):
        pass
    return max(1.0, (time.process_time() - before) / ROUNDS_S)


@contextmanager
def at_once(seconds: float = 1.0) -> Iterator[None]:
    """Allow so much processor time, twice over, and more on a slower machine."""
    allowed = 2 * seconds * slowness()
    before = time.process_time()
    yield

    assert time.process_time() - before < allowed


def with_types(blob_: bytes, ext: bytes = b"") -> bytes:
    elf = ElfWriter()
    elf.function("xdp", "main", [mov_imm(0, 0), exit_()])
    elf.section(".BTF", blob_)
    if ext:
        elf.section(".BTF.ext", ext)
    return elf.build()


def map_of(*types: BtfType) -> bytes:
    """Return an object with map `flows`, whose value is the last of *types*."""
    builder = BtfBuilder()
    for kind in (*types, U32):
        builder.add(kind)
    number, at = len(types) + 1, len(types) + 2
    builder.add(Array(number, number, 1))  # at
    builder.add(Pointer(at))  # at + 1: __uint(…, 1)
    builder.add(Pointer(number))  # at + 2
    builder.add(Pointer(len(types)))  # at + 3
    wanted = (("type", at + 1), ("max_entries", at + 1), ("key", at + 2), ("value", at + 3))
    placed = tuple(Member(name, kind, 64 * i) for i, (name, kind) in enumerate(wanted))
    builder.add(Struct("", 32, placed))  # at + 4
    builder.add(Var("flows", at + 4, Linkage.GLOBAL))
    builder.add(DataSection(".maps", 0, (SectionVariable(at + 5, 0, 32),)))
    elf = ElfWriter()
    elf.symbol("flows", elf.section(".maps", bytes(32)), size=32)
    elf.section(".BTF", builder.build())
    return elf.build()
