"""Trials: a change that is taken back unless it is confirmed in time.

A small process waits beside each trial and takes the change back at the deadline. From its first
instruction on it holds a sealed memory file that says which trial it belongs to. Such a file
belongs to the user that made it, and no other user can make one for him. So the process is known by
its memory file, whatever is left of the records, and nobody can have another process ended.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bpfpin.errors import (
    AttachError,
    BpfError,
    BusyError,
    KeyNotFoundError,
    NotBpffsError,
    PinNotFoundError,
    ProgramChangedError,
    UnsafePathError,
)
from bpfpin.hints import shell_line
from bpfpin.objects.maps.map import Map
from bpfpin.pins import bpffs, names
from bpfpin.pins.directory import Directory, unsafe_reason
from bpfpin.pins.lock import locked, locked_root
from bpfpin.pins.manifest import (
    AttachPoint,
    GateNumbers,
    HookRecord,
    JsonObject,
    Manifest,
    read_manifest,
)
from bpfpin.pins.ownership import ObjectIds
from bpfpin.pins.pinset import LoadedSet, PinSet
from bpfpin.pins.recover import detach_generation
from bpfpin.pins.trial import (
    BEFORE,
    CONFIRM,
    MAP,
    EntryChange,
    Trial,
    TrialPlace,
    copy_generation,
    end_record,
    read_trial,
)
from bpfpin.pins.trial import end_trial as remove_trial
from bpfpin.records import dataclass
from bpfpin.sets.live import open_own, read_live, recovered, reopen
from bpfpin.syscall.fd import Closing, Descriptor
from bpfpin.syscall.signals import signals_deferred

if TYPE_CHECKING:
    from bpfpin.pins.transaction import Stage

MODULE: Final = "bpfpin.sets.trial_process"
_START_TIMEOUT_S: Final = 30.0
_END_TIMEOUT_MS: Final = 10_000
_START_TIME_FIELD: Final = 19  # of /proc/PID/stat, counted after the name
_IDENTITY: Final = "bpfpin-trial"
_IDENTITY_LINK: Final = f"/memfd:{_IDENTITY}"  # and " (deleted)", as /proc/PID/fd shows it
_BPF_LINK: Final = "anon_inode:bpf_link"
_IDENTITY_SIZE_MAX: Final = 4096
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MFD_NOEXEC_SEAL: Final = 0x8  # since Linux 6.3, where vm.memfd_noexec may ask for it
_PROC: Final = Path("/proc")
_LOCK_TIMEOUT_S: Final = 60.0


class Started(Closing):
    """The waiting process that was just started.

    Closing this tells the process that the command is over, and so does the death of the command.
    If the trial has not begun by then, the process takes the change back at once.
    """

    def __init__(self, pid: int, started: int, gate: Descriptor) -> None:
        self.pid = pid
        self.started = started
        self._gate = gate

    def close(self) -> None:
        """Leave the process to itself."""
        self._gate.close()


def start_waiting(
    place: TrialPlace, token: str, deadline_ms: int, *, keeps: Sequence[int] = ()
) -> Started:
    """Start the process that takes the change back at the deadline.

    It is a new interpreter in a session of its own. It holds the descriptors *keeps*, its identity
    file, and one end of a pipe until the command is over. When this returns, it has read all the
    code it needs.
    """
    import subprocess  # noqa: PLC0415  (only to start the process that waits)

    with ExitStack() as opened:
        try:
            # This command alone holds the write end, so its end, by whatever cause, is a hang-up
            # for the process.
            reading, writing = os.pipe()
            waits_for = opened.enter_context(Descriptor(reading))
            gate = opened.enter_context(Descriptor(writing))
            identity = opened.enter_context(_identity_file(place, token))
            # -P: as root, nothing is imported from a directory that happens to be the current one.
            command = [sys.executable, "-P", "-m", MODULE, str(place.root.absolute())]
            command += [place.parent, place.entry, token, str(deadline_ms)]
            command += [str(waits_for.fileno()), *map(str, keeps)]
            pid, started = _run(command, (waits_for.fileno(), identity.fileno(), *keeps))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            words = str(getattr(error, "stdout", "") or error).strip()
            raise BpfError(
                "the process that would take it back could not be started, so nothing was changed:"
                f" {words}"
            ) from None
        return Started(pid, started, Descriptor(gate.release()))


def _run(command: Sequence[str], keeps: tuple[int, ...]) -> tuple[int, int]:
    """Run the process, which forks and ends; return pid and start time of its child."""
    import subprocess  # noqa: PLC0415  (only to start the process that waits)

    answer = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=keeps,
        # SIGINT and SIGHUP of the terminal must not reach the process.
        start_new_session=True,
        timeout=_START_TIMEOUT_S,
        check=True,
        text=True,
    ).stdout
    pid, started = answer.split()
    return int(pid), int(started)


def _identity_file(place: TrialPlace, token: str) -> Descriptor:
    """Return a sealed memory file that names the trial of the process that holds it."""
    status = place.root.stat()
    root = f"{status.st_dev}:{status.st_ino}"
    text = {"root": root, "parent": place.parent, "entry": place.entry, "token": token}
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        identity = Descriptor(os.memfd_create(_IDENTITY, flags | _MFD_NOEXEC_SEAL))
    except OSError:
        # Linux before 6.3 refuses MFD_NOEXEC_SEAL with EINVAL.
        identity = Descriptor(os.memfd_create(_IDENTITY, flags))
    os.write(identity.fileno(), json.dumps(text).encode())
    # Sealed, since the file is proof of which trial the process belongs to: nobody can write it any
    # more, not even the process (memfd_create(2)).
    fcntl.fcntl(identity.fileno(), fcntl.F_ADD_SEALS, _SEALS)
    return identity


@dataclass(frozen=True, slots=True)
class Waiting:
    """A process that waits beside the trial *entry* of *parent*, known by its identity file."""

    pid: int
    root: str
    parent: str
    entry: str
    token: str
    holds_link: bool = False


def waiting_processes(root: Directory) -> Iterator[Waiting]:
    """Yield the processes that wait beside trials below *root*, except the calling one.

    Processes of another PID namespace cannot be seen.
    """
    status = root.status
    here = f"{status.st_dev}:{status.st_ino}"
    for entry in os.listdir(_PROC):  # noqa: PTH208 - on a large host a Path for each is slow
        if entry.isdigit() and int(entry) != os.getpid():
            process = _look_at(int(entry))
            if process is not None and process.root == here:
                yield process


def _look_at(pid: int) -> Waiting | None:
    """Return process *pid* if it is a waiting process of this user."""
    with suppress(OSError, ValueError):
        if not _is_named_so(pid):
            return None
        process = _PROC / str(pid)
        descriptors = [(path, path.readlink()) for path in (process / "fd").iterdir()]
        holds_link = any(str(target) == _BPF_LINK for _, target in descriptors)
        for path, target in descriptors:
            # The owner of a memory file is its maker; a user namespace does not change that.
            if str(target).startswith(_IDENTITY_LINK) and path.stat().st_uid == os.geteuid():
                with path.open() as file:
                    record = JsonObject.load(file.read(_IDENTITY_SIZE_MAX))
                root, parent = record.text("root"), record.text("parent")
                entry, token = record.text("entry"), record.text("token")
                return Waiting(pid, root, parent, entry, token, holds_link)
    return None


def _is_named_so(pid: int) -> bool:
    """Whether the command line is that of a waiting process: a fast check for every process."""
    words = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY)
    try:
        return MODULE.encode() in os.read(words, _IDENTITY_SIZE_MAX)
    finally:
        os.close(words)


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it is gone."""
    try:
        # The name of a process may contain spaces and parentheses; the last one ends it
        # (proc_pid_stat(5)).
        words = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A zombie has ended, and has closed its descriptors; its pid is only kept for its parent.
    return None if words[0] in ("Z", "X") else int(words[_START_TIME_FIELD])


