"""Detach and unpin what `deploy` made: what `bpfpin unload` does."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from bpfpin.errors import BpfError, NotSupportedError, PinError, PinNotFoundError
from bpfpin.hints import shell_line
from bpfpin.host.pins import BpffsWalk, bpffs_roots
from bpfpin.objects.kernel.object import wait_until_freed
from bpfpin.objects.link import Link
from bpfpin.pins import folds, names
from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import remove_lock
from bpfpin.pins.pinset import LoadedSet, PinSet, SetState, all_sets
from bpfpin.pins.plan import is_constant
from bpfpin.pins.recover import Recovery
from bpfpin.pins.transaction import next_generation, remove
from bpfpin.sets.changing import changing
from bpfpin.sets.find import find_set, require_attach
from bpfpin.sets.live import notes_on_others, reopen, require_unchanged_programs, runs_its_program
from bpfpin.sets.place import target_name
from bpfpin.sets.reports import UnloadReport
from bpfpin.sets.shared import map_ids, unshared
from bpfpin.sets.trial import end_orphans_below
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor

_PATIENCE_S: Final = 1.0


def undeploy(
    target: str,
    *,
    netns: str | None = None,
    pin_root: str | Path = BPFFS,
    lock_timeout_s: float = 10.0,
    keep_maps: bool = False,
) -> UnloadReport:
    """Detach and unpin a pin set that `deploy` made.

    Pins of others in the directory of the set stay, and so do their programs. After a crash at any
    moment the next command completes the change.

    Args:
        target: Device, name of a set, path of its directory, or path of its cgroup.
        netns: Name of the network namespace of the device; by default the caller's.
        pin_root: Directory of bpffs that holds the set; `/sys/fs/bpf` by default.
        lock_timeout_s: Seconds to wait for the pin root's lock.
        keep_maps: Leave the maps pinned, with their contents and with what earlier migrations had
            no room for; the next `deploy` of the set goes on with them.

    Returns:
        The detached hooks, the maps that were kept, and notes.

    Raises:
        PinNotFoundError: Nothing is loaded for *target*.
        UsageError: Several sets fit; the message lists them.
        UnsafePathError: The set is not the caller's.
        ProgramChangedError: A hook of the set runs another owner's program; nothing was changed.
        BusyError: The set is on trial.
        LockTimeoutError: Another command held the lock all the time.
        NotBpffsError: *pin_root* is not in a bpffs.
        NamespaceNotFoundError: *netns* does not exist.
        PermissionDeniedError: A capability is missing; `missing` names it.

    Kernel: rename(2) and unlink(2) in bpffs, which detaches links; BPF_LINK_DETACH (Linux 5.9) for
        links that a process holds as well; netlink for hooks that have no link.
    """
    pin_root = Path(pin_root).absolute()
    try:
        name = find_set(target, pin_root=pin_root, netns=netns).name
    except PinNotFoundError:  # the waiting process of a trial may be left nevertheless
        end_orphans_below(pin_root, lock_timeout_s=lock_timeout_s)
        raise
    require_attach(f"unloading {target}")
    with changing(pin_root, name, lock_timeout_s=lock_timeout_s) as change:
        root, live, notes = change.root, change.live.loaded, change.notes
        if live is None:
            if change.recovery is Recovery.NOTHING:
                _require_loaded(change.live.directory)
            _remove_lock_of_last_set(root)
            return UnloadReport(names.display_name(name), pin_root / name, notes=notes)
        # Before anything is removed: a hook that somebody else took over refuses the whole unload.
        require_unchanged_programs(live)
        # Read before the removal: afterwards neither pins nor records lead to the links.
        devices, links = _devices(live), _links(live)
        kept_maps = _keep_maps(root, live) if keep_maps else ()
        if not kept_maps:
            notes += _notes_on_left_over(live)
            unused, notes_on_shared = unshared(pin_root, [live], map_ids(live, live.outside))
            notes += notes_on_shared
            remove(root, name, reopen, unused)
        notes += notes_on_others(root, name)
        _remove_lock_of_last_set(root)
    # After the lock: it waits for the kernel to free links, and changes nothing of any set.
    notes += tuple(_end_lasting_links(links, pin_root))
    return UnloadReport(names.display_name(name), live.path, devices, kept_maps, notes)


def _remove_lock_of_last_set(root: Directory) -> None:
    """Remove the directory of the lock after the last set; a trial in it keeps it."""
    gone = (SetState.UNLOADED, SetState.FOREIGN)
    if all(pin_set.state in gone for pin_set in all_sets(root.path)):
        remove_lock(root)


def undeploy_all(
    *, pin_root: Path = BPFFS, lock_timeout_s: float = 10.0, keep_maps: bool = False
) -> tuple[tuple[UnloadReport, ...], tuple[BpfError, ...]]:
    """Unload every set of this user below *pin_root*, each as `undeploy` does.

    Returns the reports, and the errors of the sets that could not be unloaded; an error does not
    end the walk.
    """
    reports: list[UnloadReport] = []
    errors: list[BpfError] = []
    for pin_set in all_sets(pin_root):
        is_half_built = pin_set.state is SetState.HALF_BUILT
        if not pin_set.is_own or not (isinstance(pin_set, LoadedSet) or is_half_built):
            continue
        # By path, which is unique: a name may also be that of a device with another set.
        target = str(pin_set.path)
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


def _require_loaded(directory: PinSet | None) -> None:
    """Raise `PinNotFoundError` for a directory in which an unload left nothing but others' pins.

    Without a directory another command unloaded the set since it was looked for.
    """
    if directory is not None and directory.state is SetState.UNLOADED:
        raise PinNotFoundError(
            f"nothing is loaded for {names.display_name(directory.name)!r}: {directory.reason}",
            path=str(directory.path),
            hint=f"find out who made it: {shell_line('ls -la', directory.path)};"
            " once it is empty: bpfpin clean",
        )


def _keep_maps(root: Directory, live: LoadedSet) -> tuple[str, ...]:
    """Publish a generation that has the maps alone; the links go with the one before."""
    manifest = live.manifest
    with ExitStack() as opened:
        maps = {
            name: opened.enter_context(bpf_map)
            for name in live.map_names
            # Constants (.rodata) belong to a program and go with it.
            if not is_constant(name) and (bpf_map := live.open_map(name))
        }
        if not maps:
            return ()
        stage = opened.enter_context(next_generation(root, live.name, reopen))
        old = opened.enter_context(root.child(live.name))
        if manifest.access is not None:
            stage.set_access(manifest.access)
        for name, bpf_map in maps.items():
            stage.keep_map(name, old, bpf_map)
            stage.keep_foldings(name, old)
        stage.write_manifest(manifest.without_hooks())
    return tuple(maps)


def _notes_on_left_over(live: LoadedSet) -> tuple[str, ...]:
    """Return notes on what earlier migrations had no room for, which goes with the set."""
    with Directory.open(live.path) as directory:
        return tuple(
            f"the entries that map {names.decode(pin)} had no room for when it was migrated were"
            " removed with it"
            for pin in folds.unfinished(directory)
        )


def _links(live: LoadedSet) -> dict[int, int]:
    """Return the links of the set by id, each with the id of the program that it runs."""
    links: dict[int, int] = {}
    # The record also knows links whose pin was removed by hand.
    for link_id in live.objects.links.values() if live.objects else ():
        with suppress(BpfError), Link.from_id(link_id) as link:
            links[link.id] = link.info.program_id
    for name, path in live.links.items():
        # A pin that has a record may hold a link of others by now.
        if live.id_of(names.LINKS, name) is None:
            with suppress(PinError), Link.from_pin(path) as link:
                links[link.id] = link.info.program_id
    return links


def _end_lasting_links(links: Mapping[int, int], pin_root: Path) -> Iterator[str]:
    """Detach the links that outlive their pin because a process holds them, and yield notes.

    A link that somebody pinned elsewhere is theirs as well, as after `--take-over`: it stays.
    """
    lasting = wait_until_freed(
        lambda: [link_id for link_id in links if _exists(link_id)],
        lambda existing: not existing,
        timeout_s=_PATIENCE_S,
    )
    if not lasting:
        # bpf_link_free() of kernel/bpf/syscall.c gives the id up, then detaches the program, which
        # may wait for a lock of the network, and then drops the program.
        wait_until_freed(
            lambda: any(map(_has_program, links.values())), operator.not_, timeout_s=_PATIENCE_S
        )
    for link_id in lasting:
        # A pin means that somebody wants the link to last. A descriptor is often that of a reader
        # or a monitor.
        pin = _other_pin(link_id, pin_root)
        yield _left_attached(link_id, pin) if pin else _detached(link_id)


def _other_pin(link_id: int, pin_root: Path) -> str:
    """Return the path at which the link is pinned outside of the set, or ""."""
    walk = BpffsWalk()
    # Every bpffs that is mounted: a link may be pinned outside of the pin root.
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
    what = f"link id {link_id} is held by somebody else as well"
    try:
        with Link.from_id(link_id) as link:
            link.detach()
    except NotSupportedError:  # links of tracing programs have no operation to detach
        return f"{what}, and its program runs on until they let go of it"
    except BpfError as error:
        return (
            f"{what}, and its program runs on ({error.message});"
            f" to detach it: bpftool link detach id {link_id}"
        )
    return f"{what}: it was detached, and they hold a link without a hook"


def _exists(link_id: int) -> bool:
    try:
        Link.from_id(link_id).close()
    except BpfError:  # nothing is noted of a link that cannot be looked at
        return False
    return True


def _has_program(program_id: int) -> bool:
    try:
        Descriptor(bpf.prog_get_fd_by_id(program_id)).close()
    except BpfError:  # without the right to look nothing is waited for
        return False
    return True


def _devices(live: LoadedSet) -> tuple[str, ...]:
    """Return the device and the cgroup that run programs of the set."""
    place = live.manifest.place
    running = [hook for hook in live.hooks if runs_its_program(live, hook)]
    return tuple(
        dict.fromkeys(target_name(place, record.hook, record.target) for record in running)
    )
