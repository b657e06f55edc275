"""Causes of refusals by the words of kernels that are not at hand: older ones, other settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bpfpin.objects.verifier.table import TABLE, Cause, Diagnosis, diagnose


def line_of(index: int) -> str:
    """Name an instruction as an object with line information does."""
    return f"line {index + 100}"


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("R1 invalid mem access 'inv'", Cause.SCALAR_POINTER),
        ("R0 invalid mem access 'mem_or_null'", Cause.NULL_CHECK),
        ("R2 type=map_value_or_null expected=fp, pkt, pkt_meta", Cause.NULL_CHECK),
        ("Possibly NULL pointer passed to trusted arg0", Cause.NULL_CHECK),
        ("invalid indirect read from stack R2 off -4+0 size 4", Cause.UNINITIALISED_STACK),
        ("invalid read from stack off -16+0 size 8", Cause.UNINITIALISED_STACK),
        ("invalid write to stack R10 off=-520 size=8", Cause.STACK_SIZE),
        ("invalid stack off=-8 size=16", Cause.STACK_BOUNDS),
        ("invalid stack type R2 off=-2 access_size=4", Cause.STACK_BOUNDS),
        ("back-edge from insn 5 to 2", Cause.LOOP),
        ("BPF program is too large. Processed 1000001 insn", Cause.COMPLEXITY),
        ("cannot call GPL only function from proprietary program", Cause.LICENSE),
        (
            "cannot call GPL-restricted function from non-GPL compatible program",
            Cause.LICENSE,
        ),
        ("unknown func bpf_get_stackid#27", Cause.HELPER_NOT_ALLOWED),
        ("R2 is not a known constant'", Cause.NOT_CONSTANT),
        ("R2 unbounded memory access, make sure to bounds check", Cause.UNBOUNDED_OFFSET),
        ("R0 min value is negative, either use unsigned index", Cause.UNBOUNDED_OFFSET),
        ("misaligned packet access off 0+18+0 size 4", Cause.ALIGNMENT),
        ("write into map forbidden, value_size=8 off=0 size=8", Cause.READ_ONLY),
        ("map 'm' has to have BTF in order to use bpf_spin_lock", Cause.SPIN_LOCK),
        ("R1 must be referenced or trusted", Cause.TRUSTED_POINTER),
        ("tracing progs cannot use resizable hash maps yet", Cause.MAP_KIND),
        ("attach_btf_id 7 is not a function", Cause.ATTACH_TARGET),
        ("too many subprograms", Cause.CALL_DEPTH),
        ("math between fp pointer and register with unbounded min value", Cause.UNBOUNDED_OFFSET),
        ("R1 bitwise operator &= on pointer prohibited", Cause.POINTER_ARITHMETIC),
        ("dereference of modified ctx ptr R1 off=4 disallowed", Cause.MODIFIED_POINTER),
        ("R0 !read_ok", Cause.UNINITIALISED_REGISTER),
        ("jump out of range from insn 3 to 9", Cause.NO_EXIT),
        ("words of a kernel to come", Cause.UNKNOWN),
    ],
)
def test_the_cause_is_found_in_the_words(words: str, cause: Cause) -> None:
    assert diagnose(words, line_of).cause == cause


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("invalid func bpf_loop#181", "helper 181 (bpf_loop, which came with Linux 5.17)"),
        ("invalid func unknown#5000", "helper 5000 (unknown)"),
        ("invalid func unknown#9999999999", "(unknown)"),
        ("invalid func unknown#7", "helper 7 (bpf_get_prandom_u32)"),
        ("R7 !read_ok", "R7 has no value"),
        ("R2 type=ctx expected=fp", "argument 2 is to be fp and is ctx"),
        ("Unreleased reference id=2 alloc_insn=4", "what line 104 took"),
        ("program of this type cannot use helper bpf_loop#181", "may not call bpf_loop:"),
    ],
)
def test_a_hint_names_what_the_words_name(words: str, part: str) -> None:
    assert part in diagnose(words, line_of).hint


def test_without_a_cause_there_is_no_hint() -> None:
    assert diagnose("", line_of) == Diagnosis(Cause.UNKNOWN, "")


def test_every_cause_has_a_row() -> None:
    assert {cause for cause, _, _ in TABLE} == set(Cause) - {Cause.UNKNOWN}


def test_the_documents_name_every_cause() -> None:
    page = (Path(__file__).parents[3] / "docs" / "verifier-errors.md").read_text()

    assert set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`(?=[^\n]* \| )", page)) >= set(Cause) - {""}