def is_waiting(trial: Trial) -> bool:
    """Whether the process of the trial is alive."""
    # A pid may be in use again; together with the start time it identifies a process until the next
    # boot, and bpffs does not outlive that.
    return start_time(trial.pid) == trial.started


def end_waiting(trial: Trial) -> None:
    """End the process of a trial that is over, and wait until its descriptors are closed.

    The record of the trial must be gone, so that the process has nothing left to do.
    """
    if trial.pid != os.getpid():
        _kill(trial.pid, lambda: is_waiting(trial))


def end_process(process: Waiting) -> None:
    """End a waiting process, and wait until its descriptors are closed."""
    _kill(process.pid, lambda: _look_at(process.pid) == process)


def _kill(pid: int, is_still: Callable[[], bool]) -> None:
    """Kill process *pid* if *is_still* says that it is the same process.

    A process that cannot be killed takes nothing back: its trial has no record any more.
    """
    import select  # noqa: PLC0415  (few changes are on trial)

    # The pidfd is opened before the process is looked at. If the number is given to another process
    # in between, the look fails; afterwards the signal can hit no other (pidfd_open(2)).
    with suppress(OSError), Descriptor(os.pidfd_open(pid)) as process:
        if is_still():
            signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)
            # A pidfd is readable once the process has ended. The kernel has closed its descriptors
            # by then: do_exit() of kernel/exit.c calls exit_files() before exit_notify().
            poll = select.poll()
            poll.register(process.fileno(), select.POLLIN)
            poll.poll(_END_TIMEOUT_MS)


