"""Detach and unpin what `deploy` made: what `bpfpin unload` does."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bpfpin.apps.live import read_own, recovered, require_unchanged_programs
from bpfpin.apps.privileges import require_attach
from bpfpin.apps.reports import UnloadReport
from bpfpin.apps.target import find_set
from bpfpin.pins import bpffs, names
from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import locked
from bpfpin.pins.pinset import PinSet
from bpfpin.pins.recover import Recovery
from bpfpin.pins.transaction import next_generation, remove

NEVER_KEPT: Final = ".rodata"  # each generation makes its own


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
        notes = () if recovery is Recovery.NOTHING else (recovery.value,)
        if live is None:
            return UnloadReport(names.display_name(name), pin_root / name, notes=notes)
        require_unchanged_programs(live)
        kept = _keep_maps(root, live) if keep_maps else ()
        if not kept:
            remove(root, name)
    devices = (live.manifest.place.device,) if live.manifest and live.links else ()
    return UnloadReport(names.display_name(name), live.path, devices, kept, notes)


def _keep_maps(root: Directory, live: PinSet) -> tuple[str, ...]:
    """Publish a generation that has nothing but the maps; its predecessor's links go with it."""
    kept = tuple(name for name in live.maps if not name.startswith(NEVER_KEPT))
    manifest = live.manifest
    if not kept or manifest is None:
        return ()
    with next_generation(root, live.name) as stage, root.child(live.name) as old:
        for name in kept:
            stage.keep_map(name, old)
        stage.write_manifest(manifest.without_hooks())
    return kept
