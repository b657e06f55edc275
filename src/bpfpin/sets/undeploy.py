"""Detach and unpin what `deploy` made: what `bpfpin unload` does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from bpfpin.errors import BpfError, NotSupportedError, PinError, PinNotFoundError
from bpfpin.host.pins import BpffsWalk, bpffs_roots
from bpfpin.objects.link import Link
from bpfpin.pins import bpffs, folds, names
from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import locked, remove_lock
from bpfpin.pins.pinset import PinSet, SetState, all_sets
from bpfpin.pins.plan import is_constant
from bpfpin.pins.recover import Recovery
from bpfpin.pins.transaction import next_generation, remove
from bpfpin.sets.find import find_set, require_attach
from bpfpin.sets.live import (
    read_own,
    recovered,
    reopen,
    require_unchanged_programs,
    runs_its_program,
    told_of_others,
)
from bpfpin.sets.place import is_cgroup
from bpfpin.sets.reports import UnloadReport
from bpfpin.sets.shared import map_ids, unshared
from bpfpin.sets.trial import end_orphans_below, settle_set

_PATIENCE_S: Final = 0.5  # the kernel frees a link some time after its last pin went
_PAUSE_S: Final = 0.005


def undeploy(
    target: str,
    *,
    netns: str | None = None,
    pin_root: str | Path = BPFFS,
    lock_timeout_s: float = 10.0,
    keep_maps: bool = False,
) -> UnloadReport:
    """Detach and unpin the set of device *target* in namespace *netns*, or the set so named.

    With *keep_maps* its maps stay pinned where they are, with what earlier migrations had no room
    for, and the next `deploy` of the set goes on with them. What somebody else attached stays:
    where a link of the set runs another program than the one that is pinned, `ProgramChangedError`
    says so and nothing is changed. Raises `PinNotFoundError` (nothing is loaded), `UsageError`
    (several sets fit), `UnsafePathError` (not ours) and `LockTimeoutError`.
    """
    pin_root = Path(pin_root).absolute()
    try:
        name = find_set(target, pin_root=pin_root, netns=netns).name
    except PinNotFoundError:  # nothing but the process that waits beside a trial may be left
        end_orphans_below(pin_root, lock_timeout_s=lock_timeout_s)
        raise
    require_attach(f"unloading {target}")
    with bpffs.open_to_change(pin_root) as root, locked(root, timeout_s=lock_timeout_s):
        recovery = recovered(root, name)
        notes: tuple[str, ...] = () if recovery is Recovery.NOTHING else (recovery.value,)
        notes += settle_set(root, name)
        live = read_own(pin_root, name)
        if live is None and recovery is Recovery.NOTHING:
            _require_loaded(pin_root, name)
        if live is None:
            _leave_nothing(root)
            return UnloadReport(names.display_name(name), pin_root / name, notes=notes)
        require_unchanged_programs(live)
        devices, links = _devices(live), _link_ids(live)
        kept = _keep_maps(root, live) if keep_maps else ()
        if not kept:
            notes += _left_over(live)
            shared = live.manifest.outside if live.manifest else ()
            unused, stayed = unshared(pin_root, [live], map_ids(live, shared))
            notes += stayed
            remove(root, name, reopen, unused)
        notes += told_of_others(root, name)
        _leave_nothing(root)
    notes += tuple(_lasting_links(links, pin_root))
    return UnloadReport(names.display_name(name), live.path, devices, kept, notes)


def _leave_nothing(root: Directory) -> None:
    """Remove the directory of the lock with the last set; what is on trial keeps it."""
    if all(found.state in (SetState.UNLOADED, SetState.FOREIGN) for found in all_sets(root.path)):
        remove_lock(root)


def undeploy_all(
    *, pin_root: Path = BPFFS, lock_timeout_s: float = 10.0, keep_maps: bool = False
) -> tuple[tuple[UnloadReport, ...], tuple[BpfError, ...]]:
    """Unload every set of ours below *pin_root*, each as `undeploy` does.

    Returns the reports, and the errors of those that could not be unloaded: one that refuses does
    not keep the next from going.
    """
    reports: list[UnloadReport] = []
    errors: list[BpfError] = []
    for found in all_sets(pin_root):
        is_half_built = found.state is SetState.HALF_BUILT
        if not found.is_own or (found.manifest is None and not is_half_built):
            continue
        target = str(found.path)
        try:
            reports.append(
                undeploy(
                    target, pin_root=pin_root, lock_timeout_s=lock_timeout_s, keep_maps=keep_maps
                )
            )
        except PinNotFoundError:  # unloaded by another command meanwhile
            continue
        except BpfError as error:
            errors.append(error)
    return tuple(reports), tuple(errors)


def _require_loaded(pin_root: Path, name: str) -> None:
    """Raise `PinNotFoundError` for a directory that has nothing but pins of others any more."""
    try:
        found = PinSet.read(pin_root, name)
    except PinNotFoundError:  # unloaded by another command since it was looked for
        return
    if found.state is SetState.UNLOADED:
        raise PinNotFoundError(
            f"nothing is loaded for {names.display_name(name)!r}: {found.reason}",
            path=str(found.path),
            hint=f"look who made it: ls -la {found.path}; once it is empty: bpfpin clean",
        )


def _keep_maps(root: Directory, live: PinSet) -> tuple[str, ...]:
    """Publish a generation that has nothing but the maps; its predecessor's links go with it."""
    manifest = live.manifest
    with ExitStack() as opened:
        kept = {
            name: opened.enter_context(held)
            for name in live.map_names
            if not is_constant(name) and (held := live.open_map(name))
        }
        if not kept or manifest is None:
            return ()
        stage = opened.enter_context(next_generation(root, live.name, reopen))
        old = opened.enter_context(root.child(live.name))
        if manifest.access is not None:
            stage.set_access(manifest.access)
        for name, held in kept.items():
            stage.keep_map(name, old, held)
            stage.keep_foldings(name, old)
        stage.write_manifest(manifest.without_hooks())
    return tuple(kept)


