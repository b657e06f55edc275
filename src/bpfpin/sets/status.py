"""The status of pin sets: their pins, the programs that run, and problems; changes nothing."""

from __future__ import annotations

import grp
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bpfpin.attach import interface
from bpfpin.attach.devices import all_devices
from bpfpin.attach.registry import running_on_devices
from bpfpin.errors import (
    BpfError,
    IdNotFoundError,
    InterfaceNotFoundError,
    PermissionDeniedError,
    PinError,
    PinKindError,
    PinNotFoundError,
)
from bpfpin.hints import shell_line
from bpfpin.hooks import HeldBy
from bpfpin.objects.kernel.info import Extension, extensions_of
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
from bpfpin.pins.recover import is_half_done
from bpfpin.records import dataclass
from bpfpin.sets.find import find_set
from bpfpin.sets.hook_state import FoundHook, is_without_device, look_at_hook
from bpfpin.sets.leftover import LeftStage, left_stages, staged_programs
from bpfpin.sets.live import foreign_fix, program_id
from bpfpin.sets.place import (
    DeviceState,
    command_line,
    device_state,
    load_line,
    name_of,
    namespace_of,
)
from bpfpin.sets.reports import (
    MapReport,
    OtherProgram,
    Problem,
    ProblemKind,
    ProgramReport,
    SetReport,
    StatusReport,
)
from bpfpin.sets.shared import program_ids
from bpfpin.sets.split_brain import Finding, splits
from bpfpin.sets.trial import describe_orphan, describe_trial, is_overdue, orphans, trial_of
from bpfpin.syscall import netns as namespaces

_READ_AND_WRITE = 0o066  # of group and others
_DOES = {0o2: "write", 0o4: "read", 0o6: "read and write"}
_TOOL_WORDS: Final = {
    "": "map",
    names.PROGRAMS: "prog",
    names.LINKS: "link",
    names.SLOTS: "map",
}
_OPENED: Final[dict[str, type[KernelObject]]] = {
    "": Map,
    names.PROGRAMS: Program,
    names.LINKS: Link,
    names.SLOTS: Map,
}
_LOST_WORDS: Final = {
    "": "map id {id}",
    names.PROGRAMS: "program id {id}",
    names.LINKS: "link id {id}",
    names.SLOTS: "map id {id}",
    names.LAYOUTS: "what tells the types of map id {id}",
}


@dataclass(frozen=True, slots=True)
class OpenPin:
    """A pin that is open to more users than the set was loaded for, and the mode to set."""

    path: Path
    reason: str
    mode: int


def open_pins(pin_set: LoadedSet) -> Iterator[OpenPin]:
    """Yield the pins of the set whose mode or group admits users that its manifest does not name.

    Programs and links are for the owner alone.
    """
    for path in pin_set.maps.values():
        yield from _too_open(path, pin_set.manifest.access or Access())
    for path in (*pin_set.programs.values(), *pin_set.links.values()):
        yield from _too_open(path, Access())


def _too_open(path: Path, access: Access) -> Iterator[OpenPin]:
    try:
        status = path.lstat()
    except OSError:  # unloaded meanwhile, or not to be seen by this user
        return
    mode = stat.S_IMODE(status.st_mode)
    allowed = access.mode
    # The mode was meant for another group than the one that the pin has now.
    if access.gid is not None and status.st_gid != access.gid:
        allowed &= ~stat.S_IRWXG
    extra = mode & ~allowed & _READ_AND_WRITE
    if extra:
        yield OpenPin(path, f"mode {mode:04o} lets {_who(extra, status.st_gid)}", allowed)


