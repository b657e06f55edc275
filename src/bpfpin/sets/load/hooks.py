"""What becomes of the hooks of a set: who is there now, and whether it may be moved."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Final

from bpfpin.attach.xdp import XdpHolder, xdp_holder
from bpfpin.attach.xdp_netlink import NetlinkXdp
from bpfpin.errors import (
    Argument,
    AttachError,
    BpfError,
    BusyError,
    Fix,
    HookBusyError,
    PermissionDeniedError,
    ProgramChangedError,
)
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names
from bpfpin.pins.manifest import HeldBy, HookRecord
from bpfpin.pins.pinset import PinSet, all_sets
from bpfpin.pins.plan import HookAction, HookPlan
from bpfpin.sets.choose import RUNS_ONE, Choice
from bpfpin.sets.live import reopen
from bpfpin.sets.place import in_namespace
from bpfpin.sets.request import Loading
from bpfpin.spec import Hook, XdpMode

_WORDS: Final = {
    XdpMode.NATIVE: "xdpdrv",
    XdpMode.GENERIC: "xdpgeneric",
    XdpMode.OFFLOAD: "xdpoffload",
}


# A hook that somebody else holds: told, or taken over on purpose.


def plan_beside_others(loading: Loading, wanted: HookPlan) -> HookPlan:
    """Look who holds the device, and plan to take it over if that is wanted."""
    holder = xdp_holder(loading.place.ifindex)
    if holder is None:
        return wanted
    if not loading.takes_over:
        raise HookBusyError(
            f"{loading.place.device} runs another XDP program already: {holder}",
            holder=str(holder),
            hint=Fix.of("it was left as it is; to put yours in its place: ", Argument("take_over")),
        )
    owner = _owning_set(loading, holder)
    if owner:
        raise HookBusyError(
            f"{loading.place.device} runs the program of another set of yours, {owner}: {holder}",
            holder=owner,
            hint=Fix.of(
                "load it into that set: ",
                Argument("name", owner),
                f"; or first: bpfpin unload {owner}",
            ),
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
            planned = replace(planned, attachment=hook, held_by=HeldBy.NETLINK)
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
        hint=Fix.of(f"{detach}, then load with ", Argument("mode", loading.mode)),
    )


def plan_hooks(loading: Loading, live: PinSet | None) -> tuple[HookPlan, ...]:
    """Decide on every hook, those wanted and those that leave; the caller closes what is open.

    Raises `ProgramChangedError` where somebody else changed a hook of the set, `HookBusyError`
    where a mode cannot change in place or, in a dry run, where somebody else is attached.
    """
    records = {record.link: record for record in _hooks(live)}
    with ExitStack() as undo:
        plans: list[HookPlan] = []
        for choice in loading.chosen:
            link = _link_name(loading, choice)
            plan = _plan(loading, choice, live, _record_of(records, link, choice))
            undo.callback(plan.close)
            plans.append(replace(plan, link=link))
        undo.pop_all()
    return (*plans, *map(_leaving, records.values()))


def _link_name(loading: Loading, choice: Choice) -> str:
    """Return the name that identifies a hook over reloads: with its program, if it has several."""
    several = [one for one in loading.chosen if one.hook is choice.hook]
    program = choice.program.name if len(several) > 1 else None
    return names.link_pin_name(choice.hook.value, program)


def _record_of(records: dict[str, HookRecord], link: str, choice: Choice) -> HookRecord | None:
    """Take the hook out of those of the live set, also where it had one program and has several."""
    if link in records:
        return records.pop(link)
    for name, record in records.items():
        if (record.hook, record.program) == (choice.hook.value, choice.program.name):
            return records.pop(name)
    return None


def is_alive(live: PinSet) -> bool:
    """Whether any link of the set is still attached anywhere."""
    return any(True for _ in attached(live))


def attached(live: PinSet) -> Iterator[HookRecord]:
    """Yield the hooks of the set that are still attached, wherever that is."""
    for record in _hooks(live):
        with ExitStack() as opened:
            found = _own_hook(live, record, opened)
            if found is not None and found.previous_id:
                yield record


def _hooks(live: PinSet | None) -> tuple[HookRecord, ...]:
    return live.manifest.hooks if live and live.manifest else ()


def _leaving(record: HookRecord) -> HookPlan:
    detach = HookAction.DETACH
    return HookPlan(detach, record.hook, record.link, record.program, before=record)


def _plan(
    loading: Loading, choice: Choice, live: PinSet | None, record: HookRecord | None
) -> HookPlan:
    wanted = HookPlan(HookAction.ATTACH, choice.hook.value, "", choice.program.name)
    if live is not None and record is not None and _is_here(loading, live, choice.hook):
        with ExitStack() as undo:
            found = _own_hook(live, record, undo)
            if found is not None and found.previous_id:
                if choice.hook is Hook.XDP:
                    name = loading.shown_name
                    detach = f"bpfpin unload --keep-maps {name}"
                    require_mode(loading, found.mode, f"the set {name}", detach)
                previous, is_taken = _previous(loading, live, record, found)
                undo.pop_all()
                return replace(
                    found,
                    program=wanted.program,
                    previous=previous,
                    is_taken=is_taken,
                )
    if choice.hook in RUNS_ONE and (loading.takes_over or loading.is_dry_run):
        return plan_beside_others(loading, wanted)
    return wanted


def _is_here(loading: Loading, live: PinSet, hook: Hook) -> bool:
    """Whether the live set has its hooks of that kind where they are wanted."""
    if live.manifest is None:
        return False
    there, here = live.manifest.place, loading.place
    if hook.is_cgroup:
        return there.cgroup == here.cgroup
    return (there.netns_inode, there.ifindex) == (here.netns_inode, here.ifindex)


def _own_hook(live: PinSet, record: HookRecord, undo: ExitStack) -> HookPlan | None:
    """Open a hook of the set and say what it runs; None if it is no longer there."""
    assert live.manifest is not None
    found = HookPlan(
        HookAction.UPDATE, record.hook, record.link, held_by=record.held_by, before=record
    )
    if record.held_by is not HeldBy.LINK:
        hook = reopen(live.manifest.place, record)
        undo.callback(hook.close)
        with suppress(AttachError):  # the device is gone
            return replace(found, attachment=hook, previous_id=hook.program_id(), mode=record.mode)
        return None
    link = live.open_link(record.link)
    if link is None:
        return None
    undo.callback(link.close)
    info = link.info
    running = info.program_id if info.is_attached else 0
    return replace(found, attachment=link, link_id=info.id, previous_id=running, mode=record.mode)


def _previous(
    loading: Loading, live: PinSet, record: HookRecord, found: HookPlan
) -> tuple[Program, bool]:
    """Return the program that a hook of the set runs, and whether it is somebody else's."""
    program = live.open_program(record.program)
    if program is not None:
        with ExitStack() as undo:
            undo.callback(program.close)
            if program.id == found.previous_id:
                undo.pop_all()
                return program, False
    if loading.takes_over and found.previous_id:
        return Program.from_id(found.previous_id), True
    if program is None:
        raise ProgramChangedError(
            f"the pin of {record.program} is gone from the set {loading.shown_name}: whether"
            f" program id {found.previous_id} at {found.hook} is the set's own cannot be told",
            holder=f"program id {found.previous_id}",
            hint=Fix.of("if it is: ", Argument("take_over")),
        )
    raise ProgramChangedError(
        f"{found.hook} of {loading.place_of(found.hook)} runs program id {found.previous_id}, which"
        f" is not the {record.program} of the set {loading.shown_name}: somebody else put it there",
        holder=f"program id {found.previous_id}",
        hint=Fix.of(
            "see who it is: bpfpin status; to put yours in its place: ", Argument("take_over")
        ),
    )


def describe(plans: tuple[HookPlan, ...]) -> Iterator[str]:
    """Yield what is to be told of hooks that are taken over."""
    for plan in plans:
        if plan.is_taken and plan.held_by is HeldBy.NETLINK:
            yield (
                f"{plan.hook} was taken over from program id {plan.previous_id} and is held by"
                " netlink, without a link; to make it one: unload --keep-maps, then load"
            )
        elif plan.is_taken:
            yield f"{plan.hook} was taken over from program id {plan.previous_id}"