def trial_at(place: TrialPlace) -> Trial | None:
    """Return the trial at *place*, None if there is none; takes no lock."""
    with (
        suppress(PinNotFoundError, UnsafePathError),
        Directory.open(place.root) as root,
        root.child(place.parent) as parent,
    ):
        # Anybody may make a directory of that name in a bpffs of mode 1777, and trials in it.
        return None if unsafe_reason(parent.status) else read_trial(parent, place.entry)
    return None


def trial_of(pin_set: PinSet) -> Trial | None:
    """Return the trial of a set, None if there is none."""
    if not pin_set.is_readable:
        return None
    return trial_at(TrialPlace(pin_set.path.parent, pin_set.path.name))


def describe_trial(trial: Trial, shown: str) -> str:
    """Describe a trial in one line; *shown* is the set or device as it is typed."""
    if is_overdue(trial):
        return (
            f"{trial.what} {_why_over(trial)}: the next command that changes {shown}"
            " puts back what was before"
        )
    return (
        f"{trial.what} is on trial, and goes back in {trial.left_s:.0f} seconds;"
        f" to keep it: {shell_line('bpfpin confirm', shown)}"
    )


def is_overdue(trial: Trial) -> bool:
    """Whether the trial cannot be confirmed any more.

    The deadline passed, its links ended with their process, or it never began. Only with the lock
    held is it certain that the trial never began: without it the command may still be running.
    """
    # Only links end with the process. An entry of a map stays, and can still be confirmed.
    is_ended = bool(trial.links) and not is_waiting(trial)
    return not trial.is_begun or trial.is_late or is_ended


def _why_over(trial: Trial) -> str:
    if not trial.is_begun:
        return "was not completed by the command that put it on trial"
    return "was not confirmed in time"


def settle(root: Directory, place: TrialPlace) -> tuple[str, ...]:
    """Take an overdue change back, and return notes; the lock must be held.

    Orphaned waiting processes are ended, and the rest of an ended trial is removed. `BusyError` if
    a change is on trial that can still be confirmed. Every command calls this after `recovered` and
    before it changes anything.
    """
    # First: an orphan may hold a link that keeps the hook busy for the next load.
    notes = end_orphans(root)
    with suppress(PinNotFoundError), root.child(place.parent) as parent:
        trial = read_trial(parent, place.entry)
        if trial is not None:
            notes += _settle(root, place, trial)
        else:
            _forget(parent, place)
    return notes


def _forget(parent: Directory, place: TrialPlace) -> None:
    """Remove the rest of a trial that is over, unless the directory is somebody else's."""
    with suppress(UnsafePathError):
        if place.set:
            read_manifest(parent)
        end_trial(parent, place.entry)


def end_trial(parent: Directory, entry: str = CONFIRM) -> None:
    """Remove a trial, and detach what left the set and was kept for its way back."""
    # The record first: with it the trial could still go back, to hooks that are gone.
    end_record(parent, entry)
    with suppress(PinNotFoundError), parent.child(entry) as room, room.child(BEFORE) as before:
        # Links go with their pins. What no link holds has none.
        detach_generation(before, reopen)
    remove_trial(parent, entry)


