"""Attaching by a stub, or with a gate, where a link cannot change its program.

See `objects.stub` and `objects.gate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bpfpin.attach.registry import AttachOptions, HookTarget, NewAttachment, code_of
from bpfpin.errors import NotSupportedError
from bpfpin.hooks import HeldBy, Hook
from bpfpin.insn import CALL, CLASS_MASK, LDX, SIZE_MASK, SIZES
from bpfpin.objects.programs.program import Program
from bpfpin.objects.stub import load_stub, make_slot
from bpfpin.spec import FunctionSpec, ProgramSpec
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.uapi import ProgramFlag, ProgramType
from bpfpin.uapi_helpers import FuncId


def attach_with_stub(
    program: Program, hook: Hook, target: HookTarget, options: AttachOptions, *, spec: ProgramSpec
) -> NewAttachment:
    """Attach *program*, loaded from *spec*, by a stub; the caller closes link and slot.

    Where no stub can call it, it is attached itself, and the note of the result says so.
    """
    reason = refusal(spec, hook, target)
    if not reason:
        try:
            new = _attached_by_stub(program, hook, target, options, spec=spec)
        except NotSupportedError as error:
            reason = error.message
        else:
            return new or code_of(hook).attach(program, hook, target, options)
    new = code_of(hook).attach(program, hook, target, options)
    return _with_note(new, f"{program.name} has no stub, since {reason}: {_reload_without(hook)}")


def _attached_by_stub(
    program: Program, hook: Hook, target: HookTarget, options: AttachOptions, *, spec: ProgramSpec
) -> NewAttachment | None:
    """Attach the stub; None where no link would hold it after a crash.

    Raises `NotSupportedError` where the kernel takes no stub for such a program.
    """
    slot = make_slot(program)
    try:
        with load_stub(spec, slot, empty_answer=hook.traits.empty_answer) as stub:
            new = code_of(hook).attach(stub, hook, target, options)
        if new.link is not None:
            return replace(new, held_by=HeldBy.STUB, slot=slot)
    # The verifier takes a tail call for something that may change the packet, and Linux 7 attaches
    # no parser of streams that does.
    except InvalidArgumentError as error:
        slot.close()
        raise NotSupportedError(f"the kernel attaches none here: {error}") from None
    except BaseException:
        slot.close()
        raise
    slot.close()
    return None


def _reload_without(hook: Hook) -> str:
    """Return what a reload does where the program itself is attached."""
    if hook.traits.has_partial_update:
        return "after a reload, sockets that are in the map keep the program"
    return "a reload counts some events twice"


def attach_with_gate(
    program: Program, hook: Hook, target: HookTarget, options: AttachOptions, *, note: str
) -> NewAttachment:
    """Attach *program*, which was loaded with a gate; the result has *note*."""
    return _with_note(code_of(hook).attach(program, hook, target, options), note)


def _with_note(new: NewAttachment, note: str) -> NewAttachment:
    return replace(new, note=f"{new.note}; {note}" if new.note else note)


def gate_note(name: str, reason: str) -> str:
    """Return the note on program *name*, which has a gate because of *reason*."""
    return (
        f"{name} has a gate in the place of a stub, since {reason}: an event in progress at the"
        " moment when a reload switches may be lost or counted twice, and the return of a call"
        " that began before it may be lost"
    )


def refusal(spec: ProgramSpec, hook: Hook, target: HookTarget) -> str:
    """Return why no stub may call a program at a hook, "" if one may."""
    # A program array takes sleepable programs, and the kernel would call them where it must not
    # sleep.
    if spec.program_flags & ProgramFlag.SLEEPABLE:
        return "it is sleepable"
    if spec.type is ProgramType.RAW_TRACEPOINT_WRITABLE:
        return "it writes to its context"
    # bpf_prog_map_compatible() of kernel/bpf/core.c takes no program that may override a return.
    if any(map(_overrides_return, spec.functions)):
        return "it calls bpf_override_return()"
    # When a program is attached, the kernel compares the greatest offset that it reads with the
    # size of the context (perf_event_set_bpf_prog() of kernel/events/core.c, bpf_probe_register()
    # of kernel/trace/bpf_trace.c). Of a stub that is 0.
    size = code_of(hook).context_size(hook, target)
    if size is not None and any(end > size for end in _ends(spec)):
        return f"it may read beyond the {size} bytes of the context"
    return ""


def _overrides_return(function: FunctionSpec) -> bool:
    return any(
        each.opcode == CALL and not each.src and each.imm == FuncId.override_return
        for each in function.instructions
    )


def _ends(spec: ProgramSpec) -> Iterator[int]:
    """Yield where each load of a program ends, counted from the register that it loads through.

    Which register holds the context is not followed: loads through others count, too.
    """
    for function in spec.functions:
        for each in function.instructions:
            if each.opcode & CLASS_MASK == LDX:
                yield each.offset + SIZES[each.opcode & SIZE_MASK]
