"""From what is wanted and what is there to the plan of one load."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from bpfpin.errors import (
    BpfError,
    BusyError,
    IncompatibleMapError,
    NotBpffsError,
    PinKindError,
    PinNotFoundError,
)
from bpfpin.host.users import users_of
from bpfpin.objects.kernel.object import identity
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.manifest import Access, Manifest
from bpfpin.pins.pinset import PinSet, lost_pins
from bpfpin.pins.plan import (
    Decision,
    HookAction,
    HookPlan,
    MapPlan,
    Plan,
    plan_maps,
)
from bpfpin.sets.load import hooks
from bpfpin.sets.load.migrate import Migrator
from bpfpin.sets.request import Loading
from bpfpin.sets.shared import Replacing
from bpfpin.sets.variables import check_kept


def make_plan(loading: Loading, live: PinSet | None) -> Plan:
    """Look at everything and decide; nothing is changed, and the caller closes the plan.

    Raises `IncompatibleMapError` with all differences of all maps and who uses them, `BusyError`
    for an unrelated object, another place or a mode that cannot change, `UsageError` for a variable
    whose map is kept, and what `hooks.plan_hooks` does.
    """
    _require_same_place(loading, live)
    _require_related(loading, live)
    with ExitStack() as undo:
        planned = hooks.plan_hooks(loading, live)
        for hook in planned:
            undo.callback(hook.close)
        migrator = Migrator(loading, live, planned)
        replacing = Replacing(loading, live, planned)
        try:
            found = plan_maps(
                loading.spec,
                live,
                shared=_held(loading),
                fresh=loading.fresh,
                migrate=migrator.plan if migrator.is_asked else None,
                may_replace=replacing.may,
            )
        except IncompatibleMapError as error:
            migrator.require_known()
            raise _explained(error, migrator, replacing) from None
        for held in (*found.given.values(), *(each.old for each in found.migrating)):
            undo.callback(held.close)
        migrator.require_known()
        check_kept(loading.settings, found.plans, _variables_before(live))
        _require_free_names(loading, planned)
        undo.pop_all()
    is_unchanged = _is_unchanged(loading, live, found.plans, planned)
    generation = _generation(live, is_unchanged)
    return Plan(live, generation, found.plans, planned, found.given, found.migrating, is_unchanged)


def _variables_before(live: PinSet | None) -> Mapping[str, str]:
    return live.manifest.variables if live and live.manifest else {}


def access_after(loading: Loading, live: PinSet | None) -> Access | None:
    """Return who may open the maps afterwards: as asked, else as before."""
    before = live.manifest.access if live and live.manifest else None
    return loading.access or before


def _held(loading: Loading) -> dict[str, tuple[Map, str]]:
    return {
        name: (shared.held, shared.source)
        for name, shared in loading.shared.items()
        if shared.held is not None
    }


def _generation(live: PinSet | None, is_unchanged: bool) -> int:
    before = live.manifest.generation if live and live.manifest else 0
    return before if is_unchanged else before + 1


def _require_same_place(loading: Loading, live: PinSet | None) -> None:
    manifest = live.manifest if live else None
    if live is None or manifest is None or not manifest.hooks or loading.replaces:
        return
    there, here = manifest.place, loading.place
    is_same_device = (there.netns_inode, there.ifindex) == (here.netns_inode, here.ifindex)
    if here.ifindex and there.ifindex and not is_same_device:
        was, wanted = (f"{one.device} (ifindex {one.ifindex})" for one in (there, here))
    elif here.cgroup and there.cgroup and here.cgroup != there.cgroup:
        was, wanted = (f"cgroup {one.cgroup}" for one in (there, here))
    else:
        return
    if hooks.is_alive(live):
        raise BusyError(
            f"the set {loading.shown_name} is loaded on {was}, not {wanted}",
            holder=was,
            hint="load it as another set: --name NAME; or move this one: --replace",
        )


def _require_free_names(loading: Loading, planned: tuple[HookPlan, ...]) -> None:
    """Raise `BusyError` if somebody else pinned something where the set is to pin its own."""
    try:
        found = PinSet.read(loading.path.parent, loading.name)
    except (PinNotFoundError, NotBpffsError):
        return
    wanted = [
        *map(names.map_pin_name, loading.spec.maps),
        *(f"{names.PROGRAMS}/{names.program_pin_name(name)}" for name in loading.programs),
        *(f"{names.LINKS}/{hook.link}" for hook in planned),
    ]
    for entry in wanted:
        folder, _, pin = entry.rpartition("/")
        if entry in found.foreign and found.id_of(folder, pin) is None:
            path = loading.path / entry
            raise BusyError(
                f"{path} is {_what_is_at(path)}, which bpfpin did not pin, and the object needs"
                " that name",
                holder=str(path),
                hint=f"move it away: mv {path} {path}_other",
            )


def _what_is_at(path: Path) -> str:
    with suppress(BpfError):
        if there := identity(path):
            return f"{there[0]} id {there[1]}"
    return "something"


def _require_related(loading: Loading, live: PinSet | None) -> None:
    """Raise `BusyError` for an object that has neither a program nor a hook of the live set."""
    manifest = live.manifest if live else None
    if live is None or manifest is None or not manifest.hooks or loading.replaces:
        return
    if set(loading.programs) & set(live.program_names) or _wanted(loading) & _there(manifest):
        return
    raise BusyError(
        f"{loading.shown_name} runs another object, {manifest.object or 'without a path'}: they"
        " share neither a program nor a hook",
        holder=manifest.object,
        hint="load it as another set: --name NAME; or put it in place of that one: --replace",
    )


def _wanted(loading: Loading) -> set[str]:
    return {choice.hook.value for choice in loading.chosen}


def _there(manifest: Manifest) -> set[str]:
    """Return the hooks of a set, and those that were asked for where another one was taken."""
    asked = {names.hook_of_link(record.link) for record in manifest.hooks}
    return asked | {record.hook for record in manifest.hooks}


def _is_unchanged(
    loading: Loading,
    live: PinSet | None,
    maps: tuple[MapPlan, ...],
    planned: tuple[HookPlan, ...],
) -> bool:
    """Whether the set is loaded just as it is asked for: same bytes, same choices, same maps."""
    manifest = live.manifest if live else None
    if live is None or manifest is None or not loading.spec.sha256:
        return False
    running = {(record.hook, record.link, record.program) for record in manifest.hooks}
    return (
        manifest.sha256 == loading.spec.sha256
        and all(_stays(hook) for hook in planned)
        and running == {(hook.hook, hook.link, hook.program) for hook in planned}
        and all(_is_there_already(plan, live) for plan in maps)
        and set(live.programs) == set(loading.programs)
        and all(shared.held is not None for shared in loading.shared.values())
        and manifest.access == access_after(loading, live)
        and manifest.variables == loading.settings.hashes
        and _use_the_pinned_maps(planned, live)
        and not lost_pins(live)
    )


def _stays(hook: HookPlan) -> bool:
    return hook.action is HookAction.UPDATE and not hook.is_taken


def _is_there_already(plan: MapPlan, live: PinSet) -> bool:
    is_made_with_its_program = plan.decision is Decision.CREATED and plan.name in live.maps
    return plan.decision is Decision.KEPT or is_made_with_its_program


def _use_the_pinned_maps(planned: tuple[HookPlan, ...], live: PinSet) -> bool:
    """Whether all that the running programs use is what is pinned: somebody may swap a pin."""
    pinned = set()
    for path in live.maps.values():
        with suppress(PinNotFoundError, PinKindError), Map.from_pin(path) as held:
            pinned.add(held.id)
    used = [hook.previous.info.map_ids for hook in planned if hook.previous]
    return all(pinned.issuperset(ids) for ids in used)


def _explained(
    error: IncompatibleMapError, migrator: Migrator, replacing: Replacing
) -> IncompatibleMapError:
    """Add where the maps are, who uses them, and what to type."""
    loading, live = migrator.loading, migrator.live
    unfit = list(dict.fromkeys(each.map for each in error.differences))
    shared = [name for name in unfit if name in _held(loading) and not replacing.may(name)]
    kept = [name for name in unfit if name not in shared]
    lines = [line for name in unfit for line in _users(name, loading, live)]
    lines += dict.fromkeys(way for name in kept for way in migrator.ways_out(name, error))
    if kept:
        fresh = " ".join(f"--fresh {name}" for name in kept)
        lines.append(f"to start empty, losing what is counted there: {fresh}")
    for name in shared:
        lines += replacing.advice(name) if loading.shared[name].is_exchangeable else ()
        lines.append(f"to use another one: --map {name}=PATH, or another object")
    places = [str(_place(name, loading, live)) for name in unfit]
    error.path = places[0]
    error.message = f"{', '.join(places)}: {error.message}"
    error.hint = "\n      ".join(lines)
    return error


def _place(name: str, loading: Loading, live: PinSet | None) -> Path | str:
    if name in loading.shared:
        return loading.shared[name].source
    return live.maps.get(name, loading.map_path(name)) if live else loading.map_path(name)


def _users(name: str, loading: Loading, live: PinSet | None) -> list[str]:
    """Return who uses the map that does not fit, as far as that can be seen."""
    try:
        with ExitStack() as opened:
            shared = loading.shared.get(name)
            held = shared.held if shared else None
            if held is None:
                held = opened.enter_context(Map.from_pin(_place(name, loading, live)))
            there = str(_place(name, loading, live))
            found = users_of(held.id, pin_root=loading.path.parent)
            users = ", ".join(str(user) for user in found if user.name != there)
            return [f"map {name} (id {held.id}) is used by: {users or 'nobody'}"]
    except BpfError:
        return []
