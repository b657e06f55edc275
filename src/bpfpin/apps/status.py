"""What is loaded, what is attached where, and what is wrong with it; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bpfpin.apps.reports import (
    MapReport,
    Problem,
    ProblemKind,
    ProgramReport,
    SetReport,
    StatusReport,
)
from bpfpin.apps.target import all_sets, find_set
from bpfpin.attach import interface
from bpfpin.errors import BpfError, PermissionDeniedError, PinError
from bpfpin.objects.info import LinkInfo, ProgramInfo
from bpfpin.objects.link import Link
from bpfpin.objects.map import Map
from bpfpin.objects.program import Program
from bpfpin.pins import names
from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.manifest import HookRecord, Manifest
from bpfpin.pins.pinset import PinSet, SetState
from bpfpin.syscall import netns as namespaces

_KERNEL_NAME_LENGTH = 15


def status(
    target: str | None = None,
    *,
    pin_root: Path = BPFFS,
    netns: str | None = None,
    as_root: str = "run it as root",
) -> StatusReport:
    """Return all sets below *pin_root*, or the one of *target*, and what is wrong with them.

    What may not be read (an ordinary user, a set of root's) is said to be so and left out;
    *as_root* is what to do about it. Raises what `find_set` does.
    """
    if target is None:
        found = all_sets(pin_root)
    else:
        found = [find_set(target, pin_root=pin_root, netns=netns)]
    views = [_View(one, as_root) for one in found]
    return StatusReport(
        tuple(view.report() for view in views),
        tuple(problem for view in views for problem in view.problems),
    )


class _View:
    """One set, looked at once; `problems` fills while `report` looks."""

    def __init__(self, found: PinSet, as_root: str) -> None:
        self._found = found
        self._as_root = as_root
        self._shown = names.display_name(found.name)
        self._state = found.state
        self.problems: list[Problem] = []

    def report(self) -> SetReport:
        """Look at everything that is pinned in the set."""
        found, manifest = self._found, self._found.manifest
        if not found.is_readable:
            self._tell(ProblemKind.UNREADABLE, self._as_root, reason=found.reason)
        elif found.state in (SetState.FOREIGN, SetState.HALF_BUILT):
            self._tell(*_TROUBLE[found.state], reason=found.reason)
        programs = tuple(self._programs(manifest)) if manifest else ()
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
        )

    def _tell(self, kind: ProblemKind, fix: str, *, reason: str) -> None:
        fix = fix.replace("{set}", self._shown).replace("{path}", str(self._found.path))
        self.problems.append(Problem(kind, f"{self._shown}: {reason}", fix))

    def _maps(self) -> Iterator[MapReport]:
        for name, path in self._found.maps.items():
            with suppress(PinError):  # unloaded meanwhile
                yield MapReport(name, self._map_id(path), path)

    def _map_id(self, path: Path) -> int | None:
        try:
            with Map.from_pin(path, read_only=True) as held:
                return held.id
        except PermissionDeniedError as error:
            self._tell(ProblemKind.UNREADABLE, self._as_root, reason=error.message)
            return None

    def _programs(self, manifest: Manifest) -> Iterator[ProgramReport]:
        attached = {record.program: record for record in manifest.hooks}
        for name, path in self._found.programs.items():
            info = self._program_info(path)
            record = attached.get(name)
            if record is None:
                yield ProgramReport(name, _id(info))
                continue
            if info is not None:
                self._compare_maps(info)
            yield self._attached(manifest, record, info)

    def _program_info(self, path: Path) -> ProgramInfo | None:
        with suppress(PinError, PermissionDeniedError), Program.from_pin(path) as program:
            return program.info
        return None

    def _attached(
        self, manifest: Manifest, record: HookRecord, program: ProgramInfo | None
    ) -> ProgramReport:
        link = self._link_info(record)
        if link is not None:
            self._check_link(manifest, record, link, program)
        return ProgramReport(
            record.program,
            _id(program),
            record.hook,
            _device(manifest, link),
            record.mode,
            _id(link),
        )

    def _link_info(self, record: HookRecord) -> LinkInfo | None:
        path = self._found.links.get(record.link)
        if path is None:
            reason = f"the link at {record.hook} is no longer pinned"
            self._tell(ProblemKind.DEFUNCT_LINK, _RELOAD, reason=reason)
            return None
        with suppress(PinError, PermissionDeniedError), Link.from_pin(path) as link:
            return link.info
        return None

    def _check_link(
        self, manifest: Manifest, record: HookRecord, link: LinkInfo, program: ProgramInfo | None
    ) -> None:
        if not link.ifindex:
            self._state = SetState.DEFUNCT
            reason = f"device {manifest.place.device} is gone, and {record.program} runs nowhere"
            self._tell(ProblemKind.DEFUNCT_LINK, "bpfpin unload {set}", reason=reason)
        elif program is not None and link.program_id != program.id:
            reason = (
                f"the link at {record.hook} runs program id {link.program_id}, while program id"
                f" {program.id} ({record.program}) is pinned"
            )
            fix = f"bpftool link detach id {link.id}, then bpfpin unload {{set}}"
            self._tell(ProblemKind.PROGRAM_CHANGED, fix, reason=reason)

    def _compare_maps(self, program: ProgramInfo) -> None:
        """Tell of a map that the program uses under the name of a pin that holds another one."""
        pinned = {name[:_KERNEL_NAME_LENGTH]: path for name, path in self._found.maps.items()}
        for map_id in program.map_ids:
            with suppress(BpfError), Map.from_id(map_id) as used:
                path = pinned.get(used.name)
                if path is None or (pinned_id := self._map_id(path)) in (map_id, None):
                    continue
                reason = (
                    f"program {program.name} counts in map id {map_id}, while {path} holds map id"
                    f" {pinned_id}"
                )
                self._tell(ProblemKind.MAP_DIFFERS, _RELOAD, reason=reason)


_RELOAD = "bpfpin unload {set}, then load"
_TROUBLE = {
    SetState.FOREIGN: (ProblemKind.FOREIGN, "look who made it: ls -la {path}"),
    SetState.HALF_BUILT: (ProblemKind.HALF_BUILT, "bpfpin load or bpfpin unload {set}"),
}


def _id(info: ProgramInfo | LinkInfo | None) -> int | None:
    return None if info is None else info.id


def _device(manifest: Manifest, link: LinkInfo | None) -> str:
    """Return the device's name now: it may have been renamed since."""
    place = manifest.place
    if link is None or not link.ifindex or place.netns_inode != namespaces.inode():
        return place.device
    return interface.name_of(link.ifindex) or place.device
