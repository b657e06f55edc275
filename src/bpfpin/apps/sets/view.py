"""One set as `status` sees it: what is pinned, what runs, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bpfpin.apps.reports import MapReport, ProgramReport
from bpfpin.apps.sets.hook_view import FoundHook, is_without_device, look_at_hook
from bpfpin.apps.sets.pin_access import open_pins
from bpfpin.apps.sets.place import DeviceState, device_state, load_line, name_of
from bpfpin.apps.sets.reports import Problem, ProblemKind, SetReport
from bpfpin.apps.sets.stages import LeftStage
from bpfpin.apps.trial.trials import describe_trial, is_overdue, trial_of
from bpfpin.errors import BpfError, PermissionDeniedError, PinError, PinKindError
from bpfpin.objects.info import ProgramInfo
from bpfpin.objects.link import Link
from bpfpin.objects.map import Map
from bpfpin.objects.program import Program
from bpfpin.pins import names
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import Held, Manifest
from bpfpin.pins.migration import staged
from bpfpin.pins.pinset import PinSet, SetState

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
        self._state = found.state
        self.problems: list[Problem] = []

    def report(self) -> SetReport:
        """Look at everything that is pinned in the set."""
        found, manifest = self._found, self._found.manifest
        if not found.is_readable:
            self._tell(ProblemKind.UNREADABLE, self._as_root, reason=found.reason)
        elif found.state is SetState.FOREIGN:
            self._tell(ProblemKind.FOREIGN, "look who made it: ls -la {path}", reason=found.reason)
        elif found.state is SetState.HALF_BUILT and self._stage is not None:
            self._tell_stage(self._stage)
        hooks = tuple(look_at_hook(found, record) for record in manifest.hooks) if manifest else ()
        if manifest is not None and found.state is SetState.OK:
            self._check(manifest, hooks)
        programs = tuple(self._programs(hooks))
        maps = tuple(self._maps())
        return SetReport(
            self._shown,
            found.path,
            self._state,
            found.reason,
            manifest.object if manifest else "",
            manifest.generation if manifest else 0,
            programs,
            maps,
            tuple(hook.report for hook in hooks),
            self._metadata(),
        )

    def _metadata(self) -> dict[str, Any]:
        """Return the constants `bpf_metadata_*` of the object, as bpftool shows them."""
        values: dict[str, Any] = {}
        for name, path in self._found.maps.items():
            if name.partition(".")[2].startswith("rodata"):
                with suppress(BpfError, LookupError), Map.from_pin(path, read_only=True) as held:
                    value = held[0]
                    values |= value if isinstance(value, dict) else {}
        return {
            name.removeprefix(_METADATA): value
            for name, value in values.items()
            if name.startswith(_METADATA)
        }

    def _tell(self, kind: ProblemKind, fix: str, *, reason: str) -> None:
        manifest = self._found.manifest
        fix = fix.replace("{set}", self._shown).replace("{path}", str(self._found.path))
        if manifest is not None:
            fix = fix.replace("{load}", load_line(self._found.name, manifest))
        self.problems.append(Problem(kind, f"{self._shown}: {reason}", fix))

    def _tell_stage(self, stage: LeftStage) -> None:
        if stage.foreign:
            reason = f"{stage.path} is in the way of the next load: {stage.foreign}"
            fix = f"look who made it: ls -la {stage.path}"
            self._tell(ProblemKind.FOREIGN, fix, reason=reason)
        else:
            fix = "bpfpin clean; load and unload of it do the same"
            self._tell(ProblemKind.HALF_BUILT, fix, reason=self._found.reason)

    def _check(self, manifest: Manifest, hooks: tuple[FoundHook, ...]) -> None:
        """Tell what is wrong with the hooks and the pins of a set of ours."""
        trial = trial_of(self._found)
        if trial is not None:
            reason = describe_trial(trial, self._shown)
            fix = "bpfpin clean" if is_overdue(trial) else "bpfpin confirm {set}"
            self._tell(ProblemKind.ON_TRIAL, fix, reason=reason)
        device = device_state(manifest.place)
        if is_without_device(device, hooks):
            self._state = SetState.DEFUNCT
            self._tell_gone(manifest, device)
        else:
            for hook in hooks:
                self._check_hook(hook)
        self._check_links(manifest)
        self._check_folds()
        for pin in open_pins(self._found):
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
            self._state = SetState.DEFUNCT if shown.link else self._state
            self._tell(ProblemKind.DEFUNCT_LINK, "{load}", reason=hook.missing)
        elif hook.pinned_id is not None and hook.running_id != hook.pinned_id:
            reason = (
                f"{record.hook} of {shown.device} runs program id {hook.running_id}, while program"
                f" id {hook.pinned_id} ({record.program}) is pinned"
            )
            fix = "to put yours in its place: {load} --take-over"
            self._tell(ProblemKind.PROGRAM_CHANGED, fix, reason=reason)
        elif record.held is Held.NETLINK:
            reason = f"{record.hook} of {shown.device} is held by netlink, without a link"
            fix = "to make it a link: bpfpin unload --keep-maps {set}, then {load}"
            self._tell(ProblemKind.HELD_BY_NETLINK, fix, reason=reason)

    def _check_links(self, manifest: Manifest) -> None:
        """Tell of links that are pinned in the set and that it does not know."""
        known = {record.link for record in manifest.hooks if record.held is Held.LINK}
        for name, path in self._found.links.items():
            if name not in known:
                reason = f"{path} is pinned, and no hook of the set knows it{_running(path)}"
                fix = f"if nobody needs it, unpin it, which detaches: rm {path}"
                self._tell(ProblemKind.ORPHAN, fix, reason=reason)

    def _check_folds(self) -> None:
        """Tell of maps that had no room for all that was migrated; the rest waits beside them."""
        with suppress(BpfError), Directory.open(self._found.path) as directory:
            for pin in staged.unfinished(directory):
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
                if self._found.manifest is not None:
                    fix = f"if nobody needs it, unpin it: rm {path}"
                    self._tell(ProblemKind.ORPHAN, fix, reason=error.message)
            except PinError:  # unloaded meanwhile
                continue

    def _map_id(self, path: Path) -> int | None:
        try:
            with Map.from_pin(path, read_only=True) as held:
                return held.id
        except PermissionDeniedError as error:
            self._tell(ProblemKind.UNREADABLE, self._as_root, reason=error.message)
            return None

    def _programs(self, hooks: tuple[FoundHook, ...]) -> Iterator[ProgramReport]:
        for name, path in self._found.programs.items() if self._found.manifest else ():
            info = _program_info(path)
            program_id = None if info is None else info.id
            attached = [hook.report for hook in hooks if hook.record.program == name]
            for hook in attached:
                yield ProgramReport(name, program_id, hook.hook, hook.device, hook.mode, hook.link)
            if not attached:
                yield ProgramReport(name, program_id)


def _program_info(path: Path) -> ProgramInfo | None:
    with suppress(PinError, PermissionDeniedError), Program.from_pin(path) as program:
        return program.info
    return None


def _running(path: Path) -> str:
    with suppress(BpfError), Link.from_pin(path) as link:
        info = link.info
        return f": link id {info.id}, which runs program id {info.program_id}"
    return ""