def _left_over(live: PinSet) -> tuple[str, ...]:
    """Tell of what earlier migrations had no room for, which goes with the set like its maps."""
    with Directory.open(live.path) as directory:
        return tuple(
            f"what map {names.decode(pin)} had no room for when it was migrated went, too"
            for pin in folds.unfinished(directory)
        )


def _link_ids(live: PinSet) -> list[int]:
    """Return the ids of the links of the set."""
    found = list(live.objects.links.values()) if live.objects else []
    for path in live.links.values():
        with suppress(PinError), Link.from_pin(path) as link:
            found.append(link.id)
    return list(dict.fromkeys(found))


def _lasting_links(links: list[int], pin_root: Path) -> Iterator[str]:
    """Detach the links that did not go with their pin, for a process holds them, too.

    A link that somebody pinned elsewhere is theirs as well, as after `--take-over`: it stays.
    """
    deadline = time.monotonic() + _PATIENCE_S
    for link_id in links:
        while _is_there(link_id):
            if time.monotonic() >= deadline:
                pin = _other_pin(link_id, pin_root)
                yield _left_attached(link_id, pin) if pin else _detached(link_id)
                break
            time.sleep(_PAUSE_S)


def _other_pin(link_id: int, pin_root: Path) -> str:
    """Return where the link is pinned outside of the set, or ""."""
    walk = BpffsWalk()
    for root in bpffs_roots(pin_root):
        for path in walk.files(root):
            with suppress(BpfError), Link.from_pin(path) as link:
                if link.id == link_id:
                    return path
    return ""


def _left_attached(link_id: int, pin: str) -> str:
    return (
        f"link id {link_id} is pinned at {pin} by somebody else as well, and its program runs on;"
        f" to detach it: bpftool link detach id {link_id}"
    )


def _detached(link_id: int) -> str:
    held = f"link id {link_id} is held by somebody else as well"
    try:
        with Link.from_id(link_id) as link:
            link.detach()
    except NotSupportedError:  # links of tracing programs have no way to be detached
        return f"{held}, and its program runs on until they let go of it"
    except BpfError as error:
        return (
            f"{held}, and its program runs on ({error.message});"
            f" to detach it: bpftool link detach id {link_id}"
        )
    return f"{held}: it was detached, and they hold a link without a hook"


def _is_there(link_id: int) -> bool:
    try:
        Link.from_id(link_id).close()
    except BpfError:  # a remark that cannot be made is no failure
        return False
    return True


def _devices(live: PinSet) -> tuple[str, ...]:
    """Return the device and the cgroup that run programs of the set."""
    if live.manifest is None:
        return ()
    place = live.manifest.place
    left = [hook for hook in live.manifest.hooks if runs_its_program(live, hook)]
    found = [f"cgroup {place.cgroup}" if is_cgroup(hook) else place.device for hook in left]
    return tuple(dict.fromkeys(found))
