"""The live state of a set: its crash recovery, its manifest, and what its hooks run."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

from bpfpin.attach.registry import HookTarget, code_of
from bpfpin.errors import (
    AttachError,
    BpfError,
    PinNotFoundError,
    ProgramChangedError,
    UnsafePathError,
)
from bpfpin.hints import Argument, Fix, shell_line
from bpfpin.hooks import HeldBy, Hook, has_table
from bpfpin.objects.link import HookAttachment
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names
from bpfpin.pins.directory import Directory, user_name
from bpfpin.pins.manifest import AttachPoint, HookRecord
from bpfpin.pins.pinset import LoadedSet, PinSet, SetState
from bpfpin.pins.recover import Recovery, is_half_done
from bpfpin.pins.targets import Targets, recover_with_others
from bpfpin.records import dataclass
from bpfpin.sets.place import in_namespace, namespace_of, target_name
from bpfpin.syscall import netns as namespaces
from bpfpin.syscall.fd import Closing
from bpfpin.syscall.signals import signals_deferred


def recovered(root: Directory, name: str) -> Recovery:
    """Roll an interrupted change of set *name* back or forward, and return which was done.

    Sets that were changed by the same command are recovered with it. The lock must be held; Ctrl-C
    is deferred.
    """
    # Almost always nothing is left to do, and then no code of the transaction has to run.
    if not Targets.unfinished(root) and not is_half_done(root, name):
        return Recovery.NOTHING
    with signals_deferred():
        return recover_with_others(root, name, reopen)


def reopen(place: AttachPoint, record: HookRecord) -> HookAttachment:
    """Open the hook of *record*, which no link holds, in whichever namespace it is."""
    hook = Hook(record.hook)
    # The recorded ifindex, since the device may have been renamed.
    code, target = code_of(hook), HookTarget(place.ifindex, name=record.target)
    return _HookInNamespace(place, lambda: code.reopen(hook, target, record))


class _HookInNamespace(Closing):
    """A hook in another network namespace, which is entered for every call."""

    def __init__(self, place: AttachPoint, opened: Callable[[], HookAttachment]) -> None:
        self._place = place
        self._opened = opened

    def program_id(self) -> int:
        with namespaces.enter(namespace_of(self._place)):
            return self._opened().program_id()

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        with namespaces.enter(namespace_of(self._place)):
            self._opened().update(program, expected_old)

    def detach(self) -> None:
        with namespaces.enter(namespace_of(self._place)):
            self._opened().detach()

    def close(self) -> None:
        """Do nothing: the device holds the program."""


@dataclass(frozen=True)
class LiveState:
    """The state under the name of a set, read once before a change of it.

    *directory* is None if the name is free. Nothing may be loaded in a directory: an unload leaves
    it where others pinned something in it.
    """

    directory: PinSet | None = None

    @property
    def loaded(self) -> LoadedSet | None:
        """The set, None if nothing is loaded."""
        return self.directory if isinstance(self.directory, LoadedSet) else None


def read_live(pin_root: Path, name: str) -> LiveState:
    """Read set *name* in order to change it; `UnsafePathError` if it is not one of ours."""
    try:
        directory = PinSet.read(pin_root, name)
    except PinNotFoundError:
        return LiveState()
    if directory.state is SetState.FOREIGN or not directory.is_own:
        is_of_root = isinstance(directory, LoadedSet) and not directory.is_own
        reason = "another user loaded it" if is_of_root else directory.reason
        owner = directory.path.lstat().st_uid
        whose = "" if owner == os.geteuid() else f" (it belongs to {user_name(owner)})"
        raise UnsafePathError(
            f"{directory.path} is not a pin set of ours and was left alone: {reason}{whose}",
            path=str(directory.path),
            hint=foreign_fix(directory),
        )
    return LiveState(directory)


def foreign_fix(directory: PinSet) -> str:
    """Return what to do about a directory that is not a pin set of this user."""
    # The record of its objects stays behind where a set of ours lost its manifest.
    if directory.is_own and (directory.path / names.OBJECTS).is_dir():
        return f"detach and unpin the rest: {shell_line('rm -r', directory.path)}"
    return f"find out who made it: {shell_line('ls -la', directory.path)}"


def require_unchanged_programs(live: LoadedSet) -> None:
    """Raise `ProgramChangedError` if a link or a filter of the set runs somebody else's program."""
    for record in live.hooks:
        own_id = own_object_id(live, record)
        if own_id is None:
            continue
        if record.held_by is HeldBy.STUB:
            _require_unchanged_slot(live, record, own_id)
            continue
        if not record.held_by.is_compared:
            # Filters of clsact, routes and maps have no compare-and-swap, so the program is
            # compared beforehand.
            _require_unchanged_place(live, record, own_id)
            continue
        link = live.open_link(record.link) if record.held_by is HeldBy.LINK else None
        if link is None:
            continue
        with link:
            running = link.info
        # Unpinning the link would detach a program that somebody else put there with
        # BPF_LINK_UPDATE.
        if running.is_attached and running.object_id != own_id:
            what = f"{'map' if has_table(record.hook) else 'program'} id {running.object_id}"
            raise ProgramChangedError(
                f"the link of {live.path} at {record.hook} runs {what},"
                f" which is not the set's {record.target or record.program}; it was left alone",
                holder=what,
                hint=f"detach it on purpose: bpftool link detach id {running.id}",
            )


