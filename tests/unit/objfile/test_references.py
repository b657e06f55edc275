"""What instructions refer to, and references that would make a wrong program."""

from __future__ import annotations

import struct

import pytest

from bpfpin.errors import ObjectFileError, UsageError
from bpfpin.insn import CALL, Instruction, call_helper, exit_, load_imm64, mov_imm
from bpfpin.objfile.elf.file import SHN_ABS, SHN_COMMON, SymbolBinding
from bpfpin.objfile.reader import read_object
from bpfpin.spec import FunctionSpec, Reference, ReferenceKind
from support.elf_writer import R_BPF_64_32, ElfWriter, NewSymbol

RETURN = [mov_imm(0, 2), exit_()]
MAP_DEF = struct.pack("<5I", 2, 4, 8, 16, 0)
UNLINKED_CALL = Instruction(CALL, src=1, imm=-1)


def functions_of(elf: ElfWriter, program: str = "main") -> dict[str, FunctionSpec]:
    spec = read_object(elf.build())
    return {function.name: function for function in spec.programs[program].functions}


def references_of(elf: ElfWriter) -> list[Reference]:
    return list(functions_of(elf)["main"].references)


def with_load(value: int = 0) -> tuple[ElfWriter, NewSymbol]:
    """Return an object whose program loads a 64-bit value in slots 0 and 1."""
    elf = ElfWriter()
    return elf, elf.function("xdp", "main", [*load_imm64(1, value), *RETURN])


def with_call(imm: int = -1) -> tuple[ElfWriter, NewSymbol]:
    """Return an object whose program calls in slot 0."""
    elf = ElfWriter()
    return elf, elf.function("xdp", "main", [Instruction(CALL, src=1, imm=imm), *RETURN])


def test_a_map_is_referred_to_by_its_symbol() -> None:
    elf, program = with_load()
    maps = elf.section("maps", MAP_DEF * 2)
    elf.symbol("first", maps, size=20)
    elf.relocation(program, elf.symbol("second", maps, value=20, size=20))

    assert references_of(elf) == [Reference(0, ReferenceKind.MAP, "second")]


def test_a_map_is_referred_to_by_its_section_and_an_offset() -> None:
    elf, program = with_load(20)
    maps = elf.section("maps", MAP_DEF * 2)
    elf.symbol("first", maps, size=20)
    elf.symbol("second", maps, value=20, size=20)
    elf.relocation(program, elf.section_symbol(maps))

    assert references_of(elf) == [Reference(0, ReferenceKind.MAP, "second")]


def test_a_named_variable_is_a_place_in_the_value_of_its_sections_map() -> None:
    elf, program = with_load()
    elf.relocation(program, elf.symbol("counter", elf.bss(".bss", 16), value=8, size=8))

    assert references_of(elf) == [Reference(0, ReferenceKind.MAP_VALUE, ".bss", 8)]


def test_a_static_variable_is_a_section_and_the_offset_in_the_instruction() -> None:
    elf, program = with_load(4)
    elf.relocation(program, elf.section_symbol(elf.section(".rodata.str1.1", b"%d\n\0hi\0")))

    assert references_of(elf) == [Reference(0, ReferenceKind.MAP_VALUE, ".rodata.str1.1", 4)]


def test_an_addend_of_the_relocation_counts_instead_of_the_instructions() -> None:
    elf, program = with_load(99)
    elf.relocation(program, elf.section_symbol(elf.bss(".bss", 16)), addend=12)

    assert references_of(elf) == [Reference(0, ReferenceKind.MAP_VALUE, ".bss", 12)]


def test_a_call_by_name_goes_to_that_function() -> None:
    elf, program = with_call()
    elf.relocation(program, elf.function(".text", "helper", RETURN), type=R_BPF_64_32)

    assert references_of(elf) == [Reference(0, ReferenceKind.CALL, "helper")]


def test_a_call_by_section_and_addend_goes_to_the_function_there() -> None:
    """The addend of a call counts instructions from its next: `call 1` is byte 16."""
    elf, program = with_call(imm=1)
    elf.function(".text", "first", RETURN, binding=SymbolBinding.LOCAL)
    text = elf.function(".text", "second", RETURN, binding=SymbolBinding.LOCAL).section
    assert text is not None
    elf.relocation(program, elf.section_symbol(text), type=R_BPF_64_32)

    assert references_of(elf) == [Reference(0, ReferenceKind.CALL, "second")]


