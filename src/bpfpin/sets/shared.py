"""The names outside of a set under which its maps are shared: those it makes, and their end.

Such a name gets another map only if nobody but the set uses the one that it holds: whoever else
does would go on with a map that nobody finds any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bpfpin.errors import PinError, PinNotFoundError, UsageError
from bpfpin.host.pins import pinned_maps
from bpfpin.host.users import MapUser, UserKind, processes_of, programs_of, users_of
from bpfpin.objects.kernel import info as walk
from bpfpin.objects.kernel.info import LinkInfo
from bpfpin.objects.kernel.object import wait_until_freed
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import folds, names
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import OutsidePin
from bpfpin.pins.pinset import LoadedSet, PinSet, all_sets
from bpfpin.pins.plan import Decision, HookPlan, Plan
from bpfpin.sets.given_maps import Shared
from bpfpin.sets.request import Loading

_ADVICE_ON_PROGRAMS: Final = "detach it first, or end who holds it"
_PATIENCE_S: Final = 5.0


# Who uses what is pinned in a set, beside the set itself.


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
    return {pin.map: pin.below(found.path.parent) for pin in found.outside}


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
    ours = {pin.path for found in all_sets(root) for pin in found.outside}
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


def unshared(
    root: Path, sets: Collection[PinSet], pins: Mapping[OutsidePin, int]
) -> tuple[dict[OutsidePin, int], tuple[str, ...]]:
    """Return which of the shared names *pins* go with *sets*, and notes on those that stay.

    A name stays if anything but those sets uses its map.
    """
    unused, notes = {}, []
    for pin, map_id in pins.items():
        path = pin.below(root)
        if others := _lasting_others(map_id, sets, pin, str(path)):
            notes.append(f"{path} stays pinned, for it is used by {', '.join(others)}")
        else:
            unused[pin] = map_id
    return unused, tuple(notes)


@dataclass(frozen=True)
class Replacing:
    """Decides for one load which shared names may get another map; *hooks* are what it changes."""

    loading: Loading
    live: LoadedSet | None
    hooks: Sequence[HookPlan]
    _others: dict[str, tuple[MapUser, ...]] = field(default_factory=dict)

    def may(self, name: str) -> bool:
        """Whether map *name*, which is at a shared name, may be replaced.

        `UsageError` with who else uses it if it is to start empty by the user's word.
        """
        if self._shared(name).is_new:  # another set of the command has replaced it
            return False
        if self.loading.confirm_s is not None or not self._shared(name).is_exchangeable:
            self._require_not_asked(name, "that does not go back by itself (--confirm)", "")
            return False
        if others := self.others(name):
            users = ", ".join(map(str, others))
            self._require_not_asked(name, f"it is used by {users}", "; ".join(self.advice(name)))
        return not others

    def others(self, name: str) -> tuple[MapUser, ...]:
        """Return who else uses the map at a shared name: programs that stay, and other pins."""
        shared = self._shared(name)
        if shared.held is None or shared.path is None:
            return ()
        if name not in self._others:
            pins = {str(shared.path)}
            sets = [*([self.live] if self.live else []), *self.loading.beside]
            pins |= {str(found.maps[name]) for found in sets if name in found.maps}
            root, own = self.loading.path.parent, self._own_programs()
            held = shared.held
            self._others[name] = _lasting(lambda: _users_but(held.id, root, own, pins))
        return self._others[name]

    def advice(self, name: str) -> Iterator[str]:
        """Yield what to do about each of the others, for the name to get another map."""
        sets = all_sets(self.loading.path.parent)
        for user in self.others(name):
            owner = next((each for each in sets if _belongs(user, each)), None)
            if owner is not None:
                shown = names.display_name(owner.name)
                yield f"{user} is of the set {shown}: {_together(owner)}bpfpin unload {shown}"
            elif user.kind is UserKind.PIN:
                yield f"{user}: if nobody needs it, rm {user.name}"
            else:
                yield f"{user}: {_ADVICE_ON_PROGRAMS}"

    def _shared(self, name: str) -> Shared:
        return self.loading.shared[name]

    def _own_programs(self) -> set[int]:
        """Return the programs that end with this load, and those of its set's migrations."""
        running = {hook.previous.id for hook in self.hooks if hook.previous is not None}
        for pin in self.loading.beside_programs.values():
            with Program.from_pin(pin) as program:
                running.add(program.id)
        if self.live is None:
            return running
        return running | program_ids(self.live) | folds.program_ids(self.live.path)

    def _require_not_asked(self, name: str, reason: str, hint: str) -> None:
        if name in self.loading.fresh:
            raise UsageError(
                f"map {name} is that of {self._shared(name).source} and cannot start empty here:"
                f" {reason}",
                hint=hint,
            )


def exchanged(loading: Loading, plan: Plan) -> dict[OutsidePin, Map]:
    """Return the shared names that get another map by *plan*, and the maps that they hold now."""
    found = {}
    for each in plan.maps:
        shared = loading.shared.get(each.name)
        is_new = each.decision in (Decision.FRESH, Decision.MIGRATED)
        if is_new and shared is not None and shared.held is not None and shared.path is not None:
            path = str(shared.path.relative_to(loading.path.parent))
            found[OutsidePin(each.name, path)] = shared.held
    return found


def holders_of_old(root: Directory, old_ids: Mapping[OutsidePin, int]) -> Iterator[str]:
    """Tell of processes that still have the map that a shared name held before."""
    for pin, map_id in old_ids.items():
        for process in processes_of(map_id):
            yield (
                f"{process} still has the map (id {map_id}) that {pin.below(root.path)} held"
                " before: it has to open it again"
            )


def _together(found: PinSet) -> str:
    """Return how to load the object on a set's device in the same command, if it has one."""
    device = found.manifest.place.device if isinstance(found, LoadedSet) else ""
    return f"load both at once (add --dev {device}), or first: " if device else ""


def _belongs(user: MapUser, found: PinSet) -> bool:
    if user.kind is UserKind.PIN:
        return found.path in Path(user.name).parents
    return user.id in program_ids(found)


def _users_but(
    map_id: int, pin_root: Path, programs: Collection[int], pins: Collection[str]
) -> list[MapUser]:
    """Return the programs and pins that use a map, without those named."""
    found = [user for user in programs_of(map_id) if user.id not in programs]
    paths = pinned_maps(pin_root).paths.get(map_id, [])
    return [*found, *(MapUser(UserKind.PIN, 0, path) for path in paths if path not in pins)]


def _lasting(look: Callable[[], list[MapUser]]) -> tuple[MapUser, ...]:
    """Return the users that remain; programs that nothing references are given time to go."""

    def remain(users: list[MapUser]) -> bool:
        are_programs = bool(users) and all(user.kind is UserKind.PROGRAM for user in users)
        return not are_programs or any(user.place for user in users)

    users = wait_until_freed(look, remain, timeout_s=_PATIENCE_S)
    return tuple(users)


def _lasting_others(map_id: int, sets: Collection[PinSet], pin: OutsidePin, path: str) -> list[str]:
    """Return who else uses a map, after giving programs that nobody holds the time to go."""
    own = {number for each in sets for number in program_ids(each)}
    own.update(*(folds.program_ids(each.path) for each in sets))
    pins = {path, *(str(each.maps[pin.map]) for each in sets if pin.map in each.maps)}
    root = next(iter(sets)).path.parent
    return [str(user) for user in _lasting(lambda: _users_but(map_id, root, own, pins))]
