"""Objects whose names point elsewhere: nothing is written outside the set, nothing is shared."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.insn import exit_, load_imm64, mov_imm
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.elf_writer import ElfWriter
from support.here import Here, tree, veth

BY_NAME = struct.pack("<9I", 1, 4, 8, 16, 0, 0, 2, 0, 0)  # iproute2's pinning 2: by its name
EVIL = ["../victim", "a/b", "..", ".", "\x1b[2J\n", "victim ", "größe", "x" * 300, "tc/victim"]
VICTIM = 0x5EC4E7


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    with veth() as device:
        root = bpffs / "root"
        root.mkdir(mode=0o700)
        yield Here(root, device)


@pytest.fixture
def victim(bpffs: Path) -> Iterator[Map]:
    """Return a map of somebody else, right outside the pin root."""
    spec = MapSpec("victim", MapType.HASH, key_size=4, value_size=8, max_entries=16)
    with Map.create(spec) as held:
        held[bytes(4)] = VICTIM.to_bytes(8, "little")
        held.pin(bpffs / "victim")
        yield held


def object_with(*, map_name: str = "flows", program: str = "main", data: str = "") -> bytes:
    elf = ElfWriter()
    elf.license("GPL")
    flows = elf.symbol(map_name, elf.section("maps", BY_NAME), size=len(BY_NAME))
    main = elf.function("xdp", program, [*load_imm64(1, 0), mov_imm(0, 2), exit_()])
    elf.relocation(main, flows, at=0)
    if data:
        elf.section(data, b"contents")
    return elf.build()


def around(here: Here) -> dict[str, tuple[object, ...]]:
    """Return all names of the bpffs but that of the pin root's lock."""
    names = tree(here.root.parent)
    names.pop("root/bpfpin~", None)
    return names


def refused(here: Here, data: bytes, folder: Path) -> str:
    """Load *data*, which must be refused and change nothing above the pin root either."""
    path = folder / "evil.o"
    path.write_bytes(data)
    before = around(here)
    result = here.load_refused(5, path)

    assert around(here) == before
    assert "\x1b" not in result.stderr
    return result.stderr


@pytest.mark.parametrize("name", EVIL)
def test_a_map_of_an_evil_name_is_refused(
    here: Here, victim: Map, tmp_path: Path, name: str
) -> None:
    refused(here, object_with(map_name=name), tmp_path)

    assert victim[bytes(4)] == VICTIM.to_bytes(8, "little")


@pytest.mark.parametrize("name", EVIL)
def test_a_program_of_an_evil_name_is_refused(
    here: Here, victim: Map, tmp_path: Path, name: str
) -> None:
    refused(here, object_with(program=name), tmp_path)

    assert victim[bytes(4)] == VICTIM.to_bytes(8, "little")


@pytest.mark.parametrize(
    "name", [".data.../../victim", ".rodata./", ".bss.\x1b[2J", ".data." + "x" * 300]
)
def test_a_data_section_of_an_evil_name_stays_in_the_set(
    here: Here, victim: Map, tmp_path: Path, name: str
) -> None:
    refused(here, object_with(data=name), tmp_path)

    assert victim[bytes(4)] == VICTIM.to_bytes(8, "little")


def test_two_maps_whose_first_fifteen_characters_are_equal_stay_two(
    here: Here, tmp_path: Path
) -> None:
    """The kernel keeps fifteen characters of a name; pins and references have all of it."""
    elf = ElfWriter()
    elf.license("GPL")
    maps = elf.section("maps", struct.pack("<5I", 1, 4, 8, 16, 0) * 2)
    names = [f"counters_of_the_{side}" for side in ("left", "right")]
    code = [*load_imm64(1, 0), *load_imm64(1, 0), mov_imm(0, 2), exit_()]
    main = elf.function("xdp", "main", code)
    for number, name in enumerate(names):
        elf.relocation(main, elf.symbol(name, maps, value=20 * number, size=20), at=2 * number)
    path = tmp_path / "twins.o"
    path.write_bytes(elf.build())
    here.load(path)

    with Map.from_pin(here.set / names[0]) as left, Map.from_pin(here.set / names[1]) as right:
        assert left.id != right.id
