"""Whole objects loaded: maps, data, subprograms, callbacks, given maps, and nothing by halves."""

from __future__ import annotations

import dataclasses
import errno
from typing import Any

import pytest

from bpfpin.errors import (
    IncompatibleMapError,
    LimitError,
    ReadOnlyMapError,
    SyscallError,
    UsageError,
    VerifierError,
)
from bpfpin.loading.collection import load
from bpfpin.objects.maps.create import map_memory_limit
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from bpfpin.spec import MapSpec, ObjectSpec
from bpfpin.syscall.call import fail_call
from bpfpin.uapi import MapType, XdpAction
from support.objects import COMPILERS, compiled

PACKET = bytes(64)


def read(name: str, compiler: str = "zig", **options: Any) -> ObjectSpec:
    return read_object(compiled(name, compiler), **options)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_subprograms_of_every_kind_are_called(compiler: str) -> None:
    with load(read("subprograms", compiler)) as loaded:
        loaded.programs["caller"].test_run(PACKET)

        # note() was called with 64, 65 by the packet's length, 4, 5 from apart(4), 5 from beside(5)
        assert loaded.maps["calls"][0] == 64 + 65 + 4 + 5 + 5


@pytest.mark.parametrize("compiler", COMPILERS)
def test_callbacks_run_for_each_element(compiler: str) -> None:
    with load(read("callbacks", compiler)) as loaded:
        run = loaded.programs["walk"].test_run(PACKET)

    assert run.return_value == XdpAction.XDP_PASS


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("has_debug", [True, False])
def test_global_data_is_read_and_written(compiler: str, has_debug: bool) -> None:
    spec = read_object(compiled("globals", compiler, has_debug=has_debug))
    with load(spec) as loaded:
        program = loaded.programs["count"]
        answers = [program.test_run(PACKET, repeat=1).return_value for _ in range(3)]
        program.test_run(PACKET, repeat=100)
        after = program.test_run(PACKET).return_value

    assert answers == [XdpAction.XDP_PASS] * 3
    assert after == XdpAction.XDP_DROP


def test_read_only_data_is_frozen() -> None:
    with load(read("globals")) as loaded:
        frozen = loaded.maps[".rodata"]
        with pytest.raises(ReadOnlyMapError):
            frozen.update(0, frozen[0])


def test_several_programs_load_with_their_types() -> None:
    spec = read("several_programs", program_types={"free_named": "socket"})
    with load(spec) as loaded:
        types = {name: program.type for name, program in loaded.programs.items()}

    assert types == {name: each.type for name, each in spec.programs.items()}


def test_only_the_programs_that_are_named_are_loaded() -> None:
    with load(read("several_programs"), programs=["drop"]) as loaded:
        assert list(loaded.programs) == ["drop"]


def test_a_program_in_a_section_with_a_free_name_needs_its_type() -> None:
    with pytest.raises(UsageError, match="my_own_name"):
        load(read("several_programs"))


def test_maps_of_maps_and_of_programs_get_their_first_entries() -> None:
    with load(read("btf_maps")) as loaded:
        outer, first = loaded.maps["outer"], loaded.maps["first"]
        first[1] = 77
        with Map.from_id(outer[0]) as inner:
            value = inner[1]
        tail_id = loaded.maps["jumps"][1]

        assert value == 77
        assert tail_id == loaded.programs["tail"].id


def test_a_given_map_is_used_instead_of_a_new_one() -> None:
    spec = read("subprograms")
    shared = Map.create(spec.maps["calls"])
    with load(spec, maps={"calls": shared}) as loaded:
        loaded.programs["other_caller"].test_run(PACKET)

        assert loaded.maps["calls"] is shared
        assert shared[0] == 1 + 2


def test_a_given_map_that_does_not_fit_is_refused_with_all_differences() -> None:
    other = Map.create(MapSpec("calls", MapType.HASH, 4, 4, 9))
    with pytest.raises(IncompatibleMapError) as caught:
        load(read("subprograms"), maps={"calls": other})

    assert [(each.field, each.old, each.new) for each in caught.value.differences] == [
        ("type", "hash", "array"),
        ("value_size", "4", "8"),
        ("max_entries", "9", "1"),
    ]


def test_a_given_map_of_another_name_is_a_usage_error() -> None:
    other = Map.create(MapSpec("any", MapType.HASH, 4, 4, 9))
    with pytest.raises(UsageError, match="no map calsl; it has: calls"):
        load(read("subprograms"), maps={"calsl": other})


def test_a_map_that_would_eat_the_host_is_refused_with_its_size() -> None:
    spec = read("subprograms").with_map("calls", max_entries=1 << 27)
    with pytest.raises(LimitError, match=r"about 1024 MiB.*the limit is 256 MiB") as caught:
        load(spec, max_map_memory=256 << 20)
    with pytest.raises(LimitError) as huge:
        load(spec.with_map("calls", max_entries=map_memory_limit()))

    assert caught.value.asked == 1 << 30
    assert huge.value.limit == map_memory_limit()


def test_a_larger_limit_lets_a_larger_map_through() -> None:
    spec = read("subprograms").with_map("calls", max_entries=1 << 12)
    with pytest.raises(LimitError):
        load(spec, max_map_memory=1 << 12)
    with load(spec, max_map_memory=1 << 16) as loaded:
        assert loaded.maps["calls"].max_entries == 1 << 12


def test_a_refused_btf_costs_only_the_lines_of_c() -> None:
    # The first call loads the BTF, the second once more for the kernel's log.
    refused_twice = fail_call(1, errno.EINVAL), fail_call(2, errno.EINVAL)
    with refused_twice[0], refused_twice[1], load(read("subprograms")) as loaded:
        run = loaded.programs["other_caller"].test_run(PACKET)

        assert [note.partition(":")[0] for note in loaded.notes] == [
            "no lines of C in verifier logs"
        ]
    assert run.return_value == XdpAction.XDP_PASS


@pytest.mark.parametrize("name", ["subprograms", "globals", "btf_maps"])
def test_a_failure_at_any_call_leaves_nothing_open(name: str) -> None:
    """What is left open is found by the fixture that compares descriptors.

    A program refused once is loaded again for the log, so only calls about maps fail for good.
    """
    spec = read(name)
    failed = 0
    for nth in range(1, 60):
        try:
            with fail_call(nth, errno.ENOMEM):
                load(spec).close()
        except SyscallError:
            failed += 1

    assert failed >= len(spec.maps)


def test_a_refused_program_leaves_no_map_behind() -> None:
    with pytest.raises(VerifierError):
        load(read("verifier_refused"))


def test_an_object_without_programs_is_its_maps() -> None:
    spec = dataclasses.replace(read("subprograms"), programs={})
    with load(spec) as loaded:
        assert list(loaded.maps) == ["calls"]
        assert not loaded.programs


def test_programs_stay_when_only_their_pins_are_left(bpffs: Any) -> None:
    with load(read("legacy_map_def")) as loaded:
        loaded.programs["count_packets"].pin(bpffs / "count")
    with Program.from_pin(bpffs / "count") as program:
        assert program.test_run(PACKET).return_value == XdpAction.XDP_PASS
