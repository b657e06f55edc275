"""What is loaded under a set's name just now, looked at by somebody who is about to change it."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

from bpfpin.apps.recovery import reopen
from bpfpin.apps.sets.place import in_namespace
from bpfpin.errors import (
    AttachError,
    BpfError,
    PinNotFoundError,
    ProgramChangedError,
    UnsafePathError,
)
from bpfpin.pins import names
from bpfpin.pins.directory import Directory, user_name
from bpfpin.pins.manifest import Held, HookRecord
from bpfpin.pins.pinset import PinSet, SetState


def read_own(pin_root: Path, name: str) -> PinSet | None:
    """Return set *name*, None if there is none; `UnsafePathError` if that is not one of ours."""
    try:
        found = PinSet.read(pin_root, name)
    except PinNotFoundError:
        return None
    if found.state is SetState.FOREIGN or not found.is_own:
        raise UnsafePathError(
            f"{found.path} is not a pin set of ours and was left alone: {_reason(found)}"
            f" (it belongs to {user_name(found.path.lstat().st_uid)})",
            path=str(found.path),
            hint="choose another name for the set: --name NAME",
        )
    return found if found.manifest else None


def _reason(found: PinSet) -> str:
    is_readable_only = found.manifest is not None and not found.is_own
    return "another user loaded it" if is_readable_only else found.reason


def require_unchanged_programs(live: PinSet) -> None:
    """Raise `ProgramChangedError` if a link or a filter of the set runs somebody else's program."""
    for record in live.manifest.hooks if live.manifest else ():
        own_id = program_id(live, record.program)
        if own_id is None:
            continue
        if record.held is Held.FILTER:
            _require_unchanged_filter(live, record, own_id)
            continue
        link = live.open_link(record.link) if record.held is Held.LINK else None
        if link is None:
            continue
        with link:
            running = link.info
        if running.is_attached and running.program_id != own_id:
            raise ProgramChangedError(
                f"the link of {live.path} at {record.hook} runs program id {running.program_id},"
                f" which is not the set's {record.program}; it was left alone",
                holder=f"program id {running.program_id}",
                hint=f"detach it on purpose: bpftool link detach id {running.id}",
            )


def _require_unchanged_filter(live: PinSet, record: HookRecord, own_id: int) -> None:
    assert live.manifest is not None
    place = live.manifest.place
    running = 0
    with suppress(AttachError):  # the device is gone
        running = reopen(place, record).program_id()
    if running not in (0, own_id):
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
    if live.manifest is None:
        return False
    running = 0
    if record.held is not Held.LINK:
        with suppress(AttachError):  # the device is gone
            running = reopen(live.manifest.place, record).program_id()
    elif link := live.open_link(record.link):
        with link:
            running = link.info.program_id if link.info.is_attached else 0
    return bool(running) and running == program_id(live, record.program)


def program_id(live: PinSet, name: str) -> int | None:
    """Return the id of the set's own program, also where its pin was removed or replaced by hand.

    None if neither is it written down nor is there a pin.
    """
    written = live.id_of(names.PROGRAMS, name)
    if written is not None:
        return written
    program = live.open_program(name)
    if program is None:
        return None
    with program:
        return program.id


def told_of_others(root: Directory, name: str) -> tuple[str, ...]:
    """Return what is to be told of the pins of others that were left in a set's directory."""
    with suppress(BpfError):
        foreign = PinSet.read(root.path, name).foreign
        if foreign:
            paths = ", ".join(str(root.path / name / entry) for entry in foreign)
            return (f"left alone, since bpfpin did not pin it: {paths}",)
    return ()
