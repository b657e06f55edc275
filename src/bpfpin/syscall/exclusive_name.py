"""Exclusive access to a ring by a name: a claim that ends with the process that made it.

A ring has one position, so two readers would spoil it for each other. BPF objects cannot be locked
themselves: their descriptors share one anonymous inode. A claim has two parts, because a name that
other users cannot take from root is one that ordinary users cannot take either:

* Root locks (flock(2)) a file in /run/bpfpin that is named after the map's id. Only root can open
  it, so other users cannot keep root from reading. /proc/locks shows the holder to all users.
* Every user listens on a socket in the abstract namespace (unix(7)), in which any user can take any
  name. So a socket counts only if its owner is known to read: root, the same user, or a process
  that has the map open (/proc/PID/fdinfo, as far as this user may read it).

Each process makes its claim first and looks for others then, so that of two processes at least one
sees the other.
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
_ATTEMPTS: Final = 20  # the last holder may remove the file between the open and the lock
_SOCKETS_MAX: Final = 1000  # any user may make any number of them


class Claim(Closing):
    """An exclusive claim; it lasts until `close`, at the latest until the process ends."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._descriptors: list[Descriptor] = []
        self._process = os.getpid()

    def lock(self, path: Path, fd: Descriptor) -> None:
        """Take over the locked file *path*, which is removed with the claim."""
        self._path = path
        self._descriptors.append(fd)

    def listen(self, fd: Descriptor) -> None:
        """Take over a listening socket."""
        self._descriptors.append(fd)

    def close(self) -> None:
        """End the claim. Calling it again does nothing."""
        # The file is removed while it is locked: a process that opened it meanwhile sees that the
        # file has no name any more, and opens again. A forked process shares the lock, and leaves
        # the file to the process that took it.
        if self._path is not None and self._process == os.getpid():
            with suppress(OSError):
                self._path.unlink()
        self._path = None
        while self._descriptors:
            self._descriptors.pop().close()


def acquire(kind: str, map_id: int, *, target: str) -> Claim:
    """Claim to be the only reader (or writer) of map *map_id*.

    Args:
        kind: The use that is claimed; claims of different kinds do not exclude each other.
        map_id: The id of the map.
        target: The map in the message of an error.

    Raises:
        BusyError: Another process has the claim; names its pid if that is visible.
    """
    claim = Claim()
    try:
        if os.geteuid() == ROOT:
            _lock(claim, kind, map_id, target)
        _listen(claim, f"bpfpin/{kind}/{map_id}/")
        if os.geteuid() != ROOT and (pid := _root_holder(kind, map_id)) is not None:
            raise _busy(target, pid)
        own = {fd.fileno() for fd in claim._descriptors}
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
    """Take root's lock, if /run/bpfpin can be a directory that only root writes."""
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
        except OSError:  # on a read-only file system there are only the sockets
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
    """Remove the files of killed readers whose maps are gone."""
    for path in CLAIMS.iterdir():
        # A file without a lock claims nothing; without this, /run would keep one for each killed
        # reader. A process that has just opened the file sees in `_lock` that its name is gone.
        with suppress(OSError, ValueError, PermissionDeniedError):
            map_id = int(path.name.rpartition("-")[2])
            try:
                Descriptor(bpf.map_get_fd_by_id(map_id)).close()
            except IdNotFoundError:
                path.unlink()


def _root_holder(kind: str, map_id: int) -> int | None:
    """Return the pid of the process of root that has the claim, None if none has."""
    if not _is_roots(CLAIMS):
        return None
    with suppress(OSError):
        return fs.lock_holder((CLAIMS / f"{kind}-{map_id}").lstat())
    return None


def _listen(claim: Claim, prefix: str) -> None:
    """Listen under the name of this uid, or with a random suffix if another user took that."""
    # Abstract names belong to a network namespace (network_namespaces(7)): processes in two of them
    # exclude each other by root's file only.
    names = [f"{prefix}{os.geteuid()}"]
    names += [f"{names[0]}.{secrets.token_hex(8)}" for _ in range(_ATTEMPTS)]
    for name in names:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            try:
                listener.bind(f"\0{name}")
            except OSError:  # EADDRINUSE
                continue
            # SO_PEERCRED of a connection has the credentials of this call (unix_listen() of
            # net/unix/af_unix.c), which other users cannot choose.
            listener.listen()
            claim.listen(Descriptor(listener.detach()))
            return


def _listeners(prefix: str, map_id: int, own: set[int]) -> Iterator[int]:
    """Yield the pids of other claims that count."""
    own_inodes = {f"{os.fstat(fd).st_ino}" for fd in own}
    for name in _names(prefix, own_inodes):
        pid, uid = _listener(f"\0{name}")
        if pid and (uid in (ROOT, os.geteuid()) or _has_open(pid, map_id)):
            yield pid


def _names(prefix: str, own_inodes: set[str]) -> list[str]:
    """Return the names of sockets that begin with *prefix*, except those with *own_inodes*."""
    try:
        lines = SOCKETS.read_text(errors="replace").splitlines()
    except OSError:
        return []
    fields = (line.split(maxsplit=7) for line in lines if f"@{prefix}" in line)
    named = [words for words in fields if len(words) == 8 and words[6] not in own_inodes]
    unique = dict.fromkeys(words[7].removeprefix("@") for words in named)
    return [name for name in unique if name.startswith(prefix)][:_SOCKETS_MAX]


def _listener(address: str) -> tuple[int, int]:
    """Return pid and uid of the listener (SO_PEERCRED); (0, 0) if there is none or it is hidden."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        # The listener accepts no connection: with a full backlog, a blocking connect() would wait
        # forever.
        caller.setblocking(False)
        try:
            caller.connect(address)
        except OSError:
            return 0, 0
        raw = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, _ = CREDENTIALS.unpack(raw)
    return pid, uid


def _has_open(pid: int, map_id: int) -> bool:
    """Whether a process has the map open; False if this user may not read its descriptors."""
    # The form is that of bpf_map_show_fdinfo() in kernel/bpf/syscall.c.
    line = f"map_id:\t{map_id}\n"
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
            with suppress(OSError):
                if line in entry.read_text():
                    return True
    return False
