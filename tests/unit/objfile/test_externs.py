"""What an object leaves to the kernel, as it is written in the file; also where it is wrong."""

from __future__ import annotations

import pytest

from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Function,
    FunctionPrototype,
    Int,
    IntEncoding,
    Linkage,
    Parameter,
    SectionVariable,
    Struct,
    Var,
)
from bpfpin.errors import ObjectFileError
from bpfpin.externs import ExternKind
from bpfpin.insn import CALL, Instruction, exit_, load_imm64, mov_imm
from bpfpin.objfile.reader import read_object
from bpfpin.spec import Dialect, ObjectSpec, Reference, ReferenceKind
from bpfpin.uapi import MapFlag
from support.btf_tables import S32, U64, blob
from support.elf_writer import R_BPF_64_32, ElfWriter
from support.objects import COMPILERS, compiled

CHAR = Int("char", 1, 8, IntEncoding.SIGNED)
KFUNC_CALL = Instruction(CALL, src=1, imm=-1)
LOAD = [*load_imm64(1, 0), mov_imm(0, 2), exit_()]


def with_extern(
    *types: BtfType,
    name: str = "wanted",
    section: str = ".kconfig",
    variable: BtfType | None = None,
    place: SectionVariable | None = None,
    times: int = 1,
) -> ElfWriter:
    """Return an object that loads the address of *name*, a variable of the last of *types*."""
    count = len(types)
    elf = ElfWriter()
    declared = variable or Var(name, count, Linkage.EXTERN)
    places = (place or SectionVariable(count + 1, 0, 0),) * times
    elf.section(".BTF", blob(*types, declared, DataSection(section, 0, places)), flags=0)
    program = elf.function("xdp", "run", LOAD)
    elf.relocation(program, elf.symbol(name, type=0), at=0)
    return elf


def read(elf: ElfWriter) -> ObjectSpec:
    return read_object(elf.build())


def references(spec: ObjectSpec) -> tuple[Reference, ...]:
    return spec.programs["run"].functions[0].references


def test_a_value_of_the_configuration_lies_in_a_map_of_constants() -> None:
    spec = read(with_extern(S32))
    config = spec.maps[".kconfig"]

    assert references(spec) == (Reference(0, ReferenceKind.MAP_VALUE, ".kconfig", 0),)
    assert (config.dialect, config.value_size, config.contents) == (Dialect.DATA, 4, bytes(4))
    assert config.is_frozen
    assert config.map_flags & MapFlag.RDONLY_PROG


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_values_lie_as_libbpf_lays_them(compiler: str) -> None:
    """By alignment, the largest first, then by size and name."""
    spec = read_object(compiled("config_values", compiler))
    ordered = sorted(spec.externs.values(), key=lambda extern: extern.offset)

    assert [(extern.name, extern.offset) for extern in ordered] == [
        ("CONFIG_PHYSICAL_START", 0),
        ("CONFIG_NET", 8),
        ("CONFIG_NEVER_THERE", 12),
        ("LINUX_KERNEL_VERSION", 16),
        ("CONFIG_HZ", 20),
        ("CONFIG_BPF_JIT", 22),
        ("CONFIG_BPF_SYSCALL", 23),
        ("LINUX_HAS_BPF_COOKIE", 24),
        ("LINUX_HAS_SYSCALL_WRAPPER", 25),
        ("CONFIG_NEVER_NAMED", 26),
        ("CONFIG_DEFAULT_HOSTNAME", 30),
    ]
    assert {extern.name for extern in ordered if extern.is_weak} == {
        "CONFIG_NEVER_THERE",
        "CONFIG_NEVER_NAMED",
    }


@pytest.mark.parametrize("compiler", COMPILERS)
def test_symbols_are_told_apart_by_their_types(compiler: str) -> None:
    externs = {
        **read_object(compiled("kernel_symbols", compiler)).externs,
        **read_object(compiled("kernel_variable", compiler)).externs,
    }

    assert externs["_text"].kind is ExternKind.KSYM
    assert externs["runqueues"].kind is ExternKind.KSYM_TYPED
    assert externs["bpf_task_from_pid"].kind is ExternKind.KFUNC
    assert externs["never_callable"].is_weak
    assert externs["never_callable"].c_source == "s32 never_callable(s32)"


def test_a_flavour_is_no_part_of_the_kernels_name() -> None:
    spec = read(with_extern(S32, name="wanted___old", section=".ksyms"))

    assert spec.externs["wanted___old"].kernel_name == "wanted"
    assert references(spec) == (Reference(0, ReferenceKind.EXTERN, "wanted___old"),)