def _who(extra: int, gid: int) -> str:
    group, others = _DOES.get(extra >> 3 & 6, ""), _DOES.get(extra & 6, "")
    if group == others:
        return f"group {_group_name(gid)} and everybody {group} it"
    rights = {f"group {_group_name(gid)}": group, "everybody": others}
    return " and ".join(f"{who} {does} it" for who, does in rights.items() if does)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def state_of(pin_set: PinSet, problems: Collection[ProblemKind]) -> SetState:
    """Return the state of a set that has problems of these kinds.

    It is `OK` only if all of its hooks run the set's programs and there is no problem.
    """
    # States that `PinSet` sees from the pins alone, such as a foreign or half-built set, outrank
    # all that is found later.
    if pin_set.state is not SetState.OK:
        return pin_set.state
    if ProblemKind.DEFUNCT_LINK in problems:
        return SetState.DEFUNCT
    if not pin_set.hooks:
        return SetState.DEFUNCT if ProblemKind.ORPHAN in problems else SetState.KEPT
    if ProblemKind.ON_TRIAL in problems:
        return SetState.ON_TRIAL
    return SetState.DEGRADED if problems else SetState.OK


_METADATA = "bpf_metadata_"  # as libbpf and bpftool have it


class SetView:
    """One set, looked at once; `report` fills `problems`.

    *as_root* is the line to type if this user may not look, *stage* the next generation that an
    interrupted command left.
    """

    def __init__(self, pin_set: PinSet, *, as_root: str, stage: LeftStage | None = None) -> None:
        self._pin_set = pin_set
        self._stage = stage
        self._as_root = as_root
        self._shown = names.display_name(pin_set.name)
        self._lost = lost_pins(pin_set)
        self.problems: list[Problem] = []

    @property
    def shown(self) -> str:
        """The set as its user types it."""
        return self._shown

    def report(self, splits: Collection[Finding] = ()) -> SetReport:
        """Look at every pin of the set.

        *splits* are the split brains that concern the set.
        """
        pin_set, hooks = self._pin_set, tuple[FoundHook, ...]()
        if not pin_set.is_readable:
            self._tell(ProblemKind.UNREADABLE, self._as_root, reason=pin_set.reason)
        elif pin_set.state is SetState.FOREIGN:
            self._tell(ProblemKind.FOREIGN, foreign_fix(pin_set), reason=pin_set.reason)
        elif pin_set.state is SetState.HALF_BUILT and self._stage is not None:
            self._tell_stage(self._stage)
        elif pin_set.state is SetState.HALF_BUILT and _is_left_half_built(pin_set):
            self._tell_half_built()
        if isinstance(pin_set, LoadedSet):
            # Also for a set that is half built: its hooks run all the same, and the user wants to
            # see that.
            hooks = tuple(look_at_hook(pin_set, record) for record in pin_set.hooks)
        if isinstance(pin_set, LoadedSet) and pin_set.state is SetState.OK:
            self._check(pin_set, hooks)
            self._check_pins(hooks, {finding.maps for finding in splits})
        programs = tuple(self._programs(hooks))
        maps = tuple(self._maps())
        self._check_foreign()
        kinds = {problem.kind for problem in self.problems}
        return SetReport(
            self._shown,
            pin_set.path,
            state_of(pin_set, kinds | {ProblemKind(finding.kind.value) for finding in splits}),
            pin_set.reason,
            pin_set.manifest.object if pin_set.manifest else "",
            pin_set.manifest.generation if pin_set.manifest else 0,
            programs,
            maps,
            tuple(hook.report for hook in hooks),
            self._metadata(),
            tuple(pin_set.path / entry for entry in self._foreign()),
        )

    def _metadata(self) -> dict[str, Any]:
        """Return the constants `bpf_metadata_*` of the object, as bpftool shows them."""
        values: dict[str, Any] = {}
        for name in self._pin_set.maps:
            if name.partition(".")[2].startswith("rodata"):
                with (
                    suppress(BpfError, LookupError),
                    self._pin_set.open_map(name, read_only=True) or nullcontext() as bpf_map,
                ):
                    value = bpf_map[0] if bpf_map else None
                    values |= value if isinstance(value, dict) else {}
        return {
            name.removeprefix(_METADATA): value
            for name, value in values.items()
            if name.startswith(_METADATA)
        }

    def _foreign(self) -> list[str]:
        """Return the pins of others in the directory, also in place of a pin of the set."""
        return sorted(
            {*self._pin_set.foreign, *(lost.path for lost in self._lost if lost.replaced_by)}
        )

    def _line(self, verb: str, *operands: str) -> str:
        """Return a line of the command for the pin root of the set."""
        return command_line(verb, *operands, root=self._pin_set.path.parent)

    @property
    def _load_line(self) -> str:
        """The line that loads the set again."""
        path, manifest = self._pin_set.path, self._pin_set.manifest
        return load_line(path, manifest) if manifest else self._line("load")

    def _tell(self, kind: ProblemKind, fix: str, *, reason: str) -> None:
        # Not str.format(): names and paths may contain braces.
        self.problems.append(Problem(kind, f"{self._shown}: {reason}", fix))

    def _tell_stage(self, stage: LeftStage) -> None:
        if stage.foreign:
            reason = f"{stage.path} is in the way of the next load: {stage.foreign}"
            fix = stage.advice or f"find out who made it: {shell_line('ls -la', stage.path)}"
            self._tell(ProblemKind.FOREIGN, fix, reason=reason)
        else:
            self._tell_half_built()

    def _tell_half_built(self) -> None:
        fix = f"{self._line('clean')}; load and unload of it do the same"
        fix = fix if self._pin_set.is_own else self._as_root
        self._tell(ProblemKind.HALF_BUILT, fix, reason=self._pin_set.reason)

    def _check(self, pin_set: LoadedSet, hooks: tuple[FoundHook, ...]) -> None:
        """Report problems with the hooks and the pins of the set."""
        trial = trial_of(pin_set)
        if trial is not None:
            reason = describe_trial(trial, self._shown)
            is_over = is_overdue(trial)
            fix = self._line("clean") if is_over else self._line("confirm", self._shown)
            self._tell(ProblemKind.ON_TRIAL, fix, reason=reason)
        device = device_state(pin_set.manifest.place)
        # One problem for the lost device, not one for each of its hooks.
        if is_without_device(device, hooks):
            self._tell_gone(pin_set.manifest, device)
        else:
            for hook in hooks:
                self._check_hook(hook)
        self._check_folds()
        for pin in open_pins(pin_set):
            fix = (
                f"{shell_line(f'chmod {pin.mode:04o}', pin.path)}, or load it for them, with"
                " --group or --chmod"
            )
            self._tell(ProblemKind.ACCESS, fix, reason=f"{pin.path}: {pin.reason}")

    def _tell_gone(self, manifest: Manifest, device: DeviceState) -> None:
        gone, unload = f"{name_of(manifest.place)} is gone", self._line("unload", self._shown)
        is_another = device is DeviceState.ANOTHER
        if not manifest.hooks:
            reason = f"{gone}, and the maps that were kept for its next load are left"
            fix = self._load_line if is_another else unload
            self._tell(ProblemKind.ORPHAN, fix, reason=reason)
            return
        programs = ", ".join(record.program for record in manifest.hooks)
        reason = f"{gone}, so this runs nowhere: {programs}"
        fix = self._load_line if is_another else f"{self._line('clean')}, or {unload}"
        self._tell(ProblemKind.DEFUNCT_LINK, fix, reason=reason)

    def _check_hook(self, hook: FoundHook) -> None:
        record, shown = hook.record, hook.report
        if hook.is_hidden:
            return
        if not hook.is_attached:
            self._tell(ProblemKind.DEFUNCT_LINK, self._load_line, reason=hook.missing)
        elif hook.pinned_id is not None and hook.running_id != hook.pinned_id:
            reason = (
                f"{record.hook} of {shown.device} runs program id {hook.running_id}, while program"
                f" id {hook.pinned_id} ({record.program}) is pinned"
            )
            fix = f"to put yours in its place: {self._load_line} --take-over"
            self._tell(ProblemKind.PROGRAM_CHANGED, fix, reason=reason)
        elif record.held_by is HeldBy.NETLINK:
            reason = f"{record.hook} of {shown.device} is held by netlink, without a link"
            unload = self._line("unload --keep-maps", self._shown)
            fix = f"to make it a link: {unload}, then {self._load_line}"
            self._tell(ProblemKind.HELD_BY_NETLINK, fix, reason=reason)

    def _check_pins(
        self, hooks: tuple[FoundHook, ...], splits: Collection[tuple[int, int]]
    ) -> None:
        """Report pins of the set that somebody removed or replaced by hand."""
        written = self._pin_set.objects
        if hooks and written is not None and not written.programs:
            marks = self._pin_set.path / names.OBJECTS
            reason = f"{marks} was emptied by hand: no pin is known to be of the set any more"
            fix = f"if what is pinned there is the set's: {shell_line('rm -r', marks)}"
            self._tell(ProblemKind.PIN_MISSING, fix, reason=reason)
        running = {hook.record.link for hook in hooks if hook.is_attached}
        used = {map_id for map_id, _ in splits}
        for lost in self._lost:
            if lost.folder == names.LINKS and lost.pin not in running:
                continue  # reported already: nothing runs there
            # A map that a split brain is about is reported there, with the program that uses it.
            if lost.folder or lost.id not in used:
                self._tell_lost(lost)

    def _tell_lost(self, lost: LostPin) -> None:
        path, what = self._pin_set.path / lost.path, _LOST_WORDS[lost.folder]
        own = what.format(id=lost.id)
        if lost.replaced_by:
            reason = f"{path} holds {lost.replaced_by}, which is not the set's: that is {own}"
            self._tell(ProblemKind.PIN_REPLACED, self._fix_of(lost), reason=reason)
        elif self._is_alive(lost):
            reason = f"{path} was removed by hand: {own} is no longer pinned there"
            self._tell(ProblemKind.PIN_MISSING, self._fix_of(lost), reason=reason)
        else:
            reason = f"{path} was removed by hand, and {own} went with it"
            self._tell(ProblemKind.PIN_MISSING, self._load_line, reason=reason)

    def _fix_of(self, lost: LostPin) -> str:
        """Return the line that pins it again: a load, or bpftool if a load lacks something."""
        pin_set, path = self._pin_set, self._pin_set.path / lost.path
        if isinstance(pin_set, LoadedSet) and _may_be_loaded_again(pin_set.manifest):
            return self._load_line
        if lost.folder not in _TOOL_WORDS:
            return self._load_line
        pin = shell_line(f"bpftool {_TOOL_WORDS[lost.folder]} pin id", lost.id, path)
        # Moved and not removed: the pin in the way belongs to somebody else.
        aside = path.with_name(f"other_{path.name}")
        return f"{shell_line('mv', path, aside)} && {pin}" if lost.replaced_by else pin

    def _is_alive(self, lost: LostPin) -> bool:
        kind = _OPENED.get(lost.folder)
        if kind is None:
            return True
        try:
            kind.from_id(lost.id).close()
        except IdNotFoundError:
            return False
        # BPF_*_GET_FD_BY_ID needs CAP_SYS_ADMIN; without it this proves nothing.
        except PermissionDeniedError:
            return True
        return True

    def _check_foreign(self) -> None:
        """Report links and programs of others in the set's directory; maps are only listed."""
        for entry in self._pin_set.foreign if isinstance(self._pin_set, LoadedSet) else ():
            path = self._pin_set.path / entry
            if path.parent.name == names.LINKS and path.is_file():
                reason = f"{path} is pinned, and no hook of the set knows it{_running(path)}"
                fix = f"if nobody needs it, unpin it, which detaches: {shell_line('rm', path)}"
                self._tell(ProblemKind.ORPHAN, fix, reason=reason)
            elif path.parent == self._pin_set.path and "~" not in entry and path.is_file():
                self._check_foreign_pin(path)

    def _check_foreign_pin(self, path: Path) -> None:
        try:
            Map.from_pin(path, read_only=True).close()
        except PinKindError as error:
            fix = f"if nobody needs it, unpin it: {shell_line('rm', path)}"
            self._tell(ProblemKind.ORPHAN, fix, reason=error.message)
        except (PinError, PermissionDeniedError):  # unpinned meanwhile, or not readable
            return

    def _check_folds(self) -> None:
        """Report maps that had no room for all migrated entries; the rest waits beside them."""
        with suppress(BpfError), Directory.open(self._pin_set.path) as directory:
            for pin in folds.unfinished(directory):
                reason = (
                    f"map {names.decode(pin)} had no room for all that was migrated into it, or"
                    " programs changed its numbers at every try: the"
                    f" rest is in an old map, kept in {self._pin_set.path / names.FOLDS}"
                )
                load = f"{self._load_line} --migrate"
                fix = f"{load}, from an object in which it has more max_entries"
                self._tell(ProblemKind.FOLD_UNFINISHED, fix, reason=reason)

    def _maps(self) -> Iterator[MapReport]:
        for name, path in self._pin_set.maps.items():
            try:
                yield MapReport(name, self._map_id(path), path)
            except PinKindError as error:
                if self._pin_set.objects is None:
                    fix = f"if nobody needs it, unpin it: {shell_line('rm', path)}"
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
        for name in self._pin_set.program_names if isinstance(self._pin_set, LoadedSet) else ():
            own_id = _program_id(self._pin_set, name)
            attached = [hook.report for hook in hooks if hook.record.program == name]
            for hook in attached:
                yield ProgramReport(name, own_id, hook.hook, hook.device, hook.mode, hook.link)
            if not attached:
                yield ProgramReport(name, own_id)


