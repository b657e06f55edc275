"""What a list of maps has of each."""

from __future__ import annotations

from dataclasses import dataclass

from bpfpin.apps.map_users import MapUser
from bpfpin.apps.maps.naming import type_name
from bpfpin.objects.info import MapInfo, ProgramInfo


@dataclass(frozen=True, slots=True)
class MapRow:
    """A map and the paths where it is pinned.

    *programs* use it, *outer_maps* hold it, *links* are at it (by id); *is_orphan*: none of these
    keeps it, nor a pin that we see. *processes* have it open, None if nobody looked.
    """

    info: MapInfo
    pins: tuple[str, ...] = ()
    memory_bytes: int = 0
    is_frozen: bool = False
    programs: tuple[ProgramInfo, ...] = ()
    outer_maps: tuple[int, ...] = ()
    links: tuple[int, ...] = ()
    is_orphan: bool = False
    processes: tuple[MapUser, ...] | None = None

    @property
    def type_name(self) -> str:
        """The kernel's word for its type, in lower case; a number that we do not know."""
        return type_name(self.info.type)
