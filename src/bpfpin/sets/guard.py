"""Guards against lock-out: check whether a change or a load cuts the user's own connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import field, replace
from pathlib import Path

from bpfpin.attach import interface
from bpfpin.attach.registry import code_of
from bpfpin.errors import (
    BpfError,
    KeyNotFoundError,
    LimitError,
    NamespaceNotFoundError,
    PermissionDeniedError,
    UsageError,
)
from bpfpin.hints import Argument, Fix, shell_line
from bpfpin.hooks import Hook, TargetKind, has_actions
from bpfpin.loading.collection import Loaded, fill_given
from bpfpin.map.verdict import CUTTING, KEY, is_verdict_map
from bpfpin.map_traits import traits_of
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.manifest import AttachPoint
from bpfpin.pins.pinset import LoadedSet, PinSet, loaded_sets
from bpfpin.pins.plan import Plan
from bpfpin.records import dataclass
from bpfpin.sets.action_map import devices_of_map
from bpfpin.sets.choose import choose, programs_to_load, read_for_hooks
from bpfpin.sets.lockout.map_copy import Budget, copy_of
from bpfpin.sets.lockout.trial_run import Copying, TrialTarget, UntriedError, cut_by, verdict_of
from bpfpin.sets.lockout.ways import WAY_BACK, Danger, anybody, danger_of, danger_of_cgroup
from bpfpin.sets.place import hook_target, namespace_of, program_word, target_name
from bpfpin.sets.request import LoadRequest
from bpfpin.syscall import netns as namespaces
from bpfpin.uapi import XdpAction

Change = Callable[[Map], object]


def require_way_back(
    bpf_map: Map,
    what: str,
    change: Change,
    *,
    pin_root: Path,
    devices: Iterable[str] = (),
    is_cutting: bool = False,
    hint: Callable[[str], Fix] = lambda subject: WAY_BACK,
) -> tuple[str, ...]:
    """Raise `UsageError` if *change* lets a program stop packets of the user's own connection.

    The check covers the sets whose programs use the map and are attached to a device or cgroup that
    carries the default route or an SSH session. Their object is loaded once more with copies of the
    maps, and *change* is made to the copy of this map; only packets that pass without the change
    count.

    Some changes cannot be tried: where a copy cannot be made or run, and where the program is in no
    set (at *devices*, and at all others that use the map). There a verdict that *is_cutting* is
    refused, and any other change is allowed, with a note that it was not tried. Returns the notes.
    *hint* says what to do, for the name of a set or of a device.
    """
    check, here = _Check(what, hint, is_cutting=is_cutting), namespaces.inode()
    tried: set[str] = set()
    for live in _sets_with(bpf_map, pin_root):
        # Routes and addresses belong to the namespace of the device, and decide whether a
        # connection is cut.
        with suppress(NamespaceNotFoundError), namespaces.enter(namespace_of(live.manifest.place)):
            for target in _targets(live):
                check.try_it(live, target, (bpf_map, change))
                # Names of devices are only unique within a namespace, and the loop below is about
                # this one.
                if live.manifest.place.netns_inode == here:
                    tried.add(target.place)
    for device in dict.fromkeys((*devices, *devices_of_map(bpf_map.id))):
        if device not in tried and (danger := danger_of(device)):
            check.refuse_or_note(device, danger, "its program is in no set")
    return tuple(check.notes)


@dataclass(frozen=True)
class MapGuard:
    """Checks changes of maps before they are made, and collects *notes* on them."""

    pin_root: Path = BPFFS
    is_forced: bool = False
    notes: dict[str, None] = field(default_factory=dict)

    def require_way_back(self, bpf_map: Map, what: str, change: Change) -> None:
        """Raise `UsageError` if the change, called *what*, would cut the user's own connection."""
        if self.is_forced:
            return
        # The new verdict is known only after the change was made, so it is made on a copy of the
        # map.
        verdict = _verdict_after(bpf_map, change) if is_verdict_map(bpf_map) else None

        def hint(subject: str) -> Fix:
            fix = Fix.of("mean it: ", Argument("force"))
            if verdict is None:
                return fix
            way_back = shell_line("bpfpin action", subject, verdict.name, confirm=30)
            return fix.joined(f"; or with a way back: {way_back}")

        notes = require_way_back(
            bpf_map,
            what,
            change,
            pin_root=self.pin_root,
            is_cutting=verdict is not None,
            hint=hint,
        )
        self.notes.update(dict.fromkeys(notes))


