"""Objects that read well and that the kernel refuses: our errors, and nothing left behind."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Float, Function, FunctionPrototype, Linkage, Member, Struct, Union
from bpfpin.errors import LimitError, SyscallError, VerifierError
from bpfpin.insn import Instruction
from bpfpin.loading.collection import load
from bpfpin.objfile.reader import read_object
from bpfpin.spec import FunctionSpec, LineInfo, ObjectSpec
from support.btf_tables import U32, table
from support.objects import compiled


@pytest.fixture
def spec() -> ObjectSpec:
    return read_object(compiled("subprograms"))


def with_main(
    spec: ObjectSpec, change: Callable[[FunctionSpec], FunctionSpec], *, btf: Btf | None = None
) -> ObjectSpec:
    """Return *spec* with the entry function of each program changed."""
    programs = {
        name: each.with_changes(functions=(change(each.functions[0]), *each.functions[1:]))
        for name, each in spec.programs.items()
    }
    return dataclasses.replace(spec, programs=programs, btf=btf or spec.btf)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (names alone)


def error_of(spec: ObjectSpec) -> SyscallError | None:
    """Return what the kernel has against *spec*; any other exception comes through."""
    try:
        load(spec).close()
    except SyscallError as error:
        return error
    return None


BAD_LINES: dict[str, Callable[[tuple[LineInfo, ...]], tuple[LineInfo, ...]]] = {
    "backwards": lambda lines: lines[::-1],
    "twice": lambda lines: (lines[0], *lines),
    "past the end": lambda lines: (*lines, LineInfo(1 << 20, 1, 1, 0)),
    "a file name out of the strings": lambda lines: (
        lines[0]._replace(file_name_offset=1 << 24),
        *lines[1:],
    ),
    "a line out of the strings": lambda lines: (
        lines[0]._replace(line_offset=0xFFFFFFFF),
        *lines[1:],
    ),
}


@pytest.mark.parametrize("change", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_line_infos_that_the_kernel_refuses_are_left_out(
    spec: ObjectSpec, change: Callable[[tuple[LineInfo, ...]], tuple[LineInfo, ...]]
) -> None:
    """They are an ornament: the program loads without, or our error says what is wrong."""
    bad = with_main(spec, lambda main: dataclasses.replace(main, line_info=change(main.line_info)))
    before = descriptors()
    error = error_of(bad)

    assert error is None or (isinstance(error, VerifierError) and error.log)
    assert descriptors() == before


BAD_TYPES = {
    "a float of three bytes": table(U32, Float("f", 3)),
    "a global function without parameters' names": table(
        U32, FunctionPrototype(1, ()), Function("1st", 2, Linkage.GLOBAL)
    ),
    "a union of no size with a member": table(U32, Union("u", 4, (Member("1", 1, 0),))),
    "a structure with a name that is none": table(U32, Struct("a b", 4, (Member("x", 1, 0),))),
}


@pytest.mark.parametrize("btf", BAD_TYPES.values(), ids=BAD_TYPES.keys())
def test_types_that_the_kernel_refuses_are_left_out_with_a_note(btf: Btf) -> None:
    """The programs have no function infos of such a table, and do not need them."""
    plain = read_object(compiled("legacy_map_def", has_debug=False))
    before = descriptors()
    with load(dataclasses.replace(plain, btf=btf)) as loaded:
        notes = loaded.notes

    assert any("no lines of C in verifier logs" in note for note in notes)
    assert descriptors() == before


@pytest.mark.parametrize("type_id", [1, 0xFFFFFF, 0xFFFFFFFF])
def test_function_infos_that_name_no_function_are_our_error_or_left_out(
    spec: ObjectSpec, type_id: int
) -> None:
    bad = with_main(spec, lambda main: dataclasses.replace(main, type_id=type_id))
    before = descriptors()
    error = error_of(bad)

    assert error is None or error.command == "BPF_PROG_LOAD"
    assert descriptors() == before


@pytest.mark.parametrize(
    "code",
    [
        (Instruction(0xFF),),
        (Instruction(0x18),),
        (Instruction(0x85, imm=0x7FFFFFFF),),
        (Instruction(0x05, offset=-1),),
        (Instruction(0x07, dst=15, imm=1),),
    ],
    ids=["unknown", "half a load", "no helper", "no end", "no register"],
)
def test_instructions_that_the_kernel_refuses_are_its_verifiers_word(
    spec: ObjectSpec, code: tuple[Instruction, ...]
) -> None:
    bad = with_main(
        spec, lambda main: dataclasses.replace(main, instructions=code, references=(), line_info=())
    )
    before = descriptors()
    with pytest.raises(VerifierError) as caught:
        load(bad)

    assert caught.value.log
    assert descriptors() == before


def test_a_map_over_the_limit_is_refused_before_any_is_made() -> None:
    spec = read_object(compiled("several_maps"))
    name = list(spec.maps)[-1]
    before = descriptors()
    with pytest.raises(LimitError, match=f"{name}.*the limit is 256 MiB"):
        load(spec.with_map(name, max_entries=1 << 30), max_map_memory=256 << 20)

    assert descriptors() == before
