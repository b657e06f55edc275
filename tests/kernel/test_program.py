"""Programs in the kernel: loaded, run on test input, refused with the reason."""

from __future__ import annotations

import ctypes
import errno
import re
from collections.abc import Collection
from typing import Any

import pytest

import bpfpin
from bpfpin import insn
from bpfpin.errors import (
    NotSupportedError,
    PermissionDeniedError,
    SyscallError,
    TargetNotFoundError,
    UsageError,
    VerifierError,
)
from bpfpin.loading.collection import load
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from bpfpin.spec import FunctionSpec, ProgramSpec
from bpfpin.syscall import call
from bpfpin.syscall.attr import ProgLoadAttr
from bpfpin.syscall.call import fail_call
from bpfpin.uapi import AttachType, Cmd, ProgramType, XdpAction
from support.objects import compiled

PACKET = bytes(64)


def program(*code: insn.Instruction, kind: ProgramType = ProgramType.XDP) -> ProgramSpec:
    return ProgramSpec("made", kind, "xdp", (FunctionSpec("made", "xdp", code),), license="GPL")


DROP = program(insn.mov_imm(0, XdpAction.XDP_DROP), insn.exit_())


def test_a_program_returns_what_it_says() -> None:
    with Program.load(DROP) as drop:
        run = drop.test_run(PACKET, repeat=10)

        assert (drop.name, drop.type) == ("made", ProgramType.XDP)
    assert run.return_value == XdpAction.XDP_DROP
    assert run.data == PACKET


def test_a_program_of_type_syscall_takes_a_context_and_no_packet() -> None:
    # r0 = *(u32 *)(r1 + 0)
    first_word = program(insn.Instruction(0x61, 0, 1), insn.exit_(), kind=ProgramType.SYSCALL)
    spec = first_word.with_changes(program_flags=bpfpin.uapi.ProgramFlag.SLEEPABLE)
    with Program.load(spec) as loaded:
        run = loaded.test_run(context=(42).to_bytes(4, "little"))

    assert run.return_value == 42


def test_another_process_opens_a_program_by_its_id() -> None:
    with Program.load(DROP) as drop, Program.from_id(drop.id) as again:
        assert again.info == drop.info


def test_a_refused_program_shows_the_reason() -> None:
    no_exit = program(insn.mov_imm(0, 2))
    with pytest.raises(VerifierError) as caught:
        Program.load(no_exit, path="made.o")

    assert "program 'made' of made.o" in str(caught.value)
    assert "last insn is not an exit or jmp" in caught.value.telling_line
    assert caught.value.log


def test_a_refused_program_shows_the_line_of_c() -> None:
    spec = read_object(compiled("verifier_refused"))
    with pytest.raises(VerifierError) as caught:
        load(spec)

    assert caught.value.telling_line == "R0 invalid mem access 'map_value_or_null'"
    assert caught.value.source.startswith("*counter += 1;")
    assert str(caught.value).endswith(caught.value.reason or caught.value.telling_line)


def test_a_long_log_is_shown_whole() -> None:
    # Each branch doubles what there is to say; the uninitialised register comes at the very end.
    branch = [insn.Instruction(0x15, 1, 0, 0, number) for number in range(3000)]  # if r1 == n goto
    read = insn.Instruction(0x61, 1, 1)  # r1 = *(u32 *)(r1 + 0)
    spec = program(read, *branch, insn.mov_reg(0, 5), insn.exit_())
    with pytest.raises(VerifierError) as caught:
        Program.load(spec)

    assert len(caught.value.log) > 64 << 10
    assert caught.value.log.startswith("0: R1=ctx(")
    assert caught.value.telling_line == "R5 !read_ok"


def test_the_log_of_a_good_program_is_kept_when_asked_for() -> None:
    with Program.load(DROP, log_level=1) as drop:
        assert re.search(r"processed 2 insns", drop.log)


def test_an_interrupted_verification_is_tried_again() -> None:
    with fail_call(1, 11), Program.load(DROP) as drop:  # EAGAIN
        assert drop.test_run(PACKET).return_value == XdpAction.XDP_DROP


def test_a_refusal_without_a_log_keeps_the_kernels_words() -> None:
    words = pytest.raises(SyscallError, match=r"program made: .*BPF_PROG_LOAD: ENOMEM")
    with words, fail_call(1, 12), fail_call(2, 12):
        Program.load(DROP)


def test_a_program_of_unknown_type_asks_for_the_type() -> None:
    with pytest.raises(UsageError, match="does not say its type") as caught:
        Program.load(DROP.with_changes(type=ProgramType.UNSPEC, section="mine"))

    assert "program_type='xdp'" in caught.value.hint


def test_a_program_that_attaches_to_what_the_kernel_lacks_is_refused_by_us() -> None:
    entry = DROP.with_changes(
        type=ProgramType.TRACING,
        expected_attach_type=AttachType.TRACE_FENTRY,
        attach_to="nosuch",
    )
    with pytest.raises(TargetNotFoundError, match="attaches to function 'nosuch'"):
        Program.load(entry)


def forbid(monkeypatch: pytest.MonkeyPatch, types: Collection[ProgramType]) -> None:
    """Let the kernel permit no programs of these types, as a policy of a host does."""
    entered = call._enter

    def enter(number: int, command: int, attribute: Any, size: int) -> int:
        asked = getattr(attribute, "_obj", None)
        if command != Cmd.PROG_LOAD or not isinstance(asked, ProgLoadAttr):
            return entered(number, command, attribute, size)
        if asked.prog_type not in types:
            return entered(number, command, attribute, size)
        ctypes.set_errno(errno.EPERM)
        return -1

    monkeypatch.setattr(call, "_enter", enter)


def test_a_type_of_programs_that_is_forbidden_to_root_is_not_supported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forbid(monkeypatch, {ProgramType.XDP})
    with pytest.raises(NotSupportedError, match="forbids programs of type xdp") as caught:
        Program.load(DROP)

    assert caught.value.exit_code == 8
    assert "EPERM" in str(caught.value)
    assert "no capability is missing" in caught.value.hint


def test_a_host_that_permits_no_program_at_all_denies_permission(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forbid(monkeypatch, set(ProgramType))
    with pytest.raises(PermissionDeniedError) as caught:
        Program.load(DROP)

    assert caught.value.exit_code == 3
    assert "No capability is missing" in caught.value.hint
