"""Foldings in a stage: kept by pins, so that whoever finishes the load can run them.

Below `folds~` each has the old map and its programs as `MAP~N~old`, `MAP~N~move` and the like. They
are run after the hooks were switched, and again if that was cut short; the pins go when all was
moved. What is still there in a live set is a fold that found no room: nothing of it is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bpfpin.errors import PinExistsError, PinNotFoundError
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names
from bpfpin.pins.directory import Directory
from bpfpin.pins.ownership import remove_own_folder

if TYPE_CHECKING:
    from bpfpin.migration.fold import FoldPrograms

OLD: Final = "old"
KEYS: Final = "keys"


def pin(stage: Directory, map_pin: str, folding: FoldPrograms) -> None:
    """Pin all parts of *folding* below `folds~` of the stage."""
    with stage.child(names.FOLDS) as folds:
        number = len({fold for fold in _foldings(folds) if fold[0] == map_pin})
        for step, program in folding.programs.items():
            program.pin(folds.pin_path(names.fold_pin_name(map_pin, number, step.value)))
        if folding.keys is not None:
            folding.keys.pin(folds.pin_path(names.fold_pin_name(map_pin, number, KEYS)))
        # Last: a folding counts by its old map.
        folding.old.pin(folds.pin_path(names.fold_pin_name(map_pin, number, OLD)))


def keep(stage: Directory, live: Directory, map_pin: str) -> None:
    """Link the foldings of one map from the live generation, if it has any."""
    with suppress(PinNotFoundError), live.child(names.FOLDS) as kept:
        parts = [name for name in kept.names() if name.startswith(f"{map_pin}~")]
        if not parts:
            return
        with suppress(PinExistsError):
            stage.mark(names.FOLDS)
        with stage.child(names.FOLDS) as folds:
            for part in parts:
                folds.link_from(kept, part)


def unfinished(directory: Directory) -> tuple[str, ...]:
    """Return the pins of the maps that have a folding in this generation."""
    try:
        with directory.child(names.FOLDS) as folds:
            return tuple(sorted({map_pin for map_pin, _ in _foldings(folds)}))
    except PinNotFoundError:
        return ()


def remaining_maps(live: Path, map_pin: str) -> Iterator[Map]:
    """Open the old maps of *map_pin* whose contents found no room in the live set at *live*."""
    with (
        suppress(PinNotFoundError),
        Directory.open(live) as directory,
        directory.child(names.FOLDS) as folds,
    ):
        for name, number in _foldings(folds):
            if name == map_pin:
                yield Map.from_pin(folds.path / names.fold_pin_name(map_pin, int(number), OLD))


def program_ids(live: Path) -> set[int]:
    """Return the programs of the foldings that found no room in the live set at *live*."""
    found: set[int] = set()
    with (
        suppress(PinNotFoundError),
        Directory.open(live) as directory,
        directory.child(names.FOLDS) as folds,
    ):
        for fold in _foldings(folds):
            with _open(folds, *fold) as folding:
                found |= {program.id for program in folding.programs.values()}
    return found


def fold_all(stage: Directory) -> None:
    """Run the foldings of a stage whose hooks are switched; those that moved all are unpinned.

    It may be run again at any time: what was moved is not moved twice.
    """
    try:
        with stage.child(names.FOLDS) as folds:
            if _foldings(folds):
                with suppress(PinExistsError):
                    stage.mark(names.FOLDING)
                _run(folds)
            is_done = not _foldings(folds)
    except PinNotFoundError:
        return
    if is_done:  # what is left are programs of a folding that was being unpinned
        remove_own_folder(stage, names.FOLDS)


def _run(folds: Directory) -> None:
    from bpfpin.migration.fold import wait_for_programs  # noqa: PLC0415 - few sets migrate

    with ExitStack() as opened:
        foldings = {fold: opened.enter_context(_open(folds, *fold)) for fold in _foldings(folds)}
        wait_for_programs()
        inserted = [folding.insert() for folding in foldings.values()]
        if any(counts.visited for counts in inserted):
            wait_for_programs()
        for fold, folding in foldings.items():
            counts = folding.move()
            if not counts.failed:
                _unpin(folds, *fold)


def _unpin(folds: Directory, map_pin: str, number: str) -> None:
    """Remove the pins of a folding; its old map first, since it counts by that."""
    prefix = f"{map_pin}~{number}~"
    parts = [name for name in folds.names() if name.startswith(prefix)]
    for part in sorted(parts, key=lambda name: not name.endswith(f"~{OLD}")):
        folds.unlink(part)


@contextmanager
def _open(folds: Directory, map_pin: str, number: str) -> Iterator[FoldPrograms]:
    from bpfpin.migration.fold import FoldPrograms, FoldStep  # noqa: PLC0415 - few sets migrate

    prefix = f"{map_pin}~{number}~"
    there = folds.names()
    with ExitStack() as opened:
        old = opened.enter_context(Map.from_pin(folds.path / f"{prefix}{OLD}"))
        programs = {
            step: opened.enter_context(Program.from_pin(folds.path / f"{prefix}{step.value}"))
            for step in FoldStep
            if f"{prefix}{step.value}" in there
        }
        keys = None
        if f"{prefix}{KEYS}" in there:
            keys = opened.enter_context(Map.from_pin(folds.path / f"{prefix}{KEYS}"))
        yield FoldPrograms(old, programs, keys=keys)


def _foldings(folds: Directory) -> list[tuple[str, str]]:
    """Return pin and number of each folding that is whole."""
    found = (name.rsplit("~", 2) for name in folds.names())
    return sorted((parts[0], parts[1]) for parts in found if parts[-1] == OLD)
