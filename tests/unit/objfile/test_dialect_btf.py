"""`.maps`: maps defined by the types of their variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

import bpfpin
from bpfpin.btf.btf import Btf
from bpfpin.btf.types import (
    Array,
    DataSection,
    Enum,
    Enumerator,
    Forward,
    FunctionPrototype,
    Int,
    Linkage,
    Member,
    Modifier,
    ModifierKind,
    Pointer,
    SectionVariable,
    Struct,
    Var,
)
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import ObjectFileError
from bpfpin.insn import exit_, mov_imm
from bpfpin.objfile.dialects.btf_defined import read_maps
from bpfpin.objfile.elf.file import Elf, SymbolBinding, SymbolType
from bpfpin.spec import MapSpec, Pinning
from bpfpin.uapi import MapFlag, MapType
from support.elf_writer import R_BPF_64_64, ElfWriter, NewSection, NewSymbol

SLOTS = 8  # initialised elements that each variable has room for


@dataclass
class Maps:
    """A `.maps` section in the making: types, variables and what they are initialised with."""

    btf: BtfBuilder = field(default_factory=BtfBuilder)
    elf: ElfWriter = field(default_factory=ElfWriter)
    section: NewSection = field(init=False)
    variables: list[SectionVariable] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.section = self.elf.section(".maps")
        self.u32 = self.btf.add(Int("u32", 4, 32))
        self.u64 = self.btf.add(Int("u64", 8, 64))

    def uint(self, number: int) -> int:
        """Return the type of `__uint(…, number)`."""
        return self.pointer(self.btf.add(Array(self.u32, self.u32, number)))

    def ulong(self, number: int, *, is_wide: bool = False) -> int:
        """Return the type of `__ulong(…, number)`."""
        value = (Enumerator("__unique_value0", number),)
        size = 8 if is_wide else 4
        return self.btf.add(Enum("", size, is_signed=False, values=value, is_wide=is_wide))

    def pointer(self, type_id: int) -> int:
        """Return the type of `__type(…, …)`."""
        return self.btf.add(Pointer(type_id))

    def values(self, type_id: int) -> int:
        """Return the type of `__array(values, …)`."""
        return self.btf.add(Array(self.pointer(type_id), self.u32, 0))

    def struct(self, **members: int) -> int:
        """Return the type of a definition with these members, eight bytes each."""
        fields = [Member(name, kind, 64 * at) for at, (name, kind) in enumerate(members.items())]
        return self.btf.add(Struct("", 8 * len(fields), tuple(fields)))

    def array_map(self, **members: int) -> int:
        """Return the type of an array of five u64, and what *members* say."""
        usual = {"type": self.uint(MapType.ARRAY), "max_entries": self.uint(5)}
        types = {"key": self.pointer(self.u32), "value": self.pointer(self.u64)}
        return self.struct(**usual, **types, **members)

    def map(self, name: str, type_id: int, *, binding: int = SymbolBinding.GLOBAL) -> NewSymbol:
        """Add a variable of that type."""
        offset, size = len(self.section.data), 64 + 8 * SLOTS
        self.section.data += bytes(size)
        linkage = Linkage.STATIC if binding == SymbolBinding.LOCAL else Linkage.GLOBAL
        variable = self.btf.add(Var(name, type_id, linkage))
        self.variables.append(SectionVariable(variable, 0, size))
        return self.elf.symbol(name, self.section, value=offset, size=size, binding=binding)

    def fill(self, symbol: NewSymbol, at: int, target: NewSymbol) -> None:
        """Initialise byte *at* of a variable with the address of *target*."""
        place = symbol.value + at
        self.elf.relocation(self.section, target, at=place, type=R_BPF_64_64)

    def read(self) -> list[MapSpec]:
        """Read what was made."""
        self.btf.add(DataSection(".maps", 0, tuple(self.variables)))
        elf = Elf.parse(self.elf.build(), path="new.o")
        section = elf.section(".maps")
        assert section is not None
        return read_maps(elf, section, Btf.parse(self.btf.build()))


def test_numbers_are_array_lengths_and_types_are_pointers() -> None:
    maps = Maps()
    flags = maps.uint(MapFlag.NO_PREALLOC)
    maps.map("m", maps.array_map(map_flags=flags, numa_node=maps.uint(1)))

    (spec,) = maps.read()

    assert (spec.name, spec.type, spec.max_entries) == ("m", MapType.ARRAY, 5)
    assert (spec.key_size, spec.value_size) == (4, 8)
    assert (spec.map_flags, spec.numa_node, spec.pinning) == (1, 1, Pinning.NONE)
    assert spec.key is not None
    assert spec.value is not None
    assert (spec.key.name, spec.value.name) == ("u32", "u64")


def test_sizes_may_be_given_as_numbers() -> None:
    maps = Maps()
    sizes = {"key_size": maps.uint(12), "value_size": maps.uint(300)}
    maps.map("m", maps.struct(type=maps.uint(MapType.HASH), **sizes))

    (spec,) = maps.read()

    assert (spec.key_size, spec.value_size, spec.key, spec.value) == (12, 300, None, None)


def test_what_is_not_given_is_zero() -> None:
    """The kernel knows which types need sizes and entries: a ring buffer has neither."""
    maps = Maps()
    maps.map("events", maps.struct(type=maps.uint(MapType.RINGBUF), max_entries=maps.uint(4096)))

    (spec,) = maps.read()

    assert (spec.key_size, spec.value_size, spec.max_entries, spec.numa_node) == (0, 0, 4096, None)


@pytest.mark.parametrize("is_wide", [False, True])
def test_a_long_number_is_an_enumeration_of_one_value(is_wide: bool) -> None:
    maps = Maps()
    number = 1 << 40 if is_wide else 5
    maps.map("m", maps.array_map(map_extra=maps.ulong(number, is_wide=is_wide)))

    assert maps.read()[0].map_extra == number


def test_pinning_by_name() -> None:
    maps = Maps()
    maps.map("m", maps.array_map(pinning=maps.uint(1)))

    assert maps.read()[0].pinning == Pinning.BY_NAME


def test_maps_come_by_offset_and_typedefs_are_seen_through() -> None:
    maps = Maps()
    array = maps.array_map()
    maps.map("z", maps.btf.add(Modifier(ModifierKind.TYPEDEF, "array_t", array)))
    maps.map("a", maps.btf.add(Modifier(ModifierKind.CONST, "", array)))

    assert [(spec.name, spec.offset, spec.max_entries) for spec in maps.read()] == [
        ("z", 0, 5),
        ("a", 128, 5),
    ]


def test_values_describe_the_inner_map_and_are_initialised_with_maps() -> None:
    maps = Maps()
    inner = maps.array_map()
    outer = maps.struct(
        type=maps.uint(MapType.ARRAY_OF_MAPS), max_entries=maps.uint(4), values=maps.values(inner)
    )
    symbol = maps.map("outer", outer)
    maps.fill(symbol, 16 + 3 * 8, maps.map("blue", inner))
    maps.fill(symbol, 16 + 1 * 8, maps.map("red", inner))

    spec = maps.read()[0]

    assert spec.value_size == 4
    assert spec.initial == ((1, "red"), (3, "blue"))
    assert spec.inner is not None
    assert (spec.inner.name, spec.inner.type) == ("outer.inner", MapType.ARRAY)
    assert (spec.inner.key_size, spec.inner.value_size, spec.inner.max_entries) == (4, 8, 5)


def program_array(maps: Maps) -> NewSymbol:
    function = maps.btf.add(FunctionPrototype(maps.u32, ()))
    members = {"type": maps.uint(MapType.PROG_ARRAY), "max_entries": maps.uint(2)}
    key = maps.uint(4)
    return maps.map("jump", maps.struct(**members, key_size=key, values=maps.values(function)))


def test_a_program_array_is_initialised_with_programs() -> None:
    maps = Maps()
    tail = maps.elf.function("xdp", "tail", [mov_imm(0, 2), exit_()])
    maps.fill(program_array(maps), 24 + 8, tail)

    (spec,) = maps.read()

    assert (spec.initial, spec.inner, spec.value_size) == (((1, "tail"),), None, 4)


def test_a_static_program_in_an_array_is_refused() -> None:
    maps = Maps()
    tail = maps.elf.function("xdp", "tail", [exit_()], binding=SymbolBinding.LOCAL)
    assert tail.section is not None
    maps.fill(program_array(maps), 24, maps.elf.section_symbol(tail.section))

    with pytest.raises(ObjectFileError, match="a static symbol"):
        maps.read()


@pytest.mark.parametrize(
    ("at", "message"), [(24 + 16, "entry 2"), (16, "not an element"), (27, "not an element")]
)
def test_what_is_initialised_must_be_an_element_of_the_values(at: int, message: str) -> None:
    maps = Maps()
    tail = maps.elf.function("xdp", "tail", [exit_()])
    maps.fill(program_array(maps), at, tail)

    with pytest.raises(ObjectFileError, match=message) as caught:
        maps.read()

    assert caught.value.symbol == "jump"


def test_a_program_is_no_entry_of_a_map_of_maps_nor_a_map_of_a_program_array() -> None:
    maps = Maps()
    maps.fill(program_array(maps), 24, maps.map("m", maps.array_map()))

    with pytest.raises(ObjectFileError, match="'m', which is not a program"):
        maps.read()


def test_a_map_without_values_cannot_be_initialised() -> None:
    maps = Maps()
    symbol = maps.map("m", maps.array_map())
    maps.fill(symbol, 0, maps.elf.symbol("elsewhere", type=SymbolType.NOTYPE))

    with pytest.raises(ObjectFileError, match="no `values`"):
        maps.read()


def test_an_unknown_member_is_refused_by_name() -> None:
    maps = Maps()
    maps.map("m", maps.array_map(colour=maps.uint(3)))

    with pytest.raises(ObjectFileError, match="'colour'") as caught:
        maps.read()

    assert (caught.value.path, caught.value.section, caught.value.symbol) == (
        "new.o",
        ".maps",
        "m",
    )


def test_a_static_map_is_refused_by_name() -> None:
    maps = Maps()
    maps.map("hidden", maps.array_map(), binding=SymbolBinding.LOCAL)

    with pytest.raises(ObjectFileError, match="static") as caught:
        maps.read()

    assert caught.value.symbol == "hidden"


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("max_entries", "max_entries is of BTF kind int"),
        ("map_flags", "map_flags is of BTF kind int"),
        ("key", "key is of BTF kind int"),
        ("values", "`values` is of BTF kind int"),
    ],
)
def test_a_member_of_the_wrong_form_is_refused(member: str, message: str) -> None:
    maps = Maps()
    maps.map("m", maps.struct(type=maps.uint(MapType.HASH_OF_MAPS), **{member: maps.u32}))

    with pytest.raises(ObjectFileError, match=message):
        maps.read()


def test_a_size_that_contradicts_the_type_is_refused() -> None:
    maps = Maps()
    maps.map("m", maps.array_map(value_size=maps.uint(16)))

    with pytest.raises(ObjectFileError, match=r"value_size is 16, but .* has 8 bytes"):
        maps.read()


def test_a_key_without_a_size_is_refused() -> None:
    maps = Maps()
    key = maps.pointer(maps.btf.add(Forward("unknown")))
    maps.map("m", maps.struct(type=maps.uint(MapType.HASH), key=key))

    with pytest.raises(ObjectFileError, match="key: ") as caught:
        maps.read()

    assert caught.value.symbol == "m"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "no type"),
        ({"type": 999}, "type 999 is unknown"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(members: dict[str, int], message: str) -> None:
    maps = Maps()
    maps.map("m", maps.struct(**{name: maps.uint(number) for name, number in members.items()}))

    with pytest.raises(ObjectFileError, match=message):
        maps.read()


@pytest.mark.parametrize("number", [2, 16, 0xFFFF])
def test_a_pinning_that_libbpf_has_no_name_for_is_kept_as_a_number(number: int) -> None:
    maps = Maps()
    maps.map("m", maps.struct(type=maps.uint(MapType.HASH), pinning=maps.uint(number)))

    (spec,) = maps.read()

    assert (spec.pinning, spec.pinning_id) == (Pinning.UNKNOWN, number)


@pytest.mark.parametrize(
    ("kind", "key_size", "value_size"),
    [
        (MapType.RINGBUF, 0, 0),
        (MapType.USER_RINGBUF, 0, 0),
        (MapType.PERF_EVENT_ARRAY, 4, 4),
        (MapType.QUEUE, 4, 8),
    ],
)
def test_the_types_of_events_are_no_sizes_of_a_ring(
    kind: MapType, key_size: int, value_size: int
) -> None:
    maps = Maps()
    key, value = maps.pointer(maps.u32), maps.pointer(maps.u64)
    maps.map("events", maps.struct(type=maps.uint(kind), key=key, value=value))

    (spec,) = maps.read()

    assert (spec.key_size, spec.value_size) == (key_size, value_size)
    assert spec.value is not None
    assert spec.value.size == 8


def test_sizes_that_are_said_in_numbers_stay() -> None:
    maps = Maps()
    kind, size = maps.uint(MapType.RINGBUF), maps.uint(8)
    maps.map("events", maps.struct(type=kind, value_size=size))

    (spec,) = maps.read()

    assert spec.value_size == 8


def test_an_inner_map_has_no_inner_map_and_no_pin() -> None:
    maps = Maps()
    kind = maps.uint(MapType.HASH_OF_MAPS)
    nested = maps.struct(type=kind, values=maps.values(maps.array_map()))
    maps.map("outer", maps.struct(type=kind, values=maps.values(nested)))

    with pytest.raises(ObjectFileError, match="one level"):
        maps.read()

    maps = Maps()
    pinned = maps.array_map(pinning=maps.uint(1))
    kind = maps.uint(MapType.HASH_OF_MAPS)
    maps.map("outer", maps.struct(type=kind, values=maps.values(pinned)))

    with pytest.raises(ObjectFileError, match="inner map: an inner map cannot be pinned"):
        maps.read()


def test_only_maps_of_maps_and_programs_have_values() -> None:
    maps = Maps()
    maps.map("m", maps.array_map(values=maps.values(maps.array_map())))

    with pytest.raises(ObjectFileError, match="type array has no `values`"):
        maps.read()


def test_a_map_that_the_btf_lacks_is_refused() -> None:
    maps = Maps()
    maps.map("m", maps.array_map())
    maps.variables.clear()

    with pytest.raises(ObjectFileError, match="not in the BTF"):
        maps.read()


def test_maps_without_btf_are_refused_with_what_to_do() -> None:
    maps = Maps()
    maps.map("m", maps.array_map())
    elf = Elf.parse(maps.elf.build())

    with pytest.raises(ObjectFileError, match="the maps have no BTF") as caught:
        read_maps(elf, elf.sections[1], None)

    assert "-g" in caught.value.hint


def test_a_shipped_object_has_the_maps_of_its_source() -> None:
    """What a real compiler writes, its relocations of the BTF not yet applied."""
    data = (Path(bpfpin.__file__).parent / "builtin" / "xdp_stats.bpf.o").read_bytes()
    elf = Elf.parse(data)
    section, types = elf.section(".maps"), elf.section(".BTF")
    assert section is not None
    assert types is not None

    maps = {spec.name: spec for spec in read_maps(elf, section, Btf.parse(types.data))}

    counters, action = maps["xdp_stats_map"], maps["action"]
    assert (counters.type, counters.max_entries) == (MapType.PERCPU_ARRAY, 5)
    assert (counters.key_size, counters.value_size) == (4, 16)
    assert counters.value is not None
    assert counters.value.name == "datarec"
    assert (action.type, action.max_entries, action.value_size) == (MapType.ARRAY, 1, 4)
