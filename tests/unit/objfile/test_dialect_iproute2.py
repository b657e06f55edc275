"""`struct bpf_elf_map`, and how it is told from `struct bpf_map_def` in the same section."""

from __future__ import annotations

import struct

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Int, Member, Struct, Var
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import ObjectFileError
from bpfpin.objfile.elf.file import Elf, SectionType
from bpfpin.objfile.reader import is_old, read_old_maps, reader_for
from bpfpin.spec import Dialect, MapSpec, Pinning
from bpfpin.uapi import MapType
from support.elf_writer import ElfWriter

ELF_MAP = ("type", "size_key", "size_value", "max_elem", "flags", "id", "pinning")
MAP_DEF = ("type", "key_size", "value_size", "max_entries", "map_flags", "inner_map_idx")


def elf_map(
    kind: int,
    *,
    entries: int = 8,
    map_id: int = 0,
    pinning: int = 0,
    inner: tuple[int, int] = (0, 0),
) -> bytes:
    """Return the 36 bytes; *inner* is `inner_id` and `inner_idx`."""
    return struct.pack("<9I", kind, 4, 8, entries, 1, map_id, pinning, *inner)


def parse(maps: dict[str, bytes]) -> Elf:
    elf = ElfWriter()
    section = elf.section("maps", b"".join(maps.values()))
    offset = 0
    for name, data in maps.items():
        elf.symbol(name, section, value=offset, size=len(data))
        offset += len(data)
    return Elf.parse(elf.build())


def read(maps: dict[str, bytes], *, btf: Btf | None = None) -> list[MapSpec]:
    """Read the section with the reader that is chosen for it."""
    elf = parse(maps)
    return read_old_maps(elf, [section for section in elf.sections if is_old(section)], btf)


def btf_of(names: tuple[str, ...], *variables: str) -> Btf:
    btf = BtfBuilder()
    number = btf.add(Int("u32", 4, 32))
    fields = tuple(Member(field, number, 32 * at) for at, field in enumerate(names))
    kind = btf.add(Struct("", 4 * len(names), fields))
    for name in variables:
        btf.add(Var(name, kind))
    return Btf.parse(btf.build())


def test_the_nine_numbers_of_iproute2() -> None:
    (spec,) = read({"m": elf_map(MapType.HASH, entries=64, map_id=7, pinning=2)})

    assert spec == MapSpec(
        "m",
        MapType.HASH,
        key_size=4,
        value_size=8,
        max_entries=64,
        map_flags=1,
        pinning=Pinning.GLOBAL_NAMESPACE,
        dialect=Dialect.BPF_ELF_MAP,
        section="maps",
        section_index=1,
        id=7,
        inner_index=0,
    )


@pytest.mark.parametrize(
    ("number", "pinning", "pinning_id"),
    [
        (0, Pinning.NONE, 0),
        (1, Pinning.OBJECT_NAMESPACE, 0),
        (2, Pinning.GLOBAL_NAMESPACE, 0),
        (3, Pinning.FILE, 3),
        (99, Pinning.FILE, 99),
    ],
)
def test_pinning_is_a_namespace_or_an_id_of_the_pinning_file(
    number: int, pinning: Pinning, pinning_id: int
) -> None:
    (spec,) = read({"m": elf_map(MapType.HASH, pinning=number)})

    assert (spec.pinning, spec.pinning_id) == (pinning, pinning_id)


def test_inner_maps_fill_the_map_of_maps_that_names_their_id() -> None:
    maps = {
        "outer": elf_map(MapType.ARRAY_OF_MAPS, entries=4, inner=(42, 0)),
        "blue": elf_map(MapType.HASH, map_id=42, inner=(0, 1)),
        "red": elf_map(MapType.HASH, map_id=42, inner=(0, 3)),
        "spare": elf_map(MapType.HASH, map_id=42, inner=(0, 0xFFFFFFFF)),
        "other": elf_map(MapType.HASH, map_id=43),
    }

    outer, blue, *_ = read(maps)

    assert outer.inner == blue
    assert outer.initial == ((1, "blue"), (3, "red"))


def test_an_inner_map_of_another_object_is_left_open() -> None:
    (outer,) = read({"outer": elf_map(MapType.ARRAY_OF_MAPS, inner=(42, 0))})

    assert (outer.inner, outer.inner_id, outer.initial) == (None, 42, ())


def test_an_index_beyond_the_array_is_refused() -> None:
    maps = {
        "outer": elf_map(MapType.ARRAY_OF_MAPS, entries=2, inner=(42, 0)),
        "inner": elf_map(MapType.HASH, map_id=42, inner=(0, 2)),
    }

    with pytest.raises(ObjectFileError, match="entry 2") as caught:
        read(maps)

    assert caught.value.symbol == "outer"


@pytest.mark.parametrize(
    ("size", "dialect"),
    [
        (20, Dialect.BPF_MAP_DEF),
        (28, Dialect.BPF_MAP_DEF),
        (36, Dialect.BPF_ELF_MAP),
        (40, Dialect.BPF_MAP_DEF),
    ],
)
def test_without_btf_the_size_tells_the_dialect(size: int, dialect: Dialect) -> None:
    (spec,) = read({"m": elf_map(MapType.HASH).ljust(size, b"\0")[:size]})

    assert spec.dialect == dialect


def test_with_btf_the_names_of_the_members_tell_the_dialect() -> None:
    """An older bpf_elf_map has the size of the longer bpf_map_def."""
    short = {"m": elf_map(MapType.HASH, map_id=7, pinning=2)[:28]}
    long = {"m": elf_map(MapType.HASH)}

    (old,) = read(short, btf=btf_of(ELF_MAP, "m"))
    (padded,) = read(long, btf=btf_of((*MAP_DEF, "numa_node", "x", "y"), "m"))

    assert (old.dialect, old.id, old.pinning) == (
        Dialect.BPF_ELF_MAP,
        7,
        Pinning.GLOBAL_NAMESPACE,
    )
    assert padded.dialect == Dialect.BPF_MAP_DEF


def test_two_dialects_in_one_section_are_refused() -> None:
    maps = {"new": elf_map(MapType.HASH), "old": struct.pack("<5I", MapType.HASH, 4, 8, 1, 0)}

    with pytest.raises(ObjectFileError, match="bpf_elf_map and bpf_map_def") as caught:
        read(maps)

    assert caught.value.symbol == "old"


@pytest.mark.parametrize("name", ["maps.old", ".text", "license", ".BTF", ".relmaps", ".dataset"])
def test_other_sections_define_no_maps(name: str) -> None:
    writer = ElfWriter()
    writer.section(name, b"12345678")
    elf = Elf.parse(writer.build())

    assert reader_for(elf.sections[1]) is None
    assert not is_old(elf.sections[1])


def test_a_section_that_is_no_data_defines_no_maps() -> None:
    writer = ElfWriter()
    writer.section(".data", b"12345678", type=SectionType.STRTAB)
    elf = Elf.parse(writer.build())

    assert reader_for(elf.sections[1]) is None
