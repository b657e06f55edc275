"""The plan for the hooks of a set: which program each runs now, and whether it may be replaced."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from bpfpin.attach.registry import HookHolder, NewAttachment, code_of
from bpfpin.errors import (
    AttachError,
    BpfError,
    BusyError,
    HookBusyError,
    PermissionDeniedError,
    ProgramChangedError,
    UsageError,
)
from bpfpin.hints import Argument, Fix, shell_line
from bpfpin.hooks import HeldBy, Hook, TargetKind, XdpMode, has_table
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names
from bpfpin.pins.manifest import HookRecord
from bpfpin.pins.pinset import LoadedSet, all_sets
from bpfpin.pins.plan import Decision, HookAction, HookPlan, MapPlan
from bpfpin.sets.choose import Choice
from bpfpin.sets.live import is_shut, open_own, program_id, reopen
from bpfpin.sets.place import hook_target, in_namespace
from bpfpin.sets.request import LoadRequest
from bpfpin.spec import ObjectSpec

if TYPE_CHECKING:
    from bpfpin.objects.stub import StubAttachment

# A hook that runs one program, and runs another one: refused, or taken over on purpose.


def plan_beside_others(request: LoadRequest, hook: Hook, wanted: HookPlan) -> HookPlan:
    """Plan to take a hook over that another program holds, if that is wanted."""
    holder = code_of(hook).holder(hook_target(request.place))
    if holder is None:
        return wanted
    target = request.place_of(hook.value)
    # Taking the hook over from another set of ours would leave that set with a manifest that is
    # wrong.
    if busy := busy_with_set(request, hook, holder):
        raise busy
    if not request.takes_over:
        raise HookBusyError(
            f"{target} runs another {_program_kind(hook)} already: {holder}",
            holder=str(holder),
            hint=Fix.of("it was left as it is; to put yours in its place: ", Argument("take_over")),
        )
    # Netlink shows the program but not its link. Without the right to list links, a program that a
    # link holds would look like one that netlink holds.
    if not holder.is_link_known:
        raise PermissionDeniedError(
            "taking a hook over needs CAP_SYS_ADMIN, to see which link holds it",
            missing=["CAP_SYS_ADMIN"],
            errno=0,
        )
    if hook.traits.has_mode:
        whose = f"program id {holder.program_id}"
        require_mode(request, holder.mode.value, whose, _detach_line(request, hook, holder))
    return _taken(request, hook, wanted, holder)


def busy_with_set(request: LoadRequest, hook: Hook, holder: HookHolder) -> HookBusyError | None:
    """Return the refusal if *holder* is another set of ours, None if it is not."""
    directory = _owning_set(request, holder)
    if not directory:
        return None
    owner = names.display_name(directory)
    # A name with a namespace or a cgroup in it is the one that a load gives by itself.
    is_given = names.encode(owner) == directory
    return HookBusyError(
        f"{request.place_of(hook.value)} runs the program of another set of yours, {owner}:"
        f" {holder}",
        holder=owner,
        hint=Fix.of(
            "load it into that set: " if is_given else "load it into that set, without ",
            Argument("name", owner if is_given else None),
            f"; or first: {shell_line('bpfpin unload', owner)}",
        ),
    )


def _program_kind(hook: Hook) -> str:
    return f"{hook.traits.program_types[0].name} program"


def _detach_line(request: LoadRequest, hook: Hook, holder: HookHolder) -> str:
    """Return the line to type that frees a hook."""
    if holder.link_id is not None:
        return f"bpftool link detach id {holder.link_id}"
    line = code_of(hook).detach_line(hook, request.place.device, _without_link(hook, holder))
    return in_namespace(request.place, line)


def _without_link(hook: Hook, holder: HookHolder) -> NewAttachment:
    return NewAttachment(hook, held_by=HeldBy.NETLINK, mode=holder.mode.value)


def _owning_set(request: LoadRequest, holder: HookHolder) -> str:
    """Return the directory of the set of ours that has pinned the holder's program, else ""."""
    for pin_set in all_sets(request.path.parent):
        for name in pin_set.program_names if pin_set.name != request.name else ():
            with suppress(BpfError):
                if program_id(pin_set, name) == holder.program_id:
                    return pin_set.name
    return ""


