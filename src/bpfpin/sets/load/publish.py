"""Publish a plan: build the next generation of each set, make it the live one, and report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bpfpin.attach.registry import NewAttachment, code_of
from bpfpin.errors import NotSupportedError, UsageError
from bpfpin.hints import Argument, Fix
from bpfpin.hooks import HeldBy, Hook
from bpfpin.loading import collection
from bpfpin.loading.collection import Loaded
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objfile import reader
from bpfpin.pins import folds, names
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import HookRecord, Lineage, Manifest, OutsidePin
from bpfpin.pins.pinset import LoadedSet, all_sets
from bpfpin.pins.plan import Decision, HookAction, HookPlan, MapMigration, Plan
from bpfpin.pins.transaction import Stage, next_generations
from bpfpin.records import dataclass
from bpfpin.sets.live import notes_on_others, reopen
from bpfpin.sets.load.attach import attach, explained_updates, foreseen
from bpfpin.sets.load.hooks import programs_with_targets
from bpfpin.sets.load.plan import access_after, given_after, origin_after
from bpfpin.sets.load.report import attached, finished, planned
from bpfpin.sets.place import hook_target
from bpfpin.sets.reports import LoadReport, ProgramReport
from bpfpin.sets.request import LoadRequest
from bpfpin.syscall.fd import Closing
from bpfpin.version import __version__

if TYPE_CHECKING:
    from bpfpin.migration.fold import FoldPrograms
    from bpfpin.sets.load.gates import Gate, Gates
    from bpfpin.sets.load.trial import LoadTrial

_Attached = tuple[HookRecord, ProgramReport]


class Verified(Closing):
    """A planned load whose new maps are made and whose programs the kernel has verified.

    *notes* go into its report. Of the names under which the set shares its maps, *shared* are those
    that it has from now on, *dropped* are those that it had, with the ids of their maps, and
    *replaced* are those that get another map, with the maps that they hold now.
    """

    def __init__(self, request: LoadRequest, plan: Plan, *, notes: tuple[str, ...] = ()) -> None:
        self.notes = notes
        self.request = request
        self.plan = plan
        # Maps are made and programs verified before anything is pinned: if this fails, closing the
        # descriptors is all the undoing there is.
        self.gates = _gates(request, plan)
        with ExitStack() as undo:
            if self.gates is not None:
                undo.callback(self.gates.close)
            with programs_with_targets(request) as (spec, targets):
                self.loaded = collection.load_checked(
                    spec,
                    maps=plan.given,
                    targets=targets,
                    max_map_memory=request.max_map_memory,
                    changed=self.gates.changed if self.gates else None,
                )
            undo.pop_all()
        self.shared = _shared_names(request)
        self.dropped = _dropped_names(plan.live, self.shared)
        self.replaced = _replaced_maps(request, plan)

    def close(self) -> None:
        """Close the maps and programs; pins and attachments made by then stay."""
        self.loaded.close()
        if self.gates is not None:
            self.gates.close()

    def gate_of(self, program: str) -> Gate | None:
        """Return the gate of a program, None if it has none."""
        return self.gates.by_program.get(program) if self.gates else None

    def made(self) -> Iterator[tuple[Path, Map]]:
        """Yield the maps made for shared names, for other sets of the command that use these."""
        for pin in self.replaced:
            yield pin.below(self.request.path.parent), self.loaded.maps[pin.map]
        for shared in self.request.shared.values():
            if shared.bpf_map is None and shared.path and shared.name in self.loaded.maps:
                yield shared.path, self.loaded.maps[shared.name]

    def planned(self) -> LoadReport:
        """Return the report of a dry run: what `publish` would do, or refuse."""
        _require_way_back(self.request, self.plan)
        # Loaded only to have the kernel verify them.
        for _, fold in fold_programs(self.plan, self.loaded):
            fold.close()
        notes: dict[str, str] = {}
        for hook in self.plan.hooks:
            if hook.action is not HookAction.DETACH:
                gate = self.gate_of(hook.program)
                on_hook = foreseen(self.request, hook, self.loaded)
                note = "; ".join(filter(None, (on_hook, gate.note if gate else "")))
                notes |= {hook.link: note} if note else {}
        return planned(self.request, self.plan, self.loaded, foreseen=notes).with_notes(self.notes)


def _gates(request: LoadRequest, plan: Plan) -> Gates | None:
    """Return the gates of a load; None where no link lacks an update in place."""
    hooks = [Hook(hook.hook) for hook in plan.hooks if hook.action is not HookAction.DETACH]
    if request.without_stub or not any(hook.traits.needs_stub for hook in hooks):
        return None
    from bpfpin.sets.load.gates import Gates  # noqa: PLC0415 - few sets need them

    return Gates(request, plan)


@dataclass
class _Publication:
    """One set that is being published, and what its report needs to know of it.

    *unused* are the shared names that go, *notes_on_shared* say which ones stay, and *old_ids* are
    the maps that replaced names held before. *programs* run where `_Building` attached them.
    """

    load: Verified
    unused: Mapping[OutsidePin, int]
    notes_on_shared: tuple[str, ...]
    old_ids: Mapping[OutsidePin, int]
    programs: Sequence[ProgramReport] = ()

    @classmethod
    def of(cls, load: Verified, loads: Sequence[Verified], root: Directory) -> Self:
        """Look which shared names go; before any stage is built, whose pins would be users."""
        unused, notes = _unused_names(root, loads, load)
        return cls(load, unused, notes, {pin: old.id for pin, old in load.replaced.items()})

    def notes(self, root: Directory) -> Iterator[str]:
        """Yield the notes of the report; the maps and programs of the load are closed by now."""
        yield from self.load.notes
        yield from self.notes_on_shared
        yield from _holders_of_old(root, self.old_ids)
        yield from _unfinished_folds(root, self.load.request)
        yield from notes_on_others(root, self.load.request.name)


def publish(loads: Sequence[Verified], root: Directory) -> list[LoadReport]:
    """Build the next generation of every set and publish them, all or none.

    The lock must be held. The loads are closed.
    """
    sets = [_Publication.of(load, loads, root) for load in loads]
    planned_loads = [(load.request, load.plan, load.loaded.programs) for load in loads]
    with explained_updates(planned_loads), ExitStack() as trials:
        # A trial surrounds everything that changes: it begins last, and takes a failure back.
        begun = [trials.enter_context(_trial(load.request, load.plan, root)) for load in loads]
        with (
            # Everything in this block is undone by removing the stages; its end is the commit.
            next_generations(root, [load.request.name for load in loads], reopen) as stages,
            ExitStack() as opened,
        ):
            for each, stage, trial in zip(sets, stages, begun, strict=True):
                has_live = each.load.plan.live is not None
                name = each.load.request.name
                live = opened.enter_context(root.child(name)) if has_live else None
                each.programs = _Building(stage, each.load, live, trial).build()
            for each, stage in zip(sets, stages, strict=True):
                # Recorded in the stage, and done after the publication, so that a roll-back has no
                # name to make again.
                for pin, map_id in each.unused.items():
                    stage.unshare(pin, map_id)
    reports = []
    for each in sets:
        load = each.load
        # After the publication: other programs use these arrays as well, and from here on their
        # tail calls reach the new programs. A roll-back could not undo that.
        collection.fill_given(load.request.spec, load.loaded, load.plan.given)
        reports.append(finished(load.request, load.plan, load.loaded, each.programs))
    for load in loads:
        # The plan holds old programs, the request maps that were replaced. Closed before the notes
        # are made: a user of such a map that is left is somebody else.
        load.close()
        load.plan.close()
        load.request.close()
    return [
        report.with_notes(tuple(each.notes(root)))
        for report, each in zip(reports, sets, strict=True)
    ]


def fold_programs(plan: Plan, loaded: Loaded) -> list[tuple[MapMigration, FoldPrograms]]:
    """Load the programs that move the contents of old maps; the caller closes them."""
    if not plan.migrating:
        return []
    from bpfpin.migration.fold import FoldPrograms  # noqa: PLC0415 - few loads migrate

    with ExitStack() as undo:
        folds_by_map = []
        for migrating in plan.migrating:
            fold = FoldPrograms.load(
                migrating.plan.fold, migrating.old, loaded.maps[migrating.name]
            )
            undo.callback(fold.close)
            folds_by_map.append((migrating, fold))
        undo.pop_all()
    return folds_by_map


def _lineages(plan: Plan, loaded: Loaded) -> dict[str, Lineage]:
    """Return which map each migrated map took its contents from, in this load or before."""
    lineages_before = plan.live.manifest.migrated if plan.live else {}
    kept_ids = {each.name: each.map_id for each in plan.maps if each.decision is Decision.KEPT}
    lineages = {
        name: lineage
        for name, lineage in lineages_before.items()
        if kept_ids.get(name) == lineage.id
    }
    # Of one name there may be several: the map, then those that earlier migrations left over.
    for migrating in reversed(plan.migrating):
        lineage, old_id = lineages_before.get(migrating.name), migrating.old.id
        # The first map in the line identifies the counts over several migrations, so that readers
        # know that a new id continues them.
        first = lineage.first if lineage and lineage.id == old_id else old_id
        lineages[migrating.name] = Lineage(loaded.maps[migrating.name].id, first)
    return lineages


# Names outside of the set under which it shares its maps.


def _shared_names(request: LoadRequest) -> tuple[OutsidePin, ...]:
    """Return the shared names for the manifest of the set: those that it or another set makes.

    A name that somebody else made is used, and never removed.
    """
    root = request.path.parent
    asked = {
        OutsidePin(shared.name, str(shared.path.relative_to(root))): shared
        for shared in request.shared.values()
        if shared.path is not None and not shared.is_promised
    }
    if not asked:
        return ()
    ours = {pin.path for pin_set in all_sets(root) for pin in pin_set.outside}
    return tuple(
        pin
        for pin, shared in asked.items()
        if shared.bpf_map is None or shared.is_new or pin.path in ours
    )


def _replaced_maps(request: LoadRequest, plan: Plan) -> dict[OutsidePin, Map]:
    """Return the shared names that get another map by *plan*, and the maps that they hold now."""
    replaced = {}
    for map_plan in plan.maps:
        shared = request.shared.get(map_plan.name)
        is_new = map_plan.decision in (Decision.FRESH, Decision.MIGRATED)
        if is_new and shared is not None and shared.bpf_map is not None and shared.path is not None:
            path = str(shared.path.relative_to(request.path.parent))
            replaced[OutsidePin(map_plan.name, path)] = shared.bpf_map
    return replaced


def _unused_names(
    root: Directory, loads: Sequence[Verified], load: Verified
) -> tuple[dict[OutsidePin, int], tuple[str, ...]]:
    """Return which of the shared names that the set drops are unpinned, and notes on the rest."""
    # A load on trial may go back to the generation that shares these names.
    if load.request.confirm_s is not None:
        paths = [pin.below(root.path) for pin in load.dropped]
        return {}, tuple(f"{path} stays pinned, for this load may go back" for path in paths)
    if not load.dropped:
        return {}, ()
    from bpfpin.sets.shared import unshared  # noqa: PLC0415 - few sets share names

    sets = [each.plan.live for each in loads if each.plan.live is not None]
    return unshared(root.path, sets, load.dropped)


def _holders_of_old(root: Directory, old_ids: Mapping[OutsidePin, int]) -> Iterator[str]:
    """Yield notes on processes that still have the map that a shared name had before."""
    if not old_ids:
        return
    from bpfpin.host.users import processes_of  # noqa: PLC0415 - few loads replace a shared map

    for pin, map_id in old_ids.items():
        # Processes do not count as users before the exchange: most are readers, which can open the
        # map again.
        for process in processes_of(map_id):
            yield (
                f"{process} still has the map (id {map_id}) that {pin.below(root.path)} held"
                " before: it has to open it again"
            )


def _unfinished_folds(root: Directory, request: LoadRequest) -> Iterator[str]:
    """Yield notes on maps that did not take over all that was to be migrated."""
    with root.child(request.name) as live:
        for name in folds.unfinished(live) if live.has(names.FOLDS) else ():
            yield (
                f"map {names.decode(name)} had no room for all entries of the old one, or programs"
                " changed its numbers at every try: nothing is lost, the old map is kept; load with"
                " more max_entries and --migrate"
            )


def _dropped_names(live: LoadedSet | None, shared: tuple[OutsidePin, ...]) -> dict[OutsidePin, int]:
    """Return the shared names of the live set that the next one has no map for."""
    pins = [pin for pin in live.outside if pin not in shared] if live else []
    if live is None or not pins:
        return {}
    from bpfpin.sets.shared import map_ids  # noqa: PLC0415 - few sets share names

    return map_ids(live, pins)


def _trial(
    request: LoadRequest, plan: Plan, root: Directory
) -> AbstractContextManager[LoadTrial | None]:
    """Return the context that takes the load back unless it is confirmed, if that was asked."""
    if request.confirm_s is None:
        return nullcontext()
    _require_way_back(request, plan)
    from bpfpin.sets.load.trial import LoadTrial  # noqa: PLC0415 - few loads are on trial

    return LoadTrial(request.confirm_s, root, request.name, request.place)


def _require_way_back(request: LoadRequest, plan: Plan) -> None:
    """Raise `UsageError` for a load on trial that replaces a program which could not come back."""
    for hook in plan.hooks:
        # The generation before, which a trial goes back to, has the set's own programs alone.
        if request.confirm_s is not None and hook.is_taken:
            raise UsageError(
                f"{hook.hook} runs program id {hook.previous_id}, which is not the set's: that"
                " program cannot come back by itself",
                hint=Fix.of("take the hook over without ", Argument("confirm_s", None)),
            )


@dataclass(frozen=True)
class _Building:
    """A generation that is built in *stage*; *live* is the directory of the one before."""

    stage: Stage
    load: Verified
    live: Directory | None
    trial: LoadTrial | None

    @property
    def request(self) -> LoadRequest:
        """What the user asked for."""
        return self.load.request

    @property
    def plan(self) -> Plan:
        """The decision for each map and hook."""
        return self.load.plan

    @property
    def loaded(self) -> Loaded:
        """The maps and programs of the generation."""
        return self.load.loaded

    def build(self) -> list[ProgramReport]:
        """Pin everything, then attach at new hooks, and return which program runs where."""
        # Hooks come last: all that can still fail is done before a new program runs.
        self._pin_maps()
        for pin, old in self.load.replaced.items():
            self.stage.exchange_shared(pin, old=old, new=self.loaded.maps[pin.map])
        for name, program in self.loaded.programs.items():
            self.stage.pin_program(name, program)
        gates = self.load.gates.by_program if self.load.gates else {}
        for name, gate in gates.items():
            self.stage.pin_slot(names.program_pin_name(name), gate.map)
        updates = [hook for hook in self.plan.hooks if hook.action is HookAction.UPDATE]
        attaches = [hook for hook in self.plan.hooks if hook.action is HookAction.ATTACH]
        updated = [self._prepare_update(hook) for hook in updates]
        # A new link runs at once, before the commit, unless its program has a gate. Its pin in the
        # stage is what keeps it once this command ends, so undoing the stage detaches it.
        new = [self._attach(hook) for hook in attaches]
        records = (*(record for record, _ in updated), *(record for record, _, _ in new))
        manifest = dataclasses.replace(
            _manifest(self.request, self.plan, self._same_qdisc(records)),
            gates={name: gate.numbers for name, gate in gates.items()},
        )
        # The process that waits has to hold the new links, so it starts after they are attached.
        # Its record is part of the stage, so it is written before the manifest.
        if self.trial is not None:
            self.trial.begin(self.live)
        migrated = _lineages(self.plan, self.loaded)
        self.stage.write_manifest(
            dataclasses.replace(manifest, outside=self.load.shared, migrated=migrated)
        )
        # Of filters with one priority, the kernel runs the one that was made last first.
        for record, _, is_prepared in reversed(new):
            if is_prepared:
                self._complete(record)
        return [*(report for _, report in updated), *(report for _, report, _ in new)]

    def _complete(self, record: HookRecord) -> None:
        """Make the prepared attachment, now that the manifest tells how to undo it."""
        hook = Hook(record.hook)
        target = hook_target(self.request.place, record.target, self.loaded.maps)
        code_of(hook).complete(self.loaded.programs[record.program], hook, target, record)

    def _pin_maps(self) -> None:
        """Pin the maps; kept ones last, for their mode must not change before the commit."""
        kept = {plan.name for plan in self.plan.maps if plan.decision is Decision.KEPT}
        for name, bpf_map in self.loaded.maps.items():
            spec = self.request.spec.maps[name]
            if name not in kept:
                self.stage.pin_map(name, bpf_map, key=spec.key, value=spec.value)
        self._pin_folds()
        # Set while only new pins are in the stage. A kept map is a hard link, whose mode and owner
        # are those of the live pin.
        access = access_after(self.request, self.plan.live)
        if access is not None:
            self.stage.set_access(access)
        for name, bpf_map in self.loaded.maps.items():
            spec = self.request.spec.maps[name]
            if name in kept and self.live is not None:
                self.stage.keep_map(name, self.live, bpf_map, key=spec.key, value=spec.value)

    def _pin_folds(self) -> None:
        """Pin the programs that move the contents of old maps, and keep those of unfinished moves.

        They run after the hooks are switched.
        """
        for migrating, fold in fold_programs(self.plan, self.loaded):
            with fold:
                # First values are written before any program uses the new map; the new programs run
                # only after the switch.
                migrating.plan.fill(migrating.old, self.loaded.maps[migrating.name])
                self.stage.pin_folding(migrating.name, fold)
        for plan in self.plan.maps:
            if plan.decision is Decision.KEPT and self.live is not None:
                self.stage.keep_foldings(plan.name, self.live)

    def _prepare_update(self, hook: HookPlan) -> _Attached:
        """Keep a hook and the program that it runs now in the stage; the commit switches it."""
        link = hook.attachment
        if hook.held_by is HeldBy.STUB:
            link = self._keep_stub(hook)
        if isinstance(link, Link):
            # The link belongs to somebody else. The pin in the stage makes it outlive its owner
            # from here on.
            if hook.is_taken:
                self.stage.pin_link(hook.link, link)
            elif self.live is not None and hook.before is not None:
                self.stage.keep_link(hook.before.link, self.live, link, new_name=hook.link)
        if hook.previous is not None:
            self.stage.pin_previous(hook.link, hook.previous)
        record = _record(self.request, hook)
        return record, attached(self.request, record, self.loaded, link_id=hook.link_id)

    def _keep_stub(self, hook: HookPlan) -> Link:
        """Keep the slot of a stub in the stage, and return the link of the stub."""
        from bpfpin.attach.stubs import refusal  # noqa: PLC0415 - few sets have stubs
        from bpfpin.objects.stub import StubAttachment  # noqa: PLC0415

        assert isinstance(hook.attachment, StubAttachment)
        target = hook_target(self.request.place, hook.target)
        # Asked again of the program as it was loaded: CO-RE may have changed its offsets.
        if reason := refusal(self.loaded.program_specs[hook.program], Hook(hook.hook), target):
            raise NotSupportedError(
                f"the stub at {hook.hook} cannot call program {hook.program}: {reason}",
                feature="a stub",
                hint=Fix.of("attach it without: ", Argument("stub", False)),
            )
        self.stage.pin_slot(hook.link, hook.attachment.slot)
        return hook.attachment.link

    def _same_qdisc(self, records: tuple[HookRecord, ...]) -> tuple[HookRecord, ...]:
        """Mark all filters if the set made the qdisc, also for a filter of the live set.

        The last filter that is detached removes the qdisc.
        """
        live, here = self.plan.live, self.request.place
        before: tuple[HookRecord, ...] = ()
        if live is not None:
            place = live.manifest.place
            # A clsact qdisc belongs to one device; that of another device is removed with the old
            # generation.
            is_same = (place.netns_inode, place.ifindex) == (here.netns_inode, here.ifindex)
            before = live.hooks if is_same else ()
        is_ours = any(record.made_qdisc for record in (*before, *records))
        return tuple(
            dataclasses.replace(record, made_qdisc=is_ours)
            if record.held_by is HeldBy.FILTER
            else record
            for record in records
        )

    def _attach(self, plan: HookPlan) -> tuple[HookRecord, ProgramReport, bool]:
        """Attach at a hook; last, True if the manifest must be written before it is attached."""
        gate = self.load.gate_of(plan.program)
        new = attach(self.request, plan, self.loaded, gate)
        record = _new_record(self.request, plan, new)
        with new.link or nullcontext(), new.slot or nullcontext():
            link_id = None
            if new.slot is not None:
                self.stage.pin_slot(plan.link, new.slot)
            if new.link is not None:
                link_id = new.link.id
                # A program that takes its turn from another one by a gate is as one that replaces
                # it in a link: if the waiting process is killed, it runs until the next command.
                # Without its pin, neither of the two would.
                if self.trial is None or (gate is not None and gate.numbers.before):
                    self.stage.pin_link(plan.link, new.link)
                else:
                    # Not pinned: such a link ends with the process that holds it, even by SIGKILL
                    # (measured: the program is detached 19 ms later on Linux 6.18).
                    self.trial.hold(plan.link, new.link)
            report = attached(self.request, record, self.loaded, link_id=link_id, note=new.note)
        return record, report, new.link is None


def _new_record(request: LoadRequest, plan: HookPlan, new: NewAttachment) -> HookRecord:
    """Return the record of a new attachment for the manifest."""
    return HookRecord(
        new.hook.value,
        plan.program,
        plan.link,
        plan.target,
        asked_mode=request.mode.value if new.hook.traits.has_mode else "",
        mode=new.mode,
        held_by=new.held_by,
        priority=new.priority,
        handle=new.handle,
        made_qdisc=new.made_qdisc,
    )


def _record(request: LoadRequest, hook: HookPlan) -> HookRecord:
    """Return the record of a hook that is updated."""
    if hook.before is not None:
        asked = request.mode.value if hook.before.asked_mode else ""
        return dataclasses.replace(
            hook.before, program=hook.program, link=hook.link, asked_mode=asked
        )
    return HookRecord(
        hook=hook.hook,
        program=hook.program,
        link=hook.link,
        asked_mode=request.mode.value if Hook(hook.hook).traits.has_mode else "",
        mode=hook.mode,
        held_by=hook.held_by,
    )


def _manifest(request: LoadRequest, plan: Plan, records: tuple[HookRecord, ...]) -> Manifest:
    path = request.spec.path
    # Absolute, for `load_line` and the next load may run in another directory.
    if path and not path.startswith(reader.PREFIX):
        path = str(Path(path).absolute())
    return Manifest(
        tool=__version__,
        object=path,
        sha256=request.spec.sha256,
        generation=plan.generation,
        time=int(time.time()),
        place=request.place,
        hooks=records,
        access=access_after(request, plan.live),
        is_chosen=request.is_chosen,
        variables=request.settings.hashes,
        settings=request.settings.words,
        origin=origin_after(request, plan.live),
        given=given_after(request, plan),
    )
