"""Which loader's structure a map definition is, by the names of BTF or by its contents."""

from __future__ import annotations

import struct

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import (
    Array,
    DataSection,
    Int,
    Linkage,
    Member,
    Pointer,
    SectionVariable,
    Struct,
    Var,
)
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import ObjectFileError
from bpfpin.insn import exit_, load_imm64, mov_imm
from bpfpin.objfile.elf.file import Elf
from bpfpin.objfile.reader import is_old, read_object, read_old_maps
from bpfpin.spec import Dialect, MapSpec, Pinning
from bpfpin.uapi import MapFlag, MapType
from support.elf_writer import ElfWriter

HASH, ARRAY, PROGRAMS, OUTER = (
    (MapType.HASH, 4, 8, 16, 0),
    (MapType.ARRAY, 4, 8, 16, 0),
    (MapType.PROG_ARRAY, 4, 4, 8, 0),
    (MapType.ARRAY_OF_MAPS, 4, 4, 8, 0),
)
COMMON = ("type", "key_size", "value_size", "max_entries", "map_flags")


def numbers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def read(
    *definitions: bytes, btf: Btf | None = None, code: str = "xdp", each_own: bool = False
) -> list[MapSpec]:
    """Read maps `m0`, `m1`, … of these bytes, in one section or each in its own."""
    writer = ElfWriter()
    section = None
    for index, data in enumerate(definitions):
        if section is None or each_own:
            section = writer.section(f"maps/m{index}" if each_own else "maps")
        writer.symbol(f"m{index}", section, value=len(section.data), size=len(data))
        section.data += data
    writer.function(code, "main", [mov_imm(0, 2), exit_()])
    elf = Elf.parse(writer.build())
    return read_old_maps(elf, [each for each in elf.sections if is_old(each)], btf)


def struct_of(members: tuple[str, ...], *, text: int = 0, wrappers: int = 0) -> Btf:
    """Return the BTF of variable `m0`, a structure of u32 (and text) in so many others."""
    btf = BtfBuilder()
    number = btf.add(Int("u32", 4, 32))
    fields = [Member(name, number, 32 * at) for at, name in enumerate(members)]
    size = 4 * len(members)
    if text:
        letters = btf.add(Array(btf.add(Int("char", 1, 8)), number, text))
        fields.append(Member("namespace", letters, 8 * size))
    kind = btf.add(Struct("a_map", size + text, tuple(fields)))
    for _ in range(wrappers):
        kind = btf.add(Struct("Wrapper", size + text, (Member("def", kind, 0),)))
    btf.add(Var("m0", kind))
    return Btf.parse(btf.build())


@pytest.mark.parametrize("each_own", [True, False], ids=["maps/NAME", "maps"])
@pytest.mark.parametrize(
    ("extra", "dialect", "pinning", "number"),
    [
        ((), Dialect.BPF_MAP_DEF, Pinning.NONE, 0),
        ((0, 0), Dialect.BPF_MAP_DEF, Pinning.NONE, 0),
        ((0, 1), Dialect.BPF_MAP_DEF, Pinning.BY_NAME, 0),  # aya: id, pinning
        ((1,), Dialect.BPF_MAP_DEF, Pinning.OBJECT_NAMESPACE, 0),  # gobpf: pinning
        ((2,), Dialect.BPF_MAP_DEF, Pinning.GLOBAL_NAMESPACE, 0),
        ((2, 0), Dialect.BPF_MAP_DEF, Pinning.GLOBAL_NAMESPACE, 0),  # AWS: pinning, inner_map_fd
        ((3,), Dialect.BPF_MAP_DEF, Pinning.UNKNOWN, 3),  # gobpf's PIN_CUSTOM_NS
        ((0, 2), Dialect.BPF_ELF_MAP, Pinning.GLOBAL_NAMESPACE, 0),  # iproute2: id, pinning
        ((0, 7), Dialect.BPF_ELF_MAP, Pinning.FILE, 7),
        ((9, 1), Dialect.BPF_ELF_MAP, Pinning.OBJECT_NAMESPACE, 0),
    ],
)
def test_without_btf_the_contents_tell_the_form(
    extra: tuple[int, ...], dialect: Dialect, pinning: Pinning, number: int, *, each_own: bool
) -> None:
    maps = read(numbers(*HASH, *extra), numbers(*ARRAY, *extra), each_own=each_own)

    assert [spec.type for spec in maps] == [MapType.HASH, MapType.ARRAY]
    for spec in maps:
        assert (spec.dialect, spec.pinning, spec.pinning_id) == (dialect, pinning, number)
        assert (spec.inner_index, spec.numa_node) == (
            0 if dialect is Dialect.BPF_ELF_MAP else -1,
            None,
        )


