"""Load an object, attach it and pin it as one set: what `bpfpin load` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bpfpin.apps.choose import choose
from bpfpin.apps.deployment import Deployment
from bpfpin.apps.live import read_own, recovered
from bpfpin.apps.loading import Loading, plan, publish
from bpfpin.apps.privileges import require_attach
from bpfpin.apps.reports import LoadReport
from bpfpin.apps.sources import Source, read_source
from bpfpin.apps.target import all_sets, sets_of_device
from bpfpin.apps.unchanged import unchanged
from bpfpin.attach import interface
from bpfpin.errors import UsageError
from bpfpin.objects.collection import MAP_MEMORY_LIMIT
from bpfpin.pins import bpffs, names
from bpfpin.pins.bpffs import BPFFS, RootState
from bpfpin.pins.lock import locked
from bpfpin.pins.manifest import Place
from bpfpin.pins.recover import Recovery
from bpfpin.spec import Hook, XdpMode
from bpfpin.syscall import netns as namespaces


def deploy(  # noqa: PLR0913 - the options of `bpfpin load`, each of them by keyword
    source: Source,
    *,
    device: str | None = None,
    mode: XdpMode = XdpMode.AUTO,
    programs: Sequence[str] = (),
    hook: Hook | None = None,
    program_type: str | None = None,
    name: str | None = None,
    netns: str | None = None,
    pin_root: Path = BPFFS,
    lock_timeout_s: float = 10.0,
    dry_run: bool = False,
    max_map_memory: int = MAP_MEMORY_LIMIT,
) -> Deployment:
    """Load *source*, attach its programs to *device* and pin maps, programs and links as one set.

    *source* is a path, bytes, a spec or `builtin:NAME`. Every program goes where its section says,
    one a hook; *programs* (`NAME` or `NAME:HOOK`) chooses, *hook* and *program_type* say what a
    section does not. The set is called after device and *netns*, or *name*. All of it happens, or
    nothing; a set that is loaded like this already is left as it is. *dry_run* has the programs
    verified and changes nothing; *max_map_memory* is in bytes.

    Raises what reading and loading the object do, `InterfaceNotFoundError`, `BusyError` (the hook
    or the name is taken), `UnsafePathError` (a directory that is not ours), `NotBpffsError`,
    `LockTimeoutError` and `NotSupportedError`.
    """
    spec = read_source(source, program_type=program_type)
    chosen = tuple(choose(spec, words=programs, hook=hook))
    with namespaces.enter(netns):
        place = _place(device, netns)
        require_attach(f"loading a program on {device}")
        directory = names.encode(name) if name else _name_for(place, pin_root)
        loading = Loading(spec, chosen, mode, place, pin_root / directory, max_map_memory)
        return Deployment(_planned(loading) if dry_run else _done(loading, lock_timeout_s))


def require_devices(devices: Sequence[str], *, netns: str | None = None) -> None:
    """Raise `InterfaceNotFoundError` unless all of *devices* are there; nothing is changed."""
    with namespaces.enter(netns):
        for device in devices:
            interface.ifindex(device)


def _place(device: str | None, netns: str | None) -> Place:
    if not device:
        raise UsageError("where to load it? No device was named", hint="--dev DEV")
    index = interface.ifindex(device)
    return Place(netns_inode=namespaces.inode(), netns=netns or "", ifindex=index, device=device)


def _planned(loading: Loading) -> LoadReport:
    """Look, load and let go again; no lock is taken, since nothing is changed."""
    is_mounted = bpffs.inspect(loading.path.parent) is not RootState.ABSENT
    if is_mounted:
        bpffs.require(loading.path.parent)
    live = read_own(loading.path.parent, loading.name) if is_mounted else None
    return unchanged(loading, live) or plan(loading, live)


def _done(loading: Loading, lock_timeout_s: float) -> LoadReport:
    bpffs.ensure(loading.path.parent)
    with (
        bpffs.open_to_change(loading.path.parent) as root,
        locked(root, timeout_s=lock_timeout_s),
    ):
        recovery = recovered(root, loading.name)
        notes = () if recovery is Recovery.NOTHING else (recovery.value,)
        live = read_own(loading.path.parent, loading.name)
        report = unchanged(loading, live) or publish(loading, root, live)
        return report.with_notes(notes)


def _name_for(place: Place, pin_root: Path) -> str:
    """Return the directory of the set that the device has already, or would get."""
    usual = names.set_name(place.device, place.netns or None)
    if bpffs.inspect(pin_root) is not RootState.MOUNTED:
        return usual
    there = [found.name for found in sets_of_device(place.ifindex, all_sets(pin_root))]
    if usual in there or not there:
        return usual
    if len(there) > 1:
        shown = ", ".join(map(names.display_name, there))
        raise UsageError(
            f"{place.device} has {len(there)} pin sets: {shown}", hint="name one: --name NAME"
        )
    return there[0]
