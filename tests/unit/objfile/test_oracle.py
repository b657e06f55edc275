"""Our reader and pyelftools see the same in every object that we compile."""

from __future__ import annotations

import io

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from bpfpin.objfile.elf.file import Elf
from support.objects import COMPILERS, NAMES, compiled

pytestmark = [
    pytest.mark.parametrize("name", NAMES),
    pytest.mark.parametrize("compiler", COMPILERS),
]


def both(name: str, compiler: str) -> tuple[Elf, ELFFile]:
    data = compiled(name, compiler).read_bytes()
    return Elf.parse(data), ELFFile(io.BytesIO(data))


def test_the_sections_are_the_same(name: str, compiler: str) -> None:
    ours, theirs = both(name, compiler)
    expected = [
        (
            *(section.name, section["sh_size"], section["sh_flags"], section["sh_link"]),
            section.data() if section["sh_type"] not in ("SHT_NULL", "SHT_NOBITS") else b"",
        )
        for section in theirs.iter_sections()
    ]

    own = [(each.name, each.size, each.flags, each.link, each.data) for each in ours.sections]

    assert own == expected


def test_the_symbols_are_the_same(name: str, compiler: str) -> None:
    ours, theirs = both(name, compiler)
    special = {"SHN_UNDEF": 0, "SHN_ABS": 0xFFF1, "SHN_COMMON": 0xFFF2}
    kinds = ("STT_NOTYPE", "STT_OBJECT", "STT_FUNC", "STT_SECTION", "STT_FILE")
    bindings = ("STB_LOCAL", "STB_GLOBAL", "STB_WEAK")
    table = next(
        section for section in theirs.iter_sections() if isinstance(section, SymbolTableSection)
    )
    expected = [
        (
            # pyelftools names a section's symbol after the section.
            "" if symbol["st_info"]["type"] == "STT_SECTION" else symbol.name,
            symbol["st_value"],
            symbol["st_size"],
            kinds.index(symbol["st_info"]["type"]),
            bindings.index(symbol["st_info"]["bind"]),
            special.get(symbol["st_shndx"], symbol["st_shndx"]),
        )
        for symbol in table.iter_symbols()
    ]

    own = [
        (
            symbol.name,
            symbol.value,
            symbol.size,
            symbol.type,
            symbol.binding,
            symbol.section_index,
        )
        for symbol in ours.symbols
    ]

    assert own == expected


def test_the_relocations_are_the_same(name: str, compiler: str) -> None:
    ours, theirs = both(name, compiler)
    expected = sorted(
        (table["sh_info"], each["r_offset"], each["r_info_type"], each["r_info_sym"])
        for table in theirs.iter_sections()
        if isinstance(table, RelocationSection)
        for each in table.iter_relocations()
    )

    own = sorted(
        (section.index, each.offset, each.type, each.symbol.index)
        for section in ours.sections
        for each in ours.relocations(section)
    )

    assert own == expected
    assert own
