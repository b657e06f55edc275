"""Whether a load would cut the user's own way to this host, tried beforehand."""

from __future__ import annotations

from collections.abc import Iterator

from bpfpin.attach import interface
from bpfpin.errors import LimitError, PermissionDeniedError, UsageError
from bpfpin.migration.fold import Folding
from bpfpin.objects.load.collection import Loaded, fill_given
from bpfpin.pins.plan import Plan
from bpfpin.sets.lockout.map_copy import Budget, copy_of
from bpfpin.sets.lockout.trial_run import Copying, Target, UntriedError, cut_by
from bpfpin.sets.lockout.ways import WAY_BACK, Danger, danger_of, danger_of_cgroup
from bpfpin.sets.request import Loading


def require_way_back(loading: Loading, plan: Plan) -> tuple[str, ...]:
    """Raise `UsageError` if a program stops what the user's way to this host is made of.

    Asked only at a device or cgroup that carries the default route or an ssh session, and where no
    way back was given. Maps that are used from elsewhere, kept or migrated are copied with what is
    in them. Returns what was not tried, and why.
    """
    if loading.confirm_s is not None or loading.is_forced:
        return ()
    targets = [target for target in _targets(loading) if target.danger]
    notes: dict[str, None] = {}
    if not targets:
        return ()
    copying = Copying(
        loading.spec,
        loading.programs,
        plan.given,
        prepare=lambda copy: _prepare(loading, plan, copy),
        max_map_memory=loading.max_map_memory,
    )
    for target in targets:
        try:
            cut = cut_by(copying, target)
        except (UntriedError, LimitError, PermissionDeniedError) as error:
            notes[
                f"{target.program} was not tried on test packets, and {target.place} carries"
                f" {target.danger}: {error}"
            ] = None
            continue
        if cut is not None:
            raise UsageError(
                f"{cut}: loading it would cut {target.place}, which carries {target.danger}",
                hint=WAY_BACK,
            )
    notes.update({f"when it was tried on test packets, {one}": None for one in copying.notes})
    return tuple(notes)


def _targets(loading: Loading) -> Iterator[Target]:
    """Yield the programs that are to be attached, each with what is in danger where it goes."""
    dangers: dict[bool, Danger] = {}
    device = loading.place.device
    ifindex = interface.ifindex(device) if device else 0
    for choice in loading.chosen:
        is_cgroup = choice.hook.is_cgroup
        if is_cgroup not in dangers:
            found = danger_of_cgroup(loading.place.cgroup) if is_cgroup else danger_of(ifindex)
            dangers[is_cgroup] = found
        yield Target(
            choice.program.name,
            choice.hook,
            loading.place_of(choice.hook.value),
            dangers[is_cgroup],
            0 if is_cgroup else ifindex,
        )


def _prepare(loading: Loading, plan: Plan, copy: Loaded) -> None:
    """Do with the copies what the load does: fill program arrays, and migrate maps."""
    fill_given(loading.spec, copy, plan.given)
    for each in plan.migrating:
        with copy_of(each.old, Budget()) as old:
            each.plan.fill(old, copy.maps[each.name])
            with Folding.load(each.plan.fold, old, copy.maps[each.name]) as folding:
                folding.insert()
                folding.move()