def test_what_is_guessed_from_the_contents_has_a_note() -> None:
    plain, guessed = (read(numbers(*HASH, *extra))[0] for extra in ((0, 0), (0, 1)))

    assert plain.note == ""
    assert "compile with -g" in guessed.note
    assert "id, pinning" in guessed.note


def test_numbers_that_all_differ_are_ids() -> None:
    maps = read(*(numbers(*HASH, number, 0) for number in (1, 2, 3)))

    assert [(spec.dialect, spec.id, spec.pinning) for spec in maps] == [
        (Dialect.BPF_ELF_MAP, number, Pinning.NONE) for number in (1, 2, 3)
    ]


def test_a_tail_call_section_makes_the_number_of_its_array_an_id() -> None:
    """Alone it would be a pinning."""
    (plain,) = read(numbers(*PROGRAMS, 2, 0))
    (called,) = read(numbers(*PROGRAMS, 2, 0), code="2/1")

    assert (plain.dialect, plain.pinning) == (Dialect.BPF_MAP_DEF, Pinning.GLOBAL_NAMESPACE)
    assert (called.dialect, called.id, called.pinning) == (Dialect.BPF_ELF_MAP, 2, Pinning.NONE)


def test_a_number_at_a_map_of_maps_is_the_index_of_its_inner_map() -> None:
    outer, inner = read(numbers(*OUTER, 1, 0), numbers(*HASH, 0, 0))

    assert (outer.dialect, outer.inner, outer.pinning) == (
        Dialect.BPF_MAP_DEF,
        inner,
        Pinning.NONE,
    )


def test_inner_maps_are_counted_over_all_sections() -> None:
    outer, _, inner = read(
        *(numbers(*words) for words in ((*OUTER, 2, 0), (*HASH, 0, 0), (*ARRAY, 0, 0))),
        each_own=True,
    )

    assert outer.inner == inner


def test_a_node_is_one_only_with_its_flag() -> None:
    flags = (*HASH[:4], MapFlag.NUMA_NODE)

    (with_flag,) = read(numbers(*flags, 0, 1))
    (without,) = read(numbers(*HASH, 0, 1))

    assert (with_flag.numa_node, with_flag.pinning) == (1, Pinning.NONE)
    assert (without.numa_node, without.pinning) == (None, Pinning.BY_NAME)


def test_sixteen_bytes_have_no_flags() -> None:
    maps = read(numbers(*HASH[:4]), numbers(*ARRAY[:4]))

    assert [(spec.max_entries, spec.map_flags) for spec in maps] == [(16, 0), (16, 0)]


@pytest.mark.parametrize("has_btf", [True, False])
def test_a_namespace_of_gobpf_is_text_and_has_a_note(has_btf: bool) -> None:
    data = numbers(*HASH, 2) + b"glob".ljust(256, b"\0")
    btf = struct_of((*COMMON, "pinning"), text=256) if has_btf else None

    (spec,) = read(data, btf=btf)

    assert (spec.dialect, spec.pinning) == (Dialect.BPF_MAP_DEF, Pinning.GLOBAL_NAMESPACE)
    assert "namespace 'glob'" in spec.note


