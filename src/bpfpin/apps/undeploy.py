"""Detach and unpin what `deploy` made: what `bpfpin unload` does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bpfpin.apps.live import read_own, require_unchanged_programs
from bpfpin.apps.map_users import programs_of
from bpfpin.apps.pinned import pinned_maps
from bpfpin.apps.privileges import require_attach
from bpfpin.apps.recovery import recovered, reopen
from bpfpin.apps.reports import UnloadReport
from bpfpin.apps.target import find_set
from bpfpin.objects.map import Map
from bpfpin.objects.program import Program
from bpfpin.pins import bpffs, names, outside
from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import locked
from bpfpin.pins.pinset import PinSet
from bpfpin.pins.plan import is_constant
from bpfpin.pins.recover import Recovery
from bpfpin.pins.transaction import next_generation, remove


def undeploy(
    target: str,
    *,
    netns: str | None = None,
    pin_root: Path = BPFFS,
    lock_timeout_s: float = 10.0,
    keep_maps: bool = False,
) -> UnloadReport:
    """Detach and unpin the set of device *target* in namespace *netns*, or the set so named.

    With *keep_maps* its maps stay pinned where they are, and the next `deploy` of the set goes on
    with them. What somebody else attached stays: where a link of the set runs another program than
    the one that is pinned, `ProgramChangedError` says so and nothing is changed. Raises
    `PinNotFoundError` (nothing is loaded), `UsageError` (several sets fit), `UnsafePathError` (not
    ours) and `LockTimeoutError`.
    """
    name = find_set(target, pin_root=pin_root, netns=netns).name
    require_attach(f"unloading {target}")
    with bpffs.open_to_change(pin_root) as root, locked(root, timeout_s=lock_timeout_s):
        recovery = recovered(root, name)
        live = read_own(pin_root, name)
        notes: tuple[str, ...] = () if recovery is Recovery.NOTHING else (recovery.value,)
        if live is None:
            return UnloadReport(names.display_name(name), pin_root / name, notes=notes)
        require_unchanged_programs(live)
        kept = _keep_maps(root, live) if keep_maps else ()
        if not kept:
            notes += tuple(_unshare(root, live))
            remove(root, name, reopen)
    devices = (live.manifest.place.device,) if live.manifest and live.manifest.hooks else ()
    return UnloadReport(names.display_name(name), live.path, devices, kept, notes)


def _keep_maps(root: Directory, live: PinSet) -> tuple[str, ...]:
    """Publish a generation that has nothing but the maps; its predecessor's links go with it."""
    kept = tuple(name for name in live.maps if not is_constant(name))
    manifest = live.manifest
    if not kept or manifest is None:
        return ()
    with next_generation(root, live.name, reopen) as stage, root.child(live.name) as old:
        if manifest.access is not None:
            stage.set_access(manifest.access)
        for name in kept:
            stage.keep_map(name, old)
        stage.write_manifest(manifest.without_hooks())
    return kept


def _unshare(root: Directory, live: PinSet) -> Iterator[str]:
    """Remove the shared names that the set made, where nobody else uses the map."""
    for pin in live.manifest.outside if live.manifest else ():
        with Map.from_pin(live.maps[pin.map]) as held:
            map_id = held.id
        path = pin.below(root.path)
        others = _others(map_id, live, pins=(str(path), str(live.maps[pin.map])))
        if others:
            yield f"{path} stays pinned, for it is used by {', '.join(others)}"
        else:
            outside.unshare(root, pin, map_id)


def _others(map_id: int, live: PinSet, *, pins: tuple[str, ...]) -> list[str]:
    """Return the pins and programs that use a map and are not the set's own."""
    own = set()
    for path in live.programs.values():
        with Program.from_pin(path) as program:
            own.add(program.id)
    programs = [str(user) for user in programs_of(map_id) if user.id not in own]
    paths = pinned_maps(live.path.parent).paths.get(map_id, [])
    return [*programs, *(f"pin {path}" for path in paths if path not in pins)]
