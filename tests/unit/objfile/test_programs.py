"""Which functions of an object are programs."""

from __future__ import annotations

import struct

import pytest

from bpfpin.errors import ObjectFileError, UsageError
from bpfpin.insn import CALL, Instruction, encode, exit_, mov_imm
from bpfpin.objfile.elf.file import SymbolBinding
from bpfpin.objfile.programs import MAX_PROGRAMS
from bpfpin.objfile.reader import read_object
from bpfpin.spec import Hook
from bpfpin.uapi import AttachType, ProgramType
from support.elf_writer import R_BPF_64_32, ElfWriter

RETURN = [mov_imm(0, 2), exit_()]
CALLING = [Instruction(CALL, src=1, imm=-1), *RETURN]


def programs_of(elf: ElfWriter, **options: str) -> dict[str, ProgramType]:
    spec = read_object(elf.build(), program_types=options.get("types"))
    return {name: program.type for name, program in spec.programs.items()}


def test_a_section_holds_several_programs_and_sections_say_what_they_are() -> None:
    elf = ElfWriter()
    elf.function("xdp", "pass", RETURN)
    elf.function("xdp", "drop", RETURN)
    elf.function("tcx/egress", "out", RETURN)
    spec = read_object(elf.build())

    assert {name: program.type for name, program in spec.programs.items()} == {
        "pass": ProgramType.XDP,
        "drop": ProgramType.XDP,
        "out": ProgramType.SCHED_CLS,
    }
    assert spec.programs["drop"].section == "xdp"
    assert spec.programs["out"].hook is Hook.TCX_EGRESS
    assert spec.programs["out"].expected_attach_type == AttachType.TCX_EGRESS


def test_a_static_function_beside_a_program_is_none() -> None:
    elf = ElfWriter()
    elf.function("xdp", "main", RETURN)
    elf.function("xdp", "helper", RETURN, binding=SymbolBinding.LOCAL)
    spec = read_object(elf.build())

    assert list(spec.programs) == ["main"]
    assert spec.notes == ("helper in section xdp is static, and therefore not a program",)


def test_functions_in_text_are_no_programs_beside_others() -> None:
    elf = ElfWriter()
    elf.function(".text", "helper", RETURN)
    elf.function("xdp", "main", RETURN)

    assert list(programs_of(elf)) == ["main"]


def test_a_lone_function_in_text_is_a_program_of_a_type_that_the_user_says() -> None:
    elf = ElfWriter()
    elf.function(".text", "main", RETURN)

    assert programs_of(elf) == {"main": ProgramType.UNSPEC}
    assert programs_of(elf, types="xdp") == {"main": ProgramType.XDP}


def test_a_free_section_holds_a_program_whose_type_is_still_to_be_said() -> None:
    elf = ElfWriter()
    elf.function("my_own_name", "mine", RETURN)
    elf.function("tc", "known", RETURN)

    assert programs_of(elf) == {"mine": ProgramType.UNSPEC, "known": ProgramType.SCHED_CLS}


def test_a_word_types_the_programs_of_free_sections_only() -> None:
    elf = ElfWriter()
    elf.function("my_own_name", "mine", RETURN)
    elf.function("tc", "known", RETURN)

    assert programs_of(elf, types="xdp") == {
        "mine": ProgramType.XDP,
        "known": ProgramType.SCHED_CLS,
    }


def test_words_by_name_type_these_programs_whatever_their_sections_say() -> None:
    elf = ElfWriter()
    elf.function("my_own_name", "mine", RETURN)
    elf.function("tc", "known", RETURN)
    types = {"mine": "xdp", "known": "socket"}

    programs = read_object(elf.build(), program_types=types).programs

    assert programs["mine"].type == ProgramType.XDP
    assert programs["known"].type == ProgramType.SOCKET_FILTER


def test_a_type_for_a_program_that_is_not_there_names_those_that_are() -> None:
    elf = ElfWriter()
    elf.function("xdp", "main", RETURN)

    with pytest.raises(UsageError, match="no program 'typo'; it has: main"):
        read_object(elf.build(), program_types={"typo": "xdp"})


def test_a_function_in_a_free_section_that_others_call_is_a_subprogram() -> None:
    elf = ElfWriter()
    program = elf.function("xdp", "main", CALLING)
    elf.relocation(program, elf.function("helpers", "outer", CALLING), type=R_BPF_64_32)
    inner = elf.function("helpers", "inner", RETURN)
    elf.relocation(elf.symbols[1], inner, type=R_BPF_64_32)

    assert list(programs_of(elf)) == ["main"]


