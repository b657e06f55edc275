"""The lines of a verifier log that tell why, from logs as kernels write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import SyscallError, VerifierError
from bpfpin.objects.verifier.attempt import printable, unknown_helper
from bpfpin.objects.verifier.report import SourceLine, SourceLines, parse, refusal, telling_line
from bpfpin.objects.verifier.table import Cause
from bpfpin.spec import LineInfo

NULL_CHECK = """\
0: R1=ctx() R10=fp0
; __u64 *count = bpf_map_lookup_elem(&counts, &key); @ count.bpf.c:12
4: (18) r1 = 0xffff8881043c2c00       ; R1=map_ptr(map=counts,ks=4,vs=8)
6: (85) call bpf_map_lookup_elem#1    ; R0=map_value_or_null(id=1,map=counts,ks=4,vs=8)
; *count += 1; @ count.bpf.c:13
;  @ count.bpf.c:0
7: (79) r1 = *(u64 *)(r0 +0)
R0 invalid mem access 'map_value_or_null'
processed 7 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""

PACKET = """\
0: R1=ctx(off=0,imm=0) R10=fp0
; return data[20];
1: (71) r0 = *(u8 *)(r1 +20)
invalid access to packet, off=20 size=1, R1(id=0,off=20,r=0)
R1 offset is outside of the packet
verification time 36 usec
stack depth 0
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""

LOOP = """\
4: (63) *(u32 *)(r10 -4) = r1         ; R1=1 R10=fp0 fp-8=mmmm????
6: (55) if r1 != 0x7 goto pc-5 infinite loop detected at insn 2
cur state: R1=scalar(smin=0,smax=umax=0xffffffff) R10=fp0 fp-8=mmmm????
old state: R1=scalar(smin=0,smax=umax=0xffffffff) R10=fp0 fp-8=mmmm????
processed 17 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1 mark_read 0
"""

LOGS = Path(__file__).parent / "verifier_logs"  # written by these kernels
OLD, NEW = "6.18", "7.3"
NAMES = sorted(path.stem for path in (LOGS / NEW).iterdir())
CAUSES = {
    "call_while_locked": Cause.SPIN_LOCK,
    "combined_stack": Cause.STACK_SIZE,
    "complexity": Cause.COMPLEXITY,
    "context_field": Cause.CONTEXT_FIELD,
    "core_relocation": Cause.CORE_RELOCATION,
    "endless": Cause.LOOP,
    "helper_missing": Cause.HELPER_MISSING,
    "helper_not_allowed": Cause.HELPER_NOT_ALLOWED,
    "leaked": Cause.LEAKED_REFERENCE,
    "leaked_twice": Cause.LEAKED_REFERENCE,
    "license": Cause.LICENSE,
    "misaligned": Cause.ALIGNMENT,
    "modified_context": Cause.MODIFIED_POINTER,
    "no_exit": Cause.NO_EXIT,
    "null_argument": Cause.NULL_CHECK,
    "null_check": Cause.NULL_CHECK,
    "number_as_pointer": Cause.SCALAR_POINTER,
    "packet_bounds": Cause.PACKET_BOUNDS,
    "pointer_multiplied": Cause.POINTER_ARITHMETIC,
    "read_only_map": Cause.READ_ONLY,
    "reserve_of_any_size": Cause.NOT_CONSTANT,
    "return_value": Cause.RETURN_VALUE,
    "sleepable": Cause.SLEEPABLE,
    "stack_bounds": Cause.STACK_BOUNDS,
    "stack_size": Cause.STACK_SIZE,
    "too_deep": Cause.CALL_DEPTH,
    "unbounded_offset": Cause.UNBOUNDED_OFFSET,
    "unbounded_size": Cause.UNBOUNDED_OFFSET,
    "uninitialised_register": Cause.UNINITIALISED_REGISTER,
    "unreachable": Cause.UNREACHABLE,
    "value_bounds": Cause.VALUE_BOUNDS,
    "weak_symbol": Cause.WEAK_SYMBOL,
    "wrong_argument": Cause.ARGUMENT_TYPE,
    "wrong_kind_of_map": Cause.MAP_KIND,
}


def log_of(name: str, kernel: str = NEW) -> str:
    return (LOGS / kernel / f"{name}.log").read_text()


REPORT = log_of("null_check")

OLD_CALL = """\
from 3 to 5: R1_w=inv5 R6=ctx(id=0,off=0,imm=0) R10=fp0
5: (85) call pc+2
caller:
 R6=ctx(id=0,off=0,imm=0) R10=fp0
callee:
 frame1: R1_w=inv(id=0,umax_value=255,var_off=(0x0; 0xff)) R10=fp0
