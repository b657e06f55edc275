"""One set as `status` sees it: what is pinned, what runs, and what is wrong with it."""

from __future__ import annotations

import grp
import shlex
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bpfpin.attach import interface
from bpfpin.errors import (
    BpfError,
    IdNotFoundError,
    InterfaceNotFoundError,
    PermissionDeniedError,
    PinError,
    PinKindError,
    PinNotFoundError,
)
from bpfpin.hooks import HeldBy
from bpfpin.objects.kernel.object import KernelObject
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objfile import reader
from bpfpin.pins import bpffs, folds, lock, names
from bpfpin.pins.bpffs import BPFFS, RootState
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import Access, Manifest
from bpfpin.pins.pinset import LoadedSet, LostPin, PinSet, SetState, all_sets, lost_pins
from bpfpin.sets.find import find_set
from bpfpin.sets.hook_state import FoundHook, is_without_device, look_at_hook
from bpfpin.sets.leftover import LeftStage, left_stages, staged_programs
from bpfpin.sets.live import program_id
from bpfpin.sets.others import OtherProgram, other_programs
from bpfpin.sets.place import DeviceState, at_root, device_state, load_line, name_of, namespace_of
from bpfpin.sets.reports import (
    MapReport,
    Problem,
    ProblemKind,
    ProgramReport,
    SetReport,
    StatusReport,
)
from bpfpin.sets.shared import program_ids
from bpfpin.sets.split_brain import Finding
from bpfpin.sets.splits import splits
from bpfpin.sets.trial import describe_orphan, describe_trial, is_overdue, orphans, trial_of
from bpfpin.syscall import netns as namespaces

_READ_AND_WRITE = 0o066  # of group and others
_DOES = {0o2: "write", 0o4: "read", 0o6: "read and write"}
_TOOL_WORDS: Final = {"": "map", names.PROGRAMS: "prog", names.LINKS: "link"}
_OPENED: Final[dict[str, type[KernelObject]]] = {
    "": Map,
    names.PROGRAMS: Program,
    names.LINKS: Link,
}
_LOST_WORDS: Final = {
    "": "map id {id}",
    names.PROGRAMS: "program id {id}",
    names.LINKS: "link id {id}",
    names.LAYOUTS: "what tells the types of map id {id}",
}


# Pins of a set that let more users in than the set was loaded for.


@dataclass(frozen=True, slots=True)
class OpenPin:
    """A pin that is open to more than it should be, in words, and the mode it should have."""

    path: Path
    reason: str
    mode: int


def open_pins(found: LoadedSet) -> Iterator[OpenPin]:
    """Yield the pins of the set whose mode or group lets in whom its manifest does not name.

    Programs and links are nobody else's at all.
    """
    for path in found.maps.values():
        yield from _too_open(path, found.manifest.access or Access())
    for path in (*found.programs.values(), *found.links.values()):
        yield from _too_open(path, Access())


def _too_open(path: Path, access: Access) -> Iterator[OpenPin]:
    try:
        status = path.lstat()
    except OSError:  # unloaded meanwhile, or not to be seen by this user
        return
    mode = stat.S_IMODE(status.st_mode)
    allowed = access.mode
    if access.gid is not None and status.st_gid != access.gid:
        allowed &= ~stat.S_IRWXG
    extra = mode & ~allowed & _READ_AND_WRITE
    if extra:
        yield OpenPin(path, f"mode {mode:04o} lets {_who(extra, status.st_gid)}", allowed)


def _who(extra: int, gid: int) -> str:
    group, others = _DOES.get(extra >> 3 & 6, ""), _DOES.get(extra & 6, "")
    if group == others:
        return f"group {_group_name(gid)} and everybody {group} it"
    said = {f"group {_group_name(gid)}": group, "everybody": others}
    return " and ".join(f"{who} {does} it" for who, does in said.items() if does)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def state_of(found: PinSet, problems: Collection[ProblemKind]) -> SetState:
    """Return the state of a set that was found, and that has problems of these kinds.

    It is `OK` only if all of its hooks run what they should and there is no problem at all.
    """
    if found.state is not SetState.OK:
        return found.state
    if ProblemKind.DEFUNCT_LINK in problems:
        return SetState.DEFUNCT
    if not found.hooks:
        return SetState.DEFUNCT if ProblemKind.ORPHAN in problems else SetState.KEPT
    if ProblemKind.ON_TRIAL in problems:
        return SetState.ON_TRIAL
    return SetState.DEGRADED if problems else SetState.OK


