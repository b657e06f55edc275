"""One load of one set: from what is wanted and what is there to what is pinned."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bpfpin.apps.attaching import attach_when_free
from bpfpin.apps.choose import Choice, programs_to_load
from bpfpin.apps.reports import Decision, LoadReport, LoadResult, MapReport, ProgramReport
from bpfpin.attach.xdp import xdp_holder
from bpfpin.errors import HookBusyError, IncompatibleMapError
from bpfpin.objects import collection
from bpfpin.objects.collection import Loaded
from bpfpin.objects.map import Map
from bpfpin.objfile import shipped
from bpfpin.pins import names
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import HookRecord, Manifest, Place
from bpfpin.pins.pinset import PinSet
from bpfpin.pins.transaction import Stage, next_generation
from bpfpin.spec import MapSpec, ObjectSpec, Pinning, XdpMode
from bpfpin.version import __version__

READ_ONLY_DATA = ".rodata"  # each generation makes its own


@dataclass(frozen=True)
class Loading:
    """What is to be loaded where; *path* is the set's directory."""

    spec: ObjectSpec
    chosen: tuple[Choice, ...]
    mode: XdpMode
    place: Place
    path: Path
    max_map_memory: int

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    def map_path(self, name: str) -> Path:
        """Return where map *name* is pinned."""
        return self.path / names.map_pin_name(name)


def plan(loading: Loading, live: PinSet | None) -> LoadReport:
    """Have the kernel verify the programs, let them go, and return what `publish` would do.

    `HookBusyError` if somebody else is attached where one of them would go.
    """
    holder = xdp_holder(loading.place.ifindex)
    if holder is not None:
        raise HookBusyError(
            f"{loading.place.device} runs another XDP program already: {holder}",
            holder=str(holder),
            hint="it was left as it is; who it is: bpfpin status",
        )
    asked = loading.mode.value
    with _loaded(loading, live) as loaded:
        attached = [
            ProgramReport(
                choice.program.name, None, choice.hook.value, loading.place.device, asked, None
            )
            for choice in loading.chosen
        ]
        others = [ProgramReport(name, None) for name in _unattached(loading, loaded)]
        return LoadReport(
            LoadResult.PLANNED,
            names.display_name(loading.name),
            loading.path,
            _generation(live),
            (*attached, *others),
            tuple(_map_reports(loading, live)),
            (*_notes(loading), *loaded.notes),
        )


def publish(loading: Loading, root: Directory, live: PinSet | None) -> LoadReport:
    """Build the set's next generation and make it the one that holds; the lock must be held."""
    with _loaded(loading, live) as loaded:
        with next_generation(root, loading.name) as stage:
            _pin_maps(stage, loading, loaded, root=root, live=live)
            for name, program in loaded.programs.items():
                stage.pin_program(name, program)
            attached = [_attach(stage, loading, choice, loaded) for choice in loading.chosen]
            records = tuple(record for record, _ in attached)
            stage.write_manifest(_manifest(loading, records, live))
        others = [
            ProgramReport(name, loaded.programs[name].id) for name in _unattached(loading, loaded)
        ]
        return LoadReport(
            LoadResult.LOADED,
            names.display_name(loading.name),
            loading.path,
            _generation(live),
            (*(report for _, report in attached), *others),
            tuple(_map_reports(loading, live, loaded)),
            (*_notes(loading), *loaded.notes),
        )


def _loaded(loading: Loading, live: PinSet | None) -> Loaded:
    """Make the maps that are not kept, and load the programs."""
    with ExitStack() as undo:
        given = {
            name: undo.enter_context(Map.from_pin(path)) for name, path in _kept(loading, live)
        }
        undo.pop_all()
    try:
        return collection.load(
            loading.spec,
            maps=given,
            programs=programs_to_load(loading.spec, loading.chosen),
            max_map_memory=loading.max_map_memory,
        )
    except IncompatibleMapError as error:
        error.path = str(loading.path)
        error.hint = (
            f"the maps were kept from before; to start anew: bpfpin unload"
            f" {names.display_name(loading.name)}, then load"
        )
        raise


def _kept(loading: Loading, live: PinSet | None) -> Iterator[tuple[str, Path]]:
    """Return the maps of the live generation that the next one goes on with."""
    for name, path in live.maps.items() if live else ():
        if name in loading.spec.maps and _may_be_kept(loading.spec.maps[name]):
            yield name, path


def _may_be_kept(spec: MapSpec) -> bool:
    # What the file itself puts into a map of programs or maps belongs to its generation.
    return not spec.name.startswith(READ_ONLY_DATA) and not spec.initial


def _pin_maps(
    stage: Stage, loading: Loading, loaded: Loaded, *, root: Directory, live: PinSet | None
) -> None:
    kept = {name for name, _ in _kept(loading, live)}
    for name, held in loaded.maps.items():
        spec = loading.spec.maps[name]
        if name not in kept:
            stage.pin_map(name, held, key=spec.key, value=spec.value)
    if kept:
        with root.child(loading.name) as old:
            for name in sorted(kept):
                stage.keep_map(name, old)


def _attach(
    stage: Stage, loading: Loading, choice: Choice, loaded: Loaded
) -> tuple[HookRecord, ProgramReport]:
    program = loaded.programs[choice.program.name]
    pin_name = names.link_pin_name(choice.hook.value)
    with attach_when_free(program, loading.place.ifindex, mode=loading.mode) as link:
        stage.pin_link(pin_name, link)
        record = HookRecord(
            hook=choice.hook.value,
            program=choice.program.name,
            link=pin_name,
            asked_mode=loading.mode.value,
            mode=link.mode.value,
        )
        report = ProgramReport(
            record.program,
            program.id,
            record.hook,
            loading.place.device,
            record.mode,
            link.id,
            link.note,
        )
    return record, report


def _unattached(loading: Loading, loaded: Loaded) -> list[str]:
    """Return the programs that only tail calls reach."""
    chosen = {choice.program.name for choice in loading.chosen}
    return [name for name in loaded.programs if name not in chosen]


def _generation(live: PinSet | None) -> int:
    return live.manifest.generation + 1 if live and live.manifest else 1


def _manifest(loading: Loading, records: tuple[HookRecord, ...], live: PinSet | None) -> Manifest:
    path = loading.spec.path
    if path and not path.startswith(shipped.PREFIX):
        path = str(Path(path).absolute())
    return Manifest(
        tool=__version__,
        object=path,
        sha256=loading.spec.sha256,
        generation=_generation(live),
        time=int(time.time()),
        place=loading.place,
        hooks=records,
    )


def _map_reports(
    loading: Loading, live: PinSet | None, loaded: Loaded | None = None
) -> Iterator[MapReport]:
    kept = {name for name, _ in _kept(loading, live)}
    for name in loading.spec.maps:
        decision = Decision.KEPT if name in kept else Decision.CREATED
        map_id = loaded.maps[name].id if loaded else None
        yield MapReport(name, map_id, loading.map_path(name), decision)
    for name, path in live.maps.items() if live else ():
        if name not in loading.spec.maps:
            yield MapReport(name, None, path, Decision.REMOVED)


def _notes(loading: Loading) -> Iterator[str]:
    yield from loading.spec.notes
    for choice in loading.chosen:
        if choice.program.section_note:
            yield choice.program.section_note
    for spec in loading.spec.maps.values():
        if spec.pinning is not Pinning.NONE:
            yield (
                f"map {spec.name} asks to be pinned outside of the set, to be shared; it was pinned"
                f" in the set alone: {loading.map_path(spec.name)}"
            )