def test_a_call_within_the_section_needs_no_relocation() -> None:
    elf, _ = with_call(imm=2)
    elf.function("xdp", "beside", RETURN, binding=SymbolBinding.LOCAL)

    assert references_of(elf) == [Reference(0, ReferenceKind.CALL, "beside")]


def test_an_address_of_code_is_a_reference_to_the_function() -> None:
    elf, program = with_load(16)
    elf.function(".text", "other", RETURN, binding=SymbolBinding.LOCAL)
    text = elf.function(".text", "callback", RETURN, binding=SymbolBinding.LOCAL).section
    assert text is not None
    elf.relocation(program, elf.section_symbol(text))

    assert references_of(elf) == [Reference(0, ReferenceKind.FUNCTION, "callback")]


def test_helper_calls_and_plain_numbers_are_no_references() -> None:
    elf = ElfWriter()
    elf.function("xdp", "main", [*load_imm64(1, 2**40), call_helper(7), *RETURN])

    assert references_of(elf) == []


def test_a_program_has_all_functions_it_can_reach_and_itself_first() -> None:
    elf, program = with_call()
    inner = elf.function(".text", "inner", RETURN)
    outer = elf.function(".text", "outer", [UNLINKED_CALL, *RETURN])
    elf.function(".text", "unused", RETURN)
    elf.relocation(program, outer, type=R_BPF_64_32)
    elf.relocation(outer, inner, type=R_BPF_64_32)

    assert list(functions_of(elf)) == ["main", "outer", "inner"]


def test_static_functions_of_one_name_carry_their_sections() -> None:
    elf = ElfWriter()
    program = elf.function("xdp", "main", [UNLINKED_CALL, UNLINKED_CALL, *RETURN])
    one = elf.function("one", "helper", RETURN, binding=SymbolBinding.LOCAL)
    two = elf.function("two", "helper", RETURN, binding=SymbolBinding.LOCAL)
    elf.relocation(program, one, at=0, type=R_BPF_64_32)
    elf.relocation(program, two, at=1, type=R_BPF_64_32)

    assert list(functions_of(elf)) == ["main", "one:helper", "two:helper"]


def test_a_function_symbol_without_type_and_size_reaches_to_the_next() -> None:
    elf = ElfWriter()
    first = elf.function("xdp", "main", RETURN)
    second = elf.function("xdp", "other", [mov_imm(0, 1), *RETURN])
    first.type = second.type = first.size = second.size = 0

    assert len(functions_of(elf, "main")["main"].instructions) == 2
    assert len(functions_of(elf, "other")["other"].instructions) == 3


def test_a_reference_into_data_that_holds_addresses_is_refused() -> None:
    """Nobody fills those addresses in, so that the program would read zeros."""
    elf, program = with_load()
    data = elf.section(".rodata", bytes(8))
    text = elf.section_symbol(elf.section(".rodata.str1.1", b"text\0"))
    elf.relocation(data, text, type=2)
    elf.relocation(program, elf.section_symbol(data))

    with pytest.raises(ObjectFileError, match="contains an address"):
        read_object(elf.build())


def test_a_reference_past_the_end_of_its_data_is_refused() -> None:
    elf, program = with_load(16)
    elf.relocation(program, elf.section_symbol(elf.bss(".bss", 16)))

    with pytest.raises(ObjectFileError, match=r"byte 16 of section \.bss"):
        read_object(elf.build())


def test_a_reference_into_the_middle_of_a_map_definition_is_refused() -> None:
    elf, program = with_load(4)
    maps = elf.section("maps", MAP_DEF)
    elf.symbol("counts", maps, size=20)
    elf.relocation(program, elf.section_symbol(maps))

    with pytest.raises(ObjectFileError, match="byte 4 of section maps"):
        read_object(elf.build())


def test_a_reference_to_a_section_that_is_no_map_is_refused() -> None:
    elf, program = with_load()
    elf.relocation(program, elf.symbol("text", elf.license("GPL"), size=4))

    with pytest.raises(ObjectFileError, match="section license, which is neither a map"):
        read_object(elf.build())