_METADATA = "bpf_metadata_"  # as libbpf and bpftool have it


class SetView:
    """One set, looked at once; `problems` fills while `report` looks.

    *as_root* is what to type where this user may not look, *stage* what a dead command left of a
    next generation.
    """

    def __init__(self, found: PinSet, *, as_root: str, stage: LeftStage | None = None) -> None:
        self._found = found
        self._stage = stage
        self._as_root = as_root
        self._shown = names.display_name(found.name)
        self._lost = lost_pins(found)
        self.problems: list[Problem] = []

    @property
    def shown(self) -> str:
        """The set as its user types it."""
        return self._shown

    def report(self, splits: Collection[Finding] = ()) -> SetReport:
        """Look at everything that is pinned in the set.

        *splits* are those who should share a map with it and do not, as they were found before.
        """
        found, hooks = self._found, tuple[FoundHook, ...]()
        if not found.is_readable:
            self._tell(ProblemKind.UNREADABLE, self._as_root, reason=found.reason)
        elif found.state is SetState.FOREIGN:
            fix = "look who made it: ls -la {path}"
            if found.is_own and (found.path / names.OBJECTS).is_dir():
                fix = "detach and unpin what is left: rm -r {path}"
            self._tell(ProblemKind.FOREIGN, fix, reason=found.reason)
        elif found.state is SetState.HALF_BUILT and self._stage is not None:
            self._tell_stage(self._stage)
        if isinstance(found, LoadedSet):
            hooks = tuple(look_at_hook(found, record) for record in found.hooks)
        if isinstance(found, LoadedSet) and found.state is SetState.OK:
            self._check(found, hooks)
            self._check_pins(hooks, {one.maps for one in splits})
        programs = tuple(self._programs(hooks))
        maps = tuple(self._maps())
        self._check_foreign()
        kinds = {problem.kind for problem in self.problems}
        return SetReport(
            self._shown,
            found.path,
            state_of(found, kinds | {ProblemKind(one.kind.value) for one in splits}),
            found.reason,
            found.manifest.object if found.manifest else "",
            found.manifest.generation if found.manifest else 0,
            programs,
            maps,
            tuple(hook.report for hook in hooks),
            self._metadata(),
            tuple(found.path / entry for entry in self._foreign()),
        )

    def _metadata(self) -> dict[str, Any]:
        """Return the constants `bpf_metadata_*` of the object, as bpftool shows them."""
        values: dict[str, Any] = {}
        for name, path in self._found.maps.items():
            if name.partition(".")[2].startswith("rodata"):
                with suppress(BpfError, LookupError), Map.from_pin(path, read_only=True) as bpf_map:
                    value = bpf_map[0]
                    values |= value if isinstance(value, dict) else {}
        return {
            name.removeprefix(_METADATA): value
            for name, value in values.items()
            if name.startswith(_METADATA)
        }

    def _foreign(self) -> list[str]:
        """Return what others pinned in the directory, also in the place of a pin of ours."""
        return sorted(
            {*self._found.foreign, *(lost.path for lost in self._lost if lost.replaced_by)}
        )

    def _tell(self, kind: ProblemKind, fix: str, *, reason: str) -> None:
        fix = fix.replace("{set}", self._shown).replace("{path}", str(self._found.path))
        fix = at_root(fix, self._found.path.parent)
        if isinstance(self._found, LoadedSet):
            fix = fix.replace("{load}", load_line(self._found.path, self._found.manifest))
        self.problems.append(Problem(kind, f"{self._shown}: {reason}", fix))

    def _tell_stage(self, stage: LeftStage) -> None:
        if stage.foreign:
            reason = f"{stage.path} is in the way of the next load: {stage.foreign}"
            fix = f"look who made it: ls -la {stage.path}"
            self._tell(ProblemKind.FOREIGN, fix, reason=reason)
        else:
            fix = "bpfpin clean; load and unload of it do the same"
            self._tell(ProblemKind.HALF_BUILT, fix, reason=self._found.reason)

    def _check(self, found: LoadedSet, hooks: tuple[FoundHook, ...]) -> None:
        """Tell what is wrong with the hooks and the pins of a set of ours."""
        trial = trial_of(found)
        if trial is not None:
            reason = describe_trial(trial, self._shown)
            fix = "bpfpin clean" if is_overdue(trial) else "bpfpin confirm {set}"
            self._tell(ProblemKind.ON_TRIAL, fix, reason=reason)
        device = device_state(found.manifest.place)
        if is_without_device(device, hooks):
            self._tell_gone(found.manifest, device)
        else:
            for hook in hooks:
                self._check_hook(hook)
        self._check_folds()
        for pin in open_pins(found):
            fix = f"chmod {pin.mode:04o} {pin.path}, or load it for them: --group, --chmod"
            self._tell(ProblemKind.ACCESS, fix, reason=f"{pin.path}: {pin.reason}")

    def _tell_gone(self, manifest: Manifest, device: DeviceState) -> None:
        gone = f"{name_of(manifest.place)} is gone"
        if not manifest.hooks:
            reason = f"{gone}, and the maps that were kept for its next load are left"
            fix = "{load}" if device is DeviceState.ANOTHER else "bpfpin unload {set}"
            self._tell(ProblemKind.ORPHAN, fix, reason=reason)
            return
        programs = ", ".join(record.program for record in manifest.hooks)
        reason = f"{gone}, so this runs nowhere: {programs}"
        fix = "{load}" if device is DeviceState.ANOTHER else "bpfpin clean, or bpfpin unload {set}"
        self._tell(ProblemKind.DEFUNCT_LINK, fix, reason=reason)

    def _check_hook(self, hook: FoundHook) -> None:
        record, shown = hook.record, hook.report
        if hook.is_hidden:
            return
        if not hook.is_attached:
            self._tell(ProblemKind.DEFUNCT_LINK, "{load}", reason=hook.missing)
        elif hook.pinned_id is not None and hook.running_id != hook.pinned_id:
            reason = (
                f"{record.hook} of {shown.device} runs program id {hook.running_id}, while program"
                f" id {hook.pinned_id} ({record.program}) is pinned"
            )
            fix = "to put yours in its place: {load} --take-over"
            self._tell(ProblemKind.PROGRAM_CHANGED, fix, reason=reason)
        elif record.held_by is HeldBy.NETLINK:
            reason = f"{record.hook} of {shown.device} is held by netlink, without a link"
            fix = "to make it a link: bpfpin unload --keep-maps {set}, then {load}"
            self._tell(ProblemKind.HELD_BY_NETLINK, fix, reason=reason)

    def _check_pins(
        self, hooks: tuple[FoundHook, ...], splits: Collection[tuple[int, int]]
    ) -> None:
        """Tell of pins of the set that somebody removed by hand, or put something else in."""
        written = self._found.objects
        if hooks and written is not None and not written.programs:
            marks = self._found.path / names.OBJECTS
            reason = f"{marks} was emptied by hand: no pin is known to be of the set any more"
            fix = f"if what is pinned there is the set's: rm -r {marks}"
            self._tell(ProblemKind.PIN_MISSING, fix, reason=reason)
        running = {hook.record.link for hook in hooks if hook.is_attached}
        used = {map_id for map_id, _ in splits}
        for lost in self._lost:
            if lost.folder == names.LINKS and lost.pin not in running:
                continue  # it was told that nothing runs there
            if lost.folder or lost.id not in used:
                self._tell_lost(lost)

    def _tell_lost(self, lost: LostPin) -> None:
        path, what = self._found.path / lost.path, _LOST_WORDS[lost.folder]
        own = what.format(id=lost.id)
        if lost.replaced_by:
            reason = f"{path} holds {lost.replaced_by}, which is not the set's: that is {own}"
            self._tell(ProblemKind.PIN_REPLACED, self._fix_of(lost), reason=reason)
        elif self._is_alive(lost):
            reason = f"{path} was removed by hand: {own} is no longer pinned there"
            self._tell(ProblemKind.PIN_MISSING, self._fix_of(lost), reason=reason)
        else:
            reason = f"{path} was removed by hand, and {own} went with it"
            self._tell(ProblemKind.PIN_MISSING, "{load}", reason=reason)

    def _fix_of(self, lost: LostPin) -> str:
        """Return what pins it again: a load, or where that needs to be known more, bpftool."""
        found, path = self._found, self._found.path / lost.path
        if isinstance(found, LoadedSet) and _may_be_loaded_again(found.manifest):
            return "{load}"
        if lost.folder not in _TOOL_WORDS:
            return "{load}"
        pin = f"bpftool {_TOOL_WORDS[lost.folder]} pin id {lost.id} {shlex.quote(str(path))}"
        aside = shlex.quote(str(path.with_name(f"other_{path.name}")))
        return f"mv {shlex.quote(str(path))} {aside} && {pin}" if lost.replaced_by else pin

    def _is_alive(self, lost: LostPin) -> bool:
        kind = _OPENED.get(lost.folder)
        if kind is None:
            return True
        try:
            kind.from_id(lost.id).close()
        except IdNotFoundError:
            return False
        except PermissionDeniedError:
            return True
        return True

    def _check_foreign(self) -> None:
        """Tell of links and programs of others in the set's directory; maps are only listed."""
        for entry in self._found.foreign if isinstance(self._found, LoadedSet) else ():
            path = self._found.path / entry
            if path.parent.name == names.LINKS and path.is_file():
                reason = f"{path} is pinned, and no hook of the set knows it{_running(path)}"
                fix = f"if nobody needs it, unpin it, which detaches: rm {path}"
                self._tell(ProblemKind.ORPHAN, fix, reason=reason)
            elif path.parent == self._found.path and "~" not in entry and path.is_file():
                self._check_foreign_pin(path)

    def _check_foreign_pin(self, path: Path) -> None:
        try:
            Map.from_pin(path, read_only=True).close()
        except PinKindError as error:
            fix = f"if nobody needs it, unpin it: rm {path}"
            self._tell(ProblemKind.ORPHAN, fix, reason=error.message)
        except (PinError, PermissionDeniedError):  # unpinned meanwhile, or not to be seen
            return

    def _check_folds(self) -> None:
        """Tell of maps that had no room for all that was migrated; the rest waits beside them."""
        with suppress(BpfError), Directory.open(self._found.path) as directory:
            for pin in folds.unfinished(directory):
                reason = (
                    f"map {names.decode(pin)} had no room for all that was migrated into it: what"
                    f" is left is in an old map, kept in {self._found.path / names.FOLDS}"
                )
                fix = "{load} --migrate, from an object in which it has more max_entries"
                self._tell(ProblemKind.FOLD_UNFINISHED, fix, reason=reason)

    def _maps(self) -> Iterator[MapReport]:
        for name, path in self._found.maps.items():
            try:
                yield MapReport(name, self._map_id(path), path)
            except PinKindError as error:
                if self._found.objects is None:
                    fix = f"if nobody needs it, unpin it: rm {path}"
                    self._tell(ProblemKind.ORPHAN, fix, reason=error.message)
            except PinError:  # unloaded meanwhile
                continue

    def _map_id(self, path: Path) -> int | None:
        try:
            with Map.from_pin(path, read_only=True) as bpf_map:
                return bpf_map.id
        except PermissionDeniedError as error:
            self._tell(ProblemKind.UNREADABLE, self._as_root, reason=error.message)
            return None

    def _programs(self, hooks: tuple[FoundHook, ...]) -> Iterator[ProgramReport]:
        for name in self._found.program_names if isinstance(self._found, LoadedSet) else ():
            own_id = _program_id(self._found, name)
            attached = [hook.report for hook in hooks if hook.record.program == name]
            for hook in attached:
                yield ProgramReport(name, own_id, hook.hook, hook.device, hook.mode, hook.link)
            if not attached:
                yield ProgramReport(name, own_id)