def test_a_program_that_another_calls_stays_a_program() -> None:
    elf = ElfWriter()
    program = elf.function("xdp", "main", CALLING)
    elf.relocation(program, elf.function("tc", "other", RETURN), type=R_BPF_64_32)

    assert list(programs_of(elf)) == ["main", "other"]


def test_every_program_carries_the_license_and_the_version_of_the_object() -> None:
    elf = ElfWriter()
    elf.license("Dual MIT/GPL")
    elf.section("version", struct.pack("<I", 0x50F00))
    elf.function("kprobe/do_exit", "probe", RETURN)
    spec = read_object(elf.build())

    assert spec.license == "Dual MIT/GPL"
    assert spec.programs["probe"].license == "Dual MIT/GPL"
    assert spec.programs["probe"].kernel_version == 0x50F00
    assert spec.programs["probe"].attach_to == "do_exit"


def test_a_version_of_odd_size_is_refused() -> None:
    elf = ElfWriter()
    elf.section("version", b"\1\2\3")

    with pytest.raises(ObjectFileError, match="a version of 3 bytes"):
        read_object(elf.build())


def test_the_note_of_an_old_section_name_is_kept() -> None:
    elf = ElfWriter()
    elf.function("xdp_stats1", "main", RETURN)

    assert "'xdp_stats1' is read as 'xdp'" in read_object(elf.build()).programs["main"].section_note


def test_an_object_without_programs_and_maps_is_empty_and_valid() -> None:
    spec = read_object(ElfWriter().build())

    assert (dict(spec.programs), dict(spec.maps), spec.btf, spec.license) == ({}, {}, None, "")


def test_two_functions_of_one_global_name_are_refused() -> None:
    elf = ElfWriter()
    elf.function("xdp", "main", RETURN)
    elf.function("tc", "main", RETURN)

    with pytest.raises(ObjectFileError, match="defined twice"):
        read_object(elf.build())


def test_two_code_sections_of_one_name_are_refused() -> None:
    elf = ElfWriter()
    elf.function("xdp", "main", RETURN)
    elf.section("xdp", flags=6)

    with pytest.raises(ObjectFileError, match="second code section"):
        read_object(elf.build())


@pytest.mark.parametrize(("value", "size"), [(0, 12), (4, 8), (0, 32), (16, 0)])
def test_functions_that_are_cut_or_overlap_are_refused(value: int, size: int) -> None:
    elf = ElfWriter()
    odd = elf.function("xdp", "odd", RETURN)
    elf.function("xdp", "next", RETURN)
    odd.value, odd.size = value, size

    with pytest.raises(ObjectFileError, match="splits an instruction, is empty, or runs into"):
        read_object(elf.build())


def test_more_programs_than_anybody_writes_are_refused() -> None:
    elf = ElfWriter()
    for number in range(MAX_PROGRAMS + 1):
        elf.function("xdp", f"p{number}", RETURN)

    with pytest.raises(ObjectFileError, match="4097 programs; at most 4096"):
        read_object(elf.build())


def test_more_functions_than_the_kernel_takes_are_refused() -> None:
    """Each program lists what it reaches: without a limit a chain would need memory squared."""
    elf = ElfWriter()
    elf.function("xdp", "main", CALLING)
    for number in range(256):
        function = elf.function(".text", f"f{number}", CALLING if number < 255 else RETURN)
        elf.relocation(elf.symbols[-2], function, type=R_BPF_64_32)

    with pytest.raises(ObjectFileError, match="more than 256 functions"):
        read_object(elf.build())


def stripped(*sections: str) -> ElfWriter:
    elf = ElfWriter()
    elf.license("GPL")
    for name in sections:
        elf.section(name, encode([mov_imm(0, 2), exit_()]), flags=6)
    return elf


@pytest.mark.parametrize("sections", [("xdp",), (".text", "tc", "xdp")])
def test_code_without_any_symbol_was_stripped(sections: tuple[str, ...]) -> None:
    with pytest.raises(ObjectFileError, match="the file was stripped") as caught:
        read_object(stripped(*sections).build())

    assert caught.value.section == sections[0]
    assert "strip -g" in caught.value.hint


@pytest.mark.parametrize("name", ["maps", ".maps", "maps/one"])
def test_maps_without_any_symbol_were_stripped(name: str) -> None:
    elf = ElfWriter()
    elf.section(name, bytes(20))

    with pytest.raises(ObjectFileError, match="the file was stripped"):
        read_object(elf.build())
