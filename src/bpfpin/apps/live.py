"""What is loaded under a set's name just now, looked at by somebody who is about to change it."""

from __future__ import annotations

from pathlib import Path

from bpfpin.errors import PinNotFoundError, ProgramChangedError, UnsafePathError
from bpfpin.objects.link import Link
from bpfpin.objects.program import Program
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import HookRecord
from bpfpin.pins.pinset import PinSet, SetState
from bpfpin.pins.recover import Recovery, recover
from bpfpin.pins.transaction import signals_deferred


def recovered(root: Directory, name: str) -> Recovery:
    """Undo or finish what a dead command left of the set, undisturbed by Ctrl-C."""
    with signals_deferred():
        return recover(root, name)


def read_own(pin_root: Path, name: str) -> PinSet | None:
    """Return set *name*, None if there is none; `UnsafePathError` if that is not one of ours."""
    try:
        found = PinSet.read(pin_root, name)
    except PinNotFoundError:
        return None
    if found.state is SetState.FOREIGN:
        raise UnsafePathError(
            f"{found.path} is not a pin set of ours and was left alone: {found.reason}",
            path=str(found.path),
            hint="choose another name for the set: --name NAME",
        )
    return found if found.manifest else None


def require_unchanged_programs(live: PinSet) -> None:
    """Raise `ProgramChangedError` if a link of the set runs somebody else's program."""
    for record in live.manifest.hooks if live.manifest else ():
        if record.link not in live.links or record.program not in live.programs:
            continue
        with Link.from_pin(live.links[record.link]) as link:
            running = link.info
        if running.ifindex and running.program_id != _program_id(live, record):
            raise ProgramChangedError(
                f"the link of {live.path} at {record.hook} runs program id {running.program_id},"
                f" which is not the set's {record.program}; it was left alone",
                holder=f"program id {running.program_id}",
                hint=f"detach it on purpose: bpftool link detach id {running.id}",
            )


def runs_its_programs(live: PinSet, *, ifindex: int) -> bool:
    """Whether every hook of the set still runs the pinned program on that device."""
    hooks = live.manifest.hooks if live.manifest else ()
    return all(_runs(live, record, ifindex) for record in hooks)


def _runs(live: PinSet, record: HookRecord, ifindex: int) -> bool:
    if record.link not in live.links or record.program not in live.programs:
        return False
    with Link.from_pin(live.links[record.link]) as link:
        info = link.info
    return info.ifindex == ifindex and info.program_id == _program_id(live, record)


def _program_id(live: PinSet, record: HookRecord) -> int:
    with Program.from_pin(live.programs[record.program]) as program:
        return program.id