def orphans(root: Directory) -> tuple[Waiting, ...]:
    """Return the waiting processes whose trial has no record.

    Without the lock a command may be about to write that record.
    """
    return tuple(process for process in waiting_processes(root) if not _has_trial(root, process))


def end_orphans(root: Directory) -> tuple[str, ...]:
    """End the `orphans`, and return notes on those that held a link; the lock must be held."""
    notes = []
    for process in orphans(root):
        end_process(process)
        if process.holds_link:
            notes.append(f"{describe_orphan(process)}: it was ended")
    return tuple(notes)


def end_orphans_below(pin_root: Path, *, lock_timeout_s: float) -> None:
    """Do what `end_orphans` does, also where no set exists; errors are ignored."""
    with suppress(BpfError), locked_root(pin_root, timeout_s=lock_timeout_s) as root:
        end_orphans(root)


def describe_orphan(process: Waiting) -> str:
    """Describe a process that waits beside a trial that is over."""
    holds = "still holds the link of" if process.holds_link else "still waits beside"
    return f"process {process.pid} {holds} a trial that is over"


def _has_trial(root: Directory, process: Waiting) -> bool:
    with suppress(PinNotFoundError, UnsafePathError), root.child(process.parent) as parent:
        trial = read_trial(parent, process.entry)
        return trial is not None and trial.token == process.token
    return False


def _settle(root: Directory, place: TrialPlace, trial: Trial) -> tuple[str, ...]:
    if is_overdue(trial):
        return (put_back(root, place, trial),)
    shown = shown_name(place, trial)
    raise BusyError(
        f"{shown} is on trial: {trial.what} goes back in {trial.left_s:.0f} seconds",
        holder=f"pid {trial.pid}",
        hint=f"keep it: {shell_line('bpfpin confirm', shown)}; or wait until it went back",
    )


def shown_name(place: TrialPlace, trial: Trial) -> str:
    """Return the set or the device of a trial, as its user types it."""
    return names.display_name(place.set) if place.set else trial.device


def expire(place: TrialPlace, token: str) -> None:
    """Take the change of trial *token* back if it was not confirmed: what the process does."""
    try:
        root = bpffs.open_to_change(place.root)
    except (PinNotFoundError, NotBpffsError):  # unmounted, and all that ran with it
        return
    with root, locked(root, timeout_s=_LOCK_TIMEOUT_S):
        if place.set:
            recovered(root, place.set)
        with suppress(PinNotFoundError), root.child(place.parent) as parent:
            trial = read_trial(parent, place.entry)
            if trial is None:  # a command that was killed may have left the room for one
                _forget(parent, place)
            # With another token it is a later trial, which has a process of its own.
            elif trial.token == token:
                put_back(root, place, trial)


def put_back(root: Directory, place: TrialPlace, trial: Trial) -> str:
    """Take the change back and return a note; the lock must be held.

    A hook or an entry that somebody else changed meanwhile is left alone: only the trial ends.
    """
    with signals_deferred():
        try:
            if trial.change is not None:
                _put_entry_back(root, place, trial.change)
            else:
                _put_generation_back(root, place.set)
            note = f"{trial.what} {_why_over(trial)}: what was before is back"
        except (ProgramChangedError, AttachError) as error:
            note = f"{trial.what} was not confirmed, but cannot go back: {error.message}"
        with suppress(PinNotFoundError), root.child(place.parent) as parent:
            # Putting a generation back removes the record with the generation on trial; a change of
            # an entry leaves it.
            now = read_trial(parent, place.entry)
            if now is not None and now.token == trial.token:
                end_trial(parent, place.entry)
        end_waiting(trial)
    return note


def _put_entry_back(root: Directory, place: TrialPlace, change: EntryChange) -> None:
    with (
        root.child(place.parent) as parent,
        parent.child(place.entry) as room,
        Map.from_pin(room.path / MAP) as bpf_map,
        suppress(KeyNotFoundError),
    ):
        # Updates of a map have no compare-and-swap: a value that another process writes between the
        # lookup and the update is overwritten.
        if bpf_map.lookup_bytes(change.key) != change.new:
            return  # somebody chose another value since
        if change.old is None:
            bpf_map.delete_bytes(change.key)
        else:
            bpf_map.update_bytes(change.key, change.old)


