"""Attach at the hooks of a load: by a link, or prepared where no link holds the program."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from bpfpin.attach.registry import AttachOptions, HookTarget, NewAttachment, code_of
from bpfpin.errors import HookBusyError, NotSupportedError
from bpfpin.hints import Argument, Fix
from bpfpin.hooks import Hook, XdpMode
from bpfpin.loading.collection import Loaded
from bpfpin.objects.programs.program import Program
from bpfpin.pins.plan import HookAction, HookPlan, Plan
from bpfpin.sets.load.hooks import busy_with_set
from bpfpin.sets.place import hook_target
from bpfpin.sets.request import LoadRequest

if TYPE_CHECKING:
    from bpfpin.sets.load.gates import Gate

_PATIENCE_S: Final = 1.0
_PAUSE_S: Final = 0.02


def attach(
    request: LoadRequest, plan: HookPlan, loaded: Loaded, gate: Gate | None
) -> NewAttachment:
    """Attach the program of *plan*, which is among those *loaded*, and has *gate* if any.

    The caller closes the link and the slot of a stub.

    What no link holds is only prepared: the manifest has to tell how to undo it before it is made.
    """
    hook, program = Hook(plan.hook), loaded.programs[plan.program]
    options = AttachOptions(mode=request.mode, order=request.order)
    target = hook_target(request.place, plan.target, loaded.maps)

    def attach_now() -> NewAttachment:
        if not hook.traits.needs_stub or request.without_stub:
            return code_of(hook).attach(program, hook, target, options)
        from bpfpin.attach.stubs import attach_with_gate, attach_with_stub  # noqa: PLC0415 - few sets have stubs

        if gate is not None:
            return attach_with_gate(program, hook, target, options, note=gate.note)
        spec = loaded.program_specs[plan.program]
        return attach_with_stub(program, hook, target, options, spec=spec)

    # A hook of a device or cgroup with several programs is never busy, so there is nothing to wait
    # for.
    if not hook.traits.runs_one and not hook.traits.target.is_named:
        return attach_now()
    try:
        return _attach_when_free(attach_now, hook, target)
    except HookBusyError:
        holder = code_of(hook).holder(target)
        if holder is not None and (busy := busy_with_set(request, hook, holder)):
            raise busy from None
        raise


def _attach_when_free(
    attach_now: Callable[[], NewAttachment], hook: Hook, target: HookTarget
) -> NewAttachment:
    """Attach a program, waiting a moment for a link that nobody holds any more.

    The kernel frees a link some time after its last pin or descriptor went, that of a killed
    command for one. A link that somebody holds is refused at once.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return attach_now()
        except HookBusyError as error:
            holder = code_of(hook).holder(target)
            # A link that is being freed cannot be opened, and so has no known id.
            is_held = holder is not None and holder.link_id is not None
            if time.monotonic() >= deadline or is_held:
                if error.holder and hook.traits.runs_one:
                    error.fix = error.fix.joined(
                        " To put yours in its place: ", Argument("take_over")
                    )
                raise
            time.sleep(_PAUSE_S)


def foreseen(request: LoadRequest, plan: HookPlan, loaded: Loaded) -> str:
    """Return the note of a hook where a program will not run as asked; nothing is attached.

    Raises `NotSupportedError` where that refuses the load, such as native mode that was asked for,
    or that the hook runs in now.
    """
    hook = Hook(plan.hook)
    if plan.action is HookAction.DETACH:
        return ""
    program = loaded.programs[plan.program]
    mode = XdpMode(plan.mode) if plan.mode else request.mode
    target = hook_target(request.place, plan.target, loaded.maps)
    # An attached program keeps its mode, so a reload cannot fall back to generic mode.
    if plan.action is HookAction.UPDATE:
        if refused := code_of(hook).refused_update(program, target, mode):
            raise _cannot_stay(request, refused)
        return ""
    options = AttachOptions(mode=mode, order=request.order)
    return code_of(hook).foresee(program, hook, target, options)


@contextmanager
def explained_updates(
    loads: Iterable[tuple[LoadRequest, Plan, Mapping[str, Program]]],
) -> Iterator[None]:
    """Say why a device refused the program of a reload; BPF_LINK_UPDATE has no words for it."""
    try:
        yield
    except NotSupportedError as error:
        if error.command != "BPF_LINK_UPDATE":
            raise
        for request, plan, programs in loads:
            for hook in plan.hooks:
                is_native = hook.mode == XdpMode.NATIVE.value
                if hook.action is not HookAction.UPDATE or not is_native:
                    continue
                code, target = code_of(Hook(hook.hook)), hook_target(request.place)
                program = programs[hook.program]
                if refused := code.refused_update(program, target, XdpMode.NATIVE, error):
                    raise _cannot_stay(request, refused) from None
        raise


def _cannot_stay(request: LoadRequest, refused: NotSupportedError) -> NotSupportedError:
    """Return the refusal of a program in a mode that cannot change in place."""
    refused.fix = Fix.of(
        f"the mode cannot change in place: {request.unload_line}, then load with ",
        *refused.fix.parts,
    )
    return refused