; return at[1];
8: (71) r0 = *(u8 *)(r1 +1)
R1 invalid mem access 'inv'
processed 9 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (NULL_CHECK, "R0 invalid mem access 'map_value_or_null'"),
        (
            PACKET,
            "invalid access to packet, off=20 size=1, R1(id=0,off=20,r=0);"
            " R1 offset is outside of the packet",
        ),
        (LOOP, "infinite loop detected at insn 2"),
        (REPORT, "R0 invalid mem access 'map_value_or_null'"),
        # One line is before the kernel's report, the other after it.
        (
            log_of("leaked"),
            "Unreleased reference id=2 alloc_insn=4;"
            " BPF_EXIT instruction in main prog would lead to reference leak",
        ),
        (
            REPORT[REPORT.index("Verification failed") :],
            "R0 may be NULL here (a nullable map value pointer). The program could dereference NULL"
            " on this path, so the verifier cannot prove this access is safe.",
        ),
        ("unreachable insn 3\nprocessed 0 insns (limit 1000000)\n", "unreachable insn 3"),
        ("", ""),
    ],
)
def test_the_telling_line_gives_the_reason(log: str, line: str) -> None:
    assert telling_line(log) == line


def refused(log: str, places: SourceLines | None = None) -> VerifierError:
    first = SyscallError("refused", errno=22)
    return refusal(first, log, program="count", path="count.bpf.o", places=places or SourceLines())


@pytest.mark.parametrize(
    ("log", "file", "line", "source"),
    [
        (NULL_CHECK, "count.bpf.c", 13, "*count += 1;"),
        (PACKET, "", 0, "return data[20];"),
        (LOOP, "", 0, ""),
        (REPORT, "verifier_causes.bpf.c", 65, "*counter += 1; /* null-check */"),
        (log_of("unreachable"), "", 0, ""),
        ("", "", 0, ""),
    ],
)
def test_the_line_of_c_is_the_last_one_with_text(
    log: str, file: str, line: int, source: str
) -> None:
    error = refused(log)

    assert (error.file, error.line, error.source) == (file, line, source)


def test_an_error_shows_the_line_the_instructions_the_registers_and_the_reason() -> None:
    error = refused(NULL_CHECK)

    assert error.log == NULL_CHECK
    assert (error.errno, error.cause) == (22, Cause.NULL_CHECK)
    assert str(error).splitlines() == [
        "the verifier refused program 'count' of count.bpf.o"
        " (BPF_PROG_LOAD: EINVAL, Invalid argument)",
        "  count.bpf.c:13: *count += 1;",
        "    4: (18) r1 = 0xffff8881043c2c00",
        "    6: (85) call bpf_map_lookup_elem#1",
        "    7: (79) r1 = *(u64 *)(r0 +0)",
        "  R0 = map_value_or_null(id=1,map=counts,ks=4,vs=8)",
        "  R0 invalid mem access 'map_value_or_null'",
    ]


@pytest.mark.parametrize("kernel", [OLD, NEW])
@pytest.mark.parametrize("name", NAMES)
def test_the_logs_of_both_kernels_have_the_same_cause(name: str, kernel: str) -> None:
    error = refused(log_of(name, kernel))

    assert error.cause == CAUSES[name]
    assert error.hint


# Newer kernels allow 16 calls, so they refuse another one of these.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "too_deep"])
def test_the_line_of_c_does_not_depend_on_the_form_of_the_log(name: str) -> None:
    old, new = refused(log_of(name, OLD)), refused(log_of(name, NEW))

    assert (old.line, old.source) == (new.line, new.source)
    assert not new.source or f" {new.cause} */" in new.source


@pytest.mark.parametrize("name", [name for name in NAMES if "Reason:" in log_of(name)])
def test_the_report_alone_has_the_cause_and_its_place(name: str) -> None:
    """A kernel may leave out the older line that is before the report."""
    log = log_of(name)
    error, alone = refused(log), refused(log[log.index("\nVerification failed") :])

    assert (alone.cause, alone.line, alone.source) == (CAUSES[name], error.line, error.source)
    assert alone.instructions[-1] == error.instructions[-1]


def test_the_kernels_explanation_follows_the_telling_line() -> None:
    error = refused(log_of("unreachable"), lines_of_c())

    assert str(error).splitlines()[1:] == [
        "  a.bpf.c:4: int a;",
        "    0: (05) goto pc+1",
        "    1: (b7) r0 = 1",
        "  unreachable insn 1",
        "  Instruction 1 is not reachable from the program entry point.",
    ]
    assert error.suggestion.startswith("Remove the unreachable instruction")


