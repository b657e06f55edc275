"""Exclusive access to a ring by a name: a claim that ends with the process that made it.

A ring has one position, so two readers would spoil it for each other. BPF objects cannot be locked
themselves: their descriptors share one anonymous inode. A claim has two parts, because a name that
other users cannot take from root is one that ordinary users cannot take either:

* Root locks (flock(2)) a file in /run/bpfpin that is named after the map's id. Only root can open
  it, so other users cannot keep root from reading. /proc/locks shows the holder to all users.
* Every user listens on a socket in the abstract namespace (unix(7)), in which any user can take any
  name. So a socket counts only if its owner is known to read: root, the same user, or a process
  that has the map open (/proc/PID/fdinfo, as far as this user may read it).

The owner of a socket is what the kernel says (sock_diag(7), UNIX_DIAG_UID since Linux 5.3), and not
whether a connection succeeds: nobody accepts the connections, so that any user can fill the
backlog. Without CONFIG_UNIX_DIAG the owner of a full socket may be unknown. Such a socket keeps
ordinary users away, and root only where there is no lock.

Each process makes its claim first and looks for others then, so that of two processes at least one
sees the other.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import stat
import struct
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from bpfpin.errors import BpfError, BusyError, IdNotFoundError, PermissionDeniedError
from bpfpin.syscall import bpf, fs
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Closing, Descriptor
from bpfpin.syscall.rtnetlink import DiagCommand, RequestFlag, attributes, request

CLAIMS: Final = Path("/run/bpfpin")
CREDENTIALS: Final = struct.Struct("iII")  # struct ucred of the socket's listener: pid, uid, gid
SOCKETS: Final = Path("/proc/thread-self/net/unix")
ROOT: Final = 0

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_ATTEMPTS: Final = 20  # the last holder may remove the file between the open and the lock
_SOCKETS_MAX: Final = 100  # of each other user; anyone can make any number of them
_ACCEPTS: Final = 1 << 16  # __SO_ACCEPTCON of linux/net.h
_TCP_LISTEN: Final = 10  # net/tcp_states.h
DIAG_FAMILY: Final = int(socket.AF_UNIX)
# unix_diag_req and the start of unix_diag_msg; UDIAG_SHOW_* and UNIX_DIAG_* (linux/unix_diag.h).
_DIAG_REQUEST: Final = struct.Struct("=BBHIIIii")
_DIAG_ANSWER: Final = struct.Struct("=BBHI8x")
_SHOW_NAME, _SHOW_UID = 0x1, 0x40
_DIAG_NAME, _DIAG_UID = 0, 7


class _Listening(NamedTuple):
    """A listening socket: its name as an address, its inode, its owner if the kernel tells it."""

    name: str
    inode: int
    uid: int | None


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

    @property
    def is_locked(self) -> bool:
        """Whether it has root's lock."""
        return self._path is not None

    def inodes(self) -> set[int]:
        """Return the inodes of its lock and its socket."""
        return {os.fstat(fd.fileno()).st_ino for fd in self._descriptors}

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
        BusyError: Another process has the claim, or may have it without being visible. Names
            the pid if that is visible.
        SyscallError: The claim would exclude nobody: there is neither a lock nor a socket.
    """
    claim = Claim()
    try:
        if os.geteuid() == ROOT:
            _lock(claim, kind, map_id, target)
        _listen(claim, f"bpfpin/{kind}/{map_id}/", target)
        if os.geteuid() != ROOT and (pid := _root_holder(kind, map_id)) is not None:
            raise _busy(target, pid)
        _refuse_others(f"bpfpin/{kind}/{map_id}/", map_id, claim, target)
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


def _listen(claim: Claim, prefix: str, target: str) -> None:
    """Listen under the name of this uid, or with a random suffix if another user took that."""
    # Abstract names belong to a network namespace (network_namespaces(7)): processes in two of them
    # exclude each other by root's file only.
    names = [f"{prefix}{os.geteuid()}"]
    names += [f"{names[0]}.{secrets.token_hex(8)}" for _ in range(_ATTEMPTS)]
    for name in names:
        call = "socket"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                call = "bind"
                listener.bind(f"\0{name}")
                # SO_PEERCRED of a connection has the credentials of this call (unix_listen() of
                # net/unix/af_unix.c), which other users cannot choose.
                call = "listen"
                listener.listen()
                claim.listen(Descriptor(listener.detach()))
                return
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            if claim.is_locked:  # the lock alone excludes what matters most, root
                return
            raise syscall_error(call, error.errno or 0, target=target) from None
    raise syscall_error("bind", errno.EADDRINUSE, target=target)


def _refuse_others(prefix: str, map_id: int, claim: Claim, target: str) -> None:
    """Raise `BusyError` if another socket is a claim that counts."""
    known = (ROOT, os.geteuid())
    try:
        sockets, is_whole = _others(prefix, claim.inodes())
    except BpfError:
        if claim.is_locked:
            return
        raise
    # Where the kernel does not tell owners, the sockets of a flood may hide a claim.
    is_clear = is_whole or all(one.uid is not None for one in sockets)
    # Once each, however many sockets another user listens on.
    processes = cache(lambda: _processes_by_socket(one.inode for one in sockets))
    has_open = cache(_has_open)
    for other in sockets:
        if (peer := _peer(other.name)) is None:
            continue
        pid, uid = peer
        uid = other.uid if uid is None else uid
        pid = pid or processes().get(other.inode, 0)
        uid = _uid_of(pid) if uid is None and pid else uid
        if uid in known or (pid and has_open(pid, map_id)):
            raise _busy(target, pid)
        is_clear &= uid is not None
    if not is_clear and not claim.is_locked:
        raise BusyError(
            f"{target}: another process may read or write it already: who listens on the sockets"
            f" @{prefix} is not visible here",
            hint=f"ss -xlp | grep @{prefix}, as root, shows the processes",
        )


def _others(prefix: str, own_inodes: set[int]) -> tuple[list[_Listening], bool]:
    """Return the listening sockets whose names begin with *prefix*, and whether these are all.

    Those of root are all there, first, then those of this user; of each other user some.
    """
    known = (ROOT, os.geteuid())
    found = [one for one in _listening(prefix) if one.inode not in own_inodes]
    numbers: Counter[int | None] = Counter()
    kept = []
    # The kernel lists them by a hash of their names.
    for one in sorted(found, key=lambda one: (one.uid != ROOT, one.uid not in known)):
        numbers[one.uid] += 1
        if one.uid in known or numbers[one.uid] <= _SOCKETS_MAX:
            kept.append(one)
    return kept, len(kept) == len(found)


def _listening(prefix: str) -> list[_Listening]:
    """Return the listening sockets of this network namespace whose names begin with *prefix*."""
    asked = _DIAG_REQUEST.pack(
        DIAG_FAMILY, 0, 0, 1 << _TCP_LISTEN, 0, _SHOW_NAME | _SHOW_UID, -1, -1
    )
    try:
        answers = request(DiagCommand.SOCK_DIAG_BY_FAMILY, asked, flags=RequestFlag.DUMP)
    except BpfError:  # no CONFIG_UNIX_DIAG, and the module cannot be loaded
        return _listening_by_proc(prefix)
    found = []
    for answer in answers:
        fields = attributes(answer[_DIAG_ANSWER.size :])
        name = fields.get(_DIAG_NAME, b"").decode(errors="replace")
        if name.startswith(f"\0{prefix}"):
            _, kind, _, inode = _DIAG_ANSWER.unpack_from(answer)
            uid = int.from_bytes(fields[_DIAG_UID], sys.byteorder) if _DIAG_UID in fields else None
            found += [_Listening(name, inode, uid)] if kind == socket.SOCK_STREAM else []
    return found


def _listening_by_proc(prefix: str) -> list[_Listening]:
    try:
        lines = SOCKETS.read_text(errors="replace").splitlines()
    except OSError as error:
        raise syscall_error("open", error.errno or 0, target=str(SOCKETS)) from None
    # Num RefCount Protocol Flags Type St Inode Path (unix_seq_show() of net/unix/af_unix.c). The
    # path may have any bytes, so that a line may be what somebody wrote.
    line_of = re.compile(rf"\w+: \w+ \w+ ([0-9A-F]+) 0001 \w+ +([0-9]+) @({re.escape(prefix)}.*)")
    matches = filter(None, map(line_of.fullmatch, lines))
    return [
        _Listening(f"\0{match[3]}", int(match[2]), None)
        for match in matches
        if int(match[1], 16) & _ACCEPTS
    ]


def _peer(address: str) -> tuple[int, int | None] | None:
    """Return pid and uid of the listener (SO_PEERCRED), None if nobody listens any more.

    The pid is 0 if the process is in a pid namespace that is not visible here. (0, None) if the
    kernel does not say who listens: the backlog is full (EAGAIN), or a security module refuses
    (EACCES, EPERM).
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            # The listener accepts no connection: with a full backlog, a blocking connect() would
            # wait forever.
            caller.setblocking(False)
            caller.connect(address)
            raw = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    except ConnectionRefusedError:
        return None
    except OSError:
        return 0, None
    pid, uid, _ = CREDENTIALS.unpack(raw)
    return pid, uid


def _processes_by_socket(inodes: Iterable[int]) -> dict[int, int]:
    """Return the pids of processes by the sockets they have open, as far as this user sees them."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, int] = {}
    for process in Path("/proc").glob("[1-9]*"):
        with suppress(OSError):
            for fd in (process / "fd").iterdir():
                with suppress(OSError):
                    if (inode := wanted.get(str(fd.readlink()))) is not None:
                        found.setdefault(inode, int(process.name))
    return found


def _uid_of(pid: int) -> int | None:
    with suppress(OSError):
        return Path(f"/proc/{pid}").stat().st_uid
    return None


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