def _put_generation_back(root: Directory, name: str) -> None:
    # Every change looks for trials, and few have one to put back.
    from bpfpin.pins.transaction import next_generation, remove  # noqa: PLC0415
    from bpfpin.sets.shared import map_ids, unshared  # noqa: PLC0415

    live = read_live(root.path, name).loaded
    if live is None:
        return
    before = _manifest_before(root, name)
    # Read before the stage is built, which pins the same maps once more.
    leaving = [pin for pin in live.outside if before is None or pin not in before.outside]
    unused, _ = unshared(root.path, [live], map_ids(live, leaving))
    # A first load: going back means that nothing is loaded.
    if before is None:
        remove(root, name, reopen, unused)
        return
    with next_generation(root, name, reopen) as stage:
        _Return(root, live, before).build(stage)
        for pin, map_id in unused.items():
            stage.unshare(pin, map_id)


def _manifest_before(root: Directory, name: str) -> Manifest | None:
    """Return the manifest of the generation that a load replaced, None if there was none."""
    with root.child(name) as directory, directory.child(CONFIRM) as room:
        if not room.has(BEFORE):
            return None
        with room.child(BEFORE) as before:
            return read_manifest(before)


class _Return:
    """Builds the next generation from the one before the load."""

    def __init__(self, root: Directory, live: LoadedSet, before: Manifest) -> None:
        self._root = root
        self._live = live
        self._before = before

    def build(self, stage: Stage) -> None:
        """Copy the generation before into *stage*, and pin the programs that its hooks run now."""
        name = self._live.name
        with ExitStack() as opened:
            directory = opened.enter_context(self._root.child(name))
            room = opened.enter_context(directory.child(CONFIRM))
            before = opened.enter_context(room.child(BEFORE))
            built = opened.enter_context(self._root.child(names.stage_name(name)))
            moved = self._moved(ObjectIds.read(before))
            copy_generation(before, built)
            # The copy has the manifest of the generation before. The one of this generation is
            # written last, as in every stage.
            built.unlink(names.MANIFEST)
        for link, record in moved:
            if leaving := open_own(self._live, record):
                with leaving:
                    stage.pin_previous(link, leaving)
        # The programs that came run until the switch; those of before have their gates still.
        gates = {
            name: GateNumbers(numbers.number, _admitted(self._live.manifest, name))
            for name, numbers in self._before.gates.items()
        }
        # Going back is a generation of its own, so that no two generations of a set have one
        # number.
        generation = self._live.manifest.generation + 1
        stage.write_manifest(
            dataclasses.replace(
                self._before, generation=generation, time=int(time.time()), gates=gates
            )
        )

    def _moved(self, objects: ObjectIds | None) -> list[tuple[str, HookRecord]]:
        """Return the hooks of the generation before that the load switched.

        Each with the name that its pin had before and its record now. *objects* are
        the recorded ids of the generation before.
        """
        # By what they are, not by name: a pin has the program in its name where a hook has several.
        before_ids = objects.links if objects else {}
        before, now = self._before.place, self._live.manifest.place
        live_ids = self._live.objects.links if self._live.objects else {}
        names_before = {_hook_key(before, one, before_ids): one.link for one in self._before.hooks}
        records = {_hook_key(now, one, live_ids): one for one in self._live.hooks}
        return [(names_before[key], records[key]) for key in names_before if key in records]


def _admitted(manifest: Manifest, program: str) -> int:
    numbers = manifest.gates.get(program)
    return numbers.number if numbers else 0


def _hook_key(place: AttachPoint, record: HookRecord, ids: Mapping[str, int]) -> tuple[object, ...]:
    """Return what identifies a hook in two generations: its link, or where the kernel has it."""
    if record.held_by.has_link:
        # Sets of the first versions recorded no ids, and their pins keep their names.
        return record.hook, ids.get(record.link, record.link)
    where = (place.netns_inode, place.ifindex)
    return (record.hook, record.target, *where, record.priority, record.handle)
