"""A name that one process of this host holds at a time, until it ends.

Kernel objects have no file to lock: all of them share one inode. The name is that of a socket in
the abstract namespace (unix(7)), which is one for each network namespace, and ends with its holder.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from bpfpin.errors import BusyError
from bpfpin.syscall.fd import Descriptor

CREDENTIALS = struct.Struct("iII")  # struct ucred of the socket's listener: pid, uid, gid


def hold(name: str, *, target: str) -> Descriptor | None:
    """Take *name* until the result is closed; `BusyError` about *target* while another holds it.

    None where a stranger (neither root nor our user) holds it: he must not keep us away.
    """
    address = f"\0bpfpin/{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as claim:
        try:
            claim.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            pid, uid = _holder(address)
            if uid not in {0, os.geteuid()}:
                return None
            raise BusyError(
                f"{target} is read or written by process {pid} already",
                holder=f"pid {pid}",
                hint="two at once spoil each other's position; end that process first",
            ) from None
        claim.listen()
        return Descriptor(claim.detach())


def _holder(address: str) -> tuple[int, int]:
    """Return pid and uid of who holds the name; (0, 0) if that does not show."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(address)
        except OSError:
            return 0, 0
        raw = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, _ = CREDENTIALS.unpack(raw)
    return pid, uid
