"""Global variables: one array map of one entry a section."""

from __future__ import annotations

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import DataSection, Int, Linkage, SectionVariable, Var
from bpfpin.btf.write import BtfBuilder
from bpfpin.codecs.variable import VariableSpec
from bpfpin.errors import ObjectFileError
from bpfpin.objfile.elf.file import Elf, SymbolBinding, SymbolType
from bpfpin.objfile.reader import reader_for
from bpfpin.spec import Dialect, MapSpec
from bpfpin.uapi import MapFlag, MapType
from support.elf_writer import ElfWriter


def read(writer: ElfWriter, *, btf: Btf | None = None) -> list[MapSpec]:
    """Read the first section of the object, which must be one of maps."""
    elf = Elf.parse(writer.build())
    reader = reader_for(elf.sections[1])
    assert reader is not None
    return reader(elf, elf.sections[1], btf)


def test_a_data_section_is_an_array_of_one_entry() -> None:
    writer = ElfWriter()
    writer.section(".data", b"\x07\0\0\0")

    assert read(writer) == [
        MapSpec(
            ".data",
            MapType.ARRAY,
            key_size=4,
            value_size=4,
            max_entries=1,
            map_flags=MapFlag.MMAPABLE,
            contents=b"\x07\0\0\0",
            dialect=Dialect.DATA,
            section=".data",
            section_index=1,
        )
    ]


@pytest.mark.parametrize("name", [".rodata", ".rodata.str1.1", ".rodata.cst32"])
def test_read_only_data_is_frozen_and_read_only_for_programs(name: str) -> None:
    writer = ElfWriter()
    writer.section(name, b"hello\0")

    (spec,) = read(writer)

    assert spec.name == name
    assert spec.is_frozen
    assert spec.map_flags == MapFlag.MMAPABLE | MapFlag.RDONLY_PROG


def test_uninitialised_data_starts_with_zeros() -> None:
    writer = ElfWriter()
    writer.bss(".bss.counters", 24)

    (spec,) = read(writer)

    assert (spec.value_size, spec.contents, spec.is_frozen) == (24, bytes(24), False)


def test_an_empty_section_is_no_map() -> None:
    writer = ElfWriter()
    writer.section(".data")

    assert read(writer) == []


def test_the_type_of_the_value_is_the_section_and_the_key_has_none() -> None:
    btf = BtfBuilder()
    section_id = btf.add(DataSection(".bss", 8, ()))
    writer = ElfWriter()
    writer.bss(".bss", 8)

    (spec,) = read(writer, btf=Btf.parse(btf.build()))

    assert spec.key is None
    assert spec.value is not None
    assert spec.value.id == section_id


def typed_section(*, offset: int) -> Btf:
    """Return the types of a `.bss` with one static `u32 seen` at byte *offset*."""
    types = BtfBuilder()
    u32 = types.add(Int("unsigned int", 4, 32))
    seen = types.add(Var("seen", u32, Linkage.STATIC))
    types.add(DataSection(".bss", 8, (SectionVariable(seen, offset, 4),)))
    return Btf.parse(types.build())


def test_variables_come_from_the_types() -> None:
    writer = ElfWriter()
    writer.bss(".bss", 8)

    (spec,) = read(writer, btf=typed_section(offset=4))

    (seen,) = spec.variables
    assert (seen.name, seen.section, seen.offset, seen.size) == ("seen", ".bss", 4, 4)
    assert seen.type_name == "u32"


def test_a_variable_beyond_its_section_is_refused() -> None:
    writer = ElfWriter()
    writer.bss(".bss", 8)

    with pytest.raises(ObjectFileError, match="ends at byte 9, its section at 8") as error:
        read(writer, btf=typed_section(offset=5))
    assert (error.value.section, error.value.symbol) == (".bss", "seen")


def test_without_types_variables_come_from_the_symbols() -> None:
    """Labels and the names of sections are no variables."""
    writer = ElfWriter()
    data = writer.section(".data", bytes(8))
    writer.symbol("seen", data, value=4, size=4, type=SymbolType.OBJECT)
    writer.symbol("lost", data, size=4, type=SymbolType.OBJECT, binding=SymbolBinding.LOCAL)
    writer.symbol("label", data, value=4)

    (spec,) = read(writer)

    assert set(spec.variables) == {
        VariableSpec("seen", ".data", 4, 4),
        VariableSpec("lost", ".data", 0, 4),
    }