def _may_be_loaded_again(manifest: Manifest) -> bool:
    """Whether the line that loads a set again is whole: its object is there, and all it was set."""
    path = manifest.object
    is_there = path.startswith(reader.PREFIX) or (bool(path) and Path(path).is_file())
    return is_there and not manifest.variables


def _program_id(found: PinSet, name: str) -> int | None:
    with suppress(PinError, PermissionDeniedError):
        return program_id(found, name)
    return None


def _running(path: Path) -> str:
    with suppress(BpfError), Link.from_pin(path) as link:
        info = link.info
        return f": link id {info.id}, which runs program id {info.program_id}"
    return ""


# What is loaded, what is attached where, and what is wrong with it; changes nothing.


def status(
    target: str | None = None,
    *,
    pin_root: Path = BPFFS,
    netns: str | None = None,
    as_root: str = "run it as root",
) -> StatusReport:
    """Return all sets below *pin_root*, or the one of *target*, and what is wrong with them.

    Without a *target* that includes programs and readers of others which should share a map.
    Whoever else is attached is told as well: to any device of this namespace, or to that of the
    *target*, where nothing of ours need be loaded then.

    What may not be read (an ordinary user, a set of root's) is said to be so and left out;
    *as_root* is what to do about it. Raises what `find_set` does.
    """
    if target is None:
        found = all_sets(pin_root)
    else:
        try:
            found = [find_set(target, pin_root=pin_root, netns=netns)]
        except PinNotFoundError:
            others = _others_on(target, pin_root=pin_root, netns=netns)
            if not others:
                raise
            return StatusReport(others=others)
    stages = _stages(pin_root)
    views = [SetView(one, as_root=as_root, stage=stages.get(one.name)) for one in found]
    split = _splits(pin_root, None if target is None else {view.shown for view in views})
    reports = tuple(view.report([one for one in split if view.shown in one.sets]) for view in views)
    problems = [problem for view in views for problem in view.problems]
    problems += _lock_directory(pin_root)
    problems += _orphans(pin_root, None if target is None else {one.name for one in found})
    problems += [Problem(ProblemKind(one.kind.value), one.text, one.fix) for one in split]
    own = {program.id for one in reports for program in one.programs if program.id}
    own.update(*map(staged_programs, stages.values()))
    others = other_programs(own) if target is None else _others_beside(found[0], pin_root=pin_root)
    return StatusReport(reports, tuple(problems), others)


