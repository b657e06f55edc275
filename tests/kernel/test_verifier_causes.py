"""Programs that the kernel refuses: the cause, the line of C and the hint that come out of its log.

The object's C says at the end of a line what the verifier refuses there.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bpfpin import insn
from bpfpin.btf.btf import Btf
from bpfpin.errors import VerifierError
from bpfpin.fixup import externs
from bpfpin.fixup.core_patch import POISON
from bpfpin.loading.collection import load
from bpfpin.objects.programs.program import Program
from bpfpin.objects.verifier.attempt import LOG_LIMIT
from bpfpin.objects.verifier.table import Cause
from bpfpin.objfile.reader import read_object
from bpfpin.spec import FunctionSpec, ObjectSpec, ProgramSpec
from bpfpin.uapi import ProgramType
from bpfpin.uapi_helpers import FuncId
from support.objects import COMPILERS, SOURCES, compiled

NAME = "verifier_causes"
TEXT = (SOURCES / f"{NAME}.bpf.c").read_text()
LINES = TEXT.split("\n")
WITHOUT_LINE = "combined_stack"
PROGRAMS = [
    name for name in re.findall(r'SEC\("[\w/]+"\)\nint (\w+)\(', TEXT) if name != WITHOUT_LINE
]

JUMP_IF_EQUAL = 0x15
LOAD_WORD = 0x61
RETURN = (insn.mov_imm(0, 2), insn.exit_())


def refused(spec: ObjectSpec, name: str) -> VerifierError:
    """Return why the kernel does not take that program."""
    with pytest.raises(VerifierError) as caught:
        load(spec, programs=[name]).close()
    return caught.value


def made(
    *code: insn.Instruction, kind: ProgramType = ProgramType.XDP, license_: str = "GPL"
) -> ProgramSpec:
    return ProgramSpec("made", kind, "xdp", (FunctionSpec("made", "xdp", code),), license=license_)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_cause_and_the_line_of_c_are_told(name: str, compiler: str) -> None:
    error = refused(read_object(compiled(NAME, compiler)), name)
    line = LINES[error.line - 1]

    assert error.cause
    assert f" {error.cause} */" in line, str(error)
    assert line.strip().startswith(error.source)
    assert error.file.endswith(f"{NAME}.bpf.c")
    assert error.hint


def test_what_no_line_is_to_blame_for_has_a_cause_all_the_same() -> None:
    error = refused(read_object(compiled(NAME)), WITHOUT_LINE)

    assert (error.cause, error.line) == (Cause.STACK_SIZE, 0)


def test_the_instructions_and_the_registers_that_matter_are_shown() -> None:
    error = refused(read_object(compiled(NAME)), "null_check")

    assert len(error.instructions) == 4
    assert "call bpf_map_lookup_elem" in error.instructions[-2]
    assert "(r0 +0)" in error.instructions[-1]
    assert list(error.registers) == ["R0"]
    assert error.registers["R0"].startswith("map_value_or_null(")
    assert error.hint.startswith("R0 may be NULL")


def test_a_leak_names_the_line_that_took_what_is_leaked() -> None:
    error = refused(read_object(compiled(NAME)), "leaked")
    taken = 1 + next(n for n, line in enumerate(LINES) if "record = ringbuf_reserve" in line)

    assert f"what line {taken} took" in error.hint


def test_the_line_comes_from_the_object_where_the_kernel_is_not_given_it() -> None:
    """A kernel that does not take the object's types has no line of C in its log."""
    spec = read_object(compiled(NAME))
    given = spec.programs["context_field"]
    with pytest.raises(VerifierError) as caught:
        Program.load(given, types=_types(spec))

    assert "context)[40]" not in caught.value.log
    assert caught.value.source.startswith("return ((__u32 *)context)[40];")


def _types(spec: ObjectSpec) -> Btf:
    assert spec.btf is not None
    return spec.btf


