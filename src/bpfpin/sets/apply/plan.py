"""The plan of `apply`: what is loaded against what is wanted, set by set, before any change.

What a load would do is what a dry run of it says; this adds what differs, by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bpfpin.errors import BpfError, PinNotFoundError
from bpfpin.hints import Argument, Fix, shell_line
from bpfpin.hooks import Hook
from bpfpin.loading.entries import put_inner_map
from bpfpin.objects.maps.contents import ContentsChange, change_to
from bpfpin.objects.maps.map import Map
from bpfpin.pins import bpffs, names
from bpfpin.pins.bpffs import RootState
from bpfpin.pins.manifest import APPLY, Access
from bpfpin.pins.pinset import LoadedSet, PinSet, SetState, loaded_sets, lost_pins
from bpfpin.pins.plan import Decision
from bpfpin.records import dataclass
from bpfpin.sets.apply import targets as target_code
from bpfpin.sets.apply.contents import key_text, snapshot_entries
from bpfpin.sets.apply.model import DesiredState, Place
from bpfpin.sets.apply.reports import SetAction, SetOutcome, StateChange
from bpfpin.sets.apply.state import setting_value
from bpfpin.sets.apply.targets import Target
from bpfpin.sets.load.deploy import deploy_targets
from bpfpin.sets.place import name_of
from bpfpin.sets.reports import LoadReport, LoadResult
from bpfpin.sets.variables import with_variables
from bpfpin.spec import MapSpec, ObjectSpec
from bpfpin.syscall import netns as namespaces

if TYPE_CHECKING:
    from bpfpin.sets.guard import MapGuard

_SHOWN_DIGITS: Final = 12  # of a SHA-256
_KEPT: Final = (Decision.KEPT, Decision.SHARED, None)


@dataclass(frozen=True)
class PlannedSet:
    """One set of the plan: what is to be done, and with what.

    *target* and *spec* are None where nothing can be done. *waits_for* are sets that are loaded
    before, whose maps it uses: it could not be verified without them. *slots* are the inner maps
    that differ from what is wanted, by map and key. *directory* is that of a set to be unloaded.
    """

    outcome: SetOutcome
    target: Target | None = None
    spec: ObjectSpec | None = None
    slots: Mapping[tuple[str, bytes], MapSpec] = field(default_factory=dict)
    waits_for: frozenset[str] = frozenset()
    directory: str = ""


@dataclass(frozen=True)
class Planner:
    """Plans the sets of a state; *options* are those of all loads of the command."""

    pin_root: Path
    options: Mapping[str, Any]

    def plan(self, state: DesiredState, *, wait_s: float) -> list[PlannedSet]:
        """Return the plan of every set, in the order in which they are to be handled.

        Nothing is changed. Raises `UsageError` if the state contradicts itself; what is wrong with
        one set alone is in its outcome.
        """
        targets, missing = target_code.find_targets(state, wait_s=wait_s)
        ordered = target_code.in_order(targets, pin_root=self.pin_root)
        planned = [_failed(each.wanted.place, each.title, each.error) for each in missing]
        specs = {target.name: self._spec(target) for target in ordered}
        target_code.require_free_hooks(
            (target, _hooks(spec, target))
            for target in ordered
            if isinstance(spec := specs[target.name], ObjectSpec)
        )
        changing: set[str] = set()
        for target in ordered:
            spec = specs[target.name]
            if isinstance(spec, BpfError):
                each = _failed(target.wanted.place, target.title, spec)
            else:
                each = self._planned(target, spec, [each.name for each in ordered], changing)
            if each.outcome.action is not SetAction.UNCHANGED:
                changing.add(target.name)
            planned.append(each)
        return planned

    def _spec(self, target: Target) -> ObjectSpec | BpfError:
        try:
            spec = target_code.read_spec(target.wanted)
            with namespaces.enter(target.wanted.netns):
                return target_code.with_wanted_maps(spec, target)
        except BpfError as error:
            return error

    def _planned(
        self, target: Target, spec: ObjectSpec, known: Sequence[str], changing: Collection[str]
    ) -> PlannedSet:
        try:
            report = self.load(target, spec, known, dry_run=True)
        except PinNotFoundError as error:
            used = target_code.sets_used(target, known, pin_root=self.pin_root)
            if waits_for := frozenset(used & set(changing)):
                return _waiting(target, spec, waits_for)
            return _failed(target.wanted.place, target.title, error)
        except BpfError as error:
            return _failed(target.wanted.place, target.title, error)
        live = self._live(report.path.name)
        slots = _slots_to_fill(spec, live, report)
        changes = tuple(_changes(target, spec, report, live))
        slot_changes = tuple(_slot_changes(spec, slots))
        action = _action(target, report, live)
        if live is not None and live.state is SetState.HALF_BUILT:
            # A load that changes nothing completes what an interrupted command left.
            changes = (StateChange("set", live.reason, "completed"), *changes)
            action = SetAction.RECOVER if action is SetAction.UNCHANGED else action
        if action is SetAction.UNCHANGED and slots:
            action = SetAction.FILL
        outcome = SetOutcome(
            names.display_name(report.path.name),
            action,
            str(target.wanted.place),
            () if action is SetAction.UNCHANGED else (*changes, *slot_changes),
            report.notes,
            report,
        )
        spec = _with_snapshots(spec, target, report)
        changed = {key: inner for key, (inner, _) in slots.items()}
        return PlannedSet(outcome, target, spec, changed)

    def load(
        self, target: Target, spec: ObjectSpec, known: Iterable[str], *, dry_run: bool
    ) -> LoadReport:
        """Load a set, or plan its load."""
        # A set that apply made is what the files say: another object or device replaces it.
        live = self._live(target.name)
        is_own = live is not None and live.manifest.origin == APPLY
        options = target_code.options_for(
            target,
            known=known,
            pin_root=self.pin_root,
            dry_run=dry_run,
            replace=is_own,
            **self.options,
        )
        (deployment,) = deploy_targets(spec, [target.set_target], options)
        return deployment.report

    def _live(self, name: str) -> LoadedSet | None:
        if bpffs.inspect(self.pin_root) is RootState.ABSENT:
            return None
        with suppress(PinNotFoundError):
            pin_set = PinSet.read(self.pin_root, name)
            return pin_set if isinstance(pin_set, LoadedSet) else None
        return None

    def surplus(self, planned: Iterable[PlannedSet]) -> list[PlannedSet]:
        """Return a plan to unload the sets that an earlier apply made and no file asks for."""
        wanted = {each.outcome.path.name for each in planned if each.outcome.path is not None}
        wanted |= {each.target.name for each in planned if each.target is not None}
        return [
            PlannedSet(
                SetOutcome(
                    names.display_name(pin_set.name),
                    SetAction.UNLOAD,
                    changes=(StateChange("set", f"{name_of(pin_set.manifest.place)}", "unloaded"),),
                ),
                directory=pin_set.name,
            )
            for pin_set in loaded_sets(self.pin_root)
            if pin_set.manifest.origin == APPLY and pin_set.is_own and pin_set.name not in wanted
        ]


def fill_slots(path: Path, slots: Mapping[tuple[str, bytes], MapSpec], guard: MapGuard) -> None:
    """Put new inner maps into the slots of the maps of a set; each slot changes at once.

    *guard* refuses a change that would cut the user's own connection.
    """
    pin_set = PinSet.read(path.parent, path.name)
    for (name, key), inner in slots.items():
        with _opened(pin_set, name) as outer:
            # A load in between may have made the map of maps anew, with these inner maps.
            if _slot_change(outer, key, inner):
                what = f"filling slot {key.hex()} of map {name}"
                guard.require_way_back(outer, what, partial(put_inner_map, key=key, spec=inner))
                put_inner_map(outer, key, inner)


def located(error: BpfError, place: Place, title: str) -> BpfError:
    """Return the error with file, line and set before its message, and its hint in TOML."""
    if not error.message.startswith(f"{place.file}:"):
        error.message = f"{place}: set {title}: {error.message}"
    error.fix = Fix((error.fix.text(toml_words, between=", "),))
    return error


def toml_words(argument: Argument) -> str:
    """Return an argument of `deploy` as the key of a `[[set]]` that stands for it."""
    name, value = argument.name, argument.value
    if name == "fresh":
        words = (
            [value]
            if isinstance(value, str)
            else list(value)
            if isinstance(value, list | tuple)
            else []
        )
        return " ".join(shell_line("bpfpin load … --fresh", word) for word in words) or "--fresh"
    if name == "maps" and isinstance(value, Mapping):
        return ", ".join(f'[set.maps.{key}] use = "{path}"' for key, path in value.items())
    if name == "pinning" and isinstance(value, Mapping):
        return ", ".join(f'[set.maps.{key}] pinning = "{word}"' for key, word in value.items())
    if value is None:
        return name
    return f"{name} = {_toml(value)}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(each)}' for key, each in value.items())} }}"
    if isinstance(value, int | float):
        return str(value)
    if dataclasses.is_dataclass(value):
        settings = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        given = {name: setting for name, setting in settings.items() if setting}
        return _toml(given) if given else "true"
    return f'"{getattr(value, "value", value)}"'


def _failed(place: Place, title: str, error: BpfError) -> PlannedSet:
    error = located(error, place, title)
    return PlannedSet(SetOutcome(title, SetAction.FAIL, str(place), error=error))


def _waiting(target: Target, spec: ObjectSpec, waits_for: frozenset[str]) -> PlannedSet:
    shown = ", ".join(map(names.display_name, sorted(waits_for)))
    outcome = SetOutcome(
        target.title,
        SetAction.LOAD,
        str(target.wanted.place),
        (StateChange("object", "", _object(spec.sha256, target.wanted.object)),),
        (f"it uses maps of {shown}, and is verified once that is loaded",),
    )
    return PlannedSet(outcome, target, spec, waits_for=waits_for)


def _hooks(spec: ObjectSpec, target: Target) -> list[Hook]:
    # What is wrong with the choice of programs is an error of this set, which its plan raises.
    with suppress(BpfError):
        return target_code.hooks_of(spec, target)
    return []


def _action(target: Target, report: LoadReport, live: LoadedSet | None) -> SetAction:
    if report.result is LoadResult.UNCHANGED:
        return SetAction.UNCHANGED
    if live is None or not live.hooks:
        return SetAction.LOAD
    before, after = live.manifest.place, target.place
    is_same = (before.netns_inode, before.ifindex, before.cgroup) == (
        after.netns_inode,
        after.ifindex,
        after.cgroup,
    )
    return SetAction.RELOAD if is_same else SetAction.MOVE


def _object(sha256: str, path: str) -> str:
    return f"{path} (sha256 {sha256[:_SHOWN_DIGITS]})"


def _changes(
    target: Target, spec: ObjectSpec, report: LoadReport, live: LoadedSet | None
) -> Iterator[StateChange]:
    """Yield what differs between the live set and the wanted one, by name."""
    wanted, before = target.wanted, live.manifest if live else None
    if before is None or before.sha256 != spec.sha256:
        old = _object(before.sha256, before.object) if before else ""
        yield StateChange("object", old, _object(spec.sha256, wanted.object))
    if before is not None and _action(target, report, live) is SetAction.MOVE:
        yield StateChange("place", _place(before.place), _place(target.place))
    settings = with_variables(spec, wanted.variables)[1].words
    for name in dict.fromkeys([*(before.settings if before else ()), *settings]):
        words = [(before.settings if before else {}).get(name), settings.get(name)]
        if words[0] != words[1]:
            shown = (
                str(setting_value(spec, name, word)) if word else "the object's" for word in words
            )
            yield StateChange(f"variable {name}", *shown)
    mode = wanted.options.get("mode", "auto")
    for record in live.hooks if live else ():
        if record.asked_mode not in ("", mode):
            yield StateChange(f"mode of {record.hook}", record.asked_mode, mode)
    access = target_code.options_for(
        target, known=(), pin_root=report.path.parent, dry_run=True, replace=False, **_NO_OPTIONS
    ).access
    if access is not None and before is not None and access != before.access:
        yield StateChange("access to maps", _access(before.access), _access(access))
    yield from _map_changes(spec, report, live)
    for hook in report.hooks:
        if hook.action in ("attach", "detach"):
            where = f"hook {hook.hook} of {hook.device}"
            old, new = ("", hook.program) if hook.action == "attach" else (hook.program, "detached")
            yield StateChange(where, old, new)
    for lost in lost_pins(live) if live else ():
        yield StateChange(f"pin {lost.path}", lost.replaced_by or "removed by hand", "pinned again")


_NO_OPTIONS: Final[Mapping[str, Any]] = {"lock_timeout_s": 0.0, "private_mount": True}


def _place(place: Any) -> str:
    index = f" (ifindex {place.ifindex})" if place.ifindex else ""
    return f"{name_of(place)}{index}"


def _access(access: Access | None) -> str:
    if access is None:
        return "0600"
    group = "" if access.gid is None else f", group {access.gid}"
    return f"{access.mode:04o}{group}"


def _map_changes(
    spec: ObjectSpec, report: LoadReport, live: LoadedSet | None
) -> Iterator[StateChange]:
    for each in report.maps:
        known, wanted = live is not None and each.name in live.map_names, spec.maps.get(each.name)
        if each.decision in _KEPT or (each.decision is Decision.CREATED and known):
            continue
        what = f"map {each.name}"
        if wanted is not None and live is not None and known:
            yield from _size_change(what, wanted, live)
        if each.contents:
            yield from _contents_changes(what, wanted, each.contents)
        elif each.decision is not Decision.CREATED or live is not None:
            assert each.decision is not None
            yield StateChange(what, "", f"{each.decision.value} ({each.reason})")


def _size_change(what: str, wanted: MapSpec, live: LoadedSet) -> Iterator[StateChange]:
    with suppress(BpfError):
        bpf_map = live.open_map(wanted.name, read_only=True)
        if bpf_map is not None:
            with bpf_map:
                if bpf_map.max_entries != wanted.max_entries:
                    yield StateChange(
                        f"{what}, max_entries", str(bpf_map.max_entries), str(wanted.max_entries)
                    )


def _contents_changes(
    what: str, spec: MapSpec | None, change: ContentsChange
) -> Iterator[StateChange]:
    yield StateChange(what, "", str(change))
    if spec is None:
        return
    for word, count, keys in (
        ("added", change.added, change.added_keys),
        ("removed", change.removed, change.removed_keys),
        ("changed", change.changed, change.changed_keys),
    ):
        if keys:
            shown = ", ".join(key_text(spec, key) for key in keys)
            more = f" and {count - len(keys)} more" if count > len(keys) else ""
            yield StateChange(f"{what}, {word}", "", f"{shown}{more}")


# Slots of maps of maps that are kept: a load fills only those that it makes.


def _slots_to_fill(
    spec: ObjectSpec, live: LoadedSet | None, report: LoadReport
) -> dict[tuple[str, bytes], tuple[MapSpec, ContentsChange]]:
    """Return the inner maps that differ in the maps that the set keeps, with what changes."""
    if live is None:
        return {}
    kept = {each.name for each in report.maps if each.decision is Decision.KEPT}
    slots = {}
    for name, map_spec in spec.maps.items():
        if not map_spec.slots or name not in kept:
            continue
        with _opened(live, name) as outer:
            for key, inner in map_spec.slots:
                if change := _slot_change(outer, key, inner):
                    slots[name, key] = (inner, change)
    return slots


def _opened(pin_set: PinSet, name: str) -> Map:
    outer = pin_set.open_map(name)
    if outer is None:
        raise PinNotFoundError(f"the map {name} of {pin_set.path} is gone", path=str(pin_set.path))
    return outer


def _slot_change(outer: Map, key: bytes, inner: MapSpec) -> ContentsChange:
    """Return what changes if the slot gets a map with the entries of *inner*."""
    try:
        map_id = int.from_bytes(outer.lookup_bytes(key)[:4], "little")
    except KeyError:  # the slot is empty
        return change_to(None, inner) or ContentsChange(added=0, changed=1)
    with Map.from_id(map_id) as before:
        return change_to(before, inner)


def _slot_changes(
    spec: ObjectSpec, slots: Mapping[tuple[str, bytes], tuple[MapSpec, ContentsChange]]
) -> Iterator[StateChange]:
    for (name, key), (inner, change) in slots.items():
        slot = key_text(spec.maps[name], key)
        yield from _contents_changes(f"map {name}, slot {slot}", inner, change)


def _with_snapshots(spec: ObjectSpec, target: Target, report: LoadReport) -> ObjectSpec:
    """Return *spec* with the entries of snapshots for the maps that the load makes anew."""
    for each in report.maps:
        wanted = target.wanted.maps.get(each.name)
        is_new = each.decision is Decision.CREATED and each.id is None
        if wanted is not None and wanted.snapshot is not None and is_new:
            entries = snapshot_entries(spec.maps[each.name], wanted.snapshot)
            spec = spec.with_map(each.name, entries=entries)
    return spec
