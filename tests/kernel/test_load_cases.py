"""Objects as public projects write them, loaded as they mean it."""

from __future__ import annotations

import dataclasses
import mmap
import re
import subprocess
from pathlib import Path

import pytest

from bpfpin.errors import (
    IncompatibleMapError,
    LimitError,
    NotSupportedError,
    ObjectFileError,
    PermissionDeniedError,
    SyscallError,
    VerifierError,
)
from bpfpin.loading.collection import Loaded, load
from bpfpin.loading.entries import check_memory
from bpfpin.objects.maps import compat
from bpfpin.objects.maps.create import map_memory_limit
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.spec import MapSpec, ObjectSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.syscall.mmap import MappedAt
from bpfpin.uapi import AttachType, MapType, ProgramType
from support.cli import run_cli
from support.kernel_needs import need_functions, need_map_type, need_type
from support.objects import compiled, compiled_case
from support.tools import need

PACKET = bytes(64)
V4 = ("-mcpu=v4",)


def returned(loaded: Loaded, name: str) -> int:
    return loaded.programs[name].test_run(PACKET).return_value


def exceptions(*defines: str) -> ObjectSpec:
    return read_object(compiled("exceptions", defines=defines))


def test_what_is_thrown_ends_in_the_callback_that_a_tag_names() -> None:
    need_functions("bpf_throw")
    with load(read_object(compiled_case("exception_cb"))) as loaded:
        assert returned(loaded, "p") == 42


def test_a_program_without_a_callback_returns_what_was_thrown() -> None:
    need_functions("bpf_throw")
    with load(exceptions()) as loaded:
        assert returned(loaded, "throws") == 42
        assert returned(loaded, "throws_without_callback") == 7


def test_the_callback_is_no_program_and_belongs_to_those_that_name_it() -> None:
    spec = exceptions()
    names = {
        name: [function.name for function in program.functions]
        for name, program in spec.programs.items()
    }

    assert names == {
        "throws": ["throws", "deeper", "caught"],
        "throws_without_callback": ["throws_without_callback", "deeper"],
    }
    assert spec.programs["throws"].exception_callback == "caught"


@pytest.mark.parametrize(
    ("defines", "words"),
    [
        (('CALLBACK="nowhere"',), "the exception callback nowhere is not defined in the object"),
        (('SECOND="other"',), "2 exception callbacks; at most 1"),
    ],
)
def test_a_callback_that_cannot_be_one_is_refused(defines: tuple[str, ...], words: str) -> None:
    with pytest.raises(ObjectFileError, match=words):
        exceptions(*defines)


def test_what_the_kernel_says_against_debug_information_is_a_refusal() -> None:
    """A callback that is not global: without its BTF the program would run, and lose it."""
    need_functions("bpf_throw")
    with pytest.raises(VerifierError) as refused:
        load(exceptions("HIDDEN=1"))

    assert "global" in refused.value.log
    assert "throws" in str(refused.value)


def test_wrong_function_information_is_a_refusal_and_never_left_out() -> None:
    need_functions("bpf_throw")
    spec = exceptions()
    program = spec.programs["throws_without_callback"]
    first, *others = program.functions
    wrong = [dataclasses.replace(each, type_id=first.type_id) for each in others]
    spec = spec.with_program(
        program.name, functions=(dataclasses.replace(first, type_id=1), *wrong)
    )
    with pytest.raises(VerifierError) as refused:
        load(spec, programs=[program.name])

    assert "func" in refused.value.log


def test_a_callback_needs_the_types_that_name_it() -> None:
    need_functions("bpf_throw")
    spec = dataclasses.replace(exceptions(), btf=None)
    with pytest.raises(NotSupportedError, match="its exception callback caught is found by BTF"):
        load(spec, programs=["throws"])


def test_a_variable_of_an_arena_stands_at_its_start() -> None:
    need_map_type(MapType.ARENA)
    spec = read_object(compiled_case("arena_global", options=V4))
    with load(spec) as loaded:
        for _ in range(3):
            loaded.programs["count"].test_run(context=bytes(8))
        arena = loaded.maps["arena"]
        with MappedAt(arena.fd, 4 * mmap.PAGESIZE, address=arena.info.map_extra) as memory:
            hits = int.from_bytes(memory.read(8), "little")

        assert hits == 7 + 3
        assert compat.differences(spec.maps["arena"], arena) == []


def test_an_arena_without_an_address_gets_one() -> None:
    need_map_type(MapType.ARENA)
    with load(read_object(compiled_case("arena_no_address", options=V4))) as loaded:
        assert loaded.programs["take"].test_run(context=bytes(8)).return_value == 0


def test_an_arena_without_pages_is_told_as_that() -> None:
    need_map_type(MapType.ARENA)
    spec = read_object(compiled_case("arena_no_address", options=V4))
    with pytest.raises(SyscallError, match="max_entries is 0"):
        load(spec.with_map("arena", max_entries=0))


def test_an_arena_keeps_the_address_that_it_asks_for() -> None:
    need_map_type(MapType.ARENA)
    spec = read_object(compiled_case("arena_no_address", options=V4))
    spec = spec.with_map("arena", map_extra=1 << 44)
    with load(spec) as loaded:
        assert loaded.programs["take"].test_run(context=bytes(8)).return_value == 0
        assert loaded.maps["arena"].info.map_extra == 1 << 44


def test_variables_of_an_arena_need_the_one_arena() -> None:
    path = compiled_case("arena_global", options=(*V4, "-DTYPE=2"))
    with pytest.raises(ObjectFileError, match="variables of an arena, but 0 arenas"):
        read_object(path)


