"""One reader at a time for a ring: a claim that ends with the process that made it.

Kernel objects have no file to lock: all of them share one inode. A claim has two parts, since what
no other user can take away from root cannot be taken by an ordinary user, either.

* Root locks (flock(2)) a file of its own in /run, by the map's id. Nobody else can open that file,
  so nobody can keep root from reading; all may see in /proc/locks that root reads.
* Everybody listens on a socket in the abstract namespace (unix(7)), whose names anybody may take.
  Such a socket counts only if whoever made it is shown to read: root, the same user, or a process
  that has the map open (/proc/PID/fdinfo, as far as we may look).

Each announces itself first and looks for others then, so that of two at least one sees the other.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from bpfpin.errors import BusyError, IdNotFoundError, PermissionDeniedError
from bpfpin.syscall import bpf, fs
from bpfpin.syscall.fd import Closing, Descriptor

CLAIMS: Final = Path("/run/bpfpin")
CREDENTIALS: Final = struct.Struct("iII")  # struct ucred of the socket's listener: pid, uid, gid
SOCKETS: Final = Path("/proc/thread-self/net/unix")
ROOT: Final = 0

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_ATTEMPTS: Final = 20  # a file that its last holder removes meanwhile is made anew
_SOCKETS_MAX: Final = 1000  # anybody may make them in any number


class Claim(Closing):
    """A claim that is held until it is closed, at the latest until the process ends."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._held: list[Descriptor] = []
        self._process = os.getpid()

    def lock(self, path: Path, fd: Descriptor) -> None:
        """Own the lock on the file *path*, which goes with the claim."""
        self._path = path
        self._held.append(fd)

    def listen(self, fd: Descriptor) -> None:
        """Own a socket."""
        self._held.append(fd)

    def close(self) -> None:
        """Let others read; again does nothing."""
        # Removed while it is locked: whoever opened it meanwhile sees that it has no name. A forked
        # process shares the lock, and leaves it to the one that took it.
        if self._path is not None and self._process == os.getpid():
            with suppress(OSError):
                self._path.unlink()
        self._path = None
        while self._held:
            self._held.pop().close()


def acquire(kind: str, map_id: int, *, target: str) -> Claim:
    """Claim the reading (or writing) of map *map_id*; `BusyError` while another holds it.

    *kind* keeps claims of different meaning apart; *target* is what the error calls the map.
    """
    claim = Claim()
    try:
        if os.geteuid() == ROOT:
            _lock(claim, kind, map_id, target)
        _listen(claim, f"bpfpin/{kind}/{map_id}/")
        if os.geteuid() != ROOT and (pid := _root_holder(kind, map_id)) is not None:
            raise _busy(target, pid)
        own = {fd.fileno() for fd in claim._held}
        for pid in _listeners(f"bpfpin/{kind}/{map_id}/", map_id, own):
            raise _busy(target, pid)
    except BaseException:
        claim.close()
        raise
    return claim


def _busy(target: str, pid: int) -> BusyError:
    return BusyError(
        f"{target} is read or written by {f'process {pid}' if pid else 'another process'} already",
        holder=f"pid {pid}" if pid else "",
        hint="two at once spoil each other's position; end that process first",
    )


def _lock(claim: Claim, kind: str, map_id: int, target: str) -> None:
    """Take root's lock, where there is a place for it that is root's alone."""
    with suppress(OSError):
        CLAIMS.mkdir(0o755)
    if not _is_roots(CLAIMS):
        return
    _sweep()
    path = CLAIMS / f"{kind}-{map_id}"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(_ATTEMPTS):
        try:
            fd = Descriptor(os.open(path, flags, 0o600))
        except OSError:  # a file system that is read-only: the sockets have to do
            return
        with fd:
            if not fs.try_lock(fd.fileno()):
                raise _busy(target, fs.lock_holder(os.fstat(fd.fileno())) or 0)
            if _is_same(path, fd):
                claim.lock(path, fd.duplicate())
                return


def _is_roots(directory: Path) -> bool:
    with suppress(OSError):
        status = directory.lstat()
        is_safe = status.st_uid == ROOT and not status.st_mode & _OTHERS_WRITE
        return is_safe and stat.S_ISDIR(status.st_mode)
    return False


def _is_same(path: Path, fd: Descriptor) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(fd.fileno()))
    return False


def _sweep() -> None:
    """Remove what killed readers left, of maps that are gone: nobody can read those any more."""
    for path in CLAIMS.iterdir():
        with suppress(OSError, ValueError, PermissionDeniedError):
            map_id = int(path.name.rpartition("-")[2])
            try:
                Descriptor(bpf.map_get_fd_by_id(map_id)).close()
            except IdNotFoundError:
                path.unlink()


def _root_holder(kind: str, map_id: int) -> int | None:
    """Return the pid of root's process that holds the claim, None if none does."""
    if not _is_roots(CLAIMS):
        return None
    with suppress(OSError):
        return fs.lock_holder((CLAIMS / f"{kind}-{map_id}").lstat())
    return None


def _listen(claim: Claim, prefix: str) -> None:
    """Listen under our uid's name, or where another user took that, under any."""
    names = [f"{prefix}{os.geteuid()}"]
    names += [f"{names[0]}.{secrets.token_hex(8)}" for _ in range(_ATTEMPTS)]
    for name in names:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            try:
                listener.bind(f"\0{name}")
            except OSError:  # EADDRINUSE
                continue
            listener.listen()
            claim.listen(Descriptor(listener.detach()))
            return


def _listeners(prefix: str, map_id: int, own: set[int]) -> Iterator[int]:
    """Yield the pids of other claims that count."""
    mine = {f"{os.fstat(fd).st_ino}" for fd in own}
    for name in _names(prefix, mine):
        pid, uid = _listener(f"\0{name}")
        if pid and (uid in (ROOT, os.geteuid()) or _has_open(pid, map_id)):
            yield pid


def _names(prefix: str, mine: set[str]) -> list[str]:
    """Return the names of sockets that begin with *prefix*, but for those of the inodes *mine*."""
    try:
        lines = SOCKETS.read_text(errors="replace").splitlines()
    except OSError:
        return []
    fields = (line.split(maxsplit=7) for line in lines if f"@{prefix}" in line)
    named = [words for words in fields if len(words) == 8 and words[6] not in mine]
    found = dict.fromkeys(words[7].removeprefix("@") for words in named)
    return [name for name in found if name.startswith(prefix)][:_SOCKETS_MAX]


def _listener(address: str) -> tuple[int, int]:
    """Return pid and uid of who listens there; (0, 0) if nobody does or that does not show."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(address)
        except OSError:
            return 0, 0
        raw = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, _ = CREDENTIALS.unpack(raw)
    return pid, uid


def _has_open(pid: int, map_id: int) -> bool:
    """Whether a process has the map open; False where we may not look."""
    line = f"map_id:\t{map_id}\n"
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
            with suppress(OSError):
                if line in entry.read_text():
                    return True
    return False
