"""The maps, programs and links of the host: all of them, or those that this user may open."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bpfpin.errors import BpfError, IdNotFoundError, PermissionDeniedError
from bpfpin.host.pins import Pins
from bpfpin.host.processes import all_holders
from bpfpin.host.users import MapUser, UserKind
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel import info as walk
from bpfpin.objects.kernel.info import LinkInfo, MapInfo, ProgramInfo
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.objects.maps.map import Map
from bpfpin.syscall import bpf

CONTENTS_MAX = 4096  # elements looked at of one map; who has more is noted


@dataclass
class Objects:
    """Infos by id; *is_complete*: these are all that the kernel has."""

    maps: dict[int, MapInfo] = field(default_factory=dict)
    programs: dict[int, ProgramInfo] = field(default_factory=dict)
    links: dict[int, LinkInfo] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_complete: bool = True


@dataclass(frozen=True, slots=True)
class Contained:
    """Map *map_id* holds another map, or a program that is jumped to."""

    map_id: int
    id: int
    is_program: bool


def may_walk() -> bool:
    """Whether this user may walk all objects by id (CAP_SYS_ADMIN)."""
    try:
        bpf.map_get_next_id(0)
    except PermissionDeniedError:
        return False
    return True


def all_objects() -> Objects:
    """Return all maps, programs and links; `PermissionDeniedError` without CAP_SYS_ADMIN."""
    # In this order what is found is whole: a link keeps its program, and that one its maps.
    links = {info.id: info for info in walk.links()}
    programs = {info.id: info for info in walk.programs()}
    return Objects({info.id: info for info in walk.maps()}, programs, links)


def pinned_objects(pins: Pins) -> Objects:
    """Return what the pins tell, with a note on what they cannot."""
    note = (
        "without CAP_SYS_ADMIN only what is pinned where this user may open it is shown, and the"
        " programs that devices name"
    )
    return Objects(pins.maps, pins.programs, pins.links, [note], is_complete=False)


def contents(objects: Objects) -> list[Contained]:
    """Return what the maps of maps and the arrays of programs hold, as far as they may be read."""
    found: list[Contained] = []
    for info in objects.maps.values():
        traits = traits_of(info.type)
        if not (traits.holds_maps or traits.holds_programs):
            continue
        try:
            found += _contents(info, objects)
        except IdNotFoundError:  # gone meanwhile
            continue
        except BpfError as error:
            objects.notes.append(f"what map id {info.id} ({info.name}) holds is not shown: {error}")
    return found


def _contents(info: MapInfo, objects: Objects) -> list[Contained]:
    with Map.from_id(info.id) as held:
        ids = []
        for number, value in enumerate(held.values()):
            if number == CONTENTS_MAX:
                note = f"of map id {info.id} ({info.name}) the first {CONTENTS_MAX} elements count"
                objects.notes.append(note)
                break
            ids.append(value)
    is_program = traits_of(info.type).holds_programs
    return [Contained(info.id, _number(value), is_program) for value in ids]


def _number(value: object) -> int:
    return int.from_bytes(value, "little") if isinstance(value, bytes) else int(str(value))


# What keeps the maps of the host alive, all of them at one look.


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
