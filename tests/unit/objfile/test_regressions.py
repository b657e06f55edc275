"""Files that once took a minute, all of the memory, or an exception that is not ours.

Each is small or grows with what it repeats; each is read or refused within a second.
"""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import pytest

from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import ObjectFileError, ObjectLimitError
from bpfpin.insn import CALL, Instruction, encode, exit_, load_imm64, mov_imm
from bpfpin.objfile.elf.file import SHF_COMPRESSED, SectionType, SymbolBinding, SymbolType
from bpfpin.objfile.reader import read_object
from support.bombs import at_once, with_types
from support.elf_writer import SECTION_FIELDS, ElfWriter, NewSection, change_header

EXECUTED = 6  # SHF_ALLOC and SHF_EXECINSTR
NOP = mov_imm(0, 0).encode()
SYMBOL = struct.Struct("<IBBHQQ")


def raw_object(*sections: NewSection) -> bytes:
    """Return a file of just these sections after the empty one, names included; for many entries.

    The symbol table and the names are whatever section says so; nothing is counted or sorted.
    """
    headers, at = [bytes(64)], 64
    for section in sections:
        place = struct.pack("<QQQ", 0, at, section.size or len(section.data))
        headers.append(struct.pack("<IIQ", int(section.name), section.type, section.flags) + place)
        numbers = (section.link, section.info, 8, section.entry_size)
        headers.append(struct.pack("<IIQQ", *numbers))
        at += len(section.data)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    count = len(sections) + 1
    fields = (1, 247, 1, 0, 0, at, 0, 64, 0, 0, 64, count, count - 1)
    head = ident + struct.pack("<HHIQQQIHHHHHH", *fields)
    return b"".join([head, *(section.data for section in sections), *headers])


def symbols(*entries: tuple[int, int, int, int, int]) -> bytes:
    """Return a symbol table: name, info, section, value, size of each."""
    packed = [SYMBOL.pack(name, info, 0, *place) for name, info, *place in entries]
    return bytes(SYMBOL.size) + b"".join(packed)


def table_of(data: bytes, *, names_in: int) -> NewSection:
    return NewSection("0", data, SectionType.SYMTAB, 0, link=names_in, entry_size=24)


def call(here: int, there: int) -> Instruction:
    """Return the call from slot *here* of function in slot *there* of the same section."""
    return Instruction(CALL, src=1, imm=there - here - 1)


def sharing_programs(shared: list[Instruction], *, sizes: list[int], programs: int) -> bytes:
    """Return *programs* that all call the first of the static functions that *shared* consists of.

    *sizes* are the slots of each static function.
    """
    elf = ElfWriter()
    section = elf.section("xdp", flags=EXECUTED)
    at = 0
    for number, size in enumerate(sizes):
        local, kind = SymbolBinding.LOCAL, SymbolType.FUNCTION
        elf.symbol(f"f{number}", section, value=8 * at, size=8 * size, type=kind, binding=local)
        at += size
    code = list(shared)
    for number in range(programs):
        elf.symbol(f"p{number}", section, value=8 * at, size=16, type=SymbolType.FUNCTION)
        code += [call(at, 0), exit_()]
        at += 2
    section.data = encode(code)
    return elf.build()


def test_functions_that_all_call_each_other_under_many_programs_are_refused() -> None:
    count = 200
    size = count + 1
    starts = range(0, count * size, size)
    code: list[Instruction] = []
    for start in starts:
        code += [call(start + at, there) for at, there in enumerate(starts)] + [exit_()]
    data = sharing_programs(code, sizes=[size] * count, programs=500)

    with at_once(), pytest.raises(ObjectLimitError, match="instructions in all programs"):
        read_object(data)


def test_one_huge_function_under_many_programs_is_refused() -> None:
    code = [*[call(at, 0) for at in range(50_000)], exit_()]
    data = sharing_programs(code, sizes=[len(code)], programs=500)

    with at_once(), pytest.raises(ObjectLimitError, match="instructions in all programs"):
        read_object(data)


def test_a_call_cycle_ends() -> None:
    code = [call(0, 2), exit_(), call(2, 0), exit_()]
    data = sharing_programs(code, sizes=[2, 2], programs=1)

    assert [each.name for each in read_object(data).programs["p0"].functions] == ["p0", "f0", "f1"]


def test_more_code_than_anybody_writes_is_refused_before_it_is_decoded() -> None:
    elf = ElfWriter()
    section = elf.section("xdp", NOP * (1 << 20), flags=EXECUTED)
    elf.symbol("main", section, size=8 << 20, type=SymbolType.FUNCTION)

    with at_once(0.2), pytest.raises(ObjectLimitError, match="1048576 instructions; at most"):
        read_object(elf.build())


def test_a_file_larger_than_the_limit_is_refused() -> None:
    with pytest.raises(ObjectLimitError, match="33554433 bytes; at most") as caught:
        read_object(b"\x7fELF" + bytes((32 << 20) - 3))

    assert (caught.value.limit, caught.value.asked) == (32 << 20, (32 << 20) + 1)


def test_of_a_file_that_is_not_read_to_its_end_no_size_is_told() -> None:
    message = "^/dev/zero: it has more than 33554432 bytes; at most that many are read$"
    with pytest.raises(ObjectLimitError, match=message) as caught:
        read_object("/dev/zero")

    assert caught.value.limit == 32 << 20


