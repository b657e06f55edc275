"""A hook that somebody else holds: told, or taken over on purpose."""

from __future__ import annotations

import shlex
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Final

from bpfpin.apps.load.loading import Loading
from bpfpin.apps.sets.place import in_namespace
from bpfpin.apps.target import all_sets
from bpfpin.attach.xdp import XdpHolder, xdp_holder
from bpfpin.attach.xdp_netlink import NetlinkXdp
from bpfpin.errors import BpfError, BusyError, HookBusyError, PermissionDeniedError
from bpfpin.objects.link import Link
from bpfpin.objects.program import Program
from bpfpin.pins import names
from bpfpin.pins.manifest import Held
from bpfpin.pins.plan import HookAction, HookPlan
from bpfpin.spec import XdpMode

_WORDS: Final = {
    XdpMode.NATIVE: "xdpdrv",
    XdpMode.GENERIC: "xdpgeneric",
    XdpMode.OFFLOAD: "xdpoffload",
}


def plan_beside_others(loading: Loading, wanted: HookPlan) -> HookPlan:
    """Look who holds the device, and plan to take it over if that is wanted."""
    holder = xdp_holder(loading.place.ifindex)
    if holder is None:
        return wanted
    if not loading.takes_over:
        raise HookBusyError(
            f"{loading.place.device} runs another XDP program already: {holder}",
            holder=str(holder),
            hint="it was left as it is; to put yours in its place: --take-over",
        )
    owner = _owning_set(loading, holder)
    if owner:
        raise HookBusyError(
            f"{loading.place.device} runs the program of another set of yours, {owner}: {holder}",
            holder=owner,
            hint=f"load it into that set: --name {owner}; or first: bpfpin unload {owner}",
        )
    if not holder.is_link_known:
        raise PermissionDeniedError(
            "taking a hook over needs CAP_SYS_ADMIN, to see which link holds it",
            missing=["CAP_SYS_ADMIN"],
            errno=0,
        )
    detach = detach_line(loading, holder.mode)
    if holder.link_id is not None:
        detach = f"bpftool link detach id {holder.link_id}"
    whose = f"program id {holder.program_id}"
    require_mode(loading, holder.mode.value, whose, detach)
    return _taken(loading, wanted, holder)


def detach_line(loading: Loading, mode: XdpMode) -> str:
    """Return what to type to detach a program of *mode* that no link holds.

    `xdp off` would mean native mode wherever the driver has it, and leave a generic program.
    """
    line = f"ip link set dev {shlex.quote(loading.place.device)} {_WORDS[mode]} off"
    return in_namespace(loading.place, line)


def _owning_set(loading: Loading, holder: XdpHolder) -> str:
    """Return the set of ours that has pinned the holder's program, "" if none has."""
    for found in all_sets(loading.path.parent):
        for path in found.programs.values() if found.name != loading.name else ():
            with suppress(BpfError), Program.from_pin(path) as program:
                if program.id == holder.program_id:
                    return names.display_name(found.name)
    return ""


def _taken(loading: Loading, wanted: HookPlan, holder: XdpHolder) -> HookPlan:
    planned = replace(
        wanted,
        action=HookAction.UPDATE,
        previous_id=holder.program_id,
        link_id=holder.link_id,
        mode=holder.mode.value,
        is_taken=True,
    )
    with ExitStack() as undo:
        previous = undo.enter_context(Program.from_id(holder.program_id))
        if holder.link_id is None:
            hook = NetlinkXdp(loading.place.ifindex, holder.mode)
            planned = replace(planned, attachment=hook, held=Held.NETLINK)
        else:
            planned = replace(planned, attachment=Link.from_id(holder.link_id))
        undo.pop_all()
    return replace(planned, previous=previous)


def require_mode(loading: Loading, there: str, whose: str, detach: str) -> None:
    """Raise `BusyError` if another mode is asked for than the one taken; *detach* frees it."""
    if loading.mode is XdpMode.AUTO or loading.mode.value == there:
        return
    raise BusyError(
        f"{loading.place.device} runs {whose} in {there} mode, and a mode cannot change in place",
        holder=whose,
        hint=f"{detach}, then load with --mode {loading.mode.value}",
    )
