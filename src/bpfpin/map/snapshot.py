"""Saves the entries of a map to a file, and restores them into that map or a similar one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from bpfpin.deprecated import renamed_argument
from bpfpin.errors import KeyNotFoundError
from bpfpin.map.entries import ChangeGuard
from bpfpin.map.open import moment_of, open_map, usage_errors, whole
from bpfpin.map.snapshot_file import SnapshotReader, SnapshotWriter, new_file
from bpfpin.map.snapshot_fit import definition_of, require_fit, require_room, surplus_keys
from bpfpin.map.snapshot_migrate import ConvertedSnapshot, convert_snapshot
from bpfpin.migration.request import Migration
from bpfpin.objects.maps import layouts
from bpfpin.objects.maps.map import Map
from bpfpin.records import dataclass


@dataclass(frozen=True, slots=True)
class Saved:
    """The result of saving a map to a file.

    Attributes:
        path: The file.
        map_id: The id of the map.
        entries: The number of entries in the file.
        size_bytes: The size of the file.
    """

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
    """The result of restoring a map from a file.

    Attributes:
        path: The file.
        map_id: The id of the map.
        entries: The number of entries written.
        deleted: The number of entries that were deleted because the file does not have them.
        lost: The members that were dropped or cut to fit, as the user allowed.
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


@renamed_argument("held", "bpf_map")
def save_map(bpf_map: Map, path: str | Path) -> Saved:
    """Save all entries of a map to a file, with the definition and the types of the map.

    The file is written as a whole or not at all. If the map changes meanwhile, the file does not
    show one moment: each entry is saved as it was when the walk reached it.

    Args:
        bpf_map: The map: an array, a hash or an LPM trie, per CPU or not.
        path: The file to write, with mode 0600; a regular file of that name is replaced.

    Returns:
        The path, the id of the map, the number of entries and the size of the file.

    Raises:
        TypeError: The entries of the map are not plain bytes (maps of maps, sockets, and so on).
        UsageError: *path* exists and is not a regular file.
        ObjectNotFoundError: The directory of *path* does not exist.
        UnsafePathError: *path* leads over a symbolic link that another user could have made.
        PermissionDeniedError: The file may not be written.

    Kernel: BPF_MAP_LOOKUP_BATCH (Linux 5.6), else a walk by key.
    """
    path = Path(path)
    definition = definition_of(bpf_map)
    types = layouts.encode(bpf_map.key_type, bpf_map.value_type)
    with new_file(path) as file:
        writer = SnapshotWriter(file, definition, types)
        for part in bpf_map.batches_bytes():
            writer.add(part.keys, part.values)
        writer.end()
        size = file.tell()
    return Saved(path, bpf_map.id, writer.entries, size)


@renamed_argument("held", "bpf_map")
def restore_map(
    path: str | Path, bpf_map: Map, *, exact: bool = False, migrate: Migration | None = None
) -> Restored:
    """Write the entries of a file that `save_map` made into a map, in batches.

    The file is read to its end before anything is written, so an error leaves the map as it was.
    A program that writes meanwhile may still fill the map, or overwrite an entry.

    Args:
        path: The file.
        bpf_map: The map to write, open for writing.
        exact: First delete the entries that the file does not have; by default they stay.
        migrate: Rules for a map of another definition, as for `deploy`: members are matched by
            name; types, lengths and numbers of CPUs may differ. Values replace those in the map,
            they are not added; the rules decide if several old values become one. By default the
            definitions must fit.

    Returns:
        The numbers of entries written and deleted, and the members that were lost.

    Raises:
        ObjectNotFoundError: The file does not exist.
        ObjectFileError: It is not a snapshot, or it is damaged or cut.
        IncompatibleMapError: The map does not fit; `differences` lists type, sizes, layouts, CPUs.
        MapFullError: The map has no room for all entries.
        TypeError: Entries of such a map cannot be restored.
        UsageError: *migrate* names a member that neither map has.

    Kernel: BPF_MAP_UPDATE_BATCH (Linux 5.6), else BPF_MAP_UPDATE_ELEM; BPF_MAP_DELETE_ELEM.
    """
    with SnapshotReader(Path(path)) as file:
        snapshot: SnapshotReader | ConvertedSnapshot = file
        if migrate is not None:
            snapshot = convert_snapshot(file, bpf_map, migrate)
        else:
            require_fit(file, bpf_map, exact=exact)
        # Reads the file to its end, and so compares its checksum before the first write.
        require_room(snapshot, bpf_map, exact=exact)
        # Elements of an array cannot be deleted (array_map_delete_elem() in kernel/bpf/arraymap.c).
        surplus = surplus_keys(snapshot, bpf_map) if exact and not bpf_map.is_array else set()
        # Deleted before anything is written: a full hash has no room for new entries otherwise.
        for key in surplus:
            # A program may have deleted it since the keys were read.
            with suppress(KeyNotFoundError):
                bpf_map.delete_bytes(key)
        entries = sum(bpf_map.update_arrays(keys, values) for keys, values in snapshot.blocks())
        lost = snapshot.lost if isinstance(snapshot, ConvertedSnapshot) else ()
    return Restored(Path(path), bpf_map.id, entries, len(surplus), lost)


def save(target: str, path: str) -> Saved:
    """Save the map that *target* names; `UsageError` for a map that cannot be saved.

    Waits while a migration moves the entries.
    """

    def once() -> Saved:
        with open_map(target) as bpf_map, usage_errors(bpf_map):
            return save_map(bpf_map, path)

    return whole(target, once)


def restore(
    path: str,
    target: str,
    *,
    exact: bool = False,
    migrate: Migration | None = None,
    guard: ChangeGuard | None = None,
) -> Restored:
    """Restore into the map that *target* names; `UsageError` for a map that cannot be restored.

    The same for a change that *guard* refuses. Waits while a migration moves the entries.
    """
    # Only to wait: a fold moves what it finds, and would miss or add up entries written meanwhile.
    moment_of(target)
    with open_map(target, read_only=False) as bpf_map, usage_errors(bpf_map):
        if guard is not None:
            guard.require_way_back(
                bpf_map,
                f"restoring {path}",
                lambda copy: restore_map(path, copy, exact=exact, migrate=migrate),
            )
        return restore_map(path, bpf_map, exact=exact, migrate=migrate)
