"""The sets that a state asks for: each `[[set]]` on each of its devices, and their options."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Final

from bpfpin.attach import interface
from bpfpin.choices import similar
from bpfpin.errors import (
    BpfError,
    CgroupNotFoundError,
    InterfaceNotFoundError,
    NamespaceNotFoundError,
    ObjectFileError,
    UsageError,
)
from bpfpin.map.open import is_map_name, path_of
from bpfpin.pins import names
from bpfpin.pins.manifest import APPLY, AttachPoint
from bpfpin.records import dataclass
from bpfpin.sets.apply.contents import entries_for, slots_for
from bpfpin.sets.apply.model import DesiredState, WantedMap, WantedSet
from bpfpin.sets.choose import choose, parse_hook, read_for_hooks
from bpfpin.sets.device_pattern import devices_of
from bpfpin.sets.place import target_kinds, usual_name
from bpfpin.sets.request import LoadOptions, SetTarget, place_of
from bpfpin.spec import Hook, ObjectSpec
from bpfpin.syscall import netns as namespaces

_PAUSE_S: Final = 0.05
_WAITED_FOR: Final = (InterfaceNotFoundError, CgroupNotFoundError, NamespaceNotFoundError)


@dataclass(frozen=True)
class Target:
    """One set: a `[[set]]` on one device, or on its cgroup or neither.

    *name* is the directory of the set unless the place has a set of another name already.
    """

    wanted: WantedSet
    device: str | None
    place: AttachPoint
    name: str

    @property
    def title(self) -> str:
        """The set as messages name it."""
        return names.display_name(self.name)

    @property
    def set_target(self) -> SetTarget:
        """The device and the cgroup, as a load takes them."""
        return self.device, self.wanted.cgroup


@dataclass(frozen=True)
class Missing:
    """A `[[set]]` whose device, cgroup or namespace is not there, or that cannot be looked for."""

    wanted: WantedSet
    title: str
    error: BpfError


def find_targets(state: DesiredState, *, wait_s: float) -> tuple[list[Target], list[Missing]]:
    """Return the sets of a state, and those without a place; wait up to *wait_s* seconds for these.

    An optional set whose place is not there is left out. Raises `UsageError` for two sets at one
    place without different names.
    """
    deadline = time.monotonic() + wait_s
    while True:
        targets: list[Target] = []
        missing: list[Missing] = []
        for wanted in state.sets:
            for found in _targets(wanted):
                (targets if isinstance(found, Target) else missing).append(found)  # type: ignore[arg-type]
        awaited = [each for each in missing if isinstance(each.error, _WAITED_FOR)]
        if not awaited or time.monotonic() >= deadline:
            _require_different(targets)
            is_left_out = [each.wanted.is_optional and each in awaited for each in missing]
            return targets, [
                each for each, left_out in zip(missing, is_left_out, strict=True) if not left_out
            ]
        time.sleep(_PAUSE_S)


def _targets(wanted: WantedSet) -> Iterator[Target | Missing]:
    try:
        with namespaces.enter(wanted.netns):
            if not wanted.devices:
                yield _target(wanted, None)
                return
            found = 0
            for pattern in wanted.devices:
                # A name may also be an alternative one of the device, which no listing has.
                for device in [pattern.text] if pattern.is_name else devices_of([pattern]):
                    found += 1
                    try:
                        yield _target(wanted, device)
                    except _WAITED_FOR as error:
                        yield Missing(wanted, device, error)
            if not found:
                raise _nothing_matches(wanted)
    except BpfError as error:
        yield Missing(wanted, wanted.title, error)


def _nothing_matches(wanted: WantedSet) -> InterfaceNotFoundError:
    patterns = " or ".join(map(str, wanted.devices))
    known = ", ".join(interface.names().values()) or "none"
    return InterfaceNotFoundError(
        f"no network device matches {patterns} in this network namespace; there are: {known}",
        hint="if that is no fault: optional = true",
    )


def _target(wanted: WantedSet, device: str | None) -> Target:
    place = place_of(device, wanted.cgroup, netns=wanted.netns)
    name = names.encode(wanted.name) if wanted.name else usual_name(place, wanted.object)
    return Target(wanted, device, place, name)


def _require_different(targets: Sequence[Target]) -> None:
    """Raise `UsageError` for two sets of one name, or at one place if one of them has no name."""
    by_name: dict[str, Target] = {}
    by_place: dict[tuple[object, ...], Target] = {}
    for target in targets:
        place = target.place
        where = (place.netns_inode, place.ifindex, "" if place.ifindex else place.cgroup)
        other = by_name.setdefault(target.name, target)
        if place.ifindex or place.cgroup:
            at_place = by_place.setdefault(where, target)
            # A load without a name changes the set that its place has already, whatever its name.
            if at_place is not target and not (at_place.wanted.name and target.wanted.name):
                other = at_place
        if other is not target:
            raise UsageError(
                f"{target.wanted.place}: set {target.title}: {other.wanted.place} asks for the same"
                f" set, or for one at the same place ({target.device or target.wanted.cgroup})",
                hint='give each of them a name: name = "…"; nothing was changed',
            )


def require_free_hooks(hooks: Iterable[tuple[Target, Iterable[Hook]]]) -> None:
    """Raise `UsageError` for two sets at one hook that runs one program only."""
    holders: dict[tuple[object, ...], Target] = {}
    for target, chosen in hooks:
        for hook in chosen:
            if not hook.traits.runs_one or hook.traits.target.is_named:
                continue
            where = (target.place.netns_inode, target.place.ifindex, target.place.cgroup, hook)
            other = holders.setdefault(where, target)
            if other is not target:
                raise UsageError(
                    f"{target.wanted.place}: set {target.title}: {other.wanted.place} has the set"
                    f" {other.title} at the same hook, {hook.value} of"
                    f" {target.device or target.wanted.cgroup}, which runs one program only",
                    hint="nothing was changed",
                )


def in_order(targets: Sequence[Target], *, pin_root: Path) -> list[Target]:
    """Return the targets with each set behind those whose maps it uses; `UsageError` for a ring."""
    by_name = {target.name: target for target in targets}
    needs = {target.name: sets_used(target, by_name, pin_root=pin_root) for target in targets}
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        ring = [by_name[name] for name in error.args[1]]
        shown = " -> ".join(target.title for target in ring)
        raise UsageError(
            f"{ring[0].wanted.place}: set {ring[0].title}: sets use maps of each other: {shown}",
            hint="nothing was changed",
        ) from None
    # As the files have them, as far as that may be: the order of programs at a tcx hook is that of
    # their loads.
    done: dict[str, Target] = {}
    waiting = sorted(needs, key=[target.name for target in targets].index)
    assert set(order) == set(waiting)
    while waiting:
        ready = next(name for name in waiting if needs[name] <= done.keys())
        done[ready] = by_name[ready]
        waiting.remove(ready)
    return list(done.values())


def sets_used(target: Target, known: Iterable[str], *, pin_root: Path) -> set[str]:
    """Return which of the *known* sets have a map that *target* uses."""
    used = set()
    for wanted in target.wanted.maps.values():
        if wanted.use is not None:
            path = _path_used(wanted.use, known, pin_root=pin_root)
            if isinstance(path, Path) and path.parent.parent == pin_root:
                used.add(path.parent.name)
    return used & set(known) - {target.name}


def _path_used(word: str, known: Iterable[str], *, pin_root: Path) -> Path | str:
    """Return the path of a map that a set uses; `id:N` and `name:NAME` stay as they are.

    SET/MAP is a map of a set of the state, also of one that is not loaded yet.
    """
    if not is_map_name(word):
        title, _, name = word.rpartition("/")
        for directory in known:
            if name and title in (directory, names.display_name(directory)):
                return pin_root / directory / names.map_pin_name(name)
    path = path_of(word, pin_root)
    return Path(path) if path.startswith("/") else path


def options_for(
    target: Target,
    *,
    known: Iterable[str],
    pin_root: Path,
    dry_run: bool,
    replace: bool,
    **more: Any,
) -> LoadOptions:
    """Return the options of the load of *target*; *more* are those of all loads of this command."""
    wanted = target.wanted
    options: dict[str, Any] = {
        **_DEFAULTS,
        **wanted.options,
        **more,
        "name": wanted.name,
        "netns": wanted.netns,
        "pin_root": pin_root,
        "maps": {
            name: _path_used(each.use, known, pin_root=pin_root)
            for name, each in wanted.maps.items()
            if each.use is not None
        },
        "pinning": {
            name: each.pinning for name, each in wanted.maps.items() if each.pinning is not None
        },
        "variables": variables_for(wanted),
        "migrate": wanted.migrate,
        "replace": wanted.replace or replace,
        "dry_run": dry_run,
        "origin": APPLY,
    }
    return LoadOptions.parse(**options)


def variables_for(wanted: WantedSet) -> dict[str, Any]:
    """Return the first values of variables, as `deploy` takes them."""
    return dict(wanted.variables)


_DEFAULTS: Final[Mapping[str, Any]] = {
    "programs": (),
    "hook": None,
    "program_type": None,
    "mode": "auto",
    "order": None,
    "fresh": (),
    "stub": True,
    "take_over": False,
    "group": None,
    "chmod": None,
    "confirm_s": None,
    "force": False,
    "max_map_memory": None,
    "kernel_btf": None,
}


def read_spec(wanted: WantedSet) -> ObjectSpec:
    """Read the object of a `[[set]]`; `ObjectFileError` if it has another hash than is wanted."""
    hook = wanted.options.get("hook")
    spec = read_for_hooks(
        wanted.object,
        words=wanted.options.get("programs", ()),
        hook=parse_hook(hook) if hook else None,
        program_type=wanted.options.get("program_type"),
        kernel_btf=wanted.options.get("kernel_btf"),
    )
    if wanted.sha256 and spec.sha256 != wanted.sha256:
        raise ObjectFileError(
            f"it is not the object that is asked for: its SHA-256 is {spec.sha256}, and the state"
            f" has {wanted.sha256}",
            path=wanted.object,
            hint=f'bring the right file back, or mean this one: sha256 = "{spec.sha256}"',
        )
    return spec


def with_wanted_maps(spec: ObjectSpec, target: Target) -> ObjectSpec:
    """Return *spec* with the sizes and the entries that the state gives its maps.

    The current namespace is that of the target: a name of a device in an entry is looked up there.
    """
    for name, wanted in target.wanted.maps.items():
        if name not in spec.maps:
            near = similar(name, spec.maps)
            raise UsageError(
                f"{wanted.place}: the object has no map {name}; it has:"
                f" {', '.join(spec.maps) or 'none'}",
                hint=f"did you mean {' or '.join(near)}?" if near else "",
            )
        if wanted.max_entries is not None:
            spec = spec.with_map(name, max_entries=wanted.max_entries)
        spec = _with_contents(spec, wanted)
    return spec


def _with_contents(spec: ObjectSpec, wanted: WantedMap) -> ObjectSpec:
    if wanted.contents is not None:
        return spec.with_map(wanted.name, entries=entries_for(spec, wanted))
    if wanted.slots:
        return spec.with_map(wanted.name, slots=slots_for(spec, wanted))
    return spec


def hooks_of(spec: ObjectSpec, target: Target) -> list[Hook]:
    """Return the hooks that the programs of the set go to."""
    hook = target.wanted.options.get("hook")
    choices = choose(
        spec,
        words=target.wanted.options.get("programs", ()),
        hook=parse_hook(hook) if hook else None,
        targets=target_kinds(target.place),
    )
    return [choice.hook for choice in choices]
