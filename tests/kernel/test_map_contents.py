"""Maps that come with contents, data sections of all names, and objects of several units."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.loading.collection import Loaded, load
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.spec import ObjectSpec
from bpfpin.uapi import MapFlag, MapType, XdpAction
from support.kernel_needs import need_map_type
from support.objects import COMPILERS, compiled
from support.tools import need

PACKET = bytes(64)


@pytest.fixture(scope="module", params=COMPILERS)
def spec(request: pytest.FixtureRequest) -> ObjectSpec:
    return read_object(compiled("map_contents", request.param))


@pytest.fixture
def loaded(spec: ObjectSpec) -> Iterator[Loaded]:
    with load(spec) as held:
        yield held


def test_a_hash_of_maps_holds_the_maps_it_starts_with(loaded: Loaded) -> None:
    assert dict(loaded.maps["colours"]) == {1: loaded.maps["red"].id, 3: loaded.maps["green"].id}


def test_a_program_array_holds_the_programs_it_starts_with(loaded: Loaded) -> None:
    programs = loaded.programs

    assert dict(loaded.maps["chain"]) == {0: programs["pass"].id, 5: programs["drop"].id}


def test_a_map_of_maps_takes_maps_as_its_definition_says(loaded: Loaded, spec: ObjectSpec) -> None:
    inner = spec.maps["defined_within"].inner
    assert inner is not None
    with Map.create(inner) as made:
        loaded.maps["defined_within"].update(0, made)
        loaded.programs["pass"].test_run(PACKET)

        assert made[0]["first"] == len("seventeen letters") + 1


def test_map_extra_is_handed_to_the_kernel(loaded: Loaded) -> None:
    info = loaded.maps["seen"].info

    assert (info.type, info.map_extra) == (MapType.BLOOM_FILTER, 5)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_an_arena_has_pages(compiler: str) -> None:
    need_map_type(MapType.ARENA)
    with load(read_object(compiled("arena", compiler))) as loaded:
        info = loaded.maps["pages"].info

    assert (info.type, info.max_entries, info.map_flags) == (MapType.ARENA, 4, MapFlag.MMAPABLE)


def test_data_sections_of_any_name_are_maps(loaded: Loaded, spec: ObjectSpec) -> None:
    loaded.programs["pass"].test_run(PACKET)

    assert {".data.hot", ".data.marked", ".rodata.limits", ".bss.zeros"} < spec.maps.keys()
    assert loaded.variables["hot"].value == 7 + 9
    assert loaded.variables["zeros"].value[1] == 1
    assert loaded.variables["whole"].value["first"] == 11


def test_literals_are_a_map_that_is_read_only(loaded: Loaded) -> None:
    literals = loaded.maps[".rodata.str1.1"]

    assert literals.lookup_bytes(bytes(4)) == b"a literal of its own section\0"
    assert literals.info.map_flags & MapFlag.RDONLY_PROG


def linked(tmp_path: Path, compiler: str) -> ObjectSpec:
    """Return the two units as `bpftool gen object` links them."""
    need("bpftool")
    target = tmp_path / "linked.bpf.o"
    units = [compiled(name, compiler) for name in ("linked_first", "linked_second")]
    command = ["bpftool", "gen", "object", str(target), *map(str, units)]
    subprocess.run(command, capture_output=True, check=True)
    return read_object(target)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_units_linked_into_one_object_work_together(tmp_path: Path, compiler: str) -> None:
    """The strong `weight` takes the weak one's place; the device of a test run is number 1."""
    with load(linked(tmp_path, compiler)) as loaded:
        answers = [
            loaded.programs[name].test_run(PACKET).return_value
            for name in ("count", "count_by_device")
        ]
        total, by_device = loaded.maps["totals"][0], loaded.maps["by_device"][1]

    assert answers == [XdpAction.XDP_PASS, XdpAction.XDP_DROP]
    assert (total["packets"], by_device["packets"]) == (3 * (1 + 4), 3 * 1)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_static_variables_of_one_name_are_told_apart_by_their_sections(
    tmp_path: Path, compiler: str
) -> None:
    spec = linked(tmp_path, compiler)

    assert {".bss:rounds", ".data:rounds"} < spec.variables.keys()