def test_many_empty_tables_of_relocations_are_read_once() -> None:
    """Each of many references asked for all relocations of the data that it refers to."""
    loads = 20_000
    code = encode(load_imm64(1, 0)) * loads
    names = b"\0xdp\0main\0.bss\0"
    listed = symbols((5, 0x12, 1, 0, len(code)), (0, 3, 2, 0, 0))
    relocations = b"".join(struct.pack("<QII", 16 * at, 1, 2) for at in range(loads))
    empty = NewSection("0", b"", SectionType.REL, 0, link=4, info=2, entry_size=16)
    data = raw_object(
        NewSection("1", code, SectionType.PROGBITS, EXECUTED),
        NewSection("10", b"", SectionType.NOBITS, 3, size=16),
        NewSection("0", relocations, SectionType.REL, 0, link=4, info=1, entry_size=16),
        table_of(listed, names_in=30_005),
        *[empty] * 30_000,
        NewSection("0", names, SectionType.STRTAB, 0),
    )
    with at_once():
        (function,) = read_object(data).programs["main"].functions

    assert len(function.references) == loads


def test_more_relocations_than_anybody_writes_are_refused() -> None:
    names = b"\0xdp\0main\0"
    relocations = struct.pack("<QII", 0, 1, 1) * 300_000
    data = raw_object(
        NewSection("1", NOP, SectionType.PROGBITS, EXECUTED),
        NewSection("0", relocations, SectionType.REL, 0, link=3, info=1, entry_size=16),
        table_of(symbols((5, 0x12, 1, 0, 8)), names_in=4),
        NewSection("0", names, SectionType.STRTAB, 0),
    )
    with at_once(), pytest.raises(ObjectLimitError, match="300000 relocations; at most 262144"):
        read_object(data)


def test_symbols_that_share_the_tails_of_long_names_are_refused() -> None:
    names = b"\0" + (b"n" * 1023 + b"\0") * 50
    offsets = [1 + 1024 * name + tail for name in range(50) for tail in range(1000)]
    data = raw_object(
        table_of(symbols(*((at, 0x10, 0, 0, 0) for at in offsets)), names_in=2),
        NewSection("0", names, SectionType.STRTAB, 0),
    )
    with at_once(), pytest.raises(ObjectLimitError, match="bytes of symbol names"):
        read_object(data)


def test_static_functions_of_one_name_in_a_section_with_a_long_one_are_refused() -> None:
    """Each would be called after the section, 1,000 bytes."""
    count = 20_000
    data = raw_object(
        NewSection("1", NOP * count, SectionType.PROGBITS, EXECUTED),
        table_of(symbols(*((1002, 2, 1, 8 * at, 8) for at in range(count))), names_in=3),
        NewSection("0", b"\0" + b"s" * 1000 + b"\0f\0", SectionType.STRTAB, 0),
    )
    with at_once(), pytest.raises(ObjectLimitError, match="20000 functions; at most 16384"):
        read_object(data)


def test_variables_that_all_lie_over_all_of_a_section_are_refused() -> None:
    """Each had a copy of its bytes: 1 TiB of 2 MiB of file."""
    elf = ElfWriter()
    bss = elf.bss(".bss", 32 << 20)
    for number in range(100):
        elf.symbol(f"v{number}", bss, size=32 << 20)

    with at_once(), pytest.raises(ObjectFileError, match="the variables overlap too much"):
        read_object(elf.build())


def test_an_alias_of_a_variable_is_a_variable_too() -> None:
    elf = ElfWriter()
    data = elf.section(".data", bytes(8))
    for name in ("total", "also_total"):
        elf.symbol(name, data, size=8)

    assert sorted(read_object(elf.build()).variables) == ["also_total", "total"]


@pytest.mark.parametrize(("part", "count"), [(1, 300_000), (2, 40_000)], ids=["lines", "CO-RE"])
def test_more_records_than_anybody_writes_are_refused(part: int, count: int) -> None:
    records = struct.pack("<3I", 16, 1, count) + struct.pack("<4I", 0, 1, 1, 0) * count
    sizes = [len(records) if number == part else 0 for number in range(3)]
    places = [word for size in sizes for word in (0, size)]
    header = struct.pack("<HBBI6I", 0xEB9F, 1, 0, 32, *places)
    types = BtfBuilder(strings=b"\0xdp\0").build()

    with at_once(0.2), pytest.raises(ObjectLimitError, match=f"room for {count} records"):
        read_object(with_types(types, header + records))


@pytest.mark.parametrize("name", [".text", ".data", ".BTF", ".maps", ".strtab"])
def test_a_bomb_of_compressed_zeros_is_refused_unopened(name: str) -> None:
    """1 MB that would be 1 GB."""
    elf = ElfWriter()
    packed = struct.pack("<IIQQ", 1, 0, 1 << 30, 1) + zlib.compress(bytes(1 << 20), 9) * 1000
    elf.section(name, packed, flags=2 | SHF_COMPRESSED)
    data = elf.build()
    tracemalloc.start()
    try:
        with at_once(0.1), pytest.raises(ObjectFileError, match="the section is compressed"):
            read_object(data)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_names_without_an_end_are_refused() -> None:
    elf = ElfWriter()
    elf.symbol("name", elf.section(".data", bytes(8)), size=8)
    data = elf.build()
    last = len(elf.sections) + 2  # the names stand behind the symbol table
    (size,) = struct.unpack_from("<Q", data, len(data) - 64 + 32)
    cut = change_header(data, SECTION_FIELDS["size"], size - 1, section=last)

    with pytest.raises(ObjectFileError, match="no name ends within the section names"):
        read_object(cut)
