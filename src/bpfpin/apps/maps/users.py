"""What keeps the maps of the host alive, all of them at one look."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bpfpin.apps.graph.holders import all_holders
from bpfpin.apps.graph.objects import Objects, contents
from bpfpin.apps.map_users import MapUser, UserKind
from bpfpin.errors import PermissionDeniedError
from bpfpin.objects import walk
from bpfpin.objects.info import MapInfo, ProgramInfo
from bpfpin.objects.kernel_object import ObjectKind


@dataclass
class Keepers:
    """By the id of a map: the programs that use it, the maps that hold it, the links at it.

    Nothing of this is seen without CAP_SYS_ADMIN; `is_complete` says so.
    """

    programs: dict[int, list[ProgramInfo]] = field(default_factory=lambda: defaultdict(list))
    outer_maps: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    links: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    is_complete: bool = True

    def is_kept(self, map_id: int) -> bool:
        """Whether a program, another map or a link keeps the map."""
        return any(map_id in found for found in (self.programs, self.outer_maps, self.links))

    def told(self, map_id: int) -> list[str]:
        """Return the maps that hold the map and the links at it, in words."""
        outer, links = self.outer_maps.get(map_id, ()), self.links.get(map_id, ())
        return [*(f"map {id_}, which holds it" for id_ in outer), *(f"link {id_}" for id_ in links)]


def keepers(infos: Mapping[int, MapInfo] | None = None) -> Keepers:
    """Return what in the kernel keeps maps; *infos* are all maps there are, None asks for them.

    Never an error: without CAP_SYS_ADMIN nothing is found, and that is said.
    """
    found = Keepers()
    try:
        programs, links = list(walk.programs()), list(walk.links())
        infos = {info.id: info for info in walk.maps()} if infos is None else infos
    except PermissionDeniedError:
        return Keepers(is_complete=False)
    for program in programs:
        for map_id in program.map_ids:
            found.programs[map_id].append(program)
    for link in links:
        if link.map_id is not None:
            found.links[link.map_id].append(link.id)
    for one in contents(Objects(dict(infos))):
        if not one.is_program:
            found.outer_maps[one.id].append(one.map_id)
    return found


def processes(map_ids: Iterable[int]) -> dict[int, list[MapUser]]:
    """Return the processes that have these maps open, by map; not this one (proc(5))."""
    wanted, found = set(map_ids), defaultdict[int, list[MapUser]](list)
    for holder in all_holders().processes:
        user = MapUser(UserKind.PROCESS, holder.pid, holder.name)
        for kind, id_ in holder.held:
            if kind is ObjectKind.MAP and id_ in wanted:
                found[id_].append(user)
    return found
