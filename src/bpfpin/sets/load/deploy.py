"""Load an object, attach it and pin it as one set: what `bpfpin load` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar, Unpack

from bpfpin.attach import interface
from bpfpin.codecs.variable import VariableSpec
from bpfpin.errors import BpfError, BusyError, UsageError
from bpfpin.objects.kernel.object import KernelObject
from bpfpin.objects.load.collection import map_memory_limit
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.struct_ops import without_unusable
from bpfpin.objects.maps.variables import Variables
from bpfpin.objects.programs.program import Program
from bpfpin.pins import bpffs, names
from bpfpin.pins.bpffs import BPFFS, RootState
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import locked
from bpfpin.pins.manifest import Place
from bpfpin.pins.pinset import PinSet
from bpfpin.pins.plan import Decision
from bpfpin.pins.recover import Recovery, check_stage, is_half_done
from bpfpin.sets.choose import Choice, Places, Source, check_order, choose, read_for_hooks
from bpfpin.sets.find import require_attach
from bpfpin.sets.given_maps import Given, open_shared, with_pinnings
from bpfpin.sets.guard import require_way_back_after_load
from bpfpin.sets.live import read_own, recovered
from bpfpin.sets.load.plan import make_plan
from bpfpin.sets.load.publish import Verified, publish
from bpfpin.sets.load.report import unchanged
from bpfpin.sets.reports import LoadReport, UnloadReport
from bpfpin.sets.request import (
    Loading,
    LoadOptions,
    access_of,
    check_fresh,
    migration_of,
    place_of,
    set_name_for,
    taken,
)
from bpfpin.sets.trial import settle_set
from bpfpin.sets.undeploy import undeploy
from bpfpin.sets.variables import with_variables
from bpfpin.spec import ObjectSpec, XdpMode
from bpfpin.syscall import netns as namespaces
from bpfpin.syscall.fd import Closing

T = TypeVar("T", bound=KernelObject)
_Target = tuple[str | None, str | Path | None]


# What `deploy` gives back: the report, and the set's maps to work with.


class Pinned(Mapping[str, T], Closing):
    """Maps or programs by name, each opened from its pin when it is first asked for."""

    def __init__(self, kind: type[T], paths: Mapping[str, Path]) -> None:
        self._kind = kind
        self._paths = dict(paths)
        self._opened: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._opened:
            self._opened[name] = self._kind.from_pin(self._paths[name])
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __repr__(self) -> str:
        return f"<{self._kind.__name__}s by name: {', '.join(self._paths) or 'none'}>"

    def close(self) -> None:
        """Close what was opened; the pins stay."""
        while self._opened:
            self._opened.popitem()[1].close()


class Deployment(Closing):
    """A loaded set: `report` says what was done; `maps` and `programs` are opened on demand.

    `variables` are the object's global variables, in the memory of those maps.

    Closing it, at best by `with`, lets go of these and leaves the set loaded; `undeploy` takes the
    set away.
    """

    def __init__(self, report: LoadReport, *, variables: Sequence[VariableSpec] = ()) -> None:
        self.report = report
        maps, programs = _pins(report)
        self._maps: Pinned[Map] = Pinned(Map, maps)
        self._programs: Pinned[Program] = Pinned(Program, programs)
        self._variables = Variables(variables, self._maps)

    @property
    def name(self) -> str:
        """The set's name, as it is typed."""
        return self.report.set

    @property
    def maps(self) -> Mapping[str, Map]:
        """The set's maps by their full name."""
        return self._maps

    @property
    def programs(self) -> Mapping[str, Program]:
        """The set's programs by name."""
        return self._programs

    @property
    def variables(self) -> Variables:
        """The global variables by name: `deployment.variables["threshold"].value = 5`."""
        return self._variables

    def undeploy(self, *, keep_maps: bool = False, lock_timeout_s: float = 10.0) -> UnloadReport:
        """Detach and unpin the set, as `bpfpin.undeploy` does; closes what was opened of it.

        Raises `UsageError` for a dry run, which loaded nothing, and `PinNotFoundError` if the set
        is gone already.
        """
        if self.report.is_planned:
            raise UsageError(f"{self.name} was planned, not loaded: there is nothing to unload")
        self.close()
        return undeploy(
            self.name,
            pin_root=self.report.path.parent,
            keep_maps=keep_maps,
            lock_timeout_s=lock_timeout_s,
        )

    def close(self) -> None:
        """Close the maps and programs that were opened."""
        self._variables.close()
        self._maps.close()
        self._programs.close()

    def __repr__(self) -> str:
        places = [
            f"{each.name} at {each.hook} of {each.device or each.cgroup}"
            for each in self.report.programs
            if each.hook
        ]
        maps = [each.name for each in self.report.maps if each.decision is not Decision.REMOVED]
        return (
            f"<Deployment {self.name}: {self.report.result.value}, generation"
            f" {self.report.generation}; {', '.join(places) or 'nothing attached'};"
            f" maps {', '.join(maps) or 'none'}>"
        )


