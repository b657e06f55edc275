"""The maps, programs and links of the host: all of them, or those that this user may open."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import field

from bpfpin.errors import BpfError, IdNotFoundError, PermissionDeniedError
from bpfpin.host.pins import Pins
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel import info as kernel_info
from bpfpin.objects.kernel.info import LinkInfo, MapInfo, ProgramInfo
from bpfpin.records import dataclass
from bpfpin.syscall import bpf

CONTENTS_MAX = 4096  # elements read of one map; a note says when a map has more


@dataclass
class HostObjects:
    """The infos of kernel objects by id; *is_complete*: the kernel has no others."""

    maps: dict[int, MapInfo] = field(default_factory=dict)
    programs: dict[int, ProgramInfo] = field(default_factory=dict)
    links: dict[int, LinkInfo] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_complete: bool = True


@dataclass(frozen=True, slots=True)
class Contained:
    """An element of map *map_id*: another map, or a program for tail calls."""

    map_id: int
    id: int
    is_program: bool


def may_walk() -> bool:
    """Whether this user may walk all objects by id (CAP_SYS_ADMIN)."""
    # bpf_obj_get_next_id() checks the capability before it looks for an object.
    try:
        bpf.map_get_next_id(0)
    except PermissionDeniedError:
        return False
    return True


def all_objects() -> HostObjects:
    """Return all maps, programs and links; `PermissionDeniedError` without CAP_SYS_ADMIN."""
    # Links first, maps last: a link holds its program and a program holds its maps, so whatever
    # an object refers to is listed later and is still there.
    links = {info.id: info for info in kernel_info.links()}
    programs = {info.id: info for info in kernel_info.programs()}
    return HostObjects({info.id: info for info in kernel_info.maps()}, programs, links)


def pinned_objects(pins: Pins) -> HostObjects:
    """Return the objects that are pinned, with a note on those that cannot be seen."""
    note = (
        "without CAP_SYS_ADMIN only pinned objects that this user may open are shown, and the"
        " programs that devices report"
    )
    return HostObjects(pins.maps, pins.programs, pins.links, [note], is_complete=False)


def contents(objects: HostObjects, *, with_programs: bool = True) -> list[Contained]:
    """Return the elements of the maps of maps and program arrays that this user may read.

    *with_programs*: also those of program arrays.
    """
    elements: list[Contained] = []
    for info in objects.maps.values():
        traits = traits_of(info.type)
        if not (traits.holds_maps or (with_programs and traits.holds_programs)):
            continue
        try:
            elements += _contents(info, objects)
        except IdNotFoundError:  # the map was freed meanwhile
            continue
        except BpfError as error:
            objects.notes.append(f"what map id {info.id} ({info.name}) holds is not shown: {error}")
    return elements


def _contents(info: MapInfo, objects: HostObjects) -> list[Contained]:
    from bpfpin.objects.maps.map import Map  # noqa: PLC0415  (few hosts have maps of maps)

    with Map.from_id(info.id) as bpf_map:
        ids = []
        for number, value in enumerate(bpf_map.values()):
            if number == CONTENTS_MAX:
                note = f"of map id {info.id} ({info.name}) the first {CONTENTS_MAX} elements count"
                objects.notes.append(note)
                break
            ids.append(value)
    is_program = traits_of(info.type).holds_programs
    return [Contained(info.id, _number(value), is_program) for value in ids]


def _number(value: object) -> int:
    # A lookup from user space returns the id of the map or program, not its descriptor
    # (bpf_fd_array_map_lookup_elem() in kernel/bpf/arraymap.c).
    return int.from_bytes(value, "little") if isinstance(value, bytes) else int(str(value))


@dataclass
class Keepers:
    """What keeps maps alive in the kernel, by the id of the map.

    Programs that use it, outer maps that hold it, links that refer to it. All of them are hidden
    without CAP_SYS_ADMIN; then `is_complete` is false.
    """

    programs: dict[int, list[ProgramInfo]] = field(default_factory=lambda: defaultdict(list))
    outer_maps: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    links: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    is_complete: bool = True

    def is_kept(self, map_id: int) -> bool:
        """Whether a program, another map or a link keeps the map."""
        return any(map_id in by_map for by_map in (self.programs, self.outer_maps, self.links))

    def in_words(self, map_id: int) -> list[str]:
        """Return the outer maps and the links that keep the map, in words."""
        outer, links = self.outer_maps.get(map_id, ()), self.links.get(map_id, ())
        return [*(f"map {id_}, which holds it" for id_ in outer), *(f"link {id_}" for id_ in links)]


def keepers(infos: Mapping[int, MapInfo] | None = None) -> Keepers:
    """Return what keeps maps alive in the kernel.

    *infos* are those of all maps of the host; with None the kernel is asked. Never raises:
    without CAP_SYS_ADMIN the result is empty and `is_complete` is false.
    """
    result = Keepers()
    try:
        programs, links = list(kernel_info.programs()), list(kernel_info.links())
        infos = {info.id: info for info in kernel_info.maps()} if infos is None else infos
    except PermissionDeniedError:
        return Keepers(is_complete=False)
    for program in programs:
        for map_id in program.map_ids:
            result.programs[map_id].append(program)
    for link in links:
        if link.map_id is not None:
            result.links[link.map_id].append(link.id)
    # A program array holds programs, which list their maps by themselves.
    for element in contents(HostObjects(dict(infos)), with_programs=False):
        result.outer_maps[element.id].append(element.map_id)
    return result
