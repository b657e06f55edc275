"""Tables of functions for the kernel: one map a variable, functions by name."""

from __future__ import annotations

import pytest

from bpfpin import insn
from bpfpin.btf.btf import Btf
from bpfpin.btf.types import DataSection, Linkage, Member, Pointer, SectionVariable, Struct, Var
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import ObjectFileError
from bpfpin.objfile.elf.file import Elf
from bpfpin.objfile.reader import reader_for
from bpfpin.spec import Dialect, MapSpec
from bpfpin.uapi import MapFlag, MapType
from support.btf_tables import U32
from support.elf_writer import R_BPF_64_ABS64, ElfWriter, NewSection, NewSymbol

CODE = [insn.mov_imm(0, 0), insn.exit_()]


def types(section: str) -> Btf:
    """Return BTF of `struct table { void *call; unsigned int flags; } first` in *section*."""
    builder = BtfBuilder()
    number, pointer = builder.add(U32), builder.add(Pointer(0))
    members = (Member("call", pointer, 0), Member("flags", number, 64))
    table = builder.add(Struct("table", 16, members))
    first = builder.add(Var("first", table, Linkage.GLOBAL))
    builder.add(DataSection(section, 16, (SectionVariable(first, 0, 16),)))
    return Btf.parse(builder.build())


def written(section: str = ".struct_ops") -> tuple[ElfWriter, NewSection, NewSymbol]:
    """Return an object with the table `first`, its section, and a function for it."""
    writer = ElfWriter()
    place = writer.section(section, bytes(8) + b"\x09\0\0\0" + bytes(4))
    writer.symbol("first", place, size=16)
    return writer, place, writer.function("struct_ops/answer", "answer", CODE)


def read(writer: ElfWriter, btf: Btf | None) -> list[MapSpec]:
    """Read the first section of the object, which must be one of maps."""
    elf = Elf.parse(writer.build())
    reader = reader_for(elf.sections[1])
    assert reader is not None
    return reader(elf, elf.sections[1], btf)


def test_a_table_is_a_map_of_one_entry() -> None:
    writer, place, answer = written()
    writer.relocation(place, answer, at=0, type=R_BPF_64_ABS64)
    btf = types(".struct_ops")
    (table,) = read(writer, btf)

    assert table == MapSpec(
        "first",
        MapType.STRUCT_OPS,
        key_size=4,
        value_size=16,
        max_entries=1,
        value=table.value,
        initial=((0, "answer"),),
        contents=bytes(8) + b"\x09\0\0\0" + bytes(4),
        dialect=Dialect.STRUCT_OPS,
        section=".struct_ops",
        section_index=1,
    )
    assert table.value is not None
    assert table.value.name == "table"


def test_a_section_of_links_makes_maps_for_links() -> None:
    writer, _, _ = written(".struct_ops.link")
    (table,) = read(writer, types(".struct_ops.link"))

    assert table.map_flags == MapFlag.LINK


def test_a_question_mark_makes_a_table_optional() -> None:
    writer, _, _ = written("?.struct_ops.link")
    (table,) = read(writer, types("?.struct_ops.link"))

    assert table.is_optional


def test_a_static_function_is_found_by_its_section_and_place() -> None:
    """Compilers refer so to what is static; the place stands in the table."""
    writer, place, answer = written()
    writer.function("struct_ops/answer", "second", CODE)
    assert answer.section is not None
    place.data = (16).to_bytes(8, "little") + bytes(8)
    section = writer.section_symbol(answer.section)
    writer.relocation(place, section, at=0, type=R_BPF_64_ABS64)
    (table,) = read(writer, types(".struct_ops"))

    assert table.initial == ((0, "second"),)


def test_a_member_that_points_to_data_is_refused() -> None:
    writer, place, _ = written()
    data = writer.symbol("number", writer.section(".data", bytes(8)), size=8)
    writer.relocation(place, data, at=0, type=R_BPF_64_ABS64)
    with pytest.raises(ObjectFileError, match="an address that is not a program"):
        read(writer, types(".struct_ops"))


def test_a_table_without_types_is_refused() -> None:
    with pytest.raises(ObjectFileError, match="struct_ops need BTF"):
        read(written()[0], None)


def test_a_variable_that_the_types_do_not_have_is_refused() -> None:
    with pytest.raises(ObjectFileError, match="its type in the BTF is not a structure"):
        read(written()[0], types(".another"))


def test_a_structure_longer_than_its_section_is_refused() -> None:
    writer = ElfWriter()
    place = writer.section(".struct_ops", bytes(8))
    writer.symbol("first", place, size=8)
    with pytest.raises(ObjectFileError, match="longer than its section"):
        read(writer, types(".struct_ops"))
