"""The plan of one load: decides from the request and the live state what each step does."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bpfpin.btf.names import kernel_name
from bpfpin.errors import BpfError, BusyError, IncompatibleMapError, PinKindError, PinNotFoundError
from bpfpin.hints import Argument, Fix, Placeholder, shell_line
from bpfpin.hooks import HeldBy
from bpfpin.objects.kernel.object import identity
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names
from bpfpin.pins.manifest import Access
from bpfpin.pins.pinset import LoadedSet, lost_pins
from bpfpin.pins.plan import Decision, HookPlan, MapPlan, Plan, PlannedMaps, plan_maps
from bpfpin.sets.live import LiveState
from bpfpin.sets.load import hooks
from bpfpin.sets.place import name_of
from bpfpin.sets.request import LoadRequest
from bpfpin.sets.variables import check_kept

if TYPE_CHECKING:
    from bpfpin.sets.load.migrate import Migrator
    from bpfpin.sets.shared import Replacing


def make_plan(request: LoadRequest, state: LiveState) -> Plan:
    """Decide on every map and hook; nothing is changed, and the caller closes the plan.

    Raises `IncompatibleMapError` with all differences of all maps and their users, `BusyError`
    for an unrelated object, another place or a mode that cannot change, `UsageError` for a variable
    whose map is kept, and what `hooks.plan_hooks` does.
    """
    live = state.loaded
    # These two come first: for the wrong set every other difference would be noise.
    _require_same_place(request, live)
    _require_related(request, live)
    with ExitStack() as undo:
        # Before the maps: whether a shared map may be replaced, or migrated exactly, depends on the
        # programs that the hooks run.
        planned = hooks.plan_hooks(request, live)
        for hook in planned:
            undo.callback(hook.close)
        maps = _plan_maps(request, live, planned, undo)
        planned = hooks.at_kept_maps(planned, maps.plans)
        # After the maps, since only the decisions say which data sections keep their values.
        check_kept(request.settings, maps.plans, live.manifest.variables if live else {})
        _require_free_names(request, state, planned)
        is_unchanged = _is_unchanged(request, live, maps.plans, planned)
        if is_unchanged and request.migration is not None:
            # No map needed the settings, so nothing has checked them yet.
            _migrator(request, live, planned).require_possible()
        undo.pop_all()
    before = live.manifest.generation if live else 0
    generation = before if is_unchanged else before + 1
    return Plan(live, generation, maps.plans, planned, maps.given, maps.migrating, is_unchanged)


def _plan_maps(
    request: LoadRequest, live: LoadedSet | None, planned: tuple[HookPlan, ...], undo: ExitStack
) -> PlannedMaps:
    """Decide on every map; *undo* closes those that the plan uses."""

    @cache
    def replacing() -> Replacing:
        from bpfpin.sets.shared import Replacing  # noqa: PLC0415 - few loads replace a shared map

        return Replacing(request, live, planned)

    migrator = None if request.migration is None else _migrator(request, live, planned)
    try:
        maps = plan_maps(
            request.spec,
            live,
            shared=_shared_maps(request),
            fresh=request.fresh,
            migrate=migrator.plan if migrator else None,
            may_replace=lambda name: replacing().may(name),
        )
    except IncompatibleMapError as error:
        # A migrator is made for the hints, too: they offer --migrate only if it would work, and say
        # what it would lose.
        migrator = migrator or _migrator(request, live, planned)
        migrator.require_known()
        raise _explained(error, migrator, replacing()) from None
    for bpf_map in (*maps.given.values(), *(each.old for each in maps.migrating)):
        undo.callback(bpf_map.close)
    if migrator:
        migrator.require_known()
    return maps


def access_after(request: LoadRequest, live: LoadedSet | None) -> Access | None:
    """Return the group and mode of the maps afterwards: as asked, else as before."""
    return request.access or (live.manifest.access if live else None)


def origin_after(request: LoadRequest, live: LoadedSet | None) -> str:
    """Return the command that counts as the maker of the set afterwards.

    A set that `apply` made stays one of those when somebody reloads it by hand.
    """
    return request.origin or (live.manifest.origin if live else "")


def given_after(request: LoadRequest, plan: Plan) -> dict[str, str]:
    """Return where the maps come from that the user named, in this load or in an earlier one."""
    kept = {each.name for each in plan.maps if each.decision is Decision.KEPT}
    before = plan.live.manifest.given if plan.live else {}
    given = {name: source for name, source in before.items() if name in kept}
    promised = [shared for shared in request.shared.values() if shared.is_promised]
    return given | {shared.name: str(shared.path or shared.source) for shared in promised}


def _shared_maps(request: LoadRequest) -> dict[str, tuple[Map, str]]:
    return {
        name: (shared.bpf_map, shared.source)
        for name, shared in request.shared.items()
        if shared.bpf_map is not None
    }


def _require_same_place(request: LoadRequest, live: LoadedSet | None) -> None:
    """Raise `BusyError` if the set is attached to another device or cgroup."""
    if live is None or not live.hooks or request.replaces:
        return
    before, after = live.manifest.place, request.place
    is_same_device = (before.netns_inode, before.ifindex) == (after.netns_inode, after.ifindex)
    # By ifindex and namespace, not by name: a device keeps its index when it is renamed, and a new
    # device under an old name has another one.
    if after.ifindex and before.ifindex and not is_same_device:
        was, wanted = (f"{place.device} (ifindex {place.ifindex})" for place in (before, after))
    elif after.cgroup and before.cgroup and after.cgroup != before.cgroup:
        was, wanted = (f"cgroup {place.cgroup}" for place in (before, after))
    else:
        return
    # Nothing of a set whose hooks are gone is left to move: it may simply be loaded elsewhere.
    if hooks.is_alive(live):
        raise BusyError(
            f"the set {request.shown_name} is loaded on {was}, not {wanted}",
            holder=was,
            hint=Fix.of(
                "load it as another set: ",
                Argument("name", Placeholder("NAME")),
                "; or move this one: ",
                Argument("replace"),
            ),
        )


def _require_free_names(
    request: LoadRequest, state: LiveState, planned: tuple[HookPlan, ...]
) -> None:
    """Raise `BusyError` if somebody else pinned something where the set is to pin its own."""
    directory = state.directory
    if directory is None:
        return
    wanted = [
        *map(names.map_pin_name, request.spec.maps),
        *(f"{names.PROGRAMS}/{names.program_pin_name(name)}" for name in request.programs),
        *(f"{names.LINKS}/{hook.link}" for hook in planned),
        *(f"{names.SLOTS}/{hook.link}" for hook in planned),
        *(f"{names.SLOTS}/{names.program_pin_name(name)}" for name in request.programs),
    ]
    for entry in wanted:
        folder, _, pin = entry.rpartition("/")
        # A name that the set has recorded is one of its own pins that somebody replaced: the load
        # pins the right object there again.
        if entry in directory.foreign and directory.id_of(folder, pin) is None:
            path = request.path / entry
            raise BusyError(
                f"{path} is {_what_is_at(path)}, which bpfpin did not pin, and the object needs"
                " that name",
                holder=str(path),
                hint=f"move it away: {shell_line('mv', path, f'{path}_other')}",
            )


def _what_is_at(path: Path) -> str:
    with suppress(BpfError):
        if pinned := identity(path):
            return f"{pinned[0]} id {pinned[1]}"
    return "something"


def _require_related(request: LoadRequest, live: LoadedSet | None) -> None:
    """Raise `BusyError` for an object that has neither a program nor a hook of the live set."""
    if live is None or not live.hooks or request.replaces:
        return
    # Where the kernel lacks the hook asked for, only the name of the link still has it.
    asked = {names.hook_of_link(record.link) for record in live.hooks}
    before = asked | {record.hook for record in live.hooks}
    after = {choice.hook.value for choice in request.chosen}
    # One program or hook in common makes it a new version of the same thing. Without that, a name
    # typed wrong would replace another program.
    if set(request.programs) & set(live.program_names) or after & before:
        return
    raise BusyError(
        f"{name_of(live.manifest.place)} already has the set {request.shown_name}, which runs"
        " another object,"
        f" {live.manifest.object or 'without a path'}; the two share neither a program nor a hook",
        holder=live.manifest.object,
        hint=Fix.of(
            "load it as another set: ",
            Argument("name", Placeholder("NAME")),
            "; or put it in place of that one: ",
            Argument("replace"),
        ),
    )


def _is_unchanged(
    request: LoadRequest,
    live: LoadedSet | None,
    maps: tuple[MapPlan, ...],
    planned: tuple[HookPlan, ...],
) -> bool:
    """Whether the set is loaded exactly as requested: same bytes, same choices, same maps."""
    # Without a hash of the object nothing proves that the same bytes run already.
    if live is None or not request.spec.sha256:
        return False
    manifest = live.manifest
    running = {
        (record.hook, record.link, record.program, record.target) for record in manifest.hooks
    }
    return (
        manifest.sha256 == request.spec.sha256
        and all(_stays(request, hook, live) for hook in planned)
        and running == {(hook.hook, hook.link, hook.program, hook.target) for hook in planned}
        and all(_is_pinned_already(plan, live) for plan in maps)
        and set(live.programs) == set(request.programs)
        and all(shared.bpf_map is not None for shared in request.shared.values())
        and manifest.access == access_after(request, live)
        and manifest.variables == request.settings.hashes
        and _use_pinned_maps(planned, live)
        # A pin that was removed by hand is a reason to load again: the load pins it anew.
        and not lost_pins(live)
    )


def _stays(request: LoadRequest, hook: HookPlan, live: LoadedSet) -> bool:
    """Whether the hook runs the set's own program already, without a stub or gate that is to go."""
    has_one = hook.held_by is HeldBy.STUB or hook.program in live.manifest.gates
    has_to_change = request.without_stub and has_one
    return hook.previous is not None and not hook.is_taken and not has_to_change