def _pins(report: LoadReport) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return where the maps and the programs of a loaded set are pinned, of a planned one none."""
    if report.is_planned:
        return {}, {}
    maps = {one.name: one.path for one in report.maps if one.decision is not Decision.REMOVED}
    folder = report.path / names.PROGRAMS
    return maps, {one.name: folder / names.program_pin_name(one.name) for one in report.programs}


"""A device, a cgroup, or both, which one set is for."""


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
    `PrivateMountError` (the pins would end with this mount namespace),
    `LockTimeoutError` and `NotSupportedError`.
    """
    (deployment,) = _deploy(source, [(device, cgroup)], options)
    return deployment


def deploy_all(
    source: Source,
    *,
    devices: Sequence[str] = (),
    cgroups: Sequence[str | Path] = (),
    **options: Unpack[LoadOptions],
) -> list[Deployment]:
    """Load *source* on each of *devices* or each of *cgroups*, as one set each: all or none.

    One transaction covers all sets: if any of them is refused, or a hook cannot be switched, all
    stay as they were, and after a kill at any moment the next command finishes all or undoes all.
    A device that is named twice counts once. *options* are those of `deploy` and hold for every
    set, so that *name* goes with one device only; all sets are below one *pin_root* and in one
    *netns*. Returns a `Deployment` for each set, in order.

    Raises what `deploy` does, and `UsageError` for both devices and cgroups, unless it is one each.
    """
    if devices and cgroups and len(devices) + len(cgroups) > 2:
        raise UsageError(
            "several devices and cgroups: which of them belong to one set is not known",
            hint="one load for each set, or only devices, or only cgroups",
        )
    targets: list[_Target] = [(device, None) for device in dict.fromkeys(devices)]
    targets = targets or [(None, cgroup) for cgroup in dict.fromkeys(cgroups)]
    if devices and cgroups:
        targets = [(devices[0], cgroups[0])]
    return _deploy(source, targets or [(None, None)], options)


def _deploy(source: Source, targets: list[_Target], typed: LoadOptions) -> list[Deployment]:
    options = taken(typed)
    if options.get("name") and len(targets) > 1:
        raise UsageError(
            "a name is for one set, and several devices or cgroups make several sets",
            hint="one load for each of them",
        )
    if not options.get("private_mount", False):
        bpffs.require_lasting(options.get("pin_root", BPFFS))
    spec = read_for_hooks(
        source,
        words=options.get("programs", ()),
        hook=options.get("hook"),
        program_type=options.get("program_type"),
        kernel_btf=options.get("kernel_btf"),
    )
    given = options.get("maps", {})
    with namespaces.enter(options.get("netns")):
        requests = _requests(spec, targets, options)
        shown = ", ".join(str(device or cgroup) for device, cgroup in targets)
        require_attach(f"loading a program on {shown}")
        if options.get("dry_run"):
            reports = _planned(requests, given)
        else:
            reports = _done(requests, given, options.get("lock_timeout_s", 10.0))
        return [Deployment(report, variables=spec.all_variables) for report in reports]


def _requests(
    spec: ObjectSpec, targets: list[_Target], options: Mapping[str, Any]
) -> list[Loading]:
    """Return what is asked for, a set each; a device under two names is one."""
    requests: dict[Path, Loading] = {}
    for device, cgroup in targets:
        place = place_of(device, cgroup, netns=options.get("netns"))
        places = Places(bool(place.device), bool(place.cgroup))
        words, hook = options.get("programs", ()), options.get("hook")
        chosen = tuple(choose(spec, words=words, hook=hook, places=places))
        request = _request(spec, chosen, place, options)
        other = requests.setdefault(request.path, request).place
        if (other.ifindex, other.cgroup) != (place.ifindex, place.cgroup):
            where = [one.device or f"cgroup {one.cgroup}" for one in (other, place)]
            raise BusyError(
                f"{' and '.join(where)} have one set between them, {request.shown_name}",
                holder=request.shown_name,
                hint="load them one after the other, each with --name NAME",
            )
    return list(requests.values())


def require_devices(devices: Sequence[str], *, netns: str | None = None) -> None:
    """Raise `InterfaceNotFoundError` unless all of *devices* are there; nothing is changed."""
    with namespaces.enter(netns):
        for device in devices:
            interface.ifindex(device)