def test_bytes_that_are_no_text_are_no_namespace() -> None:
    with pytest.raises(ObjectFileError, match="byte 24 of the definition of 280 bytes"):
        read(numbers(*HASH, 0) + b"\x02\x02".ljust(256, b"\0"))


def test_a_member_that_is_not_known_is_named() -> None:
    names = (*COMMON, "pinning", "inner_map_fd")

    (spec,) = read(numbers(*HASH, 2, 0), btf=struct_of(names))
    with pytest.raises(ObjectFileError, match="member 'inner_map_fd' is set"):
        read(numbers(*HASH, 2, 7), btf=struct_of(names))

    assert spec.pinning is Pinning.GLOBAL_NAMESPACE


@pytest.mark.parametrize("first", ["type", "type_", "map_type"])
@pytest.mark.parametrize("wrappers", [0, 1, 3])
def test_rust_wraps_the_structure_and_calls_the_type_otherwise(first: str, wrappers: int) -> None:
    names = (first, *COMMON[1:], "id", "pinning")

    (spec,) = read(numbers(*HASH, 7, 1), btf=struct_of(names, wrappers=wrappers))

    assert (spec.dialect, spec.id, spec.pinning) == (Dialect.BPF_MAP_DEF, 7, Pinning.BY_NAME)


def test_the_oldest_bpf_elf_map_is_told_by_its_names() -> None:
    """Before it had flags: type, sizes, entries, id, pinning."""
    names = ("type", "size_key", "size_value", "max_elem", "id", "pinning")

    (spec,) = read(numbers(*HASH[:4], 5, 2), btf=struct_of(names))

    assert (spec.dialect, spec.id, spec.pinning) == (
        Dialect.BPF_ELF_MAP,
        5,
        Pinning.GLOBAL_NAMESPACE,
    )


def test_two_sections_with_a_map_of_one_name_are_refused() -> None:
    writer = ElfWriter()
    for name in ("maps/one", "maps/two"):
        writer.symbol("m", writer.section(name, numbers(*HASH)), size=20)

    with pytest.raises(ObjectFileError, match="a second map of that name"):
        read_object(writer.build())


def test_programs_find_the_maps_of_each_section() -> None:
    writer = ElfWriter()
    symbols = [
        writer.symbol(name, writer.section(f"maps/{name}", numbers(*HASH)), size=20)
        for name in ("one", "two")
    ]
    program = writer.function("xdp", "main", [*load_imm64(1, 0), *load_imm64(2, 0), exit_()])
    writer.relocation(program, symbols[1], at=0)
    writer.relocation(program, symbols[0], at=2)

    spec = read_object(writer.build())

    targets = [reference.target for reference in spec.programs["main"].functions[0].references]
    assert targets == ["two", "one"]


@pytest.mark.parametrize("number", [1 << 30, (1 << 31) + 5, 0xFFFFFFFF])
def test_numbers_of_a_definition_may_be_larger_than_an_array_can_be(number: int) -> None:
    btf = BtfBuilder()
    u32 = btf.add(Int("u32", 4, 32))
    fields = {
        name: btf.add(Pointer(btf.add(Array(u32, u32, count))))
        for name, count in (
            ("type", 1),
            ("max_entries", number),
            ("key_size", 4),
            ("value_size", 4),
        )
    }
    members = tuple(Member(name, kind, 64 * at) for at, (name, kind) in enumerate(fields.items()))
    variable = btf.add(Var("m", btf.add(Struct("", 32, members)), Linkage.GLOBAL))
    btf.add(DataSection(".maps", 0, (SectionVariable(variable, 0, 32),)))
    writer = ElfWriter()
    writer.symbol("m", writer.section(".maps", bytes(32)), size=32)
    writer.section(".BTF", btf.build(), flags=0)

    spec = read_object(writer.build())

    assert spec.maps["m"].max_entries == number
