"""The lines of a verifier log that tell why, from logs as kernels write them."""

from __future__ import annotations

import pytest

from bpfpin.errors import SyscallError, VerifierError
from bpfpin.objects import verifier
from bpfpin.objects.verifier import Attempt, explain, refusal, source_line, telling_line
from bpfpin.syscall.refusal import BufferTooSmallError

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

BLOCK = """\
7: (79) r1 = *(u64 *)(r0 +0)
R0 invalid mem access 'map_value_or_null'

Reason: R0 may be NULL here
At: count.bpf.c:13
Suggestion: compare it with NULL first
processed 7 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""

BLOCK_ON_LINES = BLOCK.replace("Reason: R0", "Reason:\n  R0")


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
        (BLOCK, "R0 may be NULL here"),
        (BLOCK_ON_LINES, "R0 may be NULL here"),
        ("unreachable insn 3\nprocessed 0 insns (limit 1000000)\n", "unreachable insn 3"),
        ("", ""),
    ],
)
def test_the_telling_line_gives_the_reason(log: str, line: str) -> None:
    assert telling_line(log) == line


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (NULL_CHECK, "*count += 1; @ count.bpf.c:13"),
        (PACKET, "return data[20];"),
        (LOOP, ""),
        ("", ""),
    ],
)
def test_the_source_line_is_the_last_one_with_text(log: str, line: str) -> None:
    assert source_line(log) == line


def test_an_error_ends_with_the_source_line_and_the_telling_line() -> None:
    first = SyscallError("refused", errno=22)
    error = refusal(first, NULL_CHECK, program="count", path="count.bpf.o")

    assert isinstance(error, VerifierError)
    assert error.log == NULL_CHECK
    assert error.errno == 22
    assert str(error).splitlines() == [
        "the verifier refused program 'count' of count.bpf.o"
        " (BPF_PROG_LOAD: EINVAL, Invalid argument)",
        "  *count += 1; @ count.bpf.c:13",
        "  R0 invalid mem access 'map_value_or_null'",
    ]


class Kernel:
    """Answers as BPF_PROG_LOAD does with a log of a given length."""

    def __init__(self, length: int, *, is_telling_size: bool) -> None:
        self.log = "x" * (length - 1)
        self.is_telling_size = is_telling_size
        self.asked: list[int] = []

    def attempt(self, size: int) -> Attempt:
        """Refuse, with as much of the log as fits."""
        self.asked.append(size)
        kind = SyscallError if len(self.log) < size else BufferTooSmallError
        true_size = len(self.log) + 1 if self.is_telling_size else 0
        return Attempt(None, kind("refused"), self.log[: size - 1], true_size)


def test_the_buffer_grows_at_once_where_the_kernel_tells_the_size() -> None:
    kernel = Kernel(1_000_000, is_telling_size=True)
    made = explain(kernel.attempt)

    assert made.log == kernel.log
    assert kernel.asked == [verifier.LOG_SIZE, 1_000_000]


def test_the_buffer_is_doubled_where_the_kernel_does_not_tell_the_size() -> None:
    kernel = Kernel(200_000, is_telling_size=False)
    made = explain(kernel.attempt)

    assert made.log == kernel.log
    assert kernel.asked == [64 << 10, 128 << 10, 256 << 10]


def test_the_buffer_stops_growing_at_the_limit() -> None:
    kernel = Kernel(100 << 20, is_telling_size=True)
    made = explain(kernel.attempt)

    assert kernel.asked == [verifier.LOG_SIZE, verifier.LOG_LIMIT]
    assert len(made.log) == verifier.LOG_LIMIT - 1
