"""The report of a load: built from its plan and the objects made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from bpfpin.hints import shell_line
from bpfpin.hooks import Hook, TargetKind, XdpMode
from bpfpin.objects.programs.program import Program
from bpfpin.pins.manifest import HookRecord
from bpfpin.pins.plan import ALL, Decision, HookAction, HookPlan, Plan
from bpfpin.sets.choose import left_out, passed_over
from bpfpin.sets.load import hooks
from bpfpin.sets.reports import HookReport, LoadReport, LoadResult, MapReport, ProgramReport
from bpfpin.sets.request import LoadRequest

if TYPE_CHECKING:
    from bpfpin.loading.collection import Loaded


_SHOWN_NAMES = 5  # of the programs that were left out


def unchanged(request: LoadRequest, plan: Plan) -> LoadReport:
    """Return the report of a set that is loaded already as requested."""
    programs: list[ProgramReport] = []
    for name, path in plan.live.programs.items() if plan.live else ():
        # Nothing was loaded, so the ids are those of the pinned programs.
        with Program.from_pin(path) as program:
            program_id = program.id
        own_hooks = [hook for hook in plan.hooks if hook.program == name]
        programs += [_running(request, hook, program_id) for hook in own_hooks]
        programs += [] if own_hooks else [ProgramReport(name, program_id)]
    return _report(request, plan, LoadResult.UNCHANGED, programs)


def planned(
    request: LoadRequest, plan: Plan, loaded: Loaded, *, foreseen: Mapping[str, str]
) -> LoadReport:
    """Return the report of a dry run; programs have no id yet.

    *foreseen* has notes by link: on XDP in generic mode, or on another hook than was asked for.
    """

    def mode(hook: HookPlan) -> str | None:
        is_generic = Hook(hook.hook).traits.has_mode and hook.link in foreseen
        return XdpMode.GENERIC.value if is_generic else _mode(request, hook)

    programs = [
        ProgramReport(
            hook.program,
            hook=hook.hook,
            device=_device(request, hook.hook),
            mode=mode(hook),
            # An attached program gets a new link.
            link=hook.link_id if hook.action is HookAction.UPDATE else None,
            note=foreseen.get(hook.link, ""),
            cgroup=_cgroup(request, hook.hook),
            target=hook.target,
        )
        for hook in plan.hooks
        if hook.action is not HookAction.DETACH
    ]
    programs += [ProgramReport(name) for name in _unattached(plan, loaded)]
    return _report(request, plan, LoadResult.PLANNED, programs, notes=loaded.notes)


def finished(
    request: LoadRequest, plan: Plan, loaded: Loaded, running: Sequence[ProgramReport]
) -> LoadReport:
    """Return the report of a load that changed the set; *running* are the attached programs."""
    # A set whose maps were kept by `unload --keep-maps` has no hooks: to the user this is a first
    # load.
    is_reload = plan.live is not None and bool(plan.live.hooks)
    result = LoadResult.RELOADED if is_reload else LoadResult.LOADED
    others = [ProgramReport(name, loaded.programs[name].id) for name in _unattached(plan, loaded)]
    report = _report(request, plan, result, [*running, *others], notes=loaded.notes)
    return dataclasses.replace(report, maps=tuple(_maps(request, plan, loaded)))


def attached(
    request: LoadRequest, record: HookRecord, loaded: Loaded, *, link_id: int | None, note: str = ""
) -> ProgramReport:
    """Return the report of a program at its hook."""
    return ProgramReport(
        record.program,
        loaded.programs[record.program].id,
        record.hook,
        _device(request, record.hook),
        record.mode or None,
        link_id,
        note,
        _cgroup(request, record.hook),
        record.target,
    )


def _running(request: LoadRequest, hook: HookPlan, program_id: int) -> ProgramReport:
    return ProgramReport(
        hook.program,
        program_id,
        hook.hook,
        _device(request, hook.hook),
        hook.mode or None,
        hook.link_id,
        cgroup=_cgroup(request, hook.hook),
        target=hook.target,
    )


def _device(request: LoadRequest, hook: str) -> str | None:
    return request.place.device if Hook(hook).traits.target is TargetKind.DEVICE else None


def _cgroup(request: LoadRequest, hook: str) -> str | None:
    return request.place.cgroup if Hook(hook).traits.target is TargetKind.CGROUP else None


def _mode(request: LoadRequest, hook: HookPlan) -> str | None:
    return (hook.mode or request.mode.value) if Hook(hook.hook).traits.has_mode else None


def _report(
    request: LoadRequest,
    plan: Plan,
    result: LoadResult,
    programs: Sequence[ProgramReport],
    *,
    notes: Sequence[str] = (),
) -> LoadReport:
    is_unchanged = result is LoadResult.UNCHANGED
    # New links are not in the plan; the reports of the programs have them.
    links = {(program.hook, program.name): program.link for program in programs if program.hook}
    return LoadReport(
        result,
        request.shown_name,
        request.path,
        plan.generation,
        tuple(programs),
        tuple(_maps(request, plan)),
        tuple(
            _hook(request, hook, links.get((hook.hook, hook.program)), is_unchanged)
            for hook in plan.hooks
        ),
        (
            *_not_fresh(request, plan),
            *hooks.unmoved(request, plan.hooks),
            *(() if is_unchanged else (*_notes(request, plan), *notes)),
        ),
    )


def _hook(
    request: LoadRequest, hook: HookPlan, link_id: int | None, is_unchanged: bool
) -> HookReport:
    action = "keep" if is_unchanged else hook.action.value
    place = request.place_of(hook.hook, hook.target)
    return HookReport(hook.hook, place, action, hook.program, link_id, hook.previous_id)


def _maps(request: LoadRequest, plan: Plan, loaded: Loaded | None = None) -> Iterator[MapReport]:
    for map_plan in plan.maps:
        name = map_plan.name
        bpf_map = loaded.maps.get(name) if loaded else None
        # The plan has the id of the old map; a map that was migrated or made has another one.
        map_id = map_plan.map_id if bpf_map is None else bpf_map.id
        # An unchanged set keeps all of its maps, also those that a new generation would make anew.
        decision = Decision.KEPT if plan.is_unchanged else map_plan.decision
        path = request.map_path(name)
        migration = map_plan.migration.report() if map_plan.migration else None
        yield MapReport(name, map_id, path, decision, map_plan.reason, migration, map_plan.contents)


def _unattached(plan: Plan, loaded: Loaded) -> list[str]:
    """Return the programs that only tail calls reach."""
    at_hooks = {hook.program for hook in plan.hooks}
    return [name for name in loaded.programs if name not in at_hooks]


def _notes(request: LoadRequest, plan: Plan) -> Iterator[str]:
    yield from request.spec.notes
    for choice in request.chosen:
        if choice.program.section_note:
            yield choice.program.section_note
    if optional := left_out(request.spec, request.programs):
        shown = ", ".join(optional[:_SHOWN_NAMES])
        others = len(optional) - _SHOWN_NAMES
        yield (
            f"left out, as their sections begin with `?`: {shown}"
            f"{f' and {others} more' if others > 0 else ''}; --prog {optional[0]} loads it"
        )
    for program in passed_over(request.spec, request.chosen, request.targets):
        assert program.hook is not None
        target = program.hook.traits.target.value
        yield (
            f"program {program.name} (section {program.section!r}) was left out:"
            f" no {target} was named"
        )
    for map_plan in plan.maps:
        if map_plan.decision is Decision.REMOVED:
            yield f"map {map_plan.name} {_unpinned(request)}: {map_plan.reason}"
        elif map_plan.is_pin_lost:
            yield f"map {map_plan.name}: {map_plan.reason}"
    yield from hooks.describe(request, plan.hooks)
    if request.confirm_s is not None and not request.is_dry_run:
        yield (
            f"this load goes back in {request.confirm_s} seconds; to keep it:"
            f" {shell_line('bpfpin confirm', request.shown_name)}"
        )


def _unpinned(request: LoadRequest) -> str:
    """Return the verb for a map that the new object lacks: it is unpinned, now or later."""
    if request.is_dry_run:
        return "would be unpinned"
    # The generation before stays as it is until then, for the load may go back to it.
    return "was unpinned" if request.confirm_s is None else "will be unpinned by the confirmation"


def _not_fresh(request: LoadRequest, plan: Plan) -> Iterator[str]:
    """Yield notes on maps that did not start empty though `--fresh all` was given.

    Others may use such a map.
    """
    fresh = {map_plan.name for map_plan in plan.maps if map_plan.decision is Decision.FRESH}
    for shared in request.shared.values() if ALL in request.fresh else ():
        is_replaced = shared.is_new or shared.name in fresh
        if shared.bpf_map is not None and not is_replaced:
            yield f"map {shared.name} is that of {shared.source} and did not start empty"
