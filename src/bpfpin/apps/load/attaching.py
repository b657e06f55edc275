"""Attach at any hook of `load`: by a link where there is one, by a filter of classic tc else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from bpfpin.apps.load.loading import Loading
from bpfpin.attach import clsact, netlink_tc
from bpfpin.attach.cgroup import attach_cgroup
from bpfpin.attach.netkit import HOOKS as NETKIT
from bpfpin.attach.netkit import attach_netkit
from bpfpin.attach.tcx import HOOKS as TCX
from bpfpin.attach.tcx import attach_tcx
from bpfpin.attach.xdp import XdpLink, attach_xdp, generic_note, mode_refusal, xdp_holder
from bpfpin.attach.xdp_foresight import foreseen_refusal
from bpfpin.errors import HookBusyError, NotSupportedError
from bpfpin.objects.link import Link
from bpfpin.objects.program import Program
from bpfpin.pins.manifest import Held, HookRecord
from bpfpin.pins.plan import HookAction, HookPlan, Plan
from bpfpin.spec import Hook, XdpMode

_PATIENCE_S: Final = 1.0
_PAUSE_S: Final = 0.02
_WITHOUT_TCX: Final = {Hook.TCX_INGRESS: Hook.TC_INGRESS, Hook.TCX_EGRESS: Hook.TC_EGRESS}


@dataclass(frozen=True)
class NewHook:
    """A hook that a set gets: what is remembered of it, the link if one holds it, and a note.

    Without a link its filter is still to be made, by `attach_filter`.
    """

    record: HookRecord
    link: Link | None = None
    note: str = ""


def attach(loading: Loading, plan: HookPlan, program: Program) -> NewHook:
    """Attach *program* where *plan* says; the caller closes the link.

    A hook of classic tc is only prepared, and so is one of tcx where the kernel has none: what is
    to undo it must be remembered before it is there.
    """
    hook = Hook(plan.hook)
    if hook in clsact.HOOKS:
        return _prepared(loading, plan, hook, program)
    try:
        link = _link(loading, hook, program)
    except NotSupportedError:
        if hook not in _WITHOUT_TCX:
            raise
        instead = _WITHOUT_TCX[hook]
        note = f"this kernel has no tcx: {program.name} is at {instead.value}"
        return _prepared(loading, plan, instead, program, note=note)
    mode = link.mode.value if isinstance(link, XdpLink) else ""
    note = link.note if isinstance(link, XdpLink) else ""
    return NewHook(_record(loading, plan, hook, mode=mode), link, note)


def attach_filter(loading: Loading, new: NewHook, program: Program) -> None:
    """Make the filter of a hook that `attach` prepared."""
    record = new.record
    clsact.attach_clsact(
        program,
        loading.place.ifindex,
        Hook(record.hook),
        priority=record.priority,
        handle=record.handle,
    )


def attach_when_free(program: Program, ifindex: int, *, mode: XdpMode) -> XdpLink:
    """Attach *program*, waiting a moment for a link that nobody holds any more.

    The kernel frees a link some time after its last pin or descriptor went, that of a killed
    command for one. A link that somebody holds is refused at once, as `attach_xdp` does.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return attach_xdp(program, ifindex, mode=mode)
        except HookBusyError as error:
            if time.monotonic() >= deadline or _is_held(ifindex):
                if error.holder:
                    error.hint += " To put yours in its place: --take-over"
                raise
            time.sleep(_PAUSE_S)


def foreseen(loading: Loading, plan: HookPlan, program: Program) -> str:
    """Return the note of an XDP hook whose device will refuse native mode; nothing is attached.

    Raises `NotSupportedError` where that refuses the load: native mode was asked for, or it is
    what the hook runs in now.
    """
    is_xdp = Hook(plan.hook) is Hook.XDP
    mode = XdpMode(plan.mode) if plan.mode else loading.mode
    if not is_xdp or plan.action is HookAction.DETACH:
        return ""
    ifindex = loading.place.ifindex
    words = foreseen_refusal(program, ifindex, mode)
    if not words:
        return ""
    if plan.action is HookAction.UPDATE:
        raise _cannot_stay(loading, program, words)
    if mode is XdpMode.NATIVE:
        raise mode_refusal(program, ifindex, mode, words)
    return generic_note(ifindex, words)


@contextmanager
def explained_updates(
    loads: Iterable[tuple[Loading, Plan, Mapping[str, Program]]],
) -> Iterator[None]:
    """Say why a device refused the program of a reload; BPF_LINK_UPDATE has no words for it."""
    try:
        yield
    except NotSupportedError as error:
        if error.command != "BPF_LINK_UPDATE":
            raise
        for loading, plan, programs in loads:
            for hook in plan.hooks:
                is_native = hook.mode == XdpMode.NATIVE.value
                if hook.action is not HookAction.UPDATE or not is_native:
                    continue
                program = programs[hook.program]
                words = foreseen_refusal(program, loading.place.ifindex, XdpMode.NATIVE)
                if words:
                    raise _cannot_stay(loading, program, words, error) from None
        raise


def _cannot_stay(
    loading: Loading, program: Program, words: str, error: NotSupportedError | None = None
) -> NotSupportedError:
    """Return the refusal of a program in a mode that cannot change in place."""
    refused = mode_refusal(program, loading.place.ifindex, XdpMode.NATIVE, words, error=error)
    refused.hint = (
        f"the mode cannot change in place: bpfpin unload --keep-maps {loading.shown_name}, then"
        " load with --mode generic"
    )
    if "MTU" in words:
        refused.hint += '; or build it for frames in several buffers: SEC("xdp.frags")'
    return refused


def _link(loading: Loading, hook: Hook, program: Program) -> Link:
    ifindex = loading.place.ifindex
    if hook.is_cgroup:
        return attach_cgroup(program, loading.cgroup_path, hook)
    if hook in TCX:
        return attach_tcx(program, ifindex, hook, order=loading.order)
    if hook in NETKIT:
        return attach_netkit(program, ifindex, hook, order=loading.order)
    return attach_when_free(program, ifindex, mode=loading.mode)


def _prepared(
    loading: Loading, plan: HookPlan, hook: Hook, program: Program, *, note: str = ""
) -> NewHook:
    """Return the filter that is to be made; whose the qdisc is, is known before it is there."""
    has_clsact = netlink_tc.qdiscs().get(loading.place.ifindex) == netlink_tc.CLSACT
    record = HookRecord(
        hook=hook.value,
        program=plan.program,
        link=plan.link,
        held=Held.FILTER,
        priority=clsact.PRIORITY,
        handle=program.id,
        made_qdisc=not has_clsact,
    )
    return NewHook(record, note=note)


def _record(loading: Loading, plan: HookPlan, hook: Hook, *, mode: str) -> HookRecord:
    asked = loading.mode.value if hook is Hook.XDP else ""
    return HookRecord(hook.value, plan.program, plan.link, asked_mode=asked, mode=mode)


def _is_held(ifindex: int) -> bool:
    """Whether a link that can be opened holds the hook; one that is being freed cannot be."""
    holder = xdp_holder(ifindex)
    return holder is not None and holder.link_id is not None
