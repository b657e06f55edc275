"""Load an object, attach it and pin it as one set: what `bpfpin load` does.

A load has four steps. `sets/request.py` turns the options into a request for each set. With the
lock held, `sets/changing.py` settles what earlier commands left and reads the live state, once.
`sets/load/plan.py` decides from both on each map and hook. `sets/load/publish.py`
builds the next generation and publishes it. A plan without changes ends with a report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpfpin.attach import interface
from bpfpin.errors import (
    BpfError,
    NotSupportedError,
    UnsafePathError,
    UsageError,
    VerifierError,
)
from bpfpin.hints import Argument, Placeholder
from bpfpin.objects.maps.map import Map
from bpfpin.pins import bpffs
from bpfpin.pins.bpffs import BPFFS, RootState
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import locked_root
from bpfpin.pins.recover import check_stage, is_half_done
from bpfpin.sets.changing import begin_changes
from bpfpin.sets.choose import Source, read_for_hooks
from bpfpin.sets.deployment import Deployment
from bpfpin.sets.find import require_attach
from bpfpin.sets.given_maps import Given, open_shared
from bpfpin.sets.live import LiveState, read_live
from bpfpin.sets.load.plan import make_plan
from bpfpin.sets.load.report import unchanged
from bpfpin.sets.reports import LoadReport
from bpfpin.sets.request import (
    LoadOptions,
    LoadRequest,
    SetTarget,
    check_fresh,
    requests_of,
    with_names,
)
from bpfpin.spec import Hook, XdpMode
from bpfpin.syscall import netns as namespaces

if TYPE_CHECKING:
    from bpfpin.attach.order import Order
    from bpfpin.migration.request import Migration
    from bpfpin.sets.load.publish import Verified


def deploy(  # noqa: PLR0913 - each option of a load is a keyword
    source: Source,
    *,
    device: str | None = None,
    cgroup: str | Path | None = None,
    programs: str | Sequence[str] = (),
    hook: Hook | str | None = None,
    program_type: str | None = None,
    mode: XdpMode | str = XdpMode.AUTO,
    order: Order | str | None = None,
    name: str | None = None,
    netns: str | None = None,
    pin_root: str | Path = BPFFS,
    private_mount: bool = False,
    lock_timeout_s: float = 10.0,
    maps: Mapping[str, Given] | None = None,
    pinning: Mapping[str, str] | None = None,
    fresh: str | Collection[str] = (),
    variables: Mapping[str, Any] | None = None,
    migrate: bool | Migration = False,
    replace: bool = False,
    stub: bool = True,
    take_over: bool = False,
    group: str | int | None = None,
    chmod: int | str | None = None,
    dry_run: bool = False,
    confirm_s: int | None = None,
    force: bool = False,
    max_map_memory: int | None = None,
    kernel_btf: str | Path | None = None,
) -> Deployment:
    """Load an object, attach its programs and pin its maps, programs and links as one set.

    Either everything happens or nothing does; after a crash at any moment the next command
    completes or undoes the change. If the set is already loaded, only the differences are applied:
    maps that fit keep their contents, and hooks switch to the new programs without a gap.

    A choice may be typed as on the command line: `mode="native"`, `hook="tcx-egress"`,
    `order="first"`, `chmod="0640"`.

    Args:
        source: Path, bytes, `ObjectSpec` or `builtin:NAME`.
        device: Network device for the hooks of devices.
        cgroup: Folder of a cgroup2 hierarchy, or a path below its mount, for the hooks of cgroups.
        programs: Programs to attach, each `NAME` or `NAME:HOOK`; by default every program whose
            section names a hook that *device* or *cgroup* has, one for each hook.
        hook: Hook of programs whose section does not name one.
        program_type: Type of programs whose section does not name one, such as `"xdp"`.
        mode: Mode of XDP; `AUTO` is native, or generic where the driver has no native mode.
        order: Place among the other programs of a tcx or netkit hook: `"first"`, `"last"`,
            `"before:ID"`, `"after:ID"`, with program ids.
        name: Name of the set; by default its device with *netns*, or its cgroup.
        netns: Name of the network namespace of *device*; by default the caller's.
        pin_root: Directory of bpffs that holds the set; `/sys/fs/bpf` by default.
        private_mount: Allow a bpffs that only this mount namespace sees and that ends with it.
        lock_timeout_s: Seconds to wait for the pin root's lock.
        maps: Maps to use from elsewhere, by name: the path of a pin, `"id:N"`, `"name:NAME"`, or a
            `Map`, which stays the caller's to close.
        pinning: How to pin maps, by name, whatever the object asks for: `"none"` or `"by-name"`.
        fresh: Names of maps that start empty on a reload; `"all"` for every map.
        variables: First values of global variables, by name; text is parsed as after `--set`. A
            variable in a `.data` or `.bss` that is kept cannot be set.
        migrate: Move the contents of maps whose definition changed to new maps, exactly and under
            traffic: true, or a `Migration` with rules for members.
        replace: Allow an object that shares neither a program nor a hook with the loaded one, and
            another device.
        stub: Attach by a stub where a link cannot change its program, so that a reload neither
            loses an event nor counts one twice; with a gate where no stub can call the program.
            False: attach the program itself.
        take_over: Put the program in the place of another owner's at an XDP hook.
        group: Group, by name or number, that may open the maps; by default as before.
        chmod: Mode of the map pins, such as `0o640`; by default 0o600, with *group* 0o640.
        dry_run: Verify the programs and plan the load, and change nothing.
        confirm_s: Seconds after which the load is taken back unless `bpfpin confirm` comes.
        force: Allow a program that would cut the default route or the caller's SSH session; such a
            program is refused otherwise, unless *confirm_s* is given.
        max_map_memory: Bytes that the new maps may take; a quarter of the memory by default.
        kernel_btf: File with the types that CO-RE takes for the kernel's; by default those of the
            running kernel.

    Returns:
        The deployment; its `report` lists the changes.

    Raises:
        ObjectFileError: The object file is malformed.
        VerifierError: The kernel refused a program; `log` is the verifier's.
        UsageError: An option has a wrong value or names what the object lacks, several sets fit, or
            the load would cut the caller's own connection.
        TypeError: A switch is neither true nor false.
        InterfaceNotFoundError: *device* does not exist.
        CgroupNotFoundError: *cgroup* does not exist.
        NamespaceNotFoundError: *netns* does not exist.
        WrongHookError: A program cannot run at the hook.
        IncompatibleMapError: A map does not fit or cannot be migrated; `differences` has all.
        PinNotFoundError: A path of *maps* does not exist; `IdNotFoundError` for an id.
        PinKindError: Another kind of object is pinned at such a path.
        HookBusyError: Another owner's program holds the hook.
        BusyError: The name or the mode is taken, or the set is on trial.
        ProgramChangedError: A hook of the set runs another owner's program by now.
        LimitError: The maps would take more than *max_map_memory*.
        UnsafePathError: A directory of the pin root is not the caller's, or others may write it.
        NotBpffsError: *pin_root* is not in a bpffs.
        PrivateMountError: The pins would end with this mount namespace.
        LockTimeoutError: Another command held the lock all the time.
        PermissionDeniedError: A capability is missing; `missing` names it.
        NotSupportedError: This kernel or driver lacks a feature that is needed.

    Kernel: BPF_BTF_LOAD, BPF_MAP_CREATE, BPF_PROG_LOAD, BPF_OBJ_PIN, BPF_LINK_CREATE,
        BPF_LINK_UPDATE (Linux 5.9), renameat2(2) with RENAME_EXCHANGE in bpffs (Linux 5.16);
        netlink for hooks that have no link.
    """
    (deployment,) = deploy_all(
        source,
        devices=() if device is None else (device,),
        cgroups=() if cgroup is None else (cgroup,),
        programs=programs,
        hook=hook,
        program_type=program_type,
        mode=mode,
        order=order,
        name=name,
        netns=netns,
        pin_root=pin_root,
        private_mount=private_mount,
        lock_timeout_s=lock_timeout_s,
        maps=maps,
        pinning=pinning,
        fresh=fresh,
        variables=variables,
        migrate=migrate,
        replace=replace,
        stub=stub,
        take_over=take_over,
        group=group,
        chmod=chmod,
        dry_run=dry_run,
        confirm_s=confirm_s,
        force=force,
        max_map_memory=max_map_memory,
        kernel_btf=kernel_btf,
    )
    return deployment


def deploy_all(  # noqa: PLR0913 - each option of a load is a keyword
    source: Source,
    *,
    devices: Sequence[str] = (),
    cgroups: Sequence[str | Path] = (),
    programs: str | Sequence[str] = (),
    hook: Hook | str | None = None,
    program_type: str | None = None,
    mode: XdpMode | str = XdpMode.AUTO,
    order: Order | str | None = None,
    name: str | None = None,
    netns: str | None = None,
    pin_root: str | Path = BPFFS,
    private_mount: bool = False,
    lock_timeout_s: float = 10.0,
    maps: Mapping[str, Given] | None = None,
    pinning: Mapping[str, str] | None = None,
    fresh: str | Collection[str] = (),
    variables: Mapping[str, Any] | None = None,
    migrate: bool | Migration = False,
    replace: bool = False,
    stub: bool = True,
    take_over: bool = False,
    group: str | int | None = None,
    chmod: int | str | None = None,
    dry_run: bool = False,
    confirm_s: int | None = None,
    force: bool = False,
    max_map_memory: int | None = None,
    kernel_btf: str | Path | None = None,
) -> list[Deployment]:
    """Load an object on several devices or cgroups, as one set each: on all of them or on none.

    One transaction covers all sets: if one of them is refused or a hook cannot be switched, all
    stay as they were, and after a crash at any moment the next command completes all or undoes all.

    Args:
        source: Path, bytes, `ObjectSpec` or `builtin:NAME`.
        devices: Network devices, a set each; a device that is named twice counts once.
        cgroups: Cgroups, a set each. One device and one cgroup together are one set.
        programs: As in `deploy`, for every set; so are all parameters below.
        hook: Hook of programs whose section does not name one.
        program_type: Type of programs whose section does not name one.
        mode: Mode of XDP.
        order: Place among the other programs of a tcx or netkit hook.
        name: Name of the set; with one device or cgroup only.
        netns: Name of the network namespace of all *devices*.
        pin_root: Directory of bpffs that holds all sets; `/sys/fs/bpf` by default.
        private_mount: Allow a bpffs that only this mount namespace sees and that ends with it.
        lock_timeout_s: Seconds to wait for the pin root's lock.
        maps: Maps to use from elsewhere, by name.
        pinning: How to pin maps, by name: `"none"` or `"by-name"`.
        fresh: Names of maps that start empty on a reload; `"all"` for every map.
        variables: First values of global variables, by name.
        migrate: Move the contents of maps whose definition changed to new maps.
        replace: Allow an object that has nothing in common with the loaded one, and another device.
        stub: Attach by a stub, or with a gate, where a link cannot change its program.
        take_over: Put the program in the place of another owner's at an XDP hook.
        group: Group, by name or number, that may open the maps; by default as before.
        chmod: Mode of the map pins; by default 0o600, with *group* 0o640.
        dry_run: Verify the programs and plan the load, and change nothing.
        confirm_s: Seconds after which the load is taken back unless `bpfpin confirm` comes.
        force: Allow a program that would cut the default route or the caller's SSH session.
        max_map_memory: Bytes that the new maps of a set may take; a quarter of the memory by
            default.
        kernel_btf: File with the types that CO-RE takes for the kernel's.

    Returns:
        A deployment for each set, in order.

    Raises:
        UsageError: Devices and cgroups are mixed, other than one of each, or *name* is given for
            several sets.
        BusyError: Two targets have one set between them.
        BpfError: What `deploy` raises; the hint says that no set was changed.

    Kernel: As `deploy`.
    """
    options = LoadOptions.parse(
        programs=programs,
        hook=hook,
        program_type=program_type,
        mode=mode,
        order=order,
        name=name,
        netns=netns,
        pin_root=pin_root,
        private_mount=private_mount,
        lock_timeout_s=lock_timeout_s,
        maps=maps or {},
        pinning=pinning or {},
        fresh=fresh,
        variables=variables or {},
        migrate=migrate,
        replace=replace,
        stub=stub,
        take_over=take_over,
        group=group,
        chmod=chmod,
        dry_run=dry_run,
        confirm_s=confirm_s,
        force=force,
        max_map_memory=max_map_memory,
        kernel_btf=kernel_btf,
    )
    return deploy_targets(source, _targets(devices, cgroups, options), options)


def _targets(
    devices: Sequence[str], cgroups: Sequence[str | Path], options: LoadOptions
) -> list[SetTarget]:
    """Return the device and the cgroup of each set."""
    if devices and cgroups and len(devices) + len(cgroups) > 2:
        raise UsageError(
            "several devices and cgroups: which of them belong to one set is not known",
            hint="one load for each set, or only devices, or only cgroups",
        )
    if devices and cgroups:
        return [(devices[0], cgroups[0])]
    targets: list[SetTarget] = [(device, None) for device in dict.fromkeys(devices)]
    targets += [(None, cgroup) for cgroup in dict.fromkeys(cgroups)]
    if options.name and len(targets) > 1:
        raise UsageError(
            "a name is for one set, and several devices or cgroups make several sets",
            hint="one load for each of them",
        )
    return targets or [(None, None)]


def deploy_targets(
    source: Source, targets: Sequence[SetTarget], options: LoadOptions
) -> list[Deployment]:
    """Load an object on *targets*, as one set each, as `deploy_all` does."""
    # Before anything is read or mounted: pins in a mount that ends with this process would be lost
    # without a warning.
    if not options.private_mount:
        bpffs.require_lasting(options.pin_root)
    spec = read_for_hooks(
        source,
        words=options.programs,
        hook=options.hook,
        program_type=options.program_type,
        kernel_btf=options.kernel_btf,
    )
    # Names and ifindexes of devices belong to a network namespace. The whole load runs inside,
    # since netlink and BPF_LINK_CREATE resolve them there as well.
    with namespaces.enter(options.netns):
        requests = requests_of(spec, targets, options)
        shown = ", ".join(str(device or cgroup or "this host") for device, cgroup in targets)
        # Checked here: without this, the first call that needs a capability would fail halfway, and
        # its EPERM would not name the others.
        require_attach(f"loading a program on {shown}")
        carry_out = _plan_only if options.dry_run else _load
        reports = carry_out(requests, options)
        return [Deployment(report, variables=spec.all_variables) for report in reports]


def _load(targets: Sequence[LoadRequest], options: LoadOptions) -> list[LoadReport]:
    """Plan all sets and publish those that change, in one transaction under one lock."""
    # Before the lock, which is a directory in the bpffs.
    bpffs.ensure(options.pin_root)
    with ExitStack() as opened:
        root = opened.enter_context(locked_root(options.pin_root, timeout_s=options.lock_timeout_s))
        requests = with_names(targets, options)
        # Inside of the lock: it looks whether a stage is left, which only this command can have
        # made.
        opened.enter_context(_none_changed_hint(root, requests))
        # What earlier commands left comes first: a plan that is made from a half-built set would
        # keep the wrong maps.
        with _other_name_hint(requests):
            changes = begin_changes(root, [request.name for request in requests])
        lives = [change.live for change in changes]
        with _kernel_first(root):
            outcomes = _planned(requests, lives, options.maps, opened)
        reports = _published(outcomes, root)
        return [
            report.with_notes(change.notes) for report, change in zip(reports, changes, strict=True)
        ]


def _plan_only(targets: Sequence[LoadRequest], options: LoadOptions) -> list[LoadReport]:
    """Plan all sets and have their programs verified; nothing changes, so no lock is taken.

    Two empty directories are made and removed, to ask whether the kernel can load at all.
    """
    from bpfpin.pins.transaction import require_exchange  # noqa: PLC0415 - not for all loads

    root = options.pin_root
    requests = with_names(targets, options)
    lives = [LiveState() for _ in requests]
    # A dry run mounts nothing; without a bpffs no set is loaded.
    if bpffs.inspect(root) is not RootState.ABSENT:
        bpffs.require(root)
        with Directory.open(root) as directory:
            for request in requests:
                # A dry run cannot recover a stage, but a stage of another user would refuse the
                # load.
                check_stage(directory, request.name)
            require_exchange(directory)
        with _other_name_hint(requests):
            lives = [read_live(root, request.name) for request in requests]
    with ExitStack() as opened:
        outcomes = _planned(requests, lives, options.maps, opened)
        return [
            outcome if isinstance(outcome, LoadReport) else outcome.planned()
            for outcome in outcomes
        ]


def _planned(
    requests: Sequence[LoadRequest],
    lives: Sequence[LiveState],
    maps: Mapping[str, Given],
    opened: ExitStack,
) -> list[Verified | LoadReport]:
    """Plan each set from its live state, and load the programs of those that change.

    A set without changes has its report already. *maps* come from outside of the sets; *opened*
    closes all that is opened for the plans. Nothing that others see changes yet.
    """
    outcomes: list[Verified | LoadReport] = []
    made: dict[Path, Map] = {}  # new maps of earlier sets of this load, by the name they share
    for number, live in enumerate(lives):
        # A map that only sets of this command use may be replaced under its shared name, since all
        # of them change together.
        others = [state.loaded for state in (*lives[:number], *lives[number + 1 :])]
        beside = tuple(other for other in others if other is not None)
        request = dataclasses.replace(requests[number], beside=beside)
        request = opened.enter_context(_with_shared_maps(request, maps, made))
        plan = opened.enter_context(make_plan(request, live))
        if plan.is_unchanged:
            outcomes.append(unchanged(request, plan))
            continue

        # Only loads that change something pay for these imports.
        from bpfpin.sets.guard import require_way_back_after_load  # noqa: PLC0415
        from bpfpin.sets.load.publish import Verified  # noqa: PLC0415

        # Before the programs are loaded for good: the check runs copies of them, and a refusal
        # leaves nothing to undo.
        notes = require_way_back_after_load(request, plan)
        verified = opened.enter_context(Verified(request, plan, notes=notes))
        outcomes.append(verified)
        # The next set of this command must use the same new map: two sets that each make one would
        # not share it.
        made |= verified.made()
    return outcomes


def _published(outcomes: Sequence[Verified | LoadReport], root: Directory) -> list[LoadReport]:
    """Publish the sets that change, all or none, and return the reports of all sets."""
    changing = [outcome for outcome in outcomes if not isinstance(outcome, LoadReport)]
    if not changing:
        return [outcome for outcome in outcomes if isinstance(outcome, LoadReport)]
    from bpfpin.sets.load.publish import publish  # noqa: PLC0415 - see above

    published = iter(publish(changing, root))
    return [outcome if isinstance(outcome, LoadReport) else next(published) for outcome in outcomes]


@contextmanager
def _with_shared_maps(
    request: LoadRequest, maps: Mapping[str, Given], made: Mapping[Path, Map]
) -> Iterator[LoadRequest]:
    """Open the maps from outside of the set for the time of the load."""
    shared = open_shared(request.spec, maps, pin_root=request.path.parent)
    shared = {name: shared_map.use(made) for name, shared_map in shared.items()}
    complete = dataclasses.replace(request, shared=shared)
    try:
        check_fresh(complete.spec, complete.fresh, shared)
        yield complete
    finally:
        complete.close()


@contextmanager
def _kernel_first(root: Directory) -> Iterator[None]:
    """Refuse an old kernel by what every load needs, and not by what a program of this one needs.

    Only a load that fails pays for asking: others ask when they make the stage.
    """
    try:
        yield
    except (NotSupportedError, VerifierError):
        from bpfpin.pins.transaction import require_exchange  # noqa: PLC0415 - for failures

        require_exchange(root)
        raise


@contextmanager
def _none_changed_hint(root: Directory, requests: Sequence[LoadRequest]) -> Iterator[None]:
    """Add to the refusal of one of several sets that the others were not changed either."""
    try:
        yield
    except BpfError as error:
        shown = ", ".join(request.shown_name for request in requests)
        # A stage that is left means that the roll-back failed as well. Then the hint would be
        # false.
        if len(requests) > 1 and not any(is_half_done(root, each.name) for each in requests):
            stays = f"all or none: nothing was changed in {shown}"
            error.fix = error.fix.joined(stays, separator="\n      ")
        raise


@contextmanager
def _other_name_hint(requests: Sequence[LoadRequest]) -> Iterator[None]:
    """Add to the refusal of a directory of others that the set may have another name."""
    try:
        yield
    except UnsafePathError as error:
        if [str(request.path) for request in requests] == [error.path]:
            name = Argument("name", Placeholder("NAME"))
            error.fix = error.fix.joined("; or choose another name for the set: ", name)
        raise


def require_devices(devices: Sequence[str], *, netns: str | None = None) -> None:
    """Raise `InterfaceNotFoundError` unless all of *devices* exist; nothing is changed."""
    with namespaces.enter(netns):
        for device in devices:
            interface.ifindex(device)
