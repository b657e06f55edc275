"""The names outside of a set under which its maps are shared: those it makes, and their end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final

from bpfpin.apps.load.loading import Loading
from bpfpin.apps.map_users import MapUser, UserKind, programs_of
from bpfpin.apps.pinned import pinned_maps
from bpfpin.apps.sets.users import program_ids
from bpfpin.apps.target import all_sets
from bpfpin.errors import PinNotFoundError
from bpfpin.objects.map import Map
from bpfpin.pins import outside
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import OutsidePin
from bpfpin.pins.pinset import PinSet

_PATIENCE_S: Final = 0.5  # the kernel frees a program some time after its last link or pin went
_PAUSE_S: Final = 0.01


def shared_names(loading: Loading) -> tuple[OutsidePin, ...]:
    """Return the shared names that the set is to remember: it makes them, or a set of ours did.

    What somebody else made is used and never taken away.
    """
    root = loading.path.parent
    asked = {
        OutsidePin(shared.name, str(shared.path.relative_to(root))): shared
        for shared in loading.shared.values()
        if shared.path is not None and not shared.is_promised
    }
    if not asked:
        return ()
    ours = {pin.path for found in all_sets(root) for pin in _remembered(found)}
    return tuple(
        pin
        for pin, shared in asked.items()
        if shared.held is None or shared.is_new or pin.path in ours
    )


def map_ids(live: PinSet, pins: Iterable[OutsidePin]) -> dict[OutsidePin, int]:
    """Return which map of the set each shared name stood for, where its own pin is still there."""
    found = {}
    for pin in pins:
        try:
            with Map.from_pin(live.maps[pin.map]) as held:
                found[pin] = held.id
        except (KeyError, PinNotFoundError):
            continue
    return found


def take_away(root: Directory, live: PinSet, pins: dict[OutsidePin, int]) -> Iterator[str]:
    """Remove shared names that nobody but the set uses; yield what stays, and for whom."""
    for pin, map_id in pins.items():
        path = pin.below(root.path)
        others = _lasting_others(map_id, live, (str(path), str(live.maps.get(pin.map, path))))
        if others:
            yield f"{path} stays pinned, for it is used by {', '.join(others)}"
        else:
            outside.unshare(root, pin, map_id)


def _remembered(found: PinSet) -> tuple[OutsidePin, ...]:
    return found.manifest.outside if found.manifest else ()


def _lasting_others(map_id: int, live: PinSet, pins: tuple[str, ...]) -> list[str]:
    """Return who else uses a map, after giving programs that nobody holds the time to go."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        others = _others(map_id, live, pins)
        is_dying = bool(others) and all(user.kind is UserKind.PROGRAM for user in others)
        if not is_dying or any(user.place for user in others) or time.monotonic() >= deadline:
            return [str(user) for user in others]
        time.sleep(_PAUSE_S)


def _others(map_id: int, live: PinSet, pins: tuple[str, ...]) -> list[MapUser]:
    """Return the pins and programs that use a map and are not the set's own."""
    own = program_ids(live)
    programs = [user for user in programs_of(map_id) if user.id not in own]
    paths = pinned_maps(live.path.parent).paths.get(map_id, [])
    others = [MapUser(UserKind.PIN, 0, path) for path in paths if path not in pins]
    return [*programs, *others]
