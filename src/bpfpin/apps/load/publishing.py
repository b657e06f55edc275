"""Carrying a plan out: the next generation of a set is made, published, and told."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bpfpin.apps.load.attaching import (
    NewHook,
    attach,
    attach_filter,
    explained_updates,
    foreseen,
)
from bpfpin.apps.load.loading import Loading
from bpfpin.apps.load.migrating import fold_programs, lineages
from bpfpin.apps.load.planning import access_after
from bpfpin.apps.load.report import attached, finished, planned
from bpfpin.apps.load.shared_names import (
    exchanged,
    holders_of_old,
    map_ids,
    shared_names,
    unshared,
)
from bpfpin.apps.recovery import reopen
from bpfpin.apps.reports import LoadReport, ProgramReport
from bpfpin.apps.sets.live import told_of_others
from bpfpin.apps.trial.load import LoadTrial
from bpfpin.errors import UsageError
from bpfpin.objects import collection
from bpfpin.objects.collection import Loaded
from bpfpin.objects.link import Link
from bpfpin.objects.map import Map
from bpfpin.objfile import shipped
from bpfpin.pins import names
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import Held, HookRecord, Manifest, OutsidePin
from bpfpin.pins.migration import staged
from bpfpin.pins.pinset import PinSet
from bpfpin.pins.plan import Decision, HookAction, HookPlan, Plan
from bpfpin.pins.transaction import Stage, next_generations
from bpfpin.syscall.fd import Closing
from bpfpin.version import __version__

Attached = tuple[HookRecord, ProgramReport]


class Verified(Closing):
    """A load with its plan, its new maps, and its programs as the kernel has verified them.

    *notes* are told with its report.
    """

    def __init__(self, loading: Loading, plan: Plan, *, notes: tuple[str, ...] = ()) -> None:
        self.notes = notes
        self.loading = loading
        self.plan = plan
        self.loaded = _loaded(loading, plan)
        self.shared = shared_names(loading)
        self.left = _left_names(plan.live, self.shared)
        self.exchanged = exchanged(loading, plan)

    def close(self) -> None:
        """Let go of what was made; what is pinned or attached by then stays."""
        self.loaded.close()

    def made(self) -> Iterator[tuple[Path, Map]]:
        """Yield the maps made for shared names, for the other sets that use these."""
        for pin in self.exchanged:
            yield pin.below(self.loading.path.parent), self.loaded.maps[pin.map]
        for shared in self.loading.shared.values():
            if shared.held is None and shared.path and shared.name in self.loaded.maps:
                yield shared.path, self.loaded.maps[shared.name]

    def planned(self) -> LoadReport:
        """Return what `publish` would do."""
        for _, folding in fold_programs(self.plan, self.loaded):
            folding.close()
        notes: dict[str, str] = {}
        for hook in self.plan.hooks:
            if hook.action is not HookAction.DETACH:
                note = foreseen(self.loading, hook, self.loaded.programs[hook.program])
                notes |= {hook.link: note} if note else {}
        return planned(self.loading, self.plan, self.loaded, generic=notes).with_notes(self.notes)


def publish(loads: Sequence[Verified], root: Directory) -> list[LoadReport]:
    """Build the next generation of every set and make these the ones that hold, all or none.

    The lock must be held. The loads are closed.
    """
    leaving = [_unshared(root, loads, one) for one in loads]
    planned_loads = [(one.loading, one.plan, one.loaded.programs) for one in loads]
    with explained_updates(planned_loads), ExitStack() as trials:
        # Around all that changes anything: the trials begin last, and what failed goes back.
        begun = [trials.enter_context(_trial(one.loading, one.plan, root)) for one in loads]
        with (
            next_generations(root, [one.loading.name for one in loads], reopen) as stages,
            ExitStack() as opened,
        ):
            running = []
            for one, stage, trial in zip(loads, stages, begun, strict=True):
                has_live = one.plan.live is not None
                live = opened.enter_context(root.child(one.loading.name)) if has_live else None
                building = _Building(stage, one.loading, one.plan, one.loaded, live, trial)
                running.append(building.build(one.shared))
            for stage, (unused, _) in zip(stages, leaving, strict=True):
                for pin, map_id in unused.items():
                    stage.unshare(pin, map_id)
        old_ids = [{pin: old.id for pin, old in one.exchanged.items()} for one in loads]
        reports = []
        for one, programs in zip(loads, running, strict=True):
            collection.fill_given(one.loading.spec, one.loaded, one.plan.given)
            reports.append(finished(one.loading, one.plan, one.loaded, programs))
        for one in loads:
            one.close()
            one.plan.close()  # it holds the old programs; what still uses such a map is another's
            one.loading.close()  # it holds maps that were replaced
        return [
            report.with_notes(
                (
                    *one.notes,
                    *names_kept,
                    *holders_of_old(root, before),
                    *_left_over(root, one.loading),
                    *told_of_others(root, one.loading.name),
                )
            )
            for one, before, (_, names_kept), report in zip(
                loads, old_ids, leaving, reports, strict=True
            )
        ]


def _unshared(
    root: Directory, loads: Sequence[Verified], load: Verified
) -> tuple[dict[OutsidePin, int], tuple[str, ...]]:
    """Return which of the shared names that the set leaves go, and notes on those that stay."""
    if load.loading.confirm_s is not None:
        paths = [pin.below(root.path) for pin in load.left]
        return {}, tuple(f"{path} stays pinned, for this load may go back" for path in paths)
    sets = [one.plan.live for one in loads if one.plan.live is not None]
    return unshared(root.path, sets, load.left)


def _left_over(root: Directory, loading: Loading) -> Iterator[str]:
    """Tell of maps that had no room for all that was to go over."""
    with root.child(loading.name) as live:
        for name in staged.unfinished(live):
            yield (
                f"map {names.decode(name)} had no room for all entries of the old one: nothing is"
                " lost, the old map is kept; load with more max_entries and --migrate"
            )


def _left_names(live: PinSet | None, shared: tuple[OutsidePin, ...]) -> dict[OutsidePin, int]:
    """Return the shared names of the live set that the next one has no map for."""
    if live is None or live.manifest is None:
        return {}
    return map_ids(live, [pin for pin in live.manifest.outside if pin not in shared])


def _trial(
    loading: Loading, plan: Plan, root: Directory
) -> AbstractContextManager[LoadTrial | None]:
    """Return what takes the load back unless it is confirmed, if that is wanted."""
    if loading.confirm_s is None:
        return nullcontext()
    leaving = [hook.hook for hook in plan.hooks if hook.action is HookAction.DETACH]
    held = {hook.hook for hook in plan.hooks if hook.before and hook.before.held is Held.NETLINK}
    for hook in leaving:
        if hook in held:
            raise UsageError(
                f"{hook} is held by netlink and would leave the set: that cannot go back by itself",
                hint=f"without --confirm; or first: bpfpin unload --keep-maps {loading.shown_name}",
            )
    return LoadTrial(loading.confirm_s, root, loading.name, loading.place)


def _loaded(loading: Loading, plan: Plan) -> Loaded:
    """Make the maps that are not given, and load the programs."""
    return collection.load_checked(
        loading.spec.only_programs(*loading.programs),
        maps=plan.given,
        max_map_memory=loading.max_map_memory,
    )


@dataclass(frozen=True)
class _Building:
    """One generation on its way into *stage*; *live* is the directory of the one before."""

    stage: Stage
    loading: Loading
    plan: Plan
    loaded: Loaded
    live: Directory | None
    trial: LoadTrial | None

    def build(self, shared: tuple[OutsidePin, ...]) -> list[ProgramReport]:
        """Pin everything, then attach what is attached anew, and return what will run where."""
        self._pin_maps()
        for pin, old in exchanged(self.loading, self.plan).items():
            self.stage.exchange_shared(pin, old=old, new=self.loaded.maps[pin.map])
        for name, program in self.loaded.programs.items():
            self.stage.pin_program(name, program)
        updates = [hook for hook in self.plan.hooks if hook.action is HookAction.UPDATE]
        attaches = [hook for hook in self.plan.hooks if hook.action is HookAction.ATTACH]
        kept = [self._prepare_update(hook) for hook in updates]
        new = [self._attach(hook) for hook in attaches]
        records = (*(record for record, _ in kept), *(hook.record for hook, _ in new))
        manifest = _manifest(self.loading, self.plan, self._same_qdisc(records))
        if self.trial is not None:
            self.trial.begin(self.live)
        migrated = lineages(self.plan, self.loaded)
        self.stage.write_manifest(dataclasses.replace(manifest, outside=shared, migrated=migrated))
        for hook, _ in reversed(new):  # of one priority, the filter that was made last runs first
            if hook.record.held is Held.FILTER:
                attach_filter(self.loading, hook, self.loaded.programs[hook.record.program])
        return [report for _, report in (*kept, *new)]

    def _pin_maps(self) -> None:
        """Pin the maps; kept ones last, for their mode must not change before the commit."""
        kept = {each.name for each in self.plan.maps if each.decision is Decision.KEPT}
        for name, held in self.loaded.maps.items():
            spec = self.loading.spec.maps[name]
            if name not in kept:
                self.stage.pin_map(name, held, key=spec.key, value=spec.value)
        self._pin_foldings()
        access = access_after(self.loading, self.plan.live)
        if access is not None:
            self.stage.set_access(access)
        for name, held in self.loaded.maps.items():
            spec = self.loading.spec.maps[name]
            if name in kept and self.live is not None:
                self.stage.keep_map(name, self.live, held, key=spec.key, value=spec.value)

    def _pin_foldings(self) -> None:
        """Have the programs loaded that move the contents of old maps, and keep those still at it.

        They run when the hooks are switched.
        """
        for each, folding in fold_programs(self.plan, self.loaded):
            with folding:
                each.plan.fill(each.old, self.loaded.maps[each.name])
                self.stage.pin_folding(each.name, folding)
        for plan in self.plan.maps:
            if plan.decision is Decision.KEPT and self.live is not None:
                self.stage.keep_foldings(plan.name, self.live)

    def _prepare_update(self, hook: HookPlan) -> Attached:
        """Keep a hook, and what it runs now, in the stage; it is switched after the commit."""
        if isinstance(hook.attachment, Link):
            if hook.is_taken:
                self.stage.pin_link(hook.link, hook.attachment)
            elif self.live is not None and hook.before is not None:
                self.stage.keep_link(
                    hook.before.link, self.live, hook.attachment, new_name=hook.link
                )
        if hook.previous is not None:
            self.stage.pin_previous(hook.link, hook.previous)
        record = _record(self.loading, hook)
        return record, attached(self.loading, record, self.loaded, link_id=hook.link_id)

    def _same_qdisc(self, records: tuple[HookRecord, ...]) -> tuple[HookRecord, ...]:
        """Let all filters know that the qdisc is ours if one does, also one of the live set.

        The last of them takes it away.
        """
        live, here = self.plan.live, self.loading.place
        before: tuple[HookRecord, ...] = ()
        if live is not None and live.manifest is not None:
            there = live.manifest.place
            is_here = (there.netns_inode, there.ifindex) == (here.netns_inode, here.ifindex)
            before = live.manifest.hooks if is_here else ()
        is_ours = any(record.made_qdisc for record in (*before, *records))
        return tuple(
            dataclasses.replace(one, made_qdisc=is_ours) if one.held is Held.FILTER else one
            for one in records
        )

    def _attach(self, plan: HookPlan) -> tuple[NewHook, ProgramReport]:
        """Attach at a hook, or prepare a filter, which needs the manifest to be undone by."""
        new = attach(self.loading, plan, self.loaded.programs[plan.program])
        with new.link or nullcontext():
            link_id = None
            if new.link is not None:
                link_id = new.link.id
                if self.trial is None:
                    self.stage.pin_link(plan.link, new.link)
                else:
                    self.trial.hold(plan.link, new.link)
            report = attached(self.loading, new.record, self.loaded, link_id=link_id, note=new.note)
        return new, report


def _record(loading: Loading, hook: HookPlan) -> HookRecord:
    """Return what is remembered of a hook that is updated."""
    if hook.before is not None:
        asked = loading.mode.value if hook.before.asked_mode else ""
        return dataclasses.replace(
            hook.before, program=hook.program, link=hook.link, asked_mode=asked
        )
    return HookRecord(
        hook=hook.hook,
        program=hook.program,
        link=hook.link,
        asked_mode=loading.mode.value,
        mode=hook.mode,
        held=hook.held,
    )


def _manifest(loading: Loading, plan: Plan, records: tuple[HookRecord, ...]) -> Manifest:
    path = loading.spec.path
    if path and not path.startswith(shipped.PREFIX):
        path = str(Path(path).absolute())
    return Manifest(
        tool=__version__,
        object=path,
        sha256=loading.spec.sha256,
        generation=plan.generation,
        time=int(time.time()),
        place=loading.place,
        hooks=records,
        access=access_after(loading, plan.live),
        is_chosen=loading.is_chosen,
        variables=loading.settings.hashes,
    )
