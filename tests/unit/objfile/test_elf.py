"""The ELF reader: what it finds, and what it refuses."""

from __future__ import annotations

import pytest

from bpfpin.errors import ObjectFileError, ObjectLimitError
from bpfpin.insn import exit_, mov_imm
from bpfpin.objfile.elf import records
from bpfpin.objfile.elf.file import (
    SHF_COMPRESSED,
    Elf,
    SectionType,
    SymbolBinding,
    SymbolType,
)
from support.elf_writer import HEADER_FIELDS, R_BPF_64_32, ElfWriter
from support.elf_writer import change_header as change


def writer() -> ElfWriter:
    elf = ElfWriter()
    elf.license("GPL")
    elf.bss(".bss", 24)
    elf.function("xdp", "first", [mov_imm(0, 2), exit_()])
    elf.function("xdp", "second", [mov_imm(0, 1), exit_()], binding=SymbolBinding.LOCAL)
    return elf


def test_sections_come_in_the_order_of_the_file() -> None:
    elf = Elf.parse(writer().build())

    assert [section.name for section in elf.sections] == [
        *("", "license", ".bss", "xdp", ".symtab", ".strtab")
    ]
    assert elf.sections[1].data == b"GPL\0"


def test_a_section_without_bytes_has_a_size_and_no_data() -> None:
    section = Elf.parse(writer().build()).section(".bss")

    assert section is not None
    assert (section.type, section.size, section.data) == (SectionType.NOBITS, 24, b"")


def test_a_section_that_is_not_there_is_none() -> None:
    assert Elf.parse(writer().build()).section(".maps") is None


def test_the_symbols_of_a_section_come_by_address_and_without_the_section_symbol() -> None:
    source = writer()
    source.section_symbol(source.sections[2])
    elf = Elf.parse(source.build())

    symbols = elf.symbols_in(elf.sections[3])

    assert [(symbol.name, symbol.value, symbol.size) for symbol in symbols] == [
        ("first", 0, 16),
        ("second", 16, 16),
    ]
    assert all(symbol.type == SymbolType.FUNCTION for symbol in symbols)
    assert [symbol.is_local for symbol in symbols] == [False, True]


def test_relocations_with_and_without_addend_are_read_by_offset() -> None:
    source = writer()
    first, second = source.symbols
    source.relocation(second, first, at=0, type=R_BPF_64_32, addend=-8)
    source.relocation(first, second, at=1, type=R_BPF_64_32)
    elf = Elf.parse(source.build())

    relocations = elf.relocations(elf.sections[3])

    assert [(item.offset, item.symbol.name, item.addend) for item in relocations] == [
        (8, "second", None),
        (16, "first", -8),
    ]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("class", 1, "not a 64-bit ELF file"),
        ("data", 3, "unknown byte order 3"),
        ("ident_version", 2, "ELF version 2"),
        ("machine", 62, "made for x86-64, not for BPF"),
        ("machine", 9999, "made for machine 9999"),
        ("type", 2, "not a relocatable object"),
        ("section_header_size", 40, "section headers of 40 bytes"),
        ("section_count", 0, "0 sections"),
        ("section_count", 7, "truncated"),
        ("names_index", 6, "section names in section 6 of 6"),
        ("section_headers", 0, "truncated"),
        ("section_headers", 2**64 - 1, "truncated"),
    ],
)
def test_a_header_that_is_none_of_bpf_is_refused(field: str, value: int, words: str) -> None:
    data = change(writer().build(), HEADER_FIELDS[field], value)

    with pytest.raises(ObjectFileError, match=words) as caught:
        Elf.parse(data, path="some.o")

    assert caught.value.path == "some.o"


def test_what_is_no_elf_file_is_refused_with_the_command_that_compiles() -> None:
    with pytest.raises(ObjectFileError, match="not an ELF file") as caught:
        Elf.parse(b"int main() {}")

    assert "bpfpin compile" in caught.value.hint