def _taken(request: LoadRequest, hook: Hook, wanted: HookPlan, holder: HookHolder) -> HookPlan:
    if holder.link_id is None and not hook.traits.has_mode:
        line = _detach_line(request, hook, holder)
        raise HookBusyError(
            f"{request.place_of(hook.value)} runs a program that no link holds, and a link cannot"
            f" take its place: {holder}",
            holder=str(holder),
            hint=f"detach it first: {line}",
        )
    planned = replace(
        wanted,
        action=HookAction.UPDATE,
        previous_id=holder.program_id,
        link_id=holder.link_id,
        mode=holder.mode.value if hook.traits.has_mode else "",
        is_taken=True,
    )
    with ExitStack() as undo:
        # The descriptor keeps the program alive until the switch, so its id cannot be given to
        # another program meanwhile.
        previous = undo.enter_context(Program.from_id(holder.program_id))
        # A link refuses to be replaced by netlink, and a program held by netlink refuses a link
        # (EBUSY), so the hook stays with its kind of holder. Either is replaced without a gap: by
        # netlink with IFLA_XDP_EXPECTED_FD, or by BPF_LINK_UPDATE with BPF_F_REPLACE, which also
        # works on links of others.
        if holder.link_id is None:
            remembered = _without_link(hook, holder)
            attachment = code_of(hook).reopen(hook, hook_target(request.place), remembered)
            planned = replace(planned, attachment=attachment, held_by=remembered.held_by)
        else:
            planned = replace(planned, attachment=Link.from_id(holder.link_id))
        undo.pop_all()
    return replace(planned, previous=previous)


def require_mode(request: LoadRequest, there: str, whose: str, detach: str) -> None:
    """Raise `BusyError` if another mode is asked for than the one taken; *detach* frees it."""
    if request.mode is XdpMode.AUTO or request.mode.value == there:
        return
    # dev_xdp_attach() of net/core/dev.c: generic beside native mode is refused with EEXIST, and an
    # update of a link keeps its mode.
    raise BusyError(
        f"{request.place.device} runs {whose} in {there} mode, and a mode cannot change in place",
        holder=whose,
        hint=Fix.of(f"{detach}, then load with ", Argument("mode", request.mode)),
    )


def plan_hooks(request: LoadRequest, live: LoadedSet | None) -> tuple[HookPlan, ...]:
    """Decide on every hook, those wanted and those that leave; the caller closes the plans.

    Raises `ProgramChangedError` where somebody else changed a hook of the set, `HookBusyError`
    where a mode cannot change in place or, in a dry run, where somebody else is attached.
    """
    records = {record.link: record for record in _hooks(live)}
    with ExitStack() as undo:
        plans: list[HookPlan] = []
        for choice in request.chosen:
            link = _link_name(request, choice)
            plan = _plan(request, choice, live, _record_of(records, link, choice))
            undo.callback(plan.close)
            plans.append(replace(plan, link=link, target=choice.target))
        undo.pop_all()
    return (*plans, *map(_leaving, records.values()))


def at_kept_maps(hooks: tuple[HookPlan, ...], maps: Collection[MapPlan]) -> tuple[HookPlan, ...]:
    """Return the plans with programs attached anew whose attachments are to, or write, a new map.

    Raises `UsageError` where the contents that attachments wrote would be migrated.
    """
    decisions = {each.name: each.decision for each in maps}
    return tuple(_at_kept_map(hook, decisions) for hook in hooks)


def _at_kept_map(hook: HookPlan, decisions: Mapping[str, Decision]) -> HookPlan:
    if hook.action is not HookAction.UPDATE:
        return hook
    traits = Hook(hook.hook).traits
    name = traits.map
    if hook.target and not name:
        name = code_of(Hook(hook.hook)).map_of(hook.target)
    decision = decisions.get(name, Decision.KEPT)
    if decision is Decision.MIGRATED and name == traits.map:
        raise UsageError(
            f"map {name} cannot be migrated: loads fill it",
            hint=Fix.of("have it made anew: ", Argument("fresh", [name])),
        )
    return hook if decision is Decision.KEPT else replace(hook, action=HookAction.ATTACH)


def _link_name(request: LoadRequest, choice: Choice) -> str:
    """Return the name that identifies a hook over reloads.

    It has the program if the hook has several, or may have, and the target if that program has
    several there.
    """
    at_hook = [one for one in request.chosen if one.hook is choice.hook]
    of_program = [one for one in at_hook if one.program.name == choice.program.name]
    if has_table(choice.hook.value):
        return names.link_pin_name(choice.hook.value, choice.target)
    is_alone = len(at_hook) == 1 and not choice.hook.traits.example
    return names.link_pin_name(
        choice.hook.value,
        None if is_alone else choice.program.name,
        choice.target if len(of_program) > 1 else None,
    )