def test_a_call_into_the_middle_of_a_function_is_refused() -> None:
    elf, _ = with_call(imm=0)

    with pytest.raises(ObjectFileError, match="where no function begins"):
        read_object(elf.build())


def test_a_call_of_a_kernel_function_names_it_and_the_section() -> None:
    elf, program = with_call()
    elf.relocation(program, elf.symbol("bpf_obj_new"), type=R_BPF_64_32)

    with pytest.raises(ObjectFileError, match="main calls bpf_obj_new") as caught:
        read_object(elf.build())

    assert (caught.value.symbol, caught.value.section) == ("bpf_obj_new", "xdp")
    assert caught.value.offset == 0
    assert "__ksym" in caught.value.hint


@pytest.mark.parametrize("name", ["LINUX_KERNEL_VERSION", "CONFIG_HZ"])
def test_a_variable_of_the_kernel_is_refused_by_name(name: str) -> None:
    elf, program = with_load()
    elf.relocation(program, elf.symbol(name))

    with pytest.raises(ObjectFileError, match=f"uses {name}, which the object does not define"):
        read_object(elf.build())


def test_an_undefined_symbol_is_a_number_that_the_loader_gives() -> None:
    elf, program = with_load()
    elf.relocation(program, elf.symbol("LIMIT", type=0))

    spec = read_object(elf.build())
    given = spec.with_constant("LIMIT", -2).with_constant("LIMIT", 0x1_2345_6789)

    assert (spec.constants, given.constants) == ({"LIMIT": None}, {"LIMIT": 0x1_2345_6789})
    assert spec.programs["main"].functions[0].references == ()
    code = given.programs["main"].functions[0].instructions
    assert [code[0].imm, code[1].imm] == [0x2345_6789, 1]


@pytest.mark.parametrize("value", [-(1 << 63) - 1, 1 << 64])
def test_a_number_that_does_not_fit_is_refused(value: int) -> None:
    elf, program = with_load()
    elf.relocation(program, elf.symbol("LIMIT", type=0))
    spec = read_object(elf.build())

    with pytest.raises(ValueError, match="64 bits"):
        spec.with_constant("LIMIT", value)
    with pytest.raises(UsageError, match="it has: LIMIT"):
        spec.with_constant("OTHER", 1)


def test_a_number_of_the_loader_that_is_added_to_is_refused() -> None:
    elf, program = with_load(8)
    elf.relocation(program, elf.symbol("LIMIT", type=0))

    with pytest.raises(ObjectFileError, match="adds to LIMIT"):
        read_object(elf.build())


def data_with_address(*, at: int, used: int) -> ElfWriter:
    """Return an object with variables of 8 bytes, `a` and `b`, whose byte *at* is an address."""
    elf, program = with_load(used)
    data = elf.section(".data", b"\x07" * 16, flags=3)
    elf.symbol("a", data, size=8)
    elf.symbol("b", data, value=8, size=8)
    text = elf.section_symbol(elf.section(".rodata.str1.1", b"text\0"))
    elf.relocation(data, text, at=at, type=2)
    elf.relocation(program, elf.section_symbol(data))
    return elf


def test_an_address_in_data_is_zero_and_the_other_variables_are_used() -> None:
    spec = read_object(data_with_address(at=8, used=0).build())

    assert spec.maps[".data"].contents == b"\x07" * 8 + bytes(8)
    assert "b: addresses are 0 in the map" in spec.maps[".data"].note
    assert any("map .data: b: addresses" in note for note in spec.notes)


@pytest.mark.parametrize("used", [8, 12, 15])
def test_a_variable_with_an_address_is_refused_where_it_is_used(used: int) -> None:
    with pytest.raises(ObjectFileError, match="main uses b, which contains an address"):
        read_object(data_with_address(at=8, used=used).build())


@pytest.mark.parametrize(
    ("index", "words"), [(SHN_COMMON, "is in no section"), (SHN_ABS, "a fixed number")]
)
def test_a_symbol_without_a_section_is_refused(index: int, words: str) -> None:
    elf, program = with_load()
    symbol = elf.symbol("odd")
    symbol.section_index = index
    elf.relocation(program, symbol)

    with pytest.raises(ObjectFileError, match=words):
        read_object(elf.build())


