"""What is loaded under a set's name just now, looked at by somebody who is about to change it."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

from bpfpin.apps.recovery import reopen
from bpfpin.apps.sets.place import in_namespace
from bpfpin.errors import AttachError, PinNotFoundError, ProgramChangedError, UnsafePathError
from bpfpin.objects.info import LinkInfo
from bpfpin.objects.link import Link
from bpfpin.objects.program import Program
from bpfpin.pins.directory import user_name
from bpfpin.pins.manifest import Held, HookRecord
from bpfpin.pins.pinset import PinSet, SetState


def read_own(pin_root: Path, name: str) -> PinSet | None:
    """Return set *name*, None if there is none; `UnsafePathError` if that is not one of ours."""
    try:
        found = PinSet.read(pin_root, name)
    except PinNotFoundError:
        return None
    if found.state is SetState.FOREIGN:
        raise UnsafePathError(
            f"{found.path} is not a pin set of ours and was left alone: {found.reason}"
            f" (it belongs to {user_name(found.path.lstat().st_uid)})",
            path=str(found.path),
            hint="choose another name for the set: --name NAME",
        )
    return found if found.manifest else None


def require_unchanged_programs(live: PinSet) -> None:
    """Raise `ProgramChangedError` if a link or a filter of the set runs somebody else's program."""
    for record in live.manifest.hooks if live.manifest else ():
        if record.program not in live.programs:
            continue
        if record.held is Held.FILTER:
            _require_unchanged_filter(live, record)
            continue
        if record.link not in live.links:
            continue
        with Link.from_pin(live.links[record.link]) as link:
            running = link.info
        if running.is_attached and running.program_id != _program_id(live, record):
            raise ProgramChangedError(
                f"the link of {live.path} at {record.hook} runs program id {running.program_id},"
                f" which is not the set's {record.program}; it was left alone",
                holder=f"program id {running.program_id}",
                hint=f"detach it on purpose: bpftool link detach id {running.id}",
            )


def _require_unchanged_filter(live: PinSet, record: HookRecord) -> None:
    assert live.manifest is not None
    place = live.manifest.place
    running = 0
    with suppress(AttachError):  # the device is gone
        running = reopen(place, record).program_id()
    if running not in (0, _program_id(live, record)):
        side = record.hook.removeprefix("tc-")
        raise ProgramChangedError(
            f"the filter of {live.path} at {record.hook} runs program id {running}, which is not"
            f" the set's {record.program}; it was left alone",
            holder=f"program id {running}",
            hint="remove it on purpose: "
            + in_namespace(
                place,
                f"tc filter del dev {shlex.quote(place.device)} {side}"
                f" pref {record.priority} handle {record.handle:#x} bpf",
            ),
        )


def runs_its_program(live: PinSet, record: HookRecord) -> bool:
    """Whether the hook of *record* runs the set's own program now."""
    if live.manifest is None or record.program not in live.programs:
        return False
    try:
        if record.held is not Held.LINK:
            running = reopen(live.manifest.place, record).program_id()
        else:
            with Link.from_pin(live.links[record.link]) as link:
                running = _running(link.info)
    except (AttachError, KeyError, PinNotFoundError):  # the device or the link is gone
        return False
    return running == _program_id(live, record)


def _running(info: LinkInfo) -> int:
    return info.program_id if info.is_attached else 0


def _program_id(live: PinSet, record: HookRecord) -> int:
    with Program.from_pin(live.programs[record.program]) as program:
        return program.id
