"""Load an object, attach it and pin it as one set: what `bpfpin load` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

from bpfpin.apps.deployment import Deployment
from bpfpin.apps.load.choose import Choice, Places, check_order, choose, types_of_hooks
from bpfpin.apps.load.destination import place_of, set_name_for
from bpfpin.apps.load.loading import Loading, LoadOptions, access_of, check_fresh, migration_of
from bpfpin.apps.load.lockout import require_way_back
from bpfpin.apps.load.planning import make_plan
from bpfpin.apps.load.publishing import publish, verify
from bpfpin.apps.load.report import unchanged
from bpfpin.apps.load.variables import with_variables
from bpfpin.apps.privileges import require_attach
from bpfpin.apps.recovery import recovered
from bpfpin.apps.reports import LoadReport
from bpfpin.apps.sets.live import read_own
from bpfpin.apps.sharing import Given, open_shared, with_pinnings
from bpfpin.apps.sources import Source, read_source
from bpfpin.apps.trial.trials import settle_set
from bpfpin.attach import interface
from bpfpin.objects.collection import MAP_MEMORY_LIMIT
from bpfpin.pins import bpffs, names
from bpfpin.pins.bpffs import BPFFS, RootState
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import locked
from bpfpin.pins.manifest import Place
from bpfpin.pins.recover import Recovery, check_stage
from bpfpin.spec import ObjectSpec, XdpMode
from bpfpin.syscall import netns as namespaces
from bpfpin.uapi import ProgramType


def deploy(
    source: Source,
    *,
    device: str | None = None,
    cgroup: str | Path | None = None,
    **options: Unpack[LoadOptions],
) -> Deployment:
    """Load *source*, attach its programs and pin maps, programs and links as one set.

    *source* is a path, bytes, a spec or `builtin:NAME`; *options* are those of `LoadOptions`. Every
    program goes where its section says, one a hook: to *device*, or to *cgroup*, a folder of
    cgroup2. All of it happens, or nothing; killed at any moment, the next command finishes or
    undoes it. Where the set is loaded already, what differs is done: maps that fit are kept with
    what is in them, and hooks are switched without a gap.

    Raises what reading and loading the object do, `InterfaceNotFoundError`, `CgroupNotFoundError`,
    `IncompatibleMapError` (with all differences), `BusyError` (the hook or the name is taken, the
    mode is another one), `UnsafePathError` (a directory that is not ours), `NotBpffsError`,
    `LockTimeoutError` and `NotSupportedError`.
    """
    spec = _read(source, options)
    netns, given = options.get("netns"), options.get("maps", {})
    with namespaces.enter(netns):
        place = place_of(device, cgroup, netns=netns)
        places = Places(bool(place.device), bool(place.cgroup))
        words, hook = options.get("programs", ()), options.get("hook")
        chosen = tuple(choose(spec, words=words, hook=hook, places=places))
        require_attach(f"loading a program on {device or cgroup}")
        request = _request(spec, chosen, place, options)
        if request.is_dry_run:
            return Deployment(_planned(request, given))
        report = _done(request, given, options.get("lock_timeout_s", 10.0))
        return Deployment(report, variables=spec.all_variables)


def require_devices(devices: Sequence[str], *, netns: str | None = None) -> None:
    """Raise `InterfaceNotFoundError` unless all of *devices* are there; nothing is changed."""
    with namespaces.enter(netns):
        for device in devices:
            interface.ifindex(device)


def _read(source: Source, options: LoadOptions) -> ObjectSpec:
    """Read the object; what sections do not say, `--type` or the hooks do."""
    named, kernel_btf = options.get("program_type"), options.get("kernel_btf")
    spec = read_source(source, program_type=named, kernel_btf=kernel_btf)
    if named:
        return spec
    types = types_of_hooks(spec, words=options.get("programs", ()), hook=options.get("hook"))
    if types and not isinstance(source, ObjectSpec):
        return read_source(source, program_type=types, kernel_btf=kernel_btf)
    for name, word in types.items():
        spec = spec.with_program(name, type=ProgramType[word.upper()])
    return spec


def _request(
    spec: ObjectSpec, chosen: tuple[Choice, ...], place: Place, options: LoadOptions
) -> Loading:
    name, pin_root = options.get("name"), options.get("pin_root", BPFFS)
    if options.get("order") is not None:
        check_order(chosen)
    spec = with_pinnings(spec, options.get("pinning", {}), options.get("maps", {}))
    spec, settings = with_variables(spec, options.get("variables", {}))
    for choice in chosen:  # what a program is loaded for may come from its hook
        attach_type = choice.program.expected_attach_type
        spec = spec.with_program(choice.program.name, expected_attach_type=attach_type)
    return Loading(
        spec,
        chosen,
        options.get("mode", XdpMode.AUTO),
        place,
        pin_root / (names.encode(name) if name else set_name_for(place, pin_root)),
        options.get("max_map_memory") or MAP_MEMORY_LIMIT,
        fresh=frozenset(options.get("fresh", ())),
        migration=migration_of(options.get("migrate", False)),
        settings=settings,
        replaces=options.get("replace", False),
        takes_over=options.get("take_over", False),
        order=options.get("order"),
        confirm_s=options.get("confirm_s"),
        is_guarded=options.get("guard", False),
        access=access_of(options.get("group"), options.get("chmod")),
        is_dry_run=options.get("dry_run", False),
        is_chosen=bool(options.get("programs") or options.get("hook")),
    )


def _planned(request: Loading, given: Mapping[str, Given]) -> LoadReport:
    """Look, load and let go again; no lock is taken, since nothing is changed."""
    root = request.path.parent
    is_mounted = bpffs.inspect(root) is not RootState.ABSENT
    if is_mounted:
        bpffs.require(root)
    live = None
    if is_mounted:
        with Directory.open(root) as directory:
            check_stage(directory, request.name)
        live = read_own(root, request.name)
    with _shared(request, given) as loading, make_plan(loading, live) as plan:
        if plan.is_unchanged:
            return unchanged(loading, plan)
        require_way_back(loading)
        return verify(loading, plan)


def _done(request: Loading, given: Mapping[str, Given], lock_timeout_s: float) -> LoadReport:
    bpffs.ensure(request.path.parent)
    with (
        bpffs.open_to_change(request.path.parent) as root,
        locked(root, timeout_s=lock_timeout_s),
    ):
        recovery = recovered(root, request.name)
        notes: tuple[str, ...] = () if recovery is Recovery.NOTHING else (recovery.value,)
        notes += settle_set(root, request.name)
        live = read_own(request.path.parent, request.name)
        with _shared(request, given) as loading, make_plan(loading, live) as plan:
            if plan.is_unchanged:
                return unchanged(loading, plan).with_notes(notes)
            require_way_back(loading)
            return publish(loading, plan, root).with_notes(notes)


@contextmanager
def _shared(request: Loading, given: Mapping[str, Given]) -> Iterator[Loading]:
    """Open the maps from outside of the set for as long as the load takes."""
    shared = open_shared(request.spec, given, pin_root=request.path.parent)
    loading = dataclasses.replace(request, shared=shared)
    try:
        check_fresh(loading.spec, loading.fresh, shared)
        yield loading
    finally:
        loading.close()
