"""Folds of a stage: pins of old maps and of the programs that move their contents.

A fold moves the contents of an old map into the map that replaces it (package `migration`). It is
pinned before the commit point and run after the hooks were switched (step 6 of module
`transaction`), so that after a crash the next command can run it, without the object file.

In `folds~`, fold N of map MAP has the pins `MAP~N~old` (the old map), `MAP~N~STEP` for each of its
programs, and `MAP~N~keys` for a map of keys. A fold counts only with its `old` pin, which is made
last and removed first. Programs without it are remains of a crash.

A fold can be run again at any time: it takes each counter by an atomic exchange with 0 before it
adds it to the new map, so a counter that was moved is 0. A fold that finds no room in the new map
stays pinned in the live set, and the next generation keeps it: nothing of it is lost.
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
_MORE_RUNS: Final = 8  # of a fold that gave numbers up, for programs changed them all the time


def pin(stage: Directory, map_pin: str, folding: FoldPrograms) -> None:
    """Pin all parts of *folding* in `folds~` of the stage, the old map last."""
    with stage.child(names.FOLDS) as folds:
        # Numbers count up from those that were kept, so that a new fold takes no pin of an old one.
        number = len({fold for fold in _foldings(folds) if fold[0] == map_pin})
        for step, program in folding.programs.items():
            program.pin(folds.pin_path(names.fold_pin_name(map_pin, number, step.value)))
        if folding.keys is not None:
            folding.keys.pin(folds.pin_path(names.fold_pin_name(map_pin, number, KEYS)))
        # Last: with this pin the fold is complete, and counts.
        folding.old.pin(folds.pin_path(names.fold_pin_name(map_pin, number, OLD)))


def keep(stage: Directory, live: Directory, map_pin: str) -> None:
    """Link the folds of one map from the live generation into the stage, if it has any."""
    with suppress(PinNotFoundError), live.child(names.FOLDS) as live_folds:
        pins = [name for name in live_folds.names() if name.startswith(f"{map_pin}~")]
        if not pins:
            return
        with suppress(PinExistsError):
            stage.mark(names.FOLDS)
        with stage.child(names.FOLDS) as folds:
            for pin in pins:
                # A hard link, so that the old map stays pinned when the live generation is removed.
                folds.link_from(live_folds, pin)


def unfinished(directory: Directory) -> tuple[str, ...]:
    """Return the pin names of the maps that have a fold in this generation."""
    try:
        with directory.child(names.FOLDS) as folds:
            return tuple(sorted({map_pin for map_pin, _ in _foldings(folds)}))
    except PinNotFoundError:
        return ()


def remaining_maps(live: Path, map_pin: str) -> Iterator[Map]:
    """Open the old maps whose contents found no room in map *map_pin* of the set at *live*."""
    with (
        suppress(PinNotFoundError),
        Directory.open(live) as directory,
        directory.child(names.FOLDS) as folds,
    ):
        for name, number in _foldings(folds):
            if name == map_pin:
                yield Map.from_pin(folds.path / names.fold_pin_name(map_pin, int(number), OLD))


def program_ids(live: Path) -> set[int]:
    """Return the ids of the programs of all folds in the live set at *live*."""
    ids: set[int] = set()
    with (
        suppress(PinNotFoundError),
        Directory.open(live) as directory,
        directory.child(names.FOLDS) as folds,
    ):
        for fold in _foldings(folds):
            with _open(folds, *fold) as folding:
                ids |= {program.id for program in folding.programs.values()}
    return ids


def fold_all(stage: Directory) -> None:
    """Run the folds of a stage whose hooks are switched, and unpin those that moved everything.

    It can be run again at any time: nothing is moved twice.
    """
    try:
        with stage.child(names.FOLDS) as folds:
            if _foldings(folds):
                # Before anything moves: from this mark on recovery rolls forward only.
                with suppress(PinExistsError):
                    stage.mark(names.FOLDING)
                _run(folds)
            is_done = not _foldings(folds)
    except PinNotFoundError:
        return
    if is_done:  # remaining pins are programs of a fold that a crash left partly unpinned
        remove_own_folder(stage, names.FOLDS)


def _run(folds: Directory) -> None:
    """Run all folds: wait, insert missing keys, wait, move the counts.

    After the first wait no old program runs on any CPU, so nothing writes to the old map any more.
    The second wait is for new programs that missed a key before it was inserted: they would
    overwrite a moved value with their own first value (docs/decisions/0015).
    """
    from bpfpin.migration.fold import wait_for_programs  # noqa: PLC0415 - few sets migrate

    with ExitStack() as opened:
        # All are opened first: a wait takes 8 to 32 ms (measured), and one serves all folds. In
        # that time the new maps lack the old counts, so the window stays as short as possible.
        foldings = {fold: opened.enter_context(_open(folds, *fold)) for fold in _foldings(folds)}
        wait_for_programs()
        inserted = [folding.insert() for folding in foldings.values()]
        # 0 if no fold has keys to insert (arrays): then no program can have missed one.
        if any(counts.visited for counts in inserted):
            wait_for_programs()
        for fold, folding in foldings.items():
            counts = folding.move()
            for _ in range(_MORE_RUNS):
                if not counts.gave_up:
                    break
                # Nothing is moved twice, so a run may be repeated until it moved all numbers.
                counts = folding.move()
            # A fold that did not move all keeps its pins: they hold the old map with the rest.
            if not (counts.failed or counts.gave_up):
                _unpin(folds, *fold)


def _unpin(folds: Directory, map_pin: str, number: str) -> None:
    """Remove the pins of a fold; its old map first, so that it no longer counts after a crash."""
    prefix = f"{map_pin}~{number}~"
    pins = [name for name in folds.names() if name.startswith(prefix)]
    for pin in sorted(pins, key=lambda name: not name.endswith(f"~{OLD}")):
        folds.unlink(pin)


@contextmanager
def _open(folds: Directory, map_pin: str, number: str) -> Iterator[FoldPrograms]:
    """Open the old map and the programs of one fold."""
    from bpfpin.migration.fold import FoldPrograms, FoldStep  # noqa: PLC0415 - few sets migrate

    prefix = f"{map_pin}~{number}~"
    pins = folds.names()
    with ExitStack() as opened:
        old = opened.enter_context(Map.from_pin(folds.path / f"{prefix}{OLD}"))
        programs = {
            step: opened.enter_context(Program.from_pin(folds.path / f"{prefix}{step.value}"))
            for step in FoldStep
            if f"{prefix}{step.value}" in pins
        }
        keys = None
        if f"{prefix}{KEYS}" in pins:
            keys = opened.enter_context(Map.from_pin(folds.path / f"{prefix}{KEYS}"))
        yield FoldPrograms(old, programs, keys=keys)


def _foldings(folds: Directory) -> list[tuple[str, str]]:
    """Return map pin and number of each fold that is complete."""
    names_in_parts = (name.rsplit("~", 2) for name in folds.names())
    return sorted((parts[0], parts[1]) for parts in names_in_parts if parts[-1] == OLD)
