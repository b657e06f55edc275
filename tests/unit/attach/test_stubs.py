"""Which programs no stub may call, as far as their code tells."""

from __future__ import annotations

import pytest

from bpfpin.attach.registry import HookTarget
from bpfpin.attach.stubs import refusal
from bpfpin.hooks import Hook
from bpfpin.insn import Instruction, call_helper, exit_, mov_imm
from bpfpin.spec import FunctionSpec, ProgramSpec
from bpfpin.uapi import ProgramFlag, ProgramType, PseudoCall
from bpfpin.uapi_helpers import FuncId

PLAIN = FunctionSpec("entry", "kprobe", (mov_imm(0, 0), exit_()))
OVERRIDING = FunctionSpec("other", ".text", (call_helper(FuncId.override_return), exit_()))
# A call of a function of the program, or of the kernel: its number is no helper's.
CALL = call_helper(FuncId.override_return)


def reason(*functions: FunctionSpec, **changes: object) -> str:
    spec = ProgramSpec("entry", ProgramType.KPROBE, "kprobe", functions)
    return refusal(spec.with_changes(**changes), Hook.KPROBE, HookTarget(name="do_exit"))


def test_a_program_that_overrides_returns_in_any_function() -> None:
    assert reason(PLAIN) == ""
    assert reason(OVERRIDING) == reason(PLAIN, OVERRIDING) == "it calls bpf_override_return()"


@pytest.mark.parametrize("kind", [PseudoCall.CALL, PseudoCall.KFUNC_CALL])
def test_a_call_of_a_function_with_that_number_is_none_of_a_helper(kind: PseudoCall) -> None:
    called: Instruction = CALL._replace(src=kind)

    assert reason(FunctionSpec("entry", "kprobe", (called, exit_()))) == ""


def test_a_program_that_sleeps_or_writes_to_its_context() -> None:
    assert reason(PLAIN, program_flags=ProgramFlag.SLEEPABLE) == "it is sleepable"
    assert "writes" in reason(PLAIN, type=ProgramType.RAW_TRACEPOINT_WRITABLE)
