"""Old maps in C: what is printed compiles, and is read as the same maps."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bpfpin.apps.check.convert import btf_definitions
from bpfpin.apps.compile import compile_source
from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Int, Member, Modifier, ModifierKind, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.objfile.reader import read_object
from bpfpin.spec import Dialect, MapSpec, ObjectSpec, Pinning
from bpfpin.uapi import MapFlag, MapType
from support.objects import compiled

INCLUDES = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
DATAREC = "struct datarec { __u64 rx_packets; __u64 rx_bytes; };\n"
PLAIN = MapSpec("m", MapType.HASH, 4, 16, 1024, dialect=Dialect.BPF_MAP_DEF)


def text_of(*maps: MapSpec) -> str:
    return btf_definitions(ObjectSpec({each.name: each for each in maps}, {}, path="old.o"))


def compiled_back(tmp_path: Path, text: str, *, before: str = "", after: str = "") -> ObjectSpec:
    """Compile *text* with the installed clang and our headers, and read what comes out."""
    if shutil.which("clang") is None:
        pytest.skip("needs clang: apt install clang")
    source = tmp_path / "new.bpf.c"
    source.write_text(INCLUDES + before + text + after)
    result = compile_source(source, compiler="clang")
    assert result.warnings == ""
    return read_object(tmp_path / "new.bpf.o")


def facts(wanted: MapSpec) -> dict[str, Any]:
    """Return what must be the same on both sides."""
    same = ("type", "key_size", "value_size", "max_entries", "map_flags", "map_extra", "numa_node")
    inner = facts(wanted.inner) if wanted.inner else None
    own = {name: getattr(wanted, name) for name in same}
    return own | {"inner": inner, "initial": dict(wanted.initial)}


def typed(name: str, fields: str, *, alias: str = "") -> tuple[MapSpec, Btf]:
    """Return a map whose value is a structure *name* of u64 *fields*, or a typedef of it."""
    btf = BtfBuilder()
    number = btf.add(Int("unsigned long long", 8, 64))
    key = btf.add(Modifier(ModifierKind.TYPEDEF, "__u32", btf.add(Int("unsigned int", 4, 32))))
    members = tuple(Member(each, number, 64 * at) for at, each in enumerate(fields.split()))
    value = btf.add(Struct(name, 8 * len(members), members))
    value = btf.add(Modifier(ModifierKind.TYPEDEF, alias, value)) if alias else value
    table = Btf.parse(btf.build())
    return PLAIN.with_changes(key=table.ref(key), value=table.ref(value)), table


def test_a_map_whose_types_are_known_names_them() -> None:
    wanted, _ = typed("datarec", "rx_packets rx_bytes")

    assert text_of(wanted) == (
        "/* The maps of old.o, after <linux/bpf.h> and <bpf/bpf_helpers.h>. */\n"
        "\n"
        "struct {\n"
        "\t__uint(type, BPF_MAP_TYPE_HASH);\n"
        "\t__uint(max_entries, 1024);\n"
        "\t__type(key, __u32);\n"
        "\t__type(value, struct datarec);\n"
        '} m SEC(".maps");\n'
    )


def test_known_types_compile_to_the_same_layout(tmp_path: Path) -> None:
    wanted, _ = typed("datarec", "rx_packets rx_bytes")
    again = compiled_back(tmp_path, text_of(wanted), before=DATAREC).maps["m"]

    assert facts(again) == facts(wanted)
    assert again.value is not None
    assert again.value.name == "datarec"


def test_a_type_without_a_name_is_its_size() -> None:
    unnamed, _ = typed("", "one two")
    alias, _ = typed("", "one two", alias="pair_t")

    assert "__uint(value_size, 16);" in text_of(unnamed)
    assert "__type(value, pair_t);" in text_of(alias)


@pytest.mark.parametrize("has_debug", [True, False], ids=["with BTF", "without BTF"])
@pytest.mark.parametrize("name", ["legacy_map_def", "elf_map", "elf_map_in_map"])
def test_old_objects_become_the_same_maps(tmp_path: Path, name: str, has_debug: bool) -> None:
    old = read_object(compiled(name, has_debug=has_debug))
    new = compiled_back(tmp_path, btf_definitions(old))

    assert {each.name: facts(each) for each in new.maps.values()} == {
        each.name: facts(each) for each in old.maps.values()
    }
    assert {each.dialect for each in new.maps.values()} == {Dialect.BTF}


@pytest.mark.parametrize(
    "wanted",
    [
        PLAIN.with_changes(map_flags=int(MapFlag.NO_PREALLOC | MapFlag.RDONLY_PROG)),
        PLAIN.with_changes(map_flags=int(MapFlag.NUMA_NODE), numa_node=0),
        PLAIN.with_changes(map_flags=int(MapFlag.NUMA_NODE), numa_node=1),
        PLAIN.with_changes(map_flags=0x20000001),
        PLAIN.with_changes(type=MapType.PERF_EVENT_ARRAY, value_size=4, max_entries=0),
        PLAIN.with_changes(type=MapType.RINGBUF, key_size=0, value_size=0, max_entries=4096),
        PLAIN.with_changes(type=MapType.LPM_TRIE, max_entries=(1 << 30) - 1, map_flags=1),
        PLAIN.with_changes(
            type=MapType.HASH_OF_MAPS, value_size=4, inner=PLAIN.with_changes(map_flags=1)
        ),
    ],
    ids=["flags", "node 0", "node 1", "unknown flag", "perf", "ring", "large", "inner"],
)
def test_every_field_survives(tmp_path: Path, wanted: MapSpec) -> None:
    (again,) = compiled_back(tmp_path, text_of(wanted)).maps.values()

    assert facts(again) == facts(wanted)


def test_flags_have_the_kernel_s_names() -> None:
    flags = int(MapFlag.NO_PREALLOC | MapFlag.NUMA_NODE) | 0x20000000
    text = text_of(PLAIN.with_changes(map_flags=flags))

    assert "__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | 0x20000000);" in text


def test_a_number_that_btf_cannot_hold_is_told(tmp_path: Path) -> None:
    """A number is the length of an array of int there, and 4 GiB is all that a type may have."""
    text = text_of(PLAIN.with_changes(max_entries=1 << 30))

    assert "/* max_entries is 1073741824, more than BTF can say: set it at run time. */" in text
    assert compiled_back(tmp_path, text).maps["m"].max_entries == 0


def test_a_node_that_btf_cannot_hold_is_told() -> None:
    text = text_of(PLAIN.with_changes(map_flags=int(MapFlag.NUMA_NODE), numa_node=0xFFFFFFFF))

    assert "/* numa_node is 4294967295, more than BTF can say" in text
    assert "__uint(numa_node" not in text


def test_tail_calls_are_entries_of_the_program_array(tmp_path: Path) -> None:
    old = read_object(compiled("elf_tail_calls_xdp"))
    names = ("first", "third", "fourth")
    programs = "\n".join(f'SEC("xdp") int {each}(void *context) {{ return 0; }}' for each in names)
    new = compiled_back(tmp_path, btf_definitions(old), after=programs)

    assert {each.name: facts(each) for each in new.maps.values()} == {
        each.name: facts(each) for each in old.maps.values()
    }
    assert new.maps["jumps"].initial == ((0, "first"), (2, "third"), (3, "fourth"))


def test_tail_calls_of_programs_without_types_are_told(tmp_path: Path) -> None:
    text = btf_definitions(read_object(compiled("elf_tail_calls_xdp", has_debug=False)))

    assert "/* To be put there at run time: first at 0, third at 2, fourth at 3. */" in text
    assert compiled_back(tmp_path, text).maps["jumps"].initial == ()


@pytest.mark.parametrize(
    ("pinning", "pinning_id", "is_by_name", "word"),
    [
        (Pinning.NONE, 0, False, "struct {"),
        (Pinning.OBJECT_NAMESPACE, 0, False, "(pinning 1), for which libbpf has no word"),
        (Pinning.GLOBAL_NAMESPACE, 0, True, "tc still pins it there"),
        (Pinning.FILE, 99, False, "its bpf_pinning file says for 99"),
    ],
)
def test_how_iproute2_pins_is_said_as_far_as_it_can_be(
    pinning: Pinning, pinning_id: int, is_by_name: bool, word: str
) -> None:
    wanted = PLAIN.with_changes(dialect=Dialect.BPF_ELF_MAP, pinning=pinning, pinning_id=pinning_id)
    text = text_of(wanted)

    assert word in text
    assert ("__uint(pinning, LIBBPF_PIN_BY_NAME);" in text) == is_by_name


def test_an_inner_map_that_the_object_lacks_is_told(tmp_path: Path) -> None:
    wanted = PLAIN.with_changes(type=MapType.ARRAY_OF_MAPS, value_size=4, inner_id=42)
    text = text_of(wanted)

    assert "It holds maps, like the one with id 42, which the object does not define" in text
    assert facts(compiled_back(tmp_path, text).maps["m"]) == facts(wanted)


def test_entries_far_apart_are_told_and_not_written(tmp_path: Path) -> None:
    """The initialiser of entry 4,000,000,000 would take 32 GB."""
    inner = PLAIN.with_changes(name="inner")
    outer = PLAIN.with_changes(
        name="outer",
        type=MapType.HASH_OF_MAPS,
        value_size=4,
        inner=inner,
        initial=((4_000_000_000, "inner"),),
    )
    text = text_of(outer, inner)

    assert "/* To be put there at run time: inner at 4000000000. */" in text
    assert compiled_back(tmp_path, text).maps["outer"].initial == ()


def test_an_object_without_old_maps_says_so() -> None:
    new = PLAIN.with_changes(dialect=Dialect.BTF)

    assert text_of(new) == "/* old.o has no maps of the old dialects. */\n"


def test_a_symbol_cannot_end_a_comment_or_a_definition() -> None:
    array = PLAIN.with_changes(type=MapType.PROG_ARRAY, initial=((0, "a */ evil(); /*"),))

    assert "To be put there at run time: a____evil______ at 0. */" in text_of(array)


def test_a_path_cannot_end_the_comment() -> None:
    spec = ObjectSpec({"m": PLAIN}, {}, path="/tmp/*/evil();/*.o")

    assert btf_definitions(spec).count("*/") == 1