def _record_of(records: dict[str, HookRecord], link: str, choice: Choice) -> HookRecord | None:
    """Take the hook out of those of the live set, also where it had one program and has several."""
    # Popped: the records that remain at the end are the hooks that leave the set.
    if link in records:
        return records.pop(link)
    for name, record in records.items():
        there = (record.hook, record.program, record.target)
        if there == (choice.hook.value, choice.program.name, choice.target):
            return records.pop(name)
    return None


def is_alive(live: LoadedSet) -> bool:
    """Whether any link of the set is still attached anywhere."""
    return any(True for _ in attached(live))


def attached(live: LoadedSet) -> Iterator[HookRecord]:
    """Yield the hooks of the set that are still attached, wherever that is."""
    for record in _hooks(live):
        with ExitStack() as opened:
            plan = _own_hook(live, record, opened)
            if plan is not None and plan.previous_id:
                yield record


def _hooks(live: LoadedSet | None) -> tuple[HookRecord, ...]:
    return live.hooks if live else ()


def _leaving(record: HookRecord) -> HookPlan:
    detach = HookAction.DETACH
    return HookPlan(detach, record.hook, record.link, record.program, before=record)


def _plan(
    request: LoadRequest, choice: Choice, live: LoadedSet | None, record: HookRecord | None
) -> HookPlan:
    wanted = HookPlan(HookAction.ATTACH, choice.hook.value, "", choice.program.name)
    if live is not None and record is not None and _is_here(request, live, choice, record):
        with ExitStack() as undo:
            update = _own_hook(live, record, undo)
            if update is not None and update.previous_id:
                if choice.hook.traits.has_mode:
                    name = request.shown_name
                    detach = request.unload_line
                    require_mode(request, update.mode, f"the set {name}", detach)
                previous, is_taken = _previous(request, live, record, update)
                undo.pop_all()
                return replace(
                    update,
                    action=_action_at(choice, record, request),
                    program=wanted.program,
                    previous=previous,
                    is_taken=is_taken,
                )
    if choice.hook.traits.runs_one and (request.takes_over or request.is_dry_run):
        return plan_beside_others(request, choice.hook, wanted)
    return wanted


def _action_at(choice: Choice, record: HookRecord, request: LoadRequest) -> HookAction:
    """Return how the next program comes to a hook where the set has one.

    Without an update in place, nor a stub, it is attached beside the old one, which leaves with the
    old generation, so that no event is missed; those in between are seen by both.
    """
    traits = choice.hook.traits
    # What no link holds is replaced where it is, also if a link there could not be.
    stays = traits.updates_in_place or traits.has_partial_update or not record.held_by.has_link
    if record.held_by is HeldBy.STUB and not request.without_stub:
        from bpfpin.attach.stubs import refusal  # noqa: PLC0415 - few sets have stubs

        stays = not refusal(choice.program, choice.hook, hook_target(request.place, choice.target))
    return HookAction.UPDATE if stays else HookAction.ATTACH


def _is_here(request: LoadRequest, live: LoadedSet, choice: Choice, record: HookRecord) -> bool:
    """Whether the live set has its hook of *record* where it is wanted."""
    before, wanted = live.manifest.place, request.place
    kind = choice.hook.traits.target
    if kind is TargetKind.CGROUP:
        return record.target == choice.target and before.cgroup == wanted.cgroup
    # An ifindex is unique within its network namespace only; a name may pass to another device.
    is_same_device = kind is not TargetKind.DEVICE or before.ifindex == wanted.ifindex
    is_same_netns = not kind.is_in_netns or before.netns_inode == wanted.netns_inode
    return record.target == choice.target and is_same_device and is_same_netns


def _own_hook(live: LoadedSet, record: HookRecord, undo: ExitStack) -> HookPlan | None:
    """Open a hook of the set and say what it runs; None if it is no longer there."""
    plan = HookPlan(
        HookAction.UPDATE, record.hook, record.link, held_by=record.held_by, before=record
    )
    if record.held_by is HeldBy.STUB:
        stub = _own_stub(live, record, undo)
        if stub is None:
            return None
        running = stub.program_id() if stub.link.info.is_attached else 0
        return replace(plan, attachment=stub, link_id=stub.link.id, previous_id=running)
    if record.held_by is not HeldBy.LINK:
        hook = reopen(live.manifest.place, record)
        undo.callback(hook.close)
        with suppress(AttachError):  # the device is gone
            return replace(plan, attachment=hook, previous_id=hook.program_id(), mode=record.mode)
        return None
    link = live.open_link(record.link)
    if link is None:
        return None
    undo.callback(link.close)
    info = link.info
    # The link of a deleted device still opens, but an update answers ENOLINK: attach anew.
    is_running = info.is_attached and not is_shut(live, record)
    running = info.object_id if is_running else 0
    return replace(plan, attachment=link, link_id=info.id, previous_id=running, mode=record.mode)