def _may_be_loaded_again(manifest: Manifest) -> bool:
    """Whether one line loads the set again: its object exists, and no variables were set."""
    path = manifest.object
    exists = path.startswith(reader.PREFIX) or (bool(path) and Path(path).is_file())
    return exists and not manifest.variables


def _program_id(pin_set: PinSet, name: str) -> int | None:
    with suppress(PinError, PermissionDeniedError):
        return program_id(pin_set, name)
    return None


def _running(path: Path) -> str:
    with suppress(BpfError), Link.from_pin(path) as link:
        info = link.info
        return f": link id {info.id}, which runs program id {info.program_id}"
    return ""


def status(
    target: str | None = None,
    *,
    pin_root: Path = BPFFS,
    netns: str | None = None,
    as_root: str = "run it as root",
) -> StatusReport:
    """Return the status of all sets below *pin_root*, or of the set of *target*.

    Without a *target* the problems include programs and readers of others that should share a map.
    The report also lists other programs that are attached to any device of this namespace, or to
    the device of *target*, which need not have a set then.

    Sets that this user may not read are reported as such, with the hint *as_root*. Raises what
    `find_set` does.
    """
    if target is None:
        sets = all_sets(pin_root)
    else:
        try:
            sets = [find_set(target, pin_root=pin_root, netns=netns)]
        except PinNotFoundError:
            others = _others_on(target, pin_root=pin_root, netns=netns)
            if not others:
                raise
            return StatusReport(others=others)
    stages = _stages(pin_root)
    views = [SetView(pin_set, as_root=as_root, stage=stages.get(pin_set.name)) for pin_set in sets]
    # Before the reports: the state of a set depends on its splits.
    split = _splits(pin_root, None if target is None else {view.shown for view in views})
    reports = tuple(
        view.report([finding for finding in split if view.shown in finding.sets]) for view in views
    )
    problems = [problem for view in views for problem in view.problems]
    problems += _lock_directory(pin_root)
    set_names = None if target is None else {pin_set.name for pin_set in sets}
    problems += _orphans(pin_root, set_names)
    problems += [
        Problem(ProblemKind(finding.kind.value), finding.text, finding.fix) for finding in split
    ]
    own = {program.id for report in reports for program in report.programs if program.id}
    # A command that died while it switched the hooks leaves them with programs of its stage.
    own.update(*map(staged_programs, stages.values()))
    others = other_programs(own) if target is None else _others_beside(sets[0], pin_root=pin_root)
    return StatusReport(reports, tuple(problems), others)


