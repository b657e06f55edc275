"""Saving the entries of a map into a file, and putting them back: into this map or one like it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpfpin.errors import KeyNotFoundError
from bpfpin.map.entries import ChangeGuard, said
from bpfpin.map.open import moment_of, open_map, whole
from bpfpin.map.snapshot_file import SnapshotReader, SnapshotWriter, new_file
from bpfpin.map.snapshot_fit import definition_of, require_fit, require_room, surplus_keys
from bpfpin.map.snapshot_migrate import Converted, converted
from bpfpin.migration.request import Migration
from bpfpin.objects.maps import layouts
from bpfpin.objects.maps.map import Map


@dataclass(frozen=True, slots=True)
class Saved:
    """What was written: how many entries of which map (the kernel's id), and the file's size."""

    path: Path
    map_id: int
    entries: int
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        sizes = {"entries": self.entries, "size_bytes": self.size_bytes}
        return {"result": "saved", "file": str(self.path), "map": self.map_id, **sizes}


@dataclass(frozen=True, slots=True)
class Restored:
    """How many entries were written, and how many were deleted that the file does not have.

    *lost* are the members that did not come over, or not whole, because the user gave them up.
    """

    path: Path
    map_id: int
    entries: int
    deleted: int = 0
    lost: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        counts = {"entries": self.entries, "deleted": self.deleted}
        shown = {"result": "restored", "file": str(self.path), "map": self.map_id, **counts}
        return shown | ({"lost": list(self.lost)} if self.lost else {})


def save_map(held: Map, path: str | Path) -> Saved:
    """Write all entries of *held* into the file *path*, with the map's definition and types.

    The file (0600) takes the place of one that is there, and is there as a whole or not at all. It
    shows no single moment of a map that changes meanwhile: each entry is as it was when the walk
    came by (`objects/maps/batch.py`). `TypeError` for a map whose entries are no plain bytes.
    """
    path = Path(path)
    definition = definition_of(held)
    types = layouts.encode(held.key_type, held.value_type)
    with new_file(path) as file:
        writer = SnapshotWriter(file, definition, types)
        for part in held.batches_bytes():
            writer.add(part.keys, part.values)
        writer.end()
        size = file.tell()
    return Saved(path, held.id, writer.entries, size)


def restore_map(
    path: str | Path, held: Map, *, exact: bool = False, migrate: Migration | None = None
) -> Restored:
    """Write the entries of the file *path*, which `save_map` made, into *held*, in batches.

    An entry that is there gets the value of the file; what the file does not have stays, or with
    *exact* is deleted first. The file is read once to the end before anything is written, so that
    these leave the map as it was: `ObjectFileError` (no snapshot, damaged, truncated),
    `IncompatibleMapError` with all differences (type, sizes, layout of key and value, CPUs), and
    `MapFullError` if the map has not the room. Programs that write meanwhile may still fill it, or
    win.

    With *migrate* a map of another definition takes the entries by the rules of `deploy`: members
    by name, other types and lengths of arrays and hashes, the values of other CPUs. Values are
    written, and not added to those that are there; rules decide where several old ones become one.
    """
    with SnapshotReader(Path(path)) as file:
        snapshot: SnapshotReader | Converted = file
        if migrate is not None:
            snapshot = converted(file, held, migrate)
        else:
            require_fit(file, held, exact=exact)
        require_room(snapshot, held, exact=exact)
        surplus = surplus_keys(snapshot, held) if exact and not held.is_array else set()
        for key in surplus:
            with suppress(KeyNotFoundError):
                held.delete_bytes(key)
        entries = sum(held.update_arrays(keys, values) for keys, values in snapshot.blocks())
        lost = snapshot.lost if isinstance(snapshot, Converted) else ()
    return Restored(Path(path), held.id, entries, len(surplus), lost)


def save(target: str, path: str) -> Saved:
    """Save the map that *target* names; what cannot be saved is `UsageError`.

    A map that is just being migrated is waited for.
    """

    def once() -> Saved:
        with open_map(target) as held, said(held):
            return save_map(held, path)

    return whole(target, once)


def restore(
    path: str,
    target: str,
    *,
    exact: bool = False,
    migrate: Migration | None = None,
    guard: ChangeGuard | None = None,
) -> Restored:
    """Restore into the map that *target* names; what cannot be restored is `UsageError`.

    So is what *guard* refuses. A map that is just being migrated is waited for.
    """
    moment_of(target)
    with open_map(target, read_only=False) as held, said(held):
        if guard is not None:
            guard.require_way_back(
                held,
                f"restoring {path}",
                lambda copy: restore_map(path, copy, exact=exact, migrate=migrate),
            )
        return restore_map(path, held, exact=exact, migrate=migrate)
