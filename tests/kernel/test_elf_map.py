"""Objects written for iproute2 at run time: their tail calls jump, their inner maps count."""

from __future__ import annotations

import pytest

from bpfpin.errors import UsageError
from bpfpin.loading.collection import load
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.spec import MapSpec, ObjectSpec
from bpfpin.uapi import MapType, ProgramType
from support.objects import COMPILERS, compiled

PACKET = bytes(64)
XDP_ABORTED, XDP_DROP, XDP_PASS = 0, 1, 2
TC_ACT_OK, TC_ACT_SHOT, TC_ACT_PIPE = 0, 2, 3


ANSWERS = {  # to entries 0 to 3; 1 is empty, 3 jumps on to 0
    "elf_tail_calls_xdp": [XDP_DROP, XDP_PASS, XDP_ABORTED, XDP_DROP],
    "elf_tail_calls_tc": [TC_ACT_SHOT, TC_ACT_OK, TC_ACT_PIPE, TC_ACT_SHOT],
}
TYPES = {"elf_tail_calls_xdp": ProgramType.XDP, "elf_tail_calls_tc": ProgramType.SCHED_CLS}


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("has_debug", [True, False], ids=["with BTF", "without BTF"])
@pytest.mark.parametrize("name", ANSWERS)
def test_a_program_jumps_to_those_of_id_and_key_sections(
    compiler: str, has_debug: bool, name: str
) -> None:
    spec = read_object(compiled(name, compiler, has_debug=has_debug))
    with load(spec) as loaded:
        front, given = loaded.programs["front"], []
        for index in range(4):
            loaded.maps["chosen"].update_bytes(bytes(4), index.to_bytes(4, "little"))
            given.append(front.test_run(PACKET).return_value)
        types = {program.type for program in loaded.programs.values()}

    assert given == ANSWERS[name]
    assert types == {TYPES[name]}


def test_a_program_array_that_is_given_gets_the_programs_too() -> None:
    """So that a program loaded before jumps to them from then on."""
    spec = read_object(compiled("elf_tail_calls_xdp"))
    without = spec.with_map("jumps", initial=())
    with load(without) as first:
        front = first.programs["front"]
        before = front.test_run(PACKET).return_value
        with load(spec, maps={"jumps": Map.from_id(first.maps["jumps"].id)}):
            after = front.test_run(PACKET).return_value

    assert (before, after) == (XDP_PASS, XDP_DROP)


def test_the_type_that_the_user_says_is_that_of_id_and_key_sections() -> None:
    path = compiled("elf_tail_calls_tc")
    by_name = read_object(path, program_types={"first": "xdp"}).programs
    for_all = read_object(path, program_types="action").programs

    assert by_name["first"].type is ProgramType.XDP
    assert by_name["first"].hook is None
    assert by_name["third"].type is ProgramType.SCHED_CLS
    assert for_all["first"].type is ProgramType.SCHED_ACT
    assert for_all["front"].type is ProgramType.SCHED_CLS


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("has_debug", [True, False], ids=["with BTF", "without BTF"])
def test_maps_are_found_in_the_maps_that_name_their_id(compiler: str, has_debug: bool) -> None:
    spec = read_object(compiled("elf_map_in_map", compiler, has_debug=has_debug))
    with load(spec) as loaded:
        loaded.programs["count_inside"].test_run(PACKET)
        counted = {
            name: int.from_bytes(loaded.maps[name].lookup_bytes(bytes(4)), "little")
            for name in ("blue", "red", "spare")
        }
        inner_ids = {name: held_by(loaded.maps[name]) for name in ("by_index", "by_number")}
        blue, red = loaded.maps["blue"].id, loaded.maps["red"].id

    assert counted == {"blue": 1, "red": 1100, "spare": 0}
    assert inner_ids == {"by_index": {0: blue, 2: red}, "by_number": {0: blue, 2: red}}


def held_by(outer: Map) -> dict[int, int]:
    """Return the ids of the maps that a map of maps holds."""
    return {
        int.from_bytes(key, "little"): int.from_bytes(value, "little")
        for key, value in outer.items_bytes()
        if any(value)
    }


def test_a_map_of_maps_without_a_kind_of_maps_needs_to_be_given() -> None:
    alone = MapSpec("outer", MapType.ARRAY_OF_MAPS, 4, 4, 8, inner_id=42)
    with pytest.raises(
        UsageError,
        match=r"map outer holds maps, but the object does not define the inner map with id 42",
    ) as caught:
        load(ObjectSpec({"outer": alone}, {}))

    assert caught.value.hint == "use a map that exists: maps={'outer': PATH}"


def test_a_map_of_maps_that_is_given_needs_no_kind() -> None:
    spec = read_object(compiled("elf_map_in_map"))
    alone = spec.maps["by_index"].with_changes(inner=None, initial=())
    with load(spec) as loaded:
        given = {"by_index": Map.from_id(loaded.maps["by_index"].id)}
        with load(ObjectSpec({"by_index": alone}, {}), maps=given) as again:
            assert held_by(again.maps["by_index"]) == held_by(loaded.maps["by_index"])