def _others_on(device: str, *, pin_root: Path, netns: str | None) -> tuple[OtherProgram, ...]:
    """Return the programs of others on a device; none if the device does not exist."""
    own = _own_programs(pin_root)
    with suppress(InterfaceNotFoundError), namespaces.enter(netns):
        return other_programs(own, ifindex=interface.ifindex(device))
    return ()


def _others_beside(pin_set: PinSet, *, pin_root: Path) -> tuple[OtherProgram, ...]:
    """Return the programs of others on the device of a set, in its namespace."""
    if not isinstance(pin_set, LoadedSet) or not pin_set.manifest.place.ifindex:
        return ()
    place = pin_set.manifest.place
    own = _own_programs(pin_root)
    with suppress(BpfError), namespaces.enter(namespace_of(place)):
        return other_programs(own, ifindex=place.ifindex)
    return ()


def _own_programs(pin_root: Path) -> set[int]:
    with suppress(PermissionDeniedError):
        own = {id_ for pin_set in all_sets(pin_root) for id_ in program_ids(pin_set)}
        return own.union(*map(staged_programs, _stages(pin_root).values()))
    return set()


def _orphans(pin_root: Path, sets: set[str] | None) -> list[Problem]:
    """Report processes that wait beside trials that are over, of *sets* or of all sets."""
    if bpffs.inspect(pin_root) is not RootState.MOUNTED:
        return []
    with Directory.open(pin_root) as root:
        if lock.holder(root) is not None:  # that command may end them, or begin their trial
            return []
        return [
            Problem(
                ProblemKind.ORPHAN, describe_orphan(process), command_line("clean", root=pin_root)
            )
            for process in orphans(root)
            if sets is None or process.parent in sets
        ]


