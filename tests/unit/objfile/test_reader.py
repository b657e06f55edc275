"""From a file to a spec: paths, maps, debug information, and what is not supported yet."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.btf.types import Function, Linkage
from bpfpin.errors import ExitCode, ObjectFileError, ObjectNotFoundError, PermissionDeniedError
from bpfpin.insn import exit_, mov_imm
from bpfpin.objfile.reader import read_object
from bpfpin.spec import Dialect, MapSpec, ObjectSpec
from bpfpin.uapi import MapType, ProgramType
from support.elf_writer import ElfWriter
from support.objects import COMPILERS, compiled

RETURN = [mov_imm(0, 2), exit_()]
MAP_DEF = struct.pack("<5I", 2, 4, 8, 16, 0)


def test_a_path_and_its_bytes_give_the_same_but_for_the_path(tmp_path: Path) -> None:
    elf = ElfWriter()
    elf.function("xdp", "main", RETURN)
    path = tmp_path / "a.o"
    path.write_bytes(elf.build())

    by_path, by_bytes = read_object(path), read_object(elf.build())

    assert (by_path.path, by_bytes.path) == (str(path), "")
    assert by_path.sha256 == by_bytes.sha256 == hashlib.sha256(elf.build()).hexdigest()
    assert by_path.programs == by_bytes.programs
    assert read_object(str(path)).path == str(path)


def test_a_file_of_many_chunks_is_read_whole(tmp_path: Path) -> None:
    elf = ElfWriter()
    elf.section(".data", bytes(range(256)) * 1000)
    path = tmp_path / "a.o"
    path.write_bytes(elf.build())

    assert read_object(path).maps[".data"].contents == bytes(range(256)) * 1000


def test_a_missing_file_is_also_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        read_object(tmp_path / "none.o")

    assert isinstance(caught.value, ObjectNotFoundError)
    assert caught.value.exit_code == ExitCode.NOT_FOUND


def test_a_directory_is_refused_in_the_systems_words(tmp_path: Path) -> None:
    with pytest.raises(ObjectFileError, match="Is a directory"):
        read_object(tmp_path)


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(ObjectFileError, match="at most"):
        read_object("/dev/zero")


def test_an_error_in_the_types_names_the_file(tmp_path: Path) -> None:
    elf = ElfWriter()
    elf.section(".BTF", b"no BTF at all, but long enough")
    path = tmp_path / "a.o"
    path.write_bytes(elf.build())

    with pytest.raises(ObjectFileError) as caught:
        read_object(path)

    assert (caught.value.path, caught.value.section) == (str(path), ".BTF")


def test_maps_come_by_place_in_the_file_and_data_maps_last() -> None:
    elf = ElfWriter()
    elf.bss(".bss", 8)
    maps = elf.section("maps", MAP_DEF * 2)
    elf.symbol("zebra", maps, size=20)
    elf.symbol("ape", maps, value=20, size=20)
    elf.section(".rodata", b"text")
    spec = read_object(elf.build())

    assert list(spec.maps) == ["zebra", "ape", ".bss", ".rodata"]
    assert spec.maps["ape"].offset == 20
    assert spec.maps[".rodata"].contents == b"text"
    assert spec.maps[".rodata"].is_frozen


def test_a_map_name_that_is_no_identifier_is_refused() -> None:
    elf = ElfWriter()
    elf.symbol("../evil", elf.section("maps", MAP_DEF), size=20)

    with pytest.raises(ObjectFileError, match="not a C identifier") as caught:
        read_object(elf.build())

    assert (caught.value.section, caught.value.symbol) == ("maps", "../evil")


def test_two_data_sections_of_one_name_are_refused() -> None:
    elf = ElfWriter()
    elf.section(".rodata", b"one")
    elf.section(".rodata", b"two")

    with pytest.raises(ObjectFileError, match="second map of that name"):
        read_object(elf.build())


def test_a_section_of_id_and_key_fills_the_program_array_with_that_id() -> None:
    elf = ElfWriter()
    definition = struct.pack("<9I", MapType.PROG_ARRAY, 4, 4, 8, 0, 7, 0, 0, 0)
    elf.symbol("jumps", elf.section("maps", definition), size=36)
    elf.function("7/3", "third", RETURN)

    assert read_object(elf.build()).maps["jumps"].initial == ((3, "third"),)


def test_a_section_of_id_and_key_without_such_an_array_is_told() -> None:
    """iproute2 leaves such a program out, too; Cilium's objects have them."""
    elf = ElfWriter()
    elf.function("7/3", "third", RETURN)
    elf.function("xdp", "main", RETURN)

    program = read_object(elf.build()).programs["third"]

    assert program.type is ProgramType.XDP
    assert "no map has that id: no tail call reaches it" in program.section_note