def test_a_compressed_section_is_refused_and_never_unpacked() -> None:
    source = writer()
    source.section(".maps", b"x" * 24, flags=SHF_COMPRESSED)

    with pytest.raises(ObjectFileError, match="compressed") as caught:
        Elf.parse(source.build())

    assert caught.value.section == ".maps"


def test_a_compressed_debug_section_does_not_matter() -> None:
    source = writer()
    source.section(".debug_info", b"x" * 24, flags=SHF_COMPRESSED)

    assert Elf.parse(source.build()).section(".debug_info") is not None


def test_a_symbol_that_ends_beyond_its_section_is_refused() -> None:
    source = writer()
    source.symbol("wide", source.sections[0], value=2, size=4)

    with pytest.raises(ObjectFileError, match="ends at byte 6") as caught:
        Elf.parse(source.build())

    assert (caught.value.section, caught.value.symbol) == ("license", "wide")


@pytest.mark.parametrize("index", [99, 0xFFFF])
def test_a_symbol_in_a_section_that_is_not_there_is_refused(index: int) -> None:
    source = writer()
    source.symbol("lost").section_index = index

    with pytest.raises(ObjectFileError, match="which does not exist"):
        Elf.parse(source.build())


def test_a_relocation_beyond_the_end_is_refused() -> None:
    source = writer()
    source.relocation(source.sections[2], source.symbols[0], at=32)
    elf = Elf.parse(source.build())

    with pytest.raises(ObjectFileError, match="beyond the end"):
        elf.relocations(elf.sections[3])


def test_sections_that_share_bytes_are_refused() -> None:
    """They would let a small file ask for any amount of memory."""
    data = bytearray(writer().build())
    change(data, (24, "<Q"), 64 + 8, section=1)  # the license, moved into the code behind it

    with pytest.raises(ObjectFileError, match="section 1 and section 3 overlap"):
        Elf.parse(bytes(data))


@pytest.mark.parametrize(("place", "other"), [(0, "the ELF header"), (-64, "the section headers")])
def test_a_section_in_the_headers_is_refused(place: int, other: str) -> None:
    data = bytearray(writer().build())
    change(data, (24, "<Q"), place % len(data), section=1)

    with pytest.raises(ObjectFileError, match=f"{other} and section 1 overlap|section 1 and"):
        Elf.parse(bytes(data))


def test_sections_without_bytes_may_lie_anywhere() -> None:
    data = bytearray(writer().build())
    change(data, (24, "<Q"), 1 << 60, section=2)

    section = Elf.parse(bytes(data)).section(".bss")
    assert section is not None
    assert section.size == 24


def test_sections_without_bytes_may_not_take_any_amount_of_memory() -> None:
    source = writer()
    source.bss(".bss.huge", records.MAX_MEMORY_BYTES)

    with pytest.raises(ObjectLimitError, match="67108888 bytes of memory"):
        Elf.parse(source.build())


def test_a_second_symbol_table_is_refused() -> None:
    source = writer()
    source.section("other", type=SectionType.SYMTAB)

    with pytest.raises(ObjectFileError, match="second symbol table"):
        Elf.parse(source.build())


@pytest.mark.parametrize("name", [b"\xff\xfe", b"x" * 2000])
def test_a_name_that_is_no_text_or_endless_is_refused(name: bytes) -> None:
    source = writer()
    source.symbol("PLACE" * 500)
    data = source.build().replace(b"PLACEPLACE" * 250, name.ljust(2500, b"x"))

    with pytest.raises(ObjectFileError, match="symbol names"):
        Elf.parse(data)


def test_the_machine_of_compilers_without_a_number_for_bpf_is_read() -> None:
    """Clang before 4.0 wrote EM_NONE, 0."""
    writer = ElfWriter(machine=0)
    writer.license("GPL")

    assert Elf.parse(writer.build()).section("license") is not None