def test_an_inner_map_with_special_members_is_made_with_its_own_types() -> None:
    need_type("bpf_list_head")
    with load(read_object(compiled_case("inner_special"))) as loaded:
        assert returned(loaded, "p") == 0
        assert list(loaded.maps["outer"]) == [0]


def test_constants_are_bound_to_each_program_and_bpftool_shows_them(bpffs: Path) -> None:
    need("bpftool")
    spec = read_object(compiled_case("rodata_bind"))
    with load(spec) as loaded:
        program = loaded.programs["p"]
        ids = program.info.map_ids
        program.pin(bpffs / "p")
        command = ["bpftool", "prog", "show", "pinned", str(bpffs / "p")]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert ids == (loaded_id(shown),)
    assert 'version = "1.2"' in shown


def loaded_id(shown: str) -> int:
    (line,) = [line for line in shown.splitlines() if "map_ids" in line]
    return int(line.split("map_ids")[1].split()[0].split(",")[0])


def test_programs_that_use_their_constants_hold_them_once() -> None:
    with load(read_object(compiled("globals"))) as loaded:
        for program in loaded.programs.values():
            assert len(set(program.info.map_ids)) == len(program.info.map_ids)
            assert any(loaded.maps[".rodata"].id == each for each in program.info.map_ids)


def test_one_wrong_table_does_not_keep_the_rest_from_loading() -> None:
    spec = read_object(compiled("function_tables"))
    spec = spec.with_map("outdated", section=".struct_ops")
    with load(spec) as loaded:
        assert "dummy" in loaded.maps
        assert "outdated" not in loaded.maps
        assert "called_by_none" not in loaded.programs
        assert any("outdated" in note and "left out" in note for note in loaded.notes)


def test_a_table_that_the_kernel_does_not_know_is_left_out_too() -> None:
    spec = read_object(compiled("function_tables"))
    value = spec.maps["still"].value
    assert value is not None
    unknown = MapSpec("unknown", MapType.STRUCT_OPS, 4, 8, 1, value=value.btf.ref(1))
    spec = dataclasses.replace(spec, maps={**spec.maps, "unknown": unknown})
    with load(spec) as loaded:
        assert "dummy" in loaded.maps
        assert any("unknown" in note for note in loaded.notes)


def test_tables_alone_that_are_all_wrong_are_a_refusal() -> None:
    spec = read_object(compiled("function_tables"))
    with pytest.raises(NotSupportedError, match="outdated"):
        load(spec, programs=["called_by_none"])


ATTACH_TYPES = {ProgramType.CGROUP_SKB: AttachType.CGROUP_INET_EGRESS}


def tail_caller(kind: ProgramType) -> ObjectSpec:
    spec = read_object(compiled_case("pinning_16"))
    return spec.with_program("p", type=kind, expected_attach_type=ATTACH_TYPES.get(kind))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ProgramType.SCHED_CLS, ProgramType.XDP),
        (ProgramType.XDP, ProgramType.SCHED_CLS),
        (ProgramType.XDP, ProgramType.CGROUP_SKB),
    ],
)
def test_a_program_array_of_another_type_is_told_as_that(
    first: ProgramType, second: ProgramType
) -> None:
    with load(tail_caller(first)) as loaded, Map.from_id(loaded.maps["calls"].id) as again:
        with pytest.raises(IncompatibleMapError) as refused:
            load(tail_caller(second), maps={"calls": again})
        (difference,) = refused.value.differences

    assert difference.field == "owner_prog_type"
    assert (difference.old, difference.new) == (first.name.lower(), second.name.lower())


def test_a_program_that_an_array_does_not_take_is_told_as_that() -> None:
    spec = tail_caller(ProgramType.XDP)
    filled = spec.with_map("calls", initial=((1, "p"),))
    with (
        load(tail_caller(ProgramType.SCHED_CLS)) as loaded,
        pytest.raises(IncompatibleMapError, match="owned by programs of another type"),
    ):
        compat.require_owner([loaded.maps["calls"]], ProgramType.XDP, program="p")
    with load(filled) as loaded:
        assert list(loaded.maps["calls"])


@pytest.mark.parametrize("entries", [0, 1, 1 << 20])
def test_a_cpu_map_has_an_entry_for_each_cpu_at_most(entries: int) -> None:
    spec = MapSpec("cpus", MapType.CPUMAP, 4, 8, entries)
    with Map.create(spec) as made:
        assert made.max_entries == min(entries or possible_cpus(), possible_cpus())
        assert compat.differences(spec, made) == []


def test_maps_may_take_a_quarter_of_the_memory() -> None:
    kib = int(re.findall(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())[0])
    limit = map_memory_limit()
    spec = MapSpec("large", MapType.ARRAY, 4, 8, limit // 8)
    check_memory("", [spec], limit)
    with pytest.raises(LimitError) as refused:
        load(ObjectSpec({"large": spec.with_changes(max_entries=limit // 8 + 1)}, {}))

    assert limit == max(256 << 20, (kib << 10) // 4)
    assert refused.value.limit == limit


def test_check_has_the_option_that_its_hint_names(tmp_path: Path) -> None:
    path = compiled_case("pass")
    refused = run_cli("check", path, "--max-map-memory", "4")
    allowed = run_cli("check", path, "--max-map-memory", "1M")

    assert refused.exit_code == 5
    assert "--max-map-memory" in refused.stderr
    assert allowed.exit_code == 0


def test_an_iterator_that_this_kernel_forbids_is_told_as_a_tracing_program() -> None:
    """A stock kernel loads it; here the refusal must not pass for the verifier's."""
    hint = ""
    try:
        load(read_object(compiled_case("iter_eperm"))).close()
    except PermissionDeniedError as refused:
        hint = refused.hint
    if not hint:
        pytest.skip("this kernel loads iterators")

    assert "programs of type tracing for trace_iter" in hint