def _own_stub(live: LoadedSet, record: HookRecord, undo: ExitStack) -> StubAttachment | None:
    """Open the stub at a hook of the set; None if its link or its slot is gone."""
    link, slot = live.open_link(record.link), live.open_slot(record.link)
    for opened in filter(None, (link, slot)):
        undo.callback(opened.close)
    if link is None or slot is None:
        return None
    from bpfpin.objects.stub import StubAttachment  # noqa: PLC0415 - few sets have stubs

    return StubAttachment(link, slot)


def _previous(
    request: LoadRequest, live: LoadedSet, record: HookRecord, update: HookPlan
) -> tuple[Program | Map, bool]:
    """Return what a hook of the set runs, a program or a table, and whether it is another's."""
    program = open_own(live, record)
    if program is not None:
        with ExitStack() as undo:
            undo.callback(program.close)
            # Ids are compared, not names: every generation loads its own programs, and the kernel
            # does not use an id again until all have been used.
            if program.id == update.previous_id:
                undo.pop_all()
                return program, False
    if request.takes_over and update.previous_id:
        kind = Map if has_table(record.hook) else Program
        return kind.from_id(update.previous_id), True
    if program is None:
        raise ProgramChangedError(
            f"the pin of {record.program} is gone from the set {request.shown_name}: bpfpin"
            f" cannot tell if program id {update.previous_id} at {update.hook} is the set's own",
            holder=f"program id {update.previous_id}",
            hint=Fix.of("if it is: ", Argument("take_over")),
        )
    raise ProgramChangedError(
        f"{update.hook} of {request.place_of(update.hook, record.target)} runs program id"
        f" {update.previous_id},"
        f" which is not the {record.program} of the set {request.shown_name}: somebody else put it"
        " there",
        holder=f"program id {update.previous_id}",
        hint=Fix.of(
            "see its owner: bpfpin status; to put yours in its place: ", Argument("take_over")
        ),
    )


def describe(request: LoadRequest, plans: tuple[HookPlan, ...]) -> Iterator[str]:
    """Yield the notes on hooks that are taken over, or in a dry run would be."""
    taken = "would be taken over" if request.is_dry_run else "was taken over"
    held = "would be held" if request.is_dry_run else "is held"
    for plan in plans:
        if plan.is_taken and plan.held_by is HeldBy.NETLINK:
            yield (
                f"{plan.hook} {taken} from program id {plan.previous_id} and {held} by netlink,"
                f" without a link; to make it one: {request.unload_line}, then load"
            )
        elif plan.is_taken:
            yield f"{plan.hook} {taken} from program id {plan.previous_id}"


def unmoved(request: LoadRequest, plans: tuple[HookPlan, ...]) -> Iterator[str]:
    """Yield notes on attached programs that do not have the place of `--order`.

    An update in place keeps the place: there is no command of bpf(2) that moves a program.
    """
    if request.order is None:
        return
    from bpfpin.attach.query import tcx_programs  # noqa: PLC0415 - few loads have an order

    asked = {choice.hook for choice in request.chosen}
    own_links = {plan.link_id for plan in plans}
    for plan in plans:
        hook = Hook(plan.hook)
        if plan.action is not HookAction.UPDATE:
            continue
        if hook.traits.has_order:
            # Other programs of the set count for nothing: two may both be asked to be the first.
            programs = [
                (entry.program_id, entry.link_id)
                for entry in tcx_programs(request.place.ifindex, hook)
                if entry.link_id == plan.link_id or entry.link_id not in own_links
            ]
            if request.order.is_place_of(plan.link_id or 0, programs):
                continue
        elif hook in asked:  # a hook without an order beside one that has it
            continue
        # Else it is a filter of classic tc, from when the kernel had no tcx.
        yield (
            f"{plan.program} keeps its place at {plan.hook}, which is not {request.order}; to move"
            f" it: {request.unload_line}, then load"
        )


@contextmanager
def programs_with_targets(
    request: LoadRequest,
) -> Iterator[tuple[ObjectSpec, dict[str, Program]]]:
    """Yield the programs of a load, and the open programs whose functions some are loaded for."""
    spec = request.spec.only_programs(*request.programs)
    with ExitStack() as opened:
        targets = {}
        for choice in request.chosen:
            target = hook_target(request.place, choice.target)
            if of_program := code_of(choice.hook).program_target(target):
                replaced, function = of_program
                targets[choice.program.name] = opened.enter_context(replaced)
                spec = spec.with_program(choice.program.name, attach_to=function)
        yield spec, targets
