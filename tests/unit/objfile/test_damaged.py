"""Whatever the bytes: a valid spec or an `ObjectFileError`, and nothing else."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import bpfpin
from bpfpin.errors import ObjectFileError
from bpfpin.insn import CALL, Instruction, exit_, load_imm64, mov_imm
from bpfpin.objfile.elf.file import Elf, Section
from bpfpin.objfile.reader import read_object
from support.elf_writer import (
    HEADER_FIELDS,
    R_BPF_64_32,
    SECTION_FIELDS,
    ElfWriter,
    change_header,
)
from support.objects import compiled

SHIPPED = Path(bpfpin.__file__).parent / "builtin"
# One object for each thing that a file can hold; the rest is for `tests/fuzz`.
OBJECTS = [
    ("btf_maps", "zig"),
    ("btf_maps", "clang"),
    ("callbacks", "clang"),
    ("core_relocations", "clang"),
    ("elf_map", "clang"),
    ("externs", "clang"),
    ("function_tables", "clang"),
    ("globals", "zig"),
    ("legacy_map_def", "clang"),
    ("subprograms", "zig"),
    *((path.name, "shipped") for path in sorted(SHIPPED.glob("*.bpf.o"))),
]


def small_object() -> bytes:
    """Return an object with a little of everything but types."""
    elf = ElfWriter()
    elf.license("GPL")
    counts = elf.symbol("counts", elf.section("maps", struct.pack("<5I", 2, 4, 8, 16, 0)), size=20)
    bss = elf.section_symbol(elf.bss(".bss", 16))
    code = [*load_imm64(1, 0), *load_imm64(2, 8), Instruction(CALL, src=1, imm=-1), exit_()]
    program = elf.function("xdp", "main", code)
    elf.relocation(program, counts, at=0)
    elf.relocation(program, bss, at=2)
    helper = elf.function(".text", "helper", [mov_imm(0, 2), exit_()])
    elf.relocation(program, helper, at=4, type=R_BPF_64_32, addend=0)
    return elf.build()


def object_bytes(name: str, compiler: str) -> bytes:
    path = SHIPPED / name if compiler == "shipped" else compiled(name, compiler)
    return path.read_bytes()


def is_read(data: bytes) -> bool:
    """Return whether *data* gives a spec; every exception but the one allowed comes through."""
    try:
        read_object(data)
    except ObjectFileError:
        return False
    return True


def extremes(form: str) -> set[int]:
    bits = 8 * struct.calcsize(form)
    top = (1 << bits) - 1
    return {0, 1, 2, 7, top // 2, top // 2 + 1, top - 1, top}


def with_extreme_headers(data: bytes) -> Iterator[bytes]:
    """Yield *data* with each field of the ELF header and of each section header at an extreme."""
    for field in HEADER_FIELDS.values():
        for value in extremes(field[1]):
            yield change_header(data, field, value)
    for section in Elf.parse(data).sections:
        for field in SECTION_FIELDS.values():
            for value in extremes(field[1]):
                yield change_header(data, field, value, section=section.index)


def with_extreme_words(data: bytes, section: Section) -> Iterator[bytes]:
    """Yield *data* with each four-byte word of *section* at an extreme."""
    start = file_offset(data, section)
    for at in range(start, start + len(section.data) - 3, 4):
        for value in extremes("<I"):
            yield data[:at] + struct.pack("<I", value) + data[at + 4 :]


def with_short_sections(data: bytes) -> Iterator[bytes]:
    """Yield *data* with each section that is read cut at every byte."""
    for section in read_sections(data):
        for size in range(len(section.data)):
            yield change_header(data, SECTION_FIELDS["size"], size, section=section.index)


def read_sections(data: bytes) -> list[Section]:
    unread = (".debug", ".rel.debug", ".rel.BTF", ".llvm")
    return [section for section in Elf.parse(data).sections if not section.name.startswith(unread)]


def file_offset(data: bytes, section: Section) -> int:
    (table,) = struct.unpack_from("<Q", data, 40)
    (offset,) = struct.unpack_from("<Q", data, table + 64 * section.index + 24)
    return int(offset)


def test_the_small_object_itself_is_read() -> None:
    assert is_read(small_object())


def test_a_small_object_cut_at_any_byte_is_refused() -> None:
    data = small_object()

    assert not any(is_read(data[:size]) for size in range(len(data)))


def test_a_small_object_with_any_header_field_at_an_extreme_is_read_or_refused() -> None:
    read = [is_read(data) for data in with_extreme_headers(small_object())]

    assert {True, False} == set(read)


def test_a_small_object_with_any_section_cut_short_is_read_or_refused() -> None:
    read = [is_read(data) for data in with_short_sections(small_object())]

    assert {True, False} == set(read)


def test_a_small_object_with_any_word_at_an_extreme_is_read_or_refused() -> None:
    data = small_object()
    read = [
        is_read(changed)
        for section in Elf.parse(data).sections
        for changed in with_extreme_words(data, section)
    ]

    assert {True, False} == set(read)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "compiler"), OBJECTS)
def test_an_object_cut_at_any_byte_is_refused(name: str, compiler: str) -> None:
    data = object_bytes(name, compiler)

    assert not any(is_read(data[:size]) for size in range(len(data)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "compiler"), OBJECTS)
def test_an_object_with_any_header_field_at_an_extreme_is_read_or_refused(
    name: str, compiler: str
) -> None:
    for data in with_extreme_headers(object_bytes(name, compiler)):
        is_read(data)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "compiler"), OBJECTS)
def test_an_object_with_any_section_cut_short_is_read_or_refused(name: str, compiler: str) -> None:
    for data in with_short_sections(object_bytes(name, compiler)):
        is_read(data)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "compiler"), OBJECTS)
def test_an_object_with_random_damage_is_read_or_refused(name: str, compiler: str) -> None:
    """The seed is fixed, so that a failure comes again."""
    data = object_bytes(name, compiler)
    random_source = random.Random(f"{name} {compiler}")
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(random_source.randint(1, 4)):
            damaged[random_source.randrange(len(data))] = random_source.randrange(256)
        is_read(bytes(damaged))