def _require_unchanged_slot(live: LoadedSet, record: HookRecord, own_id: int) -> None:
    running = stub_program_id(live, record)
    if running not in (0, own_id):
        raise ProgramChangedError(
            f"the stub of {live.path} at {record.hook} calls program id {running}, which is not"
            f" the set's {record.program}; it was left alone",
            holder=f"program id {running}",
            hint=Fix.of(
                "put the set's own in its place: load it again with ", Argument("take_over")
            ),
        )


def stub_program_id(live: LoadedSet, record: HookRecord) -> int:
    """Return the id of the program that the stub at a hook calls, 0 for none."""
    link, slot = live.open_link(record.link), live.open_slot(record.link)
    with link or nullcontext(), slot or nullcontext():
        if link is None or slot is None or not link.info.is_attached:
            return 0
        from bpfpin.objects.stub import program_in  # noqa: PLC0415 - few sets have stubs

        return program_in(slot)


def is_shut(live: LoadedSet, record: HookRecord) -> bool:
    """Whether the program at a hook has a gate that does not admit it, so that it sees nothing."""
    numbers = live.manifest.gates.get(record.program)
    if numbers is None:
        return False
    with live.open_slot(names.program_pin_name(record.program)) or nullcontext() as gate:
        # Without the pin, the program still has the map, in which nobody changes the number.
        if gate is None:
            return False
        from bpfpin.objects.gate import state_of  # noqa: PLC0415 - few sets have gates

        return state_of(gate).admitted != numbers.number


def _require_unchanged_place(live: LoadedSet, record: HookRecord, own_id: int) -> None:
    place = live.manifest.place
    running = 0
    with suppress(AttachError):  # the device, the map is gone
        running = reopen(place, record).program_id()
    if running not in (0, own_id):
        hook = Hook(record.hook)
        with namespaces.enter(namespace_of(place)):
            line = code_of(hook).detach_line(hook, place.device, record)
        raise ProgramChangedError(
            f"{record.hook} of {target_name(place, record.hook, record.target)} runs program id"
            f" {running}, which is not the {record.program} of {live.path}; it was left alone",
            holder=f"program id {running}",
            hint=f"remove it on purpose: {in_namespace(place, line)}",
        )


def runs_its_program(live: LoadedSet, record: HookRecord) -> bool:
    """Whether the hook of *record* runs the set's own program now."""
    running = 0
    if record.held_by is HeldBy.STUB:
        running = stub_program_id(live, record)
    elif record.held_by is not HeldBy.LINK:
        with suppress(AttachError):  # the device is gone
            running = reopen(live.manifest.place, record).program_id()
    elif link := live.open_link(record.link):
        with link:
            running = link.info.object_id if link.info.is_attached else 0
    return bool(running) and running == own_object_id(live, record)


def open_own(live: LoadedSet, record: HookRecord) -> Program | Map | None:
    """Open what a hook of the set is to run: its program, or its table (struct_ops)."""
    if has_table(record.hook):
        return live.open_map(record.target)
    return live.open_program(record.program)


def own_object_id(live: PinSet, record: HookRecord) -> int | None:
    """Return the id of what a hook is to run, as `program_id` does."""
    if not has_table(record.hook):
        return program_id(live, record.program)
    table_id = live.id_of("", names.map_pin_name(record.target))
    if table_id is not None:
        return table_id
    with live.open_map(record.target) or nullcontext() as table:
        return table.id if table else None


def program_id(live: PinSet, name: str) -> int | None:
    """Return the id of the set's own program, also where its pin was removed or replaced by hand.

    None if the set neither recorded the id nor has a pin.
    """
    # The record first: a pin can be replaced by somebody else's, the record only by this tool.
    recorded_id = live.id_of(names.PROGRAMS, name)
    if recorded_id is not None:
        return recorded_id
    program = live.open_program(name)
    if program is None:
        return None
    with program:
        return program.id


def notes_on_others(root: Directory, name: str) -> tuple[str, ...]:
    """Return a note on the pins of others that were left in a set's directory, if there are any."""
    with suppress(BpfError):
        foreign = PinSet.read(root.path, name).foreign
        if foreign:
            paths = ", ".join(str(root.path / name / entry) for entry in foreign)
            return (f"left alone, since bpfpin did not pin it: {paths}",)
    return ()
