"""All maps of the host and where they are pinned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bpfpin.apps.maps.naming import type_name
from bpfpin.apps.pinned import pinned_maps
from bpfpin.errors import PermissionDeniedError
from bpfpin.objects.info import MapInfo
from bpfpin.objects.walk import maps


@dataclass(frozen=True, slots=True)
class MapRow:
    """A map and the paths where it is pinned."""

    info: MapInfo
    pins: tuple[str, ...]

    @property
    def type_name(self) -> str:
        """The kernel's word for its type, in lower case; a number that we do not know."""
        return type_name(self.info.type)


@dataclass(frozen=True, slots=True)
class MapList:
    """All maps that can be seen, by id, and what hides the others."""

    maps: tuple[MapRow, ...]
    notes: tuple[str, ...]


def list_maps(pin_root: Path) -> MapList:
    """Return all maps of the kernel with their pins; without CAP_SYS_ADMIN only pinned ones."""
    pinned = pinned_maps(pin_root)
    infos, notes = dict(pinned.infos), []
    try:
        infos |= {info.id: info for info in maps()}
    except PermissionDeniedError as error:
        notes.append(f"only pinned maps are listed; for all of them: {error}")
    if pinned.unreadable:
        notes.append(f"not readable: {', '.join(pinned.unreadable)}")
    rows = [MapRow(infos[id_], tuple(pinned.paths.get(id_, ()))) for id_ in sorted(infos)]
    return MapList(tuple(rows), tuple(notes))
