"""`struct bpf_map_def`: twenty bytes or more in section `maps`."""

from __future__ import annotations

import struct

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Int, Member, Struct, Var
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import ObjectFileError
from bpfpin.objfile.elf.file import Elf, SymbolBinding, SymbolType
from bpfpin.objfile.reader import is_old, read_old_maps
from bpfpin.spec import Dialect, MapSpec
from bpfpin.uapi import MapFlag, MapType
from support.elf_writer import ElfWriter

COUNTERS = (MapType.PERCPU_ARRAY, 4, 16, 5, 0)
SESSIONS = (MapType.HASH, 8, 32, 1024, MapFlag.NO_PREALLOC)


def definition(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def read(maps: dict[str, bytes], *, btf: Btf | None = None, sized: bool = True) -> list[MapSpec]:
    """Read a section of these definitions, one after the other."""
    elf = ElfWriter()
    section = elf.section("maps", b"".join(maps.values()))
    offset = 0
    for name, data in maps.items():
        elf.symbol(name, section, value=offset, size=len(data) if sized else 0)
        offset += len(data)
    return read_section(elf, btf=btf)


def read_section(elf: ElfWriter, *, btf: Btf | None = None) -> list[MapSpec]:
    parsed = Elf.parse(elf.build(), path="old.o")
    return read_old_maps(parsed, [section for section in parsed.sections if is_old(section)], btf)


def test_the_five_numbers_are_type_sizes_entries_and_flags() -> None:
    (spec,) = read({"sessions": definition(*SESSIONS)})

    assert spec == MapSpec(
        "sessions",
        MapType.HASH,
        key_size=8,
        value_size=32,
        max_entries=1024,
        map_flags=MapFlag.NO_PREALLOC,
        dialect=Dialect.BPF_MAP_DEF,
        section="maps",
        section_index=1,
    )


@pytest.mark.parametrize("sized", [True, False])
def test_several_maps_come_by_offset_with_or_without_symbol_sizes(sized: bool) -> None:
    maps = read({"b": definition(*COUNTERS), "a": definition(*SESSIONS)}, sized=sized)

    assert [(spec.name, spec.type, spec.offset) for spec in maps] == [
        ("b", MapType.PERCPU_ARRAY, 0),
        ("a", MapType.HASH, 20),
    ]


def test_the_order_of_symbols_does_not_matter() -> None:
    elf = ElfWriter()
    section = elf.section("maps", definition(*COUNTERS) + definition(*SESSIONS))
    elf.symbol("second", section, value=20, size=20)
    elf.symbol("first", section, value=0, size=20)

    assert [spec.name for spec in read_section(elf)] == ["first", "second"]


def test_a_definition_of_28_bytes_names_inner_map_and_numa_node() -> None:
    outer = definition(MapType.ARRAY_OF_MAPS, 4, 4, 8, MapFlag.NUMA_NODE, 1, 3)
    inner = definition(*COUNTERS, 0, 0)

    maps = read({"outer": outer, "inner": inner})

    assert maps[0].inner == maps[1]
    assert (maps[0].inner_index, maps[0].numa_node) == (1, 3)
    assert (maps[1].inner, maps[1].inner_index, maps[1].numa_node) == (None, -1, None)


def test_a_map_of_maps_that_names_itself_names_no_inner_map() -> None:
    """The member was left at zero, and the first map is the map of maps."""
    (spec,) = read({"outer": definition(MapType.HASH_OF_MAPS, 4, 4, 8, 0, 0, 0)})

    assert (spec.inner, spec.inner_index) == (None, -1)


@pytest.mark.parametrize("index", [2, 7])
def test_an_inner_map_that_is_none_or_of_maps_is_refused(index: int) -> None:
    outer = definition(MapType.ARRAY_OF_MAPS, 4, 4, 8, 0, index, 0)
    plain = definition(*COUNTERS, 0, 0)
    other = definition(MapType.ARRAY_OF_MAPS, 4, 4, 8, 0, 1, 0)

    with pytest.raises(ObjectFileError, match=f"index {index}") as caught:
        read({"outer": outer, "plain": plain, "other": other})

    assert caught.value.symbol == "outer"


def test_longer_definitions_are_read_if_the_rest_is_zero() -> None:
    (spec,) = read({"m": definition(*COUNTERS, 0, 0, 0, 0, 0)})

    assert spec.max_entries == 5


def test_a_set_byte_that_is_not_known_is_refused_with_its_place() -> None:
    maps = {"first": definition(*COUNTERS, 0, 0, 0), "m": definition(*COUNTERS, 0, 0, 9)}

    with pytest.raises(ObjectFileError, match="byte 28 of the definition of 32 bytes") as caught:
        read(maps)

    assert (caught.value.path, caught.value.section) == ("old.o", "maps")
    assert (caught.value.symbol, caught.value.offset) == ("m", 60)


@pytest.mark.parametrize("size", [1, 12, 19, 22])
def test_an_odd_size_is_refused_with_symbol_and_offset(size: int) -> None:
    with pytest.raises(ObjectFileError, match=f"definition of {size} bytes") as caught:
        read({"good": definition(*COUNTERS), "odd": definition(*COUNTERS, 0)[:size]})

    assert (caught.value.symbol, caught.value.offset) == ("odd", 20)


def test_a_static_map_is_refused_by_name() -> None:
    elf = ElfWriter()
    section = elf.section("maps", definition(*COUNTERS))
    elf.symbol("hidden", section, size=20, binding=SymbolBinding.LOCAL)

    with pytest.raises(ObjectFileError, match="static") as caught:
        read_section(elf)

    assert caught.value.symbol == "hidden"
    assert "hidden" in caught.value.hint


def test_labels_of_the_assembler_are_no_maps() -> None:
    elf = ElfWriter()
    section = elf.section("maps", definition(*COUNTERS))
    elf.symbol("m", section, size=20)
    elf.symbol("L1", section, type=SymbolType.NOTYPE, binding=SymbolBinding.LOCAL)

    assert [spec.name for spec in read_section(elf)] == ["m"]


def test_definitions_that_overlap_are_refused() -> None:
    elf = ElfWriter()
    section = elf.section("maps", definition(*COUNTERS, *COUNTERS))
    elf.symbol("one", section, size=24)
    elf.symbol("two", section, value=20, size=20)

    with pytest.raises(ObjectFileError, match="overlap"):
        read_section(elf)


def test_bytes_that_no_symbol_covers_must_be_padding() -> None:
    elf = ElfWriter()
    section = elf.section("maps", definition(*COUNTERS) + bytes(4) + definition(*SESSIONS))
    elf.symbol("m", section, size=20)

    with pytest.raises(ObjectFileError, match="24 bytes belong to no map") as caught:
        read_section(elf)

    assert caught.value.offset == 20


@pytest.mark.parametrize("number", [0, 99, 0xFFFFFFFF])
def test_a_type_that_does_not_exist_is_refused(number: int) -> None:
    with pytest.raises(ObjectFileError, match="type") as caught:
        read({"m": definition(number, 4, 4, 1, 0)})

    assert caught.value.symbol == "m"


def test_a_section_without_bytes_of_the_file_is_all_zero() -> None:
    elf = ElfWriter()
    elf.symbol("m", elf.bss("maps", 20), size=20)

    with pytest.raises(ObjectFileError, match="no type"):
        read_section(elf)


def test_an_empty_section_has_no_maps() -> None:
    assert read({}) == []


def test_members_are_found_by_the_names_that_btf_has() -> None:
    """Here `map_flags` comes before the sizes, and a member that is not known follows."""
    names = ["type", "map_flags", "key_size", "value_size", "max_entries", "owner"]
    data = definition(MapType.HASH, MapFlag.NO_PREALLOC, 4, 8, 16, 0)

    (spec,) = read({"m": data}, btf=btf_of_struct("m", names))

    assert (spec.map_flags, spec.key_size, spec.value_size, spec.max_entries) == (1, 4, 8, 16)


def test_members_that_btf_puts_beyond_the_end_are_read_by_their_order() -> None:
    names = ["a", "b", "type", "key_size", "value_size", "max_entries", "map_flags"]

    (spec,) = read({"m": definition(*SESSIONS)}, btf=btf_of_struct("m", names))

    assert (spec.type, spec.max_entries) == (MapType.HASH, 1024)


def test_annotated_maps_have_types() -> None:
    (spec,) = read({"m": definition(MapType.HASH, 4, 8, 1, 0)}, btf=annotation(value_size=8))

    assert spec.key is not None
    assert spec.value is not None
    assert (spec.key.name, spec.value.name) == ("u32", "value_t")


def test_an_annotation_of_another_size_is_left_out() -> None:
    (spec,) = read({"m": definition(MapType.HASH, 4, 16, 1, 0)}, btf=annotation(value_size=8))

    assert (spec.key, spec.value) == (None, None)


def btf_of_struct(name: str, members: list[str]) -> Btf:
    """Return the BTF of one variable, a structure of u32."""
    btf = BtfBuilder()
    number = btf.add(Int("u32", 4, 32))
    fields = tuple(Member(field, number, 32 * at) for at, field in enumerate(members))
    btf.add(Var(name, btf.add(Struct("a_map", 4 * len(members), fields))))
    return Btf.parse(btf.build())


def annotation(*, value_size: int) -> Btf:
    """Return the BTF that BPF_ANNOTATE_KV_PAIR(m, u32, value_t) leaves."""
    btf = BtfBuilder()
    key = btf.add(Int("u32", 4, 32))
    value = btf.add(Int("value_t", value_size, 8 * value_size))
    pair = (Member("key", key, 0), Member("value", value, 64))
    btf.add(Struct("____btf_map_m", 8 + value_size, pair))
    return Btf.parse(btf.build())
