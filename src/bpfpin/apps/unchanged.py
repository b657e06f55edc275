"""Whether a set is loaded already just as it is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from bpfpin.apps.live import runs_its_programs
from bpfpin.apps.loading import Loading
from bpfpin.apps.reports import Decision, LoadReport, LoadResult, MapReport, ProgramReport
from bpfpin.errors import BusyError
from bpfpin.objects import compat
from bpfpin.objects.link import Link
from bpfpin.objects.map import Map
from bpfpin.objects.program import Program
from bpfpin.pins import names
from bpfpin.pins.manifest import Manifest
from bpfpin.pins.pinset import PinSet


def unchanged(loading: Loading, live: PinSet | None) -> LoadReport | None:
    """Return the report on a set that needs nothing done, None if there is something to do.

    Unchanged are the same object bytes, the same choices, hooks that run the pinned programs, and
    maps as the object defines them. `BusyError` if something else is loaded there.
    """
    if live is None or live.manifest is None or not live.links:
        return None
    if not _is_same(loading, live, live.manifest):
        raise _busy(loading, live.manifest)
    return LoadReport(
        LoadResult.UNCHANGED,
        names.display_name(live.name),
        live.path,
        live.manifest.generation,
        tuple(_programs(live, live.manifest)),
        tuple(_maps(live)),
    )


def _is_same(loading: Loading, live: PinSet, manifest: Manifest) -> bool:
    asked = {
        (choice.hook.value, choice.program.name, loading.mode.value) for choice in loading.chosen
    }
    there = {(record.hook, record.program, record.asked_mode) for record in manifest.hooks}
    return (
        manifest.sha256 == loading.spec.sha256
        and asked == there
        and runs_its_programs(live, ifindex=loading.place.ifindex)
        and _maps_fit(loading, live)
    )


def _maps_fit(loading: Loading, live: PinSet) -> bool:
    """Whether the maps are as the description says: a caller may have changed that."""
    if set(live.maps) != set(loading.spec.maps):
        return False
    for name, path in live.maps.items():
        with Map.from_pin(path) as held:
            if compat.differences(loading.spec.maps[name], held):
                return False
    return True


def _busy(loading: Loading, manifest: Manifest) -> BusyError:
    name = names.display_name(loading.name)
    place = f"-n {loading.place.netns} {loading.place.device}" if loading.place.netns else name
    programs = ", ".join(record.program for record in manifest.hooks)
    return BusyError(
        f"{name} is loaded already, with another object or other choices:"
        f" {manifest.object or 'an object without a path'} ({programs})"
        f" on {manifest.place.device}",
        holder=manifest.object,
        hint=f"bpfpin unload {place}, then load; or load it as another set: --name NAME",
    )


def _programs(live: PinSet, manifest: Manifest) -> Iterator[ProgramReport]:
    attached = {record.program: record for record in manifest.hooks}
    for name, path in live.programs.items():
        with Program.from_pin(path) as program:
            program_id = program.id
        record = attached.get(name)
        if record is None:
            yield ProgramReport(name, program_id)
            continue
        with Link.from_pin(live.links[record.link]) as link:
            link_id = link.id
        yield ProgramReport(
            name, program_id, record.hook, manifest.place.device, record.mode, link_id
        )


def _maps(live: PinSet) -> Iterator[MapReport]:
    for name, path in live.maps.items():
        with Map.from_pin(path) as held:
            yield MapReport(name, held.id, path, Decision.KEPT)