def test_a_relocation_that_does_not_fit_its_instruction_is_refused() -> None:
    elf, program = with_load()
    helper = elf.function(".text", "helper", RETURN)
    elf.relocation(program, helper, at=0, type=R_BPF_64_32)

    with pytest.raises(ObjectFileError, match="relocation type 10 does not fit"):
        read_object(elf.build())


@pytest.mark.parametrize("at", [1, 2], ids=["upper half", "return"])
def test_a_relocation_where_nothing_can_be_filled_in_is_refused(at: int) -> None:
    elf, program = with_load()
    elf.relocation(program, elf.section_symbol(elf.bss(".bss", 8)), at=at)

    with pytest.raises(ObjectFileError):
        read_object(elf.build())


def test_two_relocations_of_one_instruction_are_refused() -> None:
    elf, program = with_load()
    bss = elf.section_symbol(elf.bss(".bss", 8))
    elf.relocation(program, bss)
    elf.relocation(program, bss)

    with pytest.raises(ObjectFileError, match="second one"):
        read_object(elf.build())


@pytest.mark.parametrize("source", [1, 2, 4])
def test_a_descriptor_in_the_file_is_refused(source: int) -> None:
    """It would be whatever this process happens to have open under that number."""
    elf = ElfWriter()
    elf.function("xdp", "main", [*load_imm64(1, 3, src=source), *RETURN])

    with pytest.raises(
        ObjectFileError, match="refers to a map or kernel object without relocation"
    ):
        read_object(elf.build())


def test_a_load_that_is_cut_in_two_is_refused() -> None:
    elf = ElfWriter()
    elf.function("xdp", "main", [mov_imm(0, 1), load_imm64(1, 3)[0]])

    with pytest.raises(ObjectFileError, match="without its upper half"):
        read_object(elf.build())


def of_gcc(elf: ElfWriter) -> ElfWriter:
    elf.section(".comment", b"GCC: (12.2.0) 12.2.0\0", flags=0)
    return elf


def test_gcc_writes_the_place_of_a_map_into_the_instruction_too() -> None:
    """The symbol alone says which map it is."""
    elf, program = with_load(20)
    maps = elf.section("maps", MAP_DEF * 2)
    elf.symbol("first", maps, size=20)
    elf.relocation(program, elf.symbol("second", maps, value=20, size=20))

    assert references_of(elf) == [Reference(0, ReferenceKind.MAP, "second")]


@pytest.mark.parametrize(
    ("imm", "is_of_gcc", "offset"),
    [
        (16, False, 16),  # only the form of GCC lies within the variable
        (24, False, 24),
        (0, True, 16),  # only that of LLVM does
        (4, True, 20),
    ],
)
def test_the_place_of_a_variable_is_read_in_the_form_that_fits(
    imm: int, is_of_gcc: bool, offset: int
) -> None:
    elf, program = with_load(imm)
    data = elf.section(".data", bytes(32), flags=3)
    elf.relocation(program, elf.symbol("b", data, value=16, size=16))
    if is_of_gcc:
        of_gcc(elf)

    assert references_of(elf) == [Reference(0, ReferenceKind.MAP_VALUE, ".data", offset)]


def test_where_both_forms_fit_the_compiler_says_which_it_is() -> None:
    found = []
    for is_of_gcc in (False, True):
        elf, program = with_load(8)
        data = elf.section(".data", bytes(64), flags=3)
        elf.relocation(program, elf.symbol("b", data, value=8, size=56))
        found += references_of(of_gcc(elf) if is_of_gcc else elf)

    assert [each.addend for each in found] == [16, 8]


@pytest.mark.parametrize("is_named", [True, False])
def test_gcc_counts_calls_in_bytes(is_named: bool) -> None:
    elf = of_gcc(ElfWriter())
    elf.license("GPL")
    call = Instruction(CALL, src=1, imm=31)
    main = elf.function("xdp", "main", [call, exit_()])
    first = elf.function(".text", "first", [mov_imm(0, 1), mov_imm(0, 2), mov_imm(0, 3), exit_()])
    second = elf.function(".text", "second", [mov_imm(0, 3), exit_()])
    assert first.section is not None
    target = second if is_named else elf.section_symbol(first.section)
    elf.relocation(main, target, type=R_BPF_64_32)

    assert [each.target for each in references_of(elf)] == ["second"]