def unset_verdict(live: PinSet, bpf_map: Map) -> XdpAction | None:
    """Return the verdict of a set's XDP program while its verdict map is not set; None if unknown.

    It is tried with a copy, which takes the rights to load programs.
    """
    if not isinstance(live, LoadedSet):
        return None
    programs = [record.program for record in live.hooks if has_actions(record.hook)]

    def unset(copy: Map) -> None:
        if copy.is_array:
            copy.update_bytes(KEY, bytes(copy.value_size))
        else:
            copy.delete_bytes(KEY)

    with suppress(BpfError, UntriedError):
        for name in programs[:1]:
            with _copying(live, (bpf_map, unset)) as copying:
                return verdict_of(copying, name, anybody())
    return None


def _verdict_after(bpf_map: Map, change: Change) -> XdpAction | None:
    """Return the new verdict if the change makes the map stop packets."""
    with copy_of(bpf_map, Budget()) as copy, copy.read_as(bpf_map) as typed:
        before = _verdict(typed)
        with suppress(BpfError, TypeError, ValueError):
            change(typed)
        after = _verdict(typed)
    return XdpAction(after) if after in CUTTING and after != before else None


def _verdict(bpf_map: Map) -> int | None:
    with suppress(KeyNotFoundError):
        return int.from_bytes(bpf_map.lookup_bytes(KEY), "little")
    return None


@dataclass(frozen=True)
class _Check:
    """The check of one change, called *what*, and its notes."""

    what: str
    hint: Callable[[str], Fix]
    is_cutting: bool
    notes: dict[str, None] = field(default_factory=dict)

    def try_it(self, live: LoadedSet, target: TrialTarget, change: tuple[Map, Change]) -> None:
        """Raise `UsageError` if a program of the set cuts a connection after the change."""
        try:
            with _copying(live, change) as copying:
                # Compared with the answers before the change: a program that drops these packets
                # anyway is not changed for the worse.
                cut = cut_by(copying, target, is_compared=True)
        # A check that fails must not keep users from their own maps. The change is refused only if
        # it is known to cut.
        except (UntriedError, BpfError) as error:
            self.refuse_or_note(target.place, target.danger, str(error))
            return
        if cut is not None:
            subject = names.display_name(live.name)
            raise self._refused(target.place, target.danger, f"{cut}: ", subject)
        for note in copying.notes:
            self.notes[f"when it was tried on test packets, {note}"] = None

    def refuse_or_note(self, place: str, danger: Danger, reason: str) -> None:
        """Refuse a change that is known to cut, and note any other change."""
        if self.is_cutting:
            raise self._refused(place, danger, "")
        self.notes[
            f"{self.what} was not tried on test packets, and {place} carries {danger}: {reason}"
        ] = None

    def _refused(self, place: str, danger: Danger, why: str, subject: str = "") -> UsageError:
        message = f"{why}{self.what} would cut {place}, which carries {danger}"
        return UsageError(message, hint=self.hint(subject or place))


def _sets_with(bpf_map: Map, pin_root: Path) -> Iterator[LoadedSet]:
    """Yield the sets whose programs use the map, directly or in a map of maps."""
    with suppress(BpfError):
        for live in loaded_sets(pin_root):
            if live.hooks and _uses(live, bpf_map.id):
                yield live


def _uses(live: LoadedSet, map_id: int) -> bool:
    with suppress(BpfError):
        for name in live.program_names:
            if program := live.open_program(name):
                with program:
                    if map_id in program.info.map_ids:
                        return True
        # The info of a program lists a map of maps, but not the maps in it.
        for name in live.map_names:
            with live.open_map(name, read_only=True) or nullcontext() as other:
                if other is None:
                    continue
                is_outer = traits_of(other.type).holds_maps
                if is_outer and any(
                    int.from_bytes(value, "little") == map_id for _, value in other.items_bytes()
                ):
                    return True
    return False


def _targets(live: LoadedSet) -> Iterator[TrialTarget]:
    """Yield the hooks of a set whose place carries a connection of the user; in its namespace."""
    place = live.manifest.place
    for record in live.hooks:
        hook = Hook(record.hook)
        if hook.traits.target is TargetKind.DEVICE:
            # The name for the message is the current one; the recorded device may have been
            # renamed.
            place = replace(place, device=interface.name_of(place.ifindex))
            if not place.device:
                continue
        target = _target(record.program, hook, place, record.target)
        if target.danger:
            yield target


def _target(
    program: str, hook: Hook, place: AttachPoint, name: str, *, danger: Danger | None = None
) -> TrialTarget:
    """Return a program to be tried; its danger is looked for unless it is given."""
    ifindex = place.ifindex if hook.traits.target is TargetKind.DEVICE else 0
    shown = target_name(place, hook.value, name)
    danger = _danger(hook, place, name) if danger is None else danger
    return TrialTarget(program, hook, shown, danger, ifindex, name)


