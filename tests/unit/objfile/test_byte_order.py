"""Big-endian objects are described as their little-endian twins are."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bpfpin.errors import ObjectFileError
from bpfpin.objfile.elf.records import is_big_endian
from bpfpin.objfile.reader import read_object
from bpfpin.spec import Dialect, ObjectSpec
from support.objects import compiled_case

CASES: list[tuple[str, tuple[str, ...]]] = [
    ("pass", ()),
    ("gcc_second_map", ("VARS",)),
    ("legacy_forms", ("V=1", 'SECT="maps/x"')),
    ("legacy_forms", ("V=3",)),
    ("elf_map_seven", ()),
    ("ringbuf_typed", ()),
    ("loader_constant", ()),
    ("map_einval", ("CASE=17",)),
]


WITHOUT_BTF = ("legacy_forms", "elf_map_seven", "loader_constant")


def big(name: str, defines: tuple[str, ...] = (), *, has_debug: bool = True) -> Path:
    options = ("-target", "bpfeb")
    return compiled_case(name, "clang", has_debug=has_debug, defines=defines, options=options)


def shown(spec: ObjectSpec) -> object:
    """Return what a description says, without the bytes of data."""
    maps = [
        (
            *(item.name, item.type, item.key_size, item.value_size, item.max_entries),
            *(item.map_flags, item.pinning, item.id, item.initial),
            [variable.name for variable in item.variables],
        )
        for item in spec.maps.values()
    ]
    programs = [
        (name, item.type, item.section, [function.references for function in item.functions])
        for name, item in spec.programs.items()
    ]
    code = [
        [tuple(function.instructions) for function in item.functions]
        for item in spec.programs.values()
    ]
    return maps, programs, code, spec.license, [*spec.constants]


@pytest.mark.parametrize("has_debug", [True, False], ids=["with BTF", "without BTF"])
@pytest.mark.parametrize(("name", "defines"), CASES)
def test_a_big_endian_object_is_described_like_its_twin(
    name: str, defines: tuple[str, ...], *, has_debug: bool
) -> None:
    if not has_debug and name not in WITHOUT_BTF:
        has_debug = True  # maps in .maps need BTF
    path = big(name, defines, has_debug=has_debug)
    twin = read_object(compiled_case(name, "clang", has_debug=has_debug, defines=defines))

    spec = read_object(path)

    assert is_big_endian(path.read_bytes())
    assert (spec.is_big_endian, twin.is_big_endian) == (True, False)
    assert shown(spec) == shown(twin)


def test_what_variables_start_with_is_not_read() -> None:
    spec = read_object(big("gcc_second_map", ("VARS",)))

    assert spec.maps[".data"].dialect is Dialect.DATA
    assert [*spec.variables] == ["a", "b"]
    with pytest.raises(ValueError, match="not known"):
        _ = spec.variables["a"].value


def test_cut_and_damaged_files_are_refused_as_objects() -> None:
    data = big("elf_map_seven").read_bytes()
    numbers = random.Random(5)
    damaged = [data[:size] for size in range(0, len(data), 7)]
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(numbers.randrange(1, 6)):
            changed[numbers.randrange(len(changed))] = numbers.randrange(256)
        damaged.append(bytes(changed))

    refused = 0
    for item in damaged:
        try:
            read_object(item)
        except ObjectFileError:
            refused += 1

    assert refused > len(data) // 14


def test_a_file_for_other_machines_says_for_which(tmp_path: Path) -> None:
    changed = bytearray(big("pass").read_bytes())
    changed[18:20] = (22).to_bytes(2, "big")

    with pytest.raises(ObjectFileError, match="made for s390, not for BPF"):
        read_object(bytes(changed))