def _others_on(device: str, *, pin_root: Path, netns: str | None) -> tuple[OtherProgram, ...]:
    """Return the programs of others on a device; none if it is no device."""
    own = _own_programs(pin_root)
    with suppress(InterfaceNotFoundError), namespaces.enter(netns):
        return other_programs(own, ifindex=interface.ifindex(device))
    return ()


def _others_beside(found: PinSet, *, pin_root: Path) -> tuple[OtherProgram, ...]:
    """Return the programs of others on the device of a set, in its namespace."""
    if not isinstance(found, LoadedSet) or not found.manifest.place.ifindex:
        return ()
    place = found.manifest.place
    own = _own_programs(pin_root)
    with suppress(BpfError), namespaces.enter(namespace_of(place)):
        return other_programs(own, ifindex=place.ifindex)
    return ()


def _own_programs(pin_root: Path) -> set[int]:
    with suppress(PermissionDeniedError):
        own = {id_ for found in all_sets(pin_root) for id_ in program_ids(found)}
        return own.union(*map(staged_programs, _stages(pin_root).values()))
    return set()


def _orphans(pin_root: Path, sets: set[str] | None) -> list[Problem]:
    """Return the processes that wait beside trials that are over, of *sets* or of all."""
    if bpffs.inspect(pin_root) is not RootState.MOUNTED:
        return []
    with Directory.open(pin_root) as root:
        if lock.holder(root) is not None:  # it may be about to end them, or to begin their trial
            return []
        return [
            Problem(ProblemKind.ORPHAN, describe_orphan(process), at_root("bpfpin clean", pin_root))
            for process in orphans(root)
            if sets is None or process.parent in sets
        ]


def _splits(pin_root: Path, sets: set[str] | None) -> list[Finding]:
    """Return who should share a map and does not, on the whole host or in these *sets*."""
    return [one for one in splits(pin_root=pin_root) if sets is None or sets & set(one.sets)]


def _lock_directory(pin_root: Path) -> list[Problem]:
    """Return what keeps every command from changing anything below *pin_root*."""
    if bpffs.inspect(pin_root) is not RootState.MOUNTED:
        return []
    with Directory.open(pin_root) as root:
        foreign = lock.foreign_lock_directory(root)
    return [Problem(ProblemKind.FOREIGN, foreign.message, foreign.hint)] if foreign else []


def _stages(pin_root: Path) -> dict[str, LeftStage]:
    """Return the stages that nobody is at, by the name of their set."""
    if bpffs.inspect(pin_root) is not RootState.MOUNTED:
        return {}
    with Directory.open(pin_root) as root:
        is_busy = lock.holder(root) is not None
        return {} if is_busy else {stage.name: stage for stage in left_stages(root)}
