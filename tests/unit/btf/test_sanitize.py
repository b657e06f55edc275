"""What the kernel refuses is turned into what it takes, and nothing else changes."""

from __future__ import annotations

from bpfpin.btf.btf import Btf
from bpfpin.btf.sanitize import for_kernel
from bpfpin.btf.types import (
    DataSection,
    Function,
    FunctionPrototype,
    Linkage,
    Parameter,
    SectionVariable,
    Struct,
    Var,
)
from support.btf_tables import U32, U64, table

BLANK = Struct("", 0, ())
DATA = DataSection(".data", 0, (SectionVariable(2, 0, 4), SectionVariable(3, 0, 8)))
OBJECT = table(
    U32,
    Var("second", 1, Linkage.GLOBAL),
    Var("first", 4),
    U64,
    DATA,
)


def test_sizes_and_offsets_of_data_are_filled_in_and_sorted() -> None:
    sections = {".data": (16, {"first": 0, "second": 8})}
    loadable = for_kernel(OBJECT, data_sections=sections)

    assert loadable[5] == DataSection(
        ".data", 16, (SectionVariable(3, 0, 8), SectionVariable(2, 8, 4))
    )
    assert [loadable[i] for i in range(5)] == [OBJECT[i] for i in range(5)]
    assert loadable.strings.startswith(OBJECT.strings)


def test_variables_that_overlap_or_pass_the_end_are_left_out() -> None:
    overlapping = for_kernel(OBJECT, data_sections={".data": (16, {"first": 0, "second": 4})})
    outside = for_kernel(OBJECT, data_sections={".data": (8, {"first": 0, "second": 8})})

    for loadable in (overlapping, outside):
        section = loadable[5]
        assert isinstance(section, DataSection)
        assert section.variables == (SectionVariable(3, 0, 8),)


def test_what_a_linker_filled_in_stays() -> None:
    linked = DataSection(".data", 16, (SectionVariable(2, 4, 4), SectionVariable(3, 8, 8)))
    read = table(*(OBJECT[i] for i in range(1, 5)), linked)

    assert for_kernel(read, data_sections={".data": (16, {"second": 0})})[5] == linked


def test_what_is_defined_elsewhere_becomes_harmless() -> None:
    prototype = FunctionPrototype(1, (Parameter("", 1), Parameter("size", 1), Parameter("", 0)))
    read = table(
        U32,
        prototype,
        Var("jiffies", 1, Linkage.EXTERN),
        Function("kernel_function", 2, Linkage.EXTERN),
        DataSection(".ksyms", 0, (SectionVariable(3, 0, 4), SectionVariable(4, 0, 0))),
    )
    loadable = for_kernel(read, data_sections={})

    assert loadable[2] == FunctionPrototype(
        1, (Parameter("arg0", 1), Parameter("size", 1), Parameter("", 0))
    )
    assert (loadable[3], loadable[5]) == (BLANK, BLANK)
    assert loadable[4] == Function("kernel_function", 2, Linkage.GLOBAL)


def test_hidden_functions_become_static() -> None:
    read = table(
        FunctionPrototype(0, ()),
        Function("hidden", 1, Linkage.GLOBAL),
        Function("main", 1, Linkage.GLOBAL),
    )
    loadable = for_kernel(read, data_sections={}, static_functions={"hidden"})

    assert loadable[2] == Function("hidden", 1, Linkage.STATIC)
    assert loadable[3] == read[3]


def test_the_prototype_of_a_pointer_keeps_its_unnamed_parameters() -> None:
    read = table(U32, FunctionPrototype(1, (Parameter("", 1),)))

    assert for_kernel(read, data_sections={}).to_bytes() == read.to_bytes()


def test_types_that_change_in_size_leave_those_around_them_as_they_were() -> None:
    read = table(
        U32,
        Var("jiffies", 1, Linkage.EXTERN),
        DataSection(".ksyms", 0, (SectionVariable(2, 0, 4),)),
        U64,
        Var("last", 4, Linkage.GLOBAL),
    )
    loadable = for_kernel(read, data_sections={})

    assert loadable.types()[1:] == [U32, BLANK, BLANK, U64, read[5]]
    assert Btf.parse(loadable.to_bytes()).types() == loadable.types()
