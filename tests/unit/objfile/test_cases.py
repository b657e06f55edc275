"""Objects as public projects write them: each is read, by both compilers, as its loader does."""

from __future__ import annotations

import pytest

from bpfpin.objfile.reader import read_object
from bpfpin.spec import Dialect, MapSpec, ObjectSpec, Pinning, ReferenceKind
from bpfpin.uapi import MapType
from support.objects import COMPILERS, compiled_case

both = pytest.mark.parametrize("compiler", COMPILERS)
debug = pytest.mark.parametrize("has_debug", [True, False], ids=["with BTF", "without BTF"])


def case(
    name: str, compiler: str = "zig", *, has_debug: bool = True, defines: tuple[str, ...] = ()
) -> ObjectSpec:
    return read_object(compiled_case(name, compiler, has_debug=has_debug, defines=defines))


def without_data(spec: ObjectSpec) -> list[MapSpec]:
    return [item for item in spec.maps.values() if item.dialect is not Dialect.DATA]


@both
@debug
def test_a_section_for_each_map(compiler: str, *, has_debug: bool) -> None:
    counter, other = without_data(case("maps_section_per_map", compiler, has_debug=has_debug))

    assert (counter.name, counter.type, counter.section) == (
        "counter",
        MapType.ARRAY,
        "maps/counter",
    )
    assert (other.name, other.type, other.max_entries) == ("other", MapType.HASH, 16)
    assert {counter.dialect, other.dialect} == {Dialect.BPF_MAP_DEF}


FORMS = {  # by the variant of the source: what the member `pinning` means, if it has one
    1: Pinning.NONE,
    2: Pinning.NONE,
    3: Pinning.BY_NAME,
    4: Pinning.OBJECT_NAMESPACE,
    5: Pinning.NONE,
}


@both
@debug
@pytest.mark.parametrize("section", ["maps", "maps/x"])
@pytest.mark.parametrize("variant", FORMS)
def test_old_definitions_of_all_sizes(
    variant: int, section: str, compiler: str, *, has_debug: bool
) -> None:
    defines = (f"V={variant}", f'SECT="{section}"')

    first, second = without_data(
        case("legacy_forms", compiler, has_debug=has_debug, defines=defines)
    )

    assert (first.name, first.type, first.key_size, first.value_size) == (
        "first_map",
        MapType.HASH,
        4,
        8,
    )
    assert (second.name, second.type, second.max_entries) == ("second_map", MapType.ARRAY, 16)
    for item in (first, second):
        assert (item.section, item.dialect) == (section, Dialect.BPF_MAP_DEF)
        assert (item.pinning, item.pinning_id) == (FORMS[variant], 0)
        assert (item.map_flags, item.inner_index, item.numa_node) == (0, -1, None)


@both
@debug
def test_a_sixth_member_that_is_a_pinning(compiler: str, *, has_debug: bool) -> None:
    (spec,) = without_data(case("map_def_pinning", compiler, has_debug=has_debug))

    assert (spec.dialect, spec.pinning, spec.inner_index) == (
        Dialect.BPF_MAP_DEF,
        Pinning.GLOBAL_NAMESPACE,
        -1,
    )


@both
@debug
def test_the_seven_members_of_the_older_bpf_elf_map(compiler: str, *, has_debug: bool) -> None:
    spec = case("elf_map_seven", compiler, has_debug=has_debug)
    calls, shared = (spec.maps[name] for name in ("calls", "shared"))

    assert (calls.dialect, calls.id, calls.pinning) == (
        Dialect.BPF_ELF_MAP,
        2,
        Pinning.OBJECT_NAMESPACE,
    )
    assert (shared.id, shared.pinning) == (5, Pinning.GLOBAL_NAMESPACE)
    assert calls.initial == ((1, "leaf"),)


@both
def test_a_pinning_that_is_not_libbpfs_is_read(compiler: str) -> None:
    (spec,) = without_data(case("pinning_16", compiler))

    assert (spec.pinning, spec.pinning_id) == (Pinning.UNKNOWN, 16)


@both
def test_the_type_of_the_records_of_a_ring_buffer(compiler: str) -> None:
    (events,) = without_data(case("ringbuf_typed", compiler))

    assert (events.key_size, events.value_size) == (0, 0)
    assert events.value is not None
    assert (events.value.name, events.value.size) == ("event", 20)


@both
def test_a_billion_entries_are_read(compiler: str) -> None:
    (spec,) = without_data(case("map_einval", compiler, defines=("CASE=17",)))

    assert spec.max_entries == 1 << 30


def test_gcc_refers_to_the_second_map_and_the_second_variable() -> None:
    spec = case("gcc_second_map", "gcc", defines=("VARS",))

    references = spec.programs["p"].functions[0].references
    variable = spec.variables["b"]
    assert [item.target for item in references if item.kind is ReferenceKind.MAP] == ["two", "one"]
    assert [item.addend for item in references if item.kind is ReferenceKind.MAP_VALUE] == [
        variable.offset
    ]
    assert variable.value == 2
