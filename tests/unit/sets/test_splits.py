"""Whether the look before the graph sees what the graph would find, and no more than it must."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.host.attachments import AttachedProgram
from bpfpin.host.collect import Draft
from bpfpin.host.graph import Graph
from bpfpin.host.objects import HostObjects
from bpfpin.host.pins import Pin
from bpfpin.host.processes import Holder
from bpfpin.objects.kernel.info import MapInfo, ProgramInfo
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.sets.split_brain import findings, may_be_split
from bpfpin.uapi import MapType, ProgramType
from support.graphs import device

ROOT = "/sys/fs/bpf"
OWN, OTHER = 27, 31  # two maps called counters


def program(number: int, *map_ids: int) -> ProgramInfo:
    kind, name = ProgramType.XDP, "xdp_stats"
    return ProgramInfo(kind, number, "ab" * 8, name, map_ids, 0, 0, True, *[0] * 8)


def host(*programs: ProgramInfo, name: str = "counters") -> HostObjects:
    one = MapInfo(MapType.ARRAY, OWN, 4, 16, 5, 0, name, 0, 0, 0, 0, 0)
    maps = {number: dataclasses.replace(one, id=number) for number in (OWN, OTHER)}
    return HostObjects(maps, {one.id: one for one in programs})


def graph_of(pins: Iterable[Pin], objects: HostObjects) -> Graph:
    """Return the graph of a device that runs every program, and a process that has every map."""
    draft = Draft(objects)
    draft.add_attachments(AttachedProgram(device(), number, "xdp") for number in objects.programs)
    draft.add_pins(pins, {f"{ROOT}/lab0": "lab0", f"{ROOT}/lab1": "lab1"})
    draft.add_holders([Holder(7, "reader", tuple((ObjectKind.MAP, one) for one in objects.maps))])
    return draft.graph()


def map_pin(path: str, number: int = OWN) -> Pin:
    return Pin(f"{ROOT}/{path}", ObjectKind.MAP, number)


def program_pin(path: str, number: int = 41) -> Pin:
    return Pin(f"{ROOT}/{path}", ObjectKind.PROGRAM, number)


def test_two_sets_with_a_map_of_the_same_name_each_are_not_split() -> None:
    pins = [map_pin("lab0/counters"), program_pin("lab0/programs~/xdp_stats")]
    pins += [map_pin("lab1/counters", OTHER), program_pin("lab1/programs~/xdp_stats", 42)]

    assert not may_be_split(pins, host(program(41, OWN), program(42, OTHER)))


def test_a_set_whose_program_uses_another_map_may_be() -> None:
    pins = [map_pin("lab0/counters"), program_pin("lab0/programs~/xdp_stats")]

    assert may_be_split(pins, host(program(41, OTHER)))


@pytest.mark.parametrize("place", ["counters", "tc/globals/counters", "xdp/globals/counters"])
def test_a_program_beside_a_shared_map_may_be(place: str) -> None:
    assert may_be_split([map_pin(place), map_pin("kept", OTHER)], host(program(41, OTHER)))


def test_a_program_that_uses_both_maps_is_not() -> None:
    pins = [map_pin("counters"), map_pin("kept", OTHER)]

    assert not may_be_split(pins, host(program(41, OTHER, OWN)))


def test_a_map_that_nobody_uses_or_pins_may_be_held_by_somebody() -> None:
    assert may_be_split([map_pin("lab0/counters")], host(program(41, OWN)))


def test_the_pin_root_that_is_asked_for_is_the_shared_place() -> None:
    pins, objects = [map_pin("counters"), map_pin("kept", OTHER)], host(program(41, OTHER))

    assert not may_be_split(pins, objects, pin_root=Path("/mnt/bpf"))


def test_the_read_only_data_of_each_load_is_its_own() -> None:
    assert not may_be_split([map_pin("lab0/%2erodata")], host(program(41, OWN), name=".rodata"))


PLACES = st.sampled_from(
    ["", "lab0/", "lab1/", "tc/globals/", "lab0~stage/", "lab0/confirm~/before/"]
)
MAP_PINS = st.builds(
    lambda place, one: map_pin(f"{place}counters", one), PLACES, st.sampled_from([OWN, OTHER])
)
PROGRAM_PINS = st.builds(
    lambda place, one: program_pin(f"{place}programs~/p", one), PLACES, st.sampled_from([41, 42])
)
USED = st.sets(st.sampled_from([OWN, OTHER]))


@given(pins=st.lists(st.one_of(MAP_PINS, PROGRAM_PINS), max_size=6), first=USED, second=USED)
def test_what_the_graph_would_find_is_never_missed(
    pins: list[Pin], first: set[int], second: set[int]
) -> None:
    objects = host(program(41, *first), program(42, *second))
    found = findings(graph_of(pins, objects))

    assert may_be_split(pins, objects) or not found
