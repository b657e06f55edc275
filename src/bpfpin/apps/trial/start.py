"""The small process that waits beside a change on trial: started, found again, ended.

From its first instruction on it holds a sealed memory file that says which trial it belongs to.
Such a file belongs to the user who made it, and no other user can make one for him. So the process
is known by what it holds, whatever is left of the records, and nobody can have another one ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bpfpin.errors import BpfError
from bpfpin.pins.directory import Directory
from bpfpin.pins.record import Record
from bpfpin.pins.trial import Trial, TrialPlace
from bpfpin.syscall.fd import Closing, Descriptor

MODULE: Final = "bpfpin.apps.trial.process"

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


class Started(Closing):
    """The waiting process that was just started.

    Closing this tells the process that the command is over. It then looks whether the trial has
    begun, and takes the change back at once if not. The death of the command says the same.
    """

    def __init__(self, pid: int, started: int, gate: Descriptor) -> None:
        self.pid = pid
        self.started = started
        self._gate = gate

    def close(self) -> None:
        """Let the process go on by itself."""
        self._gate.close()


def start_waiting(
    place: TrialPlace, token: str, deadline_ms: int, *, keeps: Sequence[int] = ()
) -> Started:
    """Start the process that takes the change back at the deadline.

    It is a new interpreter in a session of its own. It holds the descriptors *keeps*, the file that
    says what it is, and one end of a pipe until the command is over. It has read all the code it
    needs when this returns.
    """
    with ExitStack() as opened:
        try:
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
    """Run the process, which leaves a child of its own behind; return pid and start of that."""
    answer = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=keeps,
        start_new_session=True,
        timeout=_START_TIMEOUT_S,
        check=True,
        text=True,
    ).stdout
    pid, started = answer.split()
    return int(pid), int(started)


def _identity_file(place: TrialPlace, token: str) -> Descriptor:
    """Return a sealed memory file that says which trial its holder waits beside."""
    status = place.root.stat()
    root = f"{status.st_dev}:{status.st_ino}"
    text = {"root": root, "parent": place.parent, "entry": place.entry, "token": token}
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        identity = Descriptor(os.memfd_create(_IDENTITY, flags | _MFD_NOEXEC_SEAL))
    except OSError:
        identity = Descriptor(os.memfd_create(_IDENTITY, flags))
    os.write(identity.fileno(), json.dumps(text).encode())
    fcntl.fcntl(identity.fileno(), fcntl.F_ADD_SEALS, _SEALS)
    return identity


@dataclass(frozen=True, slots=True)
class Waiting:
    """A process that waits beside the trial *entry* of *parent*, found by what it holds."""

    pid: int
    root: str
    parent: str
    entry: str
    token: str
    holds_link: bool = False


def waiting_processes(root: Directory) -> Iterator[Waiting]:
    """Yield the processes that wait beside trials below *root*, but not the calling one.

    Those of another PID namespace are not seen.
    """
    status = root.status
    here = f"{status.st_dev}:{status.st_ino}"
    for entry in os.listdir(_PROC):  # noqa: PTH208 - on a large host a Path for each is slow
        if entry.isdigit() and int(entry) != os.getpid():
            process = _look_at(int(entry))
            if process is not None and process.root == here:
                yield process


def _look_at(pid: int) -> Waiting | None:
    """Return what the process *pid* waits beside, None if it is no waiting process of this user."""
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
                    record = Record.load(file.read(_IDENTITY_SIZE_MAX))
                root, parent = record.text("root"), record.text("parent")
                entry, token = record.text("entry"), record.text("token")
                return Waiting(pid, root, parent, entry, token, holds_link)
    return None


def _is_named_so(pid: int) -> bool:
    """Whether the command line is that of a waiting process; quick, for all are looked at."""
    words = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY)
    try:
        return MODULE.encode() in os.read(words, _IDENTITY_SIZE_MAX)
    finally:
        os.close(words)


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it is gone."""
    try:
        words = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if words[0] in ("Z", "X") else int(words[_START_TIME_FIELD])


def is_waiting(trial: Trial) -> bool:
    """Whether the process of the trial is alive."""
    return start_time(trial.pid) == trial.started


def end_waiting(trial: Trial) -> None:
    """End the process of a trial that is over, and wait until it has let go of what it held.

    Its record must be gone: from then on the process has nothing to do and nothing to lose.
    """
    if trial.pid != os.getpid():
        _kill(trial.pid, lambda: is_waiting(trial))


def end_process(process: Waiting) -> None:
    """End a waiting process that was found, and wait until it has let go of what it held."""
    _kill(process.pid, lambda: _look_at(process.pid) == process)


def _kill(pid: int, is_still: Callable[[], bool]) -> None:
    """Kill the process that has the number *pid* if it is still the one that is meant.

    One that cannot be killed takes nothing back: there is no trial of it any more.
    """
    with suppress(OSError), Descriptor(os.pidfd_open(pid)) as process:
        if is_still():
            signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)
            poll = select.poll()
            poll.register(process.fileno(), select.POLLIN)
            poll.poll(_END_TIMEOUT_MS)
