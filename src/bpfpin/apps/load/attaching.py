"""Attach at any hook of `load`: by a link where there is one, by a filter of classic tc else."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from bpfpin.apps.load.loading import Loading
from bpfpin.attach import clsact, netlink_tc
from bpfpin.attach.cgroup import attach_cgroup
from bpfpin.attach.netkit import HOOKS as NETKIT
from bpfpin.attach.netkit import attach_netkit
from bpfpin.attach.tcx import HOOKS as TCX
from bpfpin.attach.tcx import attach_tcx
from bpfpin.attach.xdp import XdpLink, attach_xdp, xdp_holder
from bpfpin.errors import HookBusyError, NotSupportedError
from bpfpin.objects.link import Link
from bpfpin.objects.program import Program
from bpfpin.pins.manifest import Held, HookRecord
from bpfpin.pins.plan import HookPlan
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
                error.hint += " To put yours in its place: --take-over"
                raise
            time.sleep(_PAUSE_S)


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