@pytest.mark.parametrize(
    "types",
    [
        (Struct("s", 4, ()),),
        (CHAR, Array(1, 1, 0)),
        (S32, Array(1, 1, 4)),
        (Int("wide", 16, 128),),
        (Int("flag", 4, 32, IntEncoding.BOOL),),
        (FunctionPrototype(0, ()),),
    ],
    ids=["structure", "no length", "array of int", "16 bytes", "wide bool", "prototype"],
)
def test_types_that_no_configuration_fills_are_refused(types: tuple[BtfType, ...]) -> None:
    with pytest.raises(ObjectFileError):
        read(with_extern(*types))


def test_an_extern_without_a_type_is_refused() -> None:
    elf = with_extern(S32, variable=Var("wanted", 0, Linkage.EXTERN))
    with pytest.raises(ObjectFileError):
        read(elf)


@pytest.mark.parametrize("length", [(1 << 20) + 1, 1 << 31, (1 << 32) - 1])
def test_a_huge_array_is_refused_before_room_is_made_for_it(length: int) -> None:
    with pytest.raises(ObjectFileError, match="the limit is 1048576") as caught:
        read(with_extern(CHAR, Array(1, 1, length)))

    assert caught.value.symbol == "wanted"


@pytest.mark.parametrize("name", ["two words", "a-b", "../up", "\x01", "ä", "a" * 600])
def test_names_that_are_no_names_are_refused(name: str) -> None:
    with pytest.raises(ObjectFileError):
        read(with_extern(S32, name=name))


@pytest.mark.parametrize(
    "place",
    [SectionVariable(2, 0xFFFFFFFF, 4), SectionVariable(2, 0, 0xFFFFFFFF)],
    ids=["offset", "size"],
)
def test_places_in_the_types_mean_nothing(place: SectionVariable) -> None:
    try:
        spec = read(with_extern(S32, place=place))
    except ObjectFileError:
        return

    assert spec.maps[".kconfig"].value_size == 4


def test_a_section_with_something_else_in_it_is_refused() -> None:
    with pytest.raises(ObjectFileError):
        read(with_extern(S32, place=SectionVariable(1, 0, 4)))


def test_one_extern_twice_is_refused() -> None:
    with pytest.raises(ObjectFileError):
        read(with_extern(S32, times=2))


@pytest.mark.parametrize("section", [".elsewhere", ".data"])
def test_an_undefined_name_in_another_section_is_refused(section: str) -> None:
    with pytest.raises(ObjectFileError, match="uses wanted, which the object does not define"):
        read(with_extern(S32, section=section))


def test_an_undefined_name_without_types_is_a_number_of_the_loader() -> None:
    elf = ElfWriter()
    program = elf.function("xdp", "run", LOAD)
    elf.relocation(program, elf.symbol("wanted", type=0), at=0)

    assert read_object(elf.build()).constants == {"wanted": None}


def calling(
    prototype: FunctionPrototype, declared: BtfType, *, section: str = ".ksyms"
) -> ElfWriter:
    """Return an object that calls `wanted`."""
    elf = ElfWriter()
    data = DataSection(section, 0, (SectionVariable(3, 0, 0),))
    elf.section(".BTF", blob(S32, prototype, declared, data), flags=0)
    program = elf.function("xdp", "run", [KFUNC_CALL, exit_()])
    elf.relocation(program, elf.symbol("wanted", type=0), at=0, type=R_BPF_64_32)
    return elf


PROTOTYPE = FunctionPrototype(1, (Parameter("number", 1),))


def test_a_function_of_the_kernel_is_called() -> None:
    spec = read(calling(PROTOTYPE, Function("wanted", 2, Linkage.EXTERN)))

    assert references(spec) == (Reference(0, ReferenceKind.EXTERN_CALL, "wanted"),)


def test_a_variable_is_not_called() -> None:
    with pytest.raises(ObjectFileError, match="run calls s32 wanted"):
        read(calling(PROTOTYPE, Var("wanted", 1, Linkage.EXTERN)))


def test_a_function_is_no_value_of_the_configuration() -> None:
    declared = Function("wanted", 2, Linkage.EXTERN)
    with pytest.raises(
        ObjectFileError, match="cannot be filled in from the kernel's configuration"
    ):
        read(calling(PROTOTYPE, declared, section=".kconfig"))


def test_an_address_within_a_symbol_is_refused() -> None:
    elf = with_extern(U64, section=".ksyms")
    code = elf.sections[-1]
    code.data = code.data[:4] + b"\x08" + code.data[5:]
    with pytest.raises(ObjectFileError, match="uses byte 8 of u64 wanted"):
        read(elf)


def test_a_place_within_a_value_is_kept_and_one_behind_it_refused() -> None:
    def at(byte: int) -> ElfWriter:
        elf = with_extern(CHAR, Array(1, 1, 4))
        code = elf.sections[-1]
        code.data = code.data[:4] + bytes([byte]) + code.data[5:]
        return elf

    assert references(read(at(3)))[0].addend == 3
    with pytest.raises(ObjectFileError, match="uses byte 4"):
        read(at(4))
