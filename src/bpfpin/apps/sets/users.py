"""Who uses what is pinned in a set, beside the set itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bpfpin.apps.map_users import MapUser, UserKind, users_of
from bpfpin.errors import PinError
from bpfpin.objects import walk
from bpfpin.objects.info import LinkInfo
from bpfpin.objects.link import Link
from bpfpin.objects.map import Map
from bpfpin.objects.program import Program
from bpfpin.pins.pinset import PinSet


def used_maps(found: PinSet) -> dict[str, tuple[MapUser, ...]]:
    """Return the maps of the set that others use, by name: programs, pins and processes.

    The set's own programs, and the names that it made outside to share its maps, are no others.
    """
    own = program_ids(found)
    users = {name: _users(found, path, own) for name, path in found.maps.items()}
    return {name: others for name, others in users.items() if others}


def links_of(found: PinSet) -> dict[str, LinkInfo]:
    """Return what the kernel reports of the links that are pinned in the set, by name."""
    infos: dict[str, LinkInfo] = {}
    for name, path in found.links.items():
        with suppress(PinError), Link.from_pin(path) as link:
            infos[name] = link.info
    return infos


def links_elsewhere(found: PinSet) -> tuple[LinkInfo, ...]:
    """Return the links of others that run a program of the set, where a device is still there."""
    own = program_ids(found)
    ours = {info.id for info in links_of(found).values()}
    return tuple(
        link
        for link in walk.links()
        if link.program_id in own and link.id not in ours and link.is_attached
    )


def outside_paths(found: PinSet) -> Mapping[str, Path]:
    """Return the names that the set made outside to share its maps, by map."""
    made = found.manifest.outside if found.manifest else ()
    return {pin.map: pin.below(found.path.parent) for pin in made}


def _users(found: PinSet, path: Path, own_programs: set[int]) -> tuple[MapUser, ...]:
    try:
        with Map.from_pin(path, read_only=True) as held:
            map_id = held.id
    except PinError:  # not a map
        return ()
    pins = {str(path), *map(str, outside_paths(found).values())}
    users = users_of(map_id, pin_root=found.path.parent)
    return tuple(user for user in users if not _is_own(user, own_programs, pins))


def _is_own(user: MapUser, programs: set[int], pins: set[str]) -> bool:
    if user.kind is UserKind.PROGRAM:
        return user.id in programs
    return user.kind is UserKind.PIN and user.name in pins


def program_ids(found: PinSet) -> set[int]:
    """Return the ids of the programs that are pinned in the set, or were."""
    ids = set(found.objects.programs.values()) if found.objects else set()
    for path in found.programs.values():
        with suppress(PinError), Program.from_pin(path) as program:
            ids.add(program.id)
    return ids