ASSEMBLED = {
    Cause.UNREACHABLE: made(insn.Instruction(insn.JA, offset=1), insn.mov_imm(0, 1), *RETURN),
    Cause.NO_EXIT: made(insn.mov_imm(0, 2)),
    Cause.UNINITIALISED_REGISTER: made(insn.exit_()),
    Cause.LICENSE: made(insn.call_helper(FuncId.trace_printk), *RETURN, license_="Proprietary"),
    Cause.SLEEPABLE: made(*RETURN, kind=ProgramType.SYSCALL),
    Cause.CORE_RELOCATION: made(insn.call_helper(POISON + 3), *RETURN),
    Cause.WEAK_SYMBOL: made(insn.call_helper(externs.POISON), *RETURN),
    Cause.COMPLEXITY: made(
        insn.Instruction(LOAD_WORD, 1, 1),
        *(insn.Instruction(JUMP_IF_EQUAL, 1, imm=number) for number in range(8200)),
        *RETURN,
    ),
}


@pytest.mark.parametrize("cause", ASSEMBLED)
def test_what_compilers_do_not_write_has_a_cause_too(cause: Cause) -> None:
    with pytest.raises(VerifierError) as caught:
        Program.load(ASSEMBLED[cause])

    assert caught.value.cause == cause, str(caught.value)
    assert caught.value.hint


def test_a_callback_without_types_asks_for_them() -> None:
    spec = read_object(compiled("callbacks"))
    with pytest.raises(VerifierError) as caught:
        load(replace(spec, btf=None)).close()

    assert caught.value.cause == Cause.MISSING_BTF


def test_of_a_log_that_is_too_long_the_reason_is_kept() -> None:
    """The kernel keeps the end; before 6.4 it kept the beginning, and is asked for the reason."""
    with pytest.raises(VerifierError) as caught:
        Program.load(ASSEMBLED[Cause.COMPLEXITY], log_level=1, log_size=4096)

    head, mark, _ = caught.value.log.partition("[a part of the log is left out]\n")
    assert mark
    assert not head or head.startswith("0: R1=ctx(")
    assert len(caught.value.log) < 5000
    assert caught.value.cause == Cause.COMPLEXITY


def test_a_kernel_that_keeps_the_beginning_is_asked_for_the_reason_alone() -> None:
    """Level 8 is how kernels before 6.4 wrote a log that is too long."""
    with pytest.raises(VerifierError) as caught:
        Program.load(ASSEMBLED[Cause.COMPLEXITY], log_level=1 | 8, log_size=4096)

    assert caught.value.log.startswith("0: R1=ctx(")
    assert "[a part of the log is left out]\n" in caught.value.log
    assert caught.value.cause == Cause.COMPLEXITY


def test_a_good_program_is_loaded_however_long_its_log() -> None:
    branches = (insn.Instruction(JUMP_IF_EQUAL, 1, imm=number) for number in range(100))
    good = made(insn.Instruction(LOAD_WORD, 1, 1), *branches, *RETURN)
    with Program.load(good, log_level=2, log_size=512) as loaded:
        assert "processed" in loaded.log
        assert len(loaded.log) < 1000


@pytest.mark.parametrize(("level", "words"), [(1, []), (2, ["(b7) r0 = 2", "R0=2"]), (4, [])])
def test_the_levels_of_the_log_are_those_of_the_kernel(level: int, words: list[str]) -> None:
    """Of a good program only level 2 shows instructions."""
    with Program.load(made(*RETURN), log_level=level) as loaded:
        log = loaded.log.replace("R0_w=", "R0=")  # as older kernels mark what was just written
        assert [each for each in ("(b7) r0 = 2", "R0=2") if each in log] == words
        assert "processed 2 insns" in loaded.log


@pytest.mark.parametrize(("level", "size"), [(16, 4096), (1, 64), (1, LOG_LIMIT + 1)])
def test_a_log_that_there_is_not_is_a_value_error(level: int, size: int) -> None:
    with pytest.raises(ValueError, match="log_"):
        Program.load(made(*RETURN), log_level=level, log_size=size)


def test_a_line_of_c_cannot_steer_a_terminal() -> None:
    r"""The text is the object's: a byte of it becomes an escape sequence here."""
    spec = read_object(compiled(NAME))
    evil = _types(spec).to_bytes().replace(b"*counter += 1;", b"*\x1b[31mer += 1;")
    error = refused(replace(spec, btf=Btf.parse(evil)), "null_check")

    assert error.source.startswith(r"*\x1b[31mer += 1;")
    assert "\x1b" not in error.log