def _splits(pin_root: Path, sets: set[str] | None) -> list[Finding]:
    """Return the split brains of the whole host, or of these *sets*."""
    return [
        finding for finding in splits(pin_root=pin_root) if sets is None or sets & set(finding.sets)
    ]


def _is_left_half_built(pin_set: PinSet) -> bool:
    """Whether no running command changes a set that is half-built: a dead one left its mark."""
    with suppress(BpfError), Directory.open(pin_set.path.parent) as root:
        return lock.holder(root) is None and is_half_done(root, pin_set.name)
    return False


def _lock_directory(pin_root: Path) -> list[Problem]:
    """Report a lock directory that keeps every command from changing anything."""
    if bpffs.inspect(pin_root) is not RootState.MOUNTED:
        return []
    with Directory.open(pin_root) as root:
        foreign = lock.foreign_lock_directory(root)
    return [Problem(ProblemKind.FOREIGN, foreign.message, foreign.hint)] if foreign else []


def _stages(pin_root: Path) -> dict[str, LeftStage]:
    """Return the stages that no running command builds, by the name of their set."""
    if bpffs.inspect(pin_root) is not RootState.MOUNTED:
        return {}
    with Directory.open(pin_root) as root:
        # A stage under construction is not left over; /proc/locks says whether a command holds the
        # lock.
        is_busy = lock.holder(root) is not None
        return {} if is_busy else {stage.name: stage for stage in left_stages(root)}


