"""Externs looked up in given types and filled into instructions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.btf import blob as btf_blob
from bpfpin.btf.types import BtfType, Function, FunctionPrototype, Parameter, Pointer, Var
from bpfpin.btf.write import encode
from bpfpin.errors import NotSupportedError, PermissionDeniedError
from bpfpin.externs import ExternKind, ExternSpec
from bpfpin.fixup.externs import (
    POISON,
    Answer,
    ModuleTypes,
    fill,
    poisoned_number,
    used_externs,
)
from bpfpin.fixup.externs_find import ExternSources, answers
from bpfpin.insn import CALL, LD_IMM64, Instruction, exit_, load_imm64
from bpfpin.spec import FunctionSpec, ObjectSpec, ProgramSpec, Reference, ReferenceKind
from bpfpin.uapi import ProgramType, PseudoCall, PseudoSource
from support.btf_tables import S32, U64, table

TAKES_INT = FunctionPrototype(1, (Parameter("number", 1),))
KERNEL = table(S32, TAKES_INT, Function("bpf_count_all", 2), Var("jiffies_64", 1))
CALLING = [Instruction(CALL, src=1, imm=-1), exit_()]


def module_with(kind: BtfType) -> Btf:
    """Return the types of a module, which stand on those of the kernel, strings as well."""
    data = encode(kind, lambda _: len(KERNEL.strings))
    return Btf.parse(btf_blob(data, kind.name.encode() + b"\0"), base=KERNEL)


def sources(*modules: tuple[str, Btf], addresses: dict[str, int] | None = None) -> ExternSources:
    def types() -> Iterable[tuple[str, Btf]]:
        return [("", KERNEL), *modules]

    return ExternSources(lambda _: {}, lambda _: addresses or {}, types)


def function(name: str, *types: BtfType, is_weak: bool = False) -> ExternSpec:
    types_table = table(*types)
    return ExternSpec(name, ExternKind.KFUNC, types_table.ref(len(types)), is_weak)


def variable(name: str, kind: BtfType = S32, *, is_weak: bool = False) -> ExternSpec:
    return ExternSpec(name, ExternKind.KSYM_TYPED, table(kind).ref(1), is_weak)


def symbol(name: str, *, is_weak: bool = False) -> ExternSpec:
    return ExternSpec(name, ExternKind.KSYM, table(S32).ref(0), is_weak)


def answer(extern: ExternSpec, given: ExternSources) -> Answer:
    (kernel_answer,) = answers([extern], given)
    return kernel_answer


def program(
    code: list[Instruction], kind: ReferenceKind, extern: ExternSpec, *others: ExternSpec
) -> ObjectSpec:
    """Return an object whose one program refers to *extern* by its first instruction."""
    entry_function = FunctionSpec("run", "xdp", tuple(code), (Reference(0, kind, extern.name),))
    spec = ProgramSpec("run", ProgramType.XDP, "xdp", (entry_function,))
    externs = {entry.name: entry for entry in (*others, extern)}
    return ObjectSpec({}, {"run": spec}, externs=externs)


def filled(
    spec: ObjectSpec, kernel_answer: Answer, **modules: ModuleTypes
) -> Sequence[Instruction]:
    filled_function = fill(spec, [kernel_answer], modules).programs["run"].functions[0]
    assert filled_function.references == ()
    return tuple(filled_function.instructions)


def test_a_function_is_found_by_name_and_prototype() -> None:
    kernel_answer = answer(function("bpf_count_all", S32, TAKES_INT), sources())

    assert (kernel_answer.number, kernel_answer.module, kernel_answer.text) == (
        3,
        "",
        "type 3 of vmlinux",
    )


def test_a_flavour_is_looked_up_without_it() -> None:
    assert answer(variable("jiffies_64___old"), sources()).number == 4


def test_a_function_of_another_prototype_is_told_with_both() -> None:
    wanted = function("bpf_count_all", S32, FunctionPrototype(1, ()))
    error = answer(wanted, sources()).error

    assert isinstance(error, NotSupportedError)
    assert "asks for s32 bpf_count_all(void)" in str(error)
    assert "the kernel has s32 bpf_count_all(s32)" in str(error)


def test_a_weak_one_of_another_type_counts_as_absent() -> None:
    kernel_answer = answer(variable("jiffies_64", Pointer(0), is_weak=True), sources())

    assert (kernel_answer.is_found, kernel_answer.error, kernel_answer.text) == (
        False,
        None,
        "absent",
    )


def test_integers_of_other_sizes_fit_as_for_libbpf() -> None:
    assert answer(variable("jiffies_64", U64), sources()).number == 4


def test_what_is_absent_is_told_with_names_like_it() -> None:
    error = answer(function("bpf_count_al", S32, TAKES_INT), sources()).error

    assert error is not None
    assert "function bpf_count_al, which" in str(error)
    assert "there are: bpf_count_all" in str(error)
    assert "__weak" in error.hint


def test_a_variable_is_no_function_of_that_name() -> None:
    assert answer(function("jiffies_64", S32, TAKES_INT), sources()).error is not None


def test_a_module_is_asked_for_what_the_kernel_lacks() -> None:
    module = module_with(Function("bpf_of_module", 2))
    kernel_answer = answer(function("bpf_of_module", S32, TAKES_INT), sources(("nf_nat", module)))

    assert (kernel_answer.number, kernel_answer.module) == (len(KERNEL), "nf_nat")
    assert kernel_answer.text == f"type {len(KERNEL)} of nf_nat"


def test_an_error_of_the_kernel_stands_at_each_that_asked() -> None:
    def refuse(_: object) -> dict[str, int]:
        raise PermissionDeniedError("no addresses")

    given = ExternSources(lambda _: {}, refuse, list)
    kernel_answer = answers([symbol("_text"), symbol("_etext", is_weak=True)], given)

    assert [str(entry.error) for entry in kernel_answer] == [str(kernel_answer[0].error)] * 2


def test_the_address_of_a_symbol_fills_both_halves() -> None:
    given = sources(addresses={"_text": 0xFFFFFFFF81000000})
    wanted = symbol("_text")
    spec = program([*load_imm64(3, 0), exit_()], ReferenceKind.EXTERN, wanted)
    code = filled(spec, answer(wanted, given))

    assert code[:2] == load_imm64(3, 0xFFFFFFFF81000000)


@pytest.mark.parametrize(
    "wanted", [symbol("nowhere", is_weak=True), variable("nowhere", is_weak=True)]
)
def test_a_weak_absent_address_is_zero(wanted: ExternSpec) -> None:
    spec = program([*load_imm64(3, 99), exit_()], ReferenceKind.EXTERN, wanted)
    code = filled(spec, answer(wanted, sources()))

    assert code[:2] == load_imm64(3, 0)


def test_a_variable_of_a_module_carries_the_modules_descriptor() -> None:
    wanted = variable("of_module")
    spec = program([*load_imm64(3, 0), exit_()], ReferenceKind.EXTERN, wanted)
    code = filled(spec, Answer(wanted, 7, "nf_nat"), nf_nat=ModuleTypes(fd=12, position=1))

    assert code[0] == Instruction(LD_IMM64, 3, int(PseudoSource.BTF_ID), 0, 7)
    assert code[1].imm == 12


@pytest.mark.parametrize(("module", "position"), [("", 0), ("nf_nat", 2)])
def test_a_call_names_the_function_and_where_its_types_are(module: str, position: int) -> None:
    wanted = function("bpf_count_all", S32, TAKES_INT)
    spec = program(CALLING, ReferenceKind.EXTERN_CALL, wanted)
    code = filled(spec, Answer(wanted, 3, module), nf_nat=ModuleTypes(fd=12, position=2))

    assert code[0] == Instruction(CALL, 0, int(PseudoCall.KFUNC_CALL), position, 3)


def test_a_call_of_what_is_absent_is_poisoned_with_its_number() -> None:
    wanted = function("nowhere", S32, TAKES_INT, is_weak=True)
    spec = program(CALLING, ReferenceKind.EXTERN_CALL, wanted, symbol("_text"))
    code = filled(spec, answer(wanted, sources()))

    assert code[0] == Instruction(CALL, imm=POISON + 1)
    assert poisoned_number(code[0].imm) == 1
    assert poisoned_number(5) is None


def test_only_what_is_used_is_asked_for() -> None:
    wanted = function("bpf_count_all", S32, TAKES_INT)
    unused = symbol("_text")
    configured = ExternSpec("CONFIG_X", ExternKind.KCONFIG, table(S32).ref(1), size=4)
    spec = program(CALLING, ReferenceKind.EXTERN_CALL, wanted, unused, configured)

    assert used_externs(spec) == (configured, wanted)


def test_a_value_reads_as_its_type() -> None:
    extern = ExternSpec("CONFIG_X", ExternKind.KCONFIG, table(S32).ref(1), size=4, offset=8)

    assert Answer(extern, contents=b"\xff\xff\xff\xff").text == "-1"