def _danger(hook: Hook, place: AttachPoint, target: str) -> Danger:
    """Return what a program at *hook* can stop of what the user's way to this host is made of."""
    if not hook.traits.can_lock_out:
        return Danger()
    if hook.traits.target is TargetKind.CGROUP:
        return danger_of_cgroup(place.cgroup)
    if hook.traits.target is TargetKind.DEVICE:
        return danger_of(place.ifindex)
    # Of the whole network namespace: the first of its devices that carries such a way.
    dangers = map(danger_of, interface.names())
    danger = next((danger for danger in dangers if danger), Danger())
    network = code_of(hook).network(hook_target(place, target))
    return danger if network is None else danger.within(network)


@contextmanager
def _copying(live: LoadedSet, change: tuple[Map, Change]) -> Iterator[Copying]:
    """Prepare a copy of a set: read its object again, and open its maps."""
    manifest = live.manifest
    words = list(map(program_word, manifest.hooks))
    try:
        # The object is needed again: of a loaded program the kernel gives out only the rewritten
        # instructions (`xlated_prog_insns`), which it does not load.
        spec = read_for_hooks(manifest.object, words=words)
    except BpfError as error:
        raise UntriedError(f"its object cannot be read: {error}") from None
    # Another object could answer otherwise, so a check with it would be worth nothing.
    if spec.sha256 != manifest.sha256:
        raise UntriedError(f"{manifest.object} is not the object that was loaded any more")
    choices = choose(spec, words=words, targets=frozenset(TargetKind))
    for choice in choices:
        attach_type = choice.program.expected_attach_type
        spec = spec.with_program(choice.program.name, expected_attach_type=attach_type)
    with ExitStack() as opened:
        real = {
            name: opened.enter_context(bpf_map)
            for name in live.map_names
            if name in spec.maps and (bpf_map := live.open_map(name))
        }
        yield Copying(
            spec,
            programs_to_load(spec, choices),
            real,
            change=change,
        )


def require_way_back_after_load(request: LoadRequest, plan: Plan) -> tuple[str, ...]:
    """Raise `UsageError` if a program of the load stops packets of the user's own connection.

    Only loads without `--confirm` and `--force` are checked, at a device or cgroup that carries the
    default route or an SSH session. Maps from elsewhere, kept maps and migrated maps are copied
    with their contents. Returns notes on programs that were not tried, with the reason.
    """
    if request.confirm_s is not None or request.is_forced:
        return ()
    targets = [target for target in _load_targets(request) if target.danger]
    notes: dict[str, None] = {}
    if not targets:
        return ()
    copying = Copying(
        request.spec,
        request.programs,
        plan.given,
        prepare=lambda copy: _prepare_load(request, plan, copy),
        max_map_memory=request.max_map_memory,
    )
    for target in targets:
        try:
            cut = cut_by(copying, target)
        # Other errors are those of the load itself, such as a refusal by the verifier, and end it
        # here.
        except (UntriedError, LimitError, PermissionDeniedError) as error:
            notes[
                f"{target.program} was not tried on test packets, and {target.place} carries"
                f" {target.danger}: {error}"
            ] = None
            continue
        if cut is not None:
            raise UsageError(
                f"{cut}: loading it would cut {target.place}, which carries {target.danger}",
                hint=WAY_BACK,
            )
    tried = [f"when it was tried on test packets, {note}" for note in copying.notes]
    notes.update(dict.fromkeys(tried))
    return tuple(notes)


def _load_targets(request: LoadRequest) -> Iterator[TrialTarget]:
    """Yield the programs of the load, each with the danger of cutting its place."""
    # The same for many hooks, and not cheap.
    dangers: dict[tuple[TargetKind, bool, str], Danger] = {}
    for choice in request.chosen:
        hook = choice.hook
        key = (hook.traits.target, hook.traits.can_lock_out, choice.target)
        if key not in dangers:
            dangers[key] = _danger(hook, request.place, choice.target)
        yield _target(choice.program.name, hook, request.place, choice.target, danger=dangers[key])


def _prepare_load(request: LoadRequest, plan: Plan, copy: Loaded) -> None:
    """Do with the copies what the load does: fill program arrays, and migrate maps."""
    fill_given(request.spec, copy, plan.given)
    if not plan.migrating:
        return
    from bpfpin.migration.fold import FoldPrograms  # noqa: PLC0415 - few loads migrate

    for migrating in plan.migrating:
        new = copy.maps[migrating.name]
        # A fold takes the counters out of the map that it reads, so it must not see the real one.
        with copy_of(migrating.old, Budget()) as old:
            migrating.plan.fill(old, new)
            with FoldPrograms.load(migrating.plan.fold, old, new) as fold:
                # No wait for programs in between: the copies are used by this process alone.
                fold.insert()
                fold.move()