def source_line(spec: ObjectSpec, program: str, index: int) -> str:
    """Return the line of C that instruction *index* of the entry function comes from."""
    lines = spec.programs[program].functions[0].line_info
    line = [each for each in lines if each.index <= index][-1]
    assert spec.btf is not None
    return spec.btf.string(line.line_offset).strip()


@pytest.mark.parametrize("compiler", COMPILERS)
def test_functions_carry_their_types_and_lines(compiler: str) -> None:
    spec = read_object(compiled("verifier_refused", compiler))
    (function,) = spec.programs["unchecked"].functions
    assert spec.btf is not None
    kind = spec.btf[function.type_id]

    assert isinstance(kind, Function)
    assert (kind.name, kind.linkage) == ("unchecked", Linkage.GLOBAL)
    assert function.line_info[0].index == 0
    assert source_line(spec, "unchecked", 7) == "*counter += 1;"


@pytest.mark.parametrize("compiler", COMPILERS)
def test_subprograms_are_found_wherever_they_are(compiler: str) -> None:
    programs = read_object(compiled("subprograms", compiler)).programs

    assert {name: [f.name for f in each.functions] for name, each in programs.items()} == {
        "caller": ["caller", "twice", "note", "apart", "beside"],
        "other_caller": ["other_caller", "note", "beside"],
        "alone": ["alone"],
    }


@pytest.mark.parametrize("compiler", COMPILERS)
def test_callbacks_come_with_what_they_call(compiler: str) -> None:
    functions = read_object(compiled("callbacks", compiler)).programs["walk"].functions

    assert [each.name for each in functions] == ["walk", "add", "weight", "step"]
    assert all(each.type_id for each in functions)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_hidden_function_is_static_for_the_verifier(compiler: str) -> None:
    """Else it would be verified on its own, for all arguments that its types allow."""
    spec = read_object(compiled("callbacks", compiler))
    weight = spec.programs["walk"].functions[2]
    assert spec.btf is not None
    kind = spec.btf[weight.type_id]

    assert isinstance(kind, Function)
    assert (kind.name, kind.linkage) == ("weight", Linkage.STATIC)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("has_debug", [True, False], ids=["with BTF", "without BTF"])
def test_global_data_is_in_maps_with_or_without_types(compiler: str, has_debug: bool) -> None:
    maps = read_object(compiled("globals", compiler, has_debug=has_debug)).maps

    assert {name: spec.contents for name, spec in maps.items()} == {
        ".data": struct.pack("<5I", 2, 1, 2, 3, 4),
        ".rodata": struct.pack("<I", 100) + b"packet %d\0",
        ".data.own": struct.pack("<I", 7),
        ".bss": bytes(16),
    }
    assert all((spec.value is not None) == has_debug for spec in maps.values())


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("has_debug", [True, False], ids=["with BTF", "without BTF"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("legacy_map_def", (Dialect.BPF_MAP_DEF, MapType.PERCPU_ARRAY)),
        ("elf_map", (Dialect.BPF_ELF_MAP, MapType.ARRAY)),
    ],
)
def test_old_dialects_are_read_with_or_without_types(
    name: str, expected: tuple[Dialect, MapType], compiler: str, has_debug: bool
) -> None:
    packets: MapSpec = read_object(compiled(name, compiler, has_debug=has_debug)).maps["packets"]

    assert (packets.dialect, packets.type) == expected
    assert (packets.key_size, packets.value_size) == (4, 8)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(
    ("name", "symbol", "words"),
    [
        ("externs", "kernel_only", "calls kernel_only, which the object does not define"),
        ("kernel_config", "LINUX_KERNEL_VERSION", "uses LINUX_KERNEL_VERSION, which the object"),
    ],
)
def test_undefined_names_without_types_are_refused_by_name(
    name: str, symbol: str, words: str, compiler: str
) -> None:
    with pytest.raises(ObjectFileError, match=words) as caught:
        read_object(compiled(name, compiler, has_debug=False))

    assert (caught.value.symbol, caught.value.section) == (symbol, "xdp")
    assert "compile with -g" in caught.value.hint


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Give up the right of root to read every file; nothing changes for others."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_an_unreadable_file_is_a_missing_privilege(tmp_path: Path) -> None:
    path = tmp_path / "a.o"
    path.touch(mode=0)

    with as_nobody(), pytest.raises(PermissionError) as caught:
        read_object(path)

    assert isinstance(caught.value, PermissionDeniedError)
    assert caught.value.target == str(path)