def test_the_kernels_suggestion_is_the_hint_of_a_cause_without_one() -> None:
    error = refused(
        "0: (95) exit\nwords of a kernel to come\n\nVerification failed: Other: New\n\nReason:\n"
        "  It is\n  new.\n\nSuggestion:\n  Do it\n  otherwise.\n\nprocessed 1 insns (limit 9)\n"
    )

    assert (error.cause, error.reason, error.hint) == ("", "It is new.", "Do it otherwise.")


def test_of_several_reports_the_first_is_shown() -> None:
    error = refused(log_of("leaked_twice"))

    assert "id=2" in error.reason
    assert "id=4" not in error.reason
    assert "insn=12" in error.telling_line


def test_registers_are_those_of_the_function_that_was_refused() -> None:
    assert parse(OLD_CALL).registers == {
        "R1": "inv(id=0,umax_value=255,var_off=(0x0; 0xff))",
        "R10": "fp0",
    }


def test_a_call_leaves_nothing_in_the_registers_of_its_arguments() -> None:
    assert "R1" not in parse(NULL_CHECK).registers


def test_the_state_behind_a_jump_is_not_part_of_the_instruction() -> None:
    found = parse(log_of("leaked_twice"))

    assert [str(step) for step in parse(log_of("endless")).steps] == [
        "2: (85) call bpf_get_prandom_u32#7",
        "3: (56) if w0 != 0x7 goto pc-3",
        "1: (bc) w6 = w6",
        "2: (85) call bpf_get_prandom_u32#7",
    ]
    assert not any("goto pc+1 1" in step.text for step in found.steps)


def test_the_loop_that_never_ends_is_told_by_the_jump_back() -> None:
    found = parse(LOOP)

    assert str(found.steps[-1]) == "6: (55) if r1 != 0x7 goto pc-5"
    assert refused(LOOP).cause == Cause.LOOP


def lines_of_c() -> SourceLines:
    """Return a program of two lines of C, and code that the compiler made in between."""
    strings = BtfBuilder()
    file, first, second = map(strings.add_string, ("a.bpf.c", "\tint a;", "\treturn \x1b[2J;"))
    numbers = [(0, first, 4), (3, first, 0), (5, second, 9)]
    lines = [LineInfo(index, file, text, line << 10 | 2) for index, text, line in numbers]
    return SourceLines(lines, Btf.parse(strings.build()))


@pytest.mark.parametrize(
    ("index", "place"),
    [
        (0, SourceLine("a.bpf.c", 4, "int a;")),
        (4, SourceLine("a.bpf.c", 4, "int a;")),
        (70, SourceLine("a.bpf.c", 9, r"return \x1b[2J;")),
    ],
)
def test_the_object_knows_the_line_of_an_instruction(index: int, place: SourceLine) -> None:
    assert lines_of_c().at(index) == place


def test_the_objects_line_stands_in_where_the_log_has_none() -> None:
    error = refused("unreachable insn 6\nprocessed 0 insns (limit 1000000)\n", lines_of_c())

    assert (error.file, error.line, error.cause) == ("a.bpf.c", 9, Cause.UNREACHABLE)


def test_lines_that_the_objects_types_do_not_have_are_empty() -> None:
    place = SourceLines([LineInfo(0, 5000, 1 << 31, 7 << 10)], Btf.parse(BtfBuilder().build())).at(
        0
    )

    assert place == SourceLine("", 7, "")


HOSTILE = [
    "x" * (20 << 20),
    "\n" * (1 << 20),
    "7: (79) " + "(" * 100_000,
    "R1=(" * 100_000,
    "Reason:\n" * 100_000,
    "0: R1=ctx() " + "R0=" * 100_000,
    "; " + " @ a:1" * 100_000,
    "; a @ b:" + "9" * 100_000,
    "9" * 100_000 + ": (79) r1",
    "At:\n  " + "a @ " * 50_000 + ":" + "9" * 5000,
]


@pytest.mark.parametrize("log", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_is_read_without_failing_and_the_message_stays_short(log: str) -> None:
    error = refused(log)

    assert len(str(error)) < 8000
    assert error.log == log


def test_what_steers_a_terminal_is_written_out() -> None:
    log = b"; \x1b[31m\xff\xe2\x80\xae\r\ttext\n\xc3\xa9"

    assert printable(log) == "; \\x1b[31m\\xff\\u202e\\r\ttext\n\u00e9"


@pytest.mark.parametrize(
    ("log", "number"),
    [
        (
            "5: (85) call unknown#195896081\ninvalid func unknown#195896081\nprocessed 6 insns",
            195896081,
        ),
        ("invalid func unknown#500", 500),
        ("R1 invalid mem access", None),
        ('; printk("invalid func unknown#1 here")', None),
    ],
)
def test_a_helper_that_does_not_exist_is_told_by_its_number(log: str, number: int | None) -> None:
    assert unknown_helper(log) == number