def other_programs(own: Collection[int], *, ifindex: int | None = None) -> tuple[OtherProgram, ...]:
    """Return the programs at hooks of devices that are not among *own*, by program id.

    Only the device *ifindex* is asked, if that is given. Hooks that this user cannot ask are left
    out.
    """
    devices = [device for device in all_devices() if ifindex in (None, device.ifindex)]
    programs: dict[int, list[OtherProgram]] = {device.ifindex: [] for device in devices}
    names = {device.ifindex: device.name for device in devices}
    # This list is an extra of `status`: a user without the right to ask gets the rest of the
    # report.
    with suppress(BpfError):
        for running in running_on_devices(devices):
            if running.program_id not in own:
                other = OtherProgram(
                    names[running.ifindex],
                    running.hook.value,
                    running.program_id,
                    _name_of_program(running.program_id),
                    running.mode,
                )
                programs[running.ifindex].append(other)
    return _with_extensions([other for others in programs.values() for other in others])


def _with_extensions(others: Sequence[OtherProgram]) -> tuple[OtherProgram, ...]:
    """Add the programs that each of these calls, if this user may see links."""
    extensions: dict[int, tuple[Extension, ...]] = {}
    with suppress(PermissionDeniedError):
        extensions = extensions_of({other.id for other in others}) if others else {}
    return tuple(replace(other, extensions=extensions.get(other.id, ())) for other in others)


def _name_of_program(program_id: int) -> str:
    # BPF_PROG_GET_FD_BY_ID needs CAP_SYS_ADMIN, unlike the query of a hook.
    with suppress(BpfError), Program.from_id(program_id) as program:
        return program.name
    return ""