def _is_pinned_already(plan: MapPlan, live: LoadedSet) -> bool:
    # Maps that every generation makes anew, such as `.rodata`, do not ask for a new generation by
    # themselves.
    is_made_with_its_program = plan.decision is Decision.CREATED and plan.name in live.maps
    return plan.decision is Decision.KEPT or is_made_with_its_program


def _use_pinned_maps(planned: tuple[HookPlan, ...], live: LoadedSet) -> bool:
    """Whether the running programs use the pinned maps alone: somebody may have swapped a pin."""
    pinned = set()
    for path in live.maps.values():
        with suppress(PinNotFoundError, PinKindError), Map.from_pin(path) as bpf_map:
            pinned.add(bpf_map.id)
    for name in live.manifest.gates:
        with live.open_slot(names.program_pin_name(name)) or nullcontext() as gate:
            pinned |= {gate.id} if gate else set()
    used = [each.previous.info.map_ids for each in planned if isinstance(each.previous, Program)]
    return all(pinned.issuperset(ids) for ids in used)


def _migrator(
    request: LoadRequest, live: LoadedSet | None, planned: tuple[HookPlan, ...]
) -> Migrator:
    from bpfpin.sets.load.migrate import Migrator  # noqa: PLC0415 - few loads change definitions

    return Migrator(request, live, planned)


