"""Shared names: pins outside of a set under which it shares its maps, made and removed with it.

A shared name gets another map only if the set alone uses the map that is pinned there. Any other
user would go on with a map that nobody finds any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Final

from bpfpin.errors import PinError, PinNotFoundError, UsageError
from bpfpin.hints import Argument, Fix, shell_line
from bpfpin.host.pins import map_pins
from bpfpin.host.users import MapUser, UserKind, programs_of, users_of
from bpfpin.objects.kernel import info as walk
from bpfpin.objects.kernel.info import LinkInfo
from bpfpin.objects.kernel.object import wait_until_freed
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import folds, names
from bpfpin.pins.manifest import OutsidePin
from bpfpin.pins.pinset import LoadedSet, PinSet, all_sets
from bpfpin.pins.plan import HookPlan
from bpfpin.records import dataclass
from bpfpin.sets.given_maps import Shared
from bpfpin.sets.request import LoadRequest

_ADVICE_ON_PROGRAMS: Final = "detach it first, or end the process that holds it"
# For programs whose last reference is gone: bpf_prog_put() frees them after an RCU grace period,
# and until then they are listed as users of their maps.
_PATIENCE_S: Final = 5.0


def used_maps(pin_set: PinSet) -> dict[str, tuple[MapUser, ...]]:
    """Return the maps of the set that others use, by name: programs, pins and processes.

    The set's own programs and the shared names that it made do not count.
    """
    own = program_ids(pin_set)
    users = {name: _users(pin_set, path, own) for name, path in pin_set.maps.items()}
    return {name: others for name, others in users.items() if others}


def links_of(pin_set: PinSet) -> dict[str, LinkInfo]:
    """Return what the kernel reports of the links that are pinned in the set, by name."""
    infos: dict[str, LinkInfo] = {}
    for name, path in pin_set.links.items():
        with suppress(PinError), Link.from_pin(path) as link:
            infos[name] = link.info
    return infos


def links_elsewhere(pin_set: PinSet) -> tuple[LinkInfo, ...]:
    """Return the links of others that run a program of the set and are attached."""
    own = program_ids(pin_set)
    ours = {info.id for info in links_of(pin_set).values()}
    return tuple(
        link
        for link in walk.links()
        if link.program_id in own and link.id not in ours and link.is_attached
    )


def outside_paths(pin_set: PinSet) -> Mapping[str, Path]:
    """Return the paths of the shared names that the set made, by map."""
    return {pin.map: pin.below(pin_set.path.parent) for pin in pin_set.outside}


def _users(pin_set: PinSet, path: Path, own_programs: set[int]) -> tuple[MapUser, ...]:
    try:
        with Map.from_pin(path, read_only=True) as bpf_map:
            map_id = bpf_map.id
    except PinError:  # not a map
        return ()
    pins = {str(path), *map(str, outside_paths(pin_set).values())}
    users = users_of(map_id, pin_root=pin_set.path.parent)
    return tuple(user for user in users if not _is_own(user, own_programs, pins))


def _is_own(user: MapUser, programs: set[int], pins: set[str]) -> bool:
    if user.kind is UserKind.PROGRAM:
        return user.id in programs
    return user.kind is UserKind.PIN and user.name in pins


def program_ids(pin_set: PinSet) -> set[int]:
    """Return the ids of the programs that are or were pinned in the set."""
    # The records know a program whose pin somebody removed: it still runs, and is still the set's
    # own.
    ids = set(pin_set.objects.programs.values()) if pin_set.objects else set()
    for name, path in pin_set.programs.items():
        # A pin that has a record may hold a program of others by now.
        if pin_set.id_of(names.PROGRAMS, name) is None:
            with suppress(PinError), Program.from_pin(path) as program:
                ids.add(program.id)
    return ids


def map_ids(live: PinSet, pins: Iterable[OutsidePin]) -> dict[OutsidePin, int]:
    """Return the id of the map of each shared name, as far as the set still has its own pin."""
    ids = {}
    for pin in pins:
        try:
            with Map.from_pin(live.maps[pin.map]) as bpf_map:
                # Somebody may have pinned another map there, and shared that, too.
                if live.id_of("", names.map_pin_name(pin.map)) in (None, bpf_map.id):
                    ids[pin] = bpf_map.id
        # Without its own pin the set cannot say which map it shared, so the name stays as it is.
        except (KeyError, PinNotFoundError):
            continue
    return ids


def unshared(
    root: Path, sets: Collection[PinSet], pins: Mapping[OutsidePin, int]
) -> tuple[dict[OutsidePin, int], tuple[str, ...]]:
    """Return which of the shared names *pins* are removed with *sets*, and notes on the others.

    A name stays if anything but those sets uses its map.
    """
    unused, notes = {}, []
    for pin, map_id in pins.items():
        path = pin.below(root)
        # Somebody may look the map up by this name: removed too late it costs a pin, removed too
        # early a split brain.
        if others := _lasting_others(map_id, sets, pin, str(path)):
            notes.append(f"{path} stays pinned, for it is used by {', '.join(others)}")
        else:
            unused[pin] = map_id
    return unused, tuple(notes)


@dataclass(frozen=True)
class Replacing:
    """Decides for one load which shared names may get another map; *hooks* is the plan of hooks."""

    request: LoadRequest
    live: LoadedSet | None
    hooks: Sequence[HookPlan]
    _others: dict[str, tuple[MapUser, ...]] = field(default_factory=dict)

    def may(self, name: str) -> bool:
        """Whether map *name*, which is at a shared name, may be replaced.

        `UsageError` with its other users if the user asked for it to start empty.
        """
        if self._shared(name).is_new:  # another set of this command has replaced it
            return False
        # A trial that goes back would have to exchange the name again, while others may have begun
        # to use the new map.
        if self.request.confirm_s is not None or not self._shared(name).is_exchangeable:
            self._require_not_asked(name, "that does not go back by itself", [])
            return False
        if others := self.others(name):
            users = ", ".join(map(str, others))
            self._require_not_asked(name, f"it is used by {users}", self.advice(name))
        return not others

    def others(self, name: str) -> tuple[MapUser, ...]:
        """Return the other users of the map at a shared name: programs that stay, other pins."""
        shared = self._shared(name)
        if shared.bpf_map is None or shared.path is None:
            return ()
        # Asked again for the hints of the refusal; looking at all programs and pins takes a while.
        if name not in self._others:
            pins = {str(shared.path)}
            sets = [*([self.live] if self.live else []), *self.request.beside]
            pins |= {str(pin_set.maps[name]) for pin_set in sets if name in pin_set.maps}
            root, own = self.request.path.parent, self._own_programs()
            bpf_map = shared.bpf_map
            self._others[name] = _lasting(lambda: _users_but(bpf_map.id, root, own, pins))
        return self._others[name]

    def advice(self, name: str) -> Iterator[Fix]:
        """Yield what to do about each of the other users, so that the name may get another map."""
        sets = all_sets(self.request.path.parent)
        for user in self.others(name):
            owner = next((pin_set for pin_set in sets if _belongs(user, pin_set)), None)
            if owner is not None:
                shown = names.display_name(owner.name)
                first = (f"{user} is of the set {shown}: ", *_together(owner))
                yield Fix.of(*first, shell_line("bpfpin unload", shown))
            elif user.kind is UserKind.PIN:
                yield Fix.of(f"{user}: if nobody needs it, {shell_line('rm', user.name)}")
            else:
                yield Fix.of(f"{user}: {_ADVICE_ON_PROGRAMS}")

    def _shared(self, name: str) -> Shared:
        return self.request.shared[name]

    def _own_programs(self) -> set[int]:
        """Return the programs that this load replaces, and those of unfinished migrations."""
        running = {hook.previous.id for hook in self.hooks if hook.previous is not None}
        for program in self.request.open_beside_programs():
            with program:
                running.add(program.id)
        if self.live is None:
            return running
        return running | program_ids(self.live) | folds.program_ids(self.live.path)

    def _require_not_asked(self, name: str, reason: str, advice: Iterable[Fix]) -> None:
        if name in self.request.fresh:
            hint = Fix(())
            for fix in advice:
                hint = hint.joined(*fix.parts, separator="; ")
            raise UsageError(
                f"map {name} is that of {self._shared(name).source} and cannot start empty here:"
                f" {reason}",
                hint=hint,
            )


def _together(pin_set: PinSet) -> tuple[str | Argument, ...]:
    """Return the advice to load the object on the device of a set, too."""
    device = pin_set.manifest.place.device if isinstance(pin_set, LoadedSet) else ""
    if not device:
        return ()
    return ("load both at once (add ", Argument("devices", [device]), "), or first: ")


def _belongs(user: MapUser, pin_set: PinSet) -> bool:
    if user.kind is UserKind.PIN:
        return pin_set.path in Path(user.name).parents
    return user.id in program_ids(pin_set)


def _users_but(
    map_id: int, pin_root: Path, programs: Collection[int], pins: Collection[str]
) -> list[MapUser]:
    """Return the programs and pins that use a map, except those given."""
    others = [user for user in programs_of(map_id) if user.id not in programs]
    paths = map_pins(pin_root).get(map_id, [])
    return [*others, *(MapUser(UserKind.PIN, 0, path) for path in paths if path not in pins)]


def _lasting(look: Callable[[], list[MapUser]]) -> tuple[MapUser, ...]:
    """Return the users that remain; programs that nothing references are given time to go."""

    def remain(users: list[MapUser]) -> bool:
        # A pin is there until somebody removes it, so waiting for it would be in vain.
        are_programs = bool(users) and all(user.kind is UserKind.PROGRAM for user in users)
        return not are_programs or any(user.place for user in users)

    users = wait_until_freed(look, remain, timeout_s=_PATIENCE_S)
    return tuple(users)


def _lasting_others(map_id: int, sets: Collection[PinSet], pin: OutsidePin, path: str) -> list[str]:
    """Return the users of a map other than *sets*, once the kernel freed unreferenced programs."""
    own = {number for pin_set in sets for number in program_ids(pin_set)}
    own.update(*(folds.program_ids(pin_set.path) for pin_set in sets))
    maps = [pin_set.maps[pin.map] for pin_set in sets if pin.map in pin_set.maps]
    pins = {path, *map(str, maps)}
    root = next(iter(sets)).path.parent
    return [str(user) for user in _lasting(lambda: _users_but(map_id, root, own, pins))]