def _request(
    spec: ObjectSpec, chosen: tuple[Choice, ...], place: Place, options: Mapping[str, Any]
) -> Loading:
    name, pin_root = options.get("name"), options.get("pin_root", BPFFS)
    spec = without_unusable(spec)
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
        options.get("max_map_memory") or map_memory_limit(),
        fresh=frozenset(options.get("fresh", ())),
        migration=migration_of(options.get("migrate", False)),
        settings=settings,
        replaces=options.get("replace", False),
        takes_over=options.get("take_over", False),
        order=options.get("order"),
        confirm_s=options.get("confirm_s"),
        is_forced=options.get("force", False),
        access=access_of(options.get("group"), options.get("chmod")),
        is_dry_run=options.get("dry_run", False),
        is_chosen=bool(options.get("programs") or options.get("hook")),
    )


def _planned(requests: Sequence[Loading], given: Mapping[str, Given]) -> list[LoadReport]:
    """Look, load and let go again; no lock is taken, since nothing is changed."""
    root = requests[0].path.parent
    is_mounted = bpffs.inspect(root) is not RootState.ABSENT
    if is_mounted:
        bpffs.require(root)
        with Directory.open(root) as directory:
            for request in requests:
                check_stage(directory, request.name)
    lives = [read_own(root, request.name) if is_mounted else None for request in requests]
    with ExitStack() as opened:
        prepared = _prepared(requests, lives, given, opened)
        return [_planned_report(one) for one in prepared]


def _planned_report(prepared: Verified | LoadReport) -> LoadReport:
    return prepared if isinstance(prepared, LoadReport) else prepared.planned()


def _done(
    requests: Sequence[Loading], given: Mapping[str, Given], lock_timeout_s: float
) -> list[LoadReport]:
    pin_root = requests[0].path.parent
    bpffs.ensure(pin_root)
    with (
        bpffs.open_to_change(pin_root) as root,
        locked(root, timeout_s=lock_timeout_s),
        _told_what_stays(root, requests),
        ExitStack() as opened,
    ):
        notes = [_settled(root, request) for request in requests]
        lives = [read_own(pin_root, request.name) for request in requests]
        prepared = _prepared(requests, lives, given, opened)
        changing = [one for one in prepared if isinstance(one, Verified)]
        published = iter(publish(changing, root) if changing else ())
        reports = [one if isinstance(one, LoadReport) else next(published) for one in prepared]
        return [one.with_notes(note) for one, note in zip(reports, notes, strict=True)]


def _settled(root: Directory, request: Loading) -> tuple[str, ...]:
    """Finish or undo what was left of the set, and return what is to be told of it."""
    recovery = recovered(root, request.name)
    notes: tuple[str, ...] = () if recovery is Recovery.NOTHING else (recovery.value,)
    return notes + settle_set(root, request.name)


@contextmanager
def _told_what_stays(root: Directory, requests: Sequence[Loading]) -> Iterator[None]:
    """Add to the refusal of one of several sets that the others were not changed either."""
    try:
        yield
    except BpfError as error:
        shown = ", ".join(request.shown_name for request in requests)
        if len(requests) > 1 and not any(is_half_done(root, one.name) for one in requests):
            stays = f"all or none: nothing was changed in {shown}"
            error.hint = f"{error.hint}\n      {stays}" if error.hint else stays
        raise


def _prepared(
    requests: Sequence[Loading],
    lives: Sequence[PinSet | None],
    given: Mapping[str, Given],
    opened: ExitStack,
) -> list[Verified | LoadReport]:
    """Plan all loads and have the kernel verify their programs; nothing is changed yet.

    What a set does not need to change comes back as its report. *opened* closes all of it.
    """
    prepared: list[Verified | LoadReport] = []
    made: dict[Path, Map] = {}  # under the names that are to be shared
    for number, (request, live) in enumerate(zip(requests, lives, strict=True)):
        others = (one for place, one in enumerate(lives) if one is not None and place != number)
        beside = dataclasses.replace(request, beside=tuple(others))
        loading = opened.enter_context(_shared(beside, given, made))
        plan = opened.enter_context(make_plan(loading, live))
        if plan.is_unchanged:
            prepared.append(unchanged(loading, plan))
            continue
        untried = require_way_back_after_load(loading, plan)
        verified = opened.enter_context(Verified(loading, plan, notes=untried))
        prepared.append(verified)
        made |= verified.made()
    return prepared


@contextmanager
def _shared(
    request: Loading, given: Mapping[str, Given], made: Mapping[Path, Map]
) -> Iterator[Loading]:
    """Open the maps from outside of the set for as long as the load takes."""
    shared = open_shared(request.spec, given, pin_root=request.path.parent)
    shared = {name: one.use(made) for name, one in shared.items()}
    loading = dataclasses.replace(request, shared=shared)
    try:
        check_fresh(loading.spec, loading.fresh, shared)
        yield loading
    finally:
        loading.close()