def _explained(
    error: IncompatibleMapError, migrator: Migrator, replacing: Replacing
) -> IncompatibleMapError:
    """Add the paths of the maps, their users, and what to type."""
    request, live = migrator.request, migrator.live
    unfit = list(dict.fromkeys(difference.map for difference in error.differences))
    shared = [name for name in unfit if name in _shared_maps(request) and not replacing.may(name)]
    own = [name for name in unfit if name not in shared]
    lines: list[str | Fix] = [line for name in unfit for line in _users(name, request, live)]
    if own:
        lines += [way for way in migrator.ways_out(own) if way not in lines]
        # Last of the ways out, since it loses everything that the maps hold.
        fresh = Argument("fresh", own)
        lines.append(Fix.of("to start empty, losing what is counted there: ", fresh))
    for name in shared:
        lines += replacing.advice(name) if request.shared[name].is_exchangeable else ()
        another = Argument("maps", {name: Placeholder("PATH")})
        lines.append(Fix.of("to use another one: ", another, ", or another object"))
    places = [str(_place(name, request, live)) for name in unfit]
    error.path = places[0]
    error.message = f"{', '.join(places)}: {error.message}"
    error.fix = Fix(())
    for line in lines:
        parts = line.parts if isinstance(line, Fix) else (line,)
        error.fix = error.fix.joined(*parts, separator="\n      ")
    return error


def _place(name: str, request: LoadRequest, live: LoadedSet | None) -> Path | str:
    """Return where the map that does not fit is pinned, or how it was named."""
    if name in request.shared:
        return request.shared[name].source
    return live.maps.get(name, request.map_path(name)) if live else request.map_path(name)


def _users(name: str, request: LoadRequest, live: LoadedSet | None) -> list[str]:
    """Return a line with the users of the map that does not fit, as far as they can be seen."""
    try:
        with ExitStack() as opened:
            shared = request.shared.get(name)
            bpf_map = shared.bpf_map if shared else None
            if bpf_map is None:
                owned = live.open_map(name) if live else None
                bpf_map = opened.enter_context(owned or Map.from_pin(_place(name, request, live)))
            own = str(_place(name, request, live))
            from bpfpin.host.users import users_of  # noqa: PLC0415 - only for a refusal

            users = users_of(bpf_map.id, pin_root=request.path.parent)
            listed = ", ".join(str(user) for user in users if user.name != own)
            # By its own name: an object may use a map of another name.
            shown = name if kernel_name(name) == bpf_map.name else bpf_map.name or "without a name"
            return [f"map {shown} (id {bpf_map.id}) is used by: {listed or 'nobody'}"]
    # This only adds to a refusal, which must reach the user even if the users of the map cannot be
    # listed.
    except BpfError:
        return []
